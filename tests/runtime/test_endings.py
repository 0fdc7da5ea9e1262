"""How a run ends: at the end of input, by a drain, an abort, an error, an interrupt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import AbortExecution, StatelessSinkPartition
from engine.dataflow import Dataflow, Stream
from engine.errors import EngineRuntimeError
from engine.runtime import Drain, RunOptions, run_flow
from engine.testing import TestingSink, TestingSource, run_main
from tests.runtime.scripted import FakeTime, Log, LogSink, ScriptedSource, Wait, run


def logged_flow(
    log: Log,
    script: list[Any],
    build: Callable[[Stream[Any]], Stream[Any]] = lambda stream: stream,
    sink: LogSink | None = None,
) -> Dataflow:
    """A flow whose source and sink log their calls."""
    flow = Dataflow("flow")
    stream = build(op.input("in", flow, ScriptedSource({"in": script}, log)))
    op.output("out", stream, sink or LogSink(log))
    return flow


def names(log: Log, *wanted: str) -> list[str]:
    """The calls of these names, in order."""
    return [entry[0] for entry in log if entry[0] in wanted]


class Eof(op.StatefulBatchLogic[Any, Any, None]):
    """Emits at the end of input, and counts how often it comes."""

    def __init__(self) -> None:
        self.ends = 0

    def on_batch(self, values: list[Any]) -> Any:
        return [], False

    def on_eof(self) -> Any:
        self.ends += 1
        return [f"end {self.ends}"], False

    def notify_at(self) -> Any:
        return datetime(2100, 1, 1, tzinfo=UTC)

    def snapshot(self) -> None:
        return None


def at_end(stream: Stream[Any]) -> Stream[Any]:
    return op.stateful_batch("eof", stream, lambda _resume: Eof())


# The end of input


def test_the_end_of_input_calls_every_key_once_in_key_order():
    """Keys of different types have an order too; open timers don't hold the run up."""
    log: Log = []
    keys = ["b", 2, ("a", 1), "a", b"x", 1]
    run(logged_flow(log, [[(key, None)] for key in keys], at_end), interval_s=0)
    written = [entry[2:] for entry in log if entry[0] == "write"]
    assert written == [tuple((key, "end 1") for key in [1, 2, "a", "b", b"x", ("a", 1)])]


def test_what_the_end_emits_is_part_of_the_last_epoch():
    """It goes through all steps behind, their own ends last, and is flushed and published."""
    log: Log = []

    def build(stream: Stream[Any]) -> Stream[Any]:
        return op.count_final("count", at_end(stream), lambda record: record[0])

    run(logged_flow(log, [[("a", 1), ("b", 2)]], build))
    assert [entry for entry in log if entry[0] in {"raise", "write", "flush", "publish"}] == [
        ("raise", "in"),
        ("write", "sink", ("a", 1), ("b", 1)),
        ("flush", "sink"),
        ("publish", "sink", 1, b"row of 1"),
    ]


def test_an_empty_input_is_an_epoch_too():
    """The position of a source that had nothing is worth keeping."""
    log: Log = []
    run(logged_flow(log, []))
    assert names(log, "prepare", "publish", "on_commit") == ["prepare", "publish", "on_commit"]


# Drain


@pytest.mark.parametrize("interval_s", [0, 10])
def test_a_drain_is_a_last_epoch_and_no_end_of_input(interval_s: float):
    """Sources are not read any further; what was read is written, and nobody hears of an end."""
    log: Log = []
    drain = Drain()

    def request(record: Any) -> Any:
        drain.requested = record[1] == 2
        return record

    def build(stream: Stream[Any]) -> Stream[Any]:
        return op.merge("both", stream, at_end(op.map("drain", stream, request)))

    flow = logged_flow(log, [[("k", n)] for n in range(1, 9)], build)
    run(flow, interval_s=interval_s, drain=drain)
    assert [entry[2] for entry in log if entry[0] == "write"] == [("k", 1), ("k", 2)]
    assert names(log, "publish", "on_commit", "close")[-4:] == [
        "publish", "on_commit", "close", "close"
    ]  # fmt: skip
    assert "raise" not in names(log, "raise")


def test_a_drain_wakes_an_idle_run():
    """Another thread may ask for it while the worker waits for its clock."""
    log: Log = []
    flow = Dataflow("flow")
    time = FakeTime()
    op.output(
        "out", op.input("in", flow, ScriptedSource({"in": [Wait(10**6)]}, log, time)), LogSink(log)
    )
    drain = Drain()

    def wait(seconds: float) -> None:
        time.now_s += seconds
        drain.requested = len(time.waits) == 3
        time.waits.append(seconds)

    time.wait = wait  # type: ignore[method-assign]
    run(flow, time=time, drain=drain)
    assert names(log, "publish", "close")[-3:] == ["publish", "close", "close"]


def test_a_drain_while_an_epoch_closes_is_not_forgotten():
    """That epoch is finished, and one more is the last."""
    log: Log = []
    drain = Drain()
    sink = LogSink(log, flush=1)
    real = sink.build

    def build(*site: Any) -> Any:
        part = real(*site)
        flush = part.flush

        def flush_and_drain() -> Any:
            drain.requested = True
            return flush()

        part.flush = flush_and_drain
        return part

    sink.build = build  # type: ignore[method-assign]
    run(logged_flow(log, [[1], [2], [3]], sink=sink), interval_s=0, drain=drain)
    assert names(log, "poll", "prepare", "publish") == [
        "poll", "prepare", "publish", "prepare", "publish"
    ]  # fmt: skip


# Abort


@pytest.mark.parametrize("interval_s", [0, 10])
def test_an_abort_leaves_the_open_epoch_uncommitted(interval_s: float):
    """The run returns as if nothing was wrong; everything is closed."""
    log: Log = []
    abort = AbortExecution("stop")
    run(logged_flow(log, [["a"], ["b"], abort, ["c"]]), interval_s=interval_s)
    committed = 2 if interval_s == 0 else 0
    assert names(log, "write", "prepare", "publish", "on_commit").count("write") == 2
    for call in ("prepare", "publish", "on_commit"):
        assert names(log, call) == [call] * committed
    assert names(log, "close") == ["close", "close"]


def test_an_abort_does_not_hide_that_closing_failed():
    """An abort is no error, but what can't be closed is."""
    log: Log = []
    sink = LogSink(log)
    sink.fail["close"] = OSError("disk full")
    with pytest.raises(EngineRuntimeError, match="'flow.out' failed: OSError: disk full"):
        run(logged_flow(log, [AbortExecution()], sink=sink))


# Errors


def test_an_error_closes_everything_and_commits_nothing():
    """Not even what came before it in the epoch."""
    log: Log = []
    flow = logged_flow(log, [["a"], ["b"]], lambda s: op.map("bad", s, lambda x: {"a": 1}[x]))
    with pytest.raises(EngineRuntimeError, match="'flow.bad' failed on 'b': KeyError"):
        run(flow)
    assert names(log, "flush", "prepare", "publish", "on_commit") == []
    assert names(log, "close") == ["close", "close"]


@pytest.mark.parametrize("method", ["write", "flush", "prepare", "publish"])
def test_an_error_of_a_sink_names_its_step(method: str):
    """In whichever call; and it is closed."""
    log: Log = []
    sink = LogSink(log)
    sink.fail[method] = ValueError("no")
    with pytest.raises(EngineRuntimeError, match="step 'flow.out' failed: ValueError: no"):
        run(logged_flow(log, [["a"]], sink=sink))
    assert names(log, "close") == ["close", "close"]
    assert names(log, "on_commit") == []


@pytest.mark.parametrize("method", ["next_batch", "snapshot", "on_commit", "next_awake"])
def test_an_error_of_a_source_names_its_step(method: str):
    """In whichever call."""

    class Failing(ScriptedSource):
        def build_part(self, *arguments: Any) -> Any:
            part = super().build_part(*arguments)

            class Part(type(part)):  # type: ignore[misc]
                def next_awake(self) -> Any:
                    return None

            setattr(Part, method, lambda *_: {}["no"])
            part.__class__ = Part
            part.next_batch = getattr(part, "next_batch")  # noqa: B009
            return part

    log: Log = []
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, Failing({"in": [["a"]]}, log)), LogSink(log))
    with pytest.raises(EngineRuntimeError, match=r"step 'flow\.in' failed.*KeyError") as caught:
        run(flow)
    assert caught.value.step_id == "flow.in"
    assert names(log, "close") == ["close", "close"]


def test_all_that_was_opened_is_closed_if_the_next_can_not_be():
    """Also the partitions of the very source that failed."""
    log: Log = []

    class Half(ScriptedSource):
        def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
            if for_part == "c":
                raise OSError("no such file")
            return super().build_part(step_id, for_part, resume_state)

    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, Half({"a": [], "b": [], "c": []}, log)), LogSink(log))
    with pytest.raises(EngineRuntimeError, match="failed while opening its source: OSError"):
        run(flow)
    assert log == [
        ("open", "sink"), ("open", "a"), ("open", "b"),
        ("close", "a"), ("close", "b"), ("close", "sink"),
    ]  # fmt: skip


class Stubborn(ScriptedSource):
    """Partitions that log that they are closed, and then fail."""

    def build_part(self, *arguments: Any) -> Any:
        part = super().build_part(*arguments)
        close = part.close

        def close_and_fail() -> None:
            close()
            raise OSError(part.name)

        part.close = close_and_fail  # type: ignore[method-assign]
        return part


def stubborn_flow(log: Log, script: list[Any]) -> Dataflow:
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, Stubborn({"a": script, "b": []}, log)), LogSink(log))
    return flow


def test_what_can_not_be_closed_fails_the_run_and_the_rest_is_closed():
    """The first error is raised, the others are noted."""
    log: Log = []
    with pytest.raises(EngineRuntimeError, match="step 'flow.in' failed: OSError: a") as caught:
        run(stubborn_flow(log, []))
    assert [entry[1] for entry in log if entry[0] == "close"] == ["a", "b", "sink"]
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__notes__ == [
        "while closing step 'flow.in'",
        "and then, while closing step 'flow.in': OSError: b",
    ]


def test_errors_in_closing_are_noted_on_the_error_that_ended_the_run():
    """They don't take its place."""
    log: Log = []
    with pytest.raises(EngineRuntimeError, match="ValueError: first") as caught:
        run(stubborn_flow(log, [ValueError("first")]))
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__notes__ == [
        "and then, while closing step 'flow.in': OSError: a",
        "and then, while closing step 'flow.in': OSError: b",
    ]


def test_errors_in_closing_are_noted_if_the_start_failed():
    """What was opened and can't be closed doesn't hide what could not be opened."""
    log: Log = []

    class Sink(LogSink):
        def build(self, *_: Any) -> StatelessSinkPartition[Any]:
            raise ValueError("no sink")

    flow = Dataflow("flow")
    op.output("one", op.input("in_one", flow, Stubborn({"a": []}, log)), LogSink(log))
    op.output("two", op.input("in_two", flow, TestingSource([])), Sink(log))
    with pytest.raises(EngineRuntimeError, match="'flow.two' failed while opening its sink") as why:
        run(flow)
    assert why.value.__notes__ == ["and then, while closing step 'flow.in_one': OSError: a"]
    assert names(log, "close") == ["close", "close"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_closes_everything_and_goes_on_as_it_is(kind: type[BaseException]):
    """It is no error of the flow, so nothing is put around it."""
    log: Log = []

    def interrupt(_record: Any) -> Any:
        raise kind

    with pytest.raises(kind):
        run(logged_flow(log, [["a"]], lambda s: op.map("stop", s, interrupt)))
    assert names(log, "flush", "publish") == []
    assert names(log, "close") == ["close", "close"]


# Again, and side by side


def stateful_flow(items: Any, out: list[Any]) -> Dataflow:
    """A flow with state of every kind."""
    flow = Dataflow("flow")
    keyed = op.key_on("key", op.input("in", flow, TestingSource(items)), lambda x: str(x % 3))
    summed = op.stateful_map("sum", keyed, lambda total, x: ((total or 0) + x,) * 2)
    lists = op.collect("lists", summed, timedelta(minutes=1), 2)
    op.output("out", op.join("join", lists, op.count_final("count", keyed, lambda r: r[0])),
              TestingSink(out))  # fmt: skip
    return flow


def test_a_flow_runs_twice_with_the_same_result():
    """No state is left in it from the first run."""
    out: list[Any] = []
    flow = stateful_flow(range(20), out)
    run_main(flow)
    once = list(out)
    out.clear()
    run_main(flow)
    assert out == once != []


def test_a_flow_runs_again_after_an_error():
    """Nor from a run that failed."""
    log: Log = []
    fail = [True]

    def mapper(total: int | None, value: int) -> tuple[int, int]:
        if value == 3 and fail:
            raise ValueError(fail.pop())
        return (total or 0) + value, (total or 0) + value

    flow = logged_flow(
        log, [[("k", n)] for n in (1, 2, 3)], lambda s: op.stateful_map("sum", s, mapper)
    )
    with pytest.raises(EngineRuntimeError):
        run(flow)
    log.clear()
    run(flow)
    assert [entry[2] for entry in log if entry[0] == "write"] == [("k", 1), ("k", 3), ("k", 6)]


def test_flows_run_on_any_thread_side_by_side():
    """Two runs of two flows, interleaved record by record, and neither knows of the other."""
    alone: list[Any] = []
    run_main(stateful_flow(range(30), alone))
    outs: list[list[Any]] = [[], []]
    both = threading.Barrier(2)

    def items(number: int) -> Any:
        for item in range(30):
            both.wait(timeout=60)
            yield item
        del number

    threads = [
        threading.Thread(target=run_main, args=[stateful_flow(items(i), outs[i])]) for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert outs == [alone, alone]


@pytest.mark.parametrize("seconds", [-1, -0.001])
def test_a_negative_interval_is_refused(seconds: float):
    """There is no such thing."""
    with pytest.raises(ValueError, match="the epoch interval must not be negative"):
        run_flow(stateful_flow([], []), RunOptions(timedelta(seconds=seconds)))
