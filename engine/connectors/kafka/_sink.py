"""`KafkaSink`: messages to a topic, at least once or exactly once.

At least once, messages go out as they come, and an epoch waits until the brokers have acknowledged
all of its messages. Exactly once, the messages of an epoch are kept with it
(`engine.connectors.kafka._rows`) and published in one transaction when it is durable
(`engine.connectors.kafka._transactions`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeAlias, get_args

from confluent_kafka import KafkaError, KafkaException, Producer

from engine.connectors import (
    PENDING,
    Delivery,
    DynamicSink,
    Pending,
    SinkSession,
    StatelessSinkPartition,
)
from engine.connectors.kafka._client import (
    bootstrap,
    check_settings,
    client,
    cluster,
    error_of,
    settings,
    words,
)
from engine.connectors.kafka._messages import KafkaSinkMessage
from engine.connectors.kafka._rows import (
    RAISE_THE_SIZE,
    RowPacker,
    checked_headers,
    encoded,
    no_topic,
    not_a_message,
    shown_message,
)
from engine.connectors.kafka._topics import Topics
from engine.connectors.kafka._transactions import Connection, Place, Publisher
from engine.errors import ConnectorError

Message: TypeAlias = KafkaSinkMessage[Any, Any]

_FULL_QUEUE_S: Final = 0.01
_TRANSACTION_MS_MAX: Final = 900_000
"""What brokers allow a transaction to take, unless they are told otherwise."""

_DEFAULTS: Final[dict[str, Any]] = {
    # Without it a message that is sent again may overtake others of its key.
    "enable.idempotence": True,
    "linger.ms": 5,
    "batch.size": 1_000_000,
    # A queue that is full holds the flow back; by default it would be a gigabyte.
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 65_536,
}

_RESERVED: Final = {
    "bootstrap.servers": "give brokers",
    "transactional.id": "the engine makes it of the store, the step and the worker; "
    "for a beginning of your own give transactional_id_prefix",
    "delivery.report.only.error": "the sink sees to it that every message is acknowledged",
    "on_delivery": "the sink sees to it that every message is acknowledged",
    "acks": "an epoch is durable only when all replicas have its messages",
    "request.required.acks": "an epoch is durable only when all replicas have its messages",
}


class KafkaSink(DynamicSink[Message]):
    """Writes messages to Kafka: each worker for itself, all messages of a key to one partition.

    The order of a worker's messages is kept in each partition. Which partition a key goes to is
    librdkafka's choice (`partitioner` in `add_config`; "murmur2_random" does as Java's clients do)
    unless a message says `partition` itself.

    **At least once** (the default), messages are on their way at once. An epoch becomes durable
    when the brokers have acknowledged all its messages; after a crash, those since the last durable
    epoch are written again. Messages without acknowledgement after `message.timeout.ms` end the
    run, and are written again by the next.

    **Exactly once**, messages of an epoch become visible together, to consumers that read
    committed messages only (``isolation.level=read_committed``), once the epoch is durable: an
    epoch interval later, and never twice. One transaction per epoch and worker does that. It takes
    topics of Kafka 2.5 or newer, and permission to use transactional ids and groups that begin with
    "engine-". The mark of what is out is kept as an offset of such a group. Brokers forget those of
    jobs that stand still for longer than their `offsets.retention.minutes` (a week); such a job is
    not continued silently but ends with an error that says what to do.

    Args:
        brokers: Addresses to begin with, "host:port" each.
        topic: Where messages go that don't name a topic; None if all of them do.
        add_config: Settings of librdkafka's producer, over the engine's own: security (`sasl.*`,
            `ssl.*`, `oauth_cb`), `compression.type`, `linger.ms`, …
        delivery: "at-least-once" or "exactly-once".
        marker_topic: For exactly once without `topic`: a topic that lives as long as the job.
        transactional_id_prefix: How transactional ids and the groups of the marks begin. Not to be
            changed during a job's life.
        timeout: How long to try to reach the brokers at the start, and to publish an epoch, before
            the run ends with an error.

    Raises:
        TypeError: `brokers` is a text.
        ValueError: There are no brokers, `add_config` sets what the engine has to set, `delivery`
            is neither of the two, or there is no topic for the mark.

    What is wrong at the brokers (none answers, there is no such topic) is an error when the
    partition is built. A message that can't be written (its key or value is neither bytes nor text,
    it is too large, its topic or partition does not exist) is an error when it comes, unless only
    the brokers find out.

    >>> import engine.operators as op
    >>> from engine.connectors.kafka import KafkaSink, KafkaSinkMessage
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSource
    >>> flow = Dataflow("shop")
    >>> sales = op.input("sales", flow, TestingSource([("ann", 20), ("bob", 5)]))
    >>> messages = op.map("message", sales, lambda sale: KafkaSinkMessage(sale[0], str(sale[1])))
    >>> op.output("out", messages, KafkaSink(["localhost:9092"], "sales", delivery="exactly-once"))
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the user's, and all but three have defaults
        self,
        brokers: Iterable[str],
        topic: str | None,
        add_config: Mapping[str, Any] | None = None,
        *,
        delivery: Delivery = "at-least-once",
        marker_topic: str | None = None,
        transactional_id_prefix: str = "engine",
        timeout: timedelta = timedelta(seconds=60),
    ) -> None:
        if delivery not in get_args(Delivery):
            msg = f"delivery must be 'exactly-once' or 'at-least-once'; got {delivery!r}"
            raise ValueError(msg)
        check_settings(add_config, _RESERVED)
        if delivery == "exactly-once" and topic is None and marker_topic is None:
            msg = (
                "an exactly-once Kafka sink without a topic of its own needs marker_topic: a topic "
                "that lives as long as the job, for the mark of what is out"
            )
            raise ValueError(msg)
        self.delivery = delivery
        self._topic = topic
        self._marker_topic = marker_topic or topic or ""
        self._prefix = transactional_id_prefix
        timeout_s = timeout.total_seconds()
        config = {
            **_DEFAULTS,
            # One that publishes for longer is ended by the brokers.
            "transaction.timeout.ms": min(_TRANSACTION_MS_MAX, max(1000, int(timeout_s * 1000))),
            **(add_config or {}),
        }
        self._connection = Connection(bootstrap(brokers), config, timeout_s)

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[Message]:
        """Connect, and see that the topics exist.

        Raises:
            ConnectorError: No broker answers, or there is no such topic.
        """
        del step_id, worker_index, worker_count  # The session says whose marker it is.
        if self.delivery == "exactly-once":
            place = Place(self._topic, self._marker_topic, self._prefix)
            return _TransactionalPart(self._connection, place)
        return _SendingPart(self._connection, self._topic)


class _SendingPart(StatelessSinkPartition[Message]):
    """Sends messages as they come, and waits at the end of an epoch until they have arrived."""

    def __init__(self, connection: Connection, topic: str | None) -> None:
        limits = {} if topic is None else Topics(connection).batch_limits(topic)
        config, trouble = settings(
            connection.brokers, connection.config, limits, {"delivery.report.only.error": True}
        )
        self._producer = client(Producer, config)
        if topic is not None:
            # So that it knows the partitions, and refuses at once what is for none of them.
            cluster(self._producer, trouble, connection.timeout_s, topic)
        self._topic = topic
        self._undelivered: tuple[KafkaError, Any] | None = None

    def write_batch(self, items: list[Message]) -> None:
        produce, own_topic, report = self._producer.produce, self._topic, self._report
        for item in items:
            if item.__class__ is not KafkaSinkMessage:
                raise not_a_message(item)
            while True:
                try:
                    if item.headers or item.timestamp or item.partition is not None:
                        self._produce_whole(item)
                    else:
                        produce(item.topic or own_topic, item.value, item.key, -1, report)
                except BufferError:
                    # The target is slower than we are, and the flow has to wait for it.
                    self._producer.poll(_FULL_QUEUE_S)
                    self._check()
                except (KafkaException, TypeError) as ex:
                    raise self._refused(item, ex) from None
                else:
                    break
        self._producer.poll(0)
        self._check()

    def _produce_whole(self, item: Message) -> None:
        self._producer.produce(
            item.topic or self._topic,
            item.value,
            item.key,
            -1 if item.partition is None else item.partition,
            self._report,
            None,
            item.timestamp,
            item.headers,
        )

    def _refused(self, item: Message, ex: Exception) -> Exception:
        """The error for a message that the library does not take."""
        if isinstance(ex, KafkaException):
            error = error_of(ex)
            msg = f"a message can't be sent: {words(error)}: {shown_message(item)}"
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                msg += f"; {RAISE_THE_SIZE}"
            return ConnectorError(msg)
        try:
            encoded(item, "value", item.value)
            encoded(item, "key", item.key)
            checked_headers(item)
            if item.topic is None and self._topic is None:
                return no_topic(item)
        except ConnectorError as why:
            return why
        return ex

    def _report(self, error: KafkaError, message: Any) -> None:
        """Hear that a message could not be delivered; nothing is said of those that could."""
        if self._undelivered is None:
            self._undelivered = error, message

    def _check(self) -> None:
        if self._undelivered is not None:
            error, message = self._undelivered
            msg = (
                f"a message to topic {message.topic()!r} was not delivered: {words(error)}: key "
                f"{message.key()!r:.60}, value {message.value()!r:.100}; the epoch is given up, "
                "and the next run writes it again"
            )
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                msg += f"; before it does, {RAISE_THE_SIZE}"
            raise ConnectorError(msg)

    def flush(self) -> Pending | None:
        """Wait until every message of the epoch is acknowledged."""
        # This also sends what still lingers.
        waiting = self._producer.flush(0)
        self._check()
        return PENDING if waiting else None

    def close(self) -> None:
        """Send no more."""
        self._producer.purge()
        self._producer.poll(0)


class _TransactionalPart(StatelessSinkPartition[Message]):
    """Leaves the messages of an epoch to the engine, and publishes them when it is durable."""

    def __init__(self, connection: Connection, place: Place) -> None:
        self._connection = connection
        self._place = place
        topics = Topics(connection)
        topics.partitions(place.marker_topic)
        if place.topic is not None:
            limits = topics.batch_limits(place.topic)
            self._connection = replace(connection, config={**connection.config, **limits})
        self._packer = RowPacker(place.topic, topics.partitions, topics.rules)
        self._publisher: Publisher | None = None
        self._rows: list[bytes] = []
        self._publishing: _Background | None = None

    def begin(self, session: SinkSession) -> None:
        """Fence older runs, and read which epoch is out."""
        # One text of three names that could not come of three others.
        name = f"{self._place.name}-{session.store_id}-{session.step_id}-{session.shard}"
        place = Place(self._place.topic, self._place.marker_topic, name)
        self._publisher = Publisher(self._connection, place, session)

    def _begun(self) -> Publisher:
        if self._publisher is None:
            msg = "begin() must come before published() and publish()"
            raise ConnectorError(msg)
        return self._publisher

    def published(self) -> int:
        return self._begun().epoch

    def write_batch(self, items: list[Message]) -> None:
        self._rows.append(self._packer.pack(items))

    def prepare(self, epoch: int) -> list[bytes]:
        del epoch
        rows, self._rows = self._rows, []
        return rows

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        if self._publishing is None:
            publisher = self._begun()
            self._publishing = _Background(lambda: publisher.publish(epoch, rows))
        if not self._publishing.done:
            return PENDING
        publishing, self._publishing = self._publishing, None
        publishing.result()
        return None

    def close(self) -> None:
        if self._publisher is not None and self._publishing is None:
            self._publisher.close()


class _Background:
    """A call on a thread of its own that does not keep the process from ending."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self.done = False
        threading.Thread(target=self._run, name="engine-kafka-publish", daemon=True).start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as ex:  # noqa: BLE001 - it is raised again by `result`
            self._error = ex
        self.done = True

    def result(self) -> None:
        """Raise what the call has raised."""
        if self._error is not None:
            raise self._error
