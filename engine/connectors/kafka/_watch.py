"""Looks after the brokers and topics of a reader, on a thread of its own.

librdkafka says when it has lost all brokers, and not when it has one again: an idle topic looks the
same either way. Of a topic that was deleted it says nothing, and one that was made anew it reads as
if it were the old one, if that is long enough. So this asks: twice a second while no broker can be
reached, and every ten seconds whether the topics are still those that they were.

And one of its clients can be lost for good: when a broker answers that its cluster has no brokers
(it was just taken for dead itself), the client forgets all that it knew, and mostly begins again
with `bootstrap.servers`. But where that answer comes at the wrong moment, it calls its own new
beginning off and thinks from then on that it has begun (confluentinc/librdkafka#5301, in 2.16.0
still). It says nothing, asks nobody, and no setting helps, so it has to be replaced (`Pulse`,
`Watch.want_consumer`).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from engine.connectors import UnavailableError
from engine.connectors.kafka._client import (
    LOGGER,
    QUIET,
    UNKNOWN_TOPIC,
    Trouble,
    client,
    cluster,
    error_of,
    settings,
)
from engine.errors import ConnectorError

_DOWN_S: Final = 0.5
_CHECK_S: Final = 10.0
_GONE_TIMES: Final = 2
"""After so many answers that there is no such topic: a broker that has just started gives one."""
_ASK_S: Final = 5.0
_DESCRIBE_S: Final = 2.0
"""Answered at once by a broker that has just answered; until then one that dies keeps two threads
of the library busy without a pause."""
_QUIET_S: Final = 10.0
"""So often a consumer is asked whether it has a broker, while it brings nothing."""
_DOUBT_S: Final = 2.0
"""The same once it had none: it needs a second to connect again."""
_MISSES: Final = 3
"""So many times in a row a consumer has no broker before it is taken for lost."""
_NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"
"""What brokers say that know no ids."""
_NOT_THERE: Final = ""
"""In the place of an id: there is no such topic."""


class Pulse:
    """Tells whether a consumer that brings nothing has a broker to ask. Never blocks."""

    def __init__(self) -> None:
        self._misses = 0
        self._next_s = time.monotonic() + _QUIET_S

    def doubt(self, now_s: float) -> None:
        """It has lost all brokers, and says so: look soon whether it finds them again."""
        self._misses = 0
        self._next_s = now_s + _DOUBT_S

    def is_lost(self, consumer: Any, topic: str, now_s: float) -> bool:
        """Whether it had no broker for some time, and so seems to look for none.

        Args:
            consumer: The consumer.
            topic: One that it reads.
            now_s: By the monotonic clock.
        """
        if now_s < self._next_s:
            return False
        self._misses = 0 if _has_broker(consumer, topic) else self._misses + 1
        self._next_s = now_s + (_DOUBT_S if self._misses else _QUIET_S)
        return self._misses >= _MISSES


def _has_broker(consumer: Any, topic: str) -> bool:
    """Ask, but don't wait for the answer: without a broker the question fails at once."""
    try:
        consumer.list_topics(topic, timeout=0)
    except KafkaException as ex:
        return error_of(ex).code() != KafkaError._TRANSPORT  # noqa: SLF001 - so the library names it
    return True


class Watch:
    """Of one reader.

    Args:
        brokers: As the library wants them.
        config: Settings of the consumer.
        trouble: What the consumer says of its connections; this takes it back.
        make_consumer: Makes another one.
    """

    def __init__(
        self,
        brokers: str,
        config: dict[str, Any],
        trouble: Trouble,
        make_consumer: Callable[[], Any],
    ) -> None:
        self._config, self._own_trouble = settings(brokers, config, QUIET)
        self._make_admin()
        self._trouble = trouble
        self._make_consumer = make_consumer
        self._wanted = False
        """The consumer is lost."""
        self._consumers: list[Any] = []
        """One to go on with, if there is one."""
        self._lost: list[Any] = []
        """Consumers that are to be destroyed."""
        self._ids: dict[str, str | None] = {}
        self._gone: dict[str, int] = {}
        """How many times in a row a topic was not there."""
        self._renewed: dict[str, str] = {}
        self._deleted: ConnectorError | None = None
        self.news = False
        """There is something to be heard."""
        self._awake = threading.Event()
        self._over = threading.Event()

    def topic_id(self, topic: str) -> str | None:
        """What tells a topic from a later one of that name; None where brokers don't know it.

        Raises:
            UnavailableError: No broker answers.
            ConnectorError: They refuse to.
        """
        if topic not in self._ids:
            self._ids[topic] = self.asked_id(topic)
        return self._ids[topic]

    def asked_id(self, topic: str) -> str | None:
        """As `topic_id`, asked anew."""
        found = self._asked_id(topic)
        if found == _NOT_THERE:
            # It was in the list of topics a moment ago.
            msg = f"topic {topic!r} can't be read yet, or not any more: no broker knows it"
            raise UnavailableError(msg)
        return found

    def _make_admin(self) -> None:
        self._admin: Any = client(AdminClient, self._config)
        self._made_s = time.monotonic()

    def _cluster(self) -> Any:
        """What the brokers say of themselves.

        Raises:
            UnavailableError: No broker answers, or one that says that there is none.
            ConnectorError: They do not let us in.
        """
        try:
            found = cluster(self._admin, self._own_trouble, _ASK_S)
        except UnavailableError:
            # This client may be lost just as the consumer.
            if time.monotonic() - self._made_s > _ASK_S:
                self._make_admin()
            raise
        if not found.brokers:
            msg = "a broker answers that its cluster has no brokers"
            raise UnavailableError(msg)
        return found

    def _asked_id(self, topic: str) -> str | None:
        found = self._cluster()
        if found.controller_id not in found.brokers:
            # The mock cluster has none, and leaves the question open until it times out.
            return None
        # Held here: it must outlive the answer, and another thread may make another one.
        admin = self._admin
        try:
            answers = admin.describe_topics(TopicCollection([topic]), request_timeout=_DESCRIBE_S)
            described = answers[topic].result(_ASK_S)
        except TimeoutError:
            msg = f"no broker says what topic {topic!r} is"
            raise UnavailableError(msg) from None
        except KafkaException as ex:
            if error_of(ex).code() in UNKNOWN_TOPIC:
                return _NOT_THERE
            raise self._own_trouble.unanswered(error_of(ex)) from None
        topic_id = str(described.topic_id)
        return None if topic_id == _NO_ID else topic_id

    def start(self) -> None:
        """Begin to look now and then, until `stop`, or until nobody has this any more."""
        awake = self._awake
        watch = weakref.ref(self, lambda _: awake.set())
        threading.Thread(
            target=_look, args=(watch, awake), name="engine-kafka-watch", daemon=True
        ).start()

    def wake(self) -> None:
        """Look now: the consumer has lost all brokers."""
        self._awake.set()

    def want_consumer(self) -> None:
        """The consumer is lost: make another one as soon as there are brokers."""
        self._wanted = True
        self._awake.set()

    def taken_consumer(self, lost: Any) -> Any:
        """A consumer in the place of one that is lost; that one, if there is no other.

        The lost one is destroyed on the other thread, when that looks the next time: nobody knows
        how long it takes.
        """
        if not self._consumers:
            return lost
        self._lost.append(lost)
        return self._consumers.pop()

    def heard(self) -> dict[str, str]:
        """The topics that are others than they were, with their new ids.

        Raises:
            ConnectorError: A topic is not there any more.
        """
        if self._deleted is not None:
            raise self._deleted
        self.news = False
        return dict(self._renewed)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._awake.set()

    def look(self) -> bool:
        """Look once, on a thread of its own; gives whether to look again."""
        while self._trouble.all_down and not self._over.is_set():
            if self._reached():
                self._trouble.all_down = False
            else:
                # Not for `_awake`, which the reader sets all the time meanwhile.
                self._over.wait(_DOWN_S)
        self._lost.clear()
        if self._wanted and not self._over.is_set():
            self._replace()
        if not self._over.is_set():
            self._compare_ids()
        return not self._over.is_set()

    def _reached(self) -> bool:
        try:
            self._cluster()
        except (ConnectorError, UnavailableError):
            return False
        return True

    def _replace(self) -> None:
        """Make another consumer if there are brokers; if not, it will be wanted again."""
        self._wanted = False
        if self._reached():
            try:
                self._consumers = [self._make_consumer()]
            except ConnectorError as ex:
                LOGGER.warning("a consumer is lost, and no other one can be made: %s", ex)
            else:
                self.news = True

    def _compare_ids(self) -> None:
        for topic, known in list(self._ids.items()):
            if known is None:
                continue
            try:
                now = self._asked_id(topic)
            except (ConnectorError, UnavailableError):
                continue  # Brokers that are gone the consumer tells of itself.
            if now == _NOT_THERE:
                self._gone[topic] = self._gone.get(topic, 0) + 1
                if self._gone[topic] >= _GONE_TIMES:
                    msg = (
                        f"there is no topic {topic!r} any more: it was deleted while this job read "
                        "it. A run with the same store says what can be done"
                    )
                    self._deleted = ConnectorError(msg)
                    self.news = True
            else:
                self._gone.pop(topic, None)
                if now is not None and now != known:
                    self._ids[topic] = self._renewed[topic] = now
                    self.news = True


def _look(watch: weakref.ref[Watch], awake: threading.Event) -> None:
    """Look until it is over.

    Nothing is held while it waits: a reader that nobody has closed would never go away.
    """
    going_on = True
    while going_on:
        awake.wait(_CHECK_S)
        awake.clear()
        found = watch()
        going_on = found is not None and found.look()
        del found


def made_anew(topic: str) -> str:
    """What to say of a topic that is another one than it was."""
    return (
        f"topic {topic!r} was deleted and made anew since this job began to read it, so its "
        "offsets mean nothing in it"
    )
