"""A job that is crashed at random turns, and what it must come to all the same.

Its targets lie outside of it and survive: files that a sink cuts back to its last position, and a
table with a marker per shard, which a sink writes only what is committed to.
"""

from __future__ import annotations

import collections
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import engine.operators as op
from engine.clock import clock_set_to
from engine.connectors import (
    DynamicSink,
    FixedPartitionedSink,
    SinkSession,
    StatefulSinkPartition,
    StatelessSinkPartition,
)
from engine.dataflow import Dataflow
from engine.runtime import plan
from engine.testing import TestingSource
from engine.testing.sim import SimOptions
from engine.testing.sim._simulation import Gang
from tests.sim.model_store import World

ITEMS = [(f"k{i % 7}", i) for i in range(60)]


@dataclass
class Target:
    """What lies outside of the job."""

    files: dict[str, list[Any]] = field(default_factory=lambda: collections.defaultdict(list))
    table: list[Any] = field(default_factory=list)
    markers: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Generation and epoch by step and shard."""


class CutSink(FixedPartitionedSink[Any, int]):
    """Files that are cut back to where the last committed epoch left them."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def list_parts(self) -> list[str]:
        return ["p0", "p1"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None):
        return CutPart(self._target.files[for_part], resume_state)


class CutPart(StatefulSinkPartition[Any, int]):
    def __init__(self, file: list[Any], at: int | None) -> None:
        self._file = file
        del file[at or 0 :]

    def write_batch(self, values: list[Any]) -> None:
        self._file.extend(values)

    def snapshot(self) -> int:
        return len(self._file)


class MarkedSink(DynamicSink[Any]):
    """A table that gets the rows of an epoch together with the epoch's number."""

    delivery = "exactly-once"

    def __init__(self, target: Target, world: World) -> None:
        self._target, self._world = target, world

    def build(self, step_id: str, worker_index: int, worker_count: int):
        return MarkedPart(self._target, self._world)


class MarkedPart(StatelessSinkPartition[Any]):
    def __init__(self, target: Target, world: World) -> None:
        self._target, self._world = target, world
        self._open: list[bytes] = []
        self._shard = ("", "")
        self._generation = 0

    def begin(self, session: SinkSession) -> None:
        self._shard = (session.step_id, session.shard)
        self._generation = session.generation
        generation, epoch = self._target.markers.get(self._shard, (0, 0))
        assert session.generation >= generation
        self._target.markers[self._shard] = (session.generation, epoch)

    def write_batch(self, items: list[Any]) -> None:
        self._open += [repr(item).encode() for item in items]

    def prepare(self, epoch: int) -> list[bytes]:
        rows, self._open = self._open, []
        return rows

    def publish(self, epoch: int, rows: list[bytes]) -> None:
        generation, out = self._target.markers[self._shard]
        assert generation == self._generation, "published by a run that was fenced"
        assert epoch <= self._world.epoch, "published before it was committed"
        assert epoch > out, "published twice"
        self._target.table += [eval(row) for row in rows]
        self._target.markers[self._shard] = (generation, epoch)

    def published(self) -> int:
        return self._target.markers[self._shard][1]


def flow_of(target: Target, world: World) -> Dataflow:
    """Every kind of keyed step, into both kinds of sinks."""
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource(ITEMS, batch_size=3))
    counted = op.stateful_map("count", s, lambda n, v: ((n or 0) + 1, ((n or 0) + 1, v)))
    dropped = op.stateful_map("list", s, lambda seen, v: ([*(seen or []), v] if v % 3 else None, v))
    collected = op.collect("collect", s, timedelta(seconds=3), 4)
    joined = op.join("join", s, op.map_value("twice", s, lambda v: v * 2), emit_mode="running")
    total = op.count_final("total", s, lambda kv: kv[0])
    lines = op.map("show", op.merge("m", counted, dropped, joined), lambda kv: (kv[0], kv))
    op.output("files", lines, CutSink(target))
    op.output("table", op.merge("mm", counted, collected, total), MarkedSink(target, world))
    return flow


@dataclass(frozen=True)
class Job:
    """How to run and crash it."""

    workers: int
    interval_s: float
    crashes: int = 4
    turns_mean: int = 60


def run(seed: int, job: Job) -> tuple[Target, int]:
    """Run the job to its end through crashes; gives its targets and how often it crashed."""
    rng = random.Random(seed)
    target, world = Target(), World(job.workers)
    options = SimOptions(
        workers=job.workers,
        epoch_interval=timedelta(seconds=job.interval_s),
        step_max=timedelta(milliseconds=20),
    )
    crashes = 0
    while True:
        stores = world.begin()
        planned = plan(flow_of(target, world), job.workers)
        gang = Gang(planned, rng.getrandbits(32), options, stores, world.linker())
        turns = int(rng.expovariate(1 / job.turns_mean)) + 3 if crashes < job.crashes else 10**6
        with clock_set_to(gang.now):
            gang.start()
            while not gang.stopped and turns:
                gang.turn()
                turns -= 1
        if gang.stopped:
            return target, crashes
        assert crashes < job.crashes, "it does not come to its end"
        crashes += 1


def check(target: Target) -> None:
    """Nothing is lost, nothing came twice, and each key's records came in their order."""
    numbered = collections.defaultdict(list)
    for key, value in ITEMS:
        numbered[key].append((len(numbered[key]) + 1, value))
    table = collections.defaultdict(list)
    for key, value in target.table:
        table[key].append(value)
    for key, wanted in numbered.items():
        assert [v for v in table[key] if isinstance(v, tuple)] == wanted
        assert [v for v in table[key] if isinstance(v, int)] == [len(wanted)]
        collected = [item for v in table[key] if isinstance(v, list) for item in v]
        assert collected == [value for _, value in wanted]
    filed = [record for file in target.files.values() for record in file]
    for key, wanted in numbered.items():
        mine = [value for its_key, value in filed if its_key == key]
        assert [v for v in mine if isinstance(v, int)] == [value for _, value in wanted]
        assert [v for v in mine if isinstance(v, tuple) and v in wanted] != []
        joined = [v for v in mine if isinstance(v, tuple) and v not in wanted]
        assert joined[-1] == (wanted[-1][1], wanted[-1][1] * 2)
