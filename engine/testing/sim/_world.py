"""The fakes a simulation runs in: a clock that jumps and a network that delays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from engine.runtime import EdgeId, Network, WorkerIndex


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


class FakeNetwork(Network):
    """Keeps what workers send until the scheduler delivers it, first in first out on each link."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, int, int, int], deque[Callable[[], None]]] = {}
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

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> None:
        """Put an item under way."""
        deliver = self._receive
        self._put("item", edge, sender, receiver, lambda: deliver[receiver](edge, sender, item))

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        """Put credit under way, back to the sender."""
        deliver = self._credit
        self._put("credit", edge, sender, receiver, lambda: deliver[sender](edge, receiver))

    def _put(
        self, kind: str, edge: int, sender: int, receiver: int, deliver: Callable[[], None]
    ) -> None:
        self._links.setdefault((kind, edge, sender, receiver), deque()).append(deliver)

    def deliveries(self) -> Iterator[Callable[[], None]]:
        """For each link with something on it, a call that delivers the oldest item."""
        for link in self._links.values():
            if link:
                yield lambda link=link: link.popleft()()  # type: ignore[misc]
