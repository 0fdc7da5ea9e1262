"""Makes a store of a copy of one: of a savepoint, or of an older epoch that a store has kept.

A restored store is a new one with an id of its own; its epochs go on from the copy's. Its folder
says that it is being restored until all of it is there: only then it is a store.

What sinks that write exactly once have at their targets is no part of a copy, and only who restores
can know what there is. So for each of them it must be said whether it

- continues: it goes on at its target where the copy was taken. Positions are kept, so that a file
  is cut back to what it was then. Markers are kept, with the id of the first store and a generation
  above all of its own, which locks the first store's job out; the start is refused if the target
  has more than the copy.
- has a new target: it begins anew, without positions or markers, with what comes after the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from engine.errors import CorruptStoreError, NoPartitionsError, StoreError
from engine.recovery._chain import ManifestChain
from engine.recovery._changes import Kept, encode_parts
from engine.recovery._disk import Disk, remove_tree, write_synced, writing
from engine.recovery._ids import Epoch, Generation, WorkerIndex
from engine.recovery._layout import StorePaths, is_store, make_folders, write_format
from engine.recovery._log import LogWriter
from engine.recovery._manifest import Manifest
from engine.recovery._rows import APPLIED_KEY, IDENTITY_KEY
from engine.recovery._table import Table, Tables
from engine.recovery._worker_files import (
    encode_applied,
    encode_identity,
    identity_of,
    log_folder,
    read_meta,
    seal_worker,
    table_folder,
)

SinkChoice: TypeAlias = Literal["continue", "new-target"]


@dataclass(frozen=True, slots=True)
class SinkTies:
    """What ties a sink to its target."""

    marked: bool = False
    """It keeps markers there, or left rows to be published."""
    positioned: bool = False
    """The store has positions in its output."""
    ahead: bool = False
    """It marks at its target, which has later epochs than the copy."""


class StoreCopy(Protocol):
    """A store at one epoch, to make a store of."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the epoch."""
        ...

    @property
    def sinks(self) -> Mapping[str, SinkTies]:
        """The sinks that are tied to their targets."""
        ...

    @property
    def nbytes(self) -> int:
        """How much there is to copy."""
        ...

    def check(self) -> None:
        """See that all of it is there and sound.

        Raises:
            CorruptStoreError: It isn't.
        """
        ...

    def table_files(self, worker: WorkerIndex) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of the files of a worker's table."""
        ...

    def bring_up(self, worker: WorkerIndex, table: Table) -> None:
        """Apply to that table, which is open, what it lacks of the epoch."""
        ...

    def kept(self, worker: WorkerIndex) -> Sequence[Kept]:
        """The rows that sinks on a worker kept for the epoch."""
        ...


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """How a store is to be made of a copy."""

    store_id: str
    """For the new store: random."""
    time_s: float
    """Now, in seconds since 1970 UTC."""
    sinks: SinkChoice | None = None
    """What sinks do that are tied to their targets; None refuses to restore if there are any."""
    by_step: Mapping[str, SinkChoice] = field(default_factory=dict[str, SinkChoice])
    """What some of them do in place of that."""
    progress: Callable[[int, int], None] | None = None
    """Called now and then with the bytes copied and how many there are."""


class UndecidedSinksError(StoreError):
    """Nobody said what sinks do that are tied to their targets.

    Attributes:
        step_ids: These sinks.
    """

    def __init__(self, message: str, step_ids: Sequence[str]) -> None:
        super().__init__(message)
        self.step_ids = tuple(step_ids)


def restore(disk: Disk, tables: Tables, root: Path, copy: StoreCopy, plan: RestorePlan) -> Manifest:
    """Make a store of a copy, in a folder that is empty or isn't there yet.

    The folder is a store when this returns. After a crash before that it is none, and the same call
    begins anew.

    Raises:
        NoPartitionsError: The folder isn't empty.
        UndecidedSinksError: The plan leaves a sink out.
        CorruptStoreError: The copy is damaged.
        StoreInUseError: Somebody else restores to this folder.
        StoreWriteError: The disk refused.
    """
    after = _manifest_after(copy, plan)
    copy.check()
    paths = StorePaths(root)
    with writing(root, "make a folder to restore to"):
        make_folders(disk, root)
        _refuse_used(disk, paths)
        lock = disk.lock(paths.lock)
    try:
        with writing(root, "restore a store"):
            _begin(disk, paths)
            _restore_workers(disk, tables, paths, copy, after, plan.progress)
            ManifestChain(disk, paths.manifests, plan.store_id).link(after)
            write_format(disk, paths, plan.store_id)
            disk.unlink(paths.restoring)
            disk.sync_folder(root)
    finally:
        lock.release()
    return after


def choices_of(copy: StoreCopy, plan: RestorePlan) -> dict[str, SinkChoice]:
    """What each sink does that is tied to its target. Errors as `restore`."""
    for step_id in plan.by_step:
        if step_id not in copy.sinks:
            there = ", ".join(map(repr, copy.sinks)) or "none"
            msg = f"{step_id!r} is no sink that is tied to its target; such are: {there}"
            raise StoreError(msg)
    chosen: dict[str, SinkChoice] = {}
    if plan.sinks is not None:
        chosen.update((step_id, plan.sinks) for step_id in copy.sinks)
    chosen.update(plan.by_step)
    for step_id, choice in chosen.items():
        if choice == "continue" and copy.sinks[step_id].ahead:
            msg = (
                f"sink {step_id!r} can't go on from epoch {copy.manifest.epoch}: its target has "
                "later ones, which would be written again. Give it a new target"
            )
            raise StoreError(msg)
    undecided = [step_id for step_id in copy.sinks if step_id not in chosen]
    if undecided:
        msg = (
            f"it must be said what becomes of the output of {', '.join(map(repr, undecided))}: "
            "whether it goes on in the target that it has, or in a new one"
        )
        raise UndecidedSinksError(msg, undecided)
    return chosen


def _manifest_after(copy: StoreCopy, plan: RestorePlan) -> Manifest:
    """The first link of the new store's chain."""
    before, chosen = copy.manifest, choices_of(copy, plan)
    if before.epoch == 0:
        msg = "no epoch of the store is durable yet, so there is nothing to restore"
        raise NoPartitionsError(msg)
    renewed = {step_id for step_id, choice in chosen.items() if choice == "new-target"}
    started = before.after_start(plan.time_s)
    takes_over = any(copy.sinks[s].marked for s in chosen if s not in renewed)
    # A clock's seconds are far above any number of starts: the first store's job is locked out, and
    # so is a store restored earlier to go on there.
    generation = max(started.generation, int(plan.time_s)) if takes_over else started.generation
    return replace(
        started,
        seq=1,
        generation=Generation(generation),
        store_id=plan.store_id,
        shards=1,
        shards_epoch=before.epoch,
        steps={s: entry for s, entry in before.steps.items() if s not in renewed},
        dropped=(*before.dropped, *(before.steps[s].number for s in sorted(renewed))),
        published={
            s: shards for s, shards in before.published.items() if chosen.get(s) == "continue"
        },
        took_over=before.job_id if takes_over else "",
    )


def _refuse_used(disk: Disk, paths: StorePaths) -> None:
    used = set(disk.names(paths.root)) - {paths.lock.name}
    if is_store(disk, paths.root) or (used and not disk.exists(paths.restoring)):
        msg = f"{paths.root} is not empty; a store is restored to a folder of its own"
        raise NoPartitionsError(msg)


def _begin(disk: Disk, paths: StorePaths) -> None:
    """Mark the folder, and clear away what an earlier try has left."""
    if disk.exists(paths.restoring):
        for name in disk.names(paths.root):
            if paths.root / name not in {paths.lock, paths.restoring}:
                remove_tree(disk, paths.root / name)
    else:
        write_synced(disk, paths.restoring, b"")
    disk.sync_folder(paths.root)
    for folder in (paths.manifests, paths.shards(1)):
        disk.make_folder(folder)


def _restore_workers(
    disk: Disk,
    tables: Tables,
    paths: StorePaths,
    copy: StoreCopy,
    after: Manifest,
    progress: Callable[[int, int], None] | None,
) -> None:
    copied = 0
    for index in range(after.workers):
        worker = WorkerIndex(index)
        folder = paths.worker(1, worker)
        temporary = folder.with_name(folder.name + ".tmp")
        path = table_folder(temporary)
        for made in (temporary, log_folder(temporary), path):
            disk.make_folder(made)
        for name, data in copy.table_files(worker):
            write_synced(disk, path / name, data)
            copied += len(data)
            if progress is not None:
                progress(copied, copy.nbytes)
        disk.sync_folder(path)
        table = tables.open(path)
        try:
            copy.bring_up(worker, table)
            _claim(path, table, after, worker)
        finally:
            table.close()
        _write_kept(disk, log_folder(temporary), after, worker, copy.kept(worker))
        seal_worker(disk, temporary, folder)


def _claim(path: Path, table: Table, after: Manifest, worker: WorkerIndex) -> None:
    """Let a table say whose it is now."""
    _, applied = read_meta(path, table)
    if applied.epoch != after.epoch:
        msg = f"the copied table holds epoch {applied.epoch}, not {after.epoch}"
        raise CorruptStoreError(path, msg)
    applied = replace(applied, generation=after.generation, fingerprint=after.fingerprint)
    rows = [
        (IDENTITY_KEY, encode_identity(identity_of(after, worker))),
        (APPLIED_KEY, encode_applied(applied)),
    ]
    table.write(rows, [])
    table.flush()


def _write_kept(
    disk: Disk, folder: Path, after: Manifest, worker: WorkerIndex, kept: Iterable[Kept]
) -> None:
    """Put the rows that sinks kept for the epoch into the log, which is where a start looks."""
    numbers = {entry.number for entry in after.steps.values()}
    rows = [one for one in kept if one.step in numbers]
    if not rows:
        disk.sync_folder(folder)
        return
    before, identity = Epoch(after.epoch - 1), identity_of(after, worker).of_log
    log = LogWriter(disk, folder, identity, after.generation, [], before)
    try:
        log.append(after.epoch, encode_parts(rows))
        log.prepare(after.epoch)
    finally:
        log.close()
