"""How a user's function is named in messages and graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def f_repr(fn: Callable[..., Any]) -> str:
    """A function by module and name, with file and line where it has one.

    >>> f_repr(len)
    '<builtins.len>'
    """
    target: Any = fn
    while isinstance(target, functools.partial):
        target = target.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    module = getattr(target, "__module__", None) or type(target).__module__
    code = getattr(target, "__code__", None)
    where = f" at {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
    return f"<{module}.{name}{where}>"
