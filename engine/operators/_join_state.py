"""What a join remembers of a key, and how values get into it: shared by joins and kernels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

from engine.errors import UserCodeError
from engine.operators._shown import shown

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


def check_mode(step_id: str, name: str, given: object, allowed: Any) -> None:
    """Refuse what is no mode of a join.

    Raises:
        ValueError: `given` is none of those allowed.
    """
    modes = get_args(allowed)
    if given not in modes:
        wanted = ", ".join(repr(mode) for mode in modes)
        msg = f"`{name}` of step {step_id!r} must be one of {wanted}; got {given!r}"
        raise ValueError(msg)


def labeller(side: int) -> Callable[[Any], tuple[int, Any]]:
    """What puts the number of its side before a value."""
    return lambda value: (side, value)


def migrate_seen(
    migrate: Callable[[int, Any], Any] | None, sides: int
) -> Callable[[int, Any], Any] | None:
    """What brings the stored state of a join to the present version.

    The user's function sees values by side, whatever the form that they are stored in.
    """
    if migrate is None:
        return None

    @functools.wraps(migrate)
    def migrated(version: int, stored: Any) -> Any:
        by_side: Any = migrate(version, _by_side(stored, sides))
        if not _are_sides(by_side, sides):
            wanted = f"a list of {sides} lists, of which one has a value"
            msg = f"`migrate` of a join must return {wanted}; got {shown(by_side)}"
            raise UserCodeError(msg, function=migrate, hint="keep the lists, migrate the values")
        if stored.__class__ is list:
            return by_side
        side = next(side for side, values in enumerate(by_side) if values)
        return side, by_side[side][-1]

    return migrated


def _are_sides(by_side: Any, sides: int) -> bool:
    if by_side.__class__ is not list or len(by_side) != sides:
        return False
    return all(values.__class__ is list for values in by_side) and any(by_side)


def _by_side(stored: Any, sides: int) -> list[list[Any]]:
    """The values in a stored state, which is `Seen` or one value with its side."""
    if stored.__class__ is list:
        return [list(values) for values in stored]
    side, value = stored
    return [[value] if number == side else [] for number in range(sides)]


def rows(seen: Seen) -> list[tuple[Any, ...]]:
    """All combinations of a value per side, with None for a side without.

    >>> rows([["a", "b"], [1]])
    [('a', 1), ('b', 1)]
    >>> rows([["a"], ()])
    [('a', None)]
    """
    return list(itertools.product(*[values or _MISSING for values in seen]))
