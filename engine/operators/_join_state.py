"""What a join remembers of a key, and how values get into it: shared by `join` and its kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

JoinInsertMode: TypeAlias = Literal["first", "last", "product"]
"""What `join` does with a second value of one side for the same key."""

JoinEmitMode: TypeAlias = Literal["complete", "final", "running"]
"""When `join` emits."""

Seen: TypeAlias = list[Any]
"""The values of a key by side: a list of them for each, or an empty tuple where there is none.

Values are wrapped, so that a None that a side did send differs from none sent at all.
"""

_MISSING = (None,)


def insert_first(seen: Seen, side: int, value: Any) -> None:
    """Keep the value if it is the first of its side."""
    if not seen[side]:
        seen[side] = [value]


def insert_last(seen: Seen, side: int, value: Any) -> None:
    """Keep the value in the place of any before it."""
    seen[side] = [value]


def insert_product(seen: Seen, side: int, value: Any) -> None:
    """Keep the value with all before it."""
    if seen[side]:
        seen[side].append(value)
    else:
        seen[side] = [value]


INSERTS: dict[JoinInsertMode, Callable[[Seen, int, Any], None]] = {
    "first": insert_first,
    "last": insert_last,
    "product": insert_product,
}


def rows(seen: Seen) -> list[tuple[Any, ...]]:
    """All combinations of a value per side, with None for a side without.

    >>> rows([["a", "b"], [1]])
    [('a', 1), ('b', 1)]
    >>> rows([["a"], ()])
    [('a', None)]
    """
    return list(itertools.product(*[values or _MISSING for values in seen]))
