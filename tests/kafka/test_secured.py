"""The secured broker lets in whom it should, and nobody else."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from tests.kafka.broker import Broker
from tests.kafka.client import QUIET, WAIT_S, Kafka
from tests.kafka.secured import MECHANISMS, sasl_config, tls_config


@pytest.mark.parametrize("way", [*MECHANISMS, "TLS"])
def test_each_way_in(secured_kafka: Broker, topic: str, way: str):
    """Messages go in and out by each of them."""
    config = tls_config(secured_kafka) if way == "TLS" else sasl_config(secured_kafka, way)
    kafka = Kafka(config["bootstrap.servers"], config)
    kafka.create_topic(topic)
    kafka.produce(topic, [("ann", "20")])
    assert [message.value() for message in kafka.read_all(topic)] == [b"20"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password(secured_kafka: Broker, mechanism: str):
    """The broker says that it is wrong."""
    said: list[KafkaError] = []
    config = sasl_config(secured_kafka, mechanism, "another password")
    client = AdminClient({**config, **QUIET, "error_cb": said.append})
    while not said:
        assert client.poll(WAIT_S) or said
    assert said[0].code() == KafkaError._AUTHENTICATION
