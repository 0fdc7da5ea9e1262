"""Mails: what lies in the mailboxes of actors. Made by contexts and by the table of actors.

A mail is a tuple, because one is made for each message: its kind, the message, who sent it, what
belongs to it, and the row that it is in if the store has it. Messages of which somebody may still
hold an object that can change are in it as bytes.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from engine.errors import UserCodeError
from engine.operators._shown import shown
from engine.operators.actors._fixed import is_fixed
from engine.operators.actors._ref import Ref

Row: TypeAlias = tuple[int, int]
"""Its number among those of its actor, and how many mails are in it."""
Mail: TypeAlias = tuple[int, Any, Ref | None, int | None, Row | None]
"""Kind, message, sender, number of the ask or task that it is or answers, the row that it is in."""

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
TASK: Final = 9
"""A call that the actor has asked for. It lies in no mailbox: it is under way."""
RESULT: Final = 10
"""What such a call has returned."""
FAILED: Final = 11
"""What it has raised."""


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
