"""What a function can know of the task that it is called for, and what it can have done."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from engine.errors import UserCodeError
from engine.operators.tasks._futures import Calls, Gathered, TaskFuture
from engine.operators.tasks._resources import Resources

T = TypeVar("T")

NAME = "ctx"
"""The parameter that asks for it."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The task that a function is called for: given to functions with a parameter ``ctx``.

    >>> from engine.operators.tasks import TaskContext
    >>> def charge(order, ctx: TaskContext):
    ...     return {"id": ctx.idempotency_key, **order}
    """

    task_id: str
    """Unique in the step among tasks of durable epochs: with ``submit="after_commit"`` the same
    record always has the same, in all tries and after a crash. With ``submit="now"`` a crash may
    give the id to another record. That of a subtask begins with that of its task, and ends with its
    number, so it is the same again if the function always submits the same in the same order."""
    idempotency_key: str
    """What `idempotency` makes of the record; the `task_id` without it. That of a subtask ends with
    its number."""
    attempt: int
    """Which try this is, from 1 on; in a subtask, that of its task."""
    calls: Calls | None = field(default=None, repr=False, compare=False)
    """The call that runs, to its executor; None where it can't have subtasks."""

    @overload
    def submit(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        resources: Resources | None = None,
        **kwargs: Any,
    ) -> TaskFuture[T]: ...

    @overload
    def submit(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        resources: Resources | None = None,
        **kwargs: Any,
    ) -> TaskFuture[T]: ...

    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        resources: Resources | None = None,
        **kwargs: Any,
    ) -> TaskFuture[Any]:
        """Have a function called as a subtask, by the executor that runs this task.

        It never waits: thousands can be submitted. They run as there is room for them, the deepest
        first, and those of a call in their order. Running calls, tasks and subtasks together, are
        never more than the step's `max_in_flight`.

        **Types.** Arguments may be futures of this call, themselves or in a list, tuple or dict
        that is an argument (not deeper in): `fn` gets their results. So types of arguments can't be
        checked against `fn`'s. If `fn` has a parameter ``ctx``, it gets a context of its own, with
        which it may submit too, up to 32 calls deep. On an event loop, `fn` must be ``async def``;
        elsewhere it must not be. On processes, it goes by the name that it has in its module, and
        arguments and results are pickled.

        **Errors.** What `fn` raises is raised by `gather` or `result`. A task isn't over until its
        subtasks are. If one has failed, and nobody has asked for its result, the task fails with
        it. When a task fails or is given up, its subtasks are given up. A subtask whose process
        dies is tried again, as the step's `Retry` says; exceptions are up to the caller, and the
        step's own retry makes the whole task again. So does a restart.

        Args:
            fn: What to call.
            args: Its arguments.
            resources: What it takes of the worker while it runs; nothing if left out.
            kwargs: Its arguments by name.

        Raises:
            UserCodeError: The call that this context was made for is over, or isn't the one that
                asks; or `fn` can't be called here.

        >>> from engine.operators.tasks import TaskContext
        >>> from engine.testing import run_tasks
        >>> def total(numbers: list[int], ctx: TaskContext) -> int:
        ...     halves = [numbers[::2], numbers[1::2]]
        ...     return ctx.submit(sum, [ctx.submit(sum, half) for half in halves]).result()
        >>> run_tasks(total, [1, 2, 3, 4])
        10
        """
        return self._calls_here().submit(fn, args, kwargs, resources)

    @overload
    def gather(
        self, *futures: TaskFuture[T], return_exceptions: Literal[False] = False
    ) -> Gathered[T]: ...

    @overload
    def gather(
        self, *futures: TaskFuture[T], return_exceptions: bool
    ) -> Gathered[T | BaseException]: ...

    def gather(self, *futures: TaskFuture[Any], return_exceptions: bool = False) -> Gathered[Any]:
        """Wait for subtasks of this call. In an ``async def``: ``await ctx.gather(...)``.

        Meanwhile others can run in this call's place, and with its resources.

        Args:
            futures: What `submit` has given, in any order.
            return_exceptions: Put exceptions in place of results. If not, the first is raised, and
                those of `futures` that have not ended are given up.

        Returns:
            The results, in the order of `futures`.

        Raises:
            BaseException: What a subtask has raised.
            SubtaskCancelledError: One of them was given up.
            UserCodeError: One of them is no future of this call; or the call is over.

        >>> from engine.testing import run_tasks
        >>> def lengths(words, ctx):
        ...     return ctx.gather(*[ctx.submit(len, word) for word in words])
        >>> run_tasks(lengths, ["to", "be"])
        [2, 2]
        """
        gathered: Gathered[Any] = self._calls_here().gather(
            futures, return_exceptions=return_exceptions
        )
        return gathered

    def of_subtask(self, number: int) -> TaskContext:
        """The context of a subtask with that number, but for `calls`."""
        task_id, key = f"{self.task_id}.{number}", f"{self.idempotency_key}.{number}"
        return TaskContext(task_id, key, self.attempt)

    def _calls_here(self) -> Calls:
        if self.calls is None:
            msg = "this context can't have subtasks run: it was not made by one of our executors"
            hint = "in tests, call the function by `engine.testing.run_tasks`"
            raise UserCodeError(msg, hint=hint)
        return self.calls


def takes_context(fn: Callable[..., Any]) -> bool:
    """Whether a function has a parameter for the context."""
    try:
        return NAME in inspect.signature(fn).parameters
    except (TypeError, ValueError):
        # Some that are written in C don't say what they take.
        return False


class WithContext:
    """Calls a function with the record and the context, which come as a pair.

    Args:
        fn: The user's function.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        # So that messages name the function, and it is known whether it is `async def`.
        functools.update_wrapper(self, fn)
        self._fn = fn

    def __call__(self, pair: tuple[Any, TaskContext]) -> Any:
        """Call it."""
        record, context = pair
        return self._fn(record, ctx=context)
