"""Topics of a broker and what is in them, by confluent-kafka's own clients.

The tests look at what the engine has done through these, so nothing here uses the engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

WAIT_S = 30.0
"""How long a broker may take for anything."""
QUIET = {
    "log_level": 0,
    "reconnect.backoff.max.ms": 200,
    "metadata.recovery.strategy": "none",
}
"""No word on standard error when a broker goes away on purpose, and soon back when it is there."""
Text = str | bytes | None


class Kafka:
    """A broker that somebody runs.

    Args:
        address: Host and port.
        config: What clients need besides the address, such as a password.
    """

    def __init__(self, address: str, config: dict[str, Any] | None = None) -> None:
        self.address = address
        self.config = {"bootstrap.servers": address, **QUIET, **(config or {})}
        self._admin: AdminClient | None = None

    @property
    def admin(self) -> AdminClient:
        """A client for what has no method here."""
        if self._admin is None:
            self._admin = AdminClient(self.config)
        return self._admin

    def create_topic(self, name: str, partitions: int = 1, **config: str | int) -> str:
        """Make a topic and wait until it can be written to; gives its name.

        Args:
            name: Of the topic.
            partitions: How many.
            config: Of the topic, with `_` for each `.`: ``retention_ms=-1``.
        """
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, partitions, 1, config=settings)
        self.admin.create_topics([topic])[name].result(WAIT_S)
        self._wait_for_partitions(name, partitions)
        return name

    def add_partitions(self, name: str, partitions: int) -> None:
        """Give a topic more partitions, so that it has this many."""
        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result(WAIT_S)
        self._wait_for_partitions(name, partitions)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until it is gone."""
        self.admin.delete_topics([name])[name].result(WAIT_S)
        until_s = time.monotonic() + WAIT_S
        while name in self.admin.list_topics(timeout=WAIT_S).topics:
            assert time.monotonic() < until_s, f"{name} is still there"

    def delete_records(self, name: str, partition: int, before: int) -> None:
        """Delete what has a lower offset, as the retention of a topic does."""
        spot = TopicPartition(name, partition, before)
        self.admin.delete_records([spot])[spot].result(WAIT_S)

    def reader_of_group(self, group: str) -> Consumer:
        """Made to be asked what a group has committed (`committed_offset`), by any thread.

        The admin client can be asked too, but not while somebody kills the broker: until the
        broker is back, a pending question keeps two threads of librdkafka busy without a pause,
        and one that breaks off at the wrong moment uses memory that was given back
        (confluentinc/librdkafka#4605), on a thread whose crash leaves no word.
        """
        # What is in a transaction that still goes on is not waited for.
        own = {"group.id": group, "isolation.level": "read_uncommitted"}
        return Consumer({**self.config, "enable.auto.commit": False, **own})

    def _wait_for_partitions(self, name: str, partitions: int) -> None:
        until_s = time.monotonic() + WAIT_S
        while True:
            topic = self.admin.list_topics(name, timeout=WAIT_S).topics[name]
            found = topic.partitions.values()
            if len(found) == partitions and all(p.leader >= 0 and not p.error for p in found):
                return
            assert time.monotonic() < until_s, f"{name} has {len(found)} partitions"

    def produce(
        self, topic: str, messages: Iterable[tuple[Text, Text]], **options: object
    ) -> list[Message]:
        """Write messages and wait until they are there; gives them with their offsets.

        Args:
            topic: Where to.
            messages: Keys and values.
            options: For `confluent_kafka.Producer.produce`: partition, timestamp, headers.
        """
        written: list[Message] = []

        def note(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            written.append(message)

        producer = Producer({**self.config, "linger.ms": 5})
        for key, value in messages:
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=note, **options)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(WAIT_S) == 0, f"messages to {topic} are still on their way"
        return written

    def wait_for_aborted(self, topic: str) -> bool:
        """Wait until the brokers have ended the transaction that is open in a topic's partition."""
        consumer = self.consumer(topic)
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            # A reader of what is committed gets to the end only then: the mark of the abort.
            for message in consumer.consume(10, 0.5):
                error = message.error()
                if error is not None and (message.offset() or 0) >= 2:
                    consumer.close()
                    return True
        consumer.close()
        return False

    def consumer(self, topic: str, isolation: str = "read_committed", **config: object) -> Consumer:
        """A consumer of all of a topic from its beginning, which also tells of ends.

        Args:
            topic: Which one.
            isolation: ``read_committed`` or ``read_uncommitted``.
            config: More of its settings, with `_` for each `.`.
        """
        settings = {key.replace("_", "."): value for key, value in config.items()}
        own = {"group.id": "reader", "enable.auto.commit": False, "enable.partition.eof": True}
        kind = {"isolation.level": isolation, "fetch.queue.backoff.ms": 10}
        consumer = Consumer({**self.config, **own, **kind, **settings})
        partitions = consumer.list_topics(topic, timeout=WAIT_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        return consumer

    def read_all(self, topic: str, isolation: str = "read_committed") -> list[Message]:
        """All messages of a topic, by partition and offset, as a reader from outside sees them.

        While somebody writes, at least those that are there now.
        """
        consumer = self.consumer(topic, isolation)
        open_ends = {spot.partition for spot in consumer.assignment()}
        messages: list[Message] = []
        until_s = time.monotonic() + WAIT_S
        while open_ends:
            assert time.monotonic() < until_s, f"{topic} has no end"
            for message in consumer.consume(1000, 0.1):
                error = message.error()
                if error is None:
                    messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_ends.discard(message.partition())
                elif error.fatal():
                    raise KafkaException(error)
        consumer.close()
        return sorted(messages, key=lambda message: (message.partition(), message.offset()))


def committed_offset(reader: Consumer, topic: str) -> int | None:
    """What the reader's group has committed for the first partition of a topic, if anything."""
    # A question to a broker that is killed just then has no answer, ever.
    [spot] = reader.committed([TopicPartition(topic, 0)], WAIT_S / 3)
    if spot.error is not None:
        raise KafkaException(spot.error)
    offset: int = spot.offset
    return None if offset == OFFSET_INVALID else offset


class MockKafka(Kafka):
    """librdkafka's own stand-in: no isolation, no fencing, nothing that outlives it."""

    def __init__(self) -> None:
        self._cluster = Producer({"test.mock.num.brokers": 3, **QUIET})
        brokers = self._cluster.list_topics(timeout=WAIT_S).brokers.values()
        super().__init__(",".join(f"{broker.host}:{broker.port}" for broker in brokers))

    def create_topic(self, name: str, partitions: int = 4, **config: str | int) -> str:
        """Topics appear when they are asked for, each with four partitions."""
        assert (partitions, config) == (4, {}), "the mock cluster's topics have four partitions"
        self._wait_for_partitions(name, partitions)
        return name
