"""What the Kafka source gives and the Kafka sink takes: messages, and what was wrong with one.

They are made once per record, so they are plain slotted classes: a frozen one would take twice as
long to make. Treat them as if they were frozen all the same, as batches may share them; `with_key`
and its kin, and `dataclasses.replace`, make changed copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import methodcaller
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


@dataclass(init=False)
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

    # Most flows look at key and value alone. What else a message has stays in the library's own
    # message until somebody asks for it: that halves what it costs to make one of these.
    __slots__ = ("_rest", "key", "value")

    key: K
    value: V
    topic: str | None
    headers: Headers
    latency: float | None
    offset: int | None
    partition: int | None
    timestamp: tuple[int, int] | None

    def __init__(  # noqa: PLR0913 - the fields, in the order that users know
        self,
        key: K,
        value: V,
        topic: str | None = None,
        headers: Headers | None = None,
        latency: float | None = None,
        offset: int | None = None,
        partition: int | None = None,
        timestamp: tuple[int, int] | None = None,
    ) -> None:
        self.key = key
        self.value = value
        headers = [] if headers is None else headers
        self._rest: Any = (topic, headers, latency, offset, partition, timestamp)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call with the fields in order: the library's message can't be pickled."""
        return KafkaSourceMessage, (self.key, self.value, *(read(self) for read in _READS))

    def with_key(self, key: K2) -> KafkaSourceMessage[K2, V]:
        """The same message with another key."""
        return self.with_key_and_value(key, self.value)

    def with_value(self, value: V2) -> KafkaSourceMessage[K, V2]:
        """The same message with another value."""
        return self.with_key_and_value(self.key, value)

    def with_key_and_value(self, key: K2, value: V2) -> KafkaSourceMessage[K2, V2]:
        """The same message with another key and value."""
        new: Any = object.__new__
        other: KafkaSourceMessage[K2, V2] = new(KafkaSourceMessage)
        other.key = key
        other.value = value
        other._rest = self._rest
        return other

    def to_sink(self) -> KafkaSinkMessage[K, V]:
        """A message to write with the same key, value and headers.

        Where it was read (topic, partition, offset, time) is left out: the sink decides anew.
        """
        return KafkaSinkMessage(self.key, self.value, headers=self.headers)


def _reading(name: str, place: int) -> Callable[[Any], Any]:
    """What reads a field of the rest: given to us, or still in the library's message."""
    ask = methodcaller(name)

    def read(message: Any) -> Any:
        rest = message._rest  # noqa: SLF001 - it is made a method of that class
        if rest.__class__ is tuple:
            return rest[place]
        found = ask(rest)
        return [] if found is None and name == "headers" else found

    return read


_REST = ("topic", "headers", "latency", "offset", "partition", "timestamp")
_READS = [_reading(name, place) for place, name in enumerate(_REST)]
for _name, _read in zip(_REST, _READS, strict=True):
    # Not in the body of the class, where a dataclass would take them for defaults of the fields.
    setattr(KafkaSourceMessage, _name, property(_read))


def as_read(messages: Iterable[Any]) -> list[KafkaSourceMessage[bytes | None, bytes | None]]:
    """Our messages of the library's, in order.

    It costs more than anything else in reading, so it does without a call of `__init__`.
    """
    made: list[KafkaSourceMessage[bytes | None, bytes | None]] = []
    new: Any = object.__new__
    add = made.append
    for message in messages:
        own: KafkaSourceMessage[bytes | None, bytes | None] = new(KafkaSourceMessage)
        own.key = message.key()
        own.value = message.value()
        own._rest = message  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - a second constructor
        add(own)
    return made


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
