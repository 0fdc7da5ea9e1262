"""What all Kafka clients of the engine have in common: settings, errors in our words, topics.

confluent-kafka is imported here and in the modules that use a client, never in
`engine.connectors.kafka` itself: a flow that is only looked at doesn't wait for it.
"""

from __future__ import annotations

import difflib
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from confluent_kafka import KafkaError, KafkaException

from engine.connectors import UnavailableError
from engine.errors import ConnectorError

LOGGER: Final = logging.getLogger("engine.connectors.kafka")
_LIBRARY_LOGGER: Final = logging.getLogger("engine.connectors.kafka.librdkafka")
# What of it matters comes as an error, in our words. So nothing is shown unless somebody has set
# up logging.
_LIBRARY_LOGGER.addHandler(logging.NullHandler())

_TOPICS_SHOWN: Final = 5
_FIRST_ANSWER_S: Final = 0.5


class Trouble:
    """What a client says of its connections, which it says nowhere else.

    Calls that wait for a broker end in no more than "timed out" or "transport failure"; the reason
    (connection refused, a certificate, a password) comes by `error_cb`, before that.

    Args:
        also: The user's own `error_cb`, if there is one.
    """

    def __init__(self, also: Callable[[KafkaError], None] | None = None) -> None:
        self.last: KafkaError | None = None
        self.all_down = False
        """Set when no broker can be reached; whoever sees one again clears it."""
        self.let_in = False
        """Set when a broker has answered: from then on a refusal may pass."""
        self._also = also

    def __call__(self, error: KafkaError) -> None:
        """Hear of an error, on whatever thread serves the client."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - so the library names it
            self.all_down = True
        elif not self.refused or self._refuses(error):
            # "All brokers are down" never says why; what came just before it does. And after some
            # refusals the next connections just end: that says less.
            self.last = error
        if self._also is not None:
            self._also(error)

    @property
    def refused(self) -> bool:
        """Whether a broker was reached and does not let us in: to wait longer is of no use.

        It is of use once one has let us in. Brokers end connections whose token has run out, and
        one that has just started may not know all passwords yet.
        """
        return not self.let_in and self.last is not None and self._refuses(self.last)

    @staticmethod
    def _refuses(error: KafkaError) -> bool:
        text = error.str()
        if any(said in text for said in _NO_REFUSALS_SAID):
            return False
        return error.code() in _REFUSALS or any(said in text for said in _REFUSALS_SAID)

    def unreachable(self) -> ConnectorError | UnavailableError:
        """What to raise when no broker can be reached: whether to ask again depends on why."""
        if self.last is not None and self.refused:
            return _not_let_in(self.last)
        return UnavailableError("no broker answers" if self.last is None else words(self.last))

    def unanswered(self, error: KafkaError) -> ConnectorError | UnavailableError:
        """What to raise when a question was not answered."""
        if self.last is not None and self.refused:
            return _not_let_in(self.last)
        reason = self.reason(error)
        hopeless = error.code() in HOPELESS
        return ConnectorError(reason) if hopeless else UnavailableError(reason)

    def reason(self, error: KafkaError) -> str:
        """What to tell of an error of a call, with what is known about the connection."""
        if self.last is None or self.last.str() == error.str():
            return words(error)
        if error.code() in _ONLY_THAT_IT_FAILED:
            return words(self.last)
        return f"{words(error)} ({words(self.last)})"


_REFUSALS = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001
    KafkaError._SSL,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_REFUSALS_SAID = ("SSL routines", "connecting to a PLAINTEXT broker listener")
"""What is said of refusals that have no more of a code than any connection that breaks."""

_ONLY_THAT_IT_FAILED = {
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
}
"""Errors that do not say why."""

_NO_REFUSALS_SAID: Final = ("transport failure", "imed out")
"""A connection that ends while we are let in, as busy brokers do, is reported as a refusal too."""
HOPELESS: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
"""To ask again is of no use."""


PASSING: Final = {
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}
"""What a partition says while its leader changes, or a broker comes or goes."""


_WHEN: Final = re.compile(r" \(after \d+ms in state .*\)$")
"""What the library appends for its own developers."""


def words(error: KafkaError) -> str:
    """An error in words, with the name under which Kafka's documents explain it."""
    return f"{_WHEN.sub('', error.str())} [{error.name()}]"


def _not_let_in(error: KafkaError) -> ConnectorError:
    return ConnectorError(
        f"the brokers do not let us in: {words(error)}; look at security.protocol, sasl.* and "
        "ssl.* in add_config"
    )


def error_of(ex: KafkaException) -> KafkaError:
    """What an exception of the library carries."""
    return ex.args[0]  # type: ignore[no-any-return]


def bootstrap(brokers: Iterable[str]) -> str:
    """The brokers as the library wants them.

    Raises:
        TypeError: It is one text, which would be taken for a list of letters.
        ValueError: There are none.
    """
    if isinstance(brokers, str):
        msg = f"brokers must be a list such as ['localhost:9092']; got the text {brokers!r}"
        raise TypeError(msg)
    addresses = ",".join(brokers)
    if not addresses:
        msg = "brokers must name at least one broker, such as 'localhost:9092'"
        raise ValueError(msg)
    return addresses


def check_settings(add_config: Mapping[str, Any] | None, reserved: Mapping[str, str]) -> None:
    """Refuse settings that the engine makes itself.

    Args:
        add_config: What the user gave.
        reserved: Names that are not for the user, each with what to do instead.

    Raises:
        ValueError: One of them is there.
    """
    for name in add_config or ():
        if name in reserved:
            msg = f"add_config must not have {name!r}: {reserved[name]}"
            raise ValueError(msg)


def settings(brokers: str, *layers: Mapping[str, Any] | None) -> tuple[dict[str, Any], Trouble]:
    """The settings of a client, later layers over earlier ones, and where its errors go."""
    merged: dict[str, Any] = {
        "bootstrap.servers": brokers,
        "client.id": "engine",
        # It would write to standard error by itself.
        "logger": _LIBRARY_LOGGER,
        # A broker that is just taken for dead may say that there are no brokers at all. Then the
        # client forgets all it knew, and would never ask anybody again.
        "metadata.recovery.strategy": "rebootstrap",
        "reconnect.backoff.max.ms": 1000,
    }
    for layer in layers:
        merged.update(layer or {})
    trouble = Trouble(merged.get("error_cb"))
    merged["error_cb"] = trouble
    if "oauth_cb" in merged:
        merged["oauth_cb"] = _Tokens(merged["oauth_cb"])
    return merged, trouble


class _Tokens:
    """Gives the library the tokens of the user's `oauth_cb`.

    The first one is asked for before the library does that: it would wait for ten seconds, and
    then not say what was wrong.
    """

    def __init__(self, ask: Callable[[str | None], Any]) -> None:
        self._ask = ask
        self._first: Any = None

    def begin(self, config: str | None) -> None:
        """Get the first one.

        Raises:
            ConnectorError: There is none.
        """
        try:
            self._first = self._ask(config)
        except Exception as ex:
            msg = f"oauth_cb gives no token: {type(ex).__name__}: {ex}"
            raise ConnectorError(msg) from ex

    def __call__(self, config: str | None) -> Any:
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            return self._ask(config)
        except Exception as ex:
            # The library tells of it without the reason, and asks again ten seconds later.
            LOGGER.warning("oauth_cb gives no new token: %s: %s", type(ex).__name__, ex)
            raise


QUIET: Final[dict[str, Any]] = {"log_level": 3, "statistics.interval.ms": 0}
"""For clients that get settings which are not for their kind: only errors are told. Nor do they
make reports that nobody fetches."""


class _MakesClient(Protocol):
    def __call__(self, config: dict[str, Any], /) -> Any: ...


def client(kind: _MakesClient, config: dict[str, Any]) -> Any:
    """Make a client.

    Raises:
        ConnectorError: The library refuses a setting, or there is no token.
    """
    tokens = config.get("oauth_cb")
    if isinstance(tokens, _Tokens):
        tokens.begin(config.get("sasl.oauthbearer.config"))
    try:
        made = kind(config)
        # Only so does the library ask `oauth_cb` for the token without which nobody answers.
        made.poll(0)
    except KafkaException as ex:
        msg = f"Kafka's client refuses its settings: {error_of(ex).str()}; look at add_config"
        raise ConnectorError(msg) from None
    return made


def cluster(asks: Any, trouble: Trouble, timeout_s: float, topic: str | None = None) -> Any:
    """What the brokers say of themselves and of a topic, or of all topics that we may see.

    One call of the library waits for its whole time even for brokers that are not there or don't
    let us in. So it is called for a short time first, and then for longer and longer ones.

    Args:
        asks: Any client.
        trouble: What it says of its connections.
        timeout_s: For how long to wait for an answer.
        topic: Which one.

    Raises:
        UnavailableError: No broker can be reached, or there is no answer in time.
        ConnectorError: They do not let us in.
    """
    named = {} if topic is None else {"topic": topic}
    until_s = time.monotonic() + timeout_s
    wait_s = _FIRST_ANSWER_S
    trouble.all_down = False
    while True:
        left_s = max(0.0, until_s - time.monotonic())
        # So it is given a new token where the old one has run out.
        asks.poll(0)
        try:
            found = asks.list_topics(**named, timeout=min(wait_s, left_s))
        except KafkaException as ex:
            asks.poll(0)
            if trouble.refused or trouble.all_down or left_s <= wait_s:
                # The library's own exception knows no more than is said here.
                raise trouble.unanswered(error_of(ex)) from None
            wait_s *= 2
        else:
            trouble.let_in = True
            return found


UNKNOWN_TOPIC: Final = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
}
"""What is said of a topic that isn't there."""


def no_such_topic(topic: str, there: Iterable[str]) -> ConnectorError:
    """An error that names the topics whose names are near."""
    names = sorted(name for name in there if not name.startswith("__"))
    near = difflib.get_close_matches(topic, names, _TOPICS_SHOWN)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif names:
        some = ", ".join(names[:_TOPICS_SHOWN])
        hint = f"there are {len(names)}, such as {some}"
    else:
        hint = "there are none yet"
    return ConnectorError(f"there is no topic {topic!r} at the brokers: {hint}")
