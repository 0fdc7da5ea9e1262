"""What becomes of a message that can't be deserialized: an error to read, to raise, or to count.

The kernels call these where a deserializer or serializer has raised, so nothing here costs a good
message anything. A failure that is no message's fault, such as a schema registry that doesn't
answer, ends the run in any case: the messages would all be thrown away for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import confluent_kafka
from confluent_kafka.serialization import MessageField

from engine.connectors.kafka._messages import KafkaError, KafkaSourceMessage
from engine.connectors.kafka._serde_base import reason
from engine.errors import ConnectorError, DeserializationError

OnError: TypeAlias = Literal["fail", "skip"]
"""What to do with an error where no step reads the stream of them: end the run, or go on without
the message, which is counted and told by the logger ``engine.connectors.kafka``."""

# That is how confluent-kafka names the codes of its own side.
_CODES: dict[MessageField, int] = {
    MessageField.KEY: confluent_kafka.KafkaError._KEY_DESERIALIZATION,  # noqa: SLF001
    MessageField.VALUE: confluent_kafka.KafkaError._VALUE_DESERIALIZATION,  # noqa: SLF001
}
_NOT_FOUND = 404
_HINT = "read the step's `errs`, or give it `on_error='skip'`"


def check_on_error(step_id: str, on_error: object) -> None:
    """Refuse what is no policy.

    Raises:
        ValueError: Raised while the flow is built.
    """
    if on_error not in {"fail", "skip"}:
        msg = f"`on_error` of step {step_id!r} must be 'fail' or 'skip'; got {on_error!r}"
        raise ValueError(msg)


def as_kafka_error(
    field: MessageField, ex: Exception, message: KafkaSourceMessage[Any, Any]
) -> KafkaError[Any, Any]:
    """The error for those who read the stream of errors.

    Raises:
        ConnectorError: The message isn't to blame.
    """
    _refuse_outage(field, ex, message)
    return KafkaError(confluent_kafka.KafkaError(_CODES[field], reason(ex)), message)


def as_failure(
    field: MessageField, ex: Exception, message: KafkaSourceMessage[Any, Any]
) -> DeserializationError:
    """The error that ends the run.

    Raises:
        ConnectorError: The message isn't to blame.
    """
    _refuse_outage(field, ex, message)
    return DeserializationError(
        f"the {field} of the message at {place_of(message)} can't be deserialized: {reason(ex)}",
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        hint=_HINT,
    )


def as_source_failure(error: KafkaError[Any, Any]) -> ConnectorError:
    """The error that ends the run because of what Kafka said in place of a message."""
    return ConnectorError(
        f"Kafka reports an error at {place_of(error.msg)}: {error.err.name()}: {error.err.str()}"
    )


class Skipped:
    """Counts the messages that a step goes on without, and says so now and then.

    It speaks at the first one and whenever their number has doubled, so a topic full of them is
    told in a dozen lines.
    """

    def __init__(self, step_id: str) -> None:
        self._step_id = step_id
        self._count = 0
        self._next = 1

    def undecoded(
        self, field: MessageField, ex: Exception, message: KafkaSourceMessage[Any, Any]
    ) -> None:
        """A message can't be deserialized.

        Raises:
            ConnectorError: The message isn't to blame.
        """
        _refuse_outage(field, ex, message)
        if self._is_to_be_told():
            self._tell(f"the {field} at {place_of(message)} can't be deserialized: {reason(ex)}")

    def error(self, error: KafkaError[Any, Any]) -> None:
        """Kafka has said that something is wrong, in place of a message."""
        if self._is_to_be_told():
            self._tell(str(as_source_failure(error)))

    def _is_to_be_told(self) -> bool:
        self._count += 1
        told = self._count == self._next
        if told:
            self._next *= 2
        return told

    def _tell(self, what: str) -> None:
        # Here, because most runs have nothing to tell, and it takes a while to load.
        import logging  # noqa: PLC0415

        logging.getLogger("engine.connectors.kafka").warning(
            "step %r has skipped %d so far on this worker; the last one: %s",
            self._step_id,
            self._count,
            what,
        )


def place_of(message: KafkaSourceMessage[Any, Any]) -> str:
    """Where a message was read, in words.

    >>> place_of(KafkaSourceMessage(None, b"x", "orders", partition=3, offset=17))
    "offset 17 of partition 3 of topic 'orders'"
    """
    return f"offset {message.offset} of partition {message.partition} of topic {message.topic!r}"


def _refuse_outage(
    field: MessageField, ex: Exception, message: KafkaSourceMessage[Any, Any]
) -> None:
    if isinstance(ex, MemoryError):
        raise ex
    if any(_is_outage(cause) and not _is_unknown_schema(cause) for cause in _behind(ex)):
        msg = (
            f"what is needed to deserialize the {field} at {place_of(message)} can't be had: "
            f"{reason(ex)}"
        )
        raise ConnectorError(msg) from ex


def explain_unserialized(field: MessageField, ex: Exception, topic: str | None) -> None:
    """Say what may be missing for a message that could not be serialized; to be raised after that.

    Raises:
        ConnectorError: The message isn't to blame. Whatever the registry refuses is about the
            schema, which is the serializer's and not the message's.
    """
    if any(map(_is_outage, _behind(ex))):
        msg = (
            f"what is needed to serialize the {field} of a message to topic {topic!r} can't be "
            f"had: {reason(ex)}"
        )
        raise ConnectorError(msg) from ex
    if topic is None:
        ex.add_note(
            "the message names no topic, and a serializer of the schema registry needs one: "
            "give the step `topic=`"
        )


def _behind(ex: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised because of."""
    cause: BaseException | None = ex
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _is_outage(ex: BaseException) -> bool:
    """Whether this would have happened to any message: a host that is down, or lets nobody in."""
    if isinstance(ex, ConnectionError | TimeoutError):
        return True
    if isinstance(ex, OSError):
        # Those that decompress raise `OSError`s as well, with no number of the system's.
        return ex.errno is not None
    registry: Any = sys.modules.get("confluent_kafka.schema_registry.error")
    if registry is not None:
        kinds = registry.SchemaRegistryError, getattr(registry, "OAuthTokenError", ())
        if isinstance(ex, kinds):
            return True
    return any(
        kind.__name__ == "TransportError" and kind.__module__.startswith("httpx")
        for kind in type(ex).__mro__
    )


def _is_unknown_schema(ex: BaseException) -> bool:
    """Whether the registry says that there is no such schema: a number in a message is wrong."""
    return getattr(ex, "http_status_code", None) == _NOT_FOUND
