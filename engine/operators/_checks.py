"""Checks of what users hand to operators, made while the graph is built."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from engine.dataflow import f_repr


def require_function(step_id: str, name: str, function: Any) -> None:
    """Refuse what can't be called, and coroutine functions, whose results nobody would await.

    Raises:
        TypeError: `function` is not callable, or is an ``async def``.
    """
    require_callable(f"step {step_id!r}", name, function)


def require_callable(owner: str, name: str, function: Any) -> None:
    """As `require_function`, for what belongs to something else than a step.

    Raises:
        TypeError: `function` is not callable, or is an ``async def``.
    """
    if not callable(function):
        msg = (
            f"`{name}` of {owner} must be a function; "
            f"got {function!r} of type `{type(function).__name__}`"
        )
        raise TypeError(msg)
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    call_method = getattr(target.__class__, "__call__", None)  # noqa: B004 - of a callable object
    if _is_async(target) or _is_async(call_method):
        msg = (
            f"`{name}` of {owner} is an `async def`: {f_repr(function)}; this operator "
            "would pass coroutines on without running them. Use the `task` operator, which awaits "
            "them"
        )
        raise TypeError(msg)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
