"""The executors of one worker, and the event loop that they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

from engine.operators.tasks import (
    AnyExecutor,
    AsyncExecutor,
    InlineExecutor,
    ProcessExecutor,
    RunningExecutor,
    ThreadExecutor,
)
from engine.runtime.executors._async import AsyncTasks
from engine.runtime.executors._inline import Inline
from engine.runtime.executors._loop import EventLoopThread
from engine.runtime.executors._pool import Pool
from engine.runtime.executors._threads import Threads

Tell: TypeAlias = Callable[[str], None]
"""Takes a line for people, on any thread."""


class Executors:
    """Starts executors for a worker, and stops them together.

    Args:
        tell: Hears of functions that block the event loop, and of modules that take long to load.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._loop: EventLoopThread | None = None
        self._running: list[RunningExecutor] = []

    def start(
        self,
        executor: AnyExecutor,
        fn: Callable[[Any], Any],
        wake: Callable[[], None],
        step_id: str,
    ) -> RunningExecutor:
        """Begin to run calls of a function, as `Executor.start` says.

        Raises:
            TypeError: The function can't be sent to other processes, and must be.
        """
        running: RunningExecutor
        if isinstance(executor, InlineExecutor):
            running = Inline(fn, wake)
        elif isinstance(executor, ThreadExecutor):
            running = Threads(fn, executor, wake, step_id)
        elif isinstance(executor, AsyncExecutor):
            if self._loop is None:
                self._loop = EventLoopThread(self._tell)
            running = AsyncTasks(fn, self._loop, wake, step_id)
        elif isinstance(executor, ProcessExecutor):
            running = Pool(fn, executor, wake, step_id, self._tell)
        else:
            running = executor.start(fn, wake, step_id)
        self._running.append(running)
        return running

    def close(self, timeout_s: float) -> list[str]:
        """Stop all of them, whatever they run, in so many seconds.

        Returns:
            What could not be stopped, in words for people.
        """
        deadline_s = time.monotonic() + timeout_s
        left: list[str] = []
        while self._running:
            # What remains is for all that remain.
            share_s = max(0.0, deadline_s - time.monotonic()) / (len(self._running) + 1)
            left += self._running.pop().close(share_s)
        if self._loop is not None:
            left += self._loop.close(max(0.0, deadline_s - time.monotonic()))
            self._loop = None
        return left
