"""The examples of Kafka run on the brokers that `tests/kafka` has."""

from __future__ import annotations

from tests.kafka.conftest import kafka, real_kafka, topic

__all__ = ["kafka", "real_kafka", "topic"]
