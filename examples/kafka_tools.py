"""Kafka tools: topics, events, and readers that confirm what the Kafka examples have written.

All by confluent-kafka alone, with nothing of the engine in it, so that it is a witness of its own.
The first makes the topics and writes readings of sensors, a second of event time apart; the second
shows what a topic holds; the third works out the statistics by itself and compares::

    python -m examples.kafka_tools produce
    python -m examples.kafka_tools read statistics
    python -m examples.kafka_tools check

`KAFKA_BROKERS` names other brokers than ``localhost:9092``, with commas between; `KAFKA_READINGS`
and `KAFKA_STATISTICS` name other topics than ``readings`` and ``statistics``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import sys
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

BROKERS = os.environ.get("KAFKA_BROKERS", "localhost:9092")
READINGS = os.environ.get("KAFKA_READINGS", "readings")
STATISTICS = os.environ.get("KAFKA_STATISTICS", "statistics")
SENSORS = ("attic", "bath", "cellar", "garden", "hall", "kitchen", "porch", "study")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
WAIT_S = 10.0
QUIET = {"log_level": 0}
"""The library would tell of connections on standard error, beside the errors that it raises."""


def event(number: int) -> tuple[str, datetime, dict[str, Any]]:
    """The sensor, time and content of an event, the same ones whenever they are asked for."""
    place = number % len(SENSORS)
    celsius = round(15 + place + 7 * math.sin(number / 500), 2)
    sensor = SENSORS[place]
    return sensor, FIRST + timedelta(seconds=number), {"sensor": sensor, "celsius": celsius}


@contextlib.contextmanager
def mock_broker(*topics: str) -> Generator[str]:
    """A broker inside this process, with these topics; gives its address.

    librdkafka, the client library, has it for tests. It keeps all in memory and knows no
    transactions.
    """
    owner = Producer({"test.mock.num.brokers": 1, **QUIET})
    for topic in topics:
        # They are made when somebody asks for them.
        owner.list_topics(topic, timeout=WAIT_S)
    [broker] = owner.list_topics(timeout=WAIT_S).brokers.values()
    yield f"{broker.host}:{broker.port}"
    owner.flush()


def create_topics(brokers: str, *names: str) -> None:
    """Make topics of four partitions, those that aren't there yet."""
    admin: Any = AdminClient({"bootstrap.servers": brokers, **QUIET})
    # The events are of a day that is over, and by default Kafka deletes what is a week old.
    topics = [NewTopic(name, 4, config={"retention.ms": "-1"}) for name in names]
    for made in admin.create_topics(topics).values():
        try:
            made.result(WAIT_S)
        except KafkaException as ex:
            if ex.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def produce(brokers: str, topic: str, count: int) -> None:
    """Write the first so many events, each to its sensor's partition."""
    config = {"bootstrap.servers": brokers, "linger.ms": 5, **QUIET}
    # Or what a broker refuses at first may come behind what was sent after it.
    producer = Producer({**config, "enable.idempotence": True})
    for number in range(count):
        sensor, when, content = event(number)
        milliseconds = int(when.timestamp() * 1000)
        while True:
            try:
                producer.produce(topic, json.dumps(content), sensor, timestamp=milliseconds)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(WAIT_S):
        sys.exit(f"not all events were taken by {brokers} within {WAIT_S:g} s")


def read(brokers: str, topic: str) -> Iterator[Message]:
    """The committed messages of a topic, from its beginning to its present end."""
    config: dict[str, Any] = {
        "bootstrap.servers": brokers,
        # It takes its partitions itself, so this group has no members; but there must be a name.
        "group.id": "examples",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        **QUIET,
    }
    consumer = Consumer(config)
    partitions = consumer.list_topics(topic, timeout=WAIT_S).topics[topic].partitions
    if not partitions:
        sys.exit(f"there is no topic {topic!r} at {brokers}")
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    unfinished = len(partitions)
    while unfinished:
        for message in consumer.consume(1000, 0.1):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own name
                unfinished -= 1
            else:
                raise KafkaException(error)
    consumer.close()


def text(raw: bytes | str | None) -> str:
    """A key or a value as text."""
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def by_key(messages: Iterator[Message]) -> dict[str, list[Any]]:
    """What the messages of each key say, in their order."""
    found: dict[str, list[Any]] = {}
    for message in messages:
        found.setdefault(text(message.key()), []).append(json.loads(text(message.value())))
    return dict(sorted(found.items()))


def expected(readings: list[Any]) -> list[dict[str, Any]]:
    """The statistics after each reading of one sensor."""
    told: list[dict[str, Any]] = []
    total, most = 0.0, -math.inf
    for count, reading in enumerate(readings, 1):
        total += reading["celsius"]
        most = max(most, reading["celsius"])
        told.append({"count": count, "mean": round(total / count, 3), "max": most})
    return told


def check(brokers: str) -> Iterator[tuple[bool, str]]:
    """For each sensor, whether its statistics are the right ones, and a line that says so."""
    statistics = by_key(read(brokers, STATISTICS))
    for sensor, readings in by_key(read(brokers, READINGS)).items():
        wanted, got = expected(readings), statistics.get(sensor, [])
        if got == wanted:
            verdict = f"right, {got[-1]}"
        elif got == wanted[: len(got)]:
            verdict = "right so far"
        else:
            same = (a == b for a, b in itertools.zip_longest(wanted, got))
            verdict = f"wrong from number {list(same).index(False) + 1} on"
        yield got == wanted, f"{sensor}: {len(wanted)} readings, {len(got)} statistics: {verdict}"


def run(given: argparse.Namespace) -> int:
    """Do what the command line says; gives the exit code."""
    if given.command == "produce":
        create_topics(BROKERS, READINGS, STATISTICS)
        produce(BROKERS, READINGS, given.count)
        sys.stdout.write(f"wrote {given.count} readings to topic {READINGS!r}\n")
    elif given.command == "read":
        for message in read(BROKERS, given.topic):
            sys.stdout.write(f"{text(message.key())} {text(message.value())}\n")
    else:
        outcomes = list(check(BROKERS))
        sys.stdout.writelines(f"{line}\n" for _, line in outcomes)
        return 0 if all(right for right, _ in outcomes) else 1
    return 0


def main() -> int:
    """Read the command line, and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m examples.kafka_tools")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("produce", help="make the topics and write readings")
    command.add_argument("--count", type=int, default=100_000, help="how many; %(default)s")
    command = commands.add_parser("read", help="print keys and values of a topic")
    command.add_argument("topic")
    commands.add_parser("check", help="compare the statistics with the readings")
    given = parser.parse_args()
    try:
        return run(given)
    except BrokenPipeError:
        # Nobody reads on, as behind `head`. What is left must not be written at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KafkaException as ex:
        sys.stderr.write(f"error: Kafka at {BROKERS}: {ex.args[0].str()}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
