"""The window of `rolling`: the latest values of a key, and what they come to.

Two stacks make a queue whose total is known at every moment, also where values can't be taken out
of a total again: the largest of them, or a sum of floats without an error that grows. Newer values
are on the back stack, with one total of them all; older ones on the front stack, the oldest on top,
each with the total of itself and those under it. When the front stack is empty the back one is
turned over. So a value is combined with others three times at most, however long the window is. The
algorithm is known as two-stacks: K. Tangwongsan, M. Hirzel, S. Schneider, "Low-Latency
Sliding-Window Aggregation in Worst-Case Constant Time", DEBS 2017, section 2.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import accumulate
from typing import Any, TypeAlias

Combine: TypeAlias = Callable[[Any, Any], Any]
"""Puts two totals together, in any order."""
Add: TypeAlias = Callable[["Window", Any, int], Any]
"""Adds a value that came at a time to a window; gives what is emitted then."""
Emit: TypeAlias = Callable[["Window"], Any]
"""Makes what is emitted of a window."""

Oldest: TypeAlias = tuple[Any, Any, tuple[int, ...]]
"""A value off the front stack, its total and, if the window is bounded by time, its time."""

Stored: TypeAlias = tuple[list[Any], list[int], int]
"""A window as it is stored: its values and, if it is bounded by time, when they came, both oldest
first; and how many of them are on the front stack, so that sums of floats go on to the last bit."""


class Window:
    """The latest values of a key, on two stacks."""

    __slots__ = ("back", "back_at", "back_total", "front", "front_at", "totals")

    def __init__(self) -> None:
        self.front: list[Any] = []
        """Older values, the oldest last."""
        self.totals: list[Any] = []
        """For each of `front` what it and those before it in that list come to."""
        self.front_at: list[int] = []
        self.back: list[Any] = []
        """Newer values, the newest last."""
        self.back_total: Any = None
        self.back_at: list[int] = []

    def values(self) -> list[Any]:
        """All values, oldest first."""
        return self.front[::-1] + self.back

    def stored(self) -> Stored:
        """What to store; it doesn't change with the window."""
        return self.values(), self.front_at[::-1] + self.back_at, len(self.front)


class Rolling(ABC):
    """How the windows of a step are kept.

    Args:
        combine: Puts totals together; None if nobody asks for them.
        emit: Makes what is emitted of a window; None if that is its total.
        mean: Whether its total by the number of its values is emitted.
    """

    def __init__(
        self, combine: Combine | None, emit: Emit | None = None, *, mean: bool = False
    ) -> None:
        self._combine = combine
        self._emit = emit
        self._mean = mean

    @abstractmethod
    def adder(self) -> Add:
        """What adds values to the windows, and drops those that are too old.

        It is called once for each value, and calls others only where it must.
        """

    @abstractmethod
    def evict(self, window: Window, at_us: int, evicted: list[Oldest]) -> None:
        """Drop the values that are too old once one comes at a time, and note them, oldest first.

        The adder does the same by itself.
        """

    def undoing_adder(self) -> Add:
        """As `adder`, but if a function raises the window is as if the value had not come."""
        add, evict = self.adder(), self.evict

        def undoing_add(window: Window, value: Any, at_us: int) -> Any:
            evicted: list[Oldest] = []
            back, back_at, total = window.back, window.back_at, window.back_total
            count = len(back)
            try:
                evict(window, at_us, evicted)
                if window.back is not back:
                    back, back_at, count = window.back, window.back_at, 0
                return add(window, value, at_us)
            except BaseException:
                del back[count:], back_at[count:]
                window.back_total = total
                for oldest, its_total, its_at_us in reversed(evicted):
                    window.front.append(oldest)
                    window.totals.append(its_total)
                    window.front_at.extend(its_at_us)
                raise

        return undoing_add

    def turn_over(self, window: Window) -> None:
        """Put the values of the back stack on the front stack, which is empty."""
        front = window.back[::-1]
        # First, as it calls what may raise.
        window.totals = self._totals(front)
        window.front, window.back = front, []
        window.front_at, window.back_at = window.back_at[::-1], []

    def _totals(self, front: list[Any]) -> list[Any]:
        """What the values of the front stack come to."""
        return list(accumulate(front, _neither if self._combine is None else self._combine))

    def restored(self, stored: Stored) -> Window:
        """The window that is stored."""
        values, at_us, front = stored
        window = Window()
        window.front, window.back = values[:front][::-1], values[front:]
        window.front_at, window.back_at = at_us[:front][::-1], at_us[front:]
        window.totals = self._totals(window.front)
        if self._combine is not None and window.back:
            window.back_total = functools.reduce(self._combine, window.back)
        return window


class LatestValues(Rolling):
    """Windows of so many values."""

    def __init__(
        self, size: int, combine: Combine | None, emit: Emit | None = None, *, mean: bool = False
    ) -> None:
        super().__init__(combine, emit, mean=mean)
        self._size = size

    def adder(self) -> Add:
        """As said there."""
        size, turn_over, emit = self._size, self.turn_over, self._emit
        combine, mean = self._combine or _neither, self._mean

        def add(window: Window, value: Any, _at_us: int) -> Any:
            front, back = window.front, window.back
            if len(front) + len(back) == size:
                if not front:
                    turn_over(window)
                    front, back = window.front, window.back
                front.pop()
                window.totals.pop()
            total = window.back_total = combine(window.back_total, value) if back else value
            back.append(value)
            if front:
                total = combine(window.totals[-1], total)
            if mean:
                return total / (len(window.front) + len(back))
            return total if emit is None else emit(window)

        return add

    def evict(self, window: Window, at_us: int, evicted: list[Oldest]) -> None:  # noqa: ARG002 - by number
        """As said there."""
        if len(window.front) + len(window.back) == self._size:
            if not window.front:
                self.turn_over(window)
            evicted.append((window.front.pop(), window.totals.pop(), ()))


class LatestTime(Rolling):
    """Windows of all values that came later than so many microseconds before the latest one."""

    def __init__(
        self, span_us: int, combine: Combine | None, emit: Emit | None = None, *, mean: bool = False
    ) -> None:
        super().__init__(combine, emit, mean=mean)
        self._span_us = span_us

    def adder(self) -> Add:
        """As said there.

        Values leave in the order in which they came. So one that comes late leaves when the latest
        before it does, as if it had come with that.
        """
        span_us, turn_over, emit = self._span_us, self.turn_over, self._emit
        combine, mean = self._combine or _neither, self._mean

        def add(window: Window, value: Any, at_us: int) -> Any:
            back, back_at, front_at = window.back, window.back_at, window.front_at
            over_us = at_us - span_us
            while front_at or (back and back_at[0] <= over_us):
                if not front_at:
                    turn_over(window)
                    back, back_at, front_at = window.back, window.back_at, window.front_at
                if front_at[-1] > over_us:
                    break
                front_at.pop()
                window.front.pop()
                window.totals.pop()
            total = window.back_total = combine(window.back_total, value) if back else value
            back.append(value)
            back_at.append(at_us)
            if front_at:
                total = combine(window.totals[-1], total)
            if mean:
                return total / (len(window.front) + len(back))
            return total if emit is None else emit(window)

        return add

    def evict(self, window: Window, at_us: int, evicted: list[Oldest]) -> None:
        """As said there."""
        over_us = at_us - self._span_us
        while window.front_at or (window.back and window.back_at[0] <= over_us):
            if not window.front_at:
                self.turn_over(window)
            if window.front_at[-1] > over_us:
                break
            its_at_us = (window.front_at.pop(),)
            evicted.append((window.front.pop(), window.totals.pop(), its_at_us))


def _neither(_one: object, _other: object) -> Any:
    """The total where nobody asks for one."""
    return None
