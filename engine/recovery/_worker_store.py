"""The store of one worker: what it reads states from and writes its part of each epoch to.

The life of an epoch here: `append` its changes, as often as they come; `prepare` it, which makes
them safe; once the coordinator has linked the manifest, `commit` it; then `apply_some` brings it
into the table bit by bit. Until then reads see it too. After a crash `WorkerStore.open` goes back
to exactly the epoch that the newest manifest names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from engine.errors import InternalError
from engine.recovery._apply import Applier, ApplyOptions
from engine.recovery._changes import (
    Changes,
    Chunk,
    Kept,
    decode_parts,
    decode_state,
    encode_changes,
    encode_parts,
)
from engine.recovery._codec import Codec
from engine.recovery._disk import Disk, Lock, writing
from engine.recovery._ids import Epoch, StepNumber, WorkerIndex
from engine.recovery._layout import StorePaths
from engine.recovery._log import LogWriter
from engine.recovery._log_reader import LogContents, LogTarget, read_log
from engine.recovery._manifest import Manifest
from engine.recovery._overlay import MISSING, Missing, Overlay, find
from engine.recovery._rows import (
    PARTITION,
    STATE,
    TIMER,
    after_prefix,
    decode_timer_key,
    encode_due,
    key_of_state,
    name_of_partition,
    split_partition_value,
    split_state_value,
    state_keys,
    step_prefix,
)
from engine.recovery._table import Table, Tables
from engine.recovery._worker_files import (
    Applied,
    check_folders,
    check_meta,
    create_worker,
    identity_of,
    identity_rows,
    log_folder,
    table_folder,
)

_KeptRows: TypeAlias = dict[StepNumber, dict[str, list[bytes]]]


class StoredState(NamedTuple):
    """The state of a key, as it was last appended."""

    value: Any
    due_us: int | None
    """When its timer is due, in microseconds since 1970 UTC."""
    version: int
    """The version of the state."""


class StoredPartition(NamedTuple):
    """The state of a partition, as it was last appended."""

    value: Any
    epoch: Epoch
    """The epoch it was appended in: of two workers' rows of one partition the newer one counts."""


@dataclass(frozen=True, slots=True)
class WorkerSpot:
    """Where a worker's store is, and what it is made of."""

    disk: Disk
    tables: Tables
    root: Path
    """The folder of the whole store."""
    worker: WorkerIndex


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a worker's store works."""

    allow_pickle: bool = True
    """Whether states of users' own classes may be written and read."""
    keep_log: bool = False
    """Keep the log of applied epochs, so that older epochs can be restored."""
    apply: ApplyOptions = field(default_factory=ApplyOptions)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open store is made of."""

    folder: Path
    lock: Lock
    table: Table
    log: LogWriter
    applier: Applier
    overlay: Overlay
    kept: _KeptRows
    codec: Codec


class WorkerStore:
    """An open store. Used by one thread; made by `open`.

    After an error other than `EncodeError` and `DecodeError` it must be closed and opened again.
    """

    def __init__(self, manifest: Manifest, parts: _Parts) -> None:
        self.manifest = manifest
        """What it was opened with."""
        self.folder = parts.folder
        """Where it is."""
        self.committed = manifest.epoch
        """The last epoch that is durable, as far as this worker was told."""
        self._prepared = manifest.epoch
        self._table = parts.table
        self._log = parts.log
        self._applier = parts.applier
        self._overlay = parts.overlay
        self._kept = parts.kept
        self._codec = parts.codec
        self._lock = parts.lock
        self._closed = False

    @staticmethod
    def open(
        spot: WorkerSpot, manifest: Manifest, options: StoreOptions | None = None
    ) -> WorkerStore:
        """Go back to the epoch of a manifest, which must be the newest and begin a generation.

        Reads the part of the log that is not applied yet, and nothing of the table. May be tried
        again after a crash at any point, with a newer generation.

        Raises:
            MissingPartitionsError: A part of the store is gone.
            CorruptStoreError: A file is damaged.
            InconsistentPartitionsError: A part is older or newer than the manifest, or another's.
            FencedError: A newer generation has taken over.
            StoreInUseError: Another process has it open.
        """
        options = options or StoreOptions()
        folder = StorePaths(spot.root).worker(manifest.shards, spot.worker)
        if manifest.epoch == 0:
            rows = identity_rows(manifest, spot.worker, Epoch(0))
            create_worker(spot.disk, spot.tables, folder, rows)
        check_folders(spot.disk, manifest, folder)
        stack = ExitStack()
        try:
            return WorkerStore(manifest, _open(spot, manifest, options, folder, stack))
        except BaseException:
            stack.close()
            raise

    # Writing.

    def append(self, epoch: Epoch, changes: Iterable[Changes]) -> None:
        """Write changes of an epoch to the log, without syncing; later ones override earlier ones.

        Everything is encoded before anything is written.

        Raises:
            EncodeError: A state can't be encoded. Nothing was written.
            StoreWriteError: The disk refused.
        """
        if epoch <= self._prepared:
            msg = f"changes of epoch {epoch} come after it was prepared"
            raise InternalError(msg)
        parts = [
            part
            for change in changes
            for part in encode_changes(change, self._number(change.step_id), self._codec)
        ]
        if not parts:
            return
        payload = encode_parts(parts)
        self._log.append(epoch, payload)
        layer = self._overlay.layer(epoch)
        layer.nbytes += len(payload)
        for chunk in decode_parts(payload, epoch):
            if isinstance(chunk, Chunk):
                layer.add(chunk)

    def prepare(self, epoch: Epoch) -> None:
        """Make all changes of the epoch safe, whatever happens to this process.

        Raises:
            StoreWriteError: The disk refused.
        """
        if epoch != self._prepared + 1:
            msg = f"epoch {epoch} is prepared after epoch {self._prepared}"
            raise InternalError(msg)
        self._log.prepare(epoch)
        self._prepared = epoch

    def commit(self, epoch: Epoch) -> None:
        """Note that the epoch's manifest is durable: its changes may be applied now."""
        if epoch != self._prepared or epoch != self.committed + 1:
            msg = f"epoch {epoch} is committed; prepared is {self._prepared}"
            raise InternalError(msg)
        self._log.note_committed(epoch)
        self.committed = epoch
        self._kept.clear()

    # Applying.

    @property
    def clean_through(self) -> Epoch:
        """The table holds all changes of epochs up to this one."""
        return self._applier.applied.epoch

    @property
    def overdue(self) -> bool:
        """Whether so much waits to be applied that a worker should do that before all else."""
        return self._applier.overdue(self.committed)

    def apply_slice(self, *, eager: bool = False) -> bool:
        """Apply some hundred changes; False if there is nothing to do.

        Args:
            eager: Don't wait for more epochs to merge: for a worker that has nothing else to do.
        """
        self._applier.look_after_flush(self._log, self.committed)
        return self._applier.slice(self.committed, eager=eager)

    def apply_some(
        self, budget_s: float, monotonic_s: Callable[[], float], *, eager: bool = False
    ) -> bool:
        """Apply slices until the time is used up; False if there is nothing more to do."""
        end_s = monotonic_s() + budget_s
        while self.apply_slice(eager=eager):
            if monotonic_s() >= end_s:
                return True
        return False

    def apply_all(self) -> None:
        """Apply everything that is committed, and make the table durable."""
        while self._applier.applied.epoch < self.committed:
            self._applier.slice(self.committed, eager=True)
        self._applier.flush(self._log, self.committed)

    # Reading.

    def get_rows(self, step_id: str, keys: Sequence[Any]) -> list[StoredState | Missing]:
        """The states of keys, in their order; `MISSING` for a key that has none.

        Each is a new object, as it was when it was appended.

        Raises:
            DecodeError: The class of a state is gone, or pickle isn't allowed.
            CorruptStoreError: A row can't be read.
        """
        step = self._number(step_id)
        found: list[StoredState | Missing] = [MISSING] * len(keys)
        indexes = self._overlay.indexes(STATE, step)
        asked = (
            range(len(keys)) if not indexes else self._from_overlay(indexes, step_id, keys, found)
        )
        values = self._table.get_many(state_keys(step, [keys[i] for i in asked])) if asked else []
        for i, value in zip(asked, values, strict=True):
            if value is not None:
                found[i] = self._state(value, step_id, keys[i])
        return found

    def get_many(self, step_id: str, keys: Sequence[Any]) -> list[Any]:
        """As `get_rows`, of each state the value alone."""
        rows = self.get_rows(step_id, keys)
        return [row if isinstance(row, Missing) else row.value for row in rows]

    def _from_overlay(
        self, indexes: list[Any], step_id: str, keys: Sequence[Any], found: list[Any]
    ) -> list[int]:
        """Fill in what the overlay knows; gives the positions that it doesn't know."""
        unknown: list[int] = []
        for i, key in enumerate(keys):
            chunk = find(indexes, key)
            if isinstance(chunk, Missing):
                unknown.append(i)
            elif chunk is not None:
                (value,), _ = chunk.table_values(self._codec, step_id, [key])
                found[i] = self._state(value, step_id, key)
        return unknown

    def _state(self, value: bytes, step_id: str, key: object) -> StoredState:
        row, due_us, version = split_state_value(value)
        return StoredState(decode_state(self._codec, row, step_id, key), due_us, version)

    def scan_step(self, step_id: str) -> Iterator[tuple[Any, StoredState]]:
        """All keys of a step and their states, in no order. Not to be mixed with writing.

        Errors as `get_rows`.
        """
        step = self._number(step_id)
        changed = dict(self._overlay.newest(STATE, step))
        prefix = step_prefix(STATE, step)
        for table_key, value in self._table.scan(prefix, after_prefix(prefix)):
            key = key_of_state(table_key)
            if key not in changed:
                yield key, self._state(value, step_id, key)
        for key, chunk in changed.items():
            if chunk is not None:
                (value,), _ = chunk.table_values(self._codec, step_id, [key])
                yield key, self._state(value, step_id, key)

    def row_count(self, step_id: str) -> int:
        """How many keys of a step have a state. Reads them all."""
        step = self._number(step_id)
        changed = dict(self._overlay.newest(STATE, step))
        prefix = step_prefix(STATE, step)
        stored = self._table.scan(prefix, after_prefix(prefix))
        untouched = sum(key_of_state(key) not in changed for key, _ in stored)
        return untouched + sum(chunk is not None for chunk in changed.values())

    def scan_timers(
        self, step_id: str, until_us: int, after_us: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Timers that are due at `until_us` or before, with their keys, in no order.

        Args:
            step_id: Whose.
            until_us: In microseconds since 1970 UTC.
            after_us: Leave out those that are due then or before: a scan that begins where the
                last one ended need not step over what was deleted since.
        """
        step = self._number(step_id)
        changed = dict(self._overlay.newest(STATE, step))
        prefix = step_prefix(TIMER, step)
        start = prefix if after_us is None else prefix + encode_due(after_us + 1)
        for table_key, _ in self._table.scan(start, prefix + encode_due(until_us + 1)):
            _, due_us, state_key = decode_timer_key(table_key)
            key = key_of_state(state_key)
            if key not in changed:
                yield due_us, key
        for key, chunk in changed.items():
            due = None if chunk is None else chunk.due_us(key)
            if due is not None and due <= until_us and (after_us is None or due > after_us):
                yield due, key

    def partitions(self, step_id: str) -> dict[str, StoredPartition]:
        """All partitions of a step that this worker has states of. Errors as `get_rows`."""
        step = self._number(step_id)
        prefix = step_prefix(PARTITION, step)
        values = {
            name_of_partition(table_key): value
            for table_key, value in self._table.scan(prefix, after_prefix(prefix))
        }
        for name, chunk in self._overlay.newest(PARTITION, step):
            if chunk is None:
                values.pop(name, None)
            else:
                ((values[name],), _) = chunk.table_values(self._codec, step_id, [name])
        found: dict[str, StoredPartition] = {}
        for name, value in values.items():
            row, epoch = split_partition_value(value)
            found[name] = StoredPartition(decode_state(self._codec, row, step_id, name), epoch)
        return found

    def kept_rows(self, step_id: str) -> dict[str, list[bytes]]:
        """The rows that each shard of a sink kept for the epoch it was opened with.

        Until the next epoch is committed; a worker that goes on has them from its sink.
        """
        return self._kept.get(self._number(step_id), {})

    def savepoint(self, folder: Path) -> None:
        """Make a copy of the table, by hard links, in a folder that isn't there yet.

        Applies what is committed first, so that the copy holds that epoch and no other.
        """
        self.apply_all()
        self._table.checkpoint(folder)

    def close(self, *, apply: bool = False) -> None:
        """Let go of the store.

        Args:
            apply: Apply and flush first, so that the next start has nothing to read.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if apply:
                self.apply_all()
        finally:
            self._log.close()
            self._table.close()
            self._lock.release()

    def _number(self, step_id: str) -> StepNumber:
        entry = self.manifest.steps.get(step_id)
        if entry is None:
            msg = f"step {step_id!r} is not in the manifest"
            raise InternalError(msg)
        return entry.number


def _open(
    spot: WorkerSpot, manifest: Manifest, options: StoreOptions, folder: Path, stack: ExitStack
) -> _Parts:
    disk, logs = spot.disk, log_folder(folder)
    with writing(folder, "lock the store of a worker"):
        lock = disk.lock(folder / "LOCK")
    stack.callback(lock.release)
    applied, contents = _checked(spot, manifest, folder, everything=options.keep_log)
    overlay, kept = _recovered(contents, manifest, applied)
    identity = identity_of(manifest, spot.worker).of_log
    log = LogWriter(disk, logs, identity, manifest.generation, contents.chain, manifest.epoch)
    stack.callback(log.close)
    with writing(folder, "delete files that are no part of the recovery log"):
        for name in contents.leftovers:
            disk.unlink(logs / name)
    table = spot.tables.open(table_folder(folder))
    stack.callback(table.close)
    codec = Codec(allow_pickle=options.allow_pickle)
    step_ids = {entry.number: step_id for step_id, entry in manifest.steps.items()}
    applier = Applier(table, overlay, applied, codec, step_ids, options.apply)
    applier.mark_generation(
        replace(
            applied,
            generation=manifest.generation,
            fingerprint=manifest.fingerprint,
            purged_steps=frozenset(manifest.dropped),
        )
    )
    return _Parts(folder, lock, table, log, applier, overlay, kept, codec)


def _checked(
    spot: WorkerSpot, manifest: Manifest, folder: Path, *, everything: bool
) -> tuple[Applied, LogContents]:
    """What table and log hold, seen to belong together, without a change to any file."""
    table = spot.tables.open(table_folder(folder), read_only=True)
    try:
        applied = check_meta(table_folder(folder), table, manifest, spot.worker)
    finally:
        table.close()
    identity = identity_of(manifest, spot.worker).of_log
    target = LogTarget(manifest.epoch, applied.epoch, manifest.shards_epoch)
    contents = read_log(spot.disk, log_folder(folder), identity, target, everything=everything)
    return applied, contents


def _recovered(
    contents: LogContents, manifest: Manifest, applied: Applied
) -> tuple[Overlay, _KeptRows]:
    """The changes that are not applied, as one layer, and the rows kept for the last epoch."""
    overlay = Overlay()
    kept: _KeptRows = {}
    for epoch, payloads in sorted(contents.epochs.items()):
        for payload in payloads:
            for part in decode_parts(payload, epoch):
                if isinstance(part, Kept):
                    if epoch == manifest.epoch:
                        kept.setdefault(part.step, {}).setdefault(part.shard, []).extend(part.rows)
                elif epoch > applied.epoch and part.step not in manifest.dropped:
                    overlay.layer(manifest.epoch).add(part)
            if epoch > applied.epoch:
                overlay.layer(manifest.epoch).nbytes += len(payload)
    return overlay, kept
