"""What is left when a process was killed, paused, or was not alone: found by the simulator."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from engine.errors import FencedError, StoreError
from engine.recovery._changes import KeyedChanges
from engine.recovery._evolution import evolve
from engine.recovery._fakes import FakeDisk, MemoryTables, SimulatedCrash
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._layout import StorePaths, create_store, read_store_id
from engine.recovery._manifest import Manifest
from engine.recovery._store_folder import StoreFolder
from engine.recovery._worker_store import WorkerSpot, WorkerStore
from tests.recovery.job import COUNT, JOB, WANTED

ROOT = Path("/a/store")
WORKER = StorePaths(ROOT).worker(1, WorkerIndex(0))


class Process:
    """One that has a store of one worker open."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.folder = StoreFolder.open(disk, ROOT, f"token{id(self)}", create=True)
        old = self.folder.manifest
        steps = evolve(old.steps if old else {}, old.next_step if old else 1, WANTED)
        self.manifest = self.folder.start_generation(JOB, steps, 1, 0.0)

    def open(self) -> WorkerStore:
        return open_worker(self.disk, self.manifest)

    def commit(self, store: WorkerStore) -> None:
        epoch = Epoch(store.committed + 1)
        store.append(epoch, [KeyedChanges(COUNT, ["a"], [epoch])])
        store.prepare(epoch)
        self.folder.commit(epoch, {}, 0.0)
        store.commit(epoch)


def open_worker(disk: FakeDisk, manifest: Manifest) -> WorkerStore:
    return WorkerStore.open(WorkerSpot(disk, MemoryTables(disk), ROOT, WorkerIndex(0)), manifest)


def operations() -> int:
    """How many operations of the disk it takes to make a store."""
    disk = FakeDisk()
    Process(disk).open()
    return disk.ops


@pytest.mark.parametrize("seed", range(5))
def test_what_a_killed_process_made_is_safe_before_it_is_built_on(seed: int) -> None:
    """A process is killed, the next one goes on with names it finds, and then the power fails."""
    for crash_at in range(1, operations() + 1):
        disk = FakeDisk()
        disk.crash_at = crash_at
        with pytest.raises(SimulatedCrash):
            Process(disk).open()
        disk = disk.after_crash(seed, power=False)
        second = Process(disk)
        second.commit(second.open())
        third = Process(disk.after_crash(seed))
        assert third.manifest.epoch == 1, crash_at
        assert third.open().get_many(COUNT, ["a"]) == [1]


def test_an_older_generation_deletes_no_newer_log() -> None:
    """One that is paused before it opens its part, while a newer one runs and dies."""
    disk = FakeDisk()
    first = Process(disk)
    first.commit(first.open())
    old = Process(disk.shared())
    new = Process(disk.shared())
    store = new.open()
    store.append(Epoch(2), [KeyedChanges(COUNT, ["a"], [2])])
    store.prepare(Epoch(2))
    new.folder.commit(Epoch(2), {}, 0.0)
    new.disk.kill(Random(1))
    with pytest.raises(FencedError, match="is written by generation 3 of the job, and this is"):
        old.open()
    assert Process(disk.shared()).open().get_many(COUNT, ["a"]) == [2]


def test_an_older_generation_writes_no_newer_table() -> None:
    """One that is paused amid opening its part, while a newer one runs to its end."""
    disk = FakeDisk()
    first = Process(disk)
    first.commit(first.open())
    old = Process(disk.shared())

    def run_a_newer_one(what: str, path: Path) -> None:
        if what == "fsync" and path.name == "log":
            old.disk.before_op = None
            new = Process(disk.shared())
            store = new.open()
            new.commit(store)
            store.apply_all()
            store.close()

    old.disk.before_op = run_a_newer_one
    with pytest.raises(FencedError, match="has been used by generation 3 of the job"):
        old.open()
    assert Process(disk.shared()).open().get_many(COUNT, ["a"]) == [2]


def test_of_two_processes_at_once_one_makes_the_store() -> None:
    """Whenever the second begins; the other finds a store of one id, or gives up."""
    made = FakeDisk()
    create_store(made, ROOT, "first")
    for op in range(1, made.ops + 1):
        disk = FakeDisk()

        def make_it_too(_what: str, _path: Path, disk: FakeDisk = disk, op: int = op) -> None:
            if disk.ops + 1 == op:
                disk.before_op = None
                create_store(disk.shared(), ROOT, "second")

        disk.before_op = make_it_too
        create_store(disk, ROOT, "first")
        assert read_store_id(disk, ROOT) in {"first", "second"}
        folder = StoreFolder.open(disk, ROOT, "third")
        folder.remove_leftovers()
        assert disk.names(ROOT) == ["FORMAT", "manifests"]


def test_of_two_processes_at_once_one_makes_a_workers_store() -> None:
    """Without locks; whichever, it is whole."""
    whole = operations()
    for op in range(1, whole + 1):
        disk = FakeDisk()

        def make_it_too(_what: str, _path: Path, disk: FakeDisk = disk, op: int = op) -> None:
            if disk.ops + 1 == op:
                disk.before_op = None
                Process(disk.shared()).open()

        disk.before_op = make_it_too
        with suppress(StoreError):
            Process(disk).open()
        third = Process(disk.shared())
        third.commit(third.open())
        assert Process(disk.shared()).manifest.epoch == 1
