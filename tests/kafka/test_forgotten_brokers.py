"""What a broker says of its cluster is not always of use: clients must get over it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.connectors import PENDING
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage
from tests.kafka.broker import Broker
from tests.kafka.client import WAIT_S
from tests.kafka.lossy import ForgetfulProxy

ASKS_OFTEN = {"topic.metadata.refresh.interval.ms": 100}
ANSWERS = 5
"""More than the sink has clients: whoever gets one such answer has to ask again."""


def until(done: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until_s, what
        time.sleep(0.001)


@pytest.mark.usefixtures("kafka_jars")
def test_an_answer_that_names_no_broker_does_not_stop_a_sink(topic: str, tmp_path: Path):
    """It goes on with the same producer when there are brokers again."""
    broker = Broker(tmp_path / "kafka", listeners={"PROXIED": "PLAINTEXT"})
    proxy = ForgetfulProxy(broker.ports["PROXIED"])
    broker.advertise("PROXIED", proxy.port)
    with broker, contextlib.closing(proxy):
        broker.create_topic(topic)
        sink: Any = KafkaSink([f"127.0.0.1:{proxy.port}"], topic, ASKS_OFTEN).build("s", 0, 1)

        def write(value: bytes) -> None:
            sink.write_batch([KafkaSinkMessage("k", value)])
            until(lambda: sink.flush() is not PENDING, "the sink is stuck")

        write(b"before")
        proxy.forgets = True
        until(lambda: proxy.forgot >= ANSWERS, "it asks nobody any more")
        proxy.forgets = False
        write(b"after")
        assert [message.value() for message in broker.read_all(topic)] == [b"before", b"after"]
        sink.close()
