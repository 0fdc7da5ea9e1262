"""Crashes at random moments change nothing about what comes out in the end."""

from __future__ import annotations

import collections
import random
from datetime import timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.clock import clock_set_to
from engine.connectors import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition
from engine.dataflow import Dataflow
from engine.runtime import plan
from engine.testing import TestingSource
from engine.testing.sim import SimOptions
from engine.testing.sim._simulation import Gang
from model_store import Fenced, World

ITEMS = [(f"k{i % 7}", i) for i in range(60)]


class Target:
    """What lies outside of the job: a file that can be cut, and a table with a marker."""

    def __init__(self) -> None:
        self.files: dict[str, list[Any]] = collections.defaultdict(list)
        self.table: list[Any] = []
        self.markers: dict[str, int] = {}


class CutSink(FixedPartitionedSink):
    def __init__(self, target: Target) -> None:
        self.target = target

    def list_parts(self):
        return ["p0", "p1"]

    def build_part(self, step_id, for_part, resume_state):
        return CutPart(self.target.files[for_part], resume_state)


class CutPart(StatefulSinkPartition):
    def __init__(self, file, at) -> None:
        self.file = file
        del file[at or 0 :]

    def write_batch(self, values) -> None:
        self.file.extend(values)

    def snapshot(self):
        return len(self.file)


class MarkedSink(DynamicSink):
    delivery = "exactly-once"

    def __init__(self, target: Target, world: World) -> None:
        self.target, self.world = target, world

    def build(self, step_id, worker_index, worker_count):
        return MarkedPart(self.target, self.world, f"{worker_index}")


class MarkedPart(StatelessSinkPartition):
    def __init__(self, target, world, shard) -> None:
        self.target, self.world, self.shard = target, world, shard
        self.open: list[bytes] = []

    def write_batch(self, items) -> None:
        self.open += [repr(item).encode() for item in items]

    def prepare(self, epoch):
        rows, self.open = self.open, []
        return rows

    def publish(self, epoch, rows) -> None:
        assert epoch <= self.world.epoch, "published before it was committed"
        assert epoch > self.target.markers.get(self.shard, 0), "published twice"
        self.target.table += [eval(row) for row in rows]
        self.target.markers[self.shard] = epoch

    def published(self):
        return self.target.markers.get(self.shard, 0)


def flow_of(target: Target, world: World) -> Dataflow:
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource(ITEMS, batch_size=3))
    counted = op.stateful_map("count", s, lambda n, v: ((n or 0) + 1, ((n or 0) + 1, v)))
    listed = op.stateful_map("list", s, lambda seen, v: ((seen or []) + [v] if v % 3 else None, v))
    collected = op.collect("collect", s, timedelta(seconds=3), 4)
    total = op.count_final("total", s, lambda kv: kv[0])
    lines = op.map("show", op.merge("m", counted, listed, collected), lambda kv: (kv[0], kv))
    op.output("files", lines, CutSink(target))
    op.output("table", op.merge("mm", counted, collected, total), MarkedSink(target, world))
    return flow


def run(seed: int, workers: int, interval_s: float, crashes: int) -> tuple[Target, int]:
    rng = random.Random(seed)
    target, world = Target(), World(workers)
    options = SimOptions(workers=workers, epoch_interval=timedelta(seconds=interval_s), step_max=timedelta(milliseconds=20))
    happened = 0
    while True:
        planned = plan(flow_of(target, world), workers)
        stores = world.begin()
        generation = world.generation
        gang = Gang(planned, rng.getrandbits(32), options, stores, lambda e, g=generation: world.link(g, e))
        with clock_set_to(gang.now):
            gang.start()
            turns = 3 + int(rng.expovariate(1 / 60)) if happened < crashes else 10**9
            while not gang.stopped and turns:
                gang.turn()
                turns -= 1
            if gang.stopped:
                return target, happened
            happened += 1


def per_key(records) -> dict[str, list[Any]]:
    found = collections.defaultdict(list)
    for record in records:
        found[record[0]].append(record)
    return found


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("interval_s", [0.0, 0.05])
def test_crashes_change_nothing(workers: int, interval_s: float) -> None:
    """State and output are those of a run without a crash, over many seeds."""
    total = 0
    for seed in range(15):
        target, happened = run(seed, workers, interval_s, crashes=4)
        total += happened
        table = collections.Counter(map(repr, target.table))
        
        counts = [r for r in target.table if isinstance(r[1], tuple)]
        assert sorted(counts) == sorted(
            (k, (n + 1, v))
            for k in {k for k, _ in ITEMS}
            for n, v in enumerate(v for kk, v in ITEMS if kk == k)
        )
        finals = {r for r in target.table if isinstance(r[1], int)}
        assert finals == {(k, n) for k, n in collections.Counter(k for k, _ in ITEMS).items()}
        collected = [v for r in target.table if isinstance(r[1], list) for v in r[1]]
        assert sorted(collected) == [v for _, v in ITEMS]
        filed = [r for part in target.files.values() for r in part]
        assert sorted(r[1] for r in filed if isinstance(r[1], int)) == [v for _, v in ITEMS]
    assert total > 5
