"""The rows that an exactly-once sink keeps with an epoch: checked messages, packed by the batch.

What is wrong with a message is found here, while its epoch can still be given up. Once the epoch is
durable, a message that can't be published would stop every later run too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack as untyped_msgpack  # type: ignore[import-untyped]

from engine.connectors.kafka._messages import KafkaSinkMessage
from engine.errors import ConnectorError

_msgpack: Any = untyped_msgpack

_VERSION = 1
_MS_MAX = 2**63

RAISE_THE_SIZE: Final = "raise message.max.bytes in add_config and max.message.bytes of the topic"
"""What to do about messages that are too large."""

Produced: TypeAlias = tuple[Any, ...]
"""Arguments of `Producer.produce` after the topic: value and key; where it needs more, also
topic (None for the sink's own), partition, timestamp and headers."""


@dataclass(frozen=True, slots=True)
class TopicRules:
    """What a topic takes, as far as its settings could be read.

    Attributes:
        bytes_max: How many bytes key, value and headers of a message may have together.
        needs_key: It is compacted, so a message without a key is refused.
        before_ms: How old the timestamp of a message may be.
        after_ms: How far ahead it may be.
    """

    bytes_max: int
    needs_key: bool = False
    before_ms: float = math.inf
    after_ms: float = math.inf


class RowPacker:
    """Checks messages and packs each batch of them into a row.

    Args:
        topic: Where messages without a topic go; None if each must have one.
        partitions: Gives how many partitions a topic has, if it has more than some number; raises
            if there is no such topic.
        rules: Gives what a topic takes.
    """

    def __init__(
        self,
        topic: str | None,
        partitions: Callable[[str, int], int],
        rules: Callable[[str], TopicRules],
    ) -> None:
        self._topic = topic
        self._partitions = partitions
        self._rules = rules
        # Without a topic of our own no message is a plain one.
        self._own_rules = TopicRules(-1) if topic is None else rules(topic)

    def pack(self, messages: Iterable[KafkaSinkMessage[Any, Any]]) -> bytes:
        """A row of messages, in order.

        Raises:
            ConnectorError: A message can't be written to Kafka.
        """
        records: list[Produced] = []
        add, bytes_max, needs_key = (
            records.append,
            self._own_rules.bytes_max,
            self._own_rules.needs_key,
        )
        for message in messages:
            if message.__class__ is not KafkaSinkMessage:
                raise not_a_message(message)
            value, key = message.value, message.key
            if value.__class__ is not bytes:
                value = encoded(message, "value", value)
            if key.__class__ is not bytes:
                key = encoded(message, "key", key)
            if (
                message.topic is not None
                or message.headers
                or message.partition is not None
                or message.timestamp
                or (needs_key and key is None)
                or len(value or b"") + len(key or b"") > bytes_max
            ):
                add(self._whole(message, value, key))
            else:
                add((value, key))
        packed: bytes = _msgpack.packb((_VERSION, records))
        return packed

    def _whole(
        self, message: KafkaSinkMessage[Any, Any], value: bytes | None, key: bytes | None
    ) -> Produced:
        """A message of which everything is to be checked."""
        topic = message.topic or self._topic
        if topic is None:
            raise no_topic(message)
        rules, partition = self._rules(topic), message.partition
        if partition is None:
            partition = -1
            if message.topic is not None:
                self._partitions(topic, 0)
        elif type(partition) is not int or partition < 0:
            raise _refused(message, f"its partition must be a number from 0; got {partition!r}")
        elif partition >= (count := self._partitions(topic, partition)):
            raise _refused(message, f"topic {topic!r} has {count} partitions; it wants {partition}")
        if rules.needs_key and key is None:
            raise _refused(message, f"topic {topic!r} is compacted, so it must have a key")
        _check_timestamp(message, topic, rules)
        headers = checked_headers(message)
        nbytes = len(value or b"") + len(key or b"")
        nbytes += sum(len(name.encode()) + len(text or b"") for name, text in headers)
        if nbytes > rules.bytes_max:
            raise _refused(
                message,
                f"its {nbytes} bytes are too large for topic {topic!r}, which takes "
                f"{rules.bytes_max}; {RAISE_THE_SIZE}",
            )
        return value, key, message.topic, partition, message.timestamp, headers


def _check_timestamp(message: KafkaSinkMessage[Any, Any], topic: str, rules: TopicRules) -> None:
    stamp_ms = message.timestamp
    if type(stamp_ms) is not int or not 0 <= stamp_ms < _MS_MAX:
        raise _refused(message, f"its timestamp must be whole milliseconds; got {stamp_ms!r}")
    if not stamp_ms:
        return
    ahead_ms = stamp_ms - time.time() * 1000
    if not -rules.before_ms <= ahead_ms <= rules.after_ms:
        raise _refused(
            message,
            f"its timestamp {stamp_ms} is further from now than topic {topic!r} allows "
            "(message.timestamp.before.max.ms, message.timestamp.after.max.ms); it must be in "
            "milliseconds",
        )


def _refused(message: KafkaSinkMessage[Any, Any], why: str) -> ConnectorError:
    return ConnectorError(f"a message can't be written: {why}: {shown_message(message)}")


def unpacked(row: bytes) -> Iterator[Produced]:
    """The messages of a row.

    Raises:
        ConnectorError: A newer engine wrote it.
    """
    version, records = _msgpack.unpackb(row, use_list=False)
    if version != _VERSION:
        msg = (
            f"rows of an exactly-once Kafka sink are of version {version}, written by a newer "
            f"engine; this one knows version {_VERSION}"
        )
        raise ConnectorError(msg)
    return iter(records)


def encoded(message: KafkaSinkMessage[Any, Any], part: str, content: Any) -> bytes | None:
    """A key or value as bytes, or None for none.

    Raises:
        ConnectorError: It is neither bytes nor text nor None.
    """
    if content is None or isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    msg = (
        f"the {part} of a message to Kafka must be bytes, text or None; got "
        f"{type(content).__name__} in {shown_message(message)}; serialize it first, with "
        f"engine.connectors.kafka.operators.serialize_{part}"
    )
    raise ConnectorError(msg)


def checked_headers(message: KafkaSinkMessage[Any, Any]) -> list[tuple[str, bytes | None]]:
    """The headers with all values as bytes.

    Raises:
        ConnectorError: They are not pairs of a text and bytes, text or None.
    """
    headers: list[tuple[str, bytes | None]] = []
    for header in message.headers:
        match header:
            case (str(), bytes() | None):
                headers.append(header)
            case (str() as name, str() as text):
                headers.append((name, text.encode()))
            case _:
                msg = f"a header must be a pair of a name and bytes; got {header!r} in "
                raise ConnectorError(msg + shown_message(message))
    return headers


def not_a_message(item: object) -> ConnectorError:
    """An error about an item that is something else."""
    msg = f"a Kafka sink takes KafkaSinkMessage; got {type(item).__name__}: {item!r:.100}"
    return ConnectorError(msg)


def no_topic(message: KafkaSinkMessage[Any, Any]) -> ConnectorError:
    """An error about a message that nobody says a topic for."""
    msg = f"the sink has no topic of its own, and this message names none: {shown_message(message)}"
    return ConnectorError(msg)


def shown_message(message: KafkaSinkMessage[Any, Any]) -> str:
    """Enough of a message to find it again."""
    return f"key {message.key!r:.60}, value {message.value!r:.100}"
