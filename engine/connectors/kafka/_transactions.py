"""Publishes the rows of an epoch in one Kafka transaction, together with a marker.

The marker says that an epoch of a shard is out: an offset of a consumer group that nobody else
uses, one group per shard, at partition 0 of a topic. Its offset is the epoch, its metadata name the
store and the generation. It is committed by the very transaction that writes the records, so it can
be read after any crash to find out whether they are out (`docs/adr/0020-kafka-exactly-once.md`).

All calls here block, for some milliseconds as a rule. `engine.connectors.kafka._sink` makes them on
threads of their own.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from engine.connectors import SinkSession
from engine.connectors.kafka._client import HOPELESS, PASSING, QUIET, client, error_of, settings
from engine.connectors.kafka._rows import unpacked
from engine.errors import ConnectorError, FencedError

R = TypeVar("R")

READING: Final[dict[str, Any]] = {
    "enable.auto.commit": False,
    # So an answer waits until a transaction that moves the marker is over.
    "isolation.level": "read_committed",
}
_PRODUCER: Final[dict[str, Any]] = {
    # After a restart of its brokers a transaction could lose up to twenty seconds otherwise. One
    # that has no brokers any more (see `settings`) ends with its time, and the next run goes on.
    "metadata.recovery.strategy": "none",
}
_NEVER_COMMITTED: Final = -1001
_CALL_S: Final = 5.0
"""How long one call waits; then the deadline is looked at, and it is made again."""
_FULL_QUEUE_S: Final = 0.01
_ONCE: Final = -math.inf
"""A deadline for what must not be tried again: a row of which some messages are on their way."""
_PAUSE_S: Final = 0.1
"""Before something is tried again."""

_PLAIN: Final = (None, -1, 0, ())
"""Topic, partition, timestamp and headers of a message that has none of its own."""

_FENCED: Final = {
    KafkaError._FENCED,  # noqa: SLF001
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}
_CURABLE: Final = PASSING | {
    KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
    # What a broker says that has just begun, or of another one that has just ended.
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    # What it says while an earlier transaction is not quite over.
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
"""Errors that another try may get over, besides those that say so themselves."""
_PURGED: Final = {
    KafkaError._PURGE_QUEUE,  # noqa: SLF001
    KafkaError._PURGE_INFLIGHT,  # noqa: SLF001
}
"""What is said of the messages of a transaction that is aborted."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the brokers.

    Attributes:
        brokers: As the library wants them.
        config: Settings of the producer; other clients take of them what is for them.
        timeout_s: How long to try before the run ends with an error.
    """

    brokers: str
    config: dict[str, Any] = field(repr=False)  # It has passwords.
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shard writes.

    Attributes:
        topic: Where records go that don't say it; None if all of them do.
        marker_topic: At whose partition 0 the marker is.
        name: The marker's group and the transactional id.
    """

    topic: str | None
    marker_topic: str
    name: str


@dataclass(frozen=True, slots=True)
class Marker:
    """What is at the target."""

    epoch: int
    generation: int


class Publisher:
    """Fences older runs of a shard, and publishes its epochs.

    Args:
        connection: How to reach the brokers.
        place: Where to write.
        session: Who publishes.

    Raises:
        FencedError: A higher generation has begun already.
        ConnectorError: The brokers can't be reached, or refuse.
    """

    def __init__(self, connection: Connection, place: Place, session: SinkSession) -> None:
        self._place = place
        self._session = session
        self._timeout_s = connection.timeout_s
        self._undelivered: KafkaError | None = None
        self._config, self._trouble = settings(
            connection.brokers,
            _PRODUCER,
            connection.config,
            {"transactional.id": place.name, "delivery.report.only.error": True},
        )
        self._reader_config, self._reader_trouble = settings(
            connection.brokers, connection.config, {"group.id": place.name}, READING, QUIET
        )
        self._reader = client(Consumer, self._reader_config)
        self._group = self._reader.consumer_group_metadata()
        self._producer: Any = None
        self._found: Marker | None = None
        self._begin()

    @property
    def epoch(self) -> int:
        """The last epoch that is out."""
        return 0 if self._found is None else self._found.epoch

    def _begin(self) -> None:
        """Fence, see what is out, and leave our generation with it."""
        deadline_s = self._deadline_s()
        self._fence(deadline_s)
        while self._found is None or self._found.generation < self._session.generation:
            self._try("can't be begun with", self.epoch, (), deadline_s)

    def publish(self, epoch: int, rows: Iterable[bytes]) -> None:
        """Write the rows and the marker in one transaction, however often that must be tried.

        Raises:
            FencedError: A higher generation has begun. Nothing was written.
            ConnectorError: It can't be done, or whether it was done could not be found out.
        """
        doing = f"epoch {epoch} (saved with the state, the next run tries again) can't be out in"
        deadline_s = self._deadline_s()
        while self.epoch < epoch:
            self._try(doing, epoch, rows, deadline_s)

    def close(self) -> None:
        """Let go of the connections."""
        self._reader.close()

    def _fence(self, deadline_s: float) -> None:
        """Keep all others from committing, and see what is out.

        Raises:
            FencedError: A higher generation has left the marker.
        """
        doing = "can't be begun with"
        # Nor may we wait for open transactions here: that of a run that was killed is open until
        # we have fenced it.
        hasty = {**self._reader_config, "isolation.level": "read_uncommitted"}
        with contextlib.closing(client(Consumer, hasty)) as reader:
            while True:
                # A run that is older than the newest one must find that out before it fences it.
                self._marker(reader)
                self._producer = client(Producer, self._config)
                try:
                    self._insisting(self._producer.init_transactions, deadline_s)
                except _BrokenError as broken:
                    self._give_up_if_hopeless(doing, broken, deadline_s)
                    time.sleep(_PAUSE_S)
                else:
                    break
        self._found = self._marker()

    def _try(self, doing: str, epoch: int, rows: Iterable[bytes], deadline_s: float) -> None:
        """Make the transaction; if it breaks, begin anew and see whether it is out after all.

        What an error means for a commit is settled by the marker, never by guessing.
        """
        self._undelivered = None
        try:
            self._transaction(epoch, rows, deadline_s)
        except _BrokenError as broken:
            self._give_up_if_hopeless(doing, broken, deadline_s)
            time.sleep(_PAUSE_S)
            self._fence(deadline_s)
        else:
            self._found = Marker(epoch, self._session.generation)

    def _give_up_if_hopeless(self, doing: str, broken: _BrokenError, deadline_s: float) -> None:
        """End it where another try is of no use, or time is up."""
        undelivered, error = self._undelivered, broken.error
        if undelivered is not None and not _curable(undelivered):
            error = undelivered
        elif error.code() not in HOPELESS and time.monotonic() < deadline_s:
            return
        if error.code() in _FENCED:
            # Else we would have been told to try again: somebody fences us as fast as we begin.
            raise self._fenced() from broken
        raise self._failure(doing, error) from broken

    def _transaction(self, epoch: int, rows: Iterable[bytes], deadline_s: float) -> None:
        """Make it once.

        Raises:
            _BrokenError: It can't go on, or nobody knows whether it was committed.
        """
        producer = self._producer
        self._insisting(lambda _: producer.begin_transaction(), deadline_s)
        for row in rows:
            self._insisting(partial(self._produce, row), _ONCE)
        session = self._session
        note = json.dumps({"store": session.store_id, "generation": session.generation})
        marker = TopicPartition(self._place.marker_topic, 0, epoch, metadata=note)

        def send_marker(timeout_s: float) -> None:
            producer.send_offsets_to_transaction([marker], self._group, timeout_s)

        self._insisting(send_marker, deadline_s)
        self._insisting(producer.commit_transaction, deadline_s)

    def _produce(self, row: bytes, _: float) -> None:
        produce, own_topic, report = self._producer.produce, self._place.topic, self._report
        for value, key, *rest in unpacked(row):
            topic, partition, timestamp, headers = rest or _PLAIN
            while True:
                try:
                    produce(
                        topic or own_topic,
                        value,
                        key,
                        partition,
                        report,
                        None,
                        timestamp,
                        [*headers],
                    )
                except BufferError:
                    self._producer.poll(_FULL_QUEUE_S)
                else:
                    break

    def _report(self, error: KafkaError, _: Any) -> None:
        """Remember why a message could not be delivered: the first reason is the telling one."""
        if self._undelivered is None and error.code() not in _PURGED:
            self._undelivered = error

    def _marker(self, reader: Any = None) -> Marker | None:
        """Read the marker; None if there is none.

        Args:
            reader: Reads it; ours if None, which waits until the transaction that moves it is over.

        Raises:
            FencedError: A higher generation has left it.
        """
        doing, at = "can't see which epoch is out in", TopicPartition(self._place.marker_topic, 0)
        committed = (reader or self._reader).committed
        try:
            (found,) = self._insisting(
                lambda timeout_s: committed([at], timeout_s), self._deadline_s()
            )
        except _BrokenError as broken:
            raise self._failure(doing, broken.error) from broken
        if found.error is not None:
            raise self._failure(doing, found.error)
        if found.offset == _NEVER_COMMITTED:
            return None
        marker = Marker(found.offset, self._generation(found.metadata))
        if marker.generation > self._session.generation:
            raise self._fenced()
        return marker

    def _generation(self, note: str | None) -> int:
        try:
            said = json.loads(note or "")
            store, generation = said["store"], int(said["generation"])
        except (ValueError, TypeError, KeyError):
            store, generation = None, 0
        if store != self._session.store_id:
            msg = f"{self}: somebody else has committed an offset to this group: {note!r}"
            raise ConnectorError(msg)
        return generation

    def _insisting(self, call: Callable[[float], R], deadline_s: float) -> R:
        """Make a call again for as long as another try of the same may help.

        Raises:
            _BrokenError: It doesn't.
        """
        while True:
            self._serve()
            try:
                return call(_CALL_S)
            except KafkaException as ex:
                error = self._explained(error_of(ex))
                self._serve()
                error = self._telling(error)
                over = error.txn_requires_abort() or error.fatal() or not _curable(error)
                if over or time.monotonic() >= deadline_s:
                    raise _BrokenError(error) from ex
                time.sleep(_PAUSE_S)
            except SystemError as ex:
                # The library's way to say so if a delivery report was to be served just then.
                raise _BrokenError(KafkaError(KafkaError._FAIL, str(ex))) from ex  # noqa: SLF001

    def _serve(self) -> None:
        """Hear what the clients say; those that wait for an epoch get new tokens only so."""
        said = self._reader.poll(0)
        if said is not None:
            self._reader_trouble(said.error())
        if self._producer is not None:
            # One that is at its end says so by every call, the one that matters too.
            with contextlib.suppress(KafkaException, SystemError):
                self._producer.poll(0)

    def _telling(self, error: KafkaError) -> KafkaError:
        """The error that says why: a group that we may not use is said to have timed out."""
        last = self._reader_trouble.last
        return last if last is not None and last.code() in HOPELESS else error

    def _explained(self, error: KafkaError) -> KafkaError:
        """The error behind one that says no more than "fatal": the library's next answer has it."""
        if error.code() == KafkaError._FATAL and self._producer is not None:  # noqa: SLF001 - its name
            try:
                self._producer.poll(0)
            except KafkaException as ex:
                return error_of(ex)
        return error

    def _deadline_s(self) -> float:
        return time.monotonic() + self._timeout_s

    def _fenced(self) -> FencedError:
        return FencedError(
            f"{self}: another run of this job has taken over (this one is of generation "
            f"{self._session.generation}), so nothing was written"
        )

    def _failure(self, doing: str, error: KafkaError) -> ConnectorError:
        return ConnectorError(f"{doing} {self}: {self._trouble.reason(error)}")

    def __str__(self) -> str:
        where = self._place.topic or self._place.marker_topic
        return f"topic {where!r}, transactional id {self._place.name!r}"


class _BrokenError(Exception):
    """A transaction that can't go on: a new producer has to begin."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(error.str())
        self.error = error


def _curable(error: KafkaError) -> bool:
    return error.retriable() or error.code() in _CURABLE
