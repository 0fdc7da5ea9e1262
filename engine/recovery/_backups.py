"""Copies of a worker's table, kept for a time, so that older epochs can be restored.

    worker-0000/backups/000000000120/   the table as it was at epoch 120, by hard links
                        .../BACKUP      the manifest of then, and where the log goes on from there

With such a copy, the log since then gives every later epoch. So as long as an epoch is to be kept,
there must be a copy from before it, and all of the log since that. `WorkerStore` makes a copy
whenever a quarter of the interval is over, and drops the oldest once the next one is old enough.
`_older_epochs` makes stores of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from engine.errors import CorruptStoreError, StoreFormatError
from engine.recovery._changes import Changes, KeyedChanges
from engine.recovery._disk import Disk, remove_tree, write_synced, writing
from engine.recovery._ids import Epoch, Generation
from engine.recovery._log import LogWriter
from engine.recovery._manifest import (
    FORMAT,
    Manifest,
    ManifestTextError,
    NewerFormatError,
    decode_manifest,
    encode_manifest,
    seal,
    unseal,
)
from engine.recovery._records import SegmentName
from engine.recovery._table import Table
from engine.recovery._worker_files import TEMPORARY, log_folder

DESCRIPTION = "BACKUP"
_NAME = re.compile(r"\d{12,}")
_COPIES_PER_INTERVAL = 4
_WAY_OUT = "delete the folder that it is in to go on without this copy"


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How long older epochs are kept."""

    interval: timedelta
    """With zero they are not kept, and those that were are dropped."""
    time_s: Callable[[], float]
    """Tells the time in seconds since 1970 UTC."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of a worker's table at one epoch."""

    folder: Path
    manifest: Manifest
    """What was stored then, and when it was copied."""
    log_from: SegmentName
    """The first file of the log with later epochs."""


def backups_folder(worker: Path) -> Path:
    """Where a worker's copies are."""
    return worker / "backups"


def read_backups(disk: Disk, worker: Path) -> list[Backup]:
    """The copies that are there, oldest first.

    Raises:
        CorruptStoreError: A description is damaged or missing.
        StoreFormatError: A newer engine wrote it.
    """
    folder = backups_folder(worker)
    if not disk.exists(folder):
        return []
    names = sorted(filter(_NAME.fullmatch, disk.names(folder)), key=int)
    return [_read(disk, folder / name) for name in names]


def _read(disk: Disk, folder: Path) -> Backup:
    path = folder / DESCRIPTION
    if not disk.exists(path):
        raise CorruptStoreError(path, f"the description of an older epoch is missing; {_WAY_OUT}")
    try:
        body = unseal(disk.read(path))
        manifest = decode_manifest(body["manifest"].encode())
        generation, number = body["log_from"]
    except NewerFormatError as ex:
        msg = f"{path}: {ex}"
        raise StoreFormatError(msg) from ex
    except (ManifestTextError, KeyError, TypeError, ValueError, AttributeError) as ex:
        what = f"the description of an older epoch is damaged: {ex}; {_WAY_OUT}"
        raise CorruptStoreError(path, what) from ex
    return Backup(folder, manifest, SegmentName(Generation(generation), number))


class Backups:
    """Makes and drops the copies of one worker's table while a job runs.

    Args:
        disk: Where.
        worker: The folder of the worker's store.
        options: How long they are kept; None leaves those that are there alone.
    """

    def __init__(self, disk: Disk, worker: Path, options: BackupOptions | None) -> None:
        self._disk = disk
        self._worker = worker
        self._options = options
        self._kept = read_backups(disk, worker)
        self._notes: list[Manifest] = []
        self._wanted: Epoch | None = None
        with writing(backups_folder(worker), "delete old copies of the table"):
            self._remove_unfinished()
            if options is not None and not options.interval:
                self._kept.clear()
                remove_tree(disk, backups_folder(worker))

    def _remove_unfinished(self) -> None:
        folder = backups_folder(self._worker)
        for name in self._disk.names(folder) if self._disk.exists(folder) else ():
            if name.endswith(TEMPORARY):
                remove_tree(self._disk, folder / name)

    def needs(self, name: SegmentName) -> bool:
        """Whether a file of the log is needed to restore an older epoch."""
        return bool(self._kept) and name >= self._kept[0].log_from

    @property
    def _log_from(self) -> SegmentName | None:
        return self._kept[0].log_from if self._kept else None

    # What is stored, for whoever restores it.

    def begin(self, manifest: Manifest, log: LogWriter) -> None:
        """A generation begins with this manifest."""
        log.keep_from = self._log_from
        if self._options is not None and self._options.interval:
            self._notes = [manifest]
            log.note_committed(manifest.epoch, encode_manifest(manifest))

    def saw(self, epoch: Epoch, changes: Iterable[Changes]) -> None:
        """Note which versions of states are stored from this epoch on."""
        if not self._notes:
            return
        last = self._notes[-1]
        steps = dict(last.steps)
        for change in changes:
            if isinstance(change, KeyedChanges) and change.keys:
                entry = steps[change.step_id]
                if change.version > entry.state_version:
                    steps[change.step_id] = replace(entry, state_version=change.version)
        if steps != last.steps:
            self._notes.append(replace(last, kind="epoch", epoch=epoch, steps=steps))

    def note_of(self, epoch: Epoch) -> bytes:
        """What the log is to say about an epoch that is committed: nothing if all is as before."""
        noted = [note for note in self._notes if note.epoch == epoch and note.kind == "epoch"]
        return encode_manifest(noted[-1]) if noted else b""

    # Making and dropping copies.

    def wanted(self, committed: Epoch) -> Epoch | None:
        """A copy should be made of this epoch or a later one; None if none is due."""
        options = self._options
        if self._wanted is None and options is not None and options.interval:
            last = self._kept[-1].manifest if self._kept else None
            due_s = (
                last.time_s + options.interval.total_seconds() / _COPIES_PER_INTERVAL
                if last
                else 0.0
            )
            if committed > (last.epoch if last else 0) and options.time_s() >= due_s:
                self._wanted = committed
        return self._wanted

    def make(self, epoch: Epoch, table: Table, log: LogWriter) -> None:
        """Copy the table, which holds exactly this epoch and is flushed, and drop old copies."""
        assert self._options is not None  # noqa: S101 - else none was wanted
        now_s, disk, folder = self._options.time_s(), self._disk, backups_folder(self._worker)
        path = folder / f"{epoch:012d}"
        temporary = path.with_name(path.name + TEMPORARY)
        stored = [note for note in self._notes if note.epoch <= epoch][-1]
        manifest = replace(stored, kind="epoch", epoch=epoch, time_s=now_s)
        log_from = log.first_after(epoch)
        body = {
            "format": FORMAT,
            "manifest": encode_manifest(manifest).decode(),
            "log_from": [log_from.generation, log_from.number],
        }
        with writing(path, "keep a copy of the table"):
            if not disk.exists(folder):
                disk.make_folder(folder)
                disk.sync_folder(self._worker)
            table.checkpoint(temporary)
            write_synced(disk, temporary / DESCRIPTION, seal(body))
            disk.sync_folder(temporary)
            disk.rename(temporary, path)
            disk.sync_folder(folder)
        self._kept.append(Backup(path, manifest, log_from))
        self._notes = [stored, *(note for note in self._notes if note.epoch > epoch)]
        self._wanted = None
        self._drop_old(now_s - self._options.interval.total_seconds(), log)
        log.keep_from = self._log_from

    def _drop_old(self, limit_s: float, log: LogWriter) -> None:
        dropped = 0
        while len(self._kept) > 1 and self._kept[1].manifest.time_s <= limit_s:
            folder = self._kept.pop(0).folder
            dropped += 1
            with writing(folder, "delete an old copy of the table"):
                # Under another name first: half a copy must not pass for one.
                temporary = folder.with_name(folder.name + TEMPORARY)
                self._disk.rename(folder, temporary)
                self._disk.sync_folder(folder.parent)
                remove_tree(self._disk, temporary)
        if dropped:
            self._drop_log(min(self._kept[0].log_from, log.oldest))

    def _drop_log(self, log_from: SegmentName) -> None:
        """Delete files of the log that neither a copy nor a recovery needs."""
        logs = log_folder(self._worker)
        with writing(logs, "delete files of the recovery log"):
            for name in self._disk.names(logs):
                segment = SegmentName.parse(name)
                if segment is not None and segment < log_from:
                    self._disk.unlink(logs / name)
