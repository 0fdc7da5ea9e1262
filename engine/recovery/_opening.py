"""Finds out what a worker's store holds, seen to belong together, without a change to any file."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import FencedError
from engine.recovery._changes import Chunk, decode_parts
from engine.recovery._codec import Codec
from engine.recovery._disk import Disk, writing
from engine.recovery._ids import WorkerIndex
from engine.recovery._layout import StorePaths
from engine.recovery._log_reader import LogContents, LogTarget, read_log
from engine.recovery._manifest import Manifest
from engine.recovery._overlay import Overlay
from engine.recovery._records import SegmentName
from engine.recovery._state_view import KeptByStep, StateView
from engine.recovery._table import Tables
from engine.recovery._worker_files import (
    Applied,
    check_folders,
    check_meta,
    identity_of,
    log_folder,
    table_folder,
)


@dataclass(frozen=True, slots=True)
class WorkerSpot:
    """Where a worker's store is, and what it is made of."""

    disk: Disk
    tables: Tables
    root: Path
    """The folder of the whole store."""
    worker: WorkerIndex


def read_worker(spot: WorkerSpot, manifest: Manifest, folder: Path) -> tuple[Applied, LogContents]:
    """What table and log hold, seen to belong together, without a change to any file."""
    table = spot.tables.open(table_folder(folder), read_only=True)
    try:
        applied = check_meta(table_folder(folder), table, manifest, spot.worker)
    finally:
        table.close()
    identity = identity_of(manifest, spot.worker).of_log
    target = LogTarget(manifest.epoch, applied.epoch, manifest.shards_epoch)
    contents = read_log(spot.disk, log_folder(folder), identity, target)
    _check_fenced(contents, manifest, folder)
    return applied, contents


def _check_fenced(contents: LogContents, manifest: Manifest, folder: Path) -> None:
    """See that no newer generation writes a log here: an older one must not delete it.

    Raises:
        FencedError: One does.
    """
    names = filter(None, map(SegmentName.parse, contents.leftovers))
    newest = max((name.generation for name in names), default=manifest.generation)
    if newest > manifest.generation:
        msg = (
            f"{log_folder(folder)} is written by generation {newest} of the job, and this is "
            f"generation {manifest.generation}: a newer one has taken over, or the manifests are "
            "older than this worker's store"
        )
        raise FencedError(msg)


def recovered(
    contents: LogContents, manifest: Manifest, applied: Applied
) -> tuple[Overlay, KeptByStep]:
    """The changes that are not applied, and the rows kept for the last epoch."""
    overlay = Overlay()
    kept: KeptByStep = {}
    for epoch, payloads in sorted(contents.epochs.items()):
        for payload in payloads:
            chunks: list[Chunk] = []
            for part in decode_parts(payload, epoch):
                if isinstance(part, Chunk):
                    chunks.append(part)
                elif epoch == manifest.epoch:
                    kept.setdefault(part.step, {}).setdefault(part.shard, []).extend(part.rows)
            if epoch > applied.epoch:
                chunks = [chunk for chunk in chunks if chunk.step not in manifest.dropped]
                overlay.waiting.add(chunks, len(payload))
    return overlay, kept


@contextmanager
def view(
    spot: WorkerSpot, manifest: Manifest, *, allow_pickle: bool = True
) -> Generator[StateView, None, None]:
    """Look at a worker's store that no process has open, at the epoch of the newest manifest.

    Raises:
        StoreError: As `WorkerStore.open`, but nothing is claimed or changed.
    """
    folder = StorePaths(spot.root).worker(manifest.shards, spot.worker)
    check_folders(spot.disk, manifest, folder)
    with writing(folder, "lock the store of a worker"):
        lock = spot.disk.lock(folder / "LOCK")
    try:
        applied, contents = read_worker(spot, manifest, folder)
        overlay, kept = recovered(contents, manifest, applied)
        table = spot.tables.open(table_folder(folder), read_only=True)
        try:
            yield StateView(manifest, table, overlay, kept, Codec(allow_pickle=allow_pickle))
        finally:
            table.close()
    finally:
        lock.release()
