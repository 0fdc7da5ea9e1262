"""Looks after the brokers and topics of a reader, on a thread of its own.

librdkafka says when it has lost all brokers, and not when it has one again: an idle topic looks the
same either way. Of a topic that was deleted it says nothing, and one that was made anew it reads as
if it were the old one, if that is long enough. So this asks: twice a second while no broker can be
reached, and every ten seconds whether the topics are still those that they were.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from engine.connectors import UnavailableError
from engine.connectors.kafka._client import (
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
_NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"
"""What brokers say that know no ids."""
_NOT_THERE: Final = ""
"""In the place of an id: there is no such topic."""


class Watch:
    """Of one reader.

    Args:
        brokers: As the library wants them.
        config: Settings of the consumer.
        trouble: What the consumer says of its connections; this takes it back.
    """

    def __init__(self, brokers: str, config: dict[str, Any], trouble: Trouble) -> None:
        merged, self._own_trouble = settings(brokers, config, QUIET)
        self._admin: Any = client(AdminClient, merged)
        self._trouble = trouble
        self._ids: dict[str, str | None] = {}
        self._gone: dict[str, int] = {}
        """How many times in a row a topic was not there."""
        self._renewed: dict[str, str] = {}
        self._deleted: ConnectorError | None = None
        self.news = False
        """There is something to be heard."""
        self._awake = threading.Event()
        self._over = False

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

    def _asked_id(self, topic: str) -> str | None:
        try:
            found = cluster(self._admin, self._own_trouble, _ASK_S)
            if found.controller_id not in found.brokers:
                # The mock cluster has none, and leaves the question open until it times out.
                return None
            asked = TopicCollection([topic])
            described = self._admin.describe_topics(asked, request_timeout=_ASK_S)[topic].result()
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
        self._over = True
        self._awake.set()

    def look(self) -> bool:
        """Look once, on a thread of its own; gives whether to look again."""
        while self._trouble.all_down and not self._over:
            if self._reached():
                self._trouble.all_down = False
            else:
                self._awake.wait(_DOWN_S)
        if not self._over:
            self._compare_ids()
        return not self._over

    def _reached(self) -> bool:
        try:
            cluster(self._admin, self._own_trouble, _ASK_S)
        except (ConnectorError, UnavailableError):
            return False
        return True

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
