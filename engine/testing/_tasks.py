"""Run one function with its subtasks, as a task of a flow would."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar, overload

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators.tasks import AnyExecutor, TaskContext, TaskError, task
from engine.operators.tasks._context import takes_context
from engine.operators.tasks._executor import is_async
from engine.testing._kit import TestingSink
from engine.testing._runs import run_main
from engine.testing._source import TestingSource

T = TypeVar("T")
Named = Literal["inline", "async", "thread", "process"] | AnyExecutor | None


@overload
def run_tasks(
    fn: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    executor: Named = None,
    **options: Any,
) -> T: ...


@overload
def run_tasks(fn: Callable[..., T], *args: Any, executor: Named = None, **options: Any) -> T: ...


def run_tasks(fn: Callable[..., Any], *args: Any, executor: Named = None, **options: Any) -> Any:
    """Call a function as a task: for tests of functions with subtasks, and for scripts.

    Args:
        fn: What to call; if it has a parameter ``ctx``, it gets a `TaskContext`, by which it can
            submit subtasks.
        args: What to call it with, besides that.
        executor: Where it and its subtasks are called, as in `engine.operators.tasks.task`:
            ``"async"`` for an ``async def`` if left out, ``"thread"`` for others.
        options: More parameters of `engine.operators.tasks.task`, such as `max_in_flight`,
            `timeout` and `retry`.

    Returns:
        What it returns.

    Raises:
        BaseException: What it has raised, in the last of its tries.
        TypeError: It can't be called, or not by this executor; or there is no such option.

    >>> from engine.testing import run_tasks
    >>> def total(numbers, ctx):
    ...     squares = ctx.gather(*[ctx.submit(pow, number, 2) for number in numbers])
    ...     return sum(squares)
    >>> run_tasks(total, [1, 2, 3])
    14
    """
    flow = Dataflow("run_tasks")
    results: list[Any] = []
    errors: list[TaskError[Any]] = []
    once = op.input("in", flow, TestingSource([args]))
    called = task("call", once, _spread(fn), executor=executor, **options)
    op.output("out", called.ok, TestingSink(results))
    op.output("failed", called.errors, TestingSink(errors))
    run_main(flow)
    if errors:
        raise errors[0].exception
    return results[0]


def _spread(fn: Callable[..., Any]) -> Any:
    """A function of one record, which is the arguments of another one."""
    if not callable(fn):
        return fn  # `task` says so.
    if is_async(fn):
        return _AsyncWithContext(fn) if takes_context(fn) else _Async(fn)
    return _WithContext(fn) if takes_context(fn) else _Plain(fn)


class _Plain:
    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self.__name__ = getattr(fn, "__name__", repr(fn))

    def __call__(self, args: tuple[Any, ...]) -> Any:
        return self._fn(*args)


class _WithContext(_Plain):
    def __call__(self, args: tuple[Any, ...], ctx: TaskContext) -> Any:  # type: ignore[override] # one more than the other has
        return self._fn(*args, ctx=ctx)


class _Async(_Plain):
    async def __call__(self, args: tuple[Any, ...]) -> Any:
        return await self._fn(*args)


class _AsyncWithContext(_Plain):
    async def __call__(self, args: tuple[Any, ...], ctx: TaskContext) -> Any:  # type: ignore[override] # as above
        return await self._fn(*args, ctx=ctx)
