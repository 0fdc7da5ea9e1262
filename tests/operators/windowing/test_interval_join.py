"""`interval_join` against its definition: who meets whom, who comes out alone, and when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.operators.windowing._interval_logic import (
    IntervalJoin,
    IntervalJoinKernel,
    IntervalSpec,
)
from tests.operators.flows import by_key
from tests.operators.timed import at
from tests.operators.windowing.clocked import (
    Act,
    Batch,
    Course,
    Driver,
    End,
    Rise,
    Value,
    Wait,
    clock,
    long_script,
    scripts,
)

KINDS = ("key", "stream", "system")
SPANS = ((0, 0), (2, 0), (0, 3), (4, 3))
PRESERVED = {"inner": (), "left": (0,), "right": (1,), "outer": (0, 1)}


class Slow(IntervalJoinKernel):
    """The loop of the other kinds for an inner join."""

    def logic(self, step: Any, axis: Any, times: Any) -> IntervalJoin:
        return IntervalJoin(step, axis, times, self.spec)


def kernel(how: Any, kind: str, spans: tuple[int, int], waits: tuple[int, int]) -> Any:
    spec = IntervalSpec(spans[0] * 1_000_000, spans[1] * 1_000_000, how)
    made = Slow if how == "slow inner" else IntervalJoinKernel
    if how == "slow inner":
        spec = IntervalSpec(spec.before_us, spec.after_us, "inner")
    return made((clock(kind, waits[0]), clock(kind, waits[1])), spec)


class Meant:
    """What comes out by the definition, act by act."""

    def __init__(self, course: Course, script: list[Act], how: str, spans: tuple[int, int]) -> None:
        self.course = course
        self.before, self.after = spans
        self.preserved = PRESERVED[how.removeprefix("slow ")]
        self.ends = [number for number, act in enumerate(script) if isinstance(act, End)]
        self.on_time = [value for value in course.values if not value.late]

    def near(self, one: Value, other: Value) -> bool:
        left, right = (one, other) if one.port == 0 else (other, one)
        same = one.port != other.port and one.key == other.key
        return same and left.at - self.before <= right.at <= left.at + self.after

    def flushed(self, value: Value) -> int | None:
        """The end of input that lets a value out alone."""
        if value.port not in self.preserved:
            return None
        end = next(end for end in self.ends if end > value.act)
        alone = not any(self.meets(value, other) and other.act < end for other in self.on_time)
        return end if alone and not self.passed(value, end - 1) else None

    def meets(self, value: Value, other: Value) -> bool:
        """Whether two values that are on time become a pair: an end may be between them."""
        first, second = sorted((value, other), key=lambda v: v.act)
        if not self.near(first, second):
            return False
        if first.port not in self.preserved or first.act == second.act:
            return True
        ends = [end for end in self.ends if first.act < end < second.act]
        return not ends or any(
            self.meets(first, third)
            for third in self.on_time
            if third is not second and third.act < ends[0]
        )

    def passed(self, value: Value, act: int) -> bool:
        """Whether no value that isn't late can meet this one after an act."""
        reach = self.after if value.port == 0 else self.before
        return self.course.marks[act][value.key] > value.at + reach

    def out(self, act: int) -> list[Any]:
        """What comes out of an act, by key."""
        out: list[Any] = []
        for second in (value for value in self.on_time if value.act == act):
            earlier = self.on_time[: self.on_time.index(second)]
            met = [first for first in earlier if self.meets(first, second)]
            for first in sorted(met, key=lambda value: value.at):
                pair = (first, second) if first.port == 0 else (second, first)
                out.append((second.key, (pair[0].what, pair[1].what)))
        alone = [value for value in self.on_time if self.is_let_out(value, act)]
        alone.sort(key=lambda v: (v.at + (self.after, self.before)[v.port], v.port, v.at))
        for value in alone:
            pair_of = (value.what, None) if value.port == 0 else (None, value.what)
            out.append((value.key, pair_of))
        return out

    def is_let_out(self, value: Value, act: int) -> bool:
        """Whether a value comes out alone in an act."""
        if value.port not in self.preserved or value.act > act:
            return False
        if any(self.meets(value, other) for other in self.on_time):
            return False
        if self.flushed(value) is not None:
            return self.flushed(value) == act
        return self.passed(value, act) and (value.act == act or not self.passed(value, act - 1))


def check(how: str, kind: str, spans: Any, waits: Any, script: list[Act]) -> None:
    course = Course.of(script, kind, *waits)
    meant = Meant(course, script, how, spans)
    driver = Driver(kernel(how, kind, spans, waits))
    for number, act in enumerate(script):
        out, late = driver.do(act)
        assert by_key(out) == by_key(meant.out(number)), (number, act)
        refused = [(v.key, v.what) for v in course.values if v.late and v.act == number]
        assert late == refused
        check_bounds(driver, how)


def check_bounds(driver: Driver, how: str) -> None:
    """What nothing can meet any more isn't kept."""
    for entry in driver.entries():
        watermark_us = driver.logic.watermark_us(entry)
        for rows, reach_us in zip((entry.left, entry.right), driver.logic._reach_us, strict=True):
            if how != "inner":
                assert all(row[0] + reach_us >= watermark_us for row in rows or ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["inner", "slow inner", "left", "right", "outer"])
@given(st.data())
def test_it_is_as_defined(kind: str, how: str, data: st.DataObject) -> None:
    """Random scripts with all that can come in the way, against the definition."""
    spans = data.draw(st.sampled_from(SPANS))
    waits = data.draw(st.sampled_from([(0, 0), (3, 3), (1, 4)]))
    check(how, kind, spans, waits, data.draw(scripts(kind, 2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["inner", "slow inner", "left", "right", "outer"])
def test_long_scripts_are_as_defined(kind: str, how: str) -> None:
    """With many values on time, of which some have expired where others haven't."""
    for seed in range(30):
        spans = SPANS[seed % len(SPANS)]
        check(how, kind, spans, (seed % 3, seed % 3), long_script(seed, kind, 2))


def lefts(driver: Driver) -> list[int]:
    """The times of the values on the left of the one key, in seconds."""
    (entry,) = driver.entries()
    rows, _ = driver.logic.to_stored(entry)
    return [round(row[0] / 1e6 - at(0).timestamp()) for row in rows]


@pytest.mark.parametrize("kind", ["key", "stream"])
def test_pairs_only_still_means_that_idle_keys_go(kind: str) -> None:
    """Where nothing comes out of expired values, a timer drops them all the same."""
    driver = Driver(kernel("inner", kind, (0, 3), (0, 0)))
    driver.do(Batch(0, [("a", (5, 0))]))
    assert lefts(driver) == [5]
    driver.do(Rise(9) if kind == "stream" else Wait(4))
    if kind == "stream":
        assert driver.entries() == []
        return
    assert lefts(driver) == []
    driver.do(Wait(3601))
    assert driver.entries() == []


def test_values_late_for_a_new_key_leave_nothing_behind() -> None:
    """A key that nothing was taken in for is forgotten."""
    driver = Driver(kernel("inner", "stream", (0, 3), (0, 0)))
    driver.do(Rise(9))
    assert driver.do(Batch(0, [("a", (5, 0))])) == ([], [("a", (5, 0))])
    assert driver.entries() == []


@pytest.mark.parametrize("how", ["inner", "left"])
def test_many_values_of_a_key(how: str) -> None:
    """A new value looks at its range only, and few expired ones wait until there are more."""
    driver = Driver(kernel(how, "key", (0, 1000), (0, 0)))
    driver.do(Batch(0, [("a", (second, second)) for second in range(3000)]))
    assert 1001 <= len(lefts(driver)) < 1300
    out, _ = driver.do(Batch(1, [("a", (2999, "right"))]))
    assert [left[0] for _, (left, right) in out if right is not None] == list(range(1999, 3000))
