"""What waits for the worker's thread, such as completions, and the call that wakes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Finished(Generic[T]):
    """Any thread puts something in, the worker's takes it out.

    No lock: whoever puts something in looks at `_told` after that, and the worker resets it before
    it looks. So either the worker sees what was put in, or it is woken.

    Args:
        wake: Wakes the worker.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._queue: deque[T] = deque()
        self._told = False

    def add(self, item: T) -> None:
        """Something has happened, such as the end of a call."""
        self._queue.append(item)
        if not self._told:
            self._told = True
            self._wake()

    def add_all(self, items: Iterable[T]) -> None:
        """As `add`, for several."""
        self._queue.extend(items)
        if not self._told and self._queue:
            self._told = True
            self._wake()

    def __len__(self) -> int:
        return len(self._queue)

    def take(self) -> list[T]:
        """Everything that is there."""
        self._told = False
        queue = self._queue
        taken: list[T] = []
        while queue:
            taken.append(queue.popleft())
        return taken
