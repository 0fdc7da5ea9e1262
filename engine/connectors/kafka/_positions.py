"""Where to begin and end reading a partition: settings become offsets, by asking the brokers.

The calls block, and are made where that is allowed: before the first record, and after records that
were to be read are gone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from engine.connectors.kafka._client import Trouble, error_of, words

Moment: TypeAlias = int | datetime
"""An offset, or the first message of that time or later."""

_BEGINNING: Final = -2
END: Final = -1
_ASK_S: Final = 10.0
"""How long one question may take."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Offsets:
    """Answers questions about the offsets of partitions.

    Args:
        consumer: Asks.
        trouble: What it says of its connections.
    """

    def __init__(self, consumer: Any, trouble: Trouble) -> None:
        self._consumer = consumer
        self._trouble = trouble

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offset of the first message that is there, and the one that the next will have.

        Raises:
            UnavailableError: There is no answer now.
            ConnectorError: The brokers refuse to answer.
        """
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), _ASK_S
            )
        except KafkaException as ex:
            raise self._trouble.unanswered(error_of(ex)) from ex
        return low, high

    def of(self, topic: str, partition: int, moment: Moment) -> int:
        """The offset of a moment; of one after all messages the offset of the next to come.

        Raises:
            UnavailableError: There is no answer now.
            ConnectorError: The brokers refuse to answer.
        """
        if isinstance(moment, int):
            return self.bounds(topic, partition)[1] if moment == END else moment
        spot = TopicPartition(topic, partition, _milliseconds(moment))
        try:
            (found,) = self._consumer.offsets_for_times([spot], _ASK_S)
        except KafkaException as ex:
            raise self._trouble.unanswered(error_of(ex)) from ex
        if found.error is not None:
            raise self._trouble.unanswered(found.error)
        # -1 stands for the end: there is no message that late yet.
        return self.bounds(topic, partition)[1] if found.offset < 0 else int(found.offset)


def _milliseconds(moment: datetime) -> int:
    """Since 1970, rounded up: the first whole one that is not before the moment."""
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


def check_moment(name: str, moment: Any) -> None:
    """Check what a user gives as a moment.

    Raises:
        TypeError: It is neither an offset nor a time.
        ValueError: It is no offset, or a time without a zone.
    """
    if isinstance(moment, bool) or not isinstance(moment, int | datetime):
        msg = f"{name} must be an offset or a datetime; got {moment!r}"
        raise TypeError(msg)
    if isinstance(moment, int) and moment < _BEGINNING:
        msg = f"{name} must be an offset, OFFSET_BEGINNING or OFFSET_END; got {moment}"
        raise ValueError(msg)
    if isinstance(moment, datetime) and moment.utcoffset() is None:
        msg = f"{name} needs a time zone, for example tzinfo=timezone.utc; got {moment!r}"
        raise ValueError(msg)


def shown_error(error: KafkaError, topic: str, partition: int) -> str:
    """An error of a partition in words."""
    return f"partition {partition} of topic {topic!r}: {words(error)}"
