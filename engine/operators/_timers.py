"""One pending timer per key, in order of time.

A binary heap with lazy deletion: setting a key's timer anew leaves its old entry in the heap, to
be thrown away when it comes up. Used by the keyed steps that can be notified.
"""

from __future__ import annotations

import heapq
from typing import Any


class Timers:
    """When each key wants to be notified, in seconds since 1970 UTC.

    >>> timers = Timers()
    >>> timers.set("a", 2.0); timers.set("b", 1.0); timers.set("a", None)
    >>> timers.first_s()
    1.0
    >>> timers.pop_due(5.0)
    ['b']
    """

    def __init__(self) -> None:
        self.due_s: dict[Any, float] = {}
        """When each key is due. To be read only."""
        self._heap: list[tuple[float, int, Any]] = []
        self._sequence = 0

    def set(self, key: Any, due_s: float | None) -> None:
        """Set, move, or (with None) cancel the timer of a key."""
        if due_s is None:
            self.due_s.pop(key, None)
            return
        if self.due_s.get(key) == due_s:
            return
        self.due_s[key] = due_s
        self._sequence += 1
        heapq.heappush(self._heap, (due_s, self._sequence, key))
        if len(self._heap) > 64 and len(self._heap) > 3 * len(self.due_s):
            self._rebuild()

    def first_s(self) -> float | None:
        """The time of the earliest timer, or None."""
        heap, due = self._heap, self.due_s
        while heap:
            due_s, _, key = heap[0]
            if due.get(key) == due_s:
                return due_s
            heapq.heappop(heap)
        return None

    def pop_due(self, now_s: float) -> list[Any]:
        """Keys whose time has come, earliest first; their timers are spent."""
        keys: list[Any] = []
        while (first := self.first_s()) is not None and first <= now_s:
            key = heapq.heappop(self._heap)[2]
            del self.due_s[key]
            keys.append(key)
        return keys

    def _rebuild(self) -> None:
        """Drop the entries of moved and cancelled timers, so that the heap stays in proportion."""
        order = {entry[2]: entry for entry in self._heap if self.due_s.get(entry[2]) == entry[0]}
        self._heap = list(order.values())
        heapq.heapify(self._heap)
