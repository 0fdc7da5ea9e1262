"""What a user reads who runs a flow with Kafka, and something is not as it should be."""

from __future__ import annotations

import pytest

from tests.cli.project import Outcome, Project
from tests.kafka.client import Kafka

FLOW = """\
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource

def reading(address, topic, **options):
    flow = Dataflow("f")
    s = op.input("in", flow, KafkaSource([address], [topic], **options))
    op.output("out", op.map("text", s, lambda m: m.value.decode()), StdOutSink())
    return flow

def writing(address, topic, size, delivery):
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource([KafkaSinkMessage("k", b"x" * size)]))
    op.output("out", s, KafkaSink([address], topic, delivery=delivery))
    return flow
"""
SHORT = ["--source-timeout", "2s"]
NOBODY = "127.0.0.1:1"
LIBRARY = ("Traceback", "rdkafka#", "%3|", "%4|", "confluent_kafka", "KafkaException")
"""What is of no use to those who read it."""


def run(project: Project, call: str, *options: str) -> Outcome:
    """Run a flow to its end."""
    project.write("flows.py", FLOW)
    return project.start(f"flows:{call}", *options).ended()


def block(ended: Outcome) -> str:
    """The error of a run that has failed, which says all that is to be said."""
    assert ended.code == 1
    assert not any(said in ended.err for said in LIBRARY), ended.err
    _, found, error = ended.err.partition("error: ")
    assert found, ended.err
    return error


@pytest.mark.parametrize("kind", ["reading", "at-least-once", "exactly-once"])
def test_a_topic_that_is_not_there(kafka: Kafka, topic: str, project: Project, kind: str):
    """Names that are near are said."""
    kafka.create_topic(topic)
    wrong = topic[:-1]
    call = f"writing({kafka.address!r}, {wrong!r}, 1, {kind!r})"
    if kind == "reading":
        call = f"reading({kafka.address!r}, {wrong!r})"
    error = block(run(project, call, "-r", "store"))
    assert f"there is no topic '{wrong}' at the brokers: did you mean '{topic}'" in error


def test_no_broker(project: Project):
    """It is told at once, asked again for as long as is allowed, and no longer."""
    ended = run(project, f"reading({NOBODY!r}, 't')", *SHORT)
    error = block(ended)
    assert ended.err.startswith("info: step 'f.in' (the list of its partitions) can't be reached: ")
    assert f"{NOBODY}/bootstrap: Connect to ipv4#{NOBODY} failed: Connection refused" in error
    assert "hint:   wait longer with --source-timeout" in error


def test_messages_that_are_gone(kafka: Kafka, topic: str, project: Project):
    """Nothing is passed over until the user says so; then it is told."""
    kafka.create_topic(topic)
    kafka.produce(topic, [("k", str(n)) for n in range(10)])
    call = f"reading({kafka.address!r}, {topic!r}, tail=False)"
    assert run(project, call, "-r", "store").code == 0
    kafka.produce(topic, [("k", str(n)) for n in range(10, 30)])
    kafka.delete_records(topic, 0, 20)
    error = block(run(project, call, "-r", "store"))
    assert f"partition 0 of topic '{topic}' can't be read on at offset 10: it has 20 to 30" in error
    assert "10 messages are gone" in error
    assert "give on_lost_offset='earliest' or 'latest'" in error
    call = call.replace("tail=False", "tail=False, on_lost_offset='earliest'")
    ended = run(project, call, "-r", "store")
    assert (ended.code, ended.out.split()) == (0, [str(n) for n in range(20, 30)])
    assert "10 messages are gone" in ended.err


def test_a_topic_made_anew_with_fewer_partitions(kafka: Kafka, topic: str, project: Project):
    """The position of a partition that there isn't any more is not dropped silently."""
    kafka.create_topic(topic, 3)
    for partition in range(3):
        kafka.produce(topic, [("k", "old")], partition=partition)
    call = f"reading({kafka.address!r}, {topic!r}, tail=False)"
    assert run(project, call, "-r", "store").code == 0
    kafka.delete_topic(topic)
    kafka.create_topic(topic, 2)
    ended = run(project, call, "-r", "store")
    assert f"source 'f.in' has no partition '2-{topic}' any more" in block(ended)
    assert "python -m engine.recovery drop-step store f.in" in ended.err
    assert ended.out == ""


def test_a_topic_that_is_deleted_while_it_is_read(kafka: Kafka, topic: str, project: Project):
    """The library says nothing about it; the job does not wait for ever."""
    kafka.create_topic(topic)
    kafka.produce(topic, [("k", "v")])
    project.write("flows.py", FLOW)
    running = project.start(f"flows:reading({kafka.address!r}, {topic!r})")
    assert running.line() == "v"
    kafka.delete_topic(topic)
    assert f"there is no topic '{topic}' any more: it was deleted" in block(running.ended())


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_a_message_that_is_too_large(kafka: Kafka, topic: str, project: Project, delivery: str):
    """Which one, and which settings to raise."""
    kafka.create_topic(topic)
    call = f"writing({kafka.address!r}, {topic!r}, 2_000_000, {delivery!r})"
    error = block(run(project, call, "-r", "store"))
    assert "too large" in error
    assert "key 'k', value b'xxx" in error
    assert "raise message.max.bytes in add_config and max.message.bytes of the topic" in error
