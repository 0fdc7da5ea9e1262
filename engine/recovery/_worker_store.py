"""The store of one worker: what it reads states from and writes its part of each epoch to.

The life of an epoch here: `append` its changes, as often as they come; `prepare` it, which makes
them safe; once the coordinator has linked the manifest, `commit` it; then `apply_some` brings it
into the table bit by bit. Until then reads see it too. After a crash `WorkerStore.open` goes back
to exactly the epoch that the newest manifest names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from engine.errors import InternalError
from engine.recovery._apply import Applier, ApplyOptions
from engine.recovery._backups import BackupOptions, Backups
from engine.recovery._changes import Changes, Chunk, encode_changes, encode_parts
from engine.recovery._codec import Codec
from engine.recovery._disk import Lock, writing
from engine.recovery._ids import Epoch
from engine.recovery._layout import StorePaths
from engine.recovery._log import LogWriter
from engine.recovery._log_reader import LogContents
from engine.recovery._manifest import Manifest
from engine.recovery._opening import WorkerSpot, read_worker, recovered
from engine.recovery._overlay import Committed, Overlay
from engine.recovery._records import SegmentName
from engine.recovery._state_view import KeptByStep, StateView
from engine.recovery._table import Table
from engine.recovery._worker_files import (
    check_folders,
    check_meta,
    create_worker,
    identity_of,
    identity_rows,
    log_folder,
    table_folder,
)

_OVERDUE_FACTOR: Final = 10
_MERGE_BYTES_MIN: Final = 3 << 20
"""Merging less would write the same rows again and again."""

__all__ = ["StoreOptions", "WorkerSpot", "WorkerStore"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a worker's store works."""

    allow_pickle: bool = True
    """Whether states of users' own classes may be written and read."""
    apply: ApplyOptions = field(default_factory=ApplyOptions)
    backup: BackupOptions | None = None
    """How long older epochs are kept; None leaves alone what an earlier run has kept."""


def bounded(state_memory: int) -> StoreOptions:
    """Options for a worker whose states in memory are bounded: what waits takes its share.

    Args:
        state_memory: The bound, in bytes.
    """
    merge_bytes = max(_MERGE_BYTES_MIN, min(ApplyOptions().merge_bytes, state_memory // 16))
    return StoreOptions(
        apply=ApplyOptions(merge_bytes=merge_bytes, waiting_bytes_max=2 * merge_bytes)
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open store is made of."""

    folder: Path
    lock: Lock
    table: Table
    log: LogWriter
    applier: Applier
    overlay: Overlay
    kept: KeptByStep
    codec: Codec
    backups: Backups


class WorkerStore(StateView):
    """An open store. Used by one thread; made by `open`.

    After an error other than `EncodeError` and `DecodeError` it must be closed and opened again.
    """

    def __init__(self, manifest: Manifest, parts: _Parts) -> None:
        super().__init__(manifest, parts.table, parts.overlay, parts.kept, parts.codec)
        self.folder = parts.folder
        """Where it is."""
        self.committed = manifest.epoch
        """The last epoch that is durable, as far as this worker was told."""
        self.durable = StateView(manifest, parts.table, Committed(parts.overlay), {}, parts.codec)
        """What it holds as of that epoch, without what was appended since."""
        self._prepared = manifest.epoch
        self._log = parts.log
        self._applier = parts.applier
        self._backups = parts.backups
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
            StoreWriteError: The disk refused, for want of permission for example.
        """
        options = options or StoreOptions()
        folder = StorePaths(spot.root).worker(manifest.shards, spot.worker)
        if manifest.epoch == 0:
            rows = identity_rows(manifest, spot.worker, Epoch(0))
            create_worker(spot.disk, spot.tables, folder, rows)
        stack = ExitStack()
        try:
            with writing(folder, "open the store of a worker"):
                check_folders(spot.disk, manifest, folder)
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
        changes = list(changes)
        written = [
            one
            for change in changes
            for one in encode_changes(change, self._number(change.step_id), epoch, self._codec)
        ]
        if not written:
            return
        payload = encode_parts(written)
        self._log.append(epoch, payload)
        self._backups.saw(epoch, changes)
        self._overlay.add([one for one in written if isinstance(one, Chunk)], len(payload))

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
        self._log.note_committed(epoch, self._backups.note_of(epoch))
        self._overlay.commit()
        self.committed = epoch
        self._kept.clear()

    # Applying.

    @property
    def clean_through(self) -> Epoch:
        """The table holds all changes of epochs up to this one."""
        return self._applier.applied.epoch

    def apply_slice(self, *, eager: bool = False) -> bool:
        """Apply some hundred changes; False if there is nothing to do.

        Args:
            eager: Don't wait for more epochs to merge: for a worker that has nothing else to do.
        """
        self._applier.look_after_flush(self._log, self.committed)
        wanted = self._backups.wanted(self.committed)
        if wanted is not None:
            return self._back_up(wanted)
        return self._applier.slice(self._log, self.committed, eager=eager)

    def _back_up(self, wanted: Epoch) -> bool:
        """Do a slice of what a copy of the table takes; False to go on when more is committed.

        Nothing is applied while the table is flushed in the background, so that the copy itself
        is a matter of milliseconds.
        """
        applier = self._applier
        if applier.applied.epoch < wanted:
            # From the end of the round that gets there on, no other has begun.
            applier.slice(self._log, self.committed, eager=True)
            return True
        if applier.flushed < applier.applied.epoch:
            applier.begin_flush(self._log)
            return False
        self._backups.make(applier.applied.epoch, self._table, self._log)
        return True

    def apply_some(
        self, budget_s: float, monotonic_s: Callable[[], float], *, eager: bool = False
    ) -> bool:
        """Apply slices until the time is used up; False if there is nothing more to do.

        Takes longer when so much waits that a restart would take long.
        """
        if self._applier.overdue:
            budget_s *= _OVERDUE_FACTOR
        end_s = monotonic_s() + budget_s
        while self.apply_slice(eager=eager):
            if monotonic_s() >= end_s:
                return True
        return False

    def apply_all(self) -> None:
        """Apply everything that is committed, and make the table durable."""
        self._applier.finish(self.committed)
        self._applier.flush(self._log, self.committed)

    def savepoint(self, folder: Path) -> None:
        """Make a copy of the table, by hard links, in a folder that isn't there yet.

        Applies what is committed first, so that the copy holds that epoch and no other.
        """
        self.apply_all()
        self._table.checkpoint(folder)

    def close(self) -> None:
        """Let go of the store. What is in the log alone, the next start reads from there."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            stack.callback(self._table.close)
            stack.callback(self._log.close)


def _open(
    spot: WorkerSpot, manifest: Manifest, options: StoreOptions, folder: Path, stack: ExitStack
) -> _Parts:
    disk, logs = spot.disk, log_folder(folder)
    with writing(folder, "lock the store of a worker"):
        lock = disk.lock(folder / "LOCK")
    stack.callback(lock.release)
    applied, contents = read_worker(spot, manifest, folder)
    overlay, kept = recovered(contents, manifest, applied)
    backups = Backups(disk, folder, options.backup)
    identity = identity_of(manifest, spot.worker).of_log
    log = LogWriter(disk, logs, identity, manifest.generation, contents.chain, manifest.epoch)
    stack.callback(log.close)
    with writing(folder, "delete files that are no part of the recovery log"):
        for name in contents.leftovers:
            if not _is_older(name, contents, backups):
                disk.unlink(logs / name)
    backups.begin(manifest, log)
    table = spot.tables.open(table_folder(folder))
    stack.callback(table.close)
    # Once more, as a newer generation may have had it since: its rows are not what we read.
    check_meta(table_folder(folder), table, manifest, spot.worker)
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
    return _Parts(folder, lock, table, log, applier, overlay, kept, codec, backups)


def _is_older(name: str, contents: LogContents, backups: Backups) -> bool:
    """Whether a file that this start doesn't need is a part of the log for older epochs."""
    segment = SegmentName.parse(name)
    if segment is None or not contents.chain or segment > contents.chain[0].name:
        return False
    return backups.needs(segment)
