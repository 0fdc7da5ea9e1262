"""`KafkaSink` on a real broker: what arrives, who is fenced, what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from engine.connectors import PENDING, FencedError, SinkSession
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSourceMessage
from engine.connectors.kafka._transactions import Publisher
from engine.errors import ConnectorError
from tests.kafka.broker import Broker
from tests.kafka.client import Kafka

WAIT_S = 60.0
Delivery = Any
BOTH = ["at-least-once", "exactly-once"]


def until_done(ask: Callable[[], Any]) -> None:
    """Ask as the runtime does, until the answer isn't `PENDING` any more."""
    until_s = time.monotonic() + WAIT_S
    while ask() is PENDING:
        assert time.monotonic() < until_s, "pending for ever"
        time.sleep(0.001)


def session(generation: int = 1, shard: str = "worker-0") -> SinkSession:
    return SinkSession("store", generation, "flow.out", shard)


def opened(
    kafka: Kafka, topic: str | None, delivery: Delivery, generation: int = 1, **options: Any
) -> Any:
    part: Any = KafkaSink([kafka.address], topic, delivery=delivery, **options).build("s", 0, 1)
    # The name of a topic is new in each test, which the id of a store is not.
    part.begin(SinkSession(str(topic), generation, "flow.out", "worker-0"))
    return part


def write(part: Any, epoch: int, messages: list[Any]) -> None:
    """One whole epoch."""
    part.write_batch(messages)
    until_done(part.flush)
    rows = part.prepare(epoch)
    until_done(lambda: part.publish(epoch, rows))


def values(kafka: Kafka, topic: str, isolation: str = "read_committed") -> list[Any]:
    return [message.value() for message in kafka.read_all(topic, isolation)]


@pytest.mark.parametrize("delivery", BOTH)
def test_all_of_a_message_arrives(kafka: Kafka, topic: str, delivery: Delivery):
    """Key, value, headers, partition and timestamp, and what of it may be missing."""
    kafka.create_topic(topic, 3)
    part = opened(kafka, topic, delivery)
    headers = [("a", b"1"), ("a", b"2"), ("none", None)]
    write(
        part,
        1,
        [
            KafkaSinkMessage(b"key", b"value", partition=2, timestamp=1234, headers=headers),
            KafkaSinkMessage("text", "text", partition=0),
            KafkaSinkMessage(None, None, partition=1),
            KafkaSinkMessage(b"", b"", partition=1),
        ],
    )
    part.close()
    text, none, empty, full = kafka.read_all(topic)
    assert (full.key(), full.value(), full.partition()) == (b"key", b"value", 2)
    assert full.headers() == headers
    assert full.timestamp() == (1, 1234)
    assert (text.key(), text.value(), text.headers()) == (b"text", b"text", None)
    assert abs(text.timestamp()[1] / 1000 - time.time()) < WAIT_S
    assert (none.key(), none.value()) == (None, None)
    assert (empty.key(), empty.value()) == (b"", b"")


@pytest.mark.parametrize("delivery", BOTH)
def test_messages_of_a_key_stay_in_order(kafka: Kafka, topic: str, delivery: Delivery):
    """Each key has one partition, and its messages come there as they were written."""
    kafka.create_topic(topic, 3)
    part = opened(kafka, topic, delivery)
    for epoch in (1, 2):
        batch = [
            KafkaSinkMessage(str(n % 7), str(n)) for n in range(epoch * 1000, 1000 + epoch * 1000)
        ]
        write(part, epoch, batch)
    part.close()
    seen: dict[bytes, list[int]] = {}
    places: dict[bytes, set[int]] = {}
    for message in kafka.read_all(topic):
        seen.setdefault(message.key(), []).append(int(message.value()))
        places.setdefault(message.key(), set()).add(message.partition())
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sorted(n for numbers in seen.values() for n in numbers) == list(range(1000, 3000))
    assert all(len(numbers) == 1 for numbers in places.values())


@pytest.mark.parametrize("delivery", BOTH)
def test_a_message_may_name_its_topic(kafka: Kafka, topic: str, delivery: Delivery):
    """That goes before the topic of the sink, which then need not have one."""
    other = kafka.create_topic(f"{topic}-other")
    kafka.create_topic(topic)
    part = opened(kafka, topic, delivery)
    write(part, 1, [KafkaSinkMessage("k", "own"), KafkaSinkMessage("k", "other", topic=other)])
    part.close()
    without = opened(
        kafka, None, delivery, **({} if delivery == BOTH[0] else {"marker_topic": topic})
    )
    write(without, 1, [KafkaSinkMessage("k", "more", topic=other)])
    with pytest.raises(ConnectorError, match="no topic of its own, and this message names none"):
        write(without, 2, [KafkaSinkMessage("k", "whither?")])
    without.close()
    assert values(kafka, topic) == [b"own"]
    assert values(kafka, other) == [b"other", b"more"]


@pytest.mark.parametrize("delivery", BOTH)
@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (KafkaSinkMessage(1, b""), "the key .* must be bytes, text or None; got int"),
        (KafkaSinkMessage("a", {"x": 1}), "the value .* got dict .*serialize_value"),
        (KafkaSinkMessage("a", "b", partition=7), "(?i)partition"),
        (KafkaSinkMessage("a", b"x" * 2_000_000), "(?i)too large"),
        (KafkaSinkMessage("a", "b", headers=[("x", 1)]), "a header must be a pair"),  # type: ignore[list-item]
        (KafkaSourceMessage(b"a", b"b"), "takes KafkaSinkMessage; got KafkaSourceMessage"),
        (("a", "b"), "takes KafkaSinkMessage; got tuple"),
    ],
    ids=["key", "value", "partition", "size", "headers", "source message", "tuple"],
)  # fmt: skip
def test_what_can_not_be_written_is_refused_at_once(
    kafka: Kafka, topic: str, delivery: Delivery, message: Any, complaint: str
):
    """While the epoch can still be given up, and with the message in the error."""
    kafka.create_topic(topic)
    part = opened(kafka, topic, delivery)
    with pytest.raises(ConnectorError, match=complaint):
        part.write_batch([message])
    part.close()


def test_the_size_that_a_topic_allows_is_known_before_the_epoch_is_durable(
    kafka: Kafka, topic: str
):
    """Its setting counts, too: only the brokers would find out, and that too late."""
    kafka.create_topic(topic, max_message_bytes=5000)
    part = opened(kafka, topic, "exactly-once")
    part.write_batch([KafkaSinkMessage("k", b"x" * 4000)])
    with pytest.raises(ConnectorError, match="too large for topic .*max.message.bytes"):
        part.write_batch([KafkaSinkMessage("k", b"x" * 5000)])
    part.close()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (KafkaSinkMessage("k", "v", timestamp=1.5e12), "whole milliseconds; got 15"),  # type: ignore[arg-type]
        (KafkaSinkMessage("k", "v", timestamp=2**63), "whole milliseconds"),
        (KafkaSinkMessage("k", "v", timestamp=-1), "whole milliseconds"),
        (KafkaSinkMessage("k", "v", timestamp=10**15), "further from now than topic"),
        (KafkaSinkMessage("k", "v", partition=-5), "must be a number from 0; got -5"),
        (KafkaSinkMessage("k", "v", partition=0.0), "must be a number from 0; got 0.0"),  # type: ignore[arg-type]
        (KafkaSinkMessage(None, "v"), "is compacted, so it must have a key"),
    ],
    ids=["float", "too late", "negative", "microseconds", "partition", "no number", "no key"],
)
def test_what_the_brokers_would_refuse_is_refused_before_it_is_durable(
    kafka: Kafka, topic: str, message: Any, complaint: str
):
    """An epoch that can't be published would stop every later run."""
    kafka.create_topic(topic, cleanup_policy="compact")
    part = opened(kafka, topic, "exactly-once")
    with pytest.raises(ConnectorError, match=complaint):
        part.write_batch([message])
    part.close()


@pytest.mark.parametrize("delivery", BOTH)
def test_batches_are_as_small_as_the_topic_wants_them(kafka: Kafka, topic: str, delivery: Delivery):
    """Many small messages are one large one to a broker."""
    kafka.create_topic(topic, max_message_bytes=100_000)
    part = opened(kafka, topic, delivery)
    write(part, 1, [KafkaSinkMessage("k", b"x" * 1000) for _ in range(1000)])
    part.close()
    assert len(values(kafka, topic)) == 1000


def test_partitions_that_are_added_are_known(kafka: Kafka, topic: str):
    """Before a message for one is refused the brokers are asked once more."""
    kafka.create_topic(topic)
    part = opened(kafka, topic, "exactly-once")
    kafka.add_partitions(topic, 2)
    write(part, 1, [KafkaSinkMessage("k", "v", partition=1)])
    part.close()
    assert values(kafka, topic) == [b"v"]


def test_a_transaction_that_the_broker_gave_up_is_made_anew(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """The broker fences a producer that took too long; nobody else has taken over."""
    kafka.create_topic(topic)
    part = opened(kafka, topic, "exactly-once", add_config={"transaction.timeout.ms": 1000})
    part.write_batch([KafkaSinkMessage("k", "v")])
    rows = part.prepare(1)
    produce, slow = Publisher._produce, iter([True])

    def dawdle(self: Publisher, row: bytes, timeout_s: float) -> None:
        produce(self, row, timeout_s)
        if next(slow, False):
            self._producer.flush(WAIT_S)
            gone = kafka.wait_for_aborted(topic)
            assert gone

    monkeypatch.setattr(Publisher, "_produce", dawdle)
    until_done(lambda: part.publish(1, rows))
    part.close()
    assert values(kafka, topic) == [b"v"]


def test_an_undelivered_message_ends_the_epoch(kafka: Kafka, topic: str):
    """What only the brokers refuse does not pass by: the flush fails."""
    kafka.create_topic(topic, max_message_bytes=5000)
    part = opened(kafka, topic, "at-least-once")
    part.write_batch([KafkaSinkMessage("k", b"x" * 10_000)])
    with pytest.raises(ConnectorError, match="was not delivered: .*MSG_SIZE_TOO_LARGE.*key b'k'"):
        until_done(part.flush)
    part.close()


@pytest.mark.parametrize("delivery", BOTH)
def test_topics_and_brokers_that_are_not_there_are_named(
    kafka: Kafka, topic: str, delivery: Delivery
):
    """With the names that are near, and with the reason why there is no connection."""
    kafka.create_topic(topic)
    short = timedelta(seconds=2)
    with pytest.raises(ConnectorError, match=f"no topic '{topic}s' .*did you mean '{topic}'"):
        KafkaSink([kafka.address], f"{topic}s", delivery=delivery).build("s", 0, 1)
    with pytest.raises(ConnectorError, match="127.0.0.1:1 within 2 s.*Connection refused"):
        KafkaSink(["127.0.0.1:1"], topic, delivery=delivery, timeout=short).build("s", 0, 1)
    with pytest.raises(ConnectorError, match='No such configuration property: "lingr.ms"'):
        KafkaSink([kafka.address], topic, {"lingr.ms": 1}, delivery=delivery).build("s", 0, 1)


def test_nothing_is_visible_before_it_is_published(kafka: Kafka, topic: str):
    """Not even to those who read what isn't committed: it isn't at the brokers."""
    kafka.create_topic(topic)
    part = opened(kafka, topic, "exactly-once")
    part.write_batch([KafkaSinkMessage("k", "v")])
    until_done(part.flush)
    rows = part.prepare(1)
    assert values(kafka, topic, "read_uncommitted") == []
    until_done(lambda: part.publish(1, rows))
    part.close()
    assert values(kafka, topic) == [b"v"]


def test_an_epoch_that_is_out_is_not_written_again(kafka: Kafka, topic: str):
    """The marker tells the next run, which asks for it or is asked to publish all the same."""
    kafka.create_topic(topic)
    part = opened(kafka, topic, "exactly-once")
    assert part.published() == 0
    part.write_batch([KafkaSinkMessage("k", "v")])
    rows = part.prepare(1)
    until_done(lambda: part.publish(1, rows))
    next_run = opened(kafka, topic, "exactly-once", 2)
    assert next_run.published() == 1
    until_done(lambda: next_run.publish(1, rows))
    until_done(lambda: next_run.publish(2, []))
    assert opened(kafka, topic, "exactly-once", 3).published() == 2
    assert values(kafka, topic) == [b"v"]


def test_an_epoch_that_is_not_out_is_published_by_the_next_run(kafka: Kafka, topic: str):
    """From the rows alone, which is all that is left of it."""
    kafka.create_topic(topic, 2)
    part = opened(kafka, topic, "exactly-once")
    whole = KafkaSinkMessage("k", b"w", headers=[("h", b"1")], partition=1, timestamp=99)
    part.write_batch([KafkaSinkMessage("k", b"v", partition=0), whole])
    rows = part.prepare(1)
    next_run = opened(kafka, topic, "exactly-once", 2)
    assert next_run.published() == 0
    until_done(lambda: next_run.publish(1, rows))
    plain, full = kafka.read_all(topic)
    assert (plain.value(), full.value(), full.headers()) == (b"v", b"w", [("h", b"1")])
    assert full.timestamp() == (1, 99)


def test_an_older_run_is_fenced(kafka: Kafka, topic: str):
    """From the moment on that a newer one begins, and also if it begins after that."""
    kafka.create_topic(topic)
    old = opened(kafka, topic, "exactly-once", 1)
    old.write_batch([KafkaSinkMessage("k", "of the old run")])
    rows = old.prepare(1)
    new = opened(kafka, topic, "exactly-once", 2)
    with pytest.raises(FencedError, match="another run of this job has taken over .*generation 1"):
        until_done(lambda: old.publish(1, rows))
    with pytest.raises(FencedError):
        opened(kafka, topic, "exactly-once", 1)
    write(new, 1, [KafkaSinkMessage("k", "of the new run")])
    assert values(kafka, topic, "read_uncommitted") == [b"of the new run"]


def test_shards_do_not_fence_each_other(kafka: Kafka, topic: str):
    """Each has a transactional id and a marker of its own."""
    kafka.create_topic(topic)
    parts: list[Any] = []
    for shard in ("worker-0", "worker-1"):
        part: Any = KafkaSink([kafka.address], topic, delivery="exactly-once").build("s", 0, 1)
        part.begin(SinkSession(topic, 1, "flow.out", shard))
        parts.append(part)
    for epoch in (1, 2):
        for part in parts:
            write(part, epoch, [KafkaSinkMessage("k", str(epoch))])
    assert sorted(values(kafka, topic)) == [b"1", b"1", b"2", b"2"]


def test_a_broker_that_restarts_costs_nothing(own_kafka: Broker, topic: str):
    """An epoch that is published meanwhile is out once when the broker is back."""
    kafka = own_kafka
    kafka.create_topic(topic)
    part = opened(kafka, topic, "exactly-once")
    write(part, 1, [KafkaSinkMessage("k", "before")])
    part.write_batch([KafkaSinkMessage("k", str(n)) for n in range(100)])
    rows = part.prepare(2)
    own_kafka.kill()
    assert part.publish(2, rows) is PENDING
    own_kafka.restart()
    until_done(lambda: part.publish(2, rows))
    part.close()
    assert values(kafka, topic) == [b"before", *(b"%d" % n for n in range(100))]


def test_settings_that_are_the_engines_are_refused():
    """With what to do instead."""
    with pytest.raises(ValueError, match="must not have 'transactional.id': the engine makes it"):
        KafkaSink(["b:1"], "t", {"transactional.id": "x"})
    with pytest.raises(ValueError, match="needs marker_topic"):
        KafkaSink(["b:1"], None, delivery="exactly-once")
    with pytest.raises(ValueError, match="delivery must be"):
        KafkaSink(["b:1"], "t", delivery="twice")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="brokers must be a list"):
        KafkaSink("b:1", "t")
    with pytest.raises(ValueError, match="at least one broker"):
        KafkaSink([], "t")
