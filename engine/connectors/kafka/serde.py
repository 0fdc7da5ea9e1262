"""Serializers and deserializers for the keys and values of Kafka messages.

They are made for the operators of `engine.connectors.kafka.operators`, which take confluent-kafka's
own as well (strings, numbers, and those of the schema registry), and any function of a value and a
`SerializationContext`.

======================  ==========================================================================
JSON                    `JsonDeserializer`, `JsonSerializer`: plain values, or typed and checked
MessagePack             `MsgpackDeserializer`, `MsgpackSerializer`: the same
Avro without framing    `PlainAvroDeserializer`, `PlainAvroSerializer`, by a schema you give
schema registry         confluent-kafka's serializers for Avro, JSON Schema and Protobuf
======================  ==========================================================================
"""

from __future__ import annotations

from engine.connectors.kafka._serde_avro import PlainAvroDeserializer, PlainAvroSerializer
from engine.connectors.kafka._serde_typed import (
    JsonDeserializer,
    JsonSerializer,
    MsgpackDeserializer,
    MsgpackSerializer,
)

__all__ = [
    "JsonDeserializer",
    "JsonSerializer",
    "MsgpackDeserializer",
    "MsgpackSerializer",
    "PlainAvroDeserializer",
    "PlainAvroSerializer",
]
