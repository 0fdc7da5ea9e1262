"""What the Kafka source gives and the Kafka sink takes: messages, and what was wrong with one.

They are made once per record, so they are plain slotted classes: a frozen one would take twice as
long to make. Treat them as if they were frozen all the same, as batches may share them; `with_key`
and its kin make changed copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    import confluent_kafka

K = TypeVar("K")
"""Type of a message's key."""

V = TypeVar("V")
"""Type of a message's value."""

K2 = TypeVar("K2")
V2 = TypeVar("V2")

Headers: TypeAlias = list[tuple[str, bytes | None]]
"""Names and values, in order; a name may come more than once, and a value may be missing."""


@dataclass(slots=True)
class KafkaSourceMessage(Generic[K, V]):
    """A message that was read from Kafka.

    >>> message = KafkaSourceMessage(b"ann", b"20", "orders", offset=7, partition=0)
    >>> message.value
    b'20'
    >>> message.to_sink()
    KafkaSinkMessage(key=b'ann', value=b'20', topic=None, headers=[], partition=None, timestamp=0)

    Attributes:
        key: The key: bytes, or None if the message has none, until it is deserialized.
        value: The value: bytes, or None (in a compacted topic: the key is deleted).
        topic: Where it was read.
        headers: Names and values, in order.
        latency: How long the producer took, in seconds; None where that is not known, which is
            always so for messages that were read.
        offset: Its place in the partition.
        partition: The partition of the topic, from 0.
        timestamp: Its kind (0 none, 1 when it was created, 2 when it was appended to the log) and
            the milliseconds since 1970.
    """

    key: K
    value: V
    topic: str | None = None
    headers: Headers = field(default_factory=list[tuple[str, bytes | None]])
    latency: float | None = None
    offset: int | None = None
    partition: int | None = None
    timestamp: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call with the fields in order, the shortest and fastest form."""
        return KafkaSourceMessage, (
            self.key,
            self.value,
            self.topic,
            self.headers,
            self.latency,
            self.offset,
            self.partition,
            self.timestamp,
        )

    def with_key(self, key: K2) -> KafkaSourceMessage[K2, V]:
        """The same message with another key."""
        return self.with_key_and_value(key, self.value)

    def with_value(self, value: V2) -> KafkaSourceMessage[K, V2]:
        """The same message with another value."""
        return self.with_key_and_value(self.key, value)

    def with_key_and_value(self, key: K2, value: V2) -> KafkaSourceMessage[K2, V2]:
        """The same message with another key and value."""
        return KafkaSourceMessage(
            key,
            value,
            self.topic,
            self.headers,
            self.latency,
            self.offset,
            self.partition,
            self.timestamp,
        )

    def to_sink(self) -> KafkaSinkMessage[K, V]:
        """A message to write with the same key, value and headers.

        Where it was read (topic, partition, offset, time) is left out: the sink decides anew.
        """
        return KafkaSinkMessage(self.key, self.value, headers=self.headers)


@dataclass(slots=True)
class KafkaSinkMessage(Generic[K, V]):
    """A message to write to Kafka.

    >>> KafkaSinkMessage(b"ann", b"20").with_value(b"21")
    KafkaSinkMessage(key=b'ann', value=b'21', topic=None, headers=[], partition=None, timestamp=0)

    Attributes:
        key: The key: bytes or text, or None for none. All messages of a key go to one partition.
        value: The value: bytes or text, or None (in a compacted topic: delete the key).
        topic: Where to write; None for the topic that the sink was given.
        headers: Names and values, in order.
        partition: Write there, whatever the key; None to go by the key.
        timestamp: Milliseconds since 1970; 0 for now.
    """

    key: K
    value: V
    topic: str | None = None
    headers: Headers = field(default_factory=list[tuple[str, bytes | None]])
    partition: int | None = None
    timestamp: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call with the fields in order, the shortest and fastest form."""
        return KafkaSinkMessage, (
            self.key,
            self.value,
            self.topic,
            self.headers,
            self.partition,
            self.timestamp,
        )

    def with_key(self, key: K2) -> KafkaSinkMessage[K2, V]:
        """The same message with another key."""
        return self.with_key_and_value(key, self.value)

    def with_value(self, value: V2) -> KafkaSinkMessage[K, V2]:
        """The same message with another value."""
        return self.with_key_and_value(self.key, value)

    def with_key_and_value(self, key: K2, value: V2) -> KafkaSinkMessage[K2, V2]:
        """The same message with another key and value."""
        return KafkaSinkMessage(
            key, value, self.topic, self.headers, self.partition, self.timestamp
        )


@dataclass(slots=True)
class KafkaError(Generic[K, V]):
    """What the source or a deserializer could not make sense of.

    Attributes:
        err: What was wrong, as confluent-kafka says it.
        msg: The message as it was read.
    """

    err: confluent_kafka.KafkaError
    msg: KafkaSourceMessage[K, V]
