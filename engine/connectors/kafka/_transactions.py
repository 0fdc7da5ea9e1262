"""Publishes the rows of an epoch in one Kafka transaction, together with a marker.

The marker says that an epoch of a shard is out: an offset of a consumer group that nobody else
uses, one group per shard, at partition 0 of a topic. Its offset is the epoch, its metadata name the
store and the generation. It is committed by the very transaction that writes the records, so it can
be read after any crash to find out whether they are out (`docs/adr/0020-kafka-exactly-once.md`).

All calls here block, for some milliseconds as a rule. `engine.connectors.kafka._sink` makes them on
threads of their own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from engine.connectors import SinkSession
from engine.connectors.kafka._client import HOPELESS, QUIET, client, error_of, settings
from engine.connectors.kafka._rows import unpacked
from engine.errors import ConnectorError, FencedError

R = TypeVar("R")

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
_CURABLE: Final = {
    KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    # What a broker says that has just begun, or of another one that has just ended.
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
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
        config, self._trouble = settings(
            connection.brokers,
            connection.config,
            {"transactional.id": place.name, "delivery.report.only.error": True},
        )
        reader_config, self._reader_trouble = settings(
            connection.brokers,
            connection.config,
            {"group.id": place.name, "enable.auto.commit": False},
            QUIET,
        )
        self._reader = client(Consumer, reader_config)
        self._clients = [self._reader]
        self._group = self._reader.consumer_group_metadata()
        # A run that is older than the newest one must find that out before it fences anybody.
        self._marker()
        self._producer = client(Producer, config)
        self._clients.append(self._producer)
        self.epoch = self._begin()
        """The last epoch that is out."""

    def _begin(self) -> int:
        """Fence, see what is out, and leave our generation with it."""
        doing, deadline_s = "can't be begun with", self._deadline_s()
        self._insisting(doing, self._producer.init_transactions, deadline_s)
        marker = self._marker()
        epoch = marker.epoch if marker is not None else 0
        self._until_committed(doing, epoch, (), deadline_s)
        return epoch

    def publish(self, epoch: int, rows: Iterable[bytes]) -> None:
        """Write the rows and the marker in one transaction, however often that must be tried.

        Raises:
            FencedError: A higher generation has begun. Nothing was written.
            ConnectorError: It can't be done, or whether it was done could not be found out.
        """
        if epoch > self.epoch:
            doing = (
                f"epoch {epoch} (saved with the state, the next run tries again) can't be out in"
            )
            self._until_committed(doing, epoch, rows, self._deadline_s())
            self.epoch = epoch

    def close(self) -> None:
        """Let go of the connections."""
        self._reader.close()

    def _until_committed(
        self, doing: str, epoch: int, rows: Iterable[bytes], deadline_s: float
    ) -> None:
        """Make the transaction until it is known to be committed."""
        while True:
            try:
                self._transaction(doing, epoch, rows, deadline_s)
            except _AbortError as abort:
                self._insisting(doing, self._producer.abort_transaction, deadline_s)
                if self._undelivered is not None and not _curable(self._undelivered):
                    raise self._failure(doing, self._undelivered) from abort
                # What the error means for the commit is settled by the marker, never by guessing.
                if self._marker() == Marker(epoch, self._session.generation):
                    return
                if abort.error.code() in HOPELESS or time.monotonic() >= deadline_s:
                    raise self._failure(doing, abort.error) from abort
                time.sleep(_PAUSE_S)
            except SystemError as ex:
                # The library's way to say so if a delivery report was to be served just then.
                self._marker()
                msg = f"{doing} {self}: Kafka's client failed: {ex}"
                raise ConnectorError(msg) from ex
            else:
                return

    def _transaction(
        self, doing: str, epoch: int, rows: Iterable[bytes], deadline_s: float
    ) -> None:
        """Make it once.

        Raises:
            _AbortError: It has to be aborted.
        """
        self._undelivered = None
        self._insisting(doing, lambda _: self._producer.begin_transaction(), deadline_s)
        for row in rows:
            self._insisting(doing, partial(self._produce, row), _ONCE)
        session = self._session
        note = json.dumps({"store": session.store_id, "generation": session.generation})
        marker = TopicPartition(self._place.marker_topic, 0, epoch, metadata=note)

        def send_marker(timeout_s: float) -> None:
            self._producer.send_offsets_to_transaction([marker], self._group, timeout_s)

        self._insisting(doing, send_marker, deadline_s)
        self._insisting(doing, self._producer.commit_transaction, deadline_s)

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

    def _marker(self) -> Marker | None:
        """Read the marker; None if there is none.

        Raises:
            FencedError: A higher generation has left it.
        """
        doing, at = "can't see which epoch is out in", TopicPartition(self._place.marker_topic, 0)
        (found,) = self._insisting(
            doing, lambda timeout_s: self._reader.committed([at], timeout_s), self._deadline_s()
        )
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

    def _insisting(self, doing: str, call: Callable[[float], R], deadline_s: float) -> R:
        """Make a call again for as long as another try may help.

        Raises:
            _AbortError: The transaction has to be aborted.
            FencedError: A higher generation has begun.
            ConnectorError: Nothing helps.
        """
        while True:
            self._serve()
            try:
                return call(_CALL_S)
            except KafkaException as ex:
                self._serve()
                error = self._telling(error_of(ex))
                if error.code() in _FENCED:
                    raise self._fenced() from ex
                if error.code() == KafkaError._FATAL:  # noqa: SLF001
                    # It says no more than that; if somebody has fenced us, the marker does (whose
                    # reader is no member of a group and never has such an error).
                    self._marker()
                if error.txn_requires_abort():
                    raise _AbortError(error) from ex
                if not _curable(error) or time.monotonic() >= deadline_s:
                    raise self._failure(doing, error) from ex
                time.sleep(_PAUSE_S)

    def _serve(self) -> None:
        """Hear what the clients say; those that wait for an epoch get new tokens only so."""
        for idle in self._clients:
            said = idle.poll(0)
            if idle is self._reader and said is not None:
                self._reader_trouble(said.error())

    def _telling(self, error: KafkaError) -> KafkaError:
        """The error that says why: a group that we may not use is said to have timed out."""
        last = self._reader_trouble.last
        return last if last is not None and last.code() in HOPELESS else error

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


class _AbortError(Exception):
    """A transaction that can't go on and has to be aborted."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(error.str())
        self.error = error


def _curable(error: KafkaError) -> bool:
    return error.retriable() or error.code() in _CURABLE
