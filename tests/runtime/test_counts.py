"""What a worker counts is what it does: items, batches, times, waits, states."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import (
    FixedPartitionedSource,
    Lag,
    StatefulSourcePartition,
    UnavailableError,
)
from engine.dataflow import Dataflow, Stream
from engine.errors import EngineRuntimeError
from engine.recovery import RecoveryConfig
from engine.runtime import RunOptions, Worker, WorkerSite, deal_partitions, plan, run_flow
from engine.runtime._counts import StepCounts, StepSnapshot, Tally, WorkerSnapshot
from engine.runtime._messages import Barrier, CloseEpoch
from engine.runtime._monitor import Monitor
from engine.testing import TestingSink, TestingSource
from tests.runtime.scripted import FakeTime, LogSink, ScriptedSource, Wait
from tests.runtime.test_worker import EDGE, ME, OTHER, Bench, dealt


def counted(
    build: Callable[[Stream[Any]], Stream[Any]], batches: list[Any], time: FakeTime | None = None
) -> WorkerSnapshot:
    """What one worker has counted at the end of a flow."""
    time, flow = time or FakeTime(), Dataflow("flow")
    source = ScriptedSource({"a": batches}, [], time)
    op.output("out", build(op.input("in", flow, source)), LogSink([]))
    monitor = Monitor(time.monotonic_s)
    run_flow(flow, RunOptions(clock=time, waiter=time, monitor=monitor))
    [(snapshot, _)] = monitor.workers()
    return snapshot


def items(snapshot: WorkerSnapshot) -> dict[str, tuple[int, int]]:
    """How many items each step has taken and given."""
    return {name: (step.items_in, step.items_out) for name, step in snapshot.steps.items()}


def test_items_are_counted_where_they_come_in_and_go_out():
    """Through a loop of steps, which count as one, a branch, a merge and a keyed step."""

    def build(numbers: Stream[Any]) -> Stream[Any]:
        odd = op.filter("odd", op.map("next", numbers, lambda n: n + 1), lambda n: n % 2 == 1)
        both = op.branch("small", odd, lambda n: n < 5)
        again = op.merge("again", both.trues, both.falses, both.trues)
        return op.stateful_map("n", op.key_on("key", again, str), lambda n, _: ((n or 0) + 1, n))

    assert items(counted(build, [list(range(10)), [10], []])) == {
        "flow.in": (0, 11),
        "flow.next": (11, 6),
        "flow.small": (6, 6),
        "flow.again": (8, 8),
        "flow.key": (8, 8),
        "flow.out": (8, 0),
    }


def test_what_goes_several_ways_or_comes_in_several_is_counted_by_each_step():
    """Neither reader of a stream, nor either of those that feed a step, has all of it."""

    def build(numbers: Stream[Any]) -> Stream[Any]:
        both = op.branch("small", numbers, lambda n: n < 4)
        small = op.map("minus", both.trues, lambda n: -n)
        large = op.filter("even", both.falses, lambda n: n % 2 == 0)
        return op.merge("all", small, large)

    assert items(counted(build, [list(range(10))])) == {
        "flow.in": (0, 10),
        "flow.small": (10, 10),
        "flow.minus": (4, 4),
        "flow.even": (6, 3),
        "flow.all": (7, 7),
        "flow.out": (7, 0),
    }


def test_what_a_step_gives_at_the_end_counts():
    """It goes out although nothing came in."""
    build = lambda s: op.count_final("count", s, str)  # noqa: E731
    steps = counted(build, [[1, 2], [2]]).steps
    [last] = [step for name, step in steps.items() if name.startswith("flow.count")]
    assert (last.items_in, last.items_out) == (3, 2)
    assert steps["flow.out"].items_in == 2


def test_batches_are_counted_by_their_size():
    """In classes of powers of two."""
    snapshot = counted(lambda s: op.map("same", s, lambda n: n), [[1], [1] * 2, [1] * 3, [1] * 9])
    assert snapshot.steps["flow.same"].batch_sizes == (0, 1, 2, 0, 1)
    assert snapshot.steps["flow.in"].batch_sizes == ()


def test_a_steps_time_is_its_own():
    """Not that of the steps that it hands its batch on to, which it calls for that."""
    time = FakeTime()

    def slow(seconds: float) -> Callable[[list[Any]], list[Any]]:
        def work(batch: list[Any]) -> list[Any]:
            time.now_s += seconds * len(batch)
            return batch

        return work

    def read() -> list[Any]:
        time.now_s += 4.0
        return [1, 2]

    def build(numbers: Stream[Any]) -> Stream[Any]:
        first = op.flat_map_batch("first", numbers, slow(8.0))
        return op.flat_map_batch("then", first, slow(0.25))

    snapshot = counted(build, [read, read], time)
    times = {name: step.duration_s for name, step in snapshot.steps.items()}
    assert times == {"flow.in": 8.0, "flow.first": 32.0, "flow.then": 1.0, "flow.out": 0.0}
    # 8 s and 32 s of busy time, 16 s in each of two calls: 24 bits of microseconds.
    assert snapshot.busy_s == 41.0
    assert snapshot.steps["flow.first"].durations == (*(0,) * 24, 2)


def test_waiting_is_not_being_busy():
    """The time until a source is due again belongs to nobody."""
    time = FakeTime()

    def work(number: int) -> int:
        time.now_s += 2.0
        return number

    snapshot = counted(lambda s: op.map("work", s, work), [[1], Wait(60.0), [1]], time)
    assert time.now_s >= 1_000_000_064.0
    assert snapshot.busy_s == 4.0


class Late(op.StatefulBatchLogic[Any, Any, None]):
    """Has something to say five seconds after each batch, and takes three for it."""

    def __init__(self, time: FakeTime) -> None:
        self._time = time
        self._due = None

    def on_batch(self, values: list[Any]) -> Any:
        self._due = self._time.utc() + timedelta(seconds=5)
        return [], False

    def on_notify(self) -> Any:
        self._time.now_s += 3.0
        self._due = None
        return ["late"], False

    def notify_at(self) -> Any:
        return self._due

    def snapshot(self) -> None:
        return None


def test_timers_count():
    """What they give and how long that takes."""
    time = FakeTime()

    def build(numbers: Stream[Any]) -> Stream[Any]:
        return op.stateful_batch("late", op.key_on("key", numbers, str), lambda _: Late(time))

    snapshot = counted(build, [[1], Wait(10.0), [2], Wait(10.0)], time)
    late = snapshot.steps["flow.late"]
    assert (late.items_in, late.items_out, late.duration_s) == (2, 2, 6.0)


def test_of_many_calls_only_the_first_are_timed_until_the_next_snapshot():
    """Counting goes on; a call inside another is timed with it or not at all."""
    time = FakeTime()
    tally = Tally(time.monotonic_s)
    outer, inner = tally.step("outer"), tally.step("inner")

    def work(_: list[Any]) -> None:
        time.now_s += 1.0

    push = outer.incoming(inner.incoming(work))
    for _ in range(3000):
        push([1])
    steps = tally.steps({})
    assert [step.items_in for step in steps.values()] == [3000, 3000]
    assert [sum(step.durations) for step in steps.values()] == [500, 500]
    assert [step.duration_s for step in steps.values()] == [0.0, 500.0]
    push([1])
    assert tally.steps({})["inner"].duration_s == 501.0


def test_timing_ends_between_calls_and_never_inside_of_one():
    """A step would else be charged with what those after it take."""
    time = FakeTime()
    tally = Tally(time.monotonic_s)
    outer, *inner = (tally.step(name) for name in ("outer", "one", "other"))

    def work(_: list[Any]) -> None:
        time.now_s += 1.0

    one, other = (step.incoming(work) for step in inner)

    def to_both(batch: list[Any]) -> None:
        one(batch)
        other(batch)

    push = outer.incoming(to_both)
    for _ in range(1000):
        push([1])
    steps = tally.steps({})
    assert [sum(step.durations) for step in steps.values()] == [334] * 3
    assert [step.duration_s for step in steps.values()] == [0.0, 334.0, 334.0]


def test_backpressure_is_the_time_from_a_full_way_out_to_the_next_poll():
    """Up to now, if it still is full."""
    bench = Bench({"a": [[1, 2]] * 9}, credit=1, counting=True)
    worker = bench.worker
    worker.step()
    bench.time.now_s += 1.0
    worker.step()  # The way out is found to be full.
    bench.time.now_s += 5.0
    assert worker.snapshot().steps["flow.in"].held_s == 5.0
    assert worker.snapshot().backlog
    worker.credit(EDGE, OTHER)
    bench.time.now_s += 2.0
    worker.step()
    bench.time.now_s += 9.0
    assert worker.snapshot().steps["flow.in"].held_s == 7.0
    assert not worker.snapshot().steps["flow.in"].held


def test_a_step_in_the_middle_is_held_up_too():
    """What waits before it can't go on while what it gives has nowhere to go."""

    def twice(stream: Stream[Any]) -> Stream[Any]:
        return op.redistribute("again", op.map("same", dealt(stream), lambda x: x))

    bench = Bench({"a": [Wait(60)]}, twice, credit=1, counting=True)
    worker = bench.worker
    for number in range(3):
        worker.receive(EDGE, OTHER, [number, number])
    worker.step()
    bench.time.now_s += 6.0
    held = {name: step.held_s for name, step in worker.snapshot().steps.items() if step.held}
    assert list(held.values()) == [6.0]
    assert worker.snapshot().steps["flow.deal"].queued == 2


def test_what_waits_in_channels_is_counted_per_step():
    """Batches and barriers; where nothing can wait there is no number."""
    bench = Bench({"a": []}, counting=True)
    bench.worker.receive(EDGE, OTHER, [1])
    bench.worker.receive(EDGE, OTHER, [2])
    steps = bench.worker.snapshot().steps
    assert steps["flow.in"].queued is None
    assert steps["flow.deal"].queued == 2
    assert bench.worker.snapshot().backlog


def test_alignment_is_the_time_between_the_first_barrier_and_the_last():
    """Of a stage that has barriers to wait for."""
    bench = Bench({"a": [Wait(60)]}, counting=True)
    worker = bench.worker
    worker.command(CloseEpoch(worker.snapshot().epoch, final=False))
    worker.step()
    worker.step()  # Takes its own barrier.
    bench.time.now_s += 3.0
    worker.step()
    assert worker.snapshot().steps["flow.deal"].aligning_s == 3.0
    worker.receive(EDGE, OTHER, Barrier(worker.snapshot().epoch))
    for _ in range(3):
        worker.step()
    bench.time.now_s += 9.0
    assert worker.snapshot().steps["flow.deal"].aligning_s == 3.0
    assert worker.snapshot().epoch == 2


@pytest.mark.parametrize("saved", [False, True])
def test_states_in_memory_are_counted(saved: bool, tmp_path: Path):
    """By the id of their own step, with a store or without one."""
    flow, out = Dataflow("flow"), []
    keyed = op.key_on("key", op.input("in", flow, TestingSource(range(100))), lambda n: str(n % 10))
    lists = op.stateful_map("list", keyed, lambda s, n: ([*(s or []), n], n))
    op.output("out", lists, TestingSink(out))
    monitor = Monitor(FakeTime().monotonic_s)
    config = RecoveryConfig(tmp_path, create=True) if saved else None
    run_flow(flow, RunOptions(recovery=config, monitor=monitor))
    [(snapshot, _)] = monitor.workers()
    [(step_id, state)] = snapshot.states.items()
    assert (step_id, state.keys) == ("flow.list", 10)
    assert 10 * 100 < state.nbytes < 10 * 2000


def test_workers_in_threads_count_for_themselves():
    """Together they have counted all of the input."""
    flow, out = Dataflow("flow"), []
    keyed = op.key_on("key", op.input("in", flow, TestingSource(range(5000), 100)), str)
    op.output("out", op.stateful_map("n", keyed, lambda _, n: (1, n)), TestingSink(out))
    monitor = Monitor(FakeTime().monotonic_s)
    run_flow(flow, RunOptions(workers=3, monitor=monitor))
    snapshots = [snapshot for snapshot, _ in monitor.workers()]
    assert [snapshot.worker for snapshot in snapshots] == [0, 1, 2]
    for name in ("flow.n", "flow.out"):
        taken = [snapshot.steps[name].items_in for snapshot in snapshots]
        assert sum(taken) == 5000
        assert all(taken)
    assert sum(snapshot.states["flow.n"].keys for snapshot in snapshots) == 5000


def test_workers_in_threads_are_not_busy_while_they_wait(monkeypatch: pytest.MonkeyPatch):
    """The wait of each is one that its tally knows of."""
    waiting, waits = Tally.waiting, []

    def noted(tally: Tally, wait: Callable[[float], None]) -> Callable[[float], None]:
        waits.append(wait)
        return waiting(tally, wait)

    monkeypatch.setattr(Tally, "waiting", noted)
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource([1])), TestingSink([]))
    run_flow(flow, RunOptions(workers=2, monitor=Monitor(FakeTime().monotonic_s)))
    assert len(waits) == 2


class Behind(StatefulSourcePartition[int, int]):
    """A partition that says how far behind it is."""

    def __init__(self, left: int, lag: Callable[[int], Any]) -> None:
        self.left, self._lag = left, lag

    def next_batch(self) -> list[int]:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return [self.left]

    def snapshot(self) -> int:
        return self.left

    def lag(self) -> Any:
        return self._lag(self.left)


class Backlog(FixedPartitionedSource[int, int]):
    """Partitions with so much to read."""

    def __init__(self, **parts: Callable[[int], Any]) -> None:
        self.parts = parts

    def list_parts(self) -> list[str]:
        return list(self.parts)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Behind:
        return Behind(2, self.parts[for_part])


def lags(source: Any, workers: int = 1) -> dict[str, list[Lag]]:
    """All that a monitor hears of the lag of each partition."""
    heard: dict[str, list[Lag]] = {}
    time, flow = FakeTime(), Dataflow("flow")

    class Listening(Monitor):
        def counted(self, snapshot: WorkerSnapshot) -> None:
            for name, lag in snapshot.lags.get("flow.in", {}).items():
                heard.setdefault(name, []).append(lag)

    op.output("out", op.input("in", flow, source), TestingSink([]))
    run_flow(flow, RunOptions(workers=workers, monitor=Listening(time.monotonic_s)))
    return heard


@pytest.mark.parametrize("workers", [1, 3])
def test_partitions_say_how_far_behind_they_are(workers: int):
    """At the start and at the end, those that know."""
    source = Backlog(
        a=lambda left: Lag(left, None), b=lambda left: None, c=lambda left: Lag(1, 0.5)
    )
    heard = lags(source, workers)
    assert heard.keys() == {"a", "c"}
    assert heard["a"][-1] == Lag(0, None)
    assert heard["c"][-1] == Lag(1, 0.5)
    assert workers > 1 or heard["a"][0] == Lag(2, None)


def test_partitions_that_are_not_open_have_no_lag():
    """They come to have one."""
    failures = [UnavailableError("not yet")]

    class Late(Backlog):
        def build_part(self, *about: Any) -> Behind:
            if failures:
                raise failures.pop()
            return super().build_part(*about)

    assert lags(Late(a=lambda left: Lag(left, None))) == {"a": [Lag(0, None)]}


def test_what_is_no_lag_is_refused():
    """By the name of step and partition."""
    with pytest.raises(
        EngineRuntimeError, match=r"`lag` of partition 'a' must .*; got 5"
    ) as caught:
        lags(Backlog(a=lambda left: 5))
    assert caught.value.step_id == "flow.in"


def test_without_metrics_nobody_asks_how_far_behind_it_is():
    """Not even once."""
    flow = Dataflow("flow")
    source = Backlog(a=lambda left: pytest.fail("it was asked"))
    op.output("out", op.input("in", flow, source), TestingSink([]))
    run_flow(flow)


def test_without_metrics_nothing_is_in_the_way_of_a_batch():
    """A sink's own method is what the step before it calls."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource([1])), TestingSink([]))
    planned, time = plan(flow), FakeTime()

    def pushed_to(tally: Tally | None) -> Any:
        site = WorkerSite(ME, 1, time, None, 8, tally=tally)
        worker = Worker(planned, deal_partitions(planned), site)
        [stage] = worker.stages
        [(source, _)] = stage.sources
        [sink] = stage.sinks
        [reader] = source._readers
        return reader.push == sink.push, source.counts

    assert pushed_to(None) == (True, None)
    own, counts = pushed_to(Tally(time.monotonic_s))
    assert not own
    assert isinstance(counts, StepCounts)
    assert counts.snapshot(None) == StepSnapshot()
    assert math.isclose(counts.snapshot(None).held_s, 0.0)
