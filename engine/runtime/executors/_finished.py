"""The completions that wait for the worker's thread, and the call that wakes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from engine.operators.tasks import Completion


class Finished:
    """Any thread puts completions in, the worker's takes them out.

    No lock: whoever puts something in looks at `_told` after that, and the worker resets it before
    it looks. So either the worker sees what was put in, or it is woken.

    Args:
        wake: Wakes the worker.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._queue: deque[Completion] = deque()
        self._told = False

    def add(self, completion: Completion) -> None:
        """A call has ended."""
        self._queue.append(completion)
        if not self._told:
            self._told = True
            self._wake()

    def add_all(self, completions: Iterable[Completion]) -> None:
        """Some calls have ended."""
        self._queue.extend(completions)
        if not self._told and self._queue:
            self._told = True
            self._wake()

    def __len__(self) -> int:
        return len(self._queue)

    def take(self) -> list[Completion]:
        """Everything that is there."""
        self._told = False
        queue = self._queue
        taken: list[Completion] = []
        while queue:
            taken.append(queue.popleft())
        return taken
