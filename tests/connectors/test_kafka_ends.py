"""`kop.input` and `kop.output` without a broker: how they are built, and what goes which way."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import confluent_kafka
import pytest

import engine.operators as op
from engine.connectors.kafka import KafkaError, KafkaSink, KafkaSinkMessage, KafkaSource
from engine.connectors.kafka import operators as kop
from engine.connectors.kafka.operators import _ends
from engine.dataflow import Dataflow, Stream
from engine.dataflow._fingerprint import leaf_steps
from engine.errors import ConnectorError, EngineRuntimeError, UserCodeError
from engine.runtime import RunOptions, run_flow
from engine.runtime._monitor import Monitor
from engine.testing import TestingSink, TestingSource, run_main
from tests.connectors.kafka_flows import message, split, through
from tests.runtime.scripted import FakeTime, LogSink, ScriptedSource

DAMAGED: KafkaError[Any, Any] = KafkaError(
    confluent_kafka.KafkaError(confluent_kafka.KafkaError._BAD_MSG, "CRC check failed"),
    message(None, key=None, offset=7),
)
READ = [message(b"a"), DAMAGED, message(b"b")]


def _inner(flow: Dataflow, step_id: str) -> dict[str, Any]:
    [step] = [step for step in flow.substeps if step.step_id == step_id]
    return {sub.step_name: sub.params for sub in step.substeps}


def test_errors_go_aside():
    """Messages go on in order, and so do the errors, as the source gave them."""
    oks, errs = split(READ, lambda s: _ends._split("split", s, "fail"))
    assert oks == [READ[0], READ[2]]
    assert errs == [DAMAGED]


def test_an_error_that_nobody_reads_ends_the_run():
    """It says where, and what Kafka says."""
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource(READ, 3))
    op.output("out", _ends._split("split", s, "fail").oks, TestingSink([]))
    with pytest.raises(EngineRuntimeError) as caught:
        run_main(flow)
    assert isinstance(caught.value.__cause__, ConnectorError)
    assert str(caught.value.__cause__) == (
        "Kafka reports an error at offset 7 of partition 3 of topic 'orders': _BAD_MSG: "
        "CRC check failed"
    )
    assert caught.value.record is DAMAGED


def test_errors_may_be_skipped(caplog: pytest.LogCaptureFixture):
    """They are counted and told."""
    with caplog.at_level(logging.WARNING, "engine.connectors.kafka"):
        out = through(READ, lambda s: _ends._split("split", s, "skip").oks)
    assert out == [READ[0], READ[2]]
    [record] = caplog.records
    assert "'flow.split' has skipped 1 so far" in record.getMessage()


def test_an_input_is_one_step_with_a_source_in_it():
    """Errors, positions and metrics go by the name that the user gave."""
    flow = Dataflow("flow")
    made = kop.input("in", flow, brokers=["localhost:9092"], topics=["orders"])
    assert [step.step_id for step in leaf_steps(flow.substeps)] == ["flow.in"]
    inner = _inner(flow, "flow.in")
    assert isinstance(inner["source"]["source"], KafkaSource)
    assert made.oks.flow() is flow


def test_what_an_input_is_given_goes_to_its_source(monkeypatch: pytest.MonkeyPatch):
    """All of it, and errors are never raised by the source itself."""
    given: dict[str, Any] = {}
    signature = inspect.signature(KafkaSource)

    class Noted(KafkaSource):
        def __init__(self, *positional: Any, **named: Any) -> None:
            given.update(signature.bind(*positional, **named).arguments)
            super().__init__(*positional, **named)

    monkeypatch.setattr(_ends, "KafkaSource", Noted)
    wanted: dict[str, Any] = {
        "brokers": ["localhost:9092"],
        "topics": ["orders"],
        "tail": False,
        "starting_offset": 5,
        "add_config": {"client.id": "me"},
        "batch_size": 7,
        "ending_offset": datetime(2026, 1, 1, tzinfo=UTC),
        "on_lost_offset": "latest",
        "discovery_interval": timedelta(seconds=5),
    }
    kop.input("in", Dataflow("flow"), **wanted)
    assert given == {**wanted, "raise_on_errors": False}
    offered = set(inspect.signature(kop.input).parameters) - {"step_id", "flow", "on_error"}
    assert offered == set(signature.parameters) - {"raise_on_errors"}


def test_the_defaults_are_those_of_the_source():
    """So both ways to read a topic are the same."""
    source = inspect.signature(KafkaSource).parameters
    for name, parameter in inspect.signature(kop.input).parameters.items():
        if name in source:
            assert parameter.default == source[name].default


def test_an_output_writes_messages_of_both_kinds():
    """One that was read becomes one to write; what was one stays the same object."""
    write = KafkaSinkMessage(b"k", b"v", "other", partition=1)
    out = through([message(b"v", headers=[("h", b"")]), write], lambda s: _ends._to_sink("p", s))
    assert out == [KafkaSinkMessage(b"k", b"v", headers=[("h", b"")]), write]
    assert out[1] is write


def test_an_output_refuses_what_is_no_message():
    """By name, and says how to make one."""
    with pytest.raises(EngineRuntimeError) as caught:
        through([b"v"], lambda s: _ends._to_sink("p", s))
    assert isinstance(caught.value.__cause__, UserCodeError)
    assert "must be a message; got b'v' of type `bytes`" in str(caught.value)


def test_an_output_is_one_step_with_a_sink_in_it():
    """With the promise that was asked for."""
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([]))
    kop.output("out", s, brokers=["localhost:9092"], topic="t", delivery="exactly-once")
    assert [step.step_id for step in leaf_steps(flow.substeps)] == ["flow.in", "flow.out"]
    sink = _inner(flow, "flow.out")["sink"]["sink"]
    assert isinstance(sink, KafkaSink)
    assert sink.delivery == "exactly-once"


def _counts(
    monkeypatch: pytest.MonkeyPatch, between: Callable[[Stream[Any]], Stream[Any]]
) -> dict[str, tuple[int, int]]:
    """What each step of a flow from topic to topic has taken and given."""
    time = FakeTime()
    monkeypatch.setattr(
        _ends, "KafkaSource", lambda *_, **__: ScriptedSource({"a": [READ]}, [], time)
    )
    monkeypatch.setattr(_ends, "KafkaSink", lambda *_, **__: LogSink([]))
    flow = Dataflow("flow")
    read = kop.input("in", flow, brokers=[], topics=[])
    op.output("errs", read.errs, TestingSink([]))
    kop.output("out", between(read.oks), brokers=[], topic="t")
    monitor = Monitor(time.monotonic_s)
    run_flow(flow, RunOptions(clock=time, waiter=time, monitor=monitor))
    [(snapshot, _)] = monitor.workers()
    return {name: (step.items_in, step.items_out) for name, step in snapshot.steps.items()}


def test_records_are_counted_once_at_the_ends(monkeypatch: pytest.MonkeyPatch):
    """An input gives what its source gives, an output takes what its sink takes, errors too."""
    merged = _counts(monkeypatch, lambda s: op.merge("merge", s, s))
    assert merged == {
        "flow.in": (0, 3),
        "flow.errs": (1, 0),
        "flow.merge": (4, 4),
        "flow.out": (4, 0),
    }


def test_what_is_done_with_messages_does_not_count_as_reading(monkeypatch: pytest.MonkeyPatch):
    """Steps that share a loop behind the source go by the first of them that a user wrote."""
    mapped = _counts(monkeypatch, lambda s: op.filter("one", s, lambda m: m.value == b"a"))
    assert mapped == {
        "flow.in": (0, 3),
        "flow.one": (3, 2),
        "flow.errs": (1, 0),
        "flow.out": (1, 0),
    }


def test_a_policy_that_does_not_exist_is_refused():
    """While the flow is built."""
    with pytest.raises(ValueError, match="`on_error` of step 'flow.in' must be"):
        kop.input(
            "in",
            Dataflow("flow"),
            brokers=["localhost:9092"],
            topics=["t"],
            on_error="drop",  # type: ignore[arg-type]
        )
