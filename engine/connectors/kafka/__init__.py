"""Kafka in and out: sources and sinks of topics, and what goes through them."""

from __future__ import annotations

from engine.connectors.kafka._messages import KafkaError, KafkaSinkMessage, KafkaSourceMessage
from engine.connectors.kafka._sink import KafkaSink

__all__ = ["KafkaError", "KafkaSink", "KafkaSinkMessage", "KafkaSourceMessage"]
