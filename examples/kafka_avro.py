"""Kafka with Avro: the flow of `examples.kafka_statistics`, with schemas in a schema registry.

Shows confluent-kafka's own serializers in a flow. It needs ``pip install -e ".[schema-registry]"``.

The first command tries it on a broker and a registry that live in this process, for tests; the
second runs the flow on real ones, with the topics ``readings-avro`` and ``statistics-avro``::

    python -m examples.kafka_avro
    python -m engine.run examples.kafka_avro:flow -r avro-state

`KAFKA_BROKERS` names other brokers than ``localhost:9092``, and `SCHEMA_REGISTRY` another registry
than ``http://localhost:8081``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, StringSerializer

import engine.operators as op
from engine.connectors import Delivery
from engine.connectors.kafka import KafkaSinkMessage
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow
from engine.testing import run_main
from examples.kafka_statistics import BROKERS, Reading, Statistic, with_reading
from examples.kafka_tools import event, mock_broker, read, text

REGISTRY = os.environ.get("SCHEMA_REGISTRY", "http://localhost:8081")
READINGS, STATISTICS = "readings-avro", "statistics-avro"
# Their own annotations say nothing of what they take.
Deserializer: Any = AvroDeserializer
Serializer: Any = AvroSerializer
READING = json.dumps(
    {
        "type": "record",
        "name": "Reading",
        "fields": [{"name": "sensor", "type": "string"}, {"name": "celsius", "type": "double"}],
    }
)
STATISTIC = json.dumps(
    {
        "type": "record",
        "name": "Statistic",
        "fields": [
            {"name": "count", "type": "long"},
            {"name": "mean", "type": "double"},
            {"name": "max", "type": "double"},
        ],
    }
)


def statistics(
    brokers: Sequence[str],
    registry: SchemaRegistryClient,
    *,
    readings: str = READINGS,
    to: str = STATISTICS,
    tail: bool = True,
    delivery: Delivery = "exactly-once",
) -> Dataflow:
    """Make a flow that writes a sensor's statistics after each of its readings, all in Avro.

    Args:
        brokers: Addresses to begin with, "host:port" each.
        registry: Where the schemas are; that of the statistics is registered there.
        readings: The topic to read.
        to: The topic to write.
        tail: Whether to wait for more readings when all are read.
        delivery: What the sink is to promise.
    """
    flow = Dataflow("kafka_avro")
    messages = kop.input("readings", flow, brokers=brokers, topics=[readings], tail=tail)
    from_avro: Callable[[bytes | None, SerializationContext], Reading | None]
    from_avro = Deserializer(registry, from_dict=as_reading)
    parsed = kop.deserialize_value("parse", messages.oks, from_avro)
    values = op.filter_map("reading", parsed.oks, lambda message: message.value)
    by_sensor = op.key_on("sensor", values, lambda reading: reading.sensor)
    statistic = op.stateful_map("statistic", by_sensor, with_reading)
    results = op.map("message", statistic, lambda item: KafkaSinkMessage(item[0], item[1]))
    to_avro = Serializer(registry, STATISTIC, to_dict=as_fields)
    written = kop.serialize(
        "avro",
        results,
        key_serializer=StringSerializer(),
        val_serializer=to_avro,
        # The registry names schemas after topics.
        topic=to,
    )
    kop.output("statistics", written, brokers=brokers, topic=to, delivery=delivery)
    return flow


def as_reading(fields: dict[str, Any], _: SerializationContext) -> Reading:
    """What the deserializer calls with the fields that it has read."""
    return Reading(**fields)


def as_fields(statistic: Statistic, _: SerializationContext) -> dict[str, Any]:
    """What the serializer calls to have the fields that it has to write."""
    return asdict(statistic)


def registry_at(url: str) -> SchemaRegistryClient:
    """A client of a registry; with ``mock://`` it is one in this process."""
    kind: Any = SchemaRegistryClient
    client: SchemaRegistryClient = kind.new_client({"url": url})
    return client


def produce(
    brokers: str, registry: SchemaRegistryClient, count: int, topic: str = READINGS
) -> None:
    """Write readings in Avro, by confluent-kafka alone."""
    to_avro = Serializer(registry, READING)
    context = SerializationContext(topic, MessageField.VALUE)
    producer = Producer({"bootstrap.servers": brokers})
    for number in range(count):
        sensor, _, content = event(number)
        producer.produce(topic, to_avro(content, context), sensor)
    producer.flush()


def last_of_each(
    brokers: str, registry: SchemaRegistryClient, topic: str = STATISTICS
) -> dict[str, Any]:
    """The last statistic of each sensor, by confluent-kafka alone."""
    from_avro = Deserializer(registry)
    context = SerializationContext(topic, MessageField.VALUE)
    messages = read(brokers, topic)
    told = {text(message.key()): from_avro(message.value(), context) for message in messages}
    return dict(sorted(told.items()))


def main() -> None:
    """Try it where nothing is installed: readings in, statistics out, and a look at them."""
    registry = registry_at("mock://example")
    with mock_broker(READINGS, STATISTICS) as address:
        produce(address, registry, 1000)
        run_main(statistics([address], registry, tail=False, delivery="at-least-once"))
        for sensor, told in last_of_each(address, registry).items():
            sys.stdout.write(f"{sensor}: {told}\n")


flow = statistics(BROKERS, registry_at(REGISTRY))

if __name__ == "__main__":
    main()
