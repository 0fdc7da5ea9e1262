"""`KafkaSink`: messages to a topic, at least once or exactly once.

At least once, messages go out as they come, and an epoch waits until the brokers have acknowledged
all of its messages. Exactly once, the messages of an epoch are kept with it
(`engine.connectors.kafka._rows`) and published in one transaction when it is durable
(`engine.connectors.kafka._transactions`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias, get_args

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
)

from engine.connectors import (
    PENDING,
    Delivery,
    DynamicSink,
    Pending,
    SinkSession,
    StatelessSinkPartition,
    UnavailableError,
)
from engine.connectors.kafka._client import (
    QUIET,
    UNKNOWN_TOPIC,
    Trouble,
    bootstrap,
    check_settings,
    client,
    cluster,
    error_of,
    no_such_topic,
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
from engine.connectors.kafka._transactions import Connection, Place, Publisher
from engine.errors import ConnectorError

Message: TypeAlias = KafkaSinkMessage[Any, Any]

_FULL_QUEUE_S: Final = 0.01
_TOPIC_TRIES: Final = 10
_TOPIC_TRY_S: Final = 0.2
_PAUSE_S: Final = 0.1
"""Before the brokers are asked again."""
_OVERHEAD_BYTES: Final = 512
"""More than a batch and its only record add to the bytes of key, value and headers."""
_CLIENT_BYTES_MAX: Final = 1_000_000
"""What librdkafka takes for `message.max.bytes` if nobody says it."""

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
        config = {**_DEFAULTS, **(add_config or {})}
        self._connection = Connection(bootstrap(brokers), config, timeout.total_seconds())

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


class _Topics:
    """What is known about topics, asked for as they come up."""

    def __init__(self, asks: Any, trouble: Trouble, connection: Connection) -> None:
        self._asks = asks
        self._trouble = trouble
        self._connection = connection
        self._partitions: dict[str, int] = {}
        self._bytes_max: dict[str, int] = {}

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has.

        A broker that makes topics when they are asked for gets the time to do so.

        Raises:
            ConnectorError: There is no such topic, or no broker answers.
        """
        known = self._partitions.get(topic)
        if known is not None:
            return known
        for _ in range(_TOPIC_TRIES):
            found = self._metadata(topic).topics[topic]
            if found.error is None:
                self._partitions[topic] = len(found.partitions)
                return len(found.partitions)
            if found.error.code() not in _NOT_THERE_YET:
                msg = f"topic {topic!r}: {words(found.error)}"
                raise ConnectorError(msg)
            threading.Event().wait(_TOPIC_TRY_S)
        raise no_such_topic(topic, self._metadata(None).topics)

    def _metadata(self, topic: str | None) -> Any:
        timeout_s = self._connection.timeout_s
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = until_s - time.monotonic()
            try:
                return cluster(self._asks, self._trouble, left_s, topic)
            except UnavailableError as ex:
                if left_s <= _PAUSE_S:
                    brokers = self._connection.brokers
                    msg = f"no answer from Kafka at {brokers} within {timeout_s:g} s: {ex}"
                    raise ConnectorError(msg) from None
            threading.Event().wait(_PAUSE_S)

    def bytes_max(self, topic: str) -> int:
        """How large a message may be, as far as can be known."""
        known = self._bytes_max.get(topic)
        if known is None:
            config = self._connection.config
            known = int(config.get("message.max.bytes", _CLIENT_BYTES_MAX))
            if config.get("compression.type", "none") == "none":
                # How large a compressed one will be nobody knows yet.
                known = min(known, self._topic_bytes_max(topic, known))
            known -= _OVERHEAD_BYTES
            self._bytes_max[topic] = known
        return known

    def _topic_bytes_max(self, topic: str, otherwise: int) -> int:
        """What the topic's settings say, if we may read them."""
        config, _ = settings(self._connection.brokers, self._connection.config, QUIET)
        asks = client(AdminClient, config)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        answer = asks.describe_configs([resource], request_timeout=self._connection.timeout_s)
        with contextlib.suppress(KafkaException, KeyError, ValueError):
            return int(answer[resource].result()["max.message.bytes"].value)
        return otherwise


_NOT_THERE_YET: Final = {*UNKNOWN_TOPIC, KafkaError.LEADER_NOT_AVAILABLE}


class _SendingPart(StatelessSinkPartition[Message]):
    """Sends messages as they come, and waits at the end of an epoch until they have arrived."""

    def __init__(self, connection: Connection, topic: str | None) -> None:
        config, trouble = settings(
            connection.brokers, connection.config, {"delivery.report.only.error": True}
        )
        self._producer = client(Producer, config)
        self._topic = topic
        self._undelivered: tuple[KafkaError, Any] | None = None
        if topic is not None:
            _Topics(self._producer, trouble, connection).partitions(topic)

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
        config, trouble = settings(connection.brokers, connection.config, QUIET)
        topics = _Topics(client(AdminClient, config), trouble, connection)
        topics.partitions(place.marker_topic)
        if place.topic is not None:
            topics.partitions(place.topic)
        self._packer = RowPacker(place.topic, topics.partitions, topics.bytes_max)
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
