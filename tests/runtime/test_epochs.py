"""The life of an epoch on one worker: who is called when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.testing import TestingSink, TestingSource
from tests.runtime.scripted import (
    FakeTime,
    Log,
    LogSink,
    PartitionedLogSink,
    ScriptedSource,
    Wait,
    run,
)


def test_every_step_of_two_epochs():
    """All of the protocol, in its order; the last epoch comes with the end of the input."""
    log: Log = []
    time = FakeTime()
    flow = Dataflow("flow")
    source = ScriptedSource({"in": [["a"], Wait(10), ["b"]]}, log, time)
    op.output("out", op.input("in", flow, source), LogSink(log))
    run(flow, time=time)
    assert log == [
        ("open", "sink"),
        ("open", "in"),
        ("poll", "in", ["a"]),
        ("write", "sink", "a"),
        ("poll", "in", []),
        # Ten seconds are over; the poll was due as well, and came first.
        ("poll", "in", ["b"]),
        ("write", "sink", "b"),
        ("snapshot", "in", 3),
        ("flush", "sink"),
        ("prepare", "sink", 1),
        ("publish", "sink", 1, b"row of 1"),
        ("on_commit", "in", 3),
        ("raise", "in"),
        ("snapshot", "in", 3),
        ("flush", "sink"),
        ("prepare", "sink", 2),
        ("publish", "sink", 2, b"row of 2"),
        ("on_commit", "in", 3),
        ("close", "in"),
        ("close", "sink"),
    ]


@pytest.mark.parametrize("method", ["flush", "prepare", "publish"])
def test_what_is_pending_is_asked_again_until_it_is_not(method: str):
    """In the same place of the same order; no record is written meanwhile."""
    log: Log = []
    flow = Dataflow("flow")
    source = ScriptedSource({"in": [["a"], ["b"]]}, log)
    op.output("out", op.input("in", flow, source), LogSink(log, **{method: 3}))
    time = run(flow, interval_s=0)
    calls = [entry[0] for entry in log if entry[1] == "sink"]
    epoch = ["write", "flush", "prepare", "publish"]
    epoch[epoch.index(method) : epoch.index(method)] = [f"{method} pending"] * 3
    assert calls == ["open", *epoch, *epoch, *epoch[1:], "close"]
    assert time.waits
    assert all(0 < wait < 0.01 for wait in time.waits)


def test_without_an_interval_each_batch_is_committed_before_the_next_poll():
    """Of whichever source and partition; an empty batch is no epoch."""
    log: Log = []
    flow = Dataflow("flow")
    a = op.input("a", flow, ScriptedSource({"a1": [[1], [2]], "a2": [[3]]}, log))
    b = op.input("b", flow, ScriptedSource({"b": [[], [4]]}, log))
    op.output("out", op.merge("merge", a, b), LogSink(log))
    run(flow, interval_s=0)
    steps = [entry for entry in log if entry[0] in {"poll", "publish"}]
    assert steps == [
        ("poll", "a1", [1]), ("publish", "sink", 1, b"row of 1"),
        ("poll", "b", []),
        ("poll", "a2", [3]), ("publish", "sink", 2, b"row of 2"),
        ("poll", "a1", [2]), ("publish", "sink", 3, b"row of 3"),
        ("poll", "b", [4]), ("publish", "sink", 4, b"row of 4"),
        ("publish", "sink", 5, b"row of 5"),
    ]  # fmt: skip
    for part in ("a1", "a2", "b"):
        heard = [entry[2] for entry in log if entry[:2] == ("on_commit", part)]
        noted = [entry[2] for entry in log if entry[:2] == ("snapshot", part)]
        assert heard == noted
        assert len(heard) == 5


def test_without_an_interval_a_timer_makes_an_epoch_too():
    """What a timer emitted is committed though no record comes."""
    log: Log = []
    time = FakeTime()
    flow = Dataflow("flow")
    source = ScriptedSource({"in": [[("k", 1)], Wait(100)]}, log, time)
    s = op.stateful_batch("late", op.input("in", flow, source), lambda _: Once(time))
    op.output("out", s, LogSink(log))
    run(flow, interval_s=0, time=time)
    written = [entry[:3] for entry in log if entry[0] in {"write", "publish"}]
    assert written == [
        ("publish", "sink", 1),
        ("write", "sink", ("k", "due")),
        ("publish", "sink", 2),
        ("publish", "sink", 3),
    ]


class Once(op.StatefulBatchLogic[Any, Any, None]):
    """Notified five seconds after its first value."""

    def __init__(self, time: FakeTime) -> None:
        self._due: Any = time.now_s + 5

    def on_batch(self, values: list[Any]) -> Any:
        return [], False

    def on_notify(self) -> Any:
        self._due = None
        return ["due"], False

    def notify_at(self) -> Any:
        return None if self._due is None else datetime.fromtimestamp(self._due, UTC)

    def snapshot(self) -> None:
        return None


def test_an_idle_flow_has_epochs_too():
    """The interval is that of the clock, not of records."""
    log: Log = []
    time = FakeTime()
    flow = Dataflow("flow")
    source = ScriptedSource({"in": [["a"], Wait(35)]}, log, time)
    op.output("out", op.input("in", flow, source), LogSink(log))
    run(flow, time=time)
    assert [entry[2] for entry in log if entry[0] == "publish"] == [1, 2, 3, 4]


def test_inspect_debug_sees_epochs_and_the_worker():
    """From epoch 1 on, on worker 0."""
    seen: list[Any] = []
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource(["a", "b"]))
    op.inspect_debug("look", s, lambda *what: seen.append(what))
    run(flow, interval_s=0)
    assert seen == [("flow.look", "a", 1, 0), ("flow.look", "b", 2, 0)]


def test_all_sinks_prepare_before_any_publishes():
    """An epoch is durable as a whole."""
    log: Log = []
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([1]))
    op.output("one", s, LogSink(log, "one", flush=2))
    op.output("two", op.map("map", s, str), LogSink(log, "two", prepare=2))
    # Another stage: it is connected to nothing of the first.
    op.output("three", op.input("other", flow, TestingSource([2])), LogSink(log, "three"))
    run(flow)
    calls = [entry[0] for entry in log if entry[0] in {"prepare", "publish"}]
    assert calls == ["prepare"] * 3 + ["publish"] * 3


def test_partitions_of_a_sink_are_opened_at_their_first_value():
    """Values of a key go to one partition; only open ones take part in epochs."""
    log: Log = []
    flow = Dataflow("flow")
    items = [("0", "a"), ("2", "b"), ("3", "c"), ("0", "d")]
    s = op.input("in", flow, TestingSource(items, batch_size=4))
    op.output("out", s, PartitionedLogSink(["z", "x", "y"], log))
    run(flow)
    assert log == [
        ("open", "x"), ("write", "x", "a", "c", "d"),
        ("open", "z"), ("write", "z", "b"),
        ("snapshot", "x"), ("snapshot", "z"),
    ]  # fmt: skip


def test_a_plain_sink_needs_nothing_of_epochs():
    """`write_batch` alone will do, as in Bytewax."""
    out: list[int] = []
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource([1, 2, 3])), TestingSink(out))
    run(flow, interval_s=0)
    assert out == [1, 2, 3]


def test_an_epoch_waits_for_a_slow_sink():
    """However long the interval is over, epoch 2 begins when epoch 1 is published."""
    log: Log = []
    time = FakeTime()
    flow = Dataflow("flow")
    source = ScriptedSource({"in": [["a"], Wait(1), ["b"], Wait(1)]}, log, time)
    op.output("out", op.input("in", flow, source), LogSink(log, flush=10_000))
    run(flow, time=time, interval_s=0.1)
    epochs = [entry[2] for entry in log if entry[0] in {"prepare", "publish"}]
    assert epochs == sorted(epochs)
    assert epochs == [epoch for epoch in range(1, len(epochs) // 2 + 1) for _ in "pp"]
