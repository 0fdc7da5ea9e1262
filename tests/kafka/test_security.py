"""Passwords, tokens and certificates reach every client, and refusals are told at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from confluent_kafka import KafkaError
from confluent_kafka.admin import ResourceType

from engine.connectors import PENDING, SinkSession
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from engine.connectors.kafka._client import Trouble
from engine.errors import ConnectorError
from tests.cli.project import Project
from tests.kafka.broker import Broker
from tests.kafka.client import committed_offset
from tests.kafka.secured import (
    MECHANISMS,
    keep_for_somebody_else,
    sasl_config,
    tls_config,
    unsigned_token,
)

WAIT_S = 60.0
AT_ONCE_S = 8.0
"""Less than the ten seconds after which the library gives up, and much less than our own minute."""
WAYS = [*MECHANISMS, "oauth_cb", "TLS"]
BOTH = ["at-least-once", "exactly-once"]
EACH = ["source", *BOTH]
Config = dict[str, Any]


def way_in(broker: Broker, way: str) -> tuple[list[str], Config]:
    """Addresses and `add_config` for one of the ways."""
    if way == "TLS":
        config = tls_config(broker)
    elif way == "oauth_cb":
        config = sasl_config(broker, "PLAIN")
        del config["sasl.username"], config["sasl.password"]
        config |= {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": lambda _: unsigned_token(300)}
    else:
        config = sasl_config(broker, way)
    return [config.pop("bootstrap.servers")], config


def until(done: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until_s, "it does not happen"
        time.sleep(0.001)


def read(brokers: list[str], config: Config, topic: str) -> list[Any]:
    """All of a topic by a source, which also commits."""
    source = KafkaSource(brokers, [topic], tail=False, add_config=config)
    part: Any = source.build_part("flow.in", *source.list_parts(), None)
    items: list[Any] = []

    def ended() -> bool:
        try:
            items.extend(part.next_batch())
        except StopIteration:
            return True
        return False

    until(ended)
    part.on_commit(part.snapshot())
    part.close()
    return [item.value for item in items]


def open_sink(brokers: list[str], config: Config, topic: str, delivery: Any) -> Any:
    part: Any = KafkaSink(brokers, topic, config, delivery=delivery).build("flow.out", 0, 1)
    part.begin(SinkSession(topic, 1, "flow.out", "worker-0"))
    return part


def write(part: Any, epoch: int, *values: str) -> None:
    """A whole epoch."""
    part.write_batch([KafkaSinkMessage("k", value) for value in values])
    until(lambda: part.flush() is not PENDING)
    rows = part.prepare(epoch)
    until(lambda: part.publish(epoch, rows) is not PENDING)


def open_one(each: str, brokers: list[str], config: Config, topic: str) -> None:
    """Do what a flow does before it begins."""
    if each == "source":
        read(brokers, config, topic)
    else:
        open_sink(brokers, config, topic, each).close()


def use(each: str, brokers: list[str], config: Config, topic: str) -> None:
    """Do what a flow does first."""
    if each == "source":
        read(brokers, config, topic)
    else:
        write(open_sink(brokers, config, topic, each), 1, "v")


@pytest.mark.parametrize("way", WAYS)
def test_every_client_comes_in_by_each_way(secured_kafka: Broker, topic: str, way: str):
    """The source's three, those of both sinks, and the group's offsets are committed."""
    brokers, config = way_in(secured_kafka, way)
    secured_kafka.create_topic(topic)
    for epoch, delivery in enumerate(BOTH, 1):
        part = open_sink(brokers, config, topic, delivery)
        write(part, epoch, delivery)
        part.close()
    group = f"{topic}-group"
    assert read(brokers, {**config, "group.id": group}, topic) == [b.encode() for b in BOTH]
    # The mark of the transaction's end is an offset too.
    assert committed_offset(secured_kafka.reader_of_group(group), topic) == 3


def refused(broker: Broker, why: str, folder: Any) -> tuple[list[str], Config, str]:
    """Addresses, settings that are refused for a reason, and what is said of it."""
    if why in {"PLAIN", "SCRAM-SHA-256"}:
        config = sasl_config(broker, why, "guessed-secret")
        said = "do not let us in: .*127.0.0.1.*uthentication failed"
    elif why == "no such mechanism":
        config = {**sasl_config(broker, "PLAIN"), "sasl.mechanism": "SCRAM-SHA-512"}
        said = "do not let us in: .*supported mechanisms: PLAIN,SCRAM-SHA-256,OAUTHBEARER"
    elif why == "wrong authority":
        trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
        config = {**tls_config(broker), "ssl.ca.location": str(folder / "other.pem")}
        said = "do not let us in: .*certificate verify failed"
    elif why == "no certificate":
        config = {n: v for n, v in tls_config(broker).items() if "certificate" not in n}
        del config["ssl.key.location"]
        said = "do not let us in: .*alert bad certificate"
    elif why == "no TLS there":
        config = {**tls_config(broker), "bootstrap.servers": broker.address}
        said = "do not let us in: .*connecting to a PLAINTEXT broker"
    else:
        _, config = way_in(broker, "oauth_cb")
        config["bootstrap.servers"] = broker.address_of("SASL")
        # The client takes it for a good one; only the broker knows better.
        config["oauth_cb"] = lambda _: unsigned_token(-60, until_s=time.time() + 300)
        said = "do not let us in: .*invalid_token"
    return [config.pop("bootstrap.servers")], config, said


REASONS = ["PLAIN", "SCRAM-SHA-256", "no such mechanism", "wrong authority", "no certificate",
           "no TLS there", "token that is over"]  # fmt: skip


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize("why", REASONS)
def test_a_refusal_is_told_at_once(
    secured_kafka: Broker, topic: str, why: str, each: str, tmp_path: Any
):
    """To go on asking would be of no use; where, why and what to look at are said, no password."""
    brokers, config, said = refused(secured_kafka, why, tmp_path)
    secured_kafka.create_topic(topic)
    began_s = time.monotonic()
    with pytest.raises(ConnectorError, match=f"(?s){said}.*look at .*add_config") as caught:
        open_one(each, brokers, config, topic)
    assert time.monotonic() - began_s < AT_ONCE_S
    assert "guessed-secret" not in str(caught.value)


def test_a_connection_that_ends_after_a_refusal_does_not_hide_it():
    """A broker without TLS ends every second connection without a word."""
    refusal = KafkaError(KafkaError._SSL, "connecting to a PLAINTEXT broker listener?")
    ended = KafkaError(KafkaError._TRANSPORT, "Disconnected: SSL connection closed by peer")
    trouble = Trouble()
    for error in (ended, refusal, ended):
        trouble(error)
    assert "PLAINTEXT" in str(trouble.unanswered(ended))
    trouble.let_in = True
    trouble(ended)
    assert "PLAINTEXT" not in str(trouble.unanswered(ended))


@pytest.mark.parametrize("each", EACH)
def test_an_oauth_cb_that_fails_is_told_at_once(secured_kafka: Broker, topic: str, each: str):
    """With what it has raised."""
    brokers, config = way_in(secured_kafka, "oauth_cb")

    def fail(_: object) -> Any:
        msg = "the token server is on holiday"
        raise OSError(msg)

    began_s = time.monotonic()
    with pytest.raises(ConnectorError, match="oauth_cb gives no token: OSError: .* on holiday"):
        open_one(each, brokers, {**config, "oauth_cb": fail}, topic)
    assert time.monotonic() - began_s < AT_ONCE_S


@pytest.mark.parametrize("see", [False, True], ids=["hidden", "seen"])
@pytest.mark.parametrize("each", EACH)
def test_a_topic_that_is_not_ours_is_told_at_once(
    secured_kafka: Broker, topic: str, each: str, see: bool
):
    """It is not said to be missing, and not waited for, whether we may know that it is there."""
    brokers, config = way_in(secured_kafka, "PLAIN")
    secured_kafka.create_topic(topic)
    keep_for_somebody_else(secured_kafka, ResourceType.TOPIC, topic, see=see)
    began_s = time.monotonic()
    with pytest.raises(ConnectorError, match=f"topic '{topic}'.*TOPIC_AUTHORIZATION_FAILED"):
        use(each, brokers, config, topic)
    assert time.monotonic() - began_s < AT_ONCE_S


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (ResourceType.GROUP, "GROUP_AUTHORIZATION_FAILED"),
        (ResourceType.TRANSACTIONAL_ID, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"),
    ],
    ids=["group", "transactional id"],
)
def test_what_exactly_once_needs_besides_topics_is_told_at_once(
    secured_kafka: Broker, topic: str, kind: ResourceType, said: str
):
    """It names the id, by which somebody can give the permission."""
    brokers, config = way_in(secured_kafka, "PLAIN")
    secured_kafka.create_topic(topic)
    keep_for_somebody_else(secured_kafka, kind, f"engine-{topic}", see=False)
    began_s = time.monotonic()
    with pytest.raises(ConnectorError, match=f"transactional id 'engine-{topic}.*{said}"):
        open_sink(brokers, config, topic, "exactly-once")
    assert time.monotonic() - began_s < AT_ONCE_S


FLOW = """\
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource

def reading(address, topic, config):
    flow = Dataflow("f")
    s = op.input("in", flow, KafkaSource([address], [topic], tail=False, add_config=config))
    op.output("out", op.map("text", s, str), StdOutSink())
    return flow

def writing(address, topic, config, delivery):
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource([KafkaSinkMessage("k", "v")]))
    op.output("out", s, KafkaSink([address], topic, config, delivery=delivery))
    return flow
"""


@pytest.mark.parametrize("each", EACH)
def test_the_command_line_says_no_more_than_is_of_use(
    secured_kafka: Broker, topic: str, project: Project, each: str
):
    """One block: no traceback, no line of the library's own, no password."""
    brokers, config, said = refused(secured_kafka, "PLAIN", None)
    secured_kafka.create_topic(topic)
    project.write("flows.py", FLOW)
    more, step = ("", "in") if each == "source" else (f", {each!r}", "out")
    call = f"{'reading' if not more else 'writing'}({brokers[0]!r}, {topic!r}, {config!r}{more})"
    recovery = ["-r", "store"] if each == "exactly-once" else []
    ended = project.start(f"flows:{call}", *recovery).ended()
    assert ended.code == 1
    doing = "listing its partitions" if each == "source" else "opening its sink"
    *_, first, last = ended.err.splitlines()
    assert first.startswith(f"error: step 'f.{step}' failed while {doing}: the brokers do not let")
    assert first.endswith("look at security.protocol, sasl.* and ssl.* in add_config")
    assert last == "  (run with --verbose for all frames)"
    for unwanted in ("guessed-secret", "Traceback", "%3|", "rdkafka#", "confluent_kafka"):
        assert unwanted not in ended.err
    assert said
