"""Kafka replay: what the sensors said in a span of the past, worked out anew.

Shows a topic read from a time to a time, and results that come once at the end of the input.

It takes a broker with events in the topic ``readings``; the first command writes some, a second of
the first day of 2026 apart. The second reads six hours of that day, the third minutes of your
choice::

    python -m examples.kafka_tools produce
    python -m engine.run examples.kafka_replay:flow
    python -m engine.run 'examples.kafka_replay:replay("2026-01-01T06:00Z", "2026-01-01T06:05Z")'

`KAFKA_BROKERS` and `KAFKA_READINGS` name other brokers than ``localhost:9092`` and another topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import engine.operators as op
from engine.connectors.kafka import operators as kop
from engine.connectors.kafka import serde
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from examples.kafka_statistics import BROKERS, READINGS, Reading, Seen, with_reading


def replay(
    start: str, end: str, brokers: Sequence[str] = BROKERS, readings: str = READINGS
) -> Dataflow:
    """Make a flow that prints a line for each sensor that has a reading in a span of time.

    Args:
        start: Where it begins, as ISO 8601 with a zone.
        end: Where it ends; a reading of that very time is not in it.
        brokers: Addresses to begin with, "host:port" each.
        readings: The topic to read.
    """
    flow = Dataflow("kafka_replay")
    messages = kop.input(
        "readings",
        flow,
        brokers=brokers,
        topics=[readings],
        starting_offset=datetime.fromisoformat(start),
        ending_offset=datetime.fromisoformat(end),
    )
    parsed = kop.deserialize_value("parse", messages.oks, serde.JsonDeserializer(Reading))
    values = op.filter_map("reading", parsed.oks, lambda message: message.value)
    by_sensor = op.key_on("sensor", values, lambda reading: reading.sensor)
    totals = op.fold_final("total", by_sensor, lambda: None, with_one_more)
    op.output("out", op.map("line", totals, line_of), StdOutSink())
    return flow


def with_one_more(seen: Seen | None, reading: Reading) -> Seen | None:
    """The state of a sensor after one more reading."""
    return with_reading(seen, reading)[0]


def line_of(item: tuple[str, Seen | None]) -> str:
    """What to print of a sensor."""
    sensor, seen = item
    count, total, most = seen or (0, 0.0, 0.0)
    return f"{sensor}: {count} readings, mean {total / count:.2f}, maximum {most:.2f}"


flow = replay("2026-01-01T06:00Z", "2026-01-01T12:00Z")
