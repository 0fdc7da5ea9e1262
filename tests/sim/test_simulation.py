"""The simulator itself: what it promises to those who test with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.clock import utc_now
from engine.connectors import (
    PENDING,
    DynamicSink,
    Pending,
    SimplePollingSource,
    StatelessSinkPartition,
)
from engine.dataflow import Dataflow, Stream
from engine.errors import EngineRuntimeError, FlowError
from engine.testing import TestingSink, TestingSource
from engine.testing.sim import SimOptions, SimulationError, simulate


def flow_of(
    source: Any, sink: DynamicSink[Any], build: Callable[[Stream[Any]], Stream[Any]] = lambda s: s
) -> Dataflow:
    """A source, what `build` makes of its stream, a sink."""
    flow = Dataflow("simulated")
    op.output("out", build(op.input("in", flow, source)), sink)
    return flow


def spread(stream: Stream[int]) -> Stream[Any]:
    """Something with two exchanges."""
    dealt = op.redistribute("deal", stream)
    keyed = op.key_on("key", dealt, lambda x: str(x % 5))
    return op.stateful_map("sum", keyed, lambda total, x: ((total or 0) + x, x))


def trace(seed: int, workers: int = 3) -> tuple[list[Any], Any]:
    """What came out, in its order, and what the simulation says of itself."""
    out: list[Any] = []
    flow = flow_of(TestingSource(range(40), batch_size=3), TestingSink(out), spread)
    return out, simulate(flow, seed, SimOptions(workers=workers))


def test_a_seed_replays_the_same_run():
    """Same order of outputs, same number of steps, same simulated time."""
    assert trace(5) == trace(5)


def test_seeds_draw_different_schedules():
    """Other seeds give other orders of the same records."""
    orders = [trace(seed)[0] for seed in range(5)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_time_jumps_over_pauses():
    """An hour's pause is over at once, and the clock of connectors and operators knows of it."""
    seen: list[datetime] = []
    items = [1, TestingSource.PAUSE(timedelta(hours=1)), 2]
    flow = flow_of(
        TestingSource(items),
        TestingSink([]),
        lambda s: op.inspect("time", s, lambda _id, _x: seen.append(utc_now())),
    )
    result = simulate(flow, 0)
    hour = timedelta(hours=1)
    assert hour <= result.elapsed < hour + timedelta(seconds=1)
    assert hour <= seen[1] - seen[0] < hour + timedelta(seconds=1)
    assert seen[0] - datetime(2024, 1, 1, tzinfo=UTC) < timedelta(seconds=1)


class _Ticks(SimplePollingSource[datetime, None]):
    def __init__(self) -> None:
        super().__init__(timedelta(minutes=10), align_to=datetime(2024, 1, 1, tzinfo=UTC))
        self._left = 3

    def next_item(self) -> datetime:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return utc_now()


def test_sources_are_opened_in_simulated_time():
    """A source that reckons with the time from its start on sees no other time than the run's."""
    out: list[datetime] = []
    start = datetime(2024, 1, 1, 0, 5, tzinfo=UTC)
    simulate(flow_of(_Ticks(), TestingSink(out)), 0, SimOptions(start=start))
    assert [(moment.hour, moment.minute) for moment in out] == [(0, 10), (0, 20), (0, 30)]


class _Reluctant(DynamicSink[Any], StatelessSinkPartition[Any]):
    """A sink whose flush is pending as long as `ready` says no."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self.closed = False

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Reluctant:
        return self

    def write_batch(self, items: list[Any]) -> None:
        pass

    def flush(self) -> Pending | None:
        return None if self._ready() else PENDING

    def close(self) -> None:
        self.closed = True


def test_a_sink_that_is_never_ready_is_noticed():
    """A run that doesn't end is given up after a number of steps, its connectors closed."""
    sink = _Reluctant(lambda: False)
    flow = flow_of(TestingSource([1]), sink)
    with pytest.raises(SimulationError, match=r"seed 3 did not end in 500 steps; epoch 1 is CLOSI"):
        simulate(flow, 3, SimOptions(steps_max=500))
    assert sink.closed


def test_a_sink_may_wait_for_time_to_pass():
    """Time goes on while a sink is pending."""
    ready_at = datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC)
    sink = _Reluctant(lambda: utc_now() >= ready_at)
    options = SimOptions(step_max=timedelta(0))
    result = simulate(flow_of(TestingSource([1]), sink), 0, options)
    assert result.elapsed >= timedelta(seconds=1)


class _SlowToPublish(_Reluctant):
    """A sink whose publishing is pending as long as `ready` says no."""

    def flush(self) -> None:
        return None

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        return None if self._ready() else PENDING


def test_work_goes_on_while_a_sink_publishes():
    """What an epoch's sinks still publish does not keep the next epoch's records waiting."""
    seen: list[int] = []
    sink = _SlowToPublish(lambda: len(seen) == 100)
    flow = flow_of(TestingSource(range(100)), sink, lambda s: op.map("see", s, _noting(seen)))
    options = SimOptions(epoch_interval=timedelta(seconds=1), step_max=timedelta(seconds=1))
    result = simulate(flow, 0, options)
    assert result.epochs > 1


def _noting(seen: list[int]) -> Callable[[int], int]:
    def note(item: int) -> int:
        seen.append(item)
        return item

    return note


def test_a_run_in_which_nothing_can_happen_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """Where nothing moves and time brings nothing, the error tells where items lie."""
    monkeypatch.setattr("engine.runtime._worker.Worker.credit", lambda *_: None)
    flow = flow_of(TestingSource(range(100)), TestingSink([]), spread)
    options = SimOptions(workers=2, epoch_interval=timedelta(0))
    with pytest.raises(SimulationError, match=r"seed 0 is stuck: .* is OPEN; items in"):
        simulate(flow, 0, options)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("interval_s", [0, 10])
def test_abort_ends_the_run_without_an_error(workers: int, interval_s: int):
    """What is committed by then is a part of the whole; nothing of the rest comes out later."""
    out: list[int] = []
    items = [1, 2, TestingSource.ABORT(), 3]
    flow = flow_of(TestingSource(items), TestingSink(out), lambda s: op.map("same", s, abs))
    options = SimOptions(workers=workers, epoch_interval=timedelta(seconds=interval_s))
    result = simulate(flow, 0, options)
    assert result.aborted
    assert out == [1, 2]
    # That the second epoch is out need not have come to the coordinator's ears.
    assert result.epochs in ((1, 2) if interval_s == 0 else (0,))


def test_an_error_tells_the_seed():
    """The error is the one of a real run, with the seed that replays it."""
    flow = flow_of(TestingSource([0]), TestingSink([]), lambda s: op.map("div", s, lambda x: 1 / x))
    with pytest.raises(EngineRuntimeError, match="simulated.div") as caught:
        simulate(flow, 42)
    assert caught.value.step_id == "simulated.div"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.__notes__ == ["in a simulation with seed 42"]


def test_a_flow_that_can_not_run_is_refused_as_in_a_real_run():
    """A flow without an output is no fault of the simulation."""
    flow = Dataflow("endless")
    op.input("in", flow, TestingSource([1]))
    with pytest.raises(FlowError, match="no output"):
        simulate(flow, 0)


def test_an_error_in_closing_is_not_lost():
    """A sink that can't be closed fails the run."""
    sink = _Reluctant(lambda: True)
    sink.close = _refuse  # type: ignore[method-assign]
    with pytest.raises(EngineRuntimeError, match="can't be closed"):
        simulate(flow_of(TestingSource([1]), sink), 0)


def _refuse() -> None:
    raise OSError("can't be closed")
