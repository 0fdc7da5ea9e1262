"""The rows of a worker's table: how their keys are ordered and what their values hold.

    m name                       what the table is, and up to which epoch it holds all changes
    s step group key             a key's state, its version and when its timer is due
    t step due group key         an index of those timers
    p step name                  a source's or sink's partition: the epoch it changed in, its state

`step` is a number of two bytes, `group` a key group of one, `due` microseconds since 1970 in eight
bytes that sort like the number. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast
from zlib import crc32

import msgpack as untyped_msgpack  # type: ignore[import-untyped]

from engine.errors import InternalError
from engine.keys import KEY_GROUPS, decode_key, encode_key, encoded_group
from engine.recovery._ids import Epoch, StepNumber

_msgpack: Any = untyped_msgpack

META: Final = b"m"
STATE: Final = b"s"
TIMER: Final = b"t"
PARTITION: Final = b"p"

IDENTITY_KEY: Final = META + b"identity"
APPLIED_KEY: Final = META + b"applied"

_VERSION: Final = b"V"
_DUE: Final = b"D"
MARKED: Final = frozenset(_VERSION + _DUE)
"""First bytes of values of state rows that hold more than the state."""
_DUE_OFFSET: Final = 1 << 63
_DUE_FORMAT: Final = struct.Struct(">Q")
_EPOCH_FORMAT: Final = struct.Struct(">Q")
TIMER_HEAD: Final = 11
"""Bytes before the key group in the key of a timer row."""
STATE_HEAD: Final = 4
"""Bytes before the key in the key of a state row."""


class StoredRow(NamedTuple):
    """What the row of a state holds."""

    row: bytes
    """The encoded state."""
    due_us: int | None
    """When its timer is due, in microseconds since 1970 UTC."""
    version: int
    """The version of the state."""


def step_prefix(kind: bytes, step: StepNumber) -> bytes:
    """What the keys of all rows of a kind and step begin with."""
    return kind + step.to_bytes(2, "big")


def after_prefix(prefix: bytes) -> bytes:
    """The first key after all that begin with a prefix."""
    number = int.from_bytes(prefix, "big") + 1
    return number.to_bytes(len(prefix), "big")


@lru_cache(maxsize=256)
def _state_prefixes(step: StepNumber) -> list[bytes]:
    prefix = step_prefix(STATE, step)
    return [prefix + bytes([group]) for group in range(KEY_GROUPS)]


def state_key(step: StepNumber, key: Any) -> bytes:
    """The row key of a state."""
    encoded = encode_key(key)
    return _state_prefixes(step)[encoded_group(encoded)] + encoded


def state_keys(step: StepNumber, keys: Sequence[Any]) -> list[bytes]:
    """The row keys of states."""
    prefixes, checksum = _state_prefixes(step), crc32
    encoded: list[bytes] | None = None
    if set(map(type, keys)) == {str}:
        # What `encode_key` does, for the most frequent keys.
        with suppress(UnicodeEncodeError):
            encoded = [f"s{key}".encode() for key in keys]
    if encoded is None:
        encoded = [encode_key(key) for key in keys]
        return [prefixes[encoded_group(key)] + key for key in encoded]
    return [prefixes[checksum(key) % KEY_GROUPS] + key for key in encoded]


def partition_keys(step: StepNumber, names: Sequence[str]) -> list[bytes]:
    """The row keys of partitions."""
    prefix = step_prefix(PARTITION, step)
    return [prefix + name.encode("utf-8", "surrogatepass") for name in names]


def timer_key(state_key: bytes, due_us: int) -> bytes:
    """The key of the index row that belongs to a state row."""
    return b"".join((TIMER, state_key[1:3], encode_due(due_us), state_key[3:]))


def encode_due(due_us: int) -> bytes:
    """Eight bytes that sort like the number."""
    return _DUE_FORMAT.pack(due_us + _DUE_OFFSET)


def decode_timer_key(key: bytes) -> tuple[StepNumber, int, bytes]:
    """Step, due time, and the key of the state row that an index row belongs to."""
    (due,) = _DUE_FORMAT.unpack_from(key, 3)
    return (
        StepNumber(int.from_bytes(key[1:3], "big")),
        due - _DUE_OFFSET,
        STATE + key[1:3] + key[TIMER_HEAD:],
    )


def key_of_state(state_key: bytes) -> Any:
    """The key that a state row belongs to."""
    return decode_key(state_key[STATE_HEAD:])


def name_of_partition(partition_key: bytes) -> str:
    """The partition that a row belongs to."""
    return partition_key[3:].decode("utf-8", "surrogatepass")


def state_value(row: bytes, due_us: int | None, version: int) -> bytes:
    """The value of a state row."""
    if due_us is not None:
        row = b"".join((_DUE, encode_due(due_us), row))
    if version != 1:
        row = b"".join((_VERSION, version.to_bytes(2, "big"), row))
    return row


def split_state_value(value: bytes) -> StoredRow:
    """The parts that `state_value` made a value of."""
    version, due_us = 1, None
    if value[:1] == _VERSION:
        version, value = int.from_bytes(value[1:3], "big"), value[3:]
    if value[:1] == _DUE:
        (due,) = _DUE_FORMAT.unpack_from(value, 1)
        due_us, value = due - _DUE_OFFSET, value[9:]
    return StoredRow(value, due_us, version)


def due_of(value: bytes | None) -> int | None:
    """When the timer of a state row is due; None too if there is no row."""
    if value is None or value[0] not in MARKED:
        return None
    return split_state_value(value).due_us


def partition_value(row: bytes, epoch: Epoch) -> bytes:
    """The value of a partition row."""
    return _EPOCH_FORMAT.pack(epoch) + row


def split_partition_value(value: bytes) -> tuple[bytes, Epoch]:
    """The parts that `partition_value` made a value of."""
    (epoch,) = _EPOCH_FORMAT.unpack_from(value)
    return value[8:], Epoch(epoch)


_ENCODED_KEYS: Final = b"e"
_PLAIN_KEYS: Final = b"k"


def pack_keys(keys: Sequence[Any]) -> bytes:
    """Keys as bytes. Subclasses come back as what they extend.

    Raises:
        InternalError: One of them is no key.
    """
    try:
        return _PLAIN_KEYS + cast("bytes", _msgpack.packb(keys))
    except (UnicodeEncodeError, OverflowError):
        return _ENCODED_KEYS + cast("bytes", _msgpack.packb([encode_key(key) for key in keys]))
    except TypeError as ex:
        msg = f"not all of these are keys: {keys!r:.200}"
        raise InternalError(msg) from ex


def unpack_keys(data: bytes) -> tuple[Any, ...]:
    """The keys that `pack_keys` made bytes of."""
    # Keys hold no lists, so that all arrays are tuples.
    keys = cast("tuple[Any, ...]", _msgpack.unpackb(data[1:], use_list=False))
    return keys if data[:1] == _PLAIN_KEYS else tuple(map(decode_key, keys))
