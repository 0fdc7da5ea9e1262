"""The kernel of `order_by_time`: values wait until the watermark has reached their times."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from engine.operators._kernels import StepContext
from engine.operators._time_axis import END_US, EventTimes, TimeAxis
from engine.operators._timed import Entry, TimedLogic
from engine.operators.windowing._clocked import ClockedKernel, insert, time_of


@dataclass(frozen=True, slots=True)
class OrderKernel(ClockedKernel):
    """Values in the order of their times."""

    def logic(self, step: StepContext, axis: TimeAxis, times: list[EventTimes | None]) -> Order:
        """Begin with no keys in memory."""
        return Order(step, axis, times)


class Waiting(Entry):
    """The values of a key that wait."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []
        """Rows `(time, value)` in the order of their times."""


class Order(TimedLogic[Waiting]):
    """Values in the order of their times."""

    seals_at_end = False

    def __init__(self, step: StepContext, axis: TimeAxis, times: list[EventTimes | None]) -> None:
        super().__init__(step, axis, times)
        (self._late,) = step.asides

    def begin(self) -> Waiting:
        return Waiting()

    def take(self, key: Any, entry: Waiting, port: int, at_us: int, value: Any) -> None:
        if at_us < entry.sealed_us:
            self.refuse(key, entry, port, at_us, value)
        else:
            insert(entry.rows, at_us, (at_us, value))

    def refuse(self, key: Any, entry: Waiting, port: int, at_us: int, value: Any) -> None:  # noqa: ARG002
        if self._late is not None:
            self._late.append((key, value))

    def settle(self, key: Any, entry: Waiting, watermark_us: int, out: list[Any]) -> None:
        rows = entry.rows
        count = bisect_right(rows, watermark_us, key=time_of)
        out.extend([(key, value) for _, value in rows[:count]])
        if watermark_us == END_US and rows:
            # What comes later must not be earlier.
            entry.sealed_us = max(entry.sealed_us, rows[-1][0])
        del rows[:count]

    def due_us(self, entry: Waiting) -> int | None:
        return entry.rows[0][0] if entry.rows else None

    def to_stored(self, entry: Waiting) -> Any:
        return [entry.rows]

    def from_stored(self, stored: Any) -> Waiting:
        entry = Waiting()
        entry.rows = list(stored[0])
        return entry
