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
from confluent_kafka.admin import AdminClient

from engine.connectors import PENDING, UnavailableError
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from engine.connectors.kafka._client import Trouble
from engine.connectors.kafka._watch import Watch
from tests.kafka.broker import Broker
from tests.kafka.client import WAIT_S, Kafka
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
        source = KafkaSource(brokers, [topic], add_config=ASKS_OFTEN, batch_size=100)
        self.parts = [source.build_part("flow.in", f"{n}-{topic}", None) for n in range(2)]
        self.came: list[list[Any]] = [[], []]
        self._topic = topic
        self._had_broker_s = time.monotonic()

    @property
    def consumer(self) -> Any:
        """The one that it reads with now."""
        return self.parts[0]._reader._consumer

    def take(self, *numbers: int) -> None:
        """What partitions have by now."""
        for number in numbers or (0, 1):
            with contextlib.suppress(UnavailableError):
                self.came[number] += self.parts[number].next_batch()

    def has(self, *values: bytes) -> bool:
        """Take more; gives whether these have come from each."""
        self.take()
        return [[item.value for item in items] for items in self.came] == [list(values)] * 2

    def close(self) -> None:
        """Close all."""
        for part in self.parts:
            part.close()

    def is_lost(self) -> bool:
        """Take more; gives whether the consumer asks nobody any more."""
        self.take()
        now_s = time.monotonic()
        with pytest.raises(KafkaException) as caught:
            self.consumer.list_topics(self._topic, timeout=0)
        if caught.value.args[0].code() != KafkaError._TRANSPORT:
            self._had_broker_s = now_s
        return now_s - self._had_broker_s > LOST_S


def test_a_source_replaces_a_consumer_that_looks_for_no_broker_any_more(
    topic: str, broker: tuple[Broker, ForgetfulProxy], caplog: pytest.LogCaptureFixture
):
    """It never finds out that brokers are back; a new one reads on, each record once."""
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
    with pytest.raises(UnavailableError):
        reading.parts[0].next_batch()
    write(b"meanwhile")
    proxy.forgets = False
    until(lambda: reading.has(b"before", b"meanwhile"), "the source is stuck")
    write(b"after")
    until(lambda: reading.has(b"before", b"meanwhile", b"after"), "the source is stuck")
    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert [line[:37] for line in told] == ["a Kafka client had lost all brokers a"]
    reading.close()


def test_another_consumer_reads_each_partition_on_where_it_is(kafka: Kafka, topic: str):
    """In the midst of reading, with records fetched ahead, and one partition that nobody asks."""
    kafka.create_topic(topic, 2)
    count = 20_000
    for partition in range(2):
        kafka.produce(topic, [(None, b"value")] * count, partition=partition)
    reading = Reading([kafka.address], topic)

    def reads(wanted: int, *numbers: int) -> bool:
        reading.take(*numbers)
        return all(len(reading.came[number]) >= wanted for number in numbers)

    until(lambda: reads(1000, 0, 1), "the source is stuck")
    until(lambda: reads(0, 0) and reading.parts[1].aside, "nothing comes for the other one")
    lost = reading.consumer
    reading.parts[0]._reader.watch.want_consumer()
    until(lambda: reads(0, 0) and reading.consumer is not lost, "no other one is made")
    assert len(reading.came[1]) < count
    kafka.produce(topic, [(None, b"after")], partition=0)
    until(lambda: reads(count + 1, 0), "the source is stuck")
    assert len(reading.parts[1]._waiting) <= 100, "it is not set aside any more"
    until(lambda: reads(count, 0, 1), "the source is stuck")
    for items, there in zip(reading.came, (count + 1, count), strict=True):
        offsets = [item.offset for item in items]
        assert offsets == list(range(there)), "some are lost, or came twice"
    reading.close()


def test_who_watches_the_brokers_is_replaced_as_well(kafka: Kafka, topic: str):
    """Its own client may be lost, too: it asks with another one the next time."""
    kafka.create_topic(topic)
    watch = Watch(kafka.address, {}, Trouble(), list)
    nobody = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "error_cb": watch._own_trouble}
    watch._admin = AdminClient(nobody)
    watch._made_s -= WAIT_S
    with pytest.raises(UnavailableError):
        watch.topic_id(topic)
    assert watch.topic_id(topic) is not None
