"""The folder of one worker's store: made whole or not at all, and checked before it is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import (
    CorruptStoreError,
    FencedError,
    InconsistentPartitionsError,
    MissingPartitionsError,
    StoreFormatError,
)
from engine.recovery._disk import Disk, remove_tree, writing
from engine.recovery._ids import Epoch, Generation, WorkerIndex
from engine.recovery._manifest import FORMAT, Manifest
from engine.recovery._records import LogIdentity, pack, unpack
from engine.recovery._rows import APPLIED_KEY, IDENTITY_KEY
from engine.recovery._table import Table, Tables

TEMPORARY = ".tmp"
CHECKPOINT = "savepoint.tmp"
"""In a worker's folder: the links that a savepoint is made from; left behind by a crash."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a table says it is; never changes."""

    store_id: str
    worker: WorkerIndex
    workers: int
    shards: int

    @property
    def of_log(self) -> LogIdentity:
        """The part that a log says."""
        return LogIdentity(self.store_id, self.worker)


@dataclass(frozen=True, slots=True)
class Applied:
    """Up to where a table holds all changes."""

    epoch: Epoch
    generation: Generation
    fingerprint: str
    """Of the graph that this generation ran."""
    timed_steps: frozenset[int] = frozenset()
    """Numbers of steps that ever had timers, so that others need no looking after."""
    purged_steps: frozenset[int] = frozenset()
    """Numbers of steps that were dropped and whose rows are deleted."""


def identity_of(manifest: Manifest, worker: WorkerIndex) -> Identity:
    """What a worker's table must say it is."""
    return Identity(manifest.store_id, worker, manifest.workers, manifest.shards)


def encode_identity(identity: Identity) -> bytes:
    """The value of the identity row."""
    worker = [identity.store_id, identity.worker, identity.workers, identity.shards]
    return pack([FORMAT, *worker])


def encode_applied(applied: Applied) -> bytes:
    """The value of the applied row."""
    return pack(
        [
            applied.epoch,
            applied.generation,
            applied.fingerprint,
            sorted(applied.timed_steps),
            sorted(applied.purged_steps),
        ]
    )


def table_folder(folder: Path) -> Path:
    """Where a worker's table is."""
    return folder / "table"


def log_folder(folder: Path) -> Path:
    """Where a worker's log is."""
    return folder / "log"


def create_worker(disk: Disk, tables: Tables, folder: Path, rows: dict[bytes, bytes]) -> None:
    """Make the folder of a worker's store, with rows that say what it is, unless it is there.

    Raises:
        FencedError: Another process is making it.
        StoreWriteError: The disk refused.
    """
    try:
        with writing(folder, "make the store of a worker"):
            _create_worker(disk, tables, folder, rows)
    except FileExistsError as ex:
        msg = f"{ex.filename} is there all of a sudden: another process runs this job"
        raise FencedError(msg) from ex


def _create_worker(disk: Disk, tables: Tables, folder: Path, rows: dict[bytes, bytes]) -> None:
    temporary = folder.with_name(folder.name + TEMPORARY)
    if not disk.exists(folder.parent):
        disk.make_folder(folder.parent)
    # Whoever made what is there may have been killed before its name was safe.
    disk.sync_folder(folder.parent.parent)
    if disk.exists(folder):
        disk.sync_folder(folder.parent)
        return
    remove_tree(disk, temporary)
    disk.make_folder(temporary)
    disk.make_folder(log_folder(temporary))
    table = tables.create(table_folder(temporary))
    try:
        table.write([*rows.items()], [])
        table.flush()
    finally:
        table.close()
    seal_worker(disk, temporary, folder)


def seal_worker(disk: Disk, temporary: Path, folder: Path) -> None:
    """Give a finished folder its name."""
    disk.sync_folder(temporary)
    disk.rename(temporary, folder)
    disk.sync_folder(folder.parent)


def identity_rows(manifest: Manifest, worker: WorkerIndex, epoch: Epoch) -> dict[bytes, bytes]:
    """The rows of a table that say what it is and that it holds all of an epoch."""
    applied = Applied(epoch, manifest.generation, manifest.fingerprint)
    return {
        IDENTITY_KEY: encode_identity(identity_of(manifest, worker)),
        APPLIED_KEY: encode_applied(applied),
    }


def check_folders(disk: Disk, manifest: Manifest, folder: Path) -> None:
    """See that the folders of a worker's store are there.

    Raises:
        MissingPartitionsError: One of them is gone.
    """
    for part in (folder, table_folder(folder), log_folder(folder)):
        if not disk.is_folder(part):
            msg = (
                f"{part} is missing: the store has {manifest.workers} workers' folders, and the "
                "state in this one can't be made up from the others; put the whole store back "
                "from one copy"
            )
            raise MissingPartitionsError(msg)


def check_meta(path: Path, table: Table, manifest: Manifest, worker: WorkerIndex) -> Applied:
    """See that a table is the one that the manifest means; gives how far it has come.

    Raises:
        CorruptStoreError: It doesn't say what it is.
        InconsistentPartitionsError: It is another's.
        FencedError: A newer generation has had it.
    """
    identity, applied = read_meta(path, table)
    expected = identity_of(manifest, worker)
    if identity != expected:
        msg = f"{path} says that it is {identity}, but the newest manifest needs {expected}"
        raise InconsistentPartitionsError(msg)
    if applied.generation > manifest.generation:
        msg = (
            f"{path} has been used by generation {applied.generation} of the job, and this is "
            f"generation {manifest.generation}: a newer one has taken over, or the manifests are "
            "older than this worker's store"
        )
        raise FencedError(msg)
    same_generation = applied.generation == manifest.generation
    if same_generation and applied.fingerprint != manifest.fingerprint:
        msg = f"{path} was used with another graph than manifest {manifest.seq} says"
        raise InconsistentPartitionsError(msg)
    return applied


def read_meta(path: Path, table: Table) -> tuple[Identity, Applied]:
    """What a table says about itself.

    Raises:
        CorruptStoreError: It doesn't, or not in a way that makes sense.
        StoreFormatError: A newer engine wrote it.
    """
    identity_row, applied_row = table.get_many([IDENTITY_KEY, APPLIED_KEY])
    if identity_row is None or applied_row is None:
        raise CorruptStoreError(path, "the rows that say what the table is are missing")
    try:
        version, *rest = unpack(identity_row)
        identity = Identity(*rest)
        epoch, generation, fingerprint, timed, purged = unpack(applied_row)
    except (ValueError, TypeError) as ex:
        raise CorruptStoreError(path, f"what the table says it is makes no sense: {ex}") from ex
    if version > FORMAT:
        msg = f"{path}: written in format {version}; this engine knows formats up to {FORMAT}"
        raise StoreFormatError(msg)
    sets: list[Any] = [frozenset(timed), frozenset(purged)]
    return identity, Applied(epoch, generation, fingerprint, *sets)
