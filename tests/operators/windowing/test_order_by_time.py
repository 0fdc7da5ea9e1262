"""`order_by_time` against its definition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.operators.windowing._order_logic import OrderKernel
from tests.operators.flows import by_key
from tests.operators.windowing.clocked import Act, Course, Driver, End, clock, scripts

KINDS = ("key", "stream", "system")


class Meant:
    """What comes out by the definition, act by act."""

    def __init__(self, course: Course, script: list[Act]) -> None:
        self.course = course
        self.script = script
        self.let_out: set[Any] = set()
        self.latest: dict[Any, float] = {}
        """The latest time that an end of input has let out, by key."""

    def act(self, number: int) -> tuple[list[Any], list[Any]]:
        """What comes out of the next act, and what is late."""
        late = []
        for value in self.course.values:
            if value.act == number:
                value.late = value.late or value.at < self.latest.get(value.key, value.at)
                late += [(value.key, value.what)] if value.late else []
        waiting = [v for v in self.course.until(number) if v.what not in self.let_out]
        ended = isinstance(self.script[number], End)
        out = []
        for value in sorted(waiting, key=lambda v: v.at):
            if ended:
                self.latest[value.key] = max(self.latest.get(value.key, value.at), value.at)
            elif self.course.marks[number][value.key] < value.at:
                continue
            self.let_out.add(value.what)
            out.append((value.key, value.what))
        return out, late


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_it_is_as_defined(kind: str, data: st.DataObject) -> None:
    """Random scripts with all that can come in the way, against the definition."""
    wait = data.draw(st.sampled_from([0, 3]))
    script = data.draw(scripts(kind, 1))
    course = Course.of(script, kind, wait)
    meant, driver = Meant(course, script), Driver(OrderKernel((clock(kind, wait),)))
    for number, act in enumerate(script):
        out, late = driver.do(act)
        meant_out, meant_late = meant.act(number)
        assert by_key(out) == by_key(meant_out), (number, act)
        assert by_key(late) == by_key(meant_late)
        driver.entries()
