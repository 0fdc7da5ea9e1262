"""What type checkers make of Kafka's operators. Checked by mypy and pyright, never run.

`assert_type` fails where a checker infers something else; an ignore comment that is not needed is
an error too, so the lines that have one show what is refused.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
# ruff: noqa: PGH003 - the codes differ between checkers

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from confluent_kafka.serialization import (
    SerializationContext,
    StringDeserializer,
    StringSerializer,
)

import engine.operators as op
from engine.connectors.kafka import KafkaError, KafkaSinkMessage, KafkaSourceMessage, serde
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow, Stream
from engine.testing import TestingSink

Raw = KafkaSourceMessage[bytes | None, bytes | None]
BROKERS = ["localhost:9092"]


@dataclass
class Order:
    amount: float


def deserializers() -> None:
    assert_type(serde.JsonDeserializer(Order), serde.JsonDeserializer[Order])
    assert_type(serde.JsonDeserializer(list[Order]), serde.JsonDeserializer[list[Order]])
    assert_type(serde.JsonDeserializer(), serde.JsonDeserializer[Any])
    assert_type(serde.JsonDeserializer(Order | None), serde.JsonDeserializer[Any])
    assert_type(serde.JsonDeserializer(Order)(b""), Order | None)
    assert_type(serde.MsgpackDeserializer(Order)(None), Order | None)
    assert_type(serde.MsgpackDeserializer(), serde.MsgpackDeserializer[Any])
    serde.JsonDeserializer(Order, unknown_fields="drop")  # type: ignore


def reading() -> None:
    read = kop.input("in", Dataflow("flow"), brokers=BROKERS, topics=["orders"])
    assert_type(read.oks, Stream[Raw])
    assert_type(read.errs, Stream[KafkaError[bytes | None, bytes | None]])
    kop.input("in", Dataflow("flow"), brokers=BROKERS, topics=["orders"], on_error="drop")  # type: ignore

    parsed = kop.deserialize_value("value", read.oks, serde.JsonDeserializer(Order))
    assert_type(parsed.oks, Stream[KafkaSourceMessage[bytes | None, Order | None]])
    assert_type(parsed.errs, Stream[KafkaError[bytes | None, bytes | None]])

    def number(raw: bytes | None, _context: SerializationContext) -> int:
        return int(raw or b"0")

    keyed = kop.deserialize_key("key", parsed.oks, number)
    assert_type(keyed.oks, Stream[KafkaSourceMessage[int, Order | None]])
    assert_type(keyed.errs, Stream[KafkaError[bytes | None, Order | None]])

    both = kop.deserialize(
        "both",
        read.oks,
        key_deserializer=StringDeserializer(),
        val_deserializer=serde.MsgpackDeserializer(dict[str, int]),
    )
    assert_type(both.oks, Stream[KafkaSourceMessage[str | None, dict[str, int] | None]])

    chained = read.oks.then(kop.deserialize_value, "then", number).oks
    assert_type(chained, Stream[KafkaSourceMessage[bytes | None, int]])

    kop.deserialize_value("again", parsed.oks, number)  # type: ignore
    kop.deserialize_value("errs", read.errs, number)  # type: ignore
    kop.deserialize_value("one", read.oks, int)  # type: ignore


def writing(up: Stream[KafkaSinkMessage[str, Order]], read: Stream[Raw]) -> None:
    value = kop.serialize_value("value", up, serde.JsonSerializer())
    assert_type(value, Stream[KafkaSinkMessage[str, bytes | str | None]])
    key = kop.serialize_key("key", value, StringSerializer(), topic="orders")
    assert_type(key, Stream[KafkaSinkMessage[bytes | str | None, bytes | str | None]])
    both = kop.serialize(
        "both", up, key_serializer=StringSerializer(), val_serializer=serde.JsonSerializer()
    )
    assert_type(both, Stream[KafkaSinkMessage[bytes | str | None, bytes | str | None]])
    kop.output("out", both, brokers=BROKERS, topic="orders", delivery="exactly-once")
    kop.output("raw", read, brokers=BROKERS, topic="orders")
    op.output("test", both, TestingSink[Any]([]))
    kop.output("promise", both, brokers=BROKERS, topic="orders", delivery="never")  # type: ignore
    kop.serialize_value("int", up, lambda value, _context: 1)  # type: ignore
