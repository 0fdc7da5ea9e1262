"""Avro without the schema registry's framing: bytes that say nothing of their schema.

fastavro, which does the work, is imported when the first of these is made.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from engine.connectors.kafka._serde_base import BytesDeserializer, BytesSerializer

AvroSchema: TypeAlias = str | Mapping[str, Any] | list[Any]
"""A schema as JSON text, or as what that text stands for."""

_FRAMED = b"\0"
"""What the schema registry's framing begins with."""
_FRAME_BYTES = 5


class PlainAvroDeserializer(BytesDeserializer[Any]):
    r"""Reads bare Avro, written by the schema given here.

    For messages in the schema registry's framing, which begin with a zero and the number of their
    schema, use confluent-kafka's `AvroDeserializer`.

    >>> PlainAvroDeserializer('{"type": "array", "items": "string"}')(b"\x02\x06pen\x00")
    ['pen']

    A value of None stays None. Bytes that are left over are an error: another schema wrote them.

    Args:
        schema: The schema the messages were written by: JSON text, what it stands for, or
            confluent-kafka's `Schema`.
        named_schemas: Schemas that it refers to, by name, as `fastavro.parse_schema` gives them.

    Raises:
        ImportError: fastavro isn't installed.
    """

    def __init__(
        self, schema: AvroSchema | Any, named_schemas: Mapping[str, Any] | None = None
    ) -> None:
        parsed, fastavro = _parsed(schema, named_schemas, type(self).__name__)
        read: Callable[..., Any] = fastavro.schemaless_reader

        def decode(value: bytes) -> Any:
            stream = io.BytesIO(value)
            try:
                decoded = read(stream, parsed, None)
            except (EOFError, IndexError, StopIteration) as ex:
                msg = f"{len(value)} bytes end too early, or are of another schema{_hint(value)}"
                raise ValueError(msg) from ex
            left = len(value) - stream.tell()
            if left:
                msg = f"{left} of {len(value)} bytes are left over: another schema{_hint(value)}"
                raise ValueError(msg)
            return decoded

        self.decode = decode


class PlainAvroSerializer(BytesSerializer):
    r"""Writes bare Avro, without the schema registry's framing.

    Whoever reads it must know the schema. For the framing, use confluent-kafka's `AvroSerializer`.

    >>> PlainAvroSerializer('{"type": "array", "items": "string"}')(["pen"])
    b'\x02\x06pen\x00'

    None as a whole stays None.

    Args:
        schema: What to write by: JSON text, what it stands for, or confluent-kafka's `Schema`.
        named_schemas: Schemas that it refers to, by name, as `fastavro.parse_schema` gives them.

    Raises:
        ImportError: fastavro isn't installed.
    """

    def __init__(
        self, schema: AvroSchema | Any, named_schemas: Mapping[str, Any] | None = None
    ) -> None:
        parsed, fastavro = _parsed(schema, named_schemas, type(self).__name__)
        write: Callable[..., None] = fastavro.schemaless_writer

        def encode(obj: Any) -> bytes:
            stream = io.BytesIO()
            write(stream, parsed, obj)
            return stream.getvalue()

        self.encode = encode


def _parsed(schema: Any, named_schemas: Mapping[str, Any] | None, who: str) -> tuple[Any, Any]:
    """The schema, parsed, and fastavro itself."""
    try:
        import fastavro  # noqa: PLC0415 - see above
    except ImportError as ex:
        msg = f"`{who}` needs fastavro: python -m pip install 'engine-dataflow[avro]'"
        raise ImportError(msg) from ex
    text = getattr(schema, "schema_str", schema)
    plain = json.loads(text) if isinstance(text, str) else text
    return fastavro.parse_schema(plain, named_schemas=dict(named_schemas or {})), fastavro


def _hint(value: bytes) -> str:
    if value[:1] != _FRAMED or len(value) < _FRAME_BYTES:
        return ""
    number = int.from_bytes(value[1:_FRAME_BYTES], "big")
    return (
        f"; they begin like the schema registry's framing, with schema {number}, which "
        "`AvroDeserializer` of confluent-kafka reads"
    )
