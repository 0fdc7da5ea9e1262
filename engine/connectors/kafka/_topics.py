"""What a sink knows of topics, asked for as they come up: partitions, and what they take."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
)

from engine.connectors import UnavailableError
from engine.connectors.kafka._client import (
    QUIET,
    UNKNOWN_TOPIC,
    client,
    cluster,
    no_such_topic,
    settings,
    words,
)
from engine.connectors.kafka._rows import TopicRules
from engine.connectors.kafka._transactions import Connection
from engine.errors import ConnectorError

_TRIES: Final = 10
_TRY_S: Final = 0.2
_PAUSE_S: Final = 0.1
_ASK_S: Final = 5.0
_OVERHEAD_BYTES: Final = 512
"""More than a batch and its only record add to the bytes of key, value and headers."""
_CLIENT_BYTES_MAX: Final = 1_000_000
"""What librdkafka takes for `message.max.bytes` if nobody says it."""
_NOT_THERE_YET: Final = {*UNKNOWN_TOPIC, KafkaError.LEADER_NOT_AVAILABLE}


class Topics:
    """Of the brokers that a sink writes to.

    Args:
        connection: How to reach them.
    """

    def __init__(self, connection: Connection) -> None:
        config, self._trouble = settings(connection.brokers, connection.config, QUIET)
        self._asks = client(AdminClient, config)
        self._connection = connection
        self._partitions: dict[str, int] = {}
        self._rules: dict[str, TopicRules] = {}

    def partitions(self, topic: str, above: int = 0) -> int:
        """How many partitions a topic has; asked anew if there were not more than that.

        A broker that makes topics when they are asked for gets the time to do so.

        Raises:
            ConnectorError: There is no such topic, or no broker answers.
        """
        known = self._partitions.get(topic, 0)
        if known > above:
            return known
        for _ in range(_TRIES):
            found = self._metadata(topic).topics[topic]
            if found.error is None:
                self._partitions[topic] = len(found.partitions)
                return len(found.partitions)
            if found.error.code() not in _NOT_THERE_YET:
                msg = f"topic {topic!r}: {words(found.error)}"
                raise ConnectorError(msg)
            threading.Event().wait(_TRY_S)
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

    def rules(self, topic: str) -> TopicRules:
        """What a topic takes, as far as we may read its settings.

        Raises:
            ConnectorError: There is no such topic, or no broker answers.
        """
        if topic not in self._rules:
            self.partitions(topic)
            self._rules[topic] = self._asked_rules(topic)
        return self._rules[topic]

    def batch_limits(self, topic: str) -> dict[str, int]:
        """Settings of a producer whose batches the topic takes: those too are messages to it."""
        ours = self._connection.config["batch.size"]
        return {"batch.size": min(int(ours), self.rules(topic).bytes_max)}

    def _settings(self, topic: str) -> dict[str, Any]:
        """Those of a topic, if they can be read."""
        found = self._metadata(topic)
        if found.controller_id not in found.brokers:
            # The mock cluster has none, and leaves the question open until it times out.
            return {}
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        answer = self._asks.describe_configs([resource], request_timeout=_ASK_S)
        with contextlib.suppress(KafkaException):
            return {name: entry.value for name, entry in answer[resource].result().items()}
        return {}

    def _asked_rules(self, topic: str) -> TopicRules:
        said = self._settings(topic)
        client_max = int(self._connection.config.get("message.max.bytes", _CLIENT_BYTES_MAX))
        topic_max = int(said.get("max.message.bytes", client_max))
        created = said.get("message.timestamp.type") == "CreateTime"
        return TopicRules(
            min(client_max, topic_max) - _OVERHEAD_BYTES,
            needs_key="compact" in said.get("cleanup.policy", ""),
            before_ms=float(said.get("message.timestamp.before.max.ms", math.inf))
            if created
            else math.inf,
            after_ms=float(said.get("message.timestamp.after.max.ms", math.inf))
            if created
            else math.inf,
        )
