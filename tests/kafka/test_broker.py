"""The broker that the tests run does what they rely on."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.chaos.processes import alive
from tests.kafka.broker import Broker, free_ports
from tests.kafka.client import WAIT_S, Kafka, MockKafka
from tests.kafka.conftest import unavailable
from tests.kafka.distribution import KafkaUnavailableError
from tests.kafka.keeper import ROOT, shared_broker

MESSAGES = [(f"key{number % 3}", f"value {number}") for number in range(100)]


def values(kafka: Kafka, topic: str, isolation: str = "read_committed") -> list[bytes | None]:
    return [message.value() for message in kafka.read_all(topic, isolation)]


def test_what_is_written_can_be_read(kafka: Kafka, topic: str):
    """All of it, in order, with keys, in each partition."""
    kafka.create_topic(topic, partitions=2)
    kafka.produce(topic, MESSAGES, partition=0)
    kafka.produce(topic, MESSAGES[:10], partition=1)
    read = [(m.partition(), m.key().decode(), m.value().decode()) for m in kafka.read_all(topic)]
    assert read == [(0, *message) for message in MESSAGES] + [(1, *m) for m in MESSAGES[:10]]


def test_topics_change_while_a_run_reads(kafka: Kafka, topic: str):
    """They get more partitions, lose old records, and are deleted."""
    kafka.create_topic(topic, retention_ms=-1)
    kafka.produce(topic, MESSAGES)
    kafka.delete_records(topic, 0, before=90)
    assert len(values(kafka, topic)) == 10
    kafka.add_partitions(topic, 3)
    kafka.produce(topic, MESSAGES, partition=2)
    assert len(values(kafka, topic)) == 110
    kafka.delete_topic(topic)
    assert topic not in kafka.admin.list_topics(timeout=WAIT_S).topics


def test_what_was_aborted_is_not_seen(kafka: Kafka, topic: str):
    """A reader of what is committed sees neither an aborted transaction nor an open one."""
    kafka.create_topic(topic)
    producer = Producer({**kafka.config, "transactional.id": topic})
    producer.init_transactions(WAIT_S)
    for value, end in (
        ("aborted", producer.abort_transaction),
        ("committed", producer.commit_transaction),
        ("open", producer.flush),
    ):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(WAIT_S)
        end(WAIT_S)
    assert values(kafka, topic) == [b"committed"]
    assert values(kafka, topic, "read_uncommitted") == [b"aborted", b"committed", b"open"]
    producer.abort_transaction(WAIT_S)


def test_a_kill_loses_nothing(own_kafka: Broker, topic: str):
    """After `kill -9` it is at the same address with the same records, and goes on."""
    own_kafka.create_topic(topic)
    own_kafka.produce(topic, MESSAGES)
    address, pid = own_kafka.address, own_kafka.pid
    own_kafka.restart()
    assert not alive(pid)
    assert own_kafka.address == address
    own_kafka.produce(topic, MESSAGES)
    assert len(values(own_kafka, topic)) == 2 * len(MESSAGES)
    [segment] = own_kafka.segments(topic)
    assert b"value 99" in segment.read_bytes()


def test_processes_share_one(tmp_path: Path, kafka: Kafka):
    """Whoever comes while it is used gets the same; whoever comes later gets another."""
    with shared_broker(tmp_path) as first:
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            assert pool.map(_address_of, [tmp_path, tmp_path]) == [first, first]
            pool.close()
            pool.join()
        port = tmp_path / "port"
        assert port.exists()
    assert not port.exists()


def _address_of(folder: Path) -> str:
    with shared_broker(folder) as address:
        return address


def test_one_command_runs_a_broker_until_it_is_told_to_end(kafka: Kafka, topic: str):
    """It says where it listens, and leaves nothing behind."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "tests.kafka", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(2)]
        assert lines[1] == f"Apache Kafka listens at 127.0.0.1:{port}; Ctrl-C ends it\n"
        own = Kafka(f"127.0.0.1:{port}")
        own.create_topic(topic)
        own.produce(topic, MESSAGES)
        assert len(values(own, topic)) == len(MESSAGES)
        running.send_signal(signal.SIGINT)
        assert running.wait(WAIT_S) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_the_mock_cluster_takes_and_gives_messages(topic: str):
    """It is enough for tests of plumbing."""
    mock = MockKafka()
    mock.create_topic(topic)
    mock.produce(topic, MESSAGES)
    assert sorted(values(mock, topic)) == sorted(value.encode() for _, value in MESSAGES)


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_missing_broker_is_told(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
):
    """Tests are skipped with the reason, but CI has to have one."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="there is no Java here"):
        unavailable(KafkaUnavailableError("there is no Java here"))
