"""`KafkaSource` on a real broker: where it begins and ends, what is lost, what it can't read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import KafkaError as ClientError

from engine.connectors import UnavailableError
from engine.connectors.kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    KafkaError,
    KafkaSource,
    KafkaSourceMessage,
)
from engine.connectors.kafka._positions import Offsets
from engine.connectors.kafka._watch import Watch
from engine.errors import ConnectorError
from tests.kafka.broker import Broker
from tests.kafka.client import Kafka

WAIT_S = 60.0


def source(kafka: Kafka, topic: str, **options: Any) -> KafkaSource:
    return KafkaSource([kafka.address], [topic], **options)


def read_until(done: Callable[[list[Any]], bool], *parts: Any) -> list[Any]:
    """Poll as the runtime does, until `done` says that it is enough or all parts have ended."""
    items: list[Any] = []
    live = list(parts)
    until_s = time.monotonic() + WAIT_S
    while live and not done(items):
        assert time.monotonic() < until_s, f"got {len(items)} only: {items[-1:]}"
        for part in list(live):
            try:
                items += part.next_batch()
            except UnavailableError:
                time.sleep(0.05)
            except StopIteration:
                live.remove(part)
    return items


def read_all(*parts: Any) -> list[Any]:
    """All until the parts have ended."""
    return read_until(lambda _: False, *parts)


def read(count: int, *parts: Any) -> list[Any]:
    """So many items, or some more."""
    return read_until(lambda items: len(items) >= count, *parts)


def values(items: list[Any]) -> list[bytes]:
    return [item.value for item in items]


def fill(kafka: Kafka, topic: str, partitions: int = 1, count: int = 10) -> str:
    kafka.create_topic(topic, partitions, retention_ms=-1)
    for partition in range(partitions):
        kafka.produce(topic, [("k", f"{partition}:{n}") for n in range(count)], partition=partition)
    return topic


def test_partitions_are_read_in_order_to_their_ends(kafka: Kafka, topic: str):
    """Each by itself, all of it, and with everything that a message has."""
    fill(kafka, topic, 3, 1500)
    made = source(kafka, topic, tail=False)
    names = made.list_parts()
    assert names == [f"0-{topic}", f"1-{topic}", f"2-{topic}"]
    parts = [made.build_part("flow.in", name, None) for name in names]
    items = read_all(*parts)
    for number, part in enumerate(parts):
        own = [item for item in items if item.partition == number]
        assert values(own) == [b"%d:%d" % (number, n) for n in range(1500)]
        assert [item.offset for item in own] == list(range(1500))
        assert part.snapshot()[0] == 1500
        assert part.lag().records == 0
        assert part.caught_up()
        part.close()
    assert (items[0].key, items[0].topic, items[0].headers) == (b"k", topic, [])
    assert items[0].timestamp[0] == 1
    assert abs(items[0].timestamp[1] / 1000 - time.time()) < WAIT_S


def test_several_topics_are_read_beside_each_other(kafka: Kafka, topic: str):
    """Their partitions have the same numbers, and their names may have hyphens."""
    fill(kafka, f"{topic}-a", 2)
    fill(kafka, f"{topic}-b", 2)
    made = KafkaSource([kafka.address], [f"{topic}-a", f"{topic}-b"], tail=False)
    parts = [made.build_part("flow.in", name, None) for name in made.list_parts()]
    items = read_all(*parts)
    places = {(item.topic, item.partition, item.offset) for item in items}
    assert len(places) == len(items) == 40


def test_nulls_empties_and_headers_come_as_they_are(kafka: Kafka, topic: str):
    """A missing value is None and not empty: it is a deletion in a compacted topic."""
    kafka.create_topic(topic)
    headers: list[tuple[str, bytes | None]] = [("a", b"1"), ("a", None)]
    kafka.produce(topic, [(None, None), ("", "")], headers=headers, timestamp=1234)
    part = source(kafka, topic, tail=False).build_part("flow.in", f"0-{topic}", None)
    none, empty = read_all(part)
    assert (none.key, none.value, none.headers) == (None, None, headers)
    assert (empty.key, empty.value) == (b"", b"")
    assert none.timestamp == (1, 1234)
    assert none == KafkaSourceMessage(None, None, topic, headers, None, 0, 0, (1, 1234))


def test_a_position_is_where_the_next_run_goes_on(kafka: Kafka, topic: str):
    """Whatever the source says of where to start; and what waits inside it was not read."""
    fill(kafka, topic, 2, 100)
    made = source(kafka, topic, batch_size=7)
    parts = [made.build_part("flow.in", f"{n}-{topic}", None) for n in range(2)]
    seen = read(40, *parts)
    states = [part.snapshot() for part in parts]
    for part in parts:
        part.close()
    again = source(kafka, topic, starting_offset=OFFSET_END, tail=False)
    rest = read_all(*(again.build_part("flow.in", f"{n}-{topic}", states[n]) for n in range(2)))
    assert sorted(values(seen + rest)) == sorted(
        b"%d:%d" % (p, n) for p in range(2) for n in range(100)
    )


def test_it_begins_where_it_is_told_to(kafka: Kafka, topic: str):
    """At the beginning, at an offset, at a time, at the end; new partitions at their beginning."""
    kafka.create_topic(topic, retention_ms=-1)
    for n in range(10):
        kafka.produce(topic, [("k", str(n))], timestamp=1_000_000 + n * 1000)

    def first(start: Any) -> Any:
        part = source(kafka, topic, starting_offset=start, tail=False).build_part(
            "flow.in", f"0-{topic}", None
        )
        items = values(read_all(part))
        return items[0] if items else part.snapshot()[0]

    at = datetime.fromtimestamp(1003, UTC)
    assert first(OFFSET_BEGINNING) == b"0"
    assert first(4) == b"4"
    assert first(at) == b"3"
    assert first(at + timedelta(microseconds=1)) == b"4"
    assert first(at + timedelta(days=1)) == 10
    assert first(OFFSET_END) == 10
    new = source(kafka, topic, starting_offset=OFFSET_END, tail=False).build_new_part(
        "flow.in", f"0-{topic}"
    )
    assert values(read_all(new))[0] == b"0"


def test_from_the_end_means_from_the_end_at_the_start(kafka: Kafka, topic: str):
    """The position is known before the first message: a crash until then skips nothing."""
    fill(kafka, topic)
    made = source(kafka, topic, starting_offset=OFFSET_END)
    part = made.build_part("flow.in", f"0-{topic}", None)
    state = part.snapshot()
    part.close()
    kafka.produce(topic, [("k", "new")])
    assert values(read(1, made.build_part("flow.in", f"0-{topic}", state))) == [b"new"]


def test_it_ends_where_it_is_told_to(kafka: Kafka, topic: str):
    """Before an offset or a time, though there is more and it would wait for more."""
    kafka.create_topic(topic, retention_ms=-1)
    for n in range(10):
        kafka.produce(topic, [("k", str(n))], timestamp=1_000_000 + n * 1000)

    def last(end: Any, state: Any = None) -> Any:
        part = source(kafka, topic, ending_offset=end).build_part("flow.in", f"0-{topic}", state)
        items = values(read_all(part))
        return (items[-1] if items else None), part.snapshot()[0]

    assert last(4) == (b"3", 4)
    assert last(4, (4, None)) == (None, 4)
    assert last(datetime.fromtimestamp(1003, UTC)) == (b"2", 3)
    assert last(datetime.now(UTC)) == (b"9", 10)
    with pytest.raises(ConnectorError, match="still to come"):
        last(datetime.now(UTC) + timedelta(hours=1))


def test_marks_of_transactions_are_no_end_that_never_comes(kafka: Kafka, topic: str):
    """The last offset before the end may be no message; aborted ones are left out."""
    from confluent_kafka import Producer  # noqa: PLC0415 - its only use

    kafka.create_topic(topic)
    producer = Producer({**kafka.config, "transactional.id": topic})
    producer.init_transactions(WAIT_S)
    for n in range(4):
        producer.begin_transaction()
        producer.produce(topic, str(n))
        producer.flush()
        if n % 2:
            producer.abort_transaction(WAIT_S)
        else:
            producer.commit_transaction(WAIT_S)
    part = source(kafka, topic, ending_offset=8).build_part("flow.in", f"0-{topic}", None)
    assert values(read_all(part)) == [b"0", b"2"]
    assert part.snapshot()[0] == 8
    tailing = source(kafka, topic).build_part("flow.in", f"0-{topic}", None)
    read_until(lambda _: tailing.caught_up() and tailing.snapshot()[0] == 8, tailing)
    assert tailing.lag().records == 0


def test_the_group_shows_how_far_the_job_is(kafka: Kafka, topic: str):
    """For tools; by the step's id or the name that was given."""
    fill(kafka, topic, 2)
    for config, group in (({}, "engine-flow.in"), ({"group.id": topic}, topic)):
        made = source(kafka, topic, tail=False, add_config=config)
        parts = [made.build_part("flow.in", f"{n}-{topic}", None) for n in range(2)]
        read_all(*parts)
        for part in parts:
            part.on_commit((part.snapshot()[0] - 3, None))
        for part in parts:
            part.close()
        asks = Consumer({**kafka.config, "group.id": group})
        spots = [TopicPartition(topic, n) for n in range(2)]
        assert [spot.offset for spot in asks.committed(spots, WAIT_S)] == [7, 7]
        asks.close()


def test_the_lag_is_known_while_there_is_one(kafka: Kafka, topic: str):
    """In messages, and in seconds since the last one that was handed on was written."""
    kafka.create_topic(topic, retention_ms=-1)
    hour_ago_ms = int(time.time() * 1000) - 3_600_000
    kafka.produce(topic, [("k", str(n)) for n in range(100)], timestamp=hour_ago_ms)
    part = source(kafka, topic, batch_size=10).build_part("flow.in", f"0-{topic}", None)
    read(10, part)
    assert not part.caught_up()
    lag = part.lag()
    assert lag.records == 90
    assert 3600 <= lag.seconds < 3600 + WAIT_S
    read_until(lambda _: part.caught_up(), part)
    assert (part.lag().records, part.lag().seconds) == (0, 0.0)


# What is gone


def test_messages_that_are_gone_are_not_passed_over_in_silence(kafka: Kafka, topic: str):
    """By default the run ends, with how many they are and what to do."""
    fill(kafka, topic)
    kafka.delete_records(topic, 0, 6)
    with pytest.raises(ConnectorError, match="at offset 2: it has 6 to 10, so 4 messages are gone"):
        read(1, source(kafka, topic).build_part("flow.in", f"0-{topic}", (2, None)))
    fresh = source(kafka, topic, tail=False).build_part("flow.in", f"0-{topic}", None)
    assert len(read_all(fresh)) == 4


@pytest.mark.parametrize(("policy", "first"), [("earliest", b"0:6"), ("latest", b"new")])
def test_a_policy_says_where_to_go_on(
    kafka: Kafka, topic: str, policy: Any, first: bytes, caplog: pytest.LogCaptureFixture
):
    """With a warning that says what was lost."""
    fill(kafka, topic)
    kafka.delete_records(topic, 0, 6)
    part = source(kafka, topic, on_lost_offset=policy).build_part(
        "flow.in", f"0-{topic}", (2, None)
    )
    with caplog.at_level(logging.WARNING):
        read_until(lambda _: bool(caplog.messages), part)
    kafka.produce(topic, [("k", "new")])
    assert values(read(1, part))[0] == first
    assert "4 messages are gone" in caplog.text
    assert f"on_lost_offset='{policy}'" in caplog.text


def test_a_topic_that_was_made_anew_is_another_topic(kafka: Kafka, topic: str):
    """Its offsets mean nothing, though the old position lies within it."""
    fill(kafka, topic)
    part = source(kafka, topic).build_part("flow.in", f"0-{topic}", None)
    read(5, part)
    state = part.snapshot()
    part.close()
    kafka.delete_topic(topic)
    fill(kafka, topic, count=20)
    with pytest.raises(ConnectorError, match="deleted and made anew"):
        source(kafka, topic).build_part("flow.in", f"0-{topic}", state)
    part = source(kafka, topic, on_lost_offset="earliest", tail=False).build_part(
        "flow.in", f"0-{topic}", state
    )
    assert len(read_all(part)) == 20


def test_a_topic_made_anew_under_a_running_job_is_noticed(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """The client reads the new one as if nothing had happened; a look at its id tells."""
    monkeypatch.setattr("engine.connectors.kafka._watch._CHECK_S", 0.2)
    fill(kafka, topic)
    part = source(kafka, topic).build_part("flow.in", f"0-{topic}", None)
    read(10, part)
    kafka.delete_topic(topic)
    fill(kafka, topic)
    with pytest.raises(ConnectorError, match="deleted and made anew|topic"):
        read(1, part)


def test_a_damaged_message_is_an_error_or_an_item(own_kafka: Broker, topic: str):
    """A broken checksum ends the run, or comes as a `KafkaError` between what can be read."""
    own_kafka.create_topic(topic)
    for n in range(3):
        own_kafka.produce(topic, [("k", f"value-{n}-{m}") for m in range(10)])
    own_kafka.stop()
    (segment,) = own_kafka.segments(topic)
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b"value-1-4", b"value-1-X"))
    own_kafka.restart()
    with pytest.raises(ConnectorError, match="(?i)crc|bad message.*raise_on_errors"):
        read_all(source(own_kafka, topic, tail=False).build_part("flow.in", f"0-{topic}", None))
    items = read_all(
        source(own_kafka, topic, tail=False, raise_on_errors=False).build_part(
            "flow.in", f"0-{topic}", None
        )
    )
    good = [item.value for item in items if not isinstance(item, KafkaError)]
    assert good == [b"value-%d-%d" % (n, m) for n in (0, 2) for m in range(10)]
    bad = [item.msg for item in items if isinstance(item, KafkaError)]
    assert [(one.topic, one.partition, one.offset) for one in bad] == [
        (topic, 0, offset) for offset in range(10, 20)
    ]


def test_a_partition_in_trouble_costs_the_others_nothing(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """Nobody answers where it should go on; what came with it for others is handed on."""
    fill(kafka, topic, 3, 50)
    kafka.delete_records(topic, 1, 10)
    made = source(kafka, topic, tail=False, on_lost_offset="earliest")
    parts = [made.build_part("flow.in", f"{n}-{topic}", (0, None)) for n in range(3)]
    bounds, answers = Offsets.bounds, iter([False, False, True])

    def sometimes(self: Offsets, *spot: Any) -> tuple[int, int]:
        if not next(answers, True):
            raise UnavailableError("not now")
        return bounds(self, *spot)

    monkeypatch.setattr(Offsets, "bounds", sometimes)
    items: list[Any] = []
    live, outages = list(parts), 0
    until_s = time.monotonic() + WAIT_S
    while live:
        assert time.monotonic() < until_s
        for part in list(live):
            try:
                items += part.next_batch()
            except UnavailableError:
                outages += 1
            except StopIteration:
                live.remove(part)
    assert outages == 2
    read = sorted((item.partition, item.offset) for item in items)
    assert read == [(p, n) for p in range(3) for n in range(50) if p != 1 or n >= 10]


def test_what_is_no_damaged_message_moves_no_position(kafka: Kafka, topic: str):
    """To read is forbidden, say: that ends the run, and isn't passed over message by message."""
    fill(kafka, topic)
    part = source(kafka, topic, raise_on_errors=False).build_part(
        "flow.in", f"0-{topic}", (3, None)
    )
    part.fail(ClientError(ClientError.TOPIC_AUTHORIZATION_FAILED))
    for _ in range(2):
        with pytest.raises(ConnectorError, match="TOPIC_AUTHORIZATION_FAILED"):
            part.next_batch()
    assert part.snapshot()[0] == 3
    part.close()


def test_what_passes_is_waited_for(kafka: Kafka, topic: str):
    """A leader that changes costs no message and ends nothing."""
    fill(kafka, topic)
    part = source(kafka, topic, tail=False).build_part("flow.in", f"0-{topic}", None)
    part.fail(ClientError(ClientError.NOT_LEADER_FOR_PARTITION))
    assert len(read_all(part)) == 10


def test_before_the_first_message_none_can_be_missing(kafka: Kafka, topic: str):
    """Retention may go on between the questions where to begin and for the first messages."""
    fill(kafka, topic)
    part = source(kafka, topic, tail=False).build_part("flow.in", f"0-{topic}", None)
    part.fail(ClientError(ClientError._AUTO_OFFSET_RESET))
    assert len(read_all(part)) == 10


def test_a_topic_made_anew_is_read_once_by_those_who_go_on(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """Its id is noted with the new position, or the next run would begin with it once more."""
    monkeypatch.setattr("engine.connectors.kafka._watch._CHECK_S", 0.2)
    fill(kafka, topic, count=20)
    made = source(kafka, topic, on_lost_offset="earliest")
    part = made.build_part("flow.in", f"0-{topic}", None)
    read(20, part)
    kafka.delete_topic(topic)
    fill(kafka, topic, count=5)
    assert len(read(5, part)) == 5
    state = part.snapshot()
    part.close()
    kafka.produce(topic, [("k", "new")])
    again = source(kafka, topic, on_lost_offset="earliest", tail=False).build_part(
        "flow.in", f"0-{topic}", state
    )
    assert values(read_all(again)) == [b"new"]


def test_what_is_not_known_is_no_lag_of_zero(kafka: Kafka, topic: str):
    """Right after the start nobody has said how much there is."""
    fill(kafka, topic)
    part = source(kafka, topic).build_part("flow.in", f"0-{topic}", None)
    assert (part.lag().records, part.lag().seconds) == (None, None)
    assert not part.caught_up()
    part.close()


# Who isn't there


def test_topics_that_are_not_there_are_named_with_what_is_near(kafka: Kafka, topic: str):
    """And there is no second try."""
    kafka.create_topic(topic)
    with pytest.raises(ConnectorError, match=f"no topic '{topic}s' .*did you mean '{topic}'"):
        source(kafka, f"{topic}s").list_parts()


def test_brokers_that_are_not_there_may_be_there_later(topic: str, monkeypatch: pytest.MonkeyPatch):
    """Everything that asks them says that it can be asked again, and why."""
    monkeypatch.setattr("engine.connectors.kafka._source._LIST_S", 0.5)
    monkeypatch.setattr("engine.connectors.kafka._watch._ASK_S", 0.5)
    nobody = KafkaSource(["127.0.0.1:1"], [topic])
    with pytest.raises(UnavailableError, match="Connection refused"):
        nobody.list_parts()
    with pytest.raises(UnavailableError):
        nobody.build_part("flow.in", f"0-{topic}", None)


def test_a_broker_that_goes_away_and_comes_back(own_kafka: Broker, topic: str):
    """Reading says so, also when there is nothing to read; and then it goes on."""
    fill(own_kafka, topic)
    part = source(own_kafka, topic).build_part("flow.in", f"0-{topic}", None)
    assert len(read(10, part)) == 10
    own_kafka.kill()

    def say(want_outage: bool) -> None:
        until_s = time.monotonic() + WAIT_S
        while True:
            assert time.monotonic() < until_s
            try:
                assert part.next_batch() == []
                outage = False
            except UnavailableError:
                outage = True
            if outage == want_outage:
                return
            time.sleep(0.01)

    say(want_outage=True)
    own_kafka.restart()
    say(want_outage=False)
    own_kafka.produce(topic, [("k", "after")])
    assert values(read(1, part)) == [b"after"]
    part.close()


def test_an_outage_is_one_of_all_partitions(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """Those that ask right after each other hear the same, or one would pass for being back."""
    # The thread that looks for brokers would find them, and say so, at any moment.
    monkeypatch.setattr(Watch, "look", lambda _: False)
    fill(kafka, topic, 3)
    made = source(kafka, topic)
    parts = [made.build_part("flow.in", f"{n}-{topic}", None) for n in range(3)]
    read(30, *parts)
    read_until(lambda _: all(part.caught_up() for part in parts), *parts)
    parts[0]._reader.trouble.all_down = True

    def says_so(part: Any) -> bool:
        try:
            part.next_batch()
        except UnavailableError:
            return True
        return False

    # What the client had heard before, like the end of a partition, comes first.
    assert any(all(says_so(part) for part in parts) for _ in range(1000))
    assert all(says_so(part) for part in parts * 3)
    for part in parts:
        part.close()


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"topics": "t"}, TypeError, "topics must be a list"),
        ({"topics": []}, ValueError, "at least one topic"),
        ({"brokers": "b:1"}, TypeError, "brokers must be a list"),
        ({"brokers": []}, ValueError, "at least one broker"),
        ({"batch_size": 0}, ValueError, "batch_size must be above zero"),
        ({"starting_offset": -3}, ValueError, "OFFSET_BEGINNING or OFFSET_END"),
        ({"starting_offset": "end"}, TypeError, "an offset or a datetime"),
        ({"ending_offset": datetime(2024, 1, 1)}, ValueError, "needs a time zone"),  # noqa: DTZ001
        ({"on_lost_offset": "skip"}, ValueError, "on_lost_offset must be"),
        ({"add_config": {"enable.auto.commit": True}}, ValueError, "must not have"),
    ],
)
def test_arguments_are_checked_where_they_are_given(
    options: dict[str, Any], error: type[Exception], complaint: str
):
    """Not on a worker, when the run starts."""
    with pytest.raises(error, match=complaint):
        KafkaSource(**{"brokers": ["b:1"], "topics": ["t"], **options})
