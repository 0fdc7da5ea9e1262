"""Where the parts of a store are, and how an empty one is made.

    DIR/FORMAT                     format and store id
        LOCK                       held by the process that coordinates the job
        manifests/000000000001.json ...
        shards-0001/worker-0000/   the store of one worker, made whole and then renamed to this
                        log/       what changed, epoch by epoch
                        table/     RocksDB: the rows
        running/                   calls that are being made (`_running_calls`)
        RESTORING                  only while `_restore` makes the store; FORMAT comes last then

All of it can be entered by its owner only.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CorruptStoreError, NoPartitionsError, StoreFormatError
from engine.recovery._disk import Disk, write_synced, writing
from engine.recovery._ids import WorkerIndex
from engine.recovery._manifest import FORMAT, ManifestTextError, NewerFormatError, seal, unseal

_UNFINISHED = re.compile(r"FORMAT\..*\.tmp")
_SHARDS = re.compile(r"shards-(\d{4,})")


@dataclass(frozen=True, slots=True)
class StorePaths:
    """The paths within a store's folder."""

    root: Path

    @property
    def format(self) -> Path:
        """What makes the folder a store."""
        return self.root / "FORMAT"

    @property
    def lock(self) -> Path:
        """The file that the coordinating process locks."""
        return self.root / "LOCK"

    @property
    def restoring(self) -> Path:
        """What says that the folder is to become a store, and holds nothing else of value."""
        return self.root / "RESTORING"

    @property
    def manifests(self) -> Path:
        """The folder of the chain."""
        return self.root / "manifests"

    @property
    def running(self) -> Path:
        """The folder of the calls that are being made."""
        return self.root / "running"

    def shards(self, number: int) -> Path:
        """The folder with the stores of all workers."""
        return self.root / f"shards-{number:04d}"

    def worker(self, shards: int, worker: WorkerIndex) -> Path:
        """The folder of one worker's store."""
        return self.shards(shards) / f"worker-{worker:04d}"

    def shards_there(self, disk: Disk) -> list[int]:
        """The numbers of all such folders."""
        matches = map(_SHARDS.fullmatch, disk.names(self.root))
        return sorted(int(match[1]) for match in matches if match)


def remove_unfinished(disk: Disk, paths: StorePaths) -> None:
    """Delete what processes left that died while they made the store."""
    for name in filter(_UNFINISHED.fullmatch, disk.names(paths.root)):
        disk.unlink(paths.root / name)


def is_store(disk: Disk, root: Path) -> bool:
    """Whether a folder is a recovery store."""
    return disk.exists(StorePaths(root).format)


def create_store(disk: Disk, root: Path, store_id: str) -> None:
    """Make a folder an empty store, unless it is one.

    Raises:
        NoPartitionsError: The folder holds something else.
        CorruptStoreError: It was a store and lacks its FORMAT file.
        StoreWriteError: The disk refused.
    """
    paths = StorePaths(root)
    with writing(root, "make a recovery store"):
        make_folders(disk, root)
        if disk.exists(paths.format):
            # Whoever made it may have been killed before its name was safe.
            disk.sync_folder(root)
            return
        _sync_above(disk, root)
        _refuse_others(disk, paths)
        # Nothing is locked yet: of two processes that begin at the same time, one makes the store.
        with suppress(FileExistsError):
            disk.make_folder(paths.manifests)
        with suppress(FileExistsError):
            write_format(disk, paths, store_id)


def _sync_above(disk: Disk, folder: Path) -> None:
    """Make the name of a folder safe, and of those it is in: a process may have made them and died.

    One that may not be read is passed over: it was not made by anybody who would make a store.
    """
    for parent in folder.parents:
        with suppress(PermissionError):
            disk.sync_folder(parent)


def write_format(disk: Disk, paths: StorePaths, store_id: str) -> None:
    """Make a folder a store that holds all the rest: where FORMAT is, the rest is.

    Raises:
        FileExistsError: Another process has made it one meanwhile.
    """
    disk.sync_folder(paths.root)
    temporary = paths.root / f"FORMAT.{store_id}.tmp"
    write_synced(disk, temporary, seal({"format": FORMAT, "store_id": store_id}))
    try:
        disk.link(temporary, paths.format)
    finally:
        disk.unlink(temporary)
    disk.sync_folder(paths.root)


def make_folders(disk: Disk, folder: Path) -> None:
    """Make a folder, and those it is in, if they aren't there.

    Raises:
        NoPartitionsError: One of them is a file.
    """
    if disk.exists(folder):
        if not disk.is_folder(folder):
            msg = f"{folder} is a file; a recovery store is a folder"
            raise NoPartitionsError(msg)
        return
    make_folders(disk, folder.parent)
    # Another process may be at the same.
    with suppress(FileExistsError):
        disk.make_folder(folder)
    disk.sync_folder(folder.parent)


def _refuse_others(disk: Disk, paths: StorePaths) -> None:
    """Refuse a folder with files that aren't of a store, or that was one."""
    names = {name for name in disk.names(paths.root) if not _UNFINISHED.fullmatch(name)} - {"LOCK"}
    if paths.format.name in names:
        # Another process has made it a store since we looked.
        return
    if disk.exists(paths.restoring):
        msg = (
            f"{paths.root} holds a store that was not restored to the end; restore it once more, "
            "which begins anew, or delete the folder"
        )
        raise NoPartitionsError(msg)
    if disk.exists(paths.manifests) and not disk.names(paths.manifests):
        names.discard("manifests")
    if "manifests" in names or any(map(_SHARDS.fullmatch, names)):
        raise CorruptStoreError(
            paths.format, "the file is missing, though the store's rest is there"
        )
    if names:
        found = ", ".join(sorted(names)[:3])
        msg = (
            f"{paths.root} is not empty and is no recovery store (it holds {found}); "
            "give an empty folder, or one that isn't there yet"
        )
        raise NoPartitionsError(msg)


def read_store_id(disk: Disk, root: Path) -> str:
    """The id of a store, its format being one that this engine knows.

    Raises:
        NoPartitionsError: The folder is no store.
        CorruptStoreError: FORMAT is damaged, or missing from what was a store.
        StoreFormatError: A newer engine made it.
    """
    paths = StorePaths(root)
    if not disk.exists(paths.format):
        if disk.is_folder(root):
            _refuse_others(disk, paths)
        msg = f"there is no recovery store in {root}; make one with `init_db_dir` or `create=True`"
        raise NoPartitionsError(msg)
    try:
        store_id = unseal(disk.read(paths.format))["store_id"]
    except (ManifestTextError, KeyError) as ex:
        raise CorruptStoreError(paths.format, f"the file is damaged: {ex}") from ex
    except NewerFormatError as ex:
        msg = f"{paths.format}: {ex}"
        raise StoreFormatError(msg) from ex
    return str(store_id)
