"""Mails: what lies in the mailboxes of actors. Made by contexts and by the table of actors.

A mail is a tuple, because one is made for each message: its kind, the message, who sent it, what
belongs to it, and the row that it is in if the store has it. Messages of which somebody may still
hold an object that can change are in it as bytes.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

from engine.errors import UserCodeError
from engine.operators._shown import shown
from engine.operators.actors._ref import Ref

Row: TypeAlias = tuple[int, int]
"""Its number among those of its actor, and how many mails are in it."""
Mail: TypeAlias = tuple[int, Any, Ref | None, int | None, Row | None]
"""Kind, message, sender, number of the ask that it is or answers, the row that it is in."""

TELL: Final = 0
ASK: Final = 1
REPLY: Final = 2
TIMEOUT: Final = 3
"""No answer has come to an ask in time."""
SIGNAL: Final = 4
SPAWN: Final = 5
"""The sender is the parent from now on."""
WATCH: Final = 6
"""The sender wants to hear of the end."""
UNSPAWN: Final = 7
"""The sender, a child, has stopped."""
STOP: Final = 8

SCALARS: Final = frozenset(
    {str, int, float, bool, bytes, type(None), datetime, date, timedelta, Decimal, UUID, complex}
)
"""Values of these never change."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A message as bytes."""

    data: bytes


def packed(message: Any) -> Any:
    """A message as it is now, whatever is done to the object afterwards.

    Raises:
        UserCodeError: It can't be pickled.
    """
    if is_fixed(message):
        return message
    try:
        return Packed(pickle.dumps(message, 5))
    except Exception as ex:
        msg = f"messages to actors must be picklable; {shown(message)} isn't: {ex}"
        raise UserCodeError(msg) from ex


def unpacked(message: Any) -> Any:
    """The message again, an object of its own if it can change."""
    if message.__class__ is Packed:
        return pickle.loads(message.data)  # noqa: S301 - written by `packed`
    return message


def is_fixed(value: Any) -> bool:
    """Whether a value, with all that it refers to, can't change."""
    kind = value.__class__
    if kind in SCALARS:
        return True
    if kind is tuple or kind is Ref:
        return all(map(is_fixed, value))
    if kind not in _FROZEN:
        _FROZEN[kind] = _frozen_fields(kind)
    fields = _FROZEN[kind]
    if fields is None:
        return False
    # All that it has, which may be more than its fields.
    parts = value.__dict__.values() if not fields else [getattr(value, name) for name in fields]
    for part in parts:  # noqa: SIM110 - once for most messages, and `all` takes twice as long
        if part.__class__ not in SCALARS and not is_fixed(part):
            return False
    return True


_FROZEN: dict[type, tuple[str, ...] | None] = {}
"""Of classes that were met, if they are frozen dataclasses: the names of their slots, if they have
any."""


def _frozen_fields(kind: type) -> tuple[str, ...] | None:
    if is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined] # typeshed doesn't tell of it
        return tuple(kind.__dataclass_fields__) if hasattr(kind, "__slots__") else ()
    return None
