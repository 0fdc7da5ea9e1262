"""Checks a whole store and names every fault; changes nothing.

A start checks what it needs and no more, so that it is quick. This reads everything: all
manifests, every record of every log, every row of every table, and how they fit together. States
are checked without running any code of their classes.
"""

from __future__ import annotations

import pickletools
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeAlias

from engine.errors import CorruptStoreError, StoreError
from engine.keys import encode_key, key_group, owner
from engine.recovery._backups import read_backups
from engine.recovery._chain import ManifestChain
from engine.recovery._changes import Chunk, Kept, decode_parts
from engine.recovery._codec import PICKLE, Codec
from engine.recovery._disk import Disk, writing
from engine.recovery._ids import Epoch, StepNumber, WorkerIndex
from engine.recovery._layout import StorePaths, read_store_id
from engine.recovery._log_reader import LogTarget, read_epochs, read_log
from engine.recovery._manifest import Manifest
from engine.recovery._rows import (
    META,
    PARTITION,
    STATE,
    STATE_HEAD,
    TIMER,
    decode_timer_key,
    key_of_state,
    name_of_partition,
    split_partition_value,
    split_state_value,
    timer_key,
)
from engine.recovery._store_folder import MANIFESTS_KEPT
from engine.recovery._table import Row, Table, Tables
from engine.recovery._worker_files import (
    Applied,
    check_folders,
    check_meta,
    identity_of,
    log_folder,
    table_folder,
)

_BATCH_ROWS = 1000
_FAULTS_MAX = 100

_Changed: TypeAlias = dict[StepNumber, dict[Any, int | None]]
"""Keys whose states the log has changed since the table was written, and the version that is there
now; None if they have no state any more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as the engine wrote it."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(slots=True)
class VerifyReport:
    """What a check of a store found."""

    faults: list[Fault] = field(default_factory=list[Fault])
    manifest: Manifest | None = None
    """The newest, if it could be read."""
    rows: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    """How many keys have a state, by step and by version of the state."""

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def verify(disk: Disk, tables: Tables, root: Path) -> VerifyReport:
    """Check a store that no process has open.

    Returns:
        What was found; faults beyond the hundredth are left out.

    Raises:
        NoPartitionsError: The folder is no store.
        StoreInUseError: A process has it open.
        StoreFormatError: A newer engine made it.
    """
    report = VerifyReport()
    try:
        # First of all: a folder of something else gets no lock.
        store_id = read_store_id(disk, root)
    except CorruptStoreError as ex:
        report.faults.append(Fault(ex.path, ex.what))
        return report
    with writing(root, "lock the recovery store"):
        lock = disk.lock(StorePaths(root).lock)
    try:
        faults = _faults(disk, tables, root, store_id, report)
        report.faults.extend(islice(faults, _FAULTS_MAX))
    finally:
        lock.release()
    return report


def _faults(
    disk: Disk, tables: Tables, root: Path, store_id: str, report: VerifyReport
) -> Iterator[Fault]:
    manifests = yield from _check_manifests(disk, root, store_id)
    paths = StorePaths(root)
    if not manifests:
        if paths.shards_there(disk):
            yield Fault(str(paths.manifests), "there is no sound manifest, but workers' stores are")
        return
    manifest = report.manifest = manifests[-1]
    for index in range(manifest.workers):
        worker = WorkerIndex(index)
        folder = paths.worker(manifest.shards, worker)
        if manifest.epoch == 0 and not disk.exists(folder):
            # Its process was never started.
            continue
        yield from _check_worker(_Worker(disk, tables, folder, manifest, worker), report)


def _check_manifests(
    disk: Disk, root: Path, store_id: str
) -> Generator[Fault, None, list[Manifest]]:
    """Give the faults, and return the manifests that are sound."""
    folder = StorePaths(root).manifests
    sound: list[Manifest] = []
    if not disk.is_folder(folder):
        yield Fault(str(folder), "the folder is missing")
        return sound
    chain = ManifestChain(disk, folder, "verify")
    for seq in chain.numbers():
        try:
            manifest = chain.read(seq)
        except StoreError as ex:
            yield Fault(str(chain.path(seq)), str(ex))
            continue
        if manifest.store_id != store_id:
            yield Fault(
                str(chain.path(seq)),
                f"it is of store {manifest.store_id}, but FORMAT is of {store_id}",
            )
            continue
        sound.append(manifest)
    for one, next_one in pairwise(sound):
        path, missing = str(chain.path(next_one.seq)), one.seq + 1
        # A crash may bring back some that were deleted. And a process may be killed before its link
        # is safe, the next one build on it, and the power fail.
        expected = missing > sound[-1].seq - MANIFESTS_KEPT and next_one.kind != "generation"
        if next_one.seq != missing and expected:
            yield Fault(path, f"manifest {missing}, which comes before it, is not there")
        # What a fenced process has linked in a place that others had left counts for nobody. It is
        # taken away again, but a crash may bring it back.
        fenced = next_one.kind == "generation" and one.generation + 1 < next_one.generation
        back = next_one.generation < one.generation or next_one.epoch < one.epoch
        if back and not fenced:
            yield Fault(path, f"it goes back behind manifest {one.seq}")
    return sound


@dataclass(frozen=True, slots=True)
class _Worker:
    disk: Disk
    tables: Tables
    folder: Path
    manifest: Manifest
    worker: WorkerIndex


def _check_worker(spot: _Worker, report: VerifyReport) -> Iterator[Fault]:
    try:
        check_folders(spot.disk, spot.manifest, spot.folder)
        with writing(spot.folder, "lock the store of a worker"):
            lock = spot.disk.lock(spot.folder / "LOCK")
    except StoreError as ex:
        yield Fault(str(spot.folder), str(ex))
        return
    try:
        path = table_folder(spot.folder)
        table = spot.tables.open(path, read_only=True)
        try:
            applied = check_meta(path, table, spot.manifest, spot.worker)
            changed: _Changed = {}
            yield from _check_log(spot, applied, changed)
            yield from _RowCheck(spot, table, report, changed).rows()
        finally:
            table.close()
        yield from _check_backups(spot)
    except CorruptStoreError as ex:
        yield Fault(ex.path, ex.what)
    except StoreError as ex:
        yield Fault(str(spot.folder), str(ex))
    finally:
        lock.release()


def _check_log(spot: _Worker, applied: Applied, changed: _Changed) -> Iterator[Fault]:
    manifest, folder = spot.manifest, log_folder(spot.folder)
    target = LogTarget(manifest.epoch, applied.epoch, manifest.shards_epoch)
    try:
        identity = identity_of(manifest, spot.worker).of_log
        contents = read_log(spot.disk, folder, identity, target, everything=True)
    except CorruptStoreError as ex:
        yield Fault(ex.path, ex.what)
        return
    except StoreError as ex:
        yield Fault(str(folder), str(ex))
        return
    known = {entry.number for entry in manifest.steps.values()} | set(manifest.dropped)
    for epoch, payloads in contents.epochs.items():
        for payload in payloads:
            try:
                parts = list(decode_parts(payload, epoch))
                changed_here = _changed_in(parts)
            except (ValueError, TypeError) as ex:
                yield Fault(str(folder), f"changes of epoch {epoch} make no sense: {ex}")
                continue
            if epoch > applied.epoch:
                for step, keys in changed_here.items():
                    changed.setdefault(step, {}).update(keys)
            yield from _check_steps(folder, epoch, {part.step for part in parts} - known)


def _changed_in(parts: list[Chunk | Kept]) -> _Changed:
    """Which keys' states a record changes.

    Raises:
        ValueError: What should be keys is none.
    """
    changed: _Changed = {}
    for part in parts:
        if isinstance(part, Chunk):
            keys = dict.fromkeys(part.keys, part.version) | dict.fromkeys(part.deleted)
            if part.kind == STATE:
                changed.setdefault(part.step, {}).update(keys)
    return changed


def _check_steps(folder: Path, epoch: Epoch, unknown: set[StepNumber]) -> Iterator[Fault]:
    for step in unknown:
        yield Fault(str(folder), f"epoch {epoch} changes step number {step}, which nobody knows")


def _check_backups(spot: _Worker) -> Iterator[Fault]:
    """Check that the older epochs that should be can be restored."""
    backups = read_backups(spot.disk, spot.folder)
    for backup in backups:
        table = spot.tables.open(backup.folder, read_only=True)
        try:
            holds = check_meta(backup.folder, table, spot.manifest, spot.worker).epoch
            if holds != backup.manifest.epoch:
                what = f"the table holds epoch {holds}, not {backup.manifest.epoch}"
                yield Fault(str(backup.folder), what)
            for _ in table.scan(b"", b"\xff"):
                # RocksDB compares checksums.
                pass
        finally:
            table.close()
    if backups:
        identity, log = identity_of(spot.manifest, spot.worker).of_log, log_folder(spot.folder)
        oldest, newest = backups[0].manifest.epoch, spot.manifest.epoch
        for _ in read_epochs(spot.disk, log, identity, oldest, newest):
            # This compares checksums too.
            pass


class _RowCheck:
    """Checks the rows of one table."""

    def __init__(
        self, spot: _Worker, table: Table, report: VerifyReport, changed: _Changed
    ) -> None:
        self._path = str(table_folder(spot.folder))
        self._table = table
        self._report = report
        self._changed = changed
        self._worker = spot.worker
        self._workers = spot.manifest.workers
        self._step_ids = {e.number: step_id for step_id, e in spot.manifest.steps.items()}
        self._dropped = set(spot.manifest.dropped)
        self._timers: Counter[StepNumber] = Counter()
        self._dues: Counter[StepNumber] = Counter()
        self._codec = Codec(allow_pickle=False)

    def rows(self) -> Iterator[Fault]:
        rows = self._table.scan(b"", b"\xff")
        while batch := list(islice(rows, _BATCH_ROWS)):
            yield from self._batch(batch)
        for step, keys in self._changed.items():
            if step in self._step_ids:
                there = Counter(version for version in keys.values() if version is not None)
                self._count(step, there)
        for step in self._timers.keys() | self._dues.keys():
            if self._timers[step] != self._dues[step]:
                what = (
                    f"step {self._step_ids.get(step)!r} has {self._dues[step]} keys with timers, "
                    f"but {self._timers[step]} timers in the index"
                )
                yield Fault(self._path, what)

    def _batch(self, batch: list[Row]) -> Iterator[Fault]:
        expected: list[bytes] = []
        for key, value in batch:
            try:
                expected.extend(self._one(key, value))
            except Exception as ex:  # noqa: BLE001 - a damaged row makes decoders raise anything
                yield Fault(self._path, f"the row {key[:60]!r} makes no sense: {ex}")
        for timer, found in zip(expected, self._table.get_many(expected), strict=True):
            if found is None:
                yield Fault(self._path, f"the timer row {timer[:60]!r} is missing from the index")

    def _one(self, key: bytes, value: bytes) -> Iterator[bytes]:
        """Check a row; gives the index row that it needs."""
        kind = key[:1]
        if kind == META:
            return
        step = StepNumber(int.from_bytes(key[1:3], "big"))
        if step in self._dropped:
            return
        if step not in self._step_ids:
            msg = f"step number {step} is unknown"
            raise ValueError(msg)
        if kind == STATE:
            self._check_owner(key)
            row, due_us, version = split_state_value(value)
            _check_row(self._codec, row)
            if key_of_state(key) not in self._changed.get(step, {}):
                self._count(step, {version: 1})
            if due_us is not None:
                self._dues[step] += 1
                yield timer_key(key, due_us)
        elif kind == TIMER:
            _, _, state_key = decode_timer_key(key)
            self._check_owner(state_key)
            self._timers[step] += 1
        elif kind == PARTITION:
            name_of_partition(key)
            _check_row(self._codec, split_partition_value(value)[0])
        else:
            msg = f"rows of kind {kind!r} are unknown"
            raise ValueError(msg)

    def _count(self, step: StepNumber, versions: Mapping[int, int]) -> None:
        step_id = self._step_ids[step]
        self._report.rows.update({(step_id, version): n for version, n in versions.items()})

    def _check_owner(self, state_key: bytes) -> None:
        key = key_of_state(state_key)
        group = state_key[STATE_HEAD - 1]
        if encode_key(key) != state_key[STATE_HEAD:] or key_group(key) != group:
            msg = f"key {key!r} is not of key group {group}"
            raise ValueError(msg)
        if owner(group, self._workers) != self._worker:
            msg = f"key group {group} belongs to worker {owner(group, self._workers)}"
            raise ValueError(msg)


def _check_row(codec: Codec, row: bytes) -> None:
    """See that a row can be decoded; a pickle is only taken apart, not run.

    Raises:
        ValueError: It can't.
    """
    if row[:1] == PICKLE:
        for _ in pickletools.genops(row[1:]):
            pass
    else:
        codec.decode_row(row)
