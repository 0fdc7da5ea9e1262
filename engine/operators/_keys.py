"""Which keys are allowed, and the order among keys of different types.

Used by `key_on`, by every keyed step, and by the exchange that routes records by key.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, cast

from engine.errors import UserCodeError
from engine.operators._shown import shown

Key: TypeAlias = str | bytes | int | tuple["Key", ...]
"""What may be a key. `bool`, `float` and None are not: they compare equal to other keys."""

K = TypeVar("K")
V = TypeVar("V")

_ORDER: dict[type, int] = {int: 0, str: 1, bytes: 2}


def check_key(key: object) -> None:
    """Refuse what can't be a key.

    Raises:
        UserCodeError: `key` is neither `str`, `bytes`, `int` nor a tuple of these.

    >>> check_key("a")
    >>> check_key(("a", 1))
    >>> check_key(1.5)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    engine.errors.UserCodeError: a key must be a `str`, `bytes`, `int` or a tuple...; got 1.5...
    """
    if not _is_key(key):
        msg = f"a key must be a `str`, `bytes`, `int` or a tuple of these; got {shown(key)}"
        raise UserCodeError(msg, hint="convert the key, for example with `str(...)`, in `key_on`")


def _is_key(key: object) -> bool:
    if type(key) in (str, bytes, int):
        return True
    if isinstance(key, tuple):
        return all(_is_key(part) for part in cast("tuple[object, ...]", key))
    return isinstance(key, str | bytes | int) and not isinstance(key, bool)


def is_pair(record: object) -> bool:
    """Whether something is a 2-tuple, or of a subclass such as a named tuple."""
    return isinstance(record, tuple) and len(record) == 2  # pyright: ignore[reportUnknownArgumentType]


def refuse_unkeyed(record: object) -> None:
    """Refuse a record that isn't a ``(key, value)`` 2-tuple; subclasses of `tuple` may pass.

    Raises:
        UserCodeError: It is something else.
    """
    if is_pair(record):
        return
    msg = f"a keyed step needs `(key, value)` 2-tuples from upstream; got {shown(record)}"
    raise UserCodeError(
        msg, hint="give the stream keys first, with `op.key_on`, or map to `(key, value)`"
    )


def key_and_value(record: tuple[K, V]) -> tuple[K, V]:
    """A record of a keyed stream, made sure to be a pair.

    Raises:
        UserCodeError: It isn't.
    """
    if record.__class__ is not tuple or len(record) != 2:
        refuse_unkeyed(record)
    return record


def key_order(key: Any) -> tuple[Any, ...]:
    """A sort key by which keys of all allowed types have one order: ints, texts, bytes, tuples.

    >>> sorted(["b", 2, "a", (1, "x")], key=key_order)
    [2, 'a', 'b', (1, 'x')]
    """
    if isinstance(key, tuple):
        return (3, tuple(key_order(part) for part in key))  # pyright: ignore[reportUnknownVariableType]
    return next((rank, key) for kind, rank in _ORDER.items() if isinstance(key, kind))


def sorted_keys(keys: Any) -> list[Any]:
    """Keys in their one order; plain comparison where all are of one type, as nearly always."""
    found = list(keys)
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=key_order)
