"""Older epochs of a store, as something to restore: a copy of the table, and the log from there on.

The last epoch can always be had, from the table itself. Earlier ones need the copies that
`_backups` makes. Nothing of the store is changed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import NoPartitionsError
from engine.recovery._apply import Applier, ApplyOptions
from engine.recovery._backups import DESCRIPTION, read_backups
from engine.recovery._changes import Chunk, Kept, decode_parts
from engine.recovery._codec import Codec
from engine.recovery._disk import Disk
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._layout import StorePaths
from engine.recovery._log_reader import LoggedEpoch, LoggedNote, read_epochs
from engine.recovery._manifest import SINK_KIND, Manifest, decode_manifest
from engine.recovery._opening import WorkerSpot, view
from engine.recovery._overlay import Overlay
from engine.recovery._restore import SinkTies
from engine.recovery._rows import PARTITION, after_prefix, step_prefix
from engine.recovery._savepoint import NOT_COPIED, kept_of, merged_ties, ties_of
from engine.recovery._store_folder import StoreFolder
from engine.recovery._table import Table, Tables
from engine.recovery._worker_files import (
    check_meta,
    identity_of,
    log_folder,
    read_meta,
    table_folder,
)

_BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class KeptEpoch:
    """An epoch that a store has a copy of."""

    epoch: Epoch
    time_s: float
    """When it was copied, in seconds since 1970 UTC."""


def kept_epochs(disk: Disk, root: Path, manifest: Manifest) -> list[KeptEpoch]:
    """The epochs that all workers have copies of; with the log, all later ones can be restored too.

    Errors as `read_backups`.
    """
    found = [
        {
            backup.manifest.epoch: KeptEpoch(backup.manifest.epoch, backup.manifest.time_s)
            for backup in read_backups(disk, StorePaths(root).worker(manifest.shards, worker))
        }
        for worker in map(WorkerIndex, range(manifest.workers))
    ]
    oldest = max((min(epochs, default=manifest.epoch) for epochs in found), default=manifest.epoch)
    return [kept for epoch, kept in sorted(found[0].items()) if oldest <= epoch < manifest.epoch]


@contextmanager
def epoch_of_store(
    disk: Disk, tables: Tables, root: Path, token: str, epoch: Epoch | None
) -> Generator[EpochCopy, None, None]:
    """An epoch of a store, which is locked meanwhile.

    Args:
        disk: Where.
        tables: To open tables.
        root: The store's folder.
        token: Random.
        epoch: Which; the last if None.

    Raises:
        StoreError: The store can't be opened, or the epoch not be had.
    """
    folder = StoreFolder.open(disk, root, token)
    try:
        newest = folder.started()
        wanted = newest.epoch if epoch is None else epoch
        _check_kept(disk, root, newest, wanted)
        workers = [
            _worker_at(WorkerSpot(disk, tables, root, WorkerIndex(index)), newest, wanted)
            for index in range(newest.workers)
        ]
        yield EpochCopy(disk, tables, newest, workers, wanted)
    finally:
        folder.close()


def _check_kept(disk: Disk, root: Path, newest: Manifest, epoch: Epoch) -> None:
    kept = [one.epoch for one in kept_epochs(disk, root, newest)]
    oldest = min(kept, default=newest.epoch)
    if not oldest <= epoch <= newest.epoch or epoch == 0:
        there = f"epochs {oldest} to {newest.epoch}" if kept else f"epoch {newest.epoch} alone"
        msg = (
            f"epoch {epoch} of {root} can't be restored; it has {there}. Runs with -b keep older "
            "epochs for a time"
        )
        raise NoPartitionsError(msg)


@dataclass(frozen=True, slots=True)
class _WorkerAt:
    """What a worker's table at an epoch is made from."""

    worker: WorkerIndex
    table: Path
    holds: Epoch
    """What the table holds. The log has the rest."""
    log: Path
    stored: Manifest
    """What was stored at the epoch, as far as this worker knows."""
    sinks: Mapping[str, SinkTies]
    kept: Sequence[Kept]


def _worker_at(spot: WorkerSpot, newest: Manifest, epoch: Epoch) -> _WorkerAt:
    """Find the copy that is nearest, and see that what is needed is there."""
    folder = StorePaths(spot.root).worker(newest.shards, spot.worker)
    path, log, stored = table_folder(folder), log_folder(folder), newest
    with view(spot, newest) as state:
        sinks, kept = ties_of(state), kept_of(state)
    if epoch != newest.epoch:
        backup = [b for b in read_backups(spot.disk, folder) if b.manifest.epoch <= epoch][-1]
        path, stored, kept = backup.folder, backup.manifest, []
    table = spot.tables.open(path, read_only=True)
    try:
        holds = check_meta(path, table, newest, spot.worker).epoch
        sinks = merged_ties([sinks, _positioned(table, stored)])
    finally:
        table.close()
    if epoch != newest.epoch:
        identity = identity_of(newest, spot.worker).of_log
        for found in read_epochs(spot.disk, log, identity, holds, epoch):
            if isinstance(found, LoggedNote):
                stored = _later(stored, decode_manifest(found.manifest), epoch)
    return _WorkerAt(spot.worker, path, holds, log, stored, sinks, kept)


def _later(stored: Manifest, noted: Manifest, epoch: Epoch) -> Manifest:
    """The newer of two notes that is of an epoch, or of a generation before it."""
    before_its_generation = noted.kind == "generation" and noted.epoch == epoch
    return stored if before_its_generation or noted.epoch < stored.epoch else noted


def _positioned(table: Table, stored: Manifest) -> dict[str, SinkTies]:
    """The sinks that have positions in a table."""
    found: dict[str, SinkTies] = {}
    for step_id, entry in stored.steps.items():
        prefix = step_prefix(PARTITION, entry.number)
        rows = table.scan(prefix, after_prefix(prefix)) if entry.kind == SINK_KIND else iter(())
        if next(rows, None) is not None:
            found[step_id] = SinkTies(positioned=True)
    return found


class EpochCopy:
    """An epoch of a store as something to restore: a `StoreCopy`. Made by `epoch_of_store`."""

    def __init__(
        self,
        disk: Disk,
        tables: Tables,
        newest: Manifest,
        workers: Sequence[_WorkerAt],
        epoch: Epoch,
    ) -> None:
        self._disk = disk
        self._tables = tables
        self._newest = newest
        self._workers = workers
        self.manifest = _manifest_at(newest, [worker.stored for worker in workers], epoch)
        # What is durable after an epoch was published after it.
        ahead = epoch < newest.epoch - 1
        self.sinks = {
            step_id: replace(ties, ahead=ahead and ties.marked)
            for step_id, ties in merged_ties([worker.sinks for worker in workers]).items()
            if step_id in self.manifest.steps
        }
        self.nbytes = sum(disk.size(path) for worker in workers for path in self._files(worker))

    def _files(self, worker: _WorkerAt) -> list[Path]:
        names = self._disk.names(worker.table)
        return [worker.table / n for n in names if not n.startswith((*NOT_COPIED, DESCRIPTION))]

    def check(self) -> None:
        """As in `StoreCopy`: reads all rows of the tables, and the log after them."""
        for worker in self._workers:
            table = self._tables.open(worker.table, read_only=True)
            try:
                for _ in table.scan(b"", b"\xff"):
                    pass
            finally:
                table.close()
            for _ in self._log_of(worker):
                pass

    def table_files(self, worker: WorkerIndex) -> Iterator[tuple[str, bytes]]:
        """As in `StoreCopy`."""
        for path in self._files(self._workers[worker]):
            yield path.name, self._disk.read(path)

    def _log_of(self, worker: _WorkerAt) -> Iterator[LoggedEpoch]:
        through = self.manifest.epoch
        if worker.holds == through:
            # The log need not have anything then.
            return
        identity = identity_of(self._newest, worker.worker).of_log
        for found in read_epochs(self._disk, worker.log, identity, worker.holds, through):
            if isinstance(found, LoggedEpoch):
                yield found

    def bring_up(self, worker: WorkerIndex, table: Table) -> None:
        """As in `StoreCopy`."""
        at = self._workers[worker]
        _, applied = read_meta(at.table, table)
        overlay, codec = Overlay(), Codec()
        step_ids = {entry.number: step_id for step_id, entry in self.manifest.steps.items()}
        applier = Applier(table, overlay, applied, codec, step_ids, ApplyOptions())
        for logged in self._log_of(at):
            for payload in logged.payloads:
                parts = decode_parts(payload, logged.epoch)
                chunks = [part for part in parts if isinstance(part, Chunk)]
                overlay.waiting.add([c for c in chunks if c.step in step_ids], len(payload))
            if overlay.nbytes > _BATCH_BYTES:
                applier.finish(logged.epoch)
        applier.finish(self.manifest.epoch)

    def kept(self, worker: WorkerIndex) -> Sequence[Kept]:
        """As in `StoreCopy`."""
        return self._workers[worker].kept


def _manifest_at(newest: Manifest, stored: Sequence[Manifest], epoch: Epoch) -> Manifest:
    """The manifest of an epoch, from what the workers know to have been stored then."""
    if epoch == newest.epoch:
        return newest
    first = stored[0]
    steps = {
        step_id: replace(
            entry,
            state_version=max(
                one.steps[step_id].state_version for one in stored if step_id in one.steps
            ),
        )
        for step_id, entry in first.steps.items()
    }
    published = {
        step_id: {shard: min(out, epoch - 1) for shard, out in shards.items()}
        for step_id, shards in newest.published.items()
        if step_id in steps
    }
    return replace(
        newest,
        epoch=epoch,
        steps=steps,
        next_step=first.next_step,
        dropped=first.dropped,
        fingerprint=first.fingerprint,
        published=published,
    )
