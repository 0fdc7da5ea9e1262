"""Kafka's operators from topic to topic: what is good, what is not, and what is deleted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.serialization import StringDeserializer, StringSerializer

import engine.operators as op
from engine.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage, serde
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow
from engine.errors import DeserializationError, EngineRuntimeError
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, cluster_main, run_main
from tests.kafka.client import Kafka


@dataclass
class Sale:
    who: str
    amount: float


GOOD = [("ann", b'{"who": "ann", "amount": 2.5}'), ("bob", b'{"who": "bob", "amount": 4}')]
BAD = [("eve", b'{"who": "eve", "amount": "all"}'), (None, b"\x00"), ("zoe", b"")]
DELETED = [("old", None)]


def sales(kafka: Kafka, topic: str, name: str = "shop") -> tuple[Dataflow, kop.KafkaOpOut]:
    """A flow that reads a topic to its end and parses what is there."""
    flow = Dataflow(name)
    read = kop.input("in", flow, brokers=[kafka.address], topics=[topic], tail=False)
    parsed = kop.deserialize(
        "parse",
        read.oks,
        key_deserializer=StringDeserializer(),
        val_deserializer=serde.JsonDeserializer(Sale),
    )
    return flow, parsed


def doubled(message: KafkaSourceMessage) -> KafkaSinkMessage:
    """A sale of twice the amount; one that is deleted stays so."""
    sale = message.value
    new = None if sale is None else Sale(sale.who, sale.amount * 2)
    return message.with_value(new).to_sink()


@pytest.mark.parametrize("workers", [1, 2])
def test_from_topic_to_topic(kafka_or_mock: Kafka, topic: str, workers: int):
    """Good messages and deletions arrive, bad ones are in the other stream as they were read."""
    kafka = kafka_or_mock
    kafka.create_topic(topic, 4)
    kafka.create_topic(f"{topic}-out", 4)
    kafka.produce(topic, GOOD + BAD + DELETED, headers=[("h", b"1")])
    flow, parsed = sales(kafka, topic)
    written = kop.serialize(
        "bytes",
        op.map("double", parsed.oks, doubled),
        key_serializer=StringSerializer(),
        val_serializer=serde.JsonSerializer(),
    )
    kop.output("out", written, brokers=[kafka.address], topic=f"{topic}-out")
    errs = []
    op.output("errs", parsed.errs, TestingSink(errs))
    if workers == 1:
        run_main(flow)
    else:
        cluster_main(flow, [], 0, worker_count_per_proc=workers)
    found = kafka.read_all(f"{topic}-out")
    amounts = {m.key(): m.value() and json.loads(m.value())["amount"] for m in found}
    assert amounts == {b"ann": 5, b"bob": 8, b"old": None}
    assert {tuple(m.headers()) for m in found} == {(("h", b"1"),)}
    bad = {(e.msg.key, e.msg.value) for e in errs}
    assert bad == {(key and key.encode(), value) for key, value in BAD}
    assert {e.msg.topic for e in errs} == {topic}


def test_a_bad_message_ends_the_run_where_it_stands(kafka_or_mock: Kafka, topic: str):
    """The error has its place in the topic, though the message was the library's own."""
    kafka = kafka_or_mock
    kafka.create_topic(topic, 4)
    [ann, eve] = kafka.produce(topic, [GOOD[0], BAD[0]], partition=2)
    flow, parsed = sales(kafka, topic)
    op.output("out", parsed.oks, TestingSink([]))
    with pytest.raises(EngineRuntimeError) as caught:
        run_main(flow)
    cause = caught.value.__cause__
    assert isinstance(cause, DeserializationError)
    assert (cause.topic, cause.partition, cause.offset) == (topic, 2, eve.offset())
    assert caught.value.step_id == "shop.parse"
    assert eve.offset() > ann.offset()


def test_an_input_goes_on_by_its_own_name(kafka_or_mock: Kafka, topic: str, tmp_path: Path):
    """A second run of the store reads on after the first."""
    kafka = kafka_or_mock
    kafka.create_topic(topic, 4)
    seen: list[str] = []
    for message in GOOD:
        kafka.produce(topic, [message])
        flow, parsed = sales(kafka, topic)
        keys = op.map("key", parsed.oks, lambda m: m.key)
        op.output("out", keys, TestingSink(seen))
        run_main(flow, recovery_config=RecoveryConfig(tmp_path / "store", create=True))
    assert seen == ["ann", "bob"]
