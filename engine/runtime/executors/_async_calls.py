"""Calls on the event loop that may have subtasks: they wait as coroutines do."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, cast

from engine.dataflow._callable_name import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks._callers import Ask, Caller, call, results_of
from engine.operators.tasks._requests import GivesUp, Invocation, Outcome, Waits


class _AsyncCaller(Caller):
    on_loop = True

    async def _gathered(self, numbers: tuple[int, ...], *, takes_failures: bool) -> Any:
        if not numbers:
            return []
        loop, wait = asyncio.get_running_loop(), self._next_wait()
        there = loop.create_future()

        def give(outcomes: list[Outcome] | None) -> None:
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, there, outcomes)

        self._ask(Waits(self._call_id, wait, numbers, takes_failures, give))
        try:
            outcomes = await there
        except asyncio.CancelledError:
            self._ask(GivesUp(self._call_id, wait))
            raise
        return results_of(outcomes, takes_failures=takes_failures)


def _set(future: asyncio.Future[Any], outcomes: list[Outcome] | None) -> None:
    if not future.done():
        future.set_result(outcomes)


class AsyncInvoker:
    """Calls what an invocation says on an event loop.

    Args:
        fn: The step's function, as a `WithContext`.
        ask: Takes what calls ask of the worker.
    """

    def __init__(self, fn: Callable[[Any], Any], ask: Ask) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._ask = ask

    async def __call__(self, invocation: Invocation) -> Any:
        """Call it."""
        caller = None if invocation.context is None else _AsyncCaller(invocation, self._ask)
        try:
            awaitable = call(self._fn, invocation, caller)
            if not inspect.isawaitable(awaitable):
                raise self._not_async(invocation)
            return await cast("Coroutine[Any, Any, Any]", awaitable)
        finally:
            if caller is not None:
                caller.end()

    def _not_async(self, invocation: Invocation) -> UserCodeError:
        fn = self._fn if invocation.work is None else invocation.work.function
        return UserCodeError(
            f"{f_repr(fn)} returned nothing to await, and blocks the event loop",
            function=fn,
            hint="make it `async def`, or give the step executor='thread'",
        )
