"""Threads for what tasks on the event loop hand to `asyncio.to_thread`.

Python's own pool joins its threads before the process may leave, so a blocking call that never
comes back would keep a job that has ended. Asyncio takes nothing but that pool as a loop's default,
so this is one, with threads that are daemons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS_MAX = 32


class DaemonThreads(ThreadPoolExecutor):
    """Runs functions on threads that keep nobody from leaving. One thread submits."""

    def __init__(self) -> None:
        super().__init__(_THREADS_MAX)
        self._todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._free = threading.Semaphore(0)
        """As many as there are threads that wait for something to do."""
        self._made = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As in `concurrent.futures`."""
        future = Future[T]()
        self._todo.put((future, lambda: fn(*args, **kwargs)))
        if not self._free.acquire(blocking=False) and self._made < _THREADS_MAX:
            self._made += 1
            name = f"engine-event-loop-thread-{self._made}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def _work(self) -> None:
        while (todo := self._todo.get()) is not None:
            future, call = todo
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as ex:  # noqa: BLE001 - all is for who waits for it
                    future.set_exception(ex)
            # A thread that waits must not keep what users may wait to see gone.
            del todo, future, call
            self._free.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as there
        """As in `concurrent.futures`, but it never waits: calls that run are left to themselves."""
        del wait
        if cancel_futures:
            while not self._todo.empty():
                if (todo := self._todo.get()) is not None:
                    todo[0].cancel()
        for _ in range(self._made):
            self._todo.put(None)
