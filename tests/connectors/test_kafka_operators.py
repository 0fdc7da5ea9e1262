"""Kafka's operators between bytes and values: what goes on, what goes aside, what ends a run."""

from __future__ import annotations

import bz2
import gzip
import inspect
import json
import logging
import pickle
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.serialization import (
    MessageField,
    SerializationContext,
    StringDeserializer,
    StringSerializer,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine._cli.report import report
from engine.connectors.kafka import (
    KafkaError,
    KafkaSinkMessage,
    KafkaSourceMessage,
    serde,
)
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow
from engine.errors import (
    ConnectorError,
    DeserializationError,
    EngineRuntimeError,
    UserCodeError,
)
from engine.testing import TestingSink, TestingSource, cluster_main, run_main
from tests.connectors.kafka_flows import message, messages, split, through

NO_KEY = confluent_kafka.KafkaError._KEY_DESERIALIZATION
NO_VALUE = confluent_kafka.KafkaError._VALUE_DESERIALIZATION


def number(raw: bytes, _context: SerializationContext) -> int:
    """A user's function, which knows nothing of None."""
    return int(raw)


# Deserializing


def test_values_are_deserialized_and_all_else_stays():
    """The value is another one; key, place, headers and time are those of the message."""
    read = message(b"7", headers=[("h", b"1")], offset=5)
    oks, errs = split([read], lambda s: kop.deserialize_value("parse", s, number))
    assert oks == [read.with_value(7)]
    assert errs == []
    assert read.value == b"7"


def test_keys_are_deserialized_and_all_else_stays():
    """The same for the key."""
    read = message(b"7", key=b"8")
    oks, _ = split([read], lambda s: kop.deserialize_key("parse", s, number))
    assert oks == [read.with_key(8)]


def test_both_are_deserialized():
    """Each by its own deserializer."""
    read = message(b"7", key=b"ann")
    oks, _ = split(
        [read],
        lambda s: kop.deserialize(
            "parse", s, key_deserializer=StringDeserializer(), val_deserializer=number
        ),
    )
    assert oks == [read.with_key_and_value("ann", 7)]


def test_what_cannot_be_deserialized_goes_aside_as_it_was():
    """In order, with the code of the field and the reason as text."""
    read = messages([b"1", b"x", None, b"4"])
    oks, errs = split(read, lambda s: kop.deserialize_value("parse", s, number))
    assert [m.value for m in oks] == [1, 4]
    assert [error.msg for error in errs] == [read[1], read[2]]
    assert {error.err.code() for error in errs} == {NO_VALUE}
    assert errs[0].err.str() == "ValueError: invalid literal for int() with base 10: b'x'"
    assert errs[1].err.str().startswith("TypeError: int() argument must be")


def test_a_key_that_cannot_be_deserialized_goes_aside():
    """With the code for keys."""
    _, errs = split([message(b"1", key=b"x")], lambda s: kop.deserialize_key("parse", s, number))
    assert [(e.err.code(), e.msg.key, e.msg.value) for e in errs] == [(NO_KEY, b"x", b"1")]


def test_of_both_the_error_has_the_message_with_neither_done():
    """The key is looked at first; a bad value leaves the key as it was too."""
    read = [message(b"x", key=b"1"), message(b"x", key=b"x"), message(b"1", key=b"1")]
    oks, errs = split(
        read,
        lambda s: kop.deserialize("parse", s, key_deserializer=number, val_deserializer=number),
    )
    assert [(e.err.code(), e.msg) for e in errs] == [(NO_VALUE, read[0]), (NO_KEY, read[1])]
    assert oks == [read[2].with_key_and_value(1, 1)]


def test_none_is_for_the_deserializer_to_decide():
    """Those of ours and of confluent-kafka keep it; any function is given it as well."""
    read = [message(None, key=None)]
    for one in (serde.JsonDeserializer(int), StringDeserializer(), lambda raw, _: raw):
        oks, errs = split(
            read,
            lambda s, one=one: kop.deserialize("p", s, key_deserializer=one, val_deserializer=one),
        )
        assert oks == read
        assert errs == []


def test_the_context_says_topic_field_and_headers():
    """It is a real one; one without headers serves all messages of its topic."""
    seen: list[SerializationContext] = []

    def note(raw: bytes, context: SerializationContext) -> bytes:
        seen.append(context)
        return raw

    read = [
        message(b"1", topic="a"),
        message(b"2", topic="a"),
        message(b"3", topic="b", headers=[("h", b"1")]),
    ]
    split(read, lambda s: kop.deserialize("p", s, key_deserializer=note, val_deserializer=note))
    assert [(c.topic, c.field, c.headers) for c in seen] == [
        ("a", MessageField.KEY, None),
        ("a", MessageField.VALUE, None),
        ("a", MessageField.KEY, None),
        ("a", MessageField.VALUE, None),
        ("b", MessageField.KEY, [("h", b"1")]),
        ("b", MessageField.VALUE, [("h", b"1")]),
    ]
    assert seen[1] is seen[3]
    assert all(type(c) is SerializationContext for c in seen)


def test_a_subclass_of_ours_is_called_as_it_says():
    """What a user's subclass does in its `__call__` is not passed over."""

    class Doubled(serde.JsonDeserializer[Any]):
        def __call__(self, value: Any, ctx: Any = None) -> Any:
            return [super().__call__(value, ctx)] * 2

    oks, _ = split(messages([b"1"]), lambda s: kop.deserialize_value("p", s, Doubled()))
    assert [m.value for m in oks] == [[1, 1]]


@given(
    values=st.lists(st.none() | st.integers(-5, 5).map(b"%d".__mod__) | st.binary(max_size=3)),
    batch_size=st.integers(1, 5),
    workers=st.integers(1, 2),
)
@settings(max_examples=30)
def test_each_message_goes_one_way_or_the_other(
    values: list[bytes | None], batch_size: int, workers: int
):
    """Whatever the batches are: in order on one worker, and none is lost or comes twice."""
    read = messages(values)
    flow, oks, errs = Dataflow("flow"), [], []
    s = op.input("in", flow, TestingSource(read, batch_size))
    if workers > 1:
        s = op.redistribute("deal", s)
    first = kop.deserialize_value("first", s, number)
    again = kop.serialize_value("write", first.oks, lambda value, _: b"%d" % (value // 2 * 2))
    back = op.map("read", again, lambda m: KafkaSourceMessage(m.key, m.value, "t"))
    second = kop.deserialize_value("second", back, even)
    op.output("oks", second.oks, TestingSink(oks))
    op.output("errs", op.merge("merge", first.errs, second.errs), TestingSink(errs))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    numbers = [_number_or_none(value) for value in values]
    wanted = [n // 2 * 2 for n in numbers if n is not None]
    got = [m.value for m in oks]
    assert (got if workers == 1 else sorted(got)) == (wanted if workers == 1 else sorted(wanted))
    bad = [m.offset for m, n in zip(read, numbers, strict=True) if n is None]
    assert sorted(e.msg.offset for e in errs) == bad


def even(raw: bytes, context: SerializationContext) -> int:
    """As `number`, for even ones only."""
    assert number(raw, context) % 2 == 0
    return number(raw, context)


def _number_or_none(raw: bytes | None) -> int | None:
    try:
        return int(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


# Errors that nobody reads


def test_an_error_that_nobody_reads_ends_the_run():
    """With a block that names step, place, key, value, the user's line, and what to do."""
    flow = Dataflow("shop")
    s = op.input("in", flow, TestingSource([message(b"x" * 500, key=b"ann", offset=17)]))
    op.output("out", kop.deserialize_value("parse", s, number).oks, TestingSink([]))
    with pytest.raises(EngineRuntimeError) as caught:
        run_main(flow)
    error = caught.value
    cause = error.__cause__
    assert isinstance(cause, DeserializationError)
    assert (cause.topic, cause.partition, cause.offset) == ("orders", 3, 17)
    assert isinstance(cause.__cause__, ValueError)
    lines = report(error, flow=flow).splitlines()
    assert lines[0].startswith(
        "error: step 'shop.parse' failed: the value of the message at offset 17 of partition 3 of "
        "topic 'orders' can't be deserialized: ValueError: invalid literal"
    )
    assert "key=b'ann', value=b'xxxxxxxxxxxx" in lines[1]
    place = next(line for line in lines if line.startswith("  at:"))
    assert place.endswith("in number")
    assert "  hint:   read the step's `errs`, or give it `on_error='skip'`" in lines
    assert max(map(len, lines)) < 500


@pytest.mark.parametrize("read_elsewhere", [True, False])
def test_only_readers_of_the_same_step_count(read_elsewhere: bool):
    """Each step's own errors must be read: those of the one before don't help."""
    flow, seen = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource([message(b"x", key=b"1")]))
    keyed = kop.deserialize_key("key", s, number)
    if read_elsewhere:
        op.output("errs", keyed.errs, TestingSink(seen))
    op.output("out", kop.deserialize_value("value", keyed.oks, number).oks, TestingSink([]))
    with pytest.raises(EngineRuntimeError, match="'flow.value' failed"):
        run_main(flow)


def test_errors_may_be_skipped_and_are_told_now_and_then(caplog: pytest.LogCaptureFixture):
    """The first, and then whenever their number has doubled, with the number."""
    read = messages([b"x"] * 9 + [b"1"])
    with caplog.at_level(logging.WARNING, "engine.connectors.kafka"):
        out = through(read, lambda s: kop.deserialize_value("p", s, number, on_error="skip").oks)
    assert [m.value for m in out] == [1]
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(" so far")[0] for text in told] == [
        f"step 'flow.p' has skipped {n}" for n in (1, 2, 4, 8)
    ]
    assert "the value at offset 7 of partition 3 of topic 'orders'" in told[-1]


def test_errors_that_are_read_are_not_skipped(caplog: pytest.LogCaptureFixture):
    """`on_error` is for errors that nobody reads."""
    oks, errs = split(
        messages([b"x"]), lambda s: kop.deserialize_value("p", s, number, on_error="skip")
    )
    assert (oks, len(errs)) == ([], 1)
    assert caplog.records == []


@pytest.mark.parametrize(
    "outage",
    [
        ConnectionRefusedError(111, "nobody there"),
        TimeoutError("too late"),
        PermissionError(13, "no"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_an_outage_is_no_fault_of_the_message(outage: Exception, on_error: Any):
    """It ends the run though errors are read or skipped: all messages would go that way."""

    def ask(_raw: bytes, _context: object) -> None:
        try:
            raise outage
        except OSError as ex:
            raise RuntimeError("no schema") from ex

    for read in (True, False):
        flow = Dataflow("flow")
        s = op.input("in", flow, TestingSource([message(b"x")]))
        made = kop.deserialize_value("p", s, ask, on_error=on_error)
        op.output("out", made.oks, TestingSink([]))
        if read:
            op.output("errs", made.errs, TestingSink([]))
        with pytest.raises(EngineRuntimeError) as caught:
            run_main(flow)
        kind = MemoryError if isinstance(outage, MemoryError) else ConnectorError
        assert isinstance(caught.value.__cause__, kind)
        assert caught.value.step_id == "flow.p"


def test_an_oserror_of_a_decompressor_is_the_messages_fault():
    """It has no number, as those of the system have."""
    for unpack in (gzip.decompress, bz2.decompress):
        _, errs = split(
            [message(b"garbage")],
            lambda s, f=unpack: kop.deserialize_value("p", s, lambda raw, _: f(raw)),
        )
        assert len(errs) == 1


def test_an_error_travels_between_workers():
    """Errors and messages with values are pickled like any record."""
    error = KafkaError(
        confluent_kafka.KafkaError(NO_VALUE, "ValueError: no"), message(b"x", headers=[("h", None)])
    )
    again = pickle.loads(pickle.dumps(error))
    assert again.msg == error.msg
    assert (again.err.code(), again.err.str()) == (NO_VALUE, "ValueError: no")


def test_several_workers_share_a_deserializer():
    """Each has its own loop; together they give all messages and all errors."""
    flow, oks, errs = Dataflow("flow"), [], []
    values = [b"x" if i % 10 == 0 else b"%d" % i for i in range(100)]
    s = op.redistribute("deal", op.input("in", flow, TestingSource(messages(values), 7)))
    made = kop.deserialize_value("parse", s, serde.JsonDeserializer(int))
    op.output("oks", made.oks, TestingSink(oks))
    op.output("errs", op.key_rm("rm", op.key_on("key", made.errs, str)), TestingSink(errs))
    cluster_main(flow, [], 0, worker_count_per_proc=3)
    assert sorted(m.value for m in oks) == [i for i in range(100) if i % 10]
    assert sorted(e.msg.offset for e in errs) == list(range(0, 100, 10))


# What is refused


def test_what_is_no_message_is_refused_by_name():
    """With a hint where an error was taken for a message."""
    for record, hint in (
        (b"x", ""),
        (KafkaError(confluent_kafka.KafkaError(1), message(b"")), "take `oks` of the step before"),
    ):
        with pytest.raises(EngineRuntimeError) as caught:
            split([record], lambda s: kop.deserialize_value("p", s, number))
        cause = caught.value.__cause__
        assert isinstance(cause, UserCodeError)
        assert "must be a `KafkaSourceMessage`; got" in str(cause)
        assert cause.hint == hint


def _stream() -> Any:
    return op.input("in", Dataflow("flow"), TestingSource([]))


async def _later(raw: bytes, _context: object) -> bytes:
    return raw


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (json.loads, r"must take a value and its `SerializationContext`; .*loads.* takes \(s, \*,"),
        (StringDeserializer, "the class `StringDeserializer` itself: make an object of it"),
        ("json", "must be a function; got 'json'"),
        (_later, "is an `async def`"),
    ],
)
def test_what_cannot_serve_is_refused_while_the_flow_is_built(given: Any, said: str):
    """Wherever a serializer or a deserializer is asked for, with the name of the argument."""
    calls: dict[str, Any] = {
        "deserializer": lambda: kop.deserialize_value("p", _stream(), given),
        "key_deserializer": lambda: kop.deserialize(
            "p", _stream(), key_deserializer=given, val_deserializer=number
        ),
        "val_deserializer": lambda: kop.deserialize(
            "p", _stream(), key_deserializer=number, val_deserializer=given
        ),
        "serializer": lambda: kop.serialize_key("p", _stream(), given),
        "key_serializer": lambda: kop.serialize(
            "p", _stream(), key_serializer=given, val_serializer=number
        ),
        "val_serializer": lambda: kop.serialize(
            "p", _stream(), key_serializer=number, val_serializer=given
        ),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"`{name}` of step 'flow.p' .*{said}"):
            call()


def test_a_policy_that_does_not_exist_is_refused():
    """While the flow is built."""
    with pytest.raises(ValueError, match="`on_error` of step 'flow.p' must be 'fail' or 'skip'"):
        kop.deserialize_value("p", _stream(), number, on_error="drop")  # type: ignore[arg-type]


def test_a_topic_must_be_one():
    """One, and not a list of them."""
    with pytest.raises(TypeError, match=r"`topic` of step 'flow.p' must be a `str` or None"):
        kop.serialize_value("p", _stream(), number, topic=["orders"])  # type: ignore[arg-type]


# Serializing


def test_messages_of_both_kinds_are_serialized():
    """One that was read becomes one to write, with key and headers but without its place."""
    read = message(20, key=b"ann", headers=[("h", b"1")])
    write = KafkaSinkMessage(b"bob", 5, "other", [("i", b"2")], partition=1, timestamp=9)
    out = through([read, write], lambda s: kop.serialize_value("p", s, serde.JsonSerializer()))
    assert out == [
        KafkaSinkMessage(b"ann", b"20", None, [("h", b"1")]),
        KafkaSinkMessage(b"bob", b"5", "other", [("i", b"2")], 1, 9),
    ]


def test_keys_and_both_are_serialized():
    """Each by its own serializer."""
    write = KafkaSinkMessage("ann", [1])
    keyed = through([write], lambda s: kop.serialize_key("p", s, StringSerializer()))
    assert keyed == [KafkaSinkMessage(b"ann", [1])]
    both = through(
        [write],
        lambda s: kop.serialize(
            "p", s, key_serializer=StringSerializer(), val_serializer=serde.JsonSerializer()
        ),
    )
    assert both == [KafkaSinkMessage(b"ann", b"[1]")]


def test_none_stays_none_on_the_way_out():
    """A message without a key, and one that deletes its key, can be written."""
    for one in (serde.JsonSerializer(), serde.MsgpackSerializer(), StringSerializer()):
        out = through(
            [KafkaSinkMessage(None, None)],
            lambda s, one=one: kop.serialize("p", s, key_serializer=one, val_serializer=one),
        )
        assert out == [KafkaSinkMessage(None, None)]


def test_the_context_of_a_serializer_has_a_topic():
    """The message's own, or the one that the step was given."""
    topics = []

    def note(_value: object, context: SerializationContext) -> bytes:
        topics.append((context.topic, context.field))
        return b""

    write = [KafkaSinkMessage(b"", 1, "own"), KafkaSinkMessage(b"", 1), message(b"", topic="old")]
    through(write, lambda s: kop.serialize_value("p", s, note, topic="given"))
    assert topics == [(topic, MessageField.VALUE) for topic in ("own", "given", "given")]


def test_headers_that_a_serializer_adds_go_with_the_message():
    """As those of the schema registry may do; the message that came in keeps its own."""

    def add(_value: object, context: Any) -> bytes:
        context.headers.append(("schema", b"1"))
        return b""

    write = KafkaSinkMessage(b"", 1, headers=[("h", b"")])
    out = through([write, write], lambda s: kop.serialize_value("p", s, add))
    assert [m.headers for m in out] == [[("h", b""), ("schema", b"1")]] * 2
    assert write.headers == [("h", b"")]


def test_what_a_serializer_raises_ends_the_run():
    """With the user's own exception behind it, and a note if it may be for want of a topic."""

    def refuse(_value: object, context: Any) -> bytes:
        return context.topic + b"-value"

    for topic, notes in (("orders", 0), (None, 1)):
        write = KafkaSinkMessage(b"", 1, topic)
        with pytest.raises(EngineRuntimeError) as caught:
            through([write], lambda s: kop.serialize_value("p", s, refuse))
        assert caught.value.step_id == "flow.p"
        assert caught.value.record == write
        assert len(getattr(caught.value.__cause__, "__notes__", ())) == notes


def test_what_is_not_bytes_is_not_written():
    """A serializer that gives something else is named."""
    with pytest.raises(EngineRuntimeError) as caught:
        through([KafkaSinkMessage(b"", 1)], lambda s: kop.serialize_value("p", s, lambda v, _: v))
    assert isinstance(caught.value.__cause__, UserCodeError)
    assert "must be `bytes` or None; got 1 of type `int`" in str(caught.value)


def test_what_is_no_message_is_not_serialized():
    """With a hint to make one."""
    with pytest.raises(EngineRuntimeError) as caught:
        through([("ann", 1)], lambda s: kop.serialize_value("p", s, serde.JsonSerializer()))
    assert isinstance(caught.value.__cause__, UserCodeError)
    assert "KafkaSinkMessage(key, value)" in caught.value.__cause__.hint


def test_there_and_back():
    """What was serialized is deserialized to what it was."""
    values = [{"a": [1, 2.5, None, "é"]}, [], "x", 0, None]
    written = through(
        [KafkaSinkMessage("k", value) for value in values],
        lambda s: kop.serialize(
            "out", s, key_serializer=StringSerializer(), val_serializer=serde.JsonSerializer()
        ),
    )
    read = [KafkaSourceMessage(m.key, m.value, "t") for m in written]
    oks, errs = split(
        read,
        lambda s: kop.deserialize(
            "in",
            s,
            key_deserializer=StringDeserializer(),
            val_deserializer=serde.JsonDeserializer(),
        ),
    )
    assert errs == []
    assert [(m.key, m.value) for m in oks] == [("k", value) for value in values]


def test_the_names_are_those_that_bytewax_users_know():
    """Order and names of the arguments are the same; ours come after, by keyword only."""
    wanted = {
        kop.deserialize_key: ["step_id", "up", "deserializer"],
        kop.deserialize_value: ["step_id", "up", "deserializer"],
        kop.deserialize: ["step_id", "up", "key_deserializer", "val_deserializer"],
        kop.serialize_key: ["step_id", "up", "serializer"],
        kop.serialize_value: ["step_id", "up", "serializer"],
        kop.serialize: ["step_id", "up", "key_serializer", "val_serializer"],
    }
    for function, names in wanted.items():
        parameters = inspect.signature(function).parameters
        assert list(parameters)[: len(names)] == names
        ours = list(parameters.values())[len(names) :]
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours)
