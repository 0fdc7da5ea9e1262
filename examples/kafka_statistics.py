"""Kafka statistics: readings of sensors come in as JSON; count, mean and maximum of each go out.

Shows Kafka as source and sink, JSON that is checked against a type, state per key, and a result
that is written exactly once, whatever is killed meanwhile.

It takes a broker with the topics ``readings`` and ``statistics``. These commands make the topics
and write readings, run the flow until Ctrl-C, and compare what it wrote with what it should have::

    python -m examples.kafka_tools produce
    python -m engine.run examples.kafka_statistics:flow -p 2 -r kafka-state -s 1s
    python -m examples.kafka_tools check

`KAFKA_BROKERS` names other brokers than ``localhost:9092``, with commas between; `KAFKA_READINGS`
and `KAFKA_STATISTICS` name other topics. `docs/kafka.md` tells how to start a broker.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka.serialization import StringSerializer

import engine.operators as op
from engine.connectors import Delivery
from engine.connectors.kafka import KafkaSinkMessage, serde
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow

BROKERS = os.environ.get("KAFKA_BROKERS", "localhost:9092").split(",")
READINGS = os.environ.get("KAFKA_READINGS", "readings")
STATISTICS = os.environ.get("KAFKA_STATISTICS", "statistics")


@dataclass
class Reading:
    """What a sensor says, as it stands in the JSON of an event."""

    sensor: str
    celsius: float


@dataclass
class Statistic:
    """What is known of a sensor after one more reading, as it is written."""

    count: int
    mean: float
    max: float


Seen = tuple[int, float, float]
"""The state of a sensor: how many readings there were, their sum and their maximum."""


def with_reading(seen: Seen | None, reading: Reading) -> tuple[Seen, Statistic]:
    """One more reading of a sensor: its new state, and what to tell of it."""
    count, total, most = seen or (0, 0.0, -math.inf)
    count += 1
    total += reading.celsius
    most = max(most, reading.celsius)
    return (count, total, most), Statistic(count, round(total / count, 3), most)


def statistics(
    brokers: Sequence[str] = BROKERS,
    readings: str = READINGS,
    to: str = STATISTICS,
    *,
    tail: bool = True,
    delivery: Delivery = "exactly-once",
) -> Dataflow:
    """Make a flow that writes a sensor's statistics after each of its readings.

    Args:
        brokers: Addresses to begin with, "host:port" each.
        readings: The topic to read.
        to: The topic to write.
        tail: Whether to wait for more readings when all are read.
        delivery: What the sink is to promise.
    """
    flow = Dataflow("kafka_statistics")
    messages = kop.input("readings", flow, brokers=brokers, topics=[readings], tail=tail)
    # Nothing reads `errs`: an event that is no reading ends the run, and the report shows it.
    parsed = kop.deserialize_value("parse", messages.oks, serde.JsonDeserializer(Reading))
    # A message without a value (Kafka's way to delete a key) is left out.
    values = op.filter_map("reading", parsed.oks, lambda message: message.value)
    by_sensor = op.key_on("sensor", values, lambda reading: reading.sensor)
    statistic = op.stateful_map("statistic", by_sensor, with_reading)
    results = op.map("message", statistic, lambda item: KafkaSinkMessage(item[0], item[1]))
    written = kop.serialize(
        "json", results, key_serializer=StringSerializer(), val_serializer=serde.JsonSerializer()
    )
    kop.output("statistics", written, brokers=brokers, topic=to, delivery=delivery)
    return flow


flow = statistics()
