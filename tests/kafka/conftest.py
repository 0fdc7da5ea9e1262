"""Brokers for the tests that need one.

- `kafka`: a real Apache Kafka, one for the whole test run, however many processes it has.
  ``ENGINE_TEST_KAFKA=host:port`` names another one to use, which must be empty enough for that.
- `own_kafka`: a real one for a single test, which may kill it.
- `secured_kafka`: one that wants passwords, tokens or certificates.
- `kafka_or_mock`: the real one, or librdkafka's mock cluster, for tests that need no transactions.

Where Java 17 or Maven is missing, tests that need a real one are skipped and say why; with ``CI``
in the environment they fail.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import project
from tests.kafka.broker import Broker
from tests.kafka.client import Kafka, MockKafka
from tests.kafka.distribution import KafkaUnavailableError, distribution
from tests.kafka.keeper import shared_broker
from tests.kafka.secured import add_scram_user, secured_broker

__all__ = ["project"]


def unavailable(error: KafkaUnavailableError) -> None:
    """Skip the test, or have it fail where a broker must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"CI tests with a real Kafka: {error}")
    pytest.skip(f"no real Kafka: {error}")


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka | KafkaUnavailableError]:
    """The broker of this test run, or why there is none."""
    named = os.environ.get("ENGINE_TEST_KAFKA")
    if named:
        yield Kafka(named)
        return
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Each worker has a folder of its own in the run's.
        folder = folder.parent
    with contextlib.ExitStack() as stack:
        found: Kafka | KafkaUnavailableError
        try:
            shared = folder / "kafka"
            shared.mkdir(exist_ok=True)
            found = Kafka(stack.enter_context(shared_broker(shared)))
        except KafkaUnavailableError as error:
            found = error
        yield found


@pytest.fixture
def kafka(real_kafka: Kafka | KafkaUnavailableError) -> Kafka:
    """A real broker, which other tests use too."""
    if isinstance(real_kafka, KafkaUnavailableError):
        unavailable(real_kafka)
    assert isinstance(real_kafka, Kafka)
    return real_kafka


@pytest.fixture(scope="session")
def mock_kafka() -> MockKafka:
    """The mock cluster of this process."""
    return MockKafka()


@pytest.fixture
def kafka_or_mock(
    real_kafka: Kafka | KafkaUnavailableError, request: pytest.FixtureRequest
) -> Kafka:
    """A real broker if there is one, or else the mock cluster."""
    if isinstance(real_kafka, Kafka):
        return real_kafka
    if os.environ.get("CI"):
        unavailable(real_kafka)
    mock: MockKafka = request.getfixturevalue("mock_kafka")
    return mock


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    """Wanted by tests and fixtures that start brokers themselves."""
    try:
        distribution()
    except KafkaUnavailableError as error:
        unavailable(error)


@pytest.fixture
def own_kafka(kafka_jars: None, tmp_path: Path) -> Iterator[Broker]:
    """A real broker of this test alone, which runs."""
    with Broker(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture(scope="module")
def secured_kafka(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real broker that wants to know who comes; in a process of its own for each module."""
    with secured_broker(tmp_path_factory.mktemp("secured") / "kafka") as broker:
        add_scram_user(broker)
        yield broker


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """The name of a topic that there isn't yet."""
    test: str = request.node.name
    return f"{re.sub('[^a-zA-Z0-9]+', '-', test)[:60]}-{secrets.token_hex(4)}"
