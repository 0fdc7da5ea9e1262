"""`KafkaSource`: the messages of topics, each partition read on where the last durable epoch was.

The engine deals the partitions over its workers, and keeps their offsets with everything else that
belongs to an epoch. Kafka's consumer groups have no part in that: offsets of a group are committed
after each durable epoch only for others to see how far the job is.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, get_args

from confluent_kafka import Consumer

from engine.clock import utc_now
from engine.connectors import FixedPartitionedSource, UnavailableError
from engine.connectors.kafka._client import (
    UNKNOWN_TOPIC,
    bootstrap,
    check_settings,
    client,
    cluster,
    no_such_topic,
    settings,
    words,
)
from engine.connectors.kafka._positions import Moment, check_moment
from engine.connectors.kafka._reader import (
    Item,
    LostOffset,
    Part,
    Position,
    Reader,
    ReaderOptions,
    after_loss,
)
from engine.connectors.kafka._watch import made_anew
from engine.errors import ConnectorError

OFFSET_BEGINNING: Final = -2
"""As `starting_offset`: begin with the oldest message that is there."""
OFFSET_END: Final = -1
"""As `starting_offset`: begin with the first message that comes after the start."""

_LIST_S: Final = 10.0

_UNANSWERED_S: Final = 1.5
"""For so long a question that nobody answered is not asked for the next partition."""

_DEFAULTS: Final[dict[str, Any]] = {
    # When its queue is full the client stops fetching for a while, which by default is a second:
    # that alone makes reading three times slower.
    "fetch.queue.backoff.ms": 10,
    # The same after an error: of a damaged batch each message costs one.
    "fetch.error.backoff.ms": 50,
    "queued.max.messages.kbytes": 65_536,
    # While a partition has nothing, other questions to its broker wait behind the one for more.
    "fetch.wait.max.ms": 50,
    "max.partition.fetch.bytes": 8_388_608,
    # Finds damaged messages, and costs nothing that can be measured.
    "check.crcs": True,
    "allow.auto.create.topics": False,
}
_OURS: Final[dict[str, Any]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # The engine decides, by `on_lost_offset`, and says so.
    "auto.offset.reset": "error",
}
_RESERVED: Final = {
    "bootstrap.servers": "give brokers",
    "enable.auto.commit": "the engine commits after each durable epoch",
    "enable.auto.offset.store": "the engine commits after each durable epoch",
    "enable.partition.eof": "give tail",
    "auto.offset.reset": "give starting_offset and on_lost_offset",
    "on_commit": "the engine listens to it",
}


class KafkaSource(FixedPartitionedSource[Item, Position]):
    """Reads topics of Kafka, each message once per epoch that becomes durable.

    Messages of a partition come in their order; between partitions there is none. Messages of
    aborted transactions are left out, those of open ones wait (`isolation.level`).

    With recovery the job goes on at the offsets of the last durable epoch, whatever
    `starting_offset` says: that is for the partitions that there are when the job first starts.
    Those that are added later, also by naming another topic, are read from their first message.

    After each durable epoch the offsets are committed to the consumer group `group.id` (by default
    "engine-" and the id of the step), for tools that show its lag. The job does not use them, and
    can't share a group with other consumers.

    While no broker can be reached the source asks again; the run ends with an error after
    `--source-timeout`.

    Args:
        brokers: Addresses to begin with, "host:port" each.
        topics: The topics to read. All must exist.
        tail: Whether to wait for new messages at the end of a partition; else it is over there.
        starting_offset: Where to begin when the job first starts: `OFFSET_BEGINNING`,
            `OFFSET_END`, an offset, or a time (with a zone): at the first message of that time or
            later.
        add_config: Settings of librdkafka's consumer, over the engine's own: security (`sasl.*`,
            `ssl.*`, `oauth_cb`), `group.id`, `isolation.level`, …
        batch_size: How many messages to take at once, at most.
        raise_on_errors: Whether a message that can't be read (one that is damaged, say) ends the
            run; else a `KafkaError` comes in its place.
        ending_offset: Where to stop: before that offset, or before the first message of that time
            or later. A time has to be past when the job starts. None goes on.
        on_lost_offset: What to do when messages that were to be read next are not there any more
            (retention has deleted them, or the topic was deleted and made anew): "fail" ends the
            run; "earliest" and "latest" go on with the oldest message there is or with the next to
            come, and log a warning.
        discovery_interval: How often to look for new partitions; None looks at the start only.
            Doesn't look where reading comes to an end by itself.

    Raises:
        TypeError: `brokers` or `topics` is a text, or an offset is neither an offset nor a time.
        ValueError: There are no brokers or topics, a time has no zone, `batch_size` is not above
            zero, `on_lost_offset` is none of the three, or `add_config` sets what the engine has
            to set.

    >>> import engine.operators as op
    >>> from datetime import datetime, timezone
    >>> from engine.connectors.kafka import KafkaSource
    >>> from engine.dataflow import Dataflow
    >>> flow = Dataflow("shop")
    >>> source = KafkaSource(
    ...     ["localhost:9092"],
    ...     ["orders"],
    ...     starting_offset=datetime(2026, 1, 1, tzinfo=timezone.utc),
    ... )
    >>> orders = op.input("orders", flow, source)
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the user's, and all but two have defaults
        self,
        brokers: Iterable[str],
        topics: Iterable[str],
        tail: bool = True,  # noqa: FBT001, FBT002 - the order is part of the API users know
        starting_offset: Moment = OFFSET_BEGINNING,
        add_config: Mapping[str, Any] | None = None,
        batch_size: int = 1000,
        raise_on_errors: bool = True,  # noqa: FBT001, FBT002
        *,
        ending_offset: Moment | None = None,
        on_lost_offset: LostOffset = "fail",
        discovery_interval: timedelta | None = timedelta(minutes=1),
    ) -> None:
        if isinstance(topics, str):
            msg = f"topics must be a list such as ['orders']; got the text {topics!r}"
            raise TypeError(msg)
        self._topics = list(dict.fromkeys(topics))
        if not self._topics:
            msg = "topics must name at least one topic"
            raise ValueError(msg)
        check_moment("starting_offset", starting_offset)
        if ending_offset is not None:
            check_moment("ending_offset", ending_offset)
        if batch_size < 1:
            msg = f"batch_size must be above zero; got {batch_size}"
            raise ValueError(msg)
        if on_lost_offset not in get_args(LostOffset):
            choices = " or ".join(map(repr, get_args(LostOffset)))
            msg = f"on_lost_offset must be {choices}; got {on_lost_offset!r}"
            raise ValueError(msg)
        check_settings(add_config, _RESERVED)
        self.discovery_interval = discovery_interval if tail and ending_offset is None else None
        self._starting_offset = starting_offset
        self._ending_offset = ending_offset
        self._options = ReaderOptions(
            bootstrap(brokers),
            {**_DEFAULTS, **(add_config or {}), **_OURS},
            batch_size,
            raise_on_errors,
            on_lost_offset,
            tail,
        )
        self._readers: dict[tuple[int, str], Reader] = {}
        self._unanswered: dict[int, tuple[float, UnavailableError]] = {}

    def list_parts(self) -> list[str]:
        """Ask the brokers for the partitions; the first one of a topic is "0-" and its name.

        Raises:
            UnavailableError: No broker answers.
            ConnectorError: There is no such topic, or we may not read it.
        """
        config = {"group.id": "engine", **self._options.config}
        merged, trouble = settings(self._options.brokers, config)
        asks = client(Consumer, merged)
        try:
            found = cluster(asks, trouble, _LIST_S).topics
            for topic in self._topics:
                if topic not in found:
                    # It may be that we may not see it, which is said only of what is asked for.
                    found |= cluster(asks, trouble, _LIST_S, topic).topics
        finally:
            asks.close()
        parts: list[str] = []
        for topic in self._topics:
            error = found[topic].error
            if error is not None and error.code() in UNKNOWN_TOPIC:
                raise no_such_topic(topic, (name for name in found if not found[name].error))
            if error is not None:
                msg = f"topic {topic!r}: {words(error)}"
                raise ConnectorError(msg)
            parts += [f"{number}-{topic}" for number in found[topic].partitions]
        return parts

    def build_part(self, step_id: str, for_part: str, resume_state: Position | None) -> Part:
        """Begin to read a partition.

        Raises:
            UnavailableError: No broker answers.
            ConnectorError: The partition can't be read on where it was left.
        """
        return self._build(step_id, for_part, resume_state, self._starting_offset)

    def build_new_part(self, step_id: str, for_part: str) -> Part:
        """Begin to read a partition that there was not when the job began: from its beginning."""
        return self._build(step_id, for_part, None, OFFSET_BEGINNING)

    def _opened(self, step_id: str, for_part: str, state: Position | None, start: Moment) -> Part:
        number, _, topic = for_part.partition("-")
        spot = topic, int(number)
        with self._reader(step_id, spot) as reader:
            topic_id = reader.watch.topic_id(topic)
            if state is None:
                offset = reader.offsets.of(*spot, start)
            else:
                offset = self._resumed(reader, spot, state, topic_id)
            end = self._ending_offset
            if isinstance(end, datetime) and end > utc_now():
                msg = f"ending_offset is still to come: {end}; the job would have to wait for it"
                raise ConnectorError(msg)
            if end is not None:
                end = reader.offsets.of(*spot, end)
            return Part(reader, spot, (offset, topic_id), end)

    def _resumed(
        self, reader: Reader, spot: tuple[str, int], state: Position, topic_id: str | None
    ) -> int:
        """Where to go on; not at the saved offset if the topic is another one by now."""
        offset, known_id = state
        if known_id in {None, topic_id} or topic_id is None:
            return offset
        bounds = reader.offsets.bounds(*spot)
        return after_loss(spot, offset, bounds, self._options.on_lost_offset, made_anew(spot[0]))

    def _build(self, step_id: str, for_part: str, state: Position | None, start: Moment) -> Part:
        """Begin to read a partition; at once an error for all of them while nobody answers."""
        owner = threading.get_ident()
        not_before_s, error = self._unanswered.get(owner, (0.0, None))
        if error is not None and time.monotonic() < not_before_s:
            # Each attempt takes seconds, during which its worker does nothing else.
            raise UnavailableError(str(error))
        try:
            part = self._opened(step_id, for_part, state, start)
        except UnavailableError as ex:
            self._unanswered[owner] = time.monotonic() + _UNANSWERED_S, ex
            raise
        self._unanswered.pop(owner, None)
        return part

    @contextlib.contextmanager
    def _reader(self, step_id: str, spot: tuple[str, int]) -> Any:
        """The reader of this worker, which is closed again if nothing is opened in it."""
        # Workers are threads, and this object belongs to all of them.
        owner = threading.get_ident(), step_id
        reader = self._readers.get(owner)
        if reader is not None and reader.has(spot):
            # It is of a run that crashed and closed nothing.
            reader.abandon()
            reader = None
        if reader is None:
            reader = Reader(
                self._options, f"engine-{step_id}", lambda: self._readers.pop(owner, None)
            )
            self._readers[owner] = reader
        try:
            yield reader
        except BaseException:
            reader.close_if_unused()
            raise
