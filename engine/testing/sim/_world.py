"""The fakes a simulation runs in: a clock that jumps, and a network that delays."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Generic, TypeVar

from engine.runtime import EdgeId, Network, WorkerIndex

X = TypeVar("X")


class FakeClock:
    """Both clocks of `engine.runtime`, moved by the simulation alone.

    Args:
        start_s: What the wall clock shows at first, in seconds since 1970 UTC.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._elapsed_s = 0.0

    def monotonic_s(self) -> float:
        """Seconds since the simulation began."""
        return self._elapsed_s

    def time_s(self) -> float:
        """The wall clock."""
        return self._start_s + self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Let time pass; never back."""
        self._elapsed_s += max(0.0, seconds)


class Line(Generic[X]):
    """One direction between two places: first in, first out, each item after a delay.

    Args:
        clock: Shows when an item comes out.
        rng: Draws how slow the line is, and how long each item takes.
        delay_max_s: How long an item takes at most; 0 for no time at all.
    """

    __slots__ = ("_clock", "_delay_max_s", "_items", "_rng")

    def __init__(self, clock: FakeClock, rng: Random, delay_max_s: float) -> None:
        self._clock = clock
        self._rng = rng
        self._delay_max_s = rng.choice((0.0, 0.05, 1.0)) * delay_max_s if delay_max_s else 0.0
        self._items: deque[tuple[float, X]] = deque()

    def put(self, item: X) -> None:
        """Put an item under way."""
        ready_s = 0.0
        if self._delay_max_s:
            ready_s = self._clock.monotonic_s() + self._rng.random() * self._delay_max_s
            if self._items:
                ready_s = max(ready_s, self._items[-1][0])
        self._items.append((ready_s, item))

    def take(self) -> X:
        """The oldest item."""
        return self._items.popleft()[1]

    def ready_s(self) -> float:
        """When the oldest item comes out, on the monotonic clock; infinity if there is none."""
        return self._items[0][0] if self._items else math.inf


class FakeNetwork(Network):
    """Keeps what workers send until the scheduler delivers it.

    Args:
        new_line: Makes the line for one more link.
    """

    def __init__(self, new_line: Callable[[], Line[Callable[[], None]]]) -> None:
        self._new_line = new_line
        self._links: dict[tuple[str, int, int, int], Line[Callable[[], None]]] = {}
        self._receive: list[Callable[[EdgeId, WorkerIndex, Any], None]] = []
        self._credit: list[Callable[[EdgeId, WorkerIndex], None]] = []

    def connect(
        self,
        receive: Callable[[EdgeId, WorkerIndex, Any], None],
        credit: Callable[[EdgeId, WorkerIndex], None],
    ) -> None:
        """Add the next worker, by its functions that take items and credit."""
        self._receive.append(receive)
        self._credit.append(credit)

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        """Put an item under way, as it is."""
        deliver = self._receive
        self._put(("item", edge, sender, receiver), lambda: deliver[receiver](edge, sender, item))
        return 0

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        """Put credit under way, back to the sender."""
        deliver = self._credit
        self._put(("credit", edge, sender, receiver), lambda: deliver[sender](edge, receiver))

    def _put(self, link: tuple[str, int, int, int], deliver: Callable[[], None]) -> None:
        line = self._links.get(link)
        if line is None:
            line = self._links[link] = self._new_line()
        line.put(deliver)

    def ready(self, now_s: float) -> list[Line[Callable[[], None]]]:
        """The links whose oldest item could be delivered now."""
        return [line for line in self._links.values() if line.ready_s() <= now_s]

    def next_s(self) -> float:
        """When the next item comes out, on the monotonic clock."""
        return min((line.ready_s() for line in self._links.values()), default=math.inf)
