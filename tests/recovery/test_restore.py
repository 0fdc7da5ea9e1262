"""A store made of a savepoint: whole or none, and what becomes of its sinks."""

from __future__ import annotations

import random
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest

from engine.errors import NoPartitionsError, StoreError, StoreInUseError
from engine.recovery._admin import StorePlace, drop_step, rename_step, save
from engine.recovery._changes import KeptRows, PartitionChanges
from engine.recovery._fakes import FakeDisk, MemoryTables, SimulatedCrash
from engine.recovery._ids import Epoch
from engine.recovery._layout import StorePaths, is_store
from engine.recovery._restore import RestorePlan, SinkTies, UndecidedSinksError, restore
from engine.recovery._savepoint import SavepointCopy, savepoint_names
from engine.recovery._store_folder import StoreFolder
from engine.recovery._verify import verify
from engine.recovery._worker_files import CHECKPOINT
from tests.recovery.job import COUNT, SINK, SOURCE, Job, Model, check, run_epochs

STORE, SAVED, NEW = Path("/store"), Path("/saved"), Path("/new")
WORKER = STORE / "shards-0001" / "worker-0000"


def a_store(rows: list[bytes] | None = None) -> tuple[FakeDisk, Model]:
    """A store that a run has left after six epochs, and what is in it."""
    disk, history = FakeDisk(), {0: Model()}
    job = Job(disk, MemoryTables(disk), STORE, "t")
    run_epochs(job, random.Random(5), history, 5)
    model = deepcopy(history[5])
    changes = [PartitionChanges(SINK, {"s": 1}), *([KeptRows(SINK, "s", rows)] if rows else [])]
    model.parts[SINK]["s"], model.kept = 1, {"s": rows} if rows else {}
    job.store.append(Epoch(6), changes)
    job.store.prepare(Epoch(6))
    job.folder.commit(Epoch(6), {SINK: {"s": 5}}, 100.0)
    job.store.commit(Epoch(6))
    job.close(apply=False)
    return disk, model


def place_of(disk: FakeDisk, root: Path = STORE) -> StorePlace:
    return StorePlace(disk, MemoryTables(disk), root, "token", 200.0)


def saved(rows: list[bytes] | None = None) -> tuple[FakeDisk, Model]:
    disk, model = a_store(rows)
    save(place_of(disk), SAVED, "s")
    return disk, model


def put_back(disk: FakeDisk, plan: RestorePlan | None = None) -> None:
    plan = plan or RestorePlan("new", 300.0, "continue")
    restore(disk, MemoryTables(disk), NEW, SavepointCopy(disk, SAVED, "s"), plan)


def job_on(disk: FakeDisk, root: Path = NEW) -> Job:
    return Job(disk, MemoryTables(disk), root, "later")


def test_sinks_that_are_tied_to_their_targets_must_be_decided_on() -> None:
    """Before anything is made; others need no word."""
    disk, _ = saved([b"row"])
    assert SavepointCopy(disk, SAVED, "s").sinks == {SINK: SinkTies(marked=True, positioned=True)}
    with pytest.raises(UndecidedSinksError, match="what becomes of the output of 'flow.out'"):
        put_back(disk, RestorePlan("new", 0.0))
    with pytest.raises(StoreError, match="'flow.count' is no sink that is tied to its target"):
        put_back(disk, RestorePlan("new", 0.0, "continue", {COUNT: "continue"}))
    assert not disk.exists(NEW)
    put_back(disk, RestorePlan("new", 0.0, by_step={SINK: "continue"}))


def test_a_sink_that_continues_has_what_it_kept() -> None:
    """Rows, positions and what is known to be out; under the first store's id."""
    disk, model = saved([b"one", b"two"])
    put_back(disk)
    assert verify(disk, MemoryTables(disk), NEW).faults == []
    job = job_on(disk)
    assert job.store.kept_rows(SINK) == {"s": [b"one", b"two"]}
    check(job.store, model)
    manifest = job.manifest
    assert (manifest.store_id, manifest.took_over, manifest.job_id) == ("new", "t", "t")
    assert manifest.published == {SINK: {"s": 5}}
    # Above all generations that the first store's job will ever have.
    assert manifest.generation == 301
    job.close(apply=False)
    assert job_on(disk).store.kept_rows(SINK) == {"s": [b"one", b"two"]}


def test_a_sink_with_a_new_target_has_nothing() -> None:
    """Neither rows nor positions; all else is there, under a new id."""
    disk, model = saved([b"one"])
    put_back(disk, RestorePlan("new", 300.0, "new-target"))
    assert verify(disk, MemoryTables(disk), NEW).faults == []
    job = job_on(disk)
    model.parts[SINK] = {}
    check(job.store, model)
    assert job.store.kept_rows(SINK) == {}
    assert (job.manifest.took_over, job.manifest.job_id) == ("", "new")
    assert job.manifest.published == {}
    assert job.manifest.generation < 10
    job.store.apply_all()
    job.close(apply=True)
    assert verify(disk, MemoryTables(disk), NEW).faults == []


def test_a_second_restore_takes_over_from_the_first() -> None:
    """A store that took over may be saved and restored in turn, with the first one's markers."""
    disk, _ = saved([b"one"])
    put_back(disk)
    save(place_of(disk, NEW), SAVED, "again")
    plan = RestorePlan("newest", 400.0, "continue")
    copy = SavepointCopy(disk, SAVED, "again")
    manifest = restore(disk, MemoryTables(disk), Path("/newest"), copy, plan)
    assert (manifest.job_id, manifest.generation) == ("t", 400)


def test_a_restore_is_whole_or_none() -> None:
    """Crashed before each operation: a store with everything, or none; it can be done again."""
    crash_at, crashed, stores = 0, True, 0
    while crashed:
        crash_at += 1
        disk, model = saved([b"row"])
        disk.crash_at = disk.ops + crash_at
        with suppress(SimulatedCrash):
            put_back(disk)
            crashed = False
        disk = disk.after_crash(crash_at)
        if is_store(disk, NEW):
            stores += 1
        else:
            if disk.exists(NEW):
                with pytest.raises(NoPartitionsError):
                    StoreFolder.open(disk, NEW, "x")
            put_back(disk)
        assert verify(disk, MemoryTables(disk), NEW).faults == []
        job = job_on(disk)
        check(job.store, model)
        assert job.store.kept_rows(SINK) == {"s": [b"row"]}
        assert not disk.exists(StorePaths(NEW).restoring)
        job.close(apply=False)
        check(job_on(disk, STORE).store, model)
    assert crash_at > 30
    assert stores > 1


def test_an_unfinished_restore_is_no_store() -> None:
    """Opening it says what to do; nothing but a restore may use the folder."""
    disk, _ = saved()
    disk.crash_at = disk.ops + 12
    with pytest.raises(SimulatedCrash):
        put_back(disk)
    disk = disk.after_crash(3)
    for create in (False, True):
        with pytest.raises(NoPartitionsError, match="was not restored to the end; restore it once"):
            StoreFolder.open(disk, NEW, "x", create=create)


def test_two_restores_do_not_mix() -> None:
    """The second is refused while the first goes on."""
    disk, _ = saved()
    disk.make_folder(NEW)
    lock = disk.lock(StorePaths(NEW).lock)
    with pytest.raises(StoreInUseError):
        put_back(disk)
    lock.release()
    put_back(disk)
    with pytest.raises(NoPartitionsError, match="is not empty"):
        put_back(disk)


def test_nothing_is_saved_or_restored_before_the_first_epoch() -> None:
    """There is nothing in such a store."""
    disk = FakeDisk()
    Job(disk, MemoryTables(disk), STORE, "t").close(apply=False)
    with pytest.raises(StoreError, match="nothing to save"):
        save(place_of(disk), SAVED, None)
    assert not disk.exists(SAVED)


def test_a_savepoint_of_a_store_is_whole_or_none() -> None:
    """Crashed before each operation; the store goes on, and nothing is left behind in it."""
    crash_at, crashed, whole, left_behind = 0, True, 0, False
    while crashed:
        crash_at += 1
        disk, model = a_store([b"row"])
        disk.crash_at = disk.ops + crash_at
        with suppress(SimulatedCrash):
            save(place_of(disk), SAVED, "s")
            crashed = False
            assert disk.names(WORKER) == ["log", "table"]
        disk = disk.after_crash(crash_at)
        left_behind |= CHECKPOINT in disk.names(WORKER)
        job_on(disk, STORE).close(apply=False)
        assert disk.names(WORKER) == ["log", "table"]
        whole += bool(savepoint_names(disk, SAVED))
        if not savepoint_names(disk, SAVED):
            save(place_of(disk), SAVED, "s")
        put_back(disk)
        for root in (NEW, STORE):
            job = job_on(disk, root)
            check(job.store, model)
            assert job.store.kept_rows(SINK) == {"s": [b"row"]}
            job.close(apply=False)
    assert crash_at > 30
    assert whole > 1
    assert left_behind


@pytest.mark.parametrize("what", ["rename", "drop"])
def test_a_mended_store_is_the_old_or_the_new_one(what: str) -> None:
    """Crashed before each operation: all of the step's state under one name, or none of it."""
    crash_at, crashed, found = 0, True, set[bool]()
    while crashed:
        crash_at += 1
        disk, model = a_store()
        disk.crash_at = disk.ops + crash_at
        with suppress(SimulatedCrash):
            if what == "rename":
                rename_step(place_of(disk), SOURCE, "flow.other")
            else:
                drop_step(place_of(disk), SOURCE)
            crashed = False
        disk = disk.after_crash(crash_at)
        assert verify(disk, MemoryTables(disk), STORE).faults == []
        folder = StoreFolder.open(disk, STORE, "look")
        steps = folder.started().steps
        folder.close()
        changed = SOURCE not in steps
        found.add(changed)
        assert changed or crashed
        assert ("flow.other" in steps) == (changed and what == "rename")
        if changed:
            model.parts[SOURCE] = {}
        job = job_on(disk, STORE)
        check(job.store, model)
        job.close(apply=True)
        assert verify(disk, MemoryTables(disk), STORE).faults == []
    assert found == {True, False}
    assert crash_at > 3


def test_what_changes_a_store_fences_a_job_that_believes_it_runs() -> None:
    """On a folder without locks, as some shared ones are."""
    for change in (
        lambda place: rename_step(place, COUNT, "flow.other"),
        lambda place: drop_step(place, COUNT),
        lambda place: save(place, SAVED, "s"),
    ):
        disk = FakeDisk(locks=False)
        job = Job(disk, MemoryTables(disk), STORE, "t")
        run_epochs(job, random.Random(1), {0: Model()}, 2)
        change(place_of(disk))
        job.store.prepare(Epoch(3))
        with pytest.raises(StoreError, match="a newer generation of this job has taken over"):
            job.folder.commit(Epoch(3), {}, 0.0)
