"""Keys as bytes, and the groups they are hashed into: the same in every process and run.

A leaf: the exchange routes records by these groups, and the recovery store names its rows by
these bytes and is cut up by these groups, so both must agree for ever.
"""

from __future__ import annotations

from typing import Any, Final, NewType
from zlib import crc32

from engine.errors import UserCodeError

__all__ = [
    "KEY_GROUPS",
    "KeyGroup",
    "decode_key",
    "encode_key",
    "encoded_group",
    "key_group",
    "owner",
    "part_key",
]

KEY_GROUPS: Final = 256
"""How many groups there are. Stores are written by it, so it can't change."""

KeyGroup = NewType("KeyGroup", int)
"""One of `KEY_GROUPS` groups that keys are hashed into and that workers own."""

_PART: Final = b"p"
_PART_HEAD: Final = 5
"""Bytes before the key in the encoding of a part of it."""


def key_group(key: Any) -> KeyGroup:
    """The key group of a key.

    >>> key_group("a") == key_group(b"a")
    False
    """
    return encoded_group(encode_key(key))


def encoded_group(encoded: bytes) -> KeyGroup:
    """The key group of the key that `encode_key` made these bytes of."""
    if encoded[:1] == _PART:
        encoded = encoded[_PART_HEAD : _PART_HEAD + int.from_bytes(encoded[1:_PART_HEAD], "big")]
    return KeyGroup(crc32(encoded) % KEY_GROUPS)


def part_key(key: Any, number: int) -> tuple[Any, None, int]:
    """What stands for a part of the state of a key, which is kept apart from the rest of it.

    It is in the key group of its key, and equal to no key.

    >>> key_group(part_key("a", 7)) == key_group("a")
    True
    """
    return (key, None, number)


def owner(group: int, workers: int) -> int:
    """The index of the worker that owns a group, of so many workers.

    >>> [owner(group, 3) for group in (0, 85, 86, 255)]
    [0, 0, 1, 2]
    """
    return group * workers // KEY_GROUPS


def encode_key(key: Any) -> bytes:
    """Bytes that are the same for equal keys and differ for others: ``1`` is not ``"1"``.

    Raises:
        UserCodeError: It is no key.
    """
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, tuple):
        if len(key) == 3 and key[1] is None:  # pyright: ignore[reportUnknownArgumentType]
            whole = encode_key(key[0])
            return b"".join((_PART, len(whole).to_bytes(4, "big"), whole, encode_key(key[2])))
        parts = [encode_key(part) for part in key]  # pyright: ignore[reportUnknownVariableType]
        return b"t" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    if isinstance(key, int) and not isinstance(key, bool):
        return b"i%x" % int(key)  # Not decimal, to which Python sets a limit of 4,300 digits.
    msg = f"a key must be a `str`, `bytes`, `int` or a tuple of these; got {key!r:.200}"
    raise UserCodeError(msg, hint="convert the key, for example with `str(...)`, in `key_on`")


def decode_key(encoded: bytes) -> Any:
    """The key that `encode_key` made these bytes of; subclasses come back as what they extend.

    Raises:
        ValueError: No key has this encoding.

    >>> decode_key(encode_key(("a", 1, b"x")))
    ('a', 1, b'x')
    """
    tag, body = encoded[:1], encoded[1:]
    if tag == b"s":
        return body.decode("utf-8", "surrogatepass")
    if tag == b"b":
        return body
    if tag == b"i":
        return int(body, 16)
    if tag == _PART:
        end = _PART_HEAD + int.from_bytes(encoded[1:_PART_HEAD], "big")
        return part_key(decode_key(encoded[_PART_HEAD:end]), decode_key(encoded[end:]))
    if tag != b"t":
        msg = f"no key is encoded as {encoded[:40]!r}"
        raise ValueError(msg)
    parts: list[Any] = []
    while body:
        end = 4 + int.from_bytes(body[:4], "big")
        parts.append(decode_key(body[4:end]))
        body = body[end:]
    return tuple(parts)
