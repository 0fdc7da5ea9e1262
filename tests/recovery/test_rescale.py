"""A store dealt to another number of workers holds the same; a crash leaves one of the two."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from engine.errors import CorruptStoreError, InconsistentPartitionsError, InternalError, StoreError
from engine.keys import key_group, owner
from engine.recovery import _changes
from engine.recovery._changes import KeptRows, KeyedChanges, PartitionChanges
from engine.recovery._disk import Disk, RealDisk
from engine.recovery._evolution import evolve
from engine.recovery._fakes import FakeDisk, MemoryTables, SimulatedCrash
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._rescale import RescalePlan, rescale
from engine.recovery._store_folder import StoreFolder
from engine.recovery._table import Tables
from engine.recovery._verify import verify
from engine.recovery._worker_store import WorkerSpot, WorkerStore
from engine.recovery.store import RocksTables
from tests.recovery.job import (
    COUNT,
    FAR_US,
    JOB,
    SINK,
    SMALL,
    SOURCE,
    TIMED,
    WANTED,
    Model,
    random_value,
)

ROOT = Path("/store")
KEYS = [*(f"k{i}" for i in range(30)), 1, b"x", ("a", 2)]


class Gang:
    """All workers of a job, opened for one generation."""

    def __init__(self, disk: Disk, tables: Tables, root: Path, workers: int | None = None) -> None:
        self.disk, self.tables = disk, tables
        self.folder = StoreFolder.open(disk, root, "token", create=True)
        self.folder.remove_leftovers()
        old = self.folder.manifest
        steps = evolve(old.steps if old else {}, old.next_step if old else 1, WANTED)
        count = old.workers if old else (workers or 1)
        self.folder.start_generation(JOB, steps, count, 0.0)
        self.stores = self.open()

    def open(self) -> list[WorkerStore]:
        manifest = self.folder.manifest
        assert manifest is not None
        return [
            WorkerStore.open(
                WorkerSpot(self.disk, self.tables, self.folder.root, WorkerIndex(i)),
                manifest,
                SMALL,
            )
            for i in range(manifest.workers)
        ]

    def rescale(self, workers: int, **options) -> None:
        plan = RescalePlan(workers, 0.0, **{"kept_rows_settled": True} | options)
        rescale(self.disk, self.tables, self.folder, self.stores, plan)
        self.stores = self.open()

    def epoch(self, rng: random.Random, model: Model) -> None:
        epoch = Epoch(self.stores[0].committed + 1)
        per_worker = [[] for _ in self.stores]
        for step_id in (COUNT, TIMED):
            touched = rng.sample(KEYS, rng.randint(0, 12))
            for key in touched:
                changes = per_worker[owner(key_group(key), len(self.stores))]
                if rng.random() < 0.3:
                    model.states[step_id].pop(key, None)
                    changes.append(KeyedChanges(step_id, deleted=[key]))
                else:
                    value = random_value(rng)
                    due = rng.randint(0, 900) if step_id == TIMED and rng.random() < 0.5 else None
                    model.states[step_id][key] = (deepcopy(value), due)
                    dues = [due] if step_id == TIMED else None
                    changes.append(KeyedChanges(step_id, [key], [value], dues))
        for step_id in (SOURCE, SINK):
            # Any worker may read a partition, and another one later.
            name, value = rng.choice("xyz"), random_value(rng)
            model.parts[step_id][name] = deepcopy(value)
            rng.choice(per_worker).append(PartitionChanges(step_id, {name: value}))
        for store, changes in zip(self.stores, per_worker, strict=True):
            store.append(epoch, changes)
            store.prepare(epoch)
        self.folder.commit(epoch, {}, 0.0)
        for store in self.stores:
            store.commit(epoch)
            while rng.random() < 0.5:
                store.apply_slice(eager=True)

    def check(self, model: Model) -> None:
        for step_id, states in model.states.items():
            found = {}
            for worker, store in enumerate(self.stores):
                for key, row in store.scan_step(step_id):
                    assert owner(key_group(key), len(self.stores)) == worker
                    assert key not in found
                    found[key] = (row.value, row.due_us)
            assert found == states
            timers = [
                timer for store in self.stores for timer in store.scan_timers(step_id, FAR_US)
            ]
            assert sorted(timers, key=repr) == sorted(
                ((due, key) for key, (_, due) in states.items() if due is not None), key=repr
            )
        for step_id, parts in model.parts.items():
            rows = [(n, p) for s in self.stores for n, p in s.partitions(step_id).items()]
            newest = {name: part.value for name, part in sorted(rows, key=lambda row: row[1].epoch)}
            assert newest == parts

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_changes, "CHUNK_ROWS", 4)


def run(rng: random.Random, gang: Gang, model: Model, epochs: int) -> None:
    for _ in range(epochs):
        gang.epoch(rng, model)


@pytest.mark.parametrize("path", [[3, 5, 1], [1, 4], [2, 2], [1, 256, 3]])
def test_state_is_the_same_on_any_number_of_workers(path: list[int], tmp_path: Path) -> None:
    """Real tables; each key with the worker that owns it, old rows gone, the store sound."""
    rng, model = random.Random(1), Model()
    if 256 in path:
        disk: Disk = FakeDisk()
        tables: Tables = MemoryTables(disk)
        root = ROOT
    else:
        disk, tables, root = RealDisk(), RocksTables(), tmp_path / "store"
    gang = Gang(disk, tables, root, path[0])
    run(rng, gang, model, 4)
    for workers in path[1:]:
        gang.close()
        gang = Gang(disk, tables, root)
        gang.rescale(workers)
        gang.check(model)
        run(rng, gang, model, 3)
        gang.check(model)
        gang.close()
        assert verify(disk, tables, root).faults == []
        gang = Gang(disk, tables, root)
        gang.check(model)
        assert disk.names(root)[-1] == f"shards-{gang.folder.manifest.shards:04d}"
        assert sum(name.startswith("shards") for name in disk.names(root)) == 1
    gang.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_crash_leaves_the_old_or_the_new(seed: int, soak: bool) -> None:
    """Before every operation of a rescale; nothing is lost and it can be done again."""
    total = _rescale_with_crash(seed, None)
    for crash_at in range(1, total + 1, 1 if soak else 3):
        _rescale_with_crash(seed, crash_at)


def _rescale_with_crash(seed: int, crash_at: int | None) -> int:
    rng, model = random.Random(seed), Model()
    disk = FakeDisk()
    disk.make_folder(ROOT)
    disk.sync_folder(Path("/"))
    first, second = rng.choice([(2, 3), (3, 1), (1, 2)])
    gang = Gang(disk, MemoryTables(disk), ROOT, first)
    run(rng, gang, model, 4)
    disk = disk.after_crash(seed)
    started = disk.ops
    disk.crash_at = crash_at
    done = False
    try:
        Gang(disk, MemoryTables(disk), ROOT).rescale(second)
        done = True
    except SimulatedCrash:
        pass
    ops = disk.ops - started
    disk = disk.after_crash(seed + 1)
    gang = Gang(disk, MemoryTables(disk), ROOT)
    assert len(gang.stores) in (first, second)
    assert not done or len(gang.stores) == second
    gang.check(model)
    if len(gang.stores) == first:
        gang.rescale(second)
        gang.check(model)
    run(rng, gang, model, 2)
    gang.check(model)
    gang.close()
    assert verify(disk, MemoryTables(disk), ROOT).faults == []
    return ops


def a_gang(workers: int = 2, epochs: int = 3) -> tuple[Gang, Model]:
    disk, model = FakeDisk(), Model()
    gang = Gang(disk, MemoryTables(disk), ROOT, workers)
    run(random.Random(5), gang, model, epochs)
    gang.close()
    return Gang(disk, MemoryTables(disk), ROOT), model


def test_progress_is_told() -> None:
    """From some to all of the rows."""
    gang, _ = a_gang()
    told: list[tuple[int, int]] = []
    gang.rescale(3, progress=lambda done, total: told.append((done, total)))
    done, total = told[-1]
    assert done == total > 0


def test_partitions_may_be_dealt_by_the_caller() -> None:
    """To the worker that will read them."""
    gang, model = a_gang()
    gang.rescale(3, partition_owner=lambda step_id, name: WorkerIndex(2))
    assert [bool(s.partitions(SOURCE)) for s in gang.stores] == [False, False, True]
    gang.check(model)


def test_kept_rows_must_be_settled_first() -> None:
    """They would be left behind; the store is as it was."""
    gang, model = a_gang()
    gang.stores[1].append(Epoch(4), [KeptRows(SINK, "s", [b"row"])])
    for store in gang.stores:
        store.prepare(Epoch(4))
    gang.folder.commit(Epoch(4), {}, 0.0)
    gang.close()
    again = Gang(gang.disk, gang.tables, ROOT)
    with pytest.raises(StoreError, match="'flow.out' has rows of epoch 4"):
        again.rescale(3, kept_rows_settled=False)
    for store in again.stores:
        store.close()
    again.folder.close()
    third = Gang(gang.disk, gang.tables, ROOT)
    third.check(model)
    third.rescale(3, kept_rows_settled=True)
    third.check(model)


def test_a_store_without_epochs_is_rescaled_too() -> None:
    """There is nothing to deal."""
    gang, model = a_gang(epochs=0)
    gang.rescale(5)
    assert len(gang.stores) == 5
    run(random.Random(2), gang, model, 2)
    gang.check(model)


def test_a_damaged_row_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And rows that don't arrive; the old folder stays in force."""
    gang, model = a_gang()
    real: Callable = gang.tables.open

    class Losing:
        create = gang.tables.create

        def open(self, folder: Path, *, read_only: bool = False):
            table = real(folder, read_only=read_only)
            if "shards-0001" not in str(folder):
                write = table.write
                table.write = lambda puts, deletes: write(
                    puts[:-1] if len(puts) > 1 else puts, deletes
                )
            return table

    with pytest.raises(CorruptStoreError, match=r"of \d+ rows that were dealt, \d+ arrived"):
        rescale(gang.disk, Losing(), gang.folder, gang.stores, RescalePlan(3, 0.0))
    gang.folder.close()
    again = Gang(gang.disk, gang.tables, ROOT)
    assert len(again.stores) == 2
    again.check(model)


def test_it_needs_a_claimed_store() -> None:
    """All workers' stores, and no epoch since the start."""
    gang, model = a_gang()
    with pytest.raises(InternalError):
        rescale(gang.disk, gang.tables, gang.folder, gang.stores[:1], RescalePlan(3, 0.0))
    run(random.Random(2), gang, model, 1)
    with pytest.raises(InternalError):
        gang.rescale(3)
    with pytest.raises(InconsistentPartitionsError):
        gang.folder.start_generation(JOB, evolve({}, 1, {}), 3, 0.0)
