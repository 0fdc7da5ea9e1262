"""How sources are polled: in turn, when they are due, until they end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import DynamicSource, StatelessSourcePartition
from engine.dataflow import Dataflow
from engine.errors import ConnectorError, EngineRuntimeError
from engine.runtime._nodes import Target
from engine.runtime._source_node import IDLE_POLL_S, Opening, SourceNode
from engine.testing import TestingSink, TestingSource
from tests.runtime.scripted import FakeTime, Log, LogSink, ScriptedSource, Wait, run


def read(*sources: Any, interval_s: float = 10.0, time: FakeTime | None = None) -> list[Any]:
    """What comes out of sources that are merged."""
    out: list[Any] = []
    flow = Dataflow("flow")
    streams = [op.input(f"in{i}", flow, source) for i, source in enumerate(sources)]
    op.output("out", op.merge("merge", *streams), TestingSink(out))
    run(flow, interval_s=interval_s, time=time)
    return out


@pytest.mark.parametrize("interval_s", [0, 10])
def test_one_batch_of_each_source_in_turn(interval_s: float):
    """In the order in which the inputs were declared."""
    numbers, letters = TestingSource([1, 2, 3]), TestingSource(["a", "b", "c"])
    assert read(numbers, letters, interval_s=interval_s) == [1, "a", 2, "b", 3, "c"]


@pytest.mark.parametrize("interval_s", [0, 10])
def test_a_source_that_ends_leaves_the_turn_to_the_others(interval_s: float):
    """Nobody is skipped because a neighbour has ended."""
    sources = [TestingSource(items) for items in ([1], ["a", "b", "c"], [], [10, 20])]
    assert read(*sources, interval_s=interval_s) == [1, "a", 10, "b", 20, "c"]


def test_a_batch_goes_all_the_way_before_the_next_is_read():
    """Through every step, and into every sink."""
    log: Log = []
    flow = Dataflow("flow")
    s = op.input("in", flow, ScriptedSource({"in": [[1, 2], [3]]}, log))
    op.output("one", s, LogSink(log, "one"))
    op.output("two", op.map("map", s, str), LogSink(log, "two"))
    run(flow)
    assert [entry for entry in log if entry[0] in {"poll", "write"}] == [
        ("poll", "in", [1, 2]), ("write", "one", 1, 2), ("write", "two", "1", "2"),
        ("poll", "in", [3]), ("write", "one", 3), ("write", "two", "3"),
    ]  # fmt: skip


def test_a_slow_source_does_not_hold_back_a_fast_one():
    """Neither its records nor its epochs."""
    log: Log = []
    time = FakeTime()
    flow = Dataflow("flow")
    slow = op.input("slow", flow, ScriptedSource({"slow": [Wait(100), ["s"]]}, log, time))
    fast = op.input("fast", flow, ScriptedSource({"fast": [["f"], Wait(30), ["g"]]}, log, time))
    op.output("out", op.merge("merge", slow, fast), LogSink(log))
    run(flow, time=time)
    what = [entry[2] for entry in log if entry[0] in {"write", "publish"}]
    assert what == ["f", 1, 2, "g", 3, 4, 5, 6, 7, 8, 9, "s", 10, 11]


# When


def test_next_awake_is_never_early():
    """A partition is polled at the time it said, or after it, to the microsecond."""
    polls: list[tuple[datetime, datetime | None]] = []
    time = FakeTime()

    class Part(StatelessSourcePartition[int]):
        awake: datetime | None = None

        def next_batch(self) -> Iterable[int]:
            polls.append((time.utc(), self.awake))
            if len(polls) == 50:
                raise StopIteration
            self.awake = time.utc() + timedelta(microseconds=7**12 * len(polls) % 10**7)
            return [1] * (len(polls) % 2)

        def next_awake(self) -> datetime | None:
            return self.awake

    class Source(DynamicSource[int]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Part:
            return Part()

    read(Source(), time=time)
    assert all(awake is None or at >= awake for at, awake in polls)
    assert all(awake is None or at - awake < timedelta(milliseconds=1) for at, awake in polls)


def node(parts: dict[str, Any], time: FakeTime) -> SourceNode:
    """A source's node by itself, that drops what it reads."""
    opening = Opening(lambda name, *, found: parts[name], dict)
    node = SourceNode("flow.in", Target(lambda _: None, lambda: None), time, opening)
    for name in parts:
        node.build(name)
    return node


class Idle(StatelessSourcePartition[int]):
    """A partition that has nothing and doesn't say when it will."""

    polls = 0

    def next_batch(self) -> Iterable[int]:
        self.polls += 1
        return []


def test_an_idle_source_is_asked_again_a_moment_later():
    """Not at once, which would take all the time there is."""
    time, part = FakeTime(), Idle()
    source = node({"idle": part}, time)
    assert source.poll(1) == (0, pytest.approx(IDLE_POLL_S, rel=1e-3))
    assert source.wait_s() == pytest.approx(IDLE_POLL_S, rel=1e-3)
    source.poll(1)
    assert part.polls == 1
    time.now_s += 2 * IDLE_POLL_S
    source.poll(1)
    assert part.polls == 2


def test_an_idle_source_does_not_wait_for_a_clock_that_was_set_back():
    """The time of its next poll was our own choice, so it can't be an hour from now."""
    time, part = FakeTime(), Idle()
    source = node({"idle": part}, time)
    source.poll(1)
    time.now_s -= 3600
    assert source.wait_s() == 0.0
    source.poll(1)
    assert part.polls == 2


def test_a_bound_on_batches_goes_on_with_the_next_partition():
    """Each gets its turn, those that have nothing too."""
    time, log = FakeTime(), []
    scripts = {"a": [[1], [2]], "b": [[3]], "c": [[], [4]]}
    source = ScriptedSource(scripts, log, time)
    polled = node({name: source.build_part("", name, None) for name in scripts}, time)
    waits = [polled.poll(1) for _ in range(3)]
    assert [entry[1:] for entry in log if entry[0] == "poll"] == [
        ("a", [1]), ("b", [3]), ("c", []), ("a", [2])
    ]  # fmt: skip
    assert waits == [(1, 0.0)] * 3


def test_after_a_bounded_poll_the_others_are_due():
    """Whenever the last one wants to be polled again, the next ones have not been asked yet."""
    time = FakeTime()

    class Hourly(StatelessSourcePartition[int]):
        awake: datetime | None = None

        def next_batch(self) -> Iterable[int]:
            self.awake = time.utc() + timedelta(hours=1)
            return [1]

        def next_awake(self) -> datetime | None:
            return self.awake

    source = node({"a": Hourly(), "b": Hourly()}, time)
    assert source.poll(1) == (1, 0.0)
    assert source.poll(1) == (1, 0.0)
    assert source.poll(1) == (0, 3600.0)


# What


class Given(DynamicSource[Any]):
    """A source whose partition gives these things, one at a poll."""

    def __init__(self, *things: Any) -> None:
        self._things = list(things)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Any:
        things = self._things

        class Part(StatelessSourcePartition[Any]):
            def next_batch(self) -> Any:
                if not things:
                    raise StopIteration
                return things.pop(0)

        return Part()


def test_any_iterable_is_a_batch():
    """A tuple, a generator, an iterator; empty ones too."""
    assert read(Given((1, 2), iter([3]), (x for x in [4, 5]), (), iter([]), {6: 7})) == [
        1, 2, 3, 4, 5, 6
    ]  # fmt: skip


def test_what_is_no_batch_is_refused():
    """The error names step, partition, and what came."""
    with pytest.raises(
        EngineRuntimeError, match=r"partition 'worker-0' .*; got 5 of type"
    ) as caught:
        read(Given(5))
    assert isinstance(caught.value.__cause__, ConnectorError)
    assert caught.value.step_id == "flow.in0"


def test_an_error_in_a_generator_given_as_a_batch_stays_what_it_is():
    """A `TypeError` of the source's own doesn't mean that the batch was no iterable."""

    def batch() -> Iterable[int]:
        yield 1
        raise TypeError("mine")

    with pytest.raises(EngineRuntimeError, match="'flow.in0' failed: TypeError: mine"):
        read(Given(batch()))


@pytest.mark.parametrize("awake", [datetime(2024, 1, 1), 5, "now"])  # noqa: DTZ001
def test_a_wake_up_time_without_a_zone_is_refused(awake: Any):
    """Nobody could say when that is."""

    class Part(Idle):
        def next_awake(self) -> Any:
            return awake

    class Source(DynamicSource[int]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Part:
            return Part()

    with pytest.raises(EngineRuntimeError, match="must return a `datetime` with a time zone"):
        read(Source())


@pytest.mark.parametrize("names", ["ab", [1, 2], None])
def test_partition_names_must_be_a_list_of_texts(names: Any):
    """Anything else is refused before a record is read."""
    source = TestingSource([1])
    source.list_parts = lambda: names  # type: ignore[method-assign]
    with pytest.raises(EngineRuntimeError, match="'flow.in0' failed while listing its partitions"):
        read(source)


def test_a_source_without_partitions_ends_at_once():
    """There is nothing to read."""
    assert read(ScriptedSource({}, [])) == []


def test_partitions_are_read_in_the_order_of_their_names():
    """The same on every machine, whatever order they are listed in."""
    assert read(ScriptedSource({"b": [[2]], "c": [[3]], "a": [[1]]}, [])) == [1, 2, 3]


@pytest.mark.parametrize("built", [None, object(), "part"])
def test_what_is_built_must_be_a_partition(built: Any):
    """A forgotten `return`, say."""
    source = TestingSource([1])
    source.build_part = lambda *_: built  # type: ignore[method-assign]
    message = r"'flow.in0' failed while opening its source: .* must be a partition; got"
    with pytest.raises(EngineRuntimeError, match=message):
        read(source)
