"""Operators for Kafka's messages: in and out, and between bytes and values.

Import them as a module::

    from engine.connectors.kafka import operators as kop

    messages = kop.input("in", flow, brokers=["localhost:9092"], topics=["orders"])
    orders = kop.deserialize_value("parse", messages.oks, serde.JsonDeserializer(Order))
"""

# ruff: noqa: A004

from engine.connectors.kafka.operators._deserialize import (
    deserialize,
    deserialize_key,
    deserialize_value,
)
from engine.connectors.kafka.operators._ends import input, output
from engine.connectors.kafka.operators._serialize import serialize, serialize_key, serialize_value
from engine.connectors.kafka.operators._types import KafkaOpOut

__all__ = [
    "KafkaOpOut",
    "deserialize",
    "deserialize_key",
    "deserialize_value",
    "input",
    "output",
    "serialize",
    "serialize_key",
    "serialize_value",
]
