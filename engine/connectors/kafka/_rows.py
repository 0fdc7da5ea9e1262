"""The rows that an exactly-once sink keeps with an epoch: checked messages, packed by the batch.

What is wrong with a message is found here, while its epoch can still be given up. Once the epoch is
durable, a message that can't be published would stop every later run too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgpack as untyped_msgpack  # type: ignore[import-untyped]

from engine.connectors.kafka._messages import KafkaSinkMessage
from engine.errors import ConnectorError

_msgpack: Any = untyped_msgpack

_VERSION = 1

RAISE_THE_SIZE: Final = "raise message.max.bytes in add_config and max.message.bytes of the topic"
"""What to do about messages that are too large."""

Produced: TypeAlias = tuple[Any, ...]
"""Arguments of `Producer.produce` after the topic: value and key; where it needs more, also
topic (None for the sink's own), partition, timestamp and headers."""


class RowPacker:
    """Checks messages and packs each batch of them into a row.

    Args:
        topic: Where messages without a topic go; None if each must have one.
        partitions: Gives how many partitions a topic has; raises if there is no such topic.
        bytes_max: Gives how many bytes key, value and headers of a message may have together, by
            topic.
    """

    def __init__(
        self,
        topic: str | None,
        partitions: Callable[[str], int],
        bytes_max: Callable[[str], int],
    ) -> None:
        self._topic = topic
        self._partitions = partitions
        self._bytes_max = bytes_max
        self._own_bytes_max = 0 if topic is None else bytes_max(topic)

    def pack(self, messages: Iterable[KafkaSinkMessage[Any, Any]]) -> bytes:
        """A row of messages, in order.

        Raises:
            ConnectorError: A message can't be written to Kafka.
        """
        records: list[Produced] = []
        add, bytes_max = records.append, self._own_bytes_max
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
        topic = message.topic or self._topic
        if topic is None:
            raise no_topic(message)
        partition = -1 if message.partition is None else message.partition
        if message.topic is not None or partition >= 0:
            count = self._partitions(topic)
            if partition >= count:
                msg = (
                    f"topic {topic!r} has {count} partitions; a message wants to go to number "
                    f"{partition}: {shown_message(message)}"
                )
                raise ConnectorError(msg)
        headers = checked_headers(message)
        nbytes = len(value or b"") + len(key or b"")
        nbytes += sum(len(name.encode()) + len(text or b"") for name, text in headers)
        if nbytes > (bytes_max := self._bytes_max(topic)):
            raise too_large(message, topic, nbytes, bytes_max)
        return value, key, message.topic, partition, message.timestamp, headers


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


def too_large(
    message: KafkaSinkMessage[Any, Any], topic: str, nbytes: int, bytes_max: int
) -> ConnectorError:
    """An error about a message that the broker would refuse."""
    msg = (
        f"a message of {nbytes} bytes is too large for topic {topic!r}, which takes {bytes_max}: "
        f"{shown_message(message)}; {RAISE_THE_SIZE}"
    )
    return ConnectorError(msg)


def shown_message(message: KafkaSinkMessage[Any, Any]) -> str:
    """Enough of a message to find it again."""
    return f"key {message.key!r:.60}, value {message.value!r:.100}"
