"""Where the parts of a store are, and how an empty one is made.

    DIR/FORMAT                     format and store id
        LOCK                       held by the process that coordinates the job
        manifests/000000000001.json ...
        shards-0001/worker-0000/   the store of one worker, made whole and then renamed to this
                        log/       what changed, epoch by epoch
                        table/     RocksDB: the rows

All of it can be entered by its owner only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CorruptStoreError, NoPartitionsError, StoreFormatError
from engine.recovery._disk import Disk, write_synced, writing
from engine.recovery._ids import WorkerIndex
from engine.recovery._manifest import FORMAT, ManifestTextError, NewerFormatError, seal, unseal

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
    def manifests(self) -> Path:
        """The folder of the chain."""
        return self.root / "manifests"

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
        _make_folders(disk, root)
        if disk.exists(paths.format):
            return
        _refuse_others(disk, paths)
        if not disk.exists(paths.manifests):
            disk.make_folder(paths.manifests)
        # FORMAT comes last, so that where it is, the rest is.
        disk.sync_folder(root)
        temporary = paths.format.with_name("FORMAT.tmp")
        write_synced(disk, temporary, seal({"format": FORMAT, "store_id": store_id}))
        disk.rename(temporary, paths.format)
        disk.sync_folder(root)


def _make_folders(disk: Disk, folder: Path) -> None:
    if disk.exists(folder):
        if not disk.is_folder(folder):
            msg = f"{folder} is a file; a recovery store is a folder"
            raise NoPartitionsError(msg)
        return
    _make_folders(disk, folder.parent)
    disk.make_folder(folder)
    disk.sync_folder(folder.parent)


def _refuse_others(disk: Disk, paths: StorePaths) -> None:
    """Refuse a folder with files that aren't of a store, or that was one."""
    names = set(disk.names(paths.root)) - {"LOCK", "FORMAT.tmp"}
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
