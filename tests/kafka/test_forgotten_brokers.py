"""What a broker says of its cluster is not always of use: clients must get over it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from engine.connectors import PENDING, UnavailableError
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from tests.kafka.broker import Broker
from tests.kafka.client import WAIT_S
from tests.kafka.lossy import ForgetfulProxy

ASKS_OFTEN = {
    "topic.metadata.refresh.interval.ms": 100,
    "reconnect.backoff.ms": 10,
    "reconnect.backoff.max.ms": 50,
}
ANSWERS = 5
"""More than the sink has clients: whoever gets one such answer has to ask again."""
LOST_S = 1.0
"""A consumer that has no broker for so long looks for none: it would connect in a tenth of it."""


@pytest.fixture
def broker(kafka_jars: None, tmp_path: Path) -> Iterator[tuple[Broker, ForgetfulProxy]]:
    """A broker, and a network that leads to it."""
    broker = Broker(tmp_path / "kafka", listeners={"PROXIED": "PLAINTEXT"})
    proxy = ForgetfulProxy(broker.ports["PROXIED"])
    broker.advertise("PROXIED", proxy.port)
    with broker, contextlib.closing(proxy):
        yield broker, proxy


def until(done: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until_s, what
        time.sleep(0.001)


def test_an_answer_that_names_no_broker_does_not_stop_a_sink(
    topic: str, broker: tuple[Broker, ForgetfulProxy]
):
    """It goes on with the same producer when there are brokers again."""
    kafka, proxy = broker
    kafka.create_topic(topic)
    sink: Any = KafkaSink([f"127.0.0.1:{proxy.port}"], topic, ASKS_OFTEN).build("s", 0, 1)

    def write(value: bytes) -> None:
        sink.write_batch([KafkaSinkMessage("k", value)])
        until(lambda: sink.flush() is not PENDING, "the sink is stuck")

    write(b"before")
    proxy.forgets = True
    until(lambda: proxy.forgot >= ANSWERS, "it asks nobody any more")
    proxy.forgets = False
    write(b"after")
    assert [message.value() for message in kafka.read_all(topic)] == [b"before", b"after"]
    sink.close()


class Reading:
    """Two partitions of a topic, read by one source.

    Args:
        brokers: Addresses.
        topic: Its name.
    """

    def __init__(self, brokers: list[str], topic: str) -> None:
        source = KafkaSource(brokers, [topic], add_config=ASKS_OFTEN)
        self.parts = [source.build_part("flow.in", f"{n}-{topic}", None) for n in range(2)]
        self.came: list[list[Any]] = [[], []]
        self._topic = topic
        self._had_broker_s = time.monotonic()

    def take(self) -> None:
        """What each partition has by now."""
        for part, values in zip(self.parts, self.came, strict=True):
            with contextlib.suppress(UnavailableError):
                values.extend(item.value for item in part.next_batch())

    def has(self, *values: bytes) -> bool:
        """Take more; gives whether these have come from each."""
        self.take()
        return self.came == [list(values)] * 2

    def is_lost(self) -> bool:
        """Take more; gives whether the consumer asks nobody any more."""
        self.take()
        now_s = time.monotonic()
        with pytest.raises(KafkaException) as caught:
            self.parts[0]._reader._consumer.list_topics(self._topic, timeout=0)
        if caught.value.args[0].code() != KafkaError._TRANSPORT:
            self._had_broker_s = now_s
        return now_s - self._had_broker_s > LOST_S


def test_a_source_replaces_a_consumer_that_looks_for_no_broker_any_more(
    topic: str, broker: tuple[Broker, ForgetfulProxy], caplog: pytest.LogCaptureFixture
):
    """Brokers are back, which the consumer never finds out: a new one reads on, each record once."""
    kafka, proxy = broker
    kafka.create_topic(topic, 2)
    reading = Reading([f"127.0.0.1:{proxy.port}"], topic)

    def write(value: bytes) -> None:
        for partition in range(2):
            kafka.produce(topic, [(None, value)], partition=partition)

    write(b"before")
    until(lambda: reading.has(b"before"), "the source is stuck")
    proxy.forgets = True
    until(reading.is_lost, "the consumer always gets over it")
    write(b"meanwhile")
    proxy.forgets = False
    until(lambda: reading.has(b"before", b"meanwhile"), "the source is stuck")
    write(b"after")
    until(lambda: reading.has(b"before", b"meanwhile", b"after"), "the source is stuck")
    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert [line[:37] for line in told] == ["a Kafka client had lost all brokers a"]
    for part in reading.parts:
        part.close()
