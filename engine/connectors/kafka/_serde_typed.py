"""JSON and MessagePack, to plain values or to types, through msgspec.

msgspec is imported when the first of these is made: a flow without them does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar, overload

from engine.connectors.kafka._serde_base import BytesDeserializer, BytesSerializer
from engine.connectors.kafka._serde_fields import refusing_unknown_fields

T = TypeVar("T")

UnknownFields: TypeAlias = Literal["ignore", "refuse"]
"""What becomes of a field that the type doesn't have."""


class JsonDeserializer(BytesDeserializer[T]):
    """Reads JSON: into a type, checked, or into what Python has for it.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Item:
    ...     name: str
    ...     price: float
    ...     count: int = 1
    >>> JsonDeserializer(list[Item])(b'[{"name": "pen", "price": 2.5}]')
    [Item(name='pen', price=2.5, count=1)]
    >>> JsonDeserializer(list[Item])(b'[{"name": "pen", "price": "2.5"}]')
    Traceback (most recent call last):
        ...
    confluent_kafka...SerializationError: ValidationError: Expected `float`, got `str` - at
    `$[0].price`
    >>> JsonDeserializer()(b'{"any": ["thing", 1, null]}')
    {'any': ['thing', 1, None]}

    A value of None (in a compacted topic: the key is deleted) stays None.

    Args:
        type: What the bytes must be: a dataclass, `TypedDict`, `NamedTuple`, `msgspec.Struct`, or a
            type made of these, `str`, `int`, `float`, `bool`, None, `bytes` (in Base64),
            `datetime`, `date`, `time`, `timedelta`, `Decimal`, `UUID`, `Enum`, `Literal`, lists,
            tuples, sets, dicts and unions. A field that is missing takes its default. With None,
            anything is read, as `dict`, `list`, `str`, `int`, `float`, `bool` and None.
        unknown_fields: What becomes of a field that the type doesn't have: it is ignored, or the
            whole is refused. Refusing takes two to three times as long: the bytes are read twice.

    Raises:
        TypeError: `type` is nothing that can be read from JSON.
        ImportError: msgspec isn't installed.
    """

    @overload
    def __init__(
        self: JsonDeserializer[Any], type: None = None, *, unknown_fields: UnknownFields = "ignore"
    ) -> None: ...
    @overload
    def __init__(self, type: type[T], *, unknown_fields: UnknownFields = "ignore") -> None: ...
    @overload
    def __init__(
        self: JsonDeserializer[Any], type: Any, *, unknown_fields: UnknownFields = "ignore"
    ) -> None: ...
    def __init__(
        self,
        type: Any = None,  # noqa: A002 - what it is, and `msgspec` calls it so
        *,
        unknown_fields: UnknownFields = "ignore",
    ) -> None:
        import msgspec  # noqa: PLC0415 - see above

        self.decode = _decoder(msgspec.json.Decoder, type, unknown_fields)


class JsonSerializer(BytesSerializer):
    """Writes JSON: of plain values and of all that `JsonDeserializer` reads into.

    >>> JsonSerializer()({"name": "pen", "price": 2.5})
    b'{"name":"pen","price":2.5}'

    `bytes` are written in Base64, a `Decimal` as a string, a `datetime` by ISO 8601. JSON has no
    NaN and no infinity: these become null. None as a whole stays None.

    Args:
        sort_keys: Write the keys of dicts in order, so that equal values have equal bytes: needed
            where the bytes are a message's key.

    Raises:
        ImportError: msgspec isn't installed.
    """

    def __init__(self, *, sort_keys: bool = False) -> None:
        import msgspec  # noqa: PLC0415 - see above

        self.encode = msgspec.json.Encoder(order="deterministic" if sort_keys else None).encode


class MsgpackDeserializer(BytesDeserializer[T]):
    r"""Reads MessagePack, into a type or into what Python has for it: see `JsonDeserializer`.

    >>> MsgpackDeserializer(dict[str, int])(b"\x81\xa1n\x07")
    {'n': 7}

    Here `bytes` are MessagePack's own, and a timestamp of its own is a `datetime`.

    Args:
        type: As for `JsonDeserializer`.
        unknown_fields: As for `JsonDeserializer`.

    Raises:
        TypeError: `type` is nothing that can be read from MessagePack.
        ImportError: msgspec isn't installed.
    """

    @overload
    def __init__(
        self: MsgpackDeserializer[Any],
        type: None = None,
        *,
        unknown_fields: UnknownFields = "ignore",
    ) -> None: ...
    @overload
    def __init__(self, type: type[T], *, unknown_fields: UnknownFields = "ignore") -> None: ...
    @overload
    def __init__(
        self: MsgpackDeserializer[Any], type: Any, *, unknown_fields: UnknownFields = "ignore"
    ) -> None: ...
    def __init__(
        self,
        type: Any = None,  # noqa: A002 - what it is, and `msgspec` calls it so
        *,
        unknown_fields: UnknownFields = "ignore",
    ) -> None:
        import msgspec  # noqa: PLC0415 - see above

        self.decode = _decoder(msgspec.msgpack.Decoder, type, unknown_fields)


class MsgpackSerializer(BytesSerializer):
    r"""Writes MessagePack: of plain values and of all that `MsgpackDeserializer` reads into.

    >>> MsgpackSerializer()({"n": 7})
    b'\x81\xa1n\x07'

    An `int` beyond 64 bits can't be written. None as a whole stays None.

    Args:
        sort_keys: As for `JsonSerializer`.

    Raises:
        ImportError: msgspec isn't installed.
    """

    def __init__(self, *, sort_keys: bool = False) -> None:
        import msgspec  # noqa: PLC0415 - see above

        self.encode = msgspec.msgpack.Encoder(order="deterministic" if sort_keys else None).encode


def _decoder(
    decoder: Callable[..., Any], wanted: Any, unknown_fields: UnknownFields
) -> Callable[[bytes], Any]:
    """The function that reads bytes into the type that is wanted."""
    if unknown_fields not in {"ignore", "refuse"}:
        msg = f"`unknown_fields` must be 'ignore' or 'refuse'; got {unknown_fields!r}"
        raise ValueError(msg)
    anything: Callable[[bytes], Any] = decoder().decode
    if wanted is None:
        return anything
    typed: Callable[[bytes], Any] = decoder(wanted).decode
    return typed if unknown_fields == "ignore" else refusing_unknown_fields(typed, anything, wanted)
