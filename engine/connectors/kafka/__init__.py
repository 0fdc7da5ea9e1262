"""Kafka in and out: sources and sinks of topics, and what goes through them.

`KafkaSource` and `KafkaSink` are for `engine.operators.input` and `output`.
`engine.connectors.kafka.operators` has what most flows want instead: both in one step with what
goes wrong on the way, and steps that turn bytes into values and back. `docs/kafka.md` tells how to
use all of it.
"""

from __future__ import annotations

from engine.connectors.kafka._messages import KafkaError, KafkaSinkMessage, KafkaSourceMessage
from engine.connectors.kafka._sink import KafkaSink
from engine.connectors.kafka._source import OFFSET_BEGINNING, OFFSET_END, KafkaSource

__all__ = [
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "KafkaError",
    "KafkaSink",
    "KafkaSinkMessage",
    "KafkaSource",
    "KafkaSourceMessage",
]
