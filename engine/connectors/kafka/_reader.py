"""Reads the partitions that one worker has of a Kafka source, all through one consumer.

A consumer of librdkafka has threads, connections and a queue of its own, so there is one for a
worker and not one for a partition. What it gives is dealt to the partitions at once
(`Reader.fetch`), and nothing more is fetched before they have handed that on: what waits here is
one batch at most, and the consumer's queue stays bounded by its own settings. A partition that
nobody asks for a while is set aside, so that the others don't wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Final, Literal, TypeAlias

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ClientError

from engine.connectors import Lag, StatefulSourcePartition
from engine.connectors.kafka._client import LOGGER, PASSING, client, error_of, settings, words
from engine.connectors.kafka._messages import KafkaError, KafkaSourceMessage, as_read
from engine.connectors.kafka._positions import Offsets, shown_error
from engine.connectors.kafka._watch import Pulse, Watch, made_anew
from engine.errors import ConnectorError

Item: TypeAlias = KafkaSourceMessage[bytes | None, bytes | None] | KafkaError[Any, Any]
Spot: TypeAlias = tuple[str, int]
"""A topic and the number of a partition."""
Position: TypeAlias = tuple[int, str | None]
"""The state of a partition: the offset of the next message, and the id of the topic, if known."""
LostOffset: TypeAlias = Literal["fail", "earliest", "latest"]
"""What to do where messages that were to be read are not there any more."""

_CLOSING_S: Final = 2.0
_COMMIT_POLL_S: Final = 0.05
_PATIENCE_S: Final = 0.1
"""A partition that is read is asked again long before."""
_EOF: Final = ClientError._PARTITION_EOF  # noqa: SLF001
_EMPTY_S: Final = 0.0005
"""So soon there is nothing new."""
_DAMAGED: Final = {
    ClientError._BAD_MSG,  # noqa: SLF001
    ClientError._BAD_COMPRESSION,  # noqa: SLF001
    ClientError.INVALID_MSG,
    ClientError.INVALID_RECORD,
}
_LOST: Final = {
    ClientError._AUTO_OFFSET_RESET,  # noqa: SLF001
    ClientError.OFFSET_OUT_OF_RANGE,
    ClientError._LOG_TRUNCATION,  # noqa: SLF001
}


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """What a user chose for a source.

    Attributes:
        brokers: As the library wants them.
        config: Settings of the consumer.
        batch_size: How many messages to take at once.
        raise_on_errors: Whether a message that can't be read ends the run; else it is an item.
        on_lost_offset: What to do where messages are gone.
        tail: Whether to wait for more at the end of what there is.
    """

    brokers: str
    config: dict[str, Any] = field(repr=False)  # It has passwords.
    batch_size: int
    raise_on_errors: bool
    on_lost_offset: LostOffset
    tail: bool


class Reader:
    """The consumer of one worker, and the partitions that it reads.

    Args:
        options: The user's choices.
        group: The consumer group whose offsets show others how far the job is.
        closed: Is called when the last partition was closed.
    """

    def __init__(self, options: ReaderOptions, group: str, closed: Callable[[], object]) -> None:
        self.options = options
        config = {"group.id": group, **options.config}
        merged, self.trouble = settings(options.brokers, config, {"on_commit": self._committed})
        make_consumer = partial(client, Consumer, merged)
        self._consumer = make_consumer()
        self.offsets = Offsets(self._consumer, self.trouble)
        self.watch = Watch(options.brokers, config, self.trouble, make_consumer)
        self._pulse = Pulse()
        self._closed = closed
        self._open: set[Part] = set()
        self._parts: dict[Spot, Part] = {}
        """Those that are read; not those that have come to their end."""
        self._only: Part | None = None
        self._holding: set[Part] = set()
        """Those that have not handed on what they got, less those that are set aside."""
        self._empty_at_s = 0.0
        self._to_commit: dict[Spot, int] = {}
        self._committing = 0
        self._commit_error: int | None = None

    # Partitions come and go

    def open(self, part: Part) -> None:
        """Begin to read a partition at its position."""
        if not self._open:
            self.watch.start()
        # Whoever opens a partition has asked the brokers about it.
        self.trouble.let_in = True
        self._consumer.incremental_assign([part.place()])
        self._open.add(part)
        self._parts[part.spot] = part
        self._note_only()

    def move(self, part: Part) -> None:
        """Go on reading a partition at its position, which was changed."""
        self._consumer.incremental_unassign([part.place()])
        self._consumer.incremental_assign([part.place()])

    def leave(self, part: Part) -> None:
        """Read a partition no more."""
        if self._parts.get(part.spot) is part:
            del self._parts[part.spot]
            self._holding.discard(part)
            self._consumer.incremental_unassign([part.place()])
            self._note_only()

    def _note_only(self) -> None:
        # Of a partition that was left some messages might still be on their way.
        alone = len(self._parts) == len(self._open) == 1
        self._only = next(iter(self._parts.values())) if alone else None

    def close(self, part: Part) -> None:
        """Close a partition, and with the last one everything. Idempotent."""
        if part not in self._open:
            return
        self.leave(part)
        self._open.remove(part)
        self.close_if_unused()

    def has(self, spot: Spot) -> bool:
        """Whether a partition is open."""
        return any(part.spot == spot for part in self._open)

    def abandon(self) -> None:
        """Close everything, whatever is open."""
        self._open.clear()
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close everything if no partition is open."""
        if not self._open:
            self._closed()
            self.watch.stop()
            self._finish_commits()
            self._consumer.close()

    # Messages

    def fetch(self) -> None:
        """Take what the consumer has by now, and deal it to the partitions.

        Does nothing as long as some partition has not handed on what it got, unless nobody asks
        that one: then it is set aside.

        Raises:
            UnavailableError: No broker can be reached.
            ConnectorError: Something can't be read.
        """
        if self._holding and not self._set_aside():
            return
        now_s = time.monotonic()
        if now_s - self._empty_at_s >= _EMPTY_S:
            # Nobody has asked just now, for another partition.
            if self._to_commit:
                self._commit()
            if self.watch.news:
                self._hear_news()
            messages: list[Message] = self._consumer.consume(self.options.batch_size, 0)
            if messages:
                self._deal(messages)
                return
            self._empty_at_s = now_s
        # Each partition has to say so: one that merely has nothing passes for one that is back.
        if self.trouble.all_down:
            self._pulse.doubt(now_s)
            self.watch.wake()
            raise self.trouble.unreachable()
        if self._parts and self._pulse.is_lost(self._consumer, next(iter(self._parts))[0], now_s):
            self.watch.want_consumer()

    def _deal(self, messages: list[Message]) -> None:
        """Give each partition what is for it, in order. Never fails: it can't be done again."""
        if any(map(Message.error, messages)):
            for message in messages:
                self._deal_one(message)
        elif self._only is not None:
            self._only.accept(messages)
        else:
            for number, run in groupby(messages, Message.partition):
                for topic, same in groupby(run, Message.topic):
                    if (part := self._parts.get((topic, number))) is not None:  # type: ignore[arg-type] # of messages both are known
                        part.accept(list(same))

    def _hear_news(self) -> None:
        """Go on with another consumer, and tell partitions that their topic is another one by now.

        Raises:
            ConnectorError: A topic is not there any more.
        """
        lost, self._consumer = self._consumer, self.watch.taken_consumer(self._consumer)
        if self._consumer is not lost:
            self._begin_anew()
        for topic, topic_id in self.watch.heard().items():
            for part in self._parts.values():
                if part.spot[0] == topic:
                    part.hear_of_id(topic_id)

    def _begin_anew(self) -> None:
        """Read with a consumer that is new, each partition on where it is.

        What the lost one had fetched and not given yet is fetched again: nobody has got it.
        """
        parts = self._parts.values()
        self._consumer.incremental_assign([part.place() for part in parts])
        self._consumer.pause([part.place() for part in parts if part.aside])
        self.offsets = Offsets(self._consumer, self.trouble)
        # Of what the lost one was to commit nobody will hear.
        self._committing = 0
        self._pulse = Pulse()
        LOGGER.warning(
            "a Kafka client had lost all brokers and did not look for them any more, which is a "
            "defect of librdkafka; a new one reads on at the same offsets"
        )

    def hold(self, part: Part) -> None:
        """A partition got something."""
        self._holding.add(part)

    def let_go(self, part: Part) -> None:
        """It has handed that on."""
        self._holding.discard(part)

    def _set_aside(self) -> bool:
        """Fetch no more for partitions that nobody asks; gives whether that is so."""
        now_s = time.monotonic()
        if any(now_s - part.waits_since_s < _PATIENCE_S for part in self._holding):
            return False
        self._consumer.pause([part.place() for part in self._holding])
        for part in self._holding:
            part.aside = True
        self._holding.clear()
        return True

    def take_up(self, part: Part) -> None:
        """Fetch again for a partition that was set aside: it was asked."""
        part.aside = False
        if part.spot in self._parts:
            self._consumer.resume([part.place()])

    def _deal_one(self, message: Message) -> None:
        """Deal a message or an error, one of a list with errors in it."""
        spot, error = _spot(message), message.error()
        part = self._parts.get(spot)
        if part is None:
            # Of no partition, or of one that was just left: nothing of it is read any more.
            if error is not None and spot[0] is None:
                self.trouble(error)
        elif error is None:
            part.accept([message])
        elif error.code() == _EOF:
            part.reach_end(message.offset() or 0)
        else:
            part.fail(error)

    # Offsets for those who look at the group

    def note_commit(self, spot: Spot, offset: int) -> None:
        """Commit an offset of the group with the next fetch: it is for others to see the lag."""
        if offset >= 0:
            self._to_commit[spot] = offset

    def _commit(self) -> None:
        offsets = [TopicPartition(*spot, offset) for spot, offset in self._to_commit.items()]
        self._to_commit = {}
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as ex:
            self._warn_of_commit(error_of(ex))
        else:
            self._committing += 1

    def _committed(self, error: ClientError | None, offsets: list[TopicPartition]) -> None:
        """Hear how a commit went."""
        self._committing -= 1
        for failed in (error, *(offset.error for offset in offsets)):
            if failed is not None:
                self._warn_of_commit(failed)
                return

    def _warn_of_commit(self, error: ClientError) -> None:
        """Tell once per kind of error."""
        if error.code() != self._commit_error:
            self._commit_error = error.code()
            LOGGER.warning(
                "offsets of the consumer group can't be committed, so its lag shows too high; the "
                "job itself doesn't use them: %s",
                words(error),
            )

    def _finish_commits(self) -> None:
        if self._to_commit and not self.trouble.all_down:
            self._commit()
        until_s = time.monotonic() + _CLOSING_S
        while self._committing > 0 and time.monotonic() < until_s:
            self._consumer.poll(_COMMIT_POLL_S)

    def end_known(self, spot: Spot) -> int | None:
        """The offset of the next message to be written, as far as the last fetch has told."""
        _, high = self._consumer.get_watermark_offsets(TopicPartition(*spot), cached=True)
        return high if high >= 0 else None


class Part(StatefulSourcePartition[Item, Position]):
    """One partition.

    Args:
        reader: Reads it.
        spot: Which it is.
        position: Where to begin.
        end: The offset to stop before; None to go on.
    """

    def __init__(self, reader: Reader, spot: Spot, position: Position, end: int | None) -> None:
        self.spot = spot
        self.waits = False
        """Something was read, or has happened, that `next_batch` has not handed on yet."""
        self.waits_since_s = 0.0
        self.aside = False
        """Nobody has asked for what waits, so nothing more is fetched."""
        self._reader = reader
        self._offset, self._topic_id = position
        self._end = end
        self._waiting: list[Item] = []
        self._waiting_until = self._offset
        self._finished = False
        self._failure: ClientError | None = None
        """Why it is not read on, until that is mended."""
        self._new_id: str | None = None
        """Of a topic of the same name, which is another one."""
        self._end_seen_at: int | None = None
        self._last_ms = 0
        reader.open(self)
        if end is not None and 0 <= end <= self._offset:
            self._finish()

    def place(self) -> TopicPartition:
        """Where it is to be read on."""
        return TopicPartition(*self.spot, self._waiting_until)

    # What the reader says

    def accept(self, messages: list[Any]) -> None:
        """Take messages of the library over, in order."""
        if self._stuck():
            return
        last: int = messages[-1].offset()
        end = self._end
        ended = end is not None and last >= end
        if end is not None and ended:
            messages = [m for m in messages if m.offset() < end]
            last = end - 1
        self._waiting += as_read(messages)
        self._waiting_until = last + 1
        self._note_waiting()
        if ended:
            self._finish()

    def reach_end(self, offset: int) -> None:
        """There is nothing after this offset yet; before it may be marks of transactions."""
        if self._stuck():
            return
        self._waiting_until = max(self._waiting_until, offset)
        self._end_seen_at = self._waiting_until
        self._note_waiting()
        if not self._reader.options.tail or (
            self._end is not None and self._waiting_until >= self._end
        ):
            self._finish()

    def fail(self, error: ClientError) -> None:
        """Something can't be read; it is seen to when what came before is handed on."""
        self._failure = self._failure or error

    def hear_of_id(self, topic_id: str) -> None:
        """Its topic has this id now."""
        if self._topic_id not in {None, topic_id}:
            self._new_id = topic_id

    def _stuck(self) -> bool:
        """What comes now is from where it will not be read on."""
        return self._failure is not None or self._new_id is not None

    def _mend(self) -> None:
        """Get it to be read on. If that fails, nothing has changed, and it is tried again.

        Raises:
            UnavailableError: The brokers don't answer now.
            ConnectorError: It can't be, or must not.
        """
        failure = self._failure
        code = None if failure is None else failure.code()
        if self._new_id is not None:
            self._go_on_after_loss(made_anew(self.spot[0]), self._new_id, moved=True)
        elif failure is None or code in PASSING:
            LOGGER.info("%s", failure and shown_error(failure, *self.spot))
        elif code in _LOST:
            self._go_on_after_loss(words(failure), self._reader.watch.asked_id(self.spot[0]))
        elif code not in _DAMAGED:
            raise ConnectorError(shown_error(failure, *self.spot))
        elif self._reader.options.raise_on_errors:
            msg = (
                f"{shown_error(failure, *self.spot)}, at offset {self._waiting_until} or after it; "
                "with raise_on_errors=False it becomes a KafkaError among the messages"
            )
            raise ConnectorError(msg)
        else:
            self._pass_over(failure)
        self._failure = self._new_id = None
        self._reader.move(self)

    def _pass_over(self, error: ClientError) -> None:
        """Hand an error on in the place of a message, and go on after it.

        Where a whole batch is damaged nobody knows how many messages it had (what the library says
        of its offset is damaged, too). So this happens for one offset after the other, until one
        can be read again.
        """
        topic, partition = self.spot
        offset = self._waiting_until
        if offset < 0:
            offset, _ = self._reader.offsets.bounds(topic, partition)
        bad: KafkaSourceMessage[Any, Any] = KafkaSourceMessage(
            None, None, topic, offset=offset, partition=partition
        )
        self._waiting.append(KafkaError(error, bad))
        self._waiting_until = offset + 1
        self._note_waiting()

    def _go_on_after_loss(self, why: str, topic_id: str | None, *, moved: bool = False) -> None:
        """Find where the user wants it to go on, after messages that are gone."""
        wanted = self._waiting_until
        low, high = self._reader.offsets.bounds(*self.spot)
        # A damaged batch can lead the library to an offset that nobody has asked for, and before
        # the first message there is none that could be missing.
        if moved or (wanted >= 0 and not low <= wanted <= high):
            policy = self._reader.options.on_lost_offset
            self._waiting_until = after_loss(self.spot, wanted, (low, high), policy, why)
            self._topic_id = topic_id
            self._note_waiting()

    def _note_waiting(self) -> None:
        if not self.waits:
            self.waits = True
            self.waits_since_s = time.monotonic()
            self._reader.hold(self)

    def _finish(self) -> None:
        self._finished = True
        self._reader.leave(self)

    # What the engine asks

    def next_batch(self) -> list[Item]:
        if not self.waits:
            if self._finished:
                raise StopIteration
            if self._stuck():
                self._mend()
            else:
                self._reader.fetch()
        items, self._waiting, self.waits = self._waiting, [], False
        if self.aside:
            self._reader.take_up(self)
        else:
            self._reader.let_go(self)
        self._offset = self._waiting_until
        if items:
            last = items[-1]
            if isinstance(last, KafkaSourceMessage) and last.timestamp is not None:
                self._last_ms = last.timestamp[1]
        elif self._finished:
            raise StopIteration
        return items

    def _behind(self) -> int | None:
        """How many offsets there are after what was handed on; None if that isn't known."""
        if self._finished and not self.waits:
            return 0
        if not self.waits and self._offset == self._end_seen_at:
            return 0
        end = self._reader.end_known(self.spot)
        return None if end is None else max(0, end - max(0, self._offset))

    def caught_up(self) -> bool:
        return self._behind() == 0

    def lag(self) -> Lag:
        behind = self._behind()
        if behind is None:
            return Lag(None, None)
        seconds = max(0.0, time.time() - self._last_ms / 1000) if behind and self._last_ms else 0.0
        return Lag(behind, seconds)

    def snapshot(self) -> Position:
        return self._offset, self._topic_id

    def on_commit(self, state: Position) -> None:
        self._reader.note_commit(self.spot, state[0])

    def close(self) -> None:
        self._reader.close(self)


def after_loss(
    spot: Spot, wanted: int, bounds: tuple[int, int], policy: LostOffset, why: str
) -> int:
    """Where to go on instead of an offset that can't be read; tells of it.

    Raises:
        ConnectorError: The policy is to fail.
    """
    topic, partition = spot
    low, high = bounds
    gone = f"{low - wanted} messages are gone" if 0 <= wanted < low else "it is another log now"
    told = (
        f"partition {partition} of topic {topic!r} can't be read on at offset {wanted}: it has "
        f"{low} to {high}, so {gone} ({why})"
    )
    if policy == "fail":
        msg = f"{told}. To go on without them, give on_lost_offset='earliest' or 'latest'"
        raise ConnectorError(msg)
    offset = low if policy == "earliest" else high
    LOGGER.warning("%s; going on at offset %d, as on_lost_offset=%r says", told, offset, policy)
    return offset


def _spot(message: Message) -> tuple[Any, Any]:
    return message.topic(), message.partition()
