"""States to bytes and back: what comes out equals what went in, types included.

Two forms, both called by the store alone:

- *rows*, one for each key, are what the table holds: a tag byte, then msgpack where all of a state
  is of standard types, else pickle 5. Without pickle, a state of a user's own class is refused.
- *columns*, many values in one call, are what the log holds: they cost a fraction of rows.

A state that refers to one mutable object from two places is pickled, because msgpack would make
two objects of it.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, cast

from engine.recovery._extensions import (
    CONTAINERS,
    LEAVES,
    SCALARS,
    Packer,
    UnpackableError,
    items_of,
    unpack,
    unpack_flat_tuple,
)
from engine.recovery._plain_pickle import NotPlainError, load_plain

MSGPACK: Final = b"m"
FLAT_TUPLE: Final = b"t"
"""A tuple of scalars, as a msgpack array: the most frequent state; an extension would be slow."""
PICKLE: Final = b"p"

_FLAT_TUPLE_BYTE = FLAT_TUPLE[0]
_MSGPACK_BYTE = MSGPACK[0]
_PICKLE_BYTE = PICKLE[0]
_IMMUTABLE = frozenset({tuple, frozenset})


class PickleRefusedError(ValueError):
    """A row is pickled, and pickle isn't allowed."""


class SharedError(TypeError):
    """A state holds one mutable object in two places, and pickle isn't allowed."""


class Codec:
    """Encodes and decodes states.

    Args:
        allow_pickle: Whether states may be pickled. Reading a pickle runs code that its writer
            chose, so with False neither is one written nor one read.

    >>> codec = Codec()
    >>> codec.decode_row(codec.encode_row({"seen": (1, 2.0)}))
    {'seen': (1, 2.0)}
    """

    def __init__(self, *, allow_pickle: bool = True) -> None:
        self.allow_pickle = allow_pickle
        self._packer = Packer()

    def encode_row(self, value: Any) -> bytes:
        """One state as bytes.

        Raises:
            Exception: It can't be encoded; `engine.recovery._blame` finds out what is at fault.
        """
        return self.encode_rows([value])[0]

    def encode_rows(self, values: Sequence[Any]) -> list[bytes]:
        """Each state as bytes of its own. Errors as `encode_row`."""
        kinds = set(map(type, values))
        if kinds == {tuple} and SCALARS.issuperset(map(type, chain.from_iterable(values))):
            # Most steps have states of one kind: then what holds for one holds for all.
            pack = self._packer.pack_flat_tuple
            with suppress(UnicodeEncodeError):
                return [FLAT_TUPLE + pack(value) for value in values]
        return self._encode_various(values)

    def _encode_various(self, values: Sequence[Any]) -> list[bytes]:
        rows: list[bytes] = []
        add, flat = rows.append, SCALARS.issuperset
        pack, pack_flat = self._packer.pack_scalars, self._packer.pack_flat_tuple
        for value in values:
            kind = value.__class__
            try:
                if kind is tuple and flat(map(type, value)):
                    add(FLAT_TUPLE + pack_flat(value))
                elif kind in SCALARS or (
                    kind is dict and flat(map(type, value)) and flat(map(type, value.values()))
                ):
                    add(MSGPACK + pack(value))
                else:
                    add(self._encode_other(value))
            except UnicodeEncodeError:
                add(self._encode_other(value))
        return rows

    def _encode_other(self, value: Any) -> bytes:
        """Anything but the frequent small states."""
        try:
            refuse_shared(value)
            return MSGPACK + self._packer.pack(value)
        except (UnpackableError, SharedError, ValueError, RecursionError):
            # ValueError is msgpack's word for too deeply nested.
            if not self.allow_pickle:
                raise
        return PICKLE + pickle.dumps(value, 5)

    def decode_row(self, row: bytes) -> Any:
        """The state that `encode_row` made these bytes of.

        Raises:
            PickleRefusedError: It is pickled, and pickle isn't allowed.
            Exception: A class is gone, or the bytes are damaged.
        """
        kind = row[0]
        if kind == _FLAT_TUPLE_BYTE:
            return unpack_flat_tuple(row[1:])
        if kind == _MSGPACK_BYTE:
            return unpack(row[1:])
        if kind != _PICKLE_BYTE:
            msg = f"no row begins with {row[:1]!r}"
            raise ValueError(msg)
        return self._unpickle(row[1:])

    def encode_column(self, values: list[Any]) -> bytes:
        """Many states as bytes, to be decoded together. Errors as `encode_row`."""
        if self.allow_pickle:
            return PICKLE + pickle.dumps(values, 5)
        return MSGPACK + self._packer.pack(self.encode_rows(values))

    def decode_column(self, column: bytes) -> list[Any]:
        """The states that `encode_column` made these bytes of. Errors as `decode_row`."""
        if column[:1] == PICKLE:
            return self._unpickle_column(column[1:])
        return [self.decode_row(row) for row in unpack(column[1:])]

    def column_rows(self, column: bytes) -> list[bytes]:
        """What `encode_rows` would have made of the values of a column."""
        if column[:1] == PICKLE:
            return self.encode_rows(self._unpickle_column(column[1:]))
        return cast("list[bytes]", unpack(column[1:]))

    def _unpickle_column(self, data: bytes) -> list[Any]:
        if self.allow_pickle:
            return cast("list[Any]", self._unpickle(data))
        # Columns are pickled whatever is in them, if their writer allowed it. What is taken from
        # one is what could have been written without.
        try:
            values = cast("list[Any]", load_plain(data))
            self.encode_rows(values)
        except (NotPlainError, TypeError, ValueError) as ex:
            msg = f"it is pickled, and this store was opened with allow_pickle=False: {ex}"
            raise PickleRefusedError(msg) from ex
        return values

    def _unpickle(self, data: bytes) -> Any:
        if not self.allow_pickle:
            msg = "it is pickled, and this store was opened with allow_pickle=False"
            raise PickleRefusedError(msg)
        return pickle.loads(data)  # noqa: S301 - the user allows it, and store folders are private


def refuse_shared(value: Any) -> None:
    """Refuse what msgpack would not bring back as it was.

    Raises:
        UnpackableError: It holds something without a msgpack form.
        SharedError: It holds a list, dict or set that is in two places of it, or in
            itself.
    """
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        kind = item.__class__
        if kind in LEAVES:
            continue
        if id(item) in seen:
            if kind in _IMMUTABLE and LEAVES.issuperset(map(type, item)):
                continue
            msg = "it refers to one object from two places"
            raise SharedError(msg)
        seen.add(id(item))
        if kind in CONTAINERS:
            pending.extend(items_of(item))
        else:
            raise UnpackableError(item)
