"""Copies of a whole store at one epoch, in another folder.

    TARGET/objects/0123abcd...     files of tables, by the SHA-256 of what they hold
           savepoints/NAME.json    which files make up which worker's table, and the manifest

Several savepoints share the files that they have in common: RocksDB's never change. A savepoint is
there when its NAME.json is; a crash before leaves objects that the next one uses or nobody does.
`_restore` makes a store of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from engine.errors import (
    CorruptStoreError,
    NoPartitionsError,
    StoreError,
    StoreFormatError,
)
from engine.recovery._changes import Kept, decode_parts, encode_parts
from engine.recovery._disk import Disk, remove_tree, write_synced, writing
from engine.recovery._ids import WorkerIndex
from engine.recovery._layout import is_store, make_folders
from engine.recovery._manifest import (
    FORMAT,
    SINK_KIND,
    Manifest,
    ManifestTextError,
    NewerFormatError,
    decode_manifest,
    encode_manifest,
    seal,
    unseal,
)
from engine.recovery._restore import SinkTies
from engine.recovery._state_view import StateView
from engine.recovery._table import Table
from engine.recovery._worker_files import CHECKPOINT
from engine.recovery._worker_store import WorkerStore

NOT_COPIED = ("LOG", "LOCK", "OPTIONS-")
"""What the names begin with of a table's files that a copy does without."""


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file in a savepoint."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class SavedWorker:
    """What a savepoint has of one worker."""

    files: tuple[SavedFile, ...]
    """Of its table."""
    kept: SavedFile | None
    """The rows that its sinks kept for the epoch."""
    sinks: Mapping[str, SinkTies]
    """Its sinks that are tied to their targets."""


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A store at one epoch."""

    manifest: Manifest
    workers: tuple[SavedWorker, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes its files have."""
        return sum(file.size for worker in self.workers for file in worker.files)


def save_worker(disk: Disk, store: WorkerStore, target: Path) -> SavedWorker:
    """Copy a worker's table, as it is at the last committed epoch, to a savepoint's objects.

    Applies what is committed first.

    Args:
        disk: Where.
        store: The worker's open store.
        target: The folder that the savepoint will be in.

    Raises:
        StoreWriteError: The disk refused.
    """
    kept = kept_of(store)
    objects, whose = target / "objects", store.folder.name
    with writing(target, "copy a table to a savepoint"):
        for folder in (objects, target / "savepoints"):
            make_folders(disk, folder)
        checkpoint = store.folder / CHECKPOINT
        for leftover in (checkpoint, checkpoint.with_name(checkpoint.name + ".tmp")):
            remove_tree(disk, leftover)
        store.savepoint(checkpoint)
        saved = [
            _save_object(disk, name, disk.read(checkpoint / name), objects, whose)
            for name in disk.names(checkpoint)
            if not name.startswith(NOT_COPIED)
        ]
        saved_kept = None
        if kept:
            saved_kept = _save_object(disk, "kept rows", encode_parts(kept), objects, whose)
        disk.sync_folder(objects)
        remove_tree(disk, checkpoint)
    return SavedWorker(tuple(saved), saved_kept, ties_of(store))


def _save_object(disk: Disk, name: str, data: bytes, objects: Path, whose: str) -> SavedFile:
    digest = hashlib.sha256(data).hexdigest()
    if not disk.exists(objects / digest):
        # Another worker's process may be saving a file that holds the same.
        temporary = objects / f"{digest}-{whose}.tmp"
        write_synced(disk, temporary, data)
        disk.rename(temporary, objects / digest)
    return SavedFile(name, digest, len(data))


def ties_of(store: StateView) -> dict[str, SinkTies]:
    """What ties the sinks of a worker to their targets."""
    manifest = store.manifest
    ties = {
        step_id: SinkTies(
            marked=step_id in manifest.published or bool(store.kept_rows(step_id)),
            positioned=bool(store.partition_names(step_id)),
        )
        for step_id, entry in manifest.steps.items()
        if entry.kind == SINK_KIND
    }
    return {step_id: tie for step_id, tie in ties.items() if tie != SinkTies()}


def kept_of(store: StateView) -> list[Kept]:
    """The rows that the sinks of a worker kept for the last epoch."""
    return [
        Kept(entry.number, shard, rows)
        for step_id, entry in store.manifest.steps.items()
        for shard, rows in store.kept_rows(step_id).items()
    ]


def write_savepoint(disk: Disk, target: Path, name: str, savepoint: Savepoint) -> Path:
    """Finish a savepoint: once this returns it is there. Gives its path.

    Raises:
        StoreError: There is one of that name, or the name can't be a file's.
        StoreWriteError: The disk refused.
    """
    path = _path(target, name)
    body = {
        "format": FORMAT,
        "manifest": encode_manifest(savepoint.manifest).decode(),
        "workers": [asdict(worker) for worker in savepoint.workers],
    }
    with writing(path, "write a savepoint"):
        temporary = path.with_name(path.name + ".tmp")
        write_synced(disk, temporary, seal(body))
        try:
            disk.link(temporary, path)
        except FileExistsError:
            raise _taken(target, name) from None
        finally:
            disk.unlink(temporary)
        disk.sync_folder(path.parent)
    return path


def check_target(disk: Disk, target: Path, name: str) -> None:
    """See that a savepoint of this name can be made in a folder.

    Raises:
        StoreError: There is one already, or the folder is a store.
    """
    if disk.exists(_path(target, name)):
        raise _taken(target, name)
    if is_store(disk, target):
        msg = f"{target} is a recovery store; savepoints go to a folder of their own"
        raise StoreError(msg)


def _taken(target: Path, name: str) -> StoreError:
    return StoreError(f"there is a savepoint {name!r} in {target} already; give another name")


def _path(target: Path, name: str) -> Path:
    if PurePosixPath(name).name != name or name.startswith("."):
        msg = f"{name!r} can't be the name of a savepoint"
        raise StoreError(msg)
    return target / "savepoints" / f"{name}.json"


def savepoint_names(disk: Disk, target: Path) -> list[str]:
    """The savepoints in a folder."""
    folder = target / "savepoints"
    if not disk.is_folder(folder):
        return []
    return [Path(name).stem for name in disk.names(folder) if name.endswith(".json")]


def read_savepoint(disk: Disk, target: Path, name: str) -> Savepoint:
    """What a savepoint is made of.

    Raises:
        NoPartitionsError: There is none of that name.
        CorruptStoreError: It is damaged.
        StoreFormatError: A newer engine wrote it.
    """
    path = _path(target, name)
    if not disk.exists(path):
        there = ", ".join(savepoint_names(disk, target)) or "none"
        msg = f"there is no savepoint {name!r} in {target}; there: {there}"
        raise NoPartitionsError(msg)
    try:
        body = unseal(disk.read(path))
        manifest = decode_manifest(body["manifest"].encode())
        workers = tuple(map(_saved_worker, body["workers"]))
    except (ManifestTextError, KeyError, TypeError, AttributeError) as ex:
        raise CorruptStoreError(path, f"the savepoint is damaged: {ex}") from ex
    except NewerFormatError as ex:
        msg = f"{path}: {ex}"
        raise StoreFormatError(msg) from ex
    if len(workers) != manifest.workers:
        raise CorruptStoreError(path, f"it has {len(workers)} of {manifest.workers} workers")
    return Savepoint(manifest, workers)


def _saved_worker(body: dict[str, Any]) -> SavedWorker:
    return SavedWorker(
        tuple(SavedFile(**file) for file in body["files"]),
        body["kept"] and SavedFile(**body["kept"]),
        {step_id: SinkTies(**ties) for step_id, ties in body["sinks"].items()},
    )


def _read_object(disk: Disk, target: Path, file: SavedFile) -> bytes:
    """The bytes of a saved file.

    Raises:
        CorruptStoreError: It is missing, or not what was saved.
    """
    path = target / "objects" / file.sha256
    if not disk.exists(path):
        raise CorruptStoreError(path, f"this file of a savepoint ({file.name}) is missing")
    data = disk.read(path)
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptStoreError(path, f"this file of a savepoint ({file.name}) is damaged")
    return data


class SavepointCopy:
    """A savepoint as something to restore: a `StoreCopy`.

    Raises:
        StoreError: As `read_savepoint`.
    """

    def __init__(self, disk: Disk, target: Path, name: str) -> None:
        savepoint = read_savepoint(disk, target, name)
        self.manifest = savepoint.manifest
        self.sinks = merged_ties([worker.sinks for worker in savepoint.workers])
        self.nbytes = savepoint.nbytes
        self._disk = disk
        self._target = target
        self._workers = savepoint.workers

    def check(self) -> None:
        """As in `StoreCopy`: reads all files and compares their checksums."""
        for worker in self._workers:
            for file in (*worker.files, *([worker.kept] if worker.kept else [])):
                _read_object(self._disk, self._target, file)

    def table_files(self, worker: WorkerIndex) -> Iterator[tuple[str, bytes]]:
        """As in `StoreCopy`."""
        for file in self._workers[worker].files:
            yield file.name, _read_object(self._disk, self._target, file)

    def bring_up(self, worker: WorkerIndex, table: Table) -> None:
        """As in `StoreCopy`: there is nothing to do."""

    def kept(self, worker: WorkerIndex) -> Sequence[Kept]:
        """As in `StoreCopy`."""
        file = self._workers[worker].kept
        if file is None:
            return []
        payload = _read_object(self._disk, self._target, file)
        parts = decode_parts(payload, self.manifest.epoch)
        return [part for part in parts if isinstance(part, Kept)]


def merged_ties(of_workers: Sequence[Mapping[str, SinkTies]]) -> dict[str, SinkTies]:
    """What ties the sinks of all workers to their targets.

    >>> ties = merged_ties([{"out": SinkTies(marked=True)}, {"out": SinkTies(positioned=True)}])
    >>> ties["out"].marked, ties["out"].positioned
    (True, True)
    """
    step_ids = sorted({step_id for ties in of_workers for step_id in ties})
    all_ties = {s: [ties[s] for ties in of_workers if s in ties] for s in step_ids}
    return {
        step_id: SinkTies(any(t.marked for t in ties), any(t.positioned for t in ties))
        for step_id, ties in all_ties.items()
    }
