"""Copies of a whole store at one epoch, in another folder, and stores made of them.

    TARGET/objects/0123abcd...     files of tables, by the SHA-256 of what they hold
           savepoints/NAME.json    which files make up which worker's table, and the manifest

Several savepoints share the files that they have in common: RocksDB's never change. A savepoint is
there when its NAME.json is; a crash before leaves objects that the next one uses or nobody does.

A restored store is a new one. It gets an id of its own, so that what its sinks publish can't be
mistaken for what the first store's published; its epochs go on from the savepoint's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from engine.errors import CorruptStoreError, NoPartitionsError, StoreError, StoreFormatError
from engine.recovery._chain import ManifestChain
from engine.recovery._disk import Disk, remove_tree, write_synced, writing
from engine.recovery._ids import WorkerIndex
from engine.recovery._layout import StorePaths, create_store
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
from engine.recovery._rows import APPLIED_KEY, IDENTITY_KEY
from engine.recovery._table import Tables
from engine.recovery._worker_files import (
    Identity,
    encode_applied,
    encode_identity,
    identity_of,
    log_folder,
    read_meta,
    seal_worker,
    table_folder,
)
from engine.recovery._worker_store import WorkerStore

_NOT_COPIED = ("LOG", "LOCK", "OPTIONS-")


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file of a table in a savepoint."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A store at one epoch."""

    manifest: Manifest
    workers: tuple[tuple[SavedFile, ...], ...]
    """The files of each worker's table."""


def save_worker(
    disk: Disk, store: WorkerStore, target: Path, *, kept_rows_settled: bool = False
) -> tuple[SavedFile, ...]:
    """Copy a worker's table, as it is at the last committed epoch, to a savepoint's objects.

    Applies what is committed first.

    Args:
        disk: Where.
        store: The worker's open store.
        target: The folder that the savepoint will be in.
        kept_rows_settled: Whether what sinks kept for that epoch has been published; it isn't
            taken along.

    Raises:
        StoreWriteError: The disk refused.
        StoreError: A sink's kept rows are not settled.
    """
    kept = [step_id for step_id in store.manifest.steps if store.kept_rows(step_id)]
    if kept and not kept_rows_settled:
        msg = (
            f"sink {kept[0]!r} has rows of epoch {store.committed} that may not be out yet; they "
            "must be before a savepoint is made"
        )
        raise StoreError(msg)
    with writing(target, "copy a table to a savepoint"):
        _make_folders(disk, target)
        checkpoint = store.folder / "savepoint.tmp"
        for leftover in (checkpoint, checkpoint.with_name(checkpoint.name + ".tmp")):
            remove_tree(disk, leftover)
        store.savepoint(checkpoint)
        saved = [
            _save_file(disk, checkpoint / name, target / "objects", store.folder.name)
            for name in disk.names(checkpoint)
            if not name.startswith(_NOT_COPIED)
        ]
        disk.sync_folder(target / "objects")
        remove_tree(disk, checkpoint)
    return tuple(saved)


def _make_folders(disk: Disk, target: Path) -> None:
    for folder in (target, target / "objects", target / "savepoints"):
        if not disk.exists(folder):
            disk.make_folder(folder)
            disk.sync_folder(folder.parent)


def _save_file(disk: Disk, path: Path, objects: Path, whose: str) -> SavedFile:
    data = disk.read(path)
    digest = hashlib.sha256(data).hexdigest()
    if not disk.exists(objects / digest):
        # Another worker's process may be saving a file that holds the same.
        temporary = objects / f"{digest}-{whose}.tmp"
        write_synced(disk, temporary, data)
        disk.rename(temporary, objects / digest)
    return SavedFile(path.name, digest, len(data))


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
        "workers": [
            [[file.name, file.sha256, file.size] for file in files] for files in savepoint.workers
        ],
    }
    with writing(path, "write a savepoint"):
        temporary = path.with_name(path.name + ".tmp")
        write_synced(disk, temporary, seal(body))
        try:
            disk.link(temporary, path)
        except FileExistsError:
            msg = f"there is a savepoint {name!r} in {target} already"
            raise StoreError(msg) from None
        finally:
            disk.unlink(temporary)
        disk.sync_folder(path.parent)
    return path


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
        workers = tuple(tuple(SavedFile(*file) for file in files) for files in body["workers"])
    except (ManifestTextError, KeyError, TypeError) as ex:
        raise CorruptStoreError(path, f"the savepoint is damaged: {ex}") from ex
    except NewerFormatError as ex:
        msg = f"{path}: {ex}"
        raise StoreFormatError(msg) from ex
    if len(workers) != manifest.workers:
        raise CorruptStoreError(path, f"it has {len(workers)} of {manifest.workers} workers")
    return Savepoint(manifest, workers)


def check_savepoint(disk: Disk, target: Path, name: str) -> Savepoint:
    """Read a savepoint and all its files, and compare their checksums. Errors as the two below."""
    savepoint = read_savepoint(disk, target, name)
    for files in savepoint.workers:
        for file in files:
            _read_object(disk, target, file)
    return savepoint


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


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What to make a store of."""

    target: Path
    """The folder that the savepoint is in."""
    name: str
    """The savepoint."""
    store_id: str
    """For the new store: random."""
    time_s: float
    """Now, in seconds since 1970 UTC."""
    progress: Callable[[int, int], None] | None = None
    """Called now and then with the bytes copied and how many there are."""


def restore(disk: Disk, tables: Tables, root: Path, plan: RestorePlan) -> Manifest:
    """Make a store of a savepoint, in a folder that is empty or isn't there yet.

    The folder is a store when this returns; after a crash before that, it is none, and has to be
    emptied before another try.

    Raises:
        NoPartitionsError: There is no such savepoint, or the folder isn't empty.
        CorruptStoreError: The savepoint is damaged.
        StoreWriteError: The disk refused.
    """
    savepoint = check_savepoint(disk, plan.target, plan.name)
    if disk.exists(root) and disk.names(root):
        msg = f"{root} is not empty; a savepoint is restored to a folder of its own"
        raise NoPartitionsError(msg)
    create_store(disk, root, plan.store_id)
    before = savepoint.manifest
    after = replace(
        before.after_start(plan.time_s, store_id=plan.store_id, published={}),
        seq=1,
        shards=1,
        shards_epoch=before.epoch,
    )
    copied, total = 0, sum(file.size for files in savepoint.workers for file in files)
    with writing(root, "restore a savepoint"):
        disk.make_folder(StorePaths(root).shards(1))
        disk.sync_folder(root)
        for index, files in enumerate(savepoint.workers):
            folder = StorePaths(root).worker(1, WorkerIndex(index))
            identity = identity_of(after, WorkerIndex(index))
            objects = {file.name: _read_object(disk, plan.target, file) for file in files}
            _restore_worker(disk, tables, folder, objects, after, identity)
            copied += sum(file.size for file in files)
            if plan.progress is not None:
                plan.progress(copied, total)
    ManifestChain(disk, StorePaths(root).manifests, plan.store_id).link(after)
    return after


def _restore_worker(
    disk: Disk,
    tables: Tables,
    folder: Path,
    objects: Mapping[str, bytes],
    manifest: Manifest,
    identity: Identity,
) -> None:
    """Make a worker's folder of its saved files, and let its table say whose it is now."""
    temporary = folder.with_name(folder.name + ".tmp")
    path = table_folder(temporary)
    for made in (temporary, log_folder(temporary), path):
        disk.make_folder(made)
    for name, data in objects.items():
        write_synced(disk, path / name, data)
    disk.sync_folder(path)
    table = tables.open(path)
    try:
        _, applied = read_meta(path, table)
        if applied.epoch != manifest.epoch:
            msg = f"a saved table holds epoch {applied.epoch}, not {manifest.epoch}"
            raise CorruptStoreError(path, msg)
        applied = replace(applied, generation=manifest.generation)
        rows = [
            (IDENTITY_KEY, encode_identity(identity)),
            (APPLIED_KEY, encode_applied(applied)),
        ]
        table.write(rows, [])
        table.flush()
    finally:
        table.close()
    seal_worker(disk, temporary, folder)
