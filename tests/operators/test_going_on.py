"""Steps with state by key that go on without records: the state is as if these had not come."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Dataflow, Stream
from engine.errors import EngineRuntimeError
from engine.operators._images import image_of, restored
from engine.testing import TestingSink, TestingSource, run_main
from engine.testing.sim import SimOptions, simulate
from tests.operators.timed import Timeline, at

Value = tuple[float, int]
TTL_S = 10.0
BY_TIME = op.TTL(timedelta(seconds=TTL_S), event_time=lambda v: at(v[0]))


class BadValueError(Exception):
    """What the functions here raise."""


def is_bad(value: Value) -> bool:
    return value[1] % 3 == 0


def append(values: list[int] | None, value: Value) -> tuple[list[int], list[int]]:
    """Changes the state in place, and then raises."""
    values = [] if values is None else values
    values.append(value[1])
    if is_bad(value):
        raise BadValueError(value)
    return values, list(values)


class Appending(op.StatefulLogic[Value, Any, list[int]]):
    """The same as an object, with a timer; its snapshot is the list that it goes on changing."""

    def __init__(self, resume: list[int] | None) -> None:
        self.values = [] if resume is None else resume

    def on_item(self, value: Value) -> tuple[list[Any], bool]:
        _, emitted = append(self.values, value)
        return [emitted], value[1] % 7 == 0

    def notify_at(self) -> datetime | None:
        return at(self.values[-1]) if self.values and self.values[-1] % 2 else None

    def on_notify(self) -> tuple[list[Any], bool]:
        return [("late", list(self.values))], self.DISCARD

    def snapshot(self) -> list[int]:
        return self.values


class AppendingBatches(op.StatefulBatchLogic[Value, Any, list[int]]):
    def __init__(self, resume: list[int] | None) -> None:
        self.values = [] if resume is None else resume

    def on_batch(self, values: list[Value]) -> tuple[list[Any], bool]:
        for value in values:
            append(self.values, value)
        return [list(self.values)], self.RETAIN

    def snapshot(self) -> list[int]:
        return self.values


def fold(values: list[int], value: Value) -> list[int]:
    return append(values, value)[0]


def smallest(values: list[int]) -> int:
    """What a window of the latest values comes to, if that can be told."""
    if values[-1] % 3 == 0:
        raise BadValueError(values)
    return min(values)


Build = Callable[[Stream[Any], Any], Stream[Any]]
STEPS: dict[str, Build] = {
    "stateful_map": lambda s, ttl: op.stateful_map("s", s, append, ttl=ttl),
    "stateful_flat_map": lambda s, ttl: op.stateful_flat_map("s", s, append, ttl=ttl),
    "stateful": lambda s, ttl: op.stateful("s", s, Appending, ttl=ttl),
    "fold_final": lambda s, ttl: op.fold_final("s", s, list, fold, ttl=ttl),
    "rolling": lambda s, ttl: op.rolling("s", s, 3, smallest, by=lambda v: v[1], ttl=ttl),
}
TTLS: dict[str, Any] = {
    "no ttl": None,
    "by arrival": timedelta(seconds=TTL_S),
    "by event time": BY_TIME,
}
values = st.tuples(st.integers(0, 60).map(float), st.integers(0, 20))
batches = st.lists(
    st.tuples(
        st.integers(0, 25).map(float),
        st.lists(st.tuples(st.sampled_from("ab"), values), max_size=4),
    ),
    max_size=8,
)


def came(build: Build, ttl: Any, given_batches: list[Any], *, skips: bool) -> list[Any]:
    """What comes out of a step, in the end; the times of batches are those between them."""
    now, timed = 0.0, list[tuple[float, Any]]()
    for pause, batch in given_batches:
        now += pause
        timed.append((now, [r for r in batch if skips or not is_bad(r[1])]))

    def step(stream: Stream[Any]) -> Stream[Any]:
        return build(stream, ttl).on_error("skip") if skips else build(stream, ttl)

    return sorted(Timeline(step, timed).run(), key=lambda record: str(record[0]))


@pytest.mark.parametrize("ttl", TTLS)
@pytest.mark.parametrize("name", STEPS)
@given(given_batches=batches)
def test_a_key_is_as_if_a_value_that_is_raised_for_had_not_come(
    name: str, ttl: str, given_batches: list[Any]
):
    """State, timer and age, though the function has changed what it was given."""
    wanted = came(STEPS[name], TTLS[ttl], given_batches, skips=False)
    assert came(STEPS[name], TTLS[ttl], given_batches, skips=True) == wanted


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max", "min"])
@given(
    numbers=st.lists(
        st.tuples(st.integers(0, 40), st.one_of(st.integers(-9, 9), st.just("x"))), max_size=30
    ),
    size=st.sampled_from([1, 2, 5, timedelta(seconds=9)]),
)
def test_windows_of_latest_values_are_as_if_one_that_raises_had_not_come(
    aggregate: Any, numbers: list[tuple[int, Any]], size: Any
):
    """Whether it can't be put with the others, or its own function raises for it."""

    def run(records: list[Any], *, skips: bool) -> list[Any]:
        flow, out = Dataflow("flow", on_error="skip" if skips else "fail"), []
        stream = op.input("in", flow, TestingSource(records, 4))
        event_time = None if isinstance(size, int) else lambda v: at(v[0])
        rolled = op.rolling("s", stream, size, aggregate, by=pick, event_time=event_time)
        op.output("out", rolled, TestingSink(out))
        run_main(flow)
        return out

    def pick(value: tuple[int, Any]) -> Any:
        if value[1] == 0:
            raise BadValueError
        return value[1]

    records = [("a", (0, 1)), *[("a", value) for value in numbers]]
    if not isinstance(size, int) or size == 1:
        # A text that is alone in its window is none that can't be put with the others.
        records = [record for record in records if record[1][1] != "x"]
    good = [record for record in records if record[1][1] not in ("x", 0)]
    assert run(records, skips=True) == run(good, skips=False)


def test_values_that_a_batch_object_was_given_between_two_silences_are_left_out():
    """Those before, which it was given with another call, stay."""
    records = [("a", (s, n)) for s, n in [(0.0, 1), (5.0, 2), (50.0, 4), (51.0, 3), (200.0, 5)]]
    flow, out, letters = Dataflow("flow"), [], []
    stream = op.input("in", flow, TestingSource(records, 9))
    made = op.stateful_batch("s", stream, AppendingBatches, ttl=BY_TIME).on_error("dead_letter")
    op.output("out", made, TestingSink(out))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    run_main(flow)
    assert out == [("a", [1, 2]), ("a", [5])]
    assert [letter.record for letter in letters] == records[2:4]


def test_an_object_whose_time_was_over_is_there_for_a_record_that_comes_late():
    """By event time: the one that ended it was left out, so it has not been."""
    times = [(0.0, 2), (100.0, 6), (5.0, 4)]
    flow, out = Dataflow("flow"), []
    stream = op.input("in", flow, TestingSource([("a", v) for v in times], 1))
    op.output(
        "out",
        op.stateful("s", stream, Appending, ttl=BY_TIME).on_error("skip"),
        TestingSink(out),
    )
    run_main(flow)
    assert out == [("a", [2]), ("a", [2, 4])]


class Locked:
    """A state that can't be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_a_state_that_cannot_be_copied_ends_the_run():
    """It may have been changed, and can't be put back; nothing is lost if nothing is raised."""

    def use(state: Locked | None, value: int) -> tuple[Locked, int]:
        return state or Locked(), 6 // value

    for values, message in (([1, 2], ""), ([1, 0], "can't be put back: .*can't be copied")):
        flow, out = Dataflow("flow", on_error="skip"), []
        stream = op.input("in", flow, TestingSource([("a", v) for v in values]))
        op.output("out", op.stateful_map("s", stream, use), TestingSink(out))
        if message:
            with pytest.raises(EngineRuntimeError, match=message):
                run_main(flow)
        else:
            run_main(flow)
            assert out == [("a", 6), ("a", 3)]


def test_images_are_of_any_state():
    """Those that can't be changed are the state itself; of a lambda there is a copy."""
    for state in (None, 1, "text", 2.5, b"raw", at(0)):
        assert image_of(state) is state
    nested = {"a": [1]}
    image = image_of(nested)
    nested["a"].append(2)
    assert restored(image) == {"a": [1]}
    assert restored(image) is not restored(image)
    local = [lambda: 1]
    image = image_of(local)
    local.append(lambda: 2)
    assert len(restored(image)) == 1


@pytest.mark.parametrize("step", ["stateful_map", "collect", "count", "join"])
def test_records_without_a_key_are_left_out_among_several_workers(step: str):
    """They go to some worker, whose step says so; the others come where they belong."""
    records: list[Any] = [(str(n), n) for n in range(8)]
    records[3:3] = ["no pair", (1.5, 0), 7]
    flow, out, letters = Dataflow("flow", on_error="dead_letter"), [], []
    stream = op.input("in", flow, TestingSource(records, 3))
    made: Stream[Any]
    if step == "stateful_map":
        made = op.stateful_map("s", stream, lambda _, v: (v, v))
    elif step == "collect":
        made = op.map_value("v", op.collect("s", stream, timedelta(days=1), 1), lambda v: v[0])
    elif step == "count":
        made = op.rolling("s", stream, 1, "sum")
    else:
        made = op.map_value("v", op.join("s", stream, emit_mode="running"), lambda v: v[0])
    op.output("out", made, TestingSink(out))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    simulate(flow, 1, SimOptions(workers=3))
    assert sorted(out) == [(str(n), n) for n in range(8)]
    assert {letter.record for letter in letters} == {"no pair", (1.5, 0), 7}
