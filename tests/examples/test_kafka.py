"""The examples of Kafka keep their words: what they write is what a computation of ours says.

It is made of the numbers of the readings alone, without Kafka and without the engine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import statistics as expect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from engine.testing import run_main
from examples import kafka_avro, kafka_replay, kafka_statistics, kafka_tools
from examples.kafka_tools import FIRST, create_topics, event
from tests.examples.running import completed, run
from tests.kafka.client import Kafka
from tests.tidy.tree import ROOT

WAIT_S = 120.0
COMMAND = re.compile(r"^    python (.*)$", re.MULTILINE)
[PRODUCE, RUN, CHECK] = COMMAND.findall(kafka_statistics.__doc__ or "")


def readings(count: int) -> dict[str, list[float]]:
    """What each sensor says in the first so many events."""
    said: dict[str, list[float]] = {}
    for number in range(count):
        sensor, _, content = event(number)
        said.setdefault(sensor, []).append(content["celsius"])
    return said


def close(told: dict[str, Any], said: list[float]) -> bool:
    """Whether a statistic is that of these readings."""
    return (told["count"], told["max"]) == (len(said), max(said)) and told["mean"] == pytest.approx(
        expect.fmean(said), abs=0.0006
    )


@pytest.fixture
def environ(kafka: Kafka, topic: str) -> dict[str, str]:
    """What tells the examples where the test's broker and topics are."""
    return {
        "KAFKA_BROKERS": kafka.address,
        "KAFKA_READINGS": f"{topic}-in",
        "KAFKA_STATISTICS": f"{topic}-out",
    }


@pytest.mark.parametrize("example", ["kafka_quickstart", "kafka_avro"])
def test_what_needs_no_broker_prints_the_last_statistics(example: str):
    """One command, and they are those of a thousand readings, in order of the sensors' names."""
    lines = run("-m", f"examples.{example}").splitlines()
    printed = [line.split(": ", 1) for line in lines]
    said = readings(1000)
    assert [sensor for sensor, _ in printed] == sorted(said)
    for sensor, told in printed:
        assert close(json.loads(told.replace("'", '"')), said[sensor]), (sensor, told)


class Running:
    """The example at work, until it is told to end."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.errors = folder / "errors.txt"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *shlex.split(RUN.replace("-s 1s", "-s 50ms"))],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def until(self, kafka: Kafka, topic: str, count: int) -> None:
        """Wait until a topic has so many messages."""
        consumer, seen, until_s = kafka.consumer(topic), 0, time.monotonic() + WAIT_S
        while seen < count:
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until_s, f"{seen} messages only: {self.errors.read_text()}"
            seen += sum(message.error() is None for message in consumer.consume(1000, 0.05))
        consumer.close()

    def end(self, how: signal.Signals) -> int:
        """End it; gives the exit code."""
        self.process.send_signal(how)
        return self.process.wait(WAIT_S)


def test_statistics_are_exact_though_the_run_is_killed(
    kafka: Kafka, topic: str, environ: dict[str, str], tmp_path: Path
):
    """Its own three commands, with a `kill -9` between: each statistic is there, once, in order."""
    count = 100_000
    wrote = run(*shlex.split(PRODUCE), **environ)
    assert wrote == f"wrote {count} readings to topic '{topic}-in'\n"
    running = Running(tmp_path, environ)
    running.until(kafka, f"{topic}-out", 1)
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    assert 0 < len(kafka.read_all(f"{topic}-out")) < count

    running = Running(tmp_path, environ)
    running.until(kafka, f"{topic}-out", count)
    assert running.end(signal.SIGINT) == 128 + signal.SIGINT
    said = readings(count)
    found: dict[str, list[Any]] = {}
    for message in kafka.read_all(f"{topic}-out"):
        found.setdefault(message.key().decode(), []).append(json.loads(message.value()))
    assert found.keys() == said.keys()
    for sensor, told in found.items():
        assert [one["count"] for one in told] == list(range(1, len(said[sensor]) + 1))
        for place in (0, 1, len(told) // 3, len(told) - 1):
            assert close(told[place], said[sensor][: place + 1])

    checked = run(*shlex.split(CHECK), **environ).splitlines()
    assert len(checked) == len(said)
    assert all(": right, {" in line for line in checked)
    # What the README shows is the beginning of it.
    assert "\n".join(checked[:2]) in ROOT.joinpath("README.md").read_text(encoding="utf-8")


def test_the_check_sees_what_is_missing_wrong_or_double(
    kafka: Kafka, topic: str, environ: dict[str, str]
):
    """It is no witness if it says yes to everything."""
    create_topics(kafka.address, f"{topic}-in", f"{topic}-out")
    kafka_tools.produce(kafka.address, f"{topic}-in", 24)
    said = kafka_tools.by_key(iter(kafka.read_all(f"{topic}-in")))
    told = {sensor: kafka_tools.expected(own) for sensor, own in said.items()}
    told["attic"].pop()
    told["bath"][1]["mean"] += 1
    told["cellar"].append(told["cellar"][-1])
    told["garden"].clear()
    for sensor, own in told.items():
        kafka.produce(f"{topic}-out", [(sensor, json.dumps(one)) for one in own])
    checked = completed(*shlex.split(CHECK), **environ)
    assert checked.returncode == 1
    attic, bath, cellar, garden, *others = checked.stdout.splitlines()
    assert attic == "attic: 3 readings, 2 statistics: right so far"
    assert bath == "bath: 3 readings, 3 statistics: wrong from number 2 on"
    assert cellar == "cellar: 3 readings, 4 statistics: wrong from number 4 on"
    assert garden == "garden: 3 readings, 0 statistics: right so far"
    assert all(": right, {" in line for line in others)


def test_a_topic_that_is_not_there_is_told(topic: str, kafka: Kafka):
    """In one line."""
    done = completed("-m", "examples.kafka_tools", "read", topic, KAFKA_BROKERS=kafka.address)
    assert done.returncode == 1
    assert done.stderr == f"there is no topic '{topic}' at {kafka.address}\n"


def test_a_span_of_the_past_is_read_and_no_more(kafka: Kafka, topic: str, environ: dict[str, str]):
    """The commands of its docstring print what the readings of these times come to."""
    count = 50_000
    create_topics(kafka.address, f"{topic}-in")
    kafka_tools.produce(kafka.address, f"{topic}-in", count)
    [_, hours, minutes] = COMMAND.findall(kafka_replay.__doc__ or "")
    for command, seconds in ((hours, range(21_600, 43_200)), (minutes, range(21_600, 21_900))):
        said: dict[str, list[float]] = {}
        for number in seconds:
            sensor, when, content = event(number)
            assert (when - FIRST).total_seconds() == number
            said.setdefault(sensor, []).append(content["celsius"])
        assert sorted(run(*shlex.split(command), **environ).splitlines()) == [
            f"{sensor}: {len(own)} readings, mean {expect.fmean(own):.2f}, maximum {max(own):.2f}"
            for sensor, own in sorted(said.items())
        ]


def test_avro_works_exactly_once_on_a_real_broker(kafka: Kafka, topic: str):
    """The same flow, with its schemas in a registry of this test."""
    ends = {"readings": f"{topic}-in", "to": f"{topic}-out"}
    create_topics(kafka.address, *ends.values())
    registry = kafka_avro.registry_at(f"mock://{topic}")
    kafka_avro.produce(kafka.address, registry, 1000, ends["readings"])
    run_main(kafka_avro.statistics([kafka.address], registry, tail=False, **ends))
    assert len(kafka.read_all(ends["to"])) == 1000
    told = kafka_avro.last_of_each(kafka.address, registry, ends["to"])
    said = readings(1000)
    assert told.keys() == said.keys()
    assert all(close(told[sensor], said[sensor]) for sensor in said)


def test_a_reading_that_is_none_ends_the_run_and_is_shown(
    kafka: Kafka, topic: str, environ: dict[str, str], tmp_path: Path
):
    """The report names topic, partition, offset and what was wrong."""
    create_topics(kafka.address, f"{topic}-in", f"{topic}-out")
    producer = Producer({"bootstrap.servers": kafka.address})
    producer.produce(f"{topic}-in", '{"sensor": "attic", "celsius": "warm"}', partition=0)
    producer.flush()
    done = completed(*shlex.split(RUN), cwd=tmp_path, **environ)
    assert done.returncode == 1
    assert (
        f"the value of the message at offset 0 of partition 0 of topic '{topic}-in' can't be "
        "deserialized: ValidationError: Expected `float`, got `str` - at `$.celsius`"
    ) in done.stderr
