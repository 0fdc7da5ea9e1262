"""The kernel of `as_of_join`: each value on the left with the latest one on the right before it.

Both sides of a key are lists of rows in the order of their times. A row on the left goes when the
watermark has passed it; of those on the right that the watermark has passed the newest is enough.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from engine.operators._kernels import StepContext
from engine.operators._time_axis import END_US, EventTimes, TimeAxis
from engine.operators._timed import Entry, TimedLogic
from engine.operators.windowing._clocked import ClockedKernel, insert, time_of

AsOfJoinHow: TypeAlias = Literal["inner", "left"]
"""Whether values on the left come out that have none on the right before them."""


@dataclass(frozen=True, slots=True)
class AsOfSpec:
    """What is joined."""

    tolerance_us: int | None
    """How much older than the value on the left the one on the right may be."""
    how: AsOfJoinHow


@dataclass(frozen=True, slots=True)
class AsOfJoinKernel(ClockedKernel):
    """An as-of join."""

    spec: AsOfSpec

    def logic(self, step: StepContext, axis: TimeAxis, times: list[EventTimes | None]) -> AsOfJoin:
        """Begin with no keys in memory."""
        return AsOfJoin(step, axis, times, self.spec)


class Versions(Entry):
    """The values of a key on the left that wait, and those on the right that they may find."""

    __slots__ = ("left", "right")

    def __init__(self) -> None:
        super().__init__()
        self.left: list[Any] = []
        """Rows `(time, value)` in the order of their times."""
        self.right: list[Any] = []
        """Likewise, with one row for each time."""


class AsOfJoin(TimedLogic[Versions]):
    """An as-of join."""

    seals_at_end = False

    def __init__(
        self, step: StepContext, axis: TimeAxis, times: list[EventTimes | None], spec: AsOfSpec
    ) -> None:
        super().__init__(step, axis, times)
        self._tolerance_us = END_US if spec.tolerance_us is None else spec.tolerance_us
        self._keeps_lonely = spec.how == "left"
        (self._late,) = step.asides

    def begin(self) -> Versions:
        return Versions()

    def take(self, key: Any, entry: Versions, port: int, at_us: int, value: Any) -> None:
        if port == 1:
            rows = entry.right
            found = bisect_left(rows, at_us, key=time_of)
            same = found < len(rows) and rows[found][0] == at_us
            rows[found : found + same] = [(at_us, value)]
        elif at_us < entry.sealed_us:
            self.refuse(key, entry, port, at_us, value)
        else:
            insert(entry.left, at_us, (at_us, value))

    def refuse(self, key: Any, entry: Versions, port: int, at_us: int, value: Any) -> None:  # noqa: ARG002
        if self._late is not None:
            self._late.append((key, value))

    def settle(self, key: Any, entry: Versions, watermark_us: int, out: list[Any]) -> None:
        left, right = entry.left, entry.right
        count = bisect_left(left, watermark_us, key=time_of)
        for at_us, value in left[:count]:
            found = bisect_right(right, at_us, key=time_of) - 1
            if found >= 0 and right[found][0] >= at_us - self._tolerance_us:
                out.append((key, (value, right[found][1])))
            elif self._keeps_lonely:
                out.append((key, (value, None)))
        if watermark_us == END_US:
            if left:
                entry.sealed_us = max(entry.sealed_us, left[-1][0])
        elif right:
            passed = bisect_right(right, watermark_us, key=time_of) - 1
            del right[: max(passed, 0)]
            if right[0][0] < watermark_us - self._tolerance_us:
                del right[0]
        del left[:count]

    def due_us(self, entry: Versions) -> int | None:
        left, right = entry.left, entry.right
        if not left and not right:
            return None
        # At a watermark equal to its time one may still come that isn't late.
        due_us = left[0][0] + 1 if left else END_US
        if len(right) > 1:
            due_us = min(due_us, right[1][0])
        if right:
            due_us = min(due_us, right[0][0] + self._tolerance_us + 1)
        return min(due_us, END_US)

    def to_stored(self, entry: Versions) -> Any:
        return [entry.left, entry.right]

    def from_stored(self, stored: Any) -> Versions:
        entry = Versions()
        entry.left, entry.right = map(list, stored)
        return entry
