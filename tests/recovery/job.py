"""A small job on a store, beside a model of what its state must be at the end of each epoch."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.recovery._apply import ApplyOptions
from engine.recovery._changes import KeptRows, KeyedChanges, PartitionChanges
from engine.recovery._disk import Disk
from engine.recovery._evolution import WantedStep, evolve
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._overlay import MISSING
from engine.recovery._rows import PARTITION, STATE, TIMER, step_prefix
from engine.recovery._state_view import StateView
from engine.recovery._store_folder import JobIdentity, StoreFolder
from engine.recovery._table import Tables
from engine.recovery._worker_store import StoreOptions, WorkerSpot, WorkerStore

JOB = JobIdentity("flow", "f" * 64)
COUNT, TIMED, SOURCE, SINK = "flow.count", "flow.timed", "flow.in", "flow.out"
WANTED = {
    COUNT: WantedStep("stateful"),
    TIMED: WantedStep("stateful"),
    SOURCE: WantedStep("input"),
    SINK: WantedStep("output"),
}
SMALL = StoreOptions(apply=ApplyOptions(merge_bytes=2500, flush_bytes=600, waiting_bytes_max=4000))
KEYS: list[Any] = ["a", "b", b"a", 1, -1, 2**70, ("a", 1), ("a", "1"), "\ud800", "", (), *"cdefgh"]
FAR_US = 1 << 50


@dataclass
class Model:
    """All state of the job."""

    states: dict[str, dict[Any, tuple[Any, int | None]]] = field(
        default_factory=lambda: {COUNT: {}, TIMED: {}}
    )
    parts: dict[str, dict[str, Any]] = field(default_factory=lambda: {SOURCE: {}, SINK: {}})
    kept: dict[str, list[bytes]] = field(default_factory=dict)


class Job:
    """One life of the job, on one worker, from an open to a crash or a close."""

    def __init__(
        self,
        disk: Disk,
        tables: Tables,
        root: Path,
        generation_token: str,
        options: StoreOptions = SMALL,
    ) -> None:
        self.folder = StoreFolder.open(disk, root, generation_token, create=True)
        self.folder.remove_leftovers()
        old = self.folder.manifest
        steps = evolve(old.steps if old else {}, old.next_step if old else 1, WANTED)
        self.manifest = self.folder.start_generation(JOB, steps, 1, 0.0)
        spot = WorkerSpot(disk, tables, root, WorkerIndex(0))
        try:
            self.store = WorkerStore.open(spot, self.manifest, options)
        except Exception:
            self.folder.close()
            raise

    def close(self, *, apply: bool) -> None:
        """End in an orderly way."""
        if apply:
            self.store.apply_all()
        self.store.close()
        self.folder.close()


def check(store: StateView, model: Model) -> None:
    """The store holds what the model holds, however it is read."""
    for step_id, states in model.states.items():
        rows = store.get_rows(step_id, [*KEYS, "never"])
        for key, row in zip([*KEYS, "never"], rows, strict=True):
            if key in states:
                assert row is not MISSING, (step_id, key, states[key])
                assert (row.value, row.due_us) == states[key], (step_id, key)
            else:
                assert row is MISSING, (step_id, key, row)
        assert [store.get_row(step_id, key) for key in [*KEYS, "never"]] == rows
        scanned = dict(store.scan_step(step_id))
        assert {k: (v.value, v.due_us) for k, v in scanned.items()} == states
        assert store.row_count(step_id) == len(states)
        dues = {(due, key) for key, (_, due) in states.items() if due is not None}
        assert set(store.scan_timers(step_id, FAR_US)) == dues
        some = {(due, key) for due, key in dues if 100 < due <= 700}
        assert set(store.scan_timers(step_id, 700, 100)) == some
    for step_id, parts in model.parts.items():
        assert {n: p.value for n, p in store.partitions(step_id).items()} == parts


def check_clean(store: WorkerStore, model: Model) -> None:
    """The table holds one row for each state, timer and partition, and nothing else."""
    store.apply_all()
    assert store.clean_through == store.committed
    for step_id, states in model.states.items():
        assert count_rows(store, STATE, step_id) == len(states)
        dues = [due for _, due in states.values() if due is not None]
        assert count_rows(store, TIMER, step_id) == len(dues)
    for step_id, parts in model.parts.items():
        assert count_rows(store, PARTITION, step_id) == len(parts)
    check(store, model)


def count_rows(store: WorkerStore, kind: bytes, step_id: str) -> int:
    prefix = step_prefix(kind, store.manifest.steps[step_id].number)
    return sum(1 for _ in store._table.scan(prefix, prefix + b"\xff" * 40))


def random_changes(rng: random.Random, model: Model) -> list[Any]:
    """Changes of all kinds, done to the model too."""
    changes: list[Any] = []
    for step_id in (COUNT, TIMED):
        touched = rng.sample(KEYS, rng.randint(0, len(KEYS)))
        deleted = [key for key in touched if rng.random() < 0.3]
        keys = [key for key in touched if key not in deleted]
        values = [random_value(rng) for _ in keys]
        dues = None
        if step_id == TIMED and rng.random() < 0.8:
            dues = [rng.choice([None, rng.randint(-5, 1000)]) for _ in keys]
        states = model.states[step_id]
        for i, key in enumerate(keys):
            states[key] = (deepcopy(values[i]), dues[i] if dues else None)
        for key in deleted:
            states.pop(key, None)
        changes.append(KeyedChanges(step_id, keys, values, dues, deleted))
    for step_id, parts in model.parts.items():
        values = {name: random_value(rng) for name in rng.sample("xyz", rng.randint(0, 2))}
        deleted = [name for name in rng.sample("xyz", 1) if name not in values]
        parts.update(deepcopy(values))
        for name in deleted:
            parts.pop(name, None)
        changes.append(PartitionChanges(step_id, values, deleted))
    return changes


def random_value(rng: random.Random) -> Any:
    return rng.choice(
        [
            rng.randint(0, 1 << 40),
            (rng.random(), "x"),
            {"n": [rng.random()], "t": ()},
            rng.randbytes(rng.randint(0, 30)),
            Path("own", str(rng.randint(0, 9))),
        ]
    )


def run_epochs(job: Job, rng: random.Random, history: dict[int, Model], epochs: int) -> None:
    """Some epochs with changes, reads and applying at random moments."""
    model = deepcopy(history[job.store.committed])
    store = job.store
    for _ in range(epochs):
        epoch = Epoch(store.committed + 1)
        model.kept = {}
        for _ in range(rng.randint(0, 3)):
            store.append(epoch, random_changes(rng, model))
            if rng.random() < 0.5:
                rows = [rng.randbytes(3)]
                store.append(epoch, [KeptRows(SINK, "s", rows)])
                model.kept.setdefault("s", []).extend(rows)
            if rng.random() < 0.3:
                store.apply_slice(eager=rng.random() < 0.5)
        if rng.random() < 0.3:
            check(store, model)
            check(store.durable, history[store.committed])
        history[epoch] = deepcopy(model)
        store.prepare(epoch)
        if epoch % 3 == 0:
            check(store.durable, history[store.committed])
        job.folder.commit(epoch, {SINK: {"s": epoch - 1}}, 0.0)
        store.commit(epoch)
        while rng.random() < 0.7:
            store.apply_slice(eager=rng.random() < 0.3)
        if rng.random() < 0.1:
            store.apply_all()
