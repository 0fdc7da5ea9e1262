"""One pending timer per key, in order of time.

A binary heap with lazy deletion: setting a key's timer anew leaves its old entry in the heap, to
be thrown away when it comes up. Used by the keyed steps that can be notified.

With recovery, timers are rows of the store too. Then only those of keys in memory, and those that
are due before long, are here; the rest is looked for in the store every now and then.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from typing import Any

HORIZON_S = 60.0
"""How far ahead timers of keys that aren't in memory are read from the store."""

Scan = Callable[[float], Iterable[tuple[float, Any]]]
"""Gives the stored timers that are due up to a time, as (time, key), of keys not in memory."""


class Timers:
    """When each key wants to be notified, in seconds since 1970 UTC.

    >>> timers = Timers()
    >>> timers.set("a", 2.0); timers.set("b", 1.0); timers.set("a", None)
    >>> timers.first_s()
    1.0
    >>> timers.pop_due(5.0)
    [(1.0, 'b')]
    """

    def __init__(self) -> None:
        self.due_s: dict[Any, float] = {}
        """When each key is due. To be read only."""
        self._heap: list[tuple[float, int, Any]] = []
        self._sequence = 0
        self._scan: Scan | None = None
        self._scanned_until_s = -math.inf

    def attach(self, scan: Scan, now_s: float) -> None:
        """From now on look for timers in the store as well."""
        self._scan = scan
        self._look_ahead(now_s)

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
        """When `pop_due` has something to do next, or None."""
        first_s = self._first_here_s()
        if self._scan is None:
            return first_s
        look_s = self._scanned_until_s - HORIZON_S / 2
        return look_s if first_s is None else min(first_s, look_s)

    def pop_due(self, now_s: float) -> list[tuple[float, Any]]:
        """Keys whose time has come, as (time, key), earliest first; their timers are spent."""
        if self._scan is not None and now_s >= self._scanned_until_s - HORIZON_S / 2:
            self._look_ahead(now_s)
        due: list[tuple[float, Any]] = []
        while (first_s := self._first_here_s()) is not None and first_s <= now_s:
            key = heapq.heappop(self._heap)[2]
            del self.due_s[key]
            due.append((first_s, key))
        return due

    def forget(self, keys: Iterable[Any]) -> None:
        """Drop the timers of keys that leave memory; the store has them, and gives them in time."""
        due_s, until_s = self.due_s, self._scanned_until_s
        for key in keys:
            if due_s.get(key, until_s) > until_s:
                del due_s[key]

    def _first_here_s(self) -> float | None:
        heap, due = self._heap, self.due_s
        while heap:
            due_s, _, key = heap[0]
            if due.get(key) == due_s:
                return due_s
            heapq.heappop(heap)
        return None

    def _look_ahead(self, now_s: float) -> None:
        assert self._scan is not None  # noqa: S101
        self._scanned_until_s = now_s + HORIZON_S
        for due_s, key in self._scan(self._scanned_until_s):
            if key not in self.due_s:
                self.set(key, due_s)

    def _rebuild(self) -> None:
        """Drop the entries of moved and cancelled timers, so that the heap stays in proportion."""
        order = {entry[2]: entry for entry in self._heap if self.due_s.get(entry[2]) == entry[0]}
        self._heap = list(order.values())
        heapq.heapify(self._heap)
