"""What all Kafka clients of the engine have in common: settings, errors in our words, topics.

confluent-kafka is imported here and in the modules that use a client, never in
`engine.connectors.kafka` itself: a flow that is only looked at doesn't wait for it.
"""

from __future__ import annotations

import difflib
import logging
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

_TOPICS_SHOWN = 5


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
        self._also = also

    def __call__(self, error: KafkaError) -> None:
        """Hear of an error, on whatever thread serves the client."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - so the library names it
            self.all_down = True
        else:
            # "All brokers are down" never says why; what came just before it does.
            self.last = error
        if self._also is not None:
            self._also(error)

    @property
    def refused(self) -> bool:
        """Whether a broker was reached and did not let us in: to wait longer is of no use."""
        return self.last is not None and self.last.code() in _REFUSALS

    def unreachable(self) -> ConnectorError | UnavailableError:
        """What to raise when no broker can be reached: whether to ask again depends on why."""
        reason = "no broker answers" if self.last is None else words(self.last)
        return ConnectorError(reason) if self.refused else UnavailableError(reason)

    def unanswered(self, error: KafkaError) -> ConnectorError | UnavailableError:
        """What to raise when a question was not answered."""
        hopeless = self.refused or error.code() in _HOPELESS
        reason = self.reason(error)
        return ConnectorError(reason) if hopeless else UnavailableError(reason)

    def reason(self, error: KafkaError) -> str:
        """What to tell of an error of a call, with what is known about the connection."""
        text = words(error)
        if self.last is not None and self.last.str() != error.str():
            text += f" ({words(self.last)})"
        return text


_REFUSALS = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001
    KafkaError._SSL,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}

_HOPELESS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}
"""To ask again is of no use."""


def words(error: KafkaError) -> str:
    """An error in words, with the name under which Kafka's documents explain it."""
    return f"{error.str()} [{error.name()}]"


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
        # After a restart of its brokers a client that begins anew can lose seconds, and
        # transactions up to twenty.
        "metadata.recovery.strategy": "none",
        "reconnect.backoff.max.ms": 1000,
    }
    for layer in layers:
        merged.update(layer or {})
    trouble = Trouble(merged.get("error_cb"))
    merged["error_cb"] = trouble
    return merged, trouble


QUIET: Final[dict[str, Any]] = {"log_level": 3}
"""For clients that get settings which are not for their kind: only errors are told."""


class _MakesClient(Protocol):
    def __call__(self, config: dict[str, Any], /) -> Any: ...


def client(kind: _MakesClient, config: dict[str, Any]) -> Any:
    """Make a client.

    Raises:
        ConnectorError: The library refuses a setting.
    """
    try:
        made = kind(config)
        # Only so does the library ask `oauth_cb` for the token without which nobody answers.
        made.poll(0)
    except KafkaException as ex:
        msg = f"Kafka's client refuses its settings: {error_of(ex).str()}; look at add_config"
        raise ConnectorError(msg) from ex
    return made


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
