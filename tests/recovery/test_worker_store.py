"""The store of a worker goes back to exactly the epoch that the newest manifest names."""

from __future__ import annotations

import contextlib
import random
from contextlib import suppress
from pathlib import Path

import pytest

from engine.errors import EncodeError, InternalError, StoreWriteError
from engine.recovery import _changes, _log
from engine.recovery._apply import ApplyOptions
from engine.recovery._changes import KeptRows, KeyedChanges
from engine.recovery._fakes import FakeDisk, MemoryTables, SimulatedCrash
from engine.recovery._ids import Epoch
from engine.recovery._overlay import MISSING
from engine.recovery._worker_store import StoreOptions
from tests.recovery.job import COUNT, SINK, TIMED, Job, Model, check, check_clean, run_epochs

ROOT = Path("/store")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks and files, so that a few rows have several of them."""
    monkeypatch.setattr(_changes, "CHUNK_ROWS", 4)
    monkeypatch.setattr(_log, "SEGMENT_BYTES_MAX", 900)


def open_job(disk: FakeDisk, token: str = "t", **kw) -> Job:
    return Job(disk, MemoryTables(disk), ROOT, token, **kw)


def resume(disk: FakeDisk, history: dict[int, Model], acknowledged: int, token: str) -> Job:
    """Open after a crash; the state must be that of the epoch which the manifest names."""
    job = open_job(disk, token)
    epoch = job.manifest.epoch
    assert epoch in (acknowledged, acknowledged + 1)
    check(job.store, history[epoch])
    if epoch:
        assert job.store.kept_rows(SINK) == history[epoch].kept
    return job


@pytest.mark.parametrize("seed", range(60))
def test_any_crash_goes_back_to_the_manifests_epoch(seed: int, soak: bool) -> None:
    """Several lives in a row, each ended at a random operation on the disk."""
    for extra in range(20 if soak else 1):
        _many_lives(seed * 1000 + extra)


def _many_lives(seed: int) -> None:
    rng = random.Random(seed)
    disk, history, acknowledged = FakeDisk(), {0: Model()}, 0
    disk.make_folder(ROOT)
    disk.sync_folder(Path("/"))
    for life in range(8):
        disk.crash_at = disk.ops + rng.randint(1, 150)
        job = None
        try:
            job = resume(disk, history, acknowledged, f"life{life}")
            acknowledged = job.store.committed
            if rng.random() < 0.2:
                check_clean(job.store, history[acknowledged])
            run_epochs(job, rng, history, 6)
            acknowledged = job.store.committed
            job.close(apply=rng.random() < 0.5)
        except SimulatedCrash:
            if job is not None:
                acknowledged = job.store.committed
        disk = disk.after_crash(rng.randrange(1 << 30))
    job = resume(disk, history, acknowledged, "last")
    check_clean(job.store, history[job.manifest.epoch])


@pytest.mark.parametrize("seed", range(2))
def test_a_crash_at_every_single_operation(seed: int, soak: bool) -> None:
    """The same life, ended before each of its operations in turn, and once more while resuming."""
    total = _life(seed, None, 0)
    for crash_at in range(1, total + 1, 1 if soak else 3):
        for leaves in range(5 if soak else 1):
            _life(seed, crash_at, leaves)


def _life(seed: int, crash_at: int | None, leaves: int) -> int:
    rng = random.Random(seed)
    disk, history, acknowledged = FakeDisk(), {0: Model()}, 0
    disk.make_folder(ROOT)
    disk.sync_folder(Path("/"))
    disk.crash_at = crash_at
    job = None
    try:
        job = open_job(disk)
        run_epochs(job, rng, history, 5)
        job.close(apply=True)
    except SimulatedCrash:
        pass
    ops = disk.ops
    if job is not None:
        acknowledged = job.store.committed
    disk = disk.after_crash(seed + leaves)
    disk.crash_at = 1 + rng.randrange(30)
    with contextlib.suppress(SimulatedCrash):
        open_job(disk, "again").store.apply_all()
    disk = disk.after_crash(seed + leaves + 1)
    job = resume(disk, history, acknowledged, "third")
    check_clean(job.store, history[job.manifest.epoch])
    return ops


@pytest.mark.parametrize("error", [5, 28])
def test_an_error_of_the_disk_ends_the_run_with_the_last_epoch_intact(
    error: int, soak: bool
) -> None:
    """EIO and ENOSPC at any operation of a life."""
    for number in range(1, 260, 1 if soak else 5):
        rng = random.Random(number)
        disk, history = FakeDisk(), {0: Model()}
        disk.make_folder(ROOT)
        disk.sync_folder(Path("/"))
        disk.failures = {number: error}
        job = None
        with suppress(StoreWriteError):
            job = open_job(disk)
            run_epochs(job, rng, history, 5)
        acknowledged = job.store.committed if job is not None else 0
        job = resume(disk.after_crash(number), history, acknowledged, "again")
        check_clean(job.store, history[job.manifest.epoch])


def test_reads_see_what_was_appended_at_once() -> None:
    """Before it is prepared; a deleted key is missing though the table has it."""
    disk = FakeDisk()
    job = open_job(disk)
    store = job.store
    store.append(Epoch(1), [KeyedChanges(COUNT, ["a", "b"], [1, 2])])
    assert store.get_many(COUNT, ["b", "c", "a"]) == [2, MISSING, 1]
    store.prepare(Epoch(1))
    job.folder.commit(Epoch(1), {}, 0.0)
    store.commit(Epoch(1))
    store.apply_all()
    store.append(Epoch(2), [KeyedChanges(COUNT, ["a"], [[3]], deleted=["b"])])
    assert store.get_many(COUNT, ["a", "b"]) == [[3], MISSING]
    first, second = store.get_many(COUNT, ["a"]), store.get_many(COUNT, ["a"])
    assert first == second
    assert first[0] is not second[0]


def test_what_is_durable_changes_with_the_commit_alone() -> None:
    """Not when it is appended or prepared; and it is the same before it is applied and after."""
    job = open_job(FakeDisk())
    store, seen = job.store, []
    for epoch, changes in ((1, {"a": 1, "b": 2}), (2, {"a": 3})):
        gone = ["b"] if epoch == 2 else []
        for step in (
            lambda e=epoch, c=changes, g=gone: store.append(
                Epoch(e), [KeyedChanges(COUNT, [*c], [*c.values()], deleted=g)]
            ),
            lambda e=epoch: store.prepare(Epoch(e)),
            lambda e=epoch: store.commit(Epoch(e)),
            store.apply_all,
        ):
            step()
            seen.append(store.durable.get_many(COUNT, ["a", "b"]))
    none, first, second = [MISSING, MISSING], [1, 2], [3, MISSING]
    assert seen == [none, none, first, first, first, first, second, second]


def test_a_change_of_the_object_afterwards_does_not_show() -> None:
    """It is encoded when it is appended."""
    store = open_job(FakeDisk()).store
    state = [1]
    store.append(Epoch(1), [KeyedChanges(COUNT, ["a"], [state])])
    state.append(2)
    assert store.get_many(COUNT, ["a"]) == [[1]]


def test_a_key_that_changes_in_every_epoch_is_written_once() -> None:
    """Epochs that wait are merged."""
    disk = FakeDisk()
    job = open_job(disk)
    for epoch in range(1, 9):
        job.store.append(Epoch(epoch), [KeyedChanges(COUNT, ["a", "b"], [epoch, -epoch])])
        job.store.prepare(Epoch(epoch))
        job.folder.commit(Epoch(epoch), {}, 0.0)
        job.store.commit(Epoch(epoch))
    before = len(disk.trace)
    while job.store.apply_slice():
        pass
    writes = [op for op in disk.trace[before:] if op.startswith("table write")]
    # One chunk and the row that says how far the table has come.
    assert len(writes) == 2
    assert job.store.clean_through == 8
    assert job.store.get_many(COUNT, ["a", "b"]) == [8, -8]


def test_the_log_is_collected_once_the_table_is_durable() -> None:
    """But for the last epoch, whose kept rows may have to be published."""
    disk = FakeDisk()
    job = open_job(disk)
    logs = ROOT / "shards-0001" / "worker-0000" / "log"
    for epoch in range(1, 40):
        changes = KeyedChanges(COUNT, ["a"], [bytes(200)])
        job.store.append(Epoch(epoch), [changes, KeptRows(SINK, "s", [b"%d" % epoch])])
        job.store.prepare(Epoch(epoch))
        job.folder.commit(Epoch(epoch), {}, 0.0)
        job.store.commit(Epoch(epoch))
        while job.store.apply_slice():
            pass
    assert len(disk.names(logs)) < 6
    job.store.apply_all()
    assert len(disk.names(logs)) == 1
    again = open_job(disk.after_crash(0), "again")
    assert again.store.kept_rows(SINK) == {"s": [b"39"]}
    assert again.store.clean_through == 39


def test_what_was_recovered_is_flushed_too() -> None:
    """Else a job that crashes often would read more of the log each time."""
    options = StoreOptions(apply=ApplyOptions(flush_bytes=1500))
    disk = FakeDisk()
    job = open_job(disk, options=options)
    for epoch in range(1, 4):
        job.store.append(Epoch(epoch), [KeyedChanges(COUNT, ["a"], [bytes(600)])])
        job.store.prepare(Epoch(epoch))
        job.folder.commit(Epoch(epoch), {}, 0.0)
        job.store.commit(Epoch(epoch))
    disk = disk.after_crash(1)
    again = open_job(disk, "again", options=options)
    assert again.store.clean_through == 0
    while again.store.apply_slice(eager=True):
        pass
    again.store.apply_slice()
    assert "table flush table" in disk.trace


def test_an_unwritable_state_is_named_and_nothing_is_written() -> None:
    """Step, key and attribute; the store goes on."""
    job = open_job(FakeDisk())
    good, bad = KeyedChanges(COUNT, ["a"], [1]), KeyedChanges(TIMED, ["x", "y"], [1, {"f": open}])
    bad.values[1]["f"] = lambda: 1
    with pytest.raises(
        EncodeError, match=r"step 'flow.timed', key 'y'.* state\['f'\] is a `function`"
    ):
        job.store.append(Epoch(1), [good, bad])
    assert job.store.get_many(COUNT, ["a"]) == [MISSING]
    job.store.append(Epoch(1), [good])
    job.store.prepare(Epoch(1))


def test_epochs_come_one_after_the_other() -> None:
    """Anything else is the engine's own mistake."""
    store = open_job(FakeDisk()).store
    with pytest.raises(InternalError):
        store.prepare(Epoch(2))
    store.prepare(Epoch(1))
    with pytest.raises(InternalError):
        store.append(Epoch(1), [])
    with pytest.raises(InternalError):
        store.commit(Epoch(2))
    with pytest.raises(InternalError):
        store.get_many("flow.unknown", ["a"])


def test_epochs_may_overlap_while_barriers_pass() -> None:
    """Changes of the next epoch come before the last ones of this one; the newer state counts."""
    disk = FakeDisk()
    job = open_job(disk)
    store = job.store
    store.append(Epoch(2), [KeptRows(SINK, "s", [b"2"])])
    store.append(Epoch(1), [KeyedChanges(COUNT, ["a"], [1]), KeptRows(SINK, "s", [b"1"])])
    store.append(Epoch(2), [KeyedChanges(COUNT, ["a"], [2])])
    store.append(Epoch(1), [KeyedChanges(TIMED, ["a"], [1])])
    assert store.get_many(COUNT, ["a"]) == [2]
    store.prepare(Epoch(1))
    job.folder.commit(Epoch(1), {}, 0.0)
    store.commit(Epoch(1))
    job = open_job(disk.after_crash(0), "again")
    assert job.store.get_many(COUNT, ["a"]) == [1]
    assert job.store.get_many(TIMED, ["a"]) == [1]
    assert job.store.kept_rows(SINK) == {"s": [b"1"]}
    job.store.prepare(Epoch(2))
    job.folder.commit(Epoch(2), {}, 0.0)
    job.store.commit(Epoch(2))
    assert job.store.kept_rows(SINK) == {}


def test_applying_stops_when_the_time_is_up() -> None:
    """A slice at a time, by the clock that is handed in."""
    job = open_job(FakeDisk(), options=StoreOptions())
    keys = [f"k{i}" for i in range(40)]
    job.store.append(Epoch(1), [KeyedChanges(COUNT, keys, keys)])
    job.store.prepare(Epoch(1))
    job.folder.commit(Epoch(1), {}, 0.0)
    job.store.commit(Epoch(1))
    now = iter(range(100))
    assert job.store.apply_some(2, lambda: next(now), eager=True)
    assert job.store.clean_through == 0
    assert not job.store.apply_some(90, lambda: next(now), eager=True)
    assert job.store.clean_through == 1


def test_many_short_lives_leave_few_files() -> None:
    """However little each life writes, a start never has many files of the log to read."""
    disk = FakeDisk()
    logs = ROOT / "shards-0001" / "worker-0000" / "log"
    for life in range(1, 60):
        job = open_job(disk, f"t{life}", options=StoreOptions())
        assert job.store.get_many(COUNT, ["a"]) == [life - 1 or MISSING]
        job.store.append(Epoch(life), [KeyedChanges(COUNT, ["a"], [life])])
        job.store.prepare(Epoch(life))
        job.folder.commit(Epoch(life), {}, 0.0)
        job.store.commit(Epoch(life))
        while job.store.apply_slice():
            pass
        job.store.apply_slice()
        assert len(disk.names(logs)) < 20
        job.close(apply=False)
