"""One of two workers by itself: what it does in a round, and when it waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, Stream
from engine.errors import InternalError
from engine.runtime import Worker, WorkerIndex, WorkerSite, deal_partitions, plan
from engine.runtime._counts import Tally
from engine.runtime._ids import EdgeId, Epoch
from engine.runtime._messages import (
    END,
    Barrier,
    CloseEpoch,
    CommitEpoch,
    Prepared,
    Published,
    Stop,
)
from tests.runtime.scripted import FakeTime, Log, LogSink, ScriptedSource
from tests.runtime.test_channels import Wire

ME, OTHER = WorkerIndex(0), WorkerIndex(1)
EDGE = EdgeId(0)


def dealt(stream: Stream[Any]) -> Stream[Any]:
    return op.redistribute("deal", stream)


class Bench:
    """Worker 0 of a flow of two, with what it sends, says and waits for."""

    def __init__(
        self,
        scripts: dict[str, list[Any]],
        build: Callable[[Stream[Any]], Stream[Any]] = dealt,
        *,
        credit: int = 2,
        counting: bool = False,
    ) -> None:
        self.log: Log = []
        self.wire = Wire()
        self.time = FakeTime()
        flow = Dataflow("flow")
        # Partitions are dealt in turn, so that every other one is ours.
        ours = {f"{name}{i}": script for name, script in scripts.items() for i in (0, 1)}
        source = ScriptedSource(ours, self.log, self.time)
        op.output("out", build(op.input("in", flow, source)), LogSink(self.log))
        planned = plan(flow, 2)
        tally = Tally(self.time.monotonic_s) if counting else None
        site = WorkerSite(ME, 2, self.time, self.wire, credit, tally=tally)
        self.worker = Worker(planned, deal_partitions(planned), site)

    def called(self, *names: str) -> list[Any]:
        """The calls of these names."""
        return [entry for entry in self.log if entry[0] in names]

    def sent(self) -> list[Any]:
        """What went to the other worker."""
        return [item for _, _, receiver, item in self.wire.sent if receiver == OTHER]


def test_a_source_is_polled_only_while_there_is_room():
    """One batch at a time, however many partitions it has, until the other worker takes some."""
    bench = Bench({name: [[name] * 2] * 9 for name in "abc"}, credit=2)
    for _ in range(10):
        bench.worker.step()
    assert bench.sent() == [["a"], ["b"]]
    assert bench.worker.step() == math.inf
    bench.worker.credit(EDGE, OTHER)
    bench.worker.step()
    assert bench.sent() == [["a"], ["b"], ["c"]]


class Due(op.StatefulBatchLogic[Any, Any, None]):
    """Notified at once, for ever."""

    def on_batch(self, values: list[Any]) -> Any:
        return [], False

    def on_notify(self) -> Any:
        return ["due"], False

    def notify_at(self) -> Any:
        return datetime(2000, 1, 1, tzinfo=UTC)

    def snapshot(self) -> None:
        return None


def ticking(stream: Stream[Any]) -> Stream[Any]:
    """A step with timers, and an exchange behind it."""
    return dealt(op.stateful_batch("tick", stream, lambda _resume: Due()))


def test_a_timer_waits_for_room_without_spinning():
    """There is nothing to do until credit comes back."""
    bench = Bench({}, ticking, credit=1)
    bench.worker.receive(EDGE, OTHER, [("k", 1)])
    waits = [bench.worker.step() for _ in range(8)]
    assert len(bench.sent()) + len(bench.called("write")) <= 4
    assert waits[-1] == math.inf
    assert not list(bench.worker.actions())


def test_nothing_is_emitted_after_the_last_barrier():
    """Neither by sources nor by timers: it would be part of no epoch."""
    bench = Bench({"a": [["x"]] * 9}, ticking, credit=100)
    worker = bench.worker
    worker.receive(EDGE, OTHER, [("k", 1)])
    worker.command(CloseEpoch(Epoch(1), final=True))
    for edge in (EDGE, EdgeId(1)):
        worker.receive(edge, OTHER, Barrier(Epoch(1)))
    for _ in range(10):
        worker.step()
    assert list(worker.reports) == [Prepared(Epoch(1))]
    assert bench.called("poll", "write") == []
    assert bench.sent() == [Barrier(Epoch(1))] * 2
    assert worker.next_event_s() == math.inf


def test_an_epoch_is_prepared_when_all_stages_have_passed():
    """The worker's own channels and the other's count alike."""
    bench = Bench({"a": [["x", "y"]]})
    worker = bench.worker
    worker.step()
    worker.command(CloseEpoch(Epoch(1), final=False))
    for _ in range(5):
        worker.step()
    assert not worker.reports
    worker.receive(EDGE, OTHER, ["z"])
    worker.receive(EDGE, OTHER, Barrier(Epoch(1)))
    for _ in range(5):
        worker.step()
    assert list(worker.reports) == [Prepared(Epoch(1))]
    assert bench.called("write", "flush", "prepare") == [
        ("write", "sink", "x"), ("write", "sink", "z"), ("flush", "sink"), ("prepare", "sink", 1)
    ]  # fmt: skip
    worker.reports.clear()
    worker.command(CommitEpoch(Epoch(1)))
    worker.step()
    assert list(worker.reports) == [Published(Epoch(1))]


def test_sources_without_a_partition_send_barriers_and_ends():
    """A worker that has nothing to read takes part in every epoch."""
    bench = Bench({})
    worker = bench.worker
    worker.step()
    worker.command(CloseEpoch(Epoch(1), final=False))
    worker.step()
    assert bench.sent() == [END, Barrier(Epoch(1))]


def test_an_epoch_out_of_turn_is_an_internal_error():
    """The coordinator and the worker no longer agree."""
    bench = Bench({})
    bench.worker.command(CloseEpoch(Epoch(2), final=False))
    with pytest.raises(InternalError, match="worker 0 is in epoch 1 and told to close 2"):
        bench.worker.step()


def test_a_round_is_bounded():
    """However much has come in, sources and control messages get their turn."""
    bench = Bench({"a": [["x", "y"]] * 3}, credit=100)
    for number in range(100):
        bench.worker.receive(EDGE, OTHER, [number])
    assert bench.worker.step() == 0.0
    assert len(bench.called("write")) < 50
    assert len(bench.called("poll")) == 1


def test_the_most_downstream_stage_goes_first():
    """What is nearly done is finished before more is begun."""
    bench = Bench({}, lambda s: dealt(op.map("map", op.redistribute("first", s), str)))
    bench.worker.receive(EDGE, OTHER, [1])
    bench.worker.receive(EdgeId(1), OTHER, ["2"])
    bench.worker.step()
    assert bench.called("write") == [("write", "sink", "2")]
    bench.worker.step()
    assert bench.called("write")[1:] == [("write", "sink", "1")]


def test_a_stopped_worker_does_nothing_more():
    """Whatever still comes."""
    bench = Bench({"a": [["x"]]})
    bench.worker.command(Stop())
    assert bench.worker.step() == 0.0
    assert bench.worker.stopped
    assert not list(bench.worker.actions())
    assert bench.worker.next_event_s() == math.inf
