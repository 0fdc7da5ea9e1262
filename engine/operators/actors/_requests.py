"""Calls that handlers have made apart from them, by `Context.task`: what is asked for and saved."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict

from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks import Retry
from engine.operators.tasks._executor import AsyncExecutor, executor_name, executor_of, is_async
from engine.operators.tasks._policies import check_span

_FUNCTIONS: Final = 256
"""So many are remembered, as it takes long to see what they are."""


class TaskOptions(TypedDict, total=False):
    """What `Context.task` may be told besides its function and its methods."""

    executor: Literal["inline", "async", "thread", "process"] | None
    timeout: timedelta | None
    retry: Retry | None


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A call that an actor waits for."""

    work: bytes
    """The function and its arguments, pickled."""
    executor: str
    """Where it runs, by its name in `op.task`."""
    timeout: timedelta | None
    retry: Retry
    tries: int = 0
    """How often it has failed."""
    deaths: int = 0
    """How often of that its process has died."""

    def args(self) -> tuple[Any, ...]:
        """Its arguments."""
        args: tuple[Any, ...] = pickle.loads(self.work)[1]  # noqa: S301 - of `request_of`
        return args


def request_of(fn: Callable[..., Any], args: tuple[Any, ...], options: TaskOptions) -> TaskRequest:
    """What to save of a call.

    Args:
        fn: The function.
        args: Its arguments.
        options: What the user said.

    Raises:
        UserCodeError: It can't be called so, or can't be saved.
    """
    unknown = options.keys() - TaskOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(f"`{name}`" for name in TaskOptions.__annotations__)
        msg = f"`ctx.task` knows {known}, not {', '.join(sorted(unknown))!r}"
        raise UserCodeError(msg)
    executor = _executor_for(fn, options.get("executor"))
    timeout, retry = options.get("timeout"), options.get("retry")
    if timeout is not None:
        _check_timeout(timeout)
    if retry is not None and not isinstance(retry, Retry):
        msg = f"`retry` of `ctx.task` must be a `engine.operators.tasks.Retry`; got {retry!r}"
        raise UserCodeError(msg)
    try:
        work = pickle.dumps((fn, args), 5)
    except Exception as ex:
        msg = (
            f"what `ctx.task` calls is saved with the actor, so {f_repr(fn)} must be a function "
            f"that can be imported by its name, and its arguments must be picklable: {ex}"
        )
        raise UserCodeError(msg, function=fn) from ex
    return TaskRequest(work, executor, timeout, Retry() if retry is None else retry)


def _looked_at(fn: Callable[..., Any]) -> bool:
    """Whether a function is ``async def``, if it can be called at all."""
    if not callable(fn):
        msg = f"`ctx.task` takes a function to call; got {fn!r}"
        raise UserCodeError(msg)
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        msg = f"{f_repr(fn)} is a generator function, whose result can't be saved: return a list"
        raise UserCodeError(msg, function=fn)
    return is_async(fn)


_known = functools.lru_cache(_FUNCTIONS)(_looked_at)


def _executor_for(fn: Callable[..., Any], named: str | None) -> str:
    awaited = (_known if isinstance(fn, Hashable) else _looked_at)(fn)
    if named is None:
        return "async" if awaited else "thread"
    try:
        executor = executor_of(named)
    except (TypeError, ValueError) as ex:
        msg = f"`ctx.task`: {ex}"
        raise UserCodeError(msg) from None
    if awaited and not isinstance(executor, AsyncExecutor):
        msg = f"{f_repr(fn)} is `async def`, which takes executor='async'"
        raise UserCodeError(msg, function=fn)
    return executor_name(executor)


def _check_timeout(timeout: timedelta) -> None:
    try:
        check_span("timeout", timeout)
    except (TypeError, ValueError) as ex:
        msg = f"`ctx.task`: {ex}"
        raise UserCodeError(msg) from None
    if not timeout:
        msg = "`timeout` of `ctx.task` must be above zero"
        raise UserCodeError(msg)


class Requested:
    """Does what requests ask for: the function of an executor.

    Args:
        module: The name of the user's module, which other processes must find too.
    """

    def __init__(self, module: str) -> None:
        self.__module__ = module
        self.__qualname__ = "ctx.task"

    def __call__(self, work: bytes) -> Any:
        """Call the function that was pickled."""
        fn, args = pickle.loads(work)  # noqa: S301 - of `request_of`
        return fn(*args)


class RequestedAsync(Requested):
    """As `Requested`, for functions that are awaited."""

    async def __call__(self, work: bytes) -> Any:
        """Call the function that was pickled, and wait for it."""
        fn, args = pickle.loads(work)  # noqa: S301 - of `request_of`
        return await fn(*args)
