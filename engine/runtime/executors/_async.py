"""Tasks on the worker's event loop: each is an asyncio task of its own, in a context of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

from engine.dataflow._callable_name import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks import Call, Completion, Kind, RunningExecutor
from engine.operators.tasks._context import WithContext
from engine.operators.tasks._requests import Request
from engine.runtime.executors._async_calls import AsyncInvoker
from engine.runtime.executors._finished import Finished
from engine.runtime.executors._loop import EventLoopThread

_CALLS_PER_TURN = 500
"""So many begin in one turn of the loop, so that those that run get theirs."""


class AsyncTasks(RunningExecutor):
    """Runs calls on an event loop that it shares with others.

    Args:
        fn: The user's function. If it is a `WithContext`, calls may have subtasks.
        thread: The loop.
        wake: Wakes the worker.
        step_id: For messages.
    """

    def __init__(
        self,
        fn: Callable[[Any], Any],
        thread: EventLoopThread,
        wake: Callable[[], None],
        step_id: str,
    ) -> None:
        self.runs_graphs = isinstance(fn, WithContext)
        self._asked = Finished[Request](wake)
        self._fn = AsyncInvoker(fn, self._asked.add) if self.runs_graphs else fn
        self._thread = thread
        self._loop = thread.loop
        self._step_id = step_id
        self._finished = Finished[Completion](wake)
        self._waiting: deque[Call] = deque()
        self._armed = False
        self._live: dict[int, tuple[asyncio.Task[None], float]] = {}
        """By call: its task and when it began. The loop's thread changes it."""
        self._given_up: set[int] = set()
        """Calls whose end nobody wants to hear of. The loop's thread changes it."""
        self._closed = False

    def submit(self, calls: Sequence[Call]) -> None:
        """As in `RunningExecutor`."""
        self._waiting.extend(calls)
        # Reset before the loop looks, so what it doesn't see sets it again.
        if not self._armed:
            self._armed = True
            self._loop.call_soon_threadsafe(self._begin, context=Context())

    def _begin(self) -> None:
        self._armed = False
        waiting, live, run, create = self._waiting, self._live, self._run, self._loop.create_task
        now_s = time.monotonic()
        for _ in range(_CALLS_PER_TURN):
            if not waiting:
                return
            call = waiting.popleft()
            if self._given_up and call.call_id in self._given_up:
                self._given_up.discard(call.call_id)
                continue
            live[call.call_id] = create(run(call), context=Context()), now_s
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._begin)

    async def _run(self, call: Call) -> None:
        call_id, argument = call
        del call
        try:
            awaitable = self._fn(argument)
            if not inspect.isawaitable(awaitable):
                raise self._not_async()  # noqa: TRY301 - ends as the call's own exceptions do
            completion = Completion(call_id, Kind.RETURNED, await awaitable)
        except BaseException as ex:  # noqa: BLE001 - SystemExit too: a task isn't the worker
            completion = Completion(call_id, Kind.RAISED, ex)
        self._live.pop(call_id, None)
        if call_id in self._given_up:
            self._given_up.discard(call_id)
        elif not self._closed:
            self._finished.add(completion)

    def _not_async(self) -> UserCodeError:
        return UserCodeError(
            f"{f_repr(self._fn)} returned nothing to await, and blocks the event loop",
            function=self._fn,
            hint="make it `async def`, or give the step executor='thread'",
        )

    def completions(self) -> list[Completion]:
        """As in `RunningExecutor`."""
        return self._finished.take()

    def requests(self) -> list[Request]:
        """As in `RunningExecutor`."""
        return self._asked.take()

    def ended(self) -> bool:
        """As in `RunningExecutor`."""
        return bool(self._finished) or bool(self._asked)

    def started_s(self, call_id: int) -> float | None:
        """As in `RunningExecutor`."""
        known = self._live.get(call_id)
        return None if known is None else known[1]

    def cancel(self, call_id: int) -> None:
        """As in `RunningExecutor`. A task that doesn't heed its cancellation runs on."""
        self._loop.call_soon_threadsafe(self._cancel, call_id)

    def _cancel(self, call_id: int) -> None:
        known = self._live.get(call_id)
        if known is not None:
            self._given_up.add(call_id)
            known[0].cancel()
            # One that is cancelled before its first step never gets to clear up itself.
            known[0].add_done_callback(lambda _: self._forget(call_id))
        elif any(call.call_id == call_id for call in list(self._waiting)):
            self._given_up.add(call_id)

    def _forget(self, call_id: int) -> None:
        self._live.pop(call_id, None)
        self._given_up.discard(call_id)

    def close(self, timeout_s: float) -> list[str]:
        """As in `RunningExecutor`. The loop itself goes on, for others."""
        self._closed = True
        over = concurrent.futures.Future[int]()
        self._loop.call_soon_threadsafe(self._end, over, timeout_s)
        try:
            busy = over.result(timeout_s)
        except TimeoutError:
            busy = len(self._live)
        if not busy:
            return []
        return [f"step {self._step_id!r}: {busy} calls of {f_repr(self._fn)}, on the event loop"]

    def _end(self, over: concurrent.futures.Future[int], timeout_s: float) -> None:
        self._waiting.clear()
        tasks = [task for task, _ in self._live.values()]
        for task in tasks:
            task.cancel()

        async def wait() -> None:
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_s * 0.9)
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                over.set_result(sum(1 for task in tasks if not task.done()))

        self._ending = self._loop.create_task(wait())
