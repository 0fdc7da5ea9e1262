"""`as_of_join` against its definition: which value was in force, and when it is certain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.operators.windowing._as_of_logic import AsOfJoinKernel, AsOfSpec
from tests.operators.flows import by_key
from tests.operators.windowing.clocked import (
    Act,
    Batch,
    Course,
    Driver,
    End,
    Restart,
    Value,
    Wait,
    clock,
    scripts,
)

KINDS = ("key", "stream", "system")


def kernel(how: Any, kind: str, tolerance: int | None, waits: tuple[int, int]) -> AsOfJoinKernel:
    spec = AsOfSpec(None if tolerance is None else tolerance * 1_000_000, how)
    return AsOfJoinKernel((clock(kind, waits[0]), clock(kind, waits[1])), spec)


class Meant:
    """What comes out by the definition, act by act."""

    def __init__(self, course: Course, script: list[Act], how: str, tolerance: int | None) -> None:
        self.course = course
        self.how = how
        self.tolerance = tolerance
        self.let_out: dict[int, float] = {}
        """The act that lets a value on the left out, by the value's place."""
        self.latest: dict[Any, float] = {}
        """The latest time that an end of input has let out, by key."""
        self.script = script

    def act(self, number: int) -> tuple[list[Any], list[Any]]:
        """What comes out of the next act, and what is late."""
        late = []
        for value in self.course.values:
            if value.act == number:
                early = value.port == 0 and value.at < self.latest.get(value.key, value.at)
                value.late = value.late or early
                late += [(value.key, value.what)] if value.late else []
        here = self.course.until(number)
        waiting = [(i, v) for i, v in enumerate(here) if v.port == 0 and v.what not in self.let_out]
        ended = isinstance(self.script[number], End)
        marks = self.course.marks[number]
        out = []
        for _, value in sorted(waiting, key=lambda pair: pair[1].at):
            if ended:
                self.latest[value.key] = max(self.latest.get(value.key, value.at), value.at)
            elif marks[value.key] <= value.at:
                continue
            self.let_out[value.what] = number
            found = self.in_force(value, here)
            if found is not None or self.how == "left":
                out.append((value.key, (value.what, found)))
        return out, late

    def in_force(self, value: Value, here: list[Value]) -> Any:
        """The latest value on the right at or before one on the left, if it isn't too old."""
        before = [v for v in here if v.port == 1 and v.key == value.key and v.at <= value.at]
        best = max(enumerate(before), key=lambda pair: (pair[1].at, pair[0]), default=(0, None))[1]
        if best is None or (self.tolerance is not None and value.at - best.at > self.tolerance):
            return None
        return best.what


def check_bounds(driver: Driver, tolerance: int | None) -> None:
    """Of the values on the right that the watermark has passed only one is kept, if any."""
    for entry in driver.entries():
        watermark_us = driver.logic.watermark_us(entry)
        passed = [row for row in entry.right if row[0] <= watermark_us]
        assert len(passed) <= 1
        if tolerance is not None:
            assert all(row[0] + tolerance * 1_000_000 >= watermark_us for row in passed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["inner", "left"])
@given(st.data())
def test_it_is_as_defined(kind: str, how: str, data: st.DataObject) -> None:
    """Random scripts with all that can come in the way, against the definition."""
    tolerance = data.draw(st.sampled_from([None, 0, 3]))
    waits = data.draw(st.sampled_from([(0, 0), (3, 3), (1, 4)]))
    script = data.draw(scripts(kind, 2))
    course = Course.of(script, kind, *waits)
    meant, driver = (
        Meant(course, script, how, tolerance),
        Driver(kernel(how, kind, tolerance, waits)),
    )
    for number, act in enumerate(script):
        out, late = driver.do(act)
        meant_out, meant_late = meant.act(number)
        assert by_key(out) == by_key(meant_out), (number, act)
        assert by_key(late) == by_key(meant_late)
        check_bounds(driver, tolerance)


def test_the_newest_value_on_the_right_waits_for_nothing() -> None:
    """Without tolerance it is kept, however long nothing comes, and no timer is set for it."""
    driver = Driver(kernel("left", "key", None, (0, 0)))
    driver.do(Batch(1, [("a", (5, "old")), ("a", (9, "new"))]))
    assert driver.logic.timers.due_s == {}
    driver.do(Wait(1_000_000))
    (entry,) = driver.entries()
    assert [value for _, value in entry.right] == [(9, "new")]
    driver.do(Restart())
    assert driver.do(Batch(0, [("a", (2_000_000, 0))])) == ([], [])
    assert driver.do(End())[0] == [("a", ((2_000_000, 0), (9, "new")))]
