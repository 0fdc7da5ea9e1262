"""Rows of mails: what waits for actors, as the store has it, some hundred mails in a row.

A row is in the key group of its actor, so that both go to the same worker if there are more or
fewer of them. Its key has its number, by which the rows of an actor are in their order, and how
many mails are in it, so that a start can count what waits without reading it.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import Any, Final

from engine.errors import DecodeError, EncodeError
from engine.operators._shown import shortened
from engine.operators.actors._life import mail_of, plain_mail
from engine.operators.actors._mail import Mail, Row, unpacked
from engine.operators.actors._ref import Ref

ROW_MAILS: Final = 128
"""So many mails are in a row at most."""


class Spilled:
    """What waits for an actor in the store, and what of it has come back to memory.

    The mails in front come first, then those of the rows; what is in the mailbox itself comes last.
    """

    __slots__ = ("front", "rows")

    def __init__(self) -> None:
        self.front: list[Mail] = []
        self.rows: list[Row] = []


def row_key(address: Any, first: str, row: Row) -> Any:
    """The key of a row.

    Args:
        address: The actor that the mails are for.
        first: The name of the class whose actors have plain keys for addresses.
        row: Its number, and how many mails are in it.
    """
    if address.__class__ is Ref:
        return address[0], None, (address[2], *row)
    return address, None, (first, *row)


def address_of(key: Any, first: str) -> tuple[Any, Row]:
    """The actor and the row that `row_key` made a key of."""
    of_actor, _, (name, *row) = key
    return of_actor if name == first else Ref(name, of_actor), (row[0], row[1])


def numbered(mails: Sequence[Mail], row: Row | None) -> list[Mail]:
    """Mails with the row that they are in from now on."""
    return [(kind, message, sender, ask, row) for kind, message, sender, ask, _ in mails]


def encode_mails(mails: Iterable[Mail], step_id: str, address: Any) -> bytes:
    """The value of a row.

    Raises:
        EncodeError: A message can't be pickled.
    """
    plain = [plain_mail(mail) for mail in mails]
    try:
        return pickle.dumps(plain, 5)
    except Exception as ex:
        for mail in plain:
            _try_one(mail, step_id, address)
        msg = f"step {step_id!r}: what waits for {address!r} can't be written: {ex}"
        raise EncodeError(msg, step_id=step_id, key=address, where="mailbox") from ex


def _try_one(mail: tuple[Any, ...], step_id: str, address: Any) -> None:
    try:
        pickle.dumps(mail, 5)
    except Exception as ex:
        shown = shortened(unpacked(mail[1]))
        msg = f"step {step_id!r}: {shown}, which waits for {address!r}, can't be written: {ex}"
        raise EncodeError(msg, step_id=step_id, key=address, where="mailbox") from ex


def decode_mails(value: bytes, row: Row, step_id: str, address: Any) -> list[Mail]:
    """The mails of a row.

    Raises:
        DecodeError: A class of a message is gone.
    """
    try:
        plain = pickle.loads(value)  # noqa: S301 - written by `encode_mails`; store folders are private
    except Exception as ex:
        # A user's class may raise anything when it is decoded.
        msg = (
            f"step {step_id!r}: what waits for {address!r} can't be read: "
            f"{type(ex).__name__}: {ex}; keep the names of classes of messages importable, for "
            "example by an alias where they used to be"
        )
        raise DecodeError(msg, step_id=step_id, key=address) from ex
    return [mail_of(mail, row) for mail in plain]
