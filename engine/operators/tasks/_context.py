"""What a function can know of the task that it is called for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    give the id to another record."""
    idempotency_key: str
    """What `idempotency` makes of the record; the `task_id` without it."""
    attempt: int
    """Which try this is, from 1 on."""


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
