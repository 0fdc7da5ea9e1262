"""What our serializers and deserializers have in common: they need nothing but the bytes.

They are confluent-kafka's `Serializer` and `Deserializer`, so they work wherever its own do. The
operators (`engine.connectors.kafka.operators`) call `encode` and `decode` of theirs directly, with
no context made and nothing of Python's between the loop and the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from confluent_kafka.serialization import (
    Deserializer,
    SerializationContext,
    SerializationError,
    Serializer,
)

_REASON_LENGTH_MAX = 1000
"""Some exceptions have all of a message in their text."""

T = TypeVar("T")
"""Type of what the bytes stand for."""


class BytesDeserializer(Deserializer, Generic[T]):
    """Makes a value of bytes, the same one whatever message they came with.

    Attributes:
        decode: What does it; never called with None.
    """

    decode: Callable[[bytes], T]

    def __call__(
        self,
        value: bytes | None,
        ctx: SerializationContext | None = None,  # noqa: ARG002 - what confluent-kafka calls with
    ) -> T | None:
        """The value that some bytes stand for; None of None, which has no bytes to decode.

        Raises:
            SerializationError: The bytes stand for no such value.
        """
        if value is None:
            return None
        try:
            return self.decode(value)
        except Exception as ex:
            raise SerializationError(reason(ex)) from ex


class BytesSerializer(Serializer):
    """Makes bytes of a value, the same ones whatever message they go with.

    Attributes:
        encode: What does it; never called with None.
    """

    encode: Callable[[Any], bytes]

    def __call__(
        self,
        obj: Any,
        ctx: SerializationContext | None = None,  # noqa: ARG002 - what confluent-kafka calls with
    ) -> bytes | None:
        """The bytes of a value; None of None: a message without a key, or one that deletes it.

        Raises:
            SerializationError: The value can't be written.
        """
        if obj is None:
            return None
        try:
            return self.encode(obj)
        except Exception as ex:
            raise SerializationError(reason(ex)) from ex


def reason(ex: BaseException) -> str:
    """An exception in words, not too many of them, whatever its `__str__` does.

    >>> reason(KeyError("price"))
    "KeyError: 'price'"
    >>> reason(ValueError())
    'ValueError'
    """
    try:
        text = str(ex).strip()
    except Exception as broken:  # noqa: BLE001 - a broken __str__ must not hide the error itself
        text = f"<its __str__ raises {type(broken).__name__}>"
    if len(text) > _REASON_LENGTH_MAX:
        text = f"{text[:_REASON_LENGTH_MAX]}..."
    return f"{type(ex).__name__}: {text}" if text else type(ex).__name__
