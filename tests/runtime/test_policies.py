"""What becomes of records that a step's function raises for: the run ends, or goes on without."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.operators as op
from engine.connectors import AbortExecution
from engine.dataflow import Dataflow, Stream, operator
from engine.errors import (
    ConnectorError,
    EngineRuntimeError,
    FlowError,
    InternalError,
    UnavailableError,
    UserCodeError,
)
from engine.operators._kernels import MapKernel, RecordKernel, StepContext
from engine.operators._stateful_kernels import StatefulMapKernel
from engine.runtime import RunOptions, plan, run_flow
from engine.runtime._fusion import SOURCE_NAME, fuse
from engine.testing import TestingSink, TestingSource, run_main
from engine.testing.sim import SimOptions, simulate
from tests.runtime.scripted import FakeTime

Build = Callable[[str, Stream[Any]], Stream[Any]]
Oracle = Callable[[list[Any]], list[Any]]


class BadRecordError(Exception):
    """What the functions here raise."""


def raising_at(bad: int, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """As `fn`, but it raises for pairs whose value is a multiple of a number."""

    def call(record: Any) -> Any:
        if record[1] % bad == 0:
            raise BadRecordError(record)
        return fn(record)

    return call


def each(fn: Callable[[Any], Iterable[Any]]) -> Oracle:
    """The oracle of a step that leaves records out that its function raises for."""

    def all_of(records: list[Any]) -> list[Any]:
        made: list[Any] = []
        for record in records:
            try:
                made += list(fn(record))
            except BadRecordError:
                continue
        return made

    return all_of


def some_then_raise(record: Any) -> Iterable[Any]:
    """Gives one record, and raises at the second of some."""
    yield record
    if record[1] % 5 == 0:
        raise BadRecordError(record)
    yield record[0], record[1] + 1


def sum_or_raise(total: int | None, value: int) -> tuple[int | None, int]:
    """A running sum that forgets at a multiple of 7 and raises at a multiple of 3."""
    if value % 3 == 0:
        raise BadRecordError(value)
    total = (total or 0) + value
    return (None if value % 7 == 0 else total), total


def sums(records: list[Any]) -> list[Any]:
    """The oracle of a step with it."""
    totals: dict[Any, int | None] = {}
    made: list[Any] = []
    for key, value in records:
        try:
            totals[key], total = sum_or_raise(totals.get(key), value)
        except BadRecordError:
            continue
        made.append((key, total))
    return made


def sum_then_raise(total: int | None, value: int) -> tuple[int, Iterable[int]]:
    """A running sum, whose values to emit raise half-way."""
    total = (total or 0) + value

    def values() -> Iterable[int]:
        yield total
        if value % 3 == 0:
            raise BadRecordError(value)

    return total, values()


def sums_of_good(records: list[Any]) -> list[Any]:
    totals: dict[Any, int] = {}
    made: list[Any] = []
    for key, value in records:
        if value % 3:
            totals[key] = totals.get(key, 0) + value
            made.append((key, totals[key]))
    return made


STEPS: dict[str, tuple[Build, Oracle]] = {
    "map": (
        lambda i, s: op.map(i, s, raising_at(4, lambda r: (r[0], r[1] + 1))),
        each(lambda r: [raising_at(4, lambda r: (r[0], r[1] + 1))(r)]),
    ),
    "filter": (
        lambda i, s: op.filter(i, s, raising_at(5, lambda r: r[1] % 3 != 0)),
        each(lambda r: [r] if raising_at(5, lambda r: r[1] % 3)(r) else []),
    ),
    "flat_map": (lambda i, s: op.flat_map(i, s, some_then_raise), each(some_then_raise)),
    "filter_map": (
        lambda i, s: op.filter_map(i, s, raising_at(4, lambda r: None if r[1] == 5 else r)),
        each(lambda r: [r] if raising_at(4, lambda r: r[1] != 5)(r) else []),
    ),
    "map_value": (
        lambda i, s: op.map_value(i, s, lambda v: raising_at(6, lambda r: r[1] * 3)((0, v))),
        each(lambda r: [raising_at(6, lambda r: (r[0], r[1] * 3))(r)]),
    ),
    "key_on": (
        lambda i, s: op.map_value(f"{i}v", op.key_on(i, s, raising_at(4, lambda r: r[0])), list),
        each(lambda r: [(r[0], [*r])] if r[1] % 4 else []),
    ),
    "stateful_map": (lambda i, s: op.stateful_map(i, s, sum_or_raise), sums),
    "stateful_flat_map": (lambda i, s: op.stateful_flat_map(i, s, sum_then_raise), sums_of_good),
}
ONCE = {"key_on"}
"""Their records have another form afterwards, so nothing of these comes behind them."""


@given(
    names=st.lists(st.sampled_from([n for n in STEPS if n not in ONCE]), min_size=1, max_size=5),
    last=st.sampled_from([*STEPS]),
    records=st.lists(st.tuples(st.sampled_from("ab"), st.integers(-9, 9)), max_size=20),
    batch_size=st.integers(1, 7),
)
def test_any_run_of_steps_goes_on_without_the_records_that_raise(
    names: list[str], last: str, records: list[Any], batch_size: int
):
    """What comes out is what each step makes of the others; state is as if they never came."""
    flow, out = Dataflow("flow", on_error="skip"), []
    stream: Stream[Any] = op.input("in", flow, TestingSource(records, batch_size))
    wanted = records
    for number, name in enumerate([*names, last]):
        build, oracle = STEPS[name]
        stream, wanted = build(f"s{number}", stream), oracle(wanted)
    op.output("out", stream, TestingSink(out))
    run_main(flow)
    assert out == wanted


@pytest.mark.parametrize("name", [*STEPS])
def test_fail_is_the_default_and_writes_the_lines_it_always_wrote(name: str):
    """A step about which nothing is said ends the run, and its loop has no `try`."""
    flow, out = Dataflow("flow"), []
    records = [("a", value) for value in range(1, 61)]
    stream = STEPS[name][0]("s", op.input("in", flow, TestingSource(records)))
    op.output("out", stream, TestingSink(out))
    with pytest.raises(EngineRuntimeError, match=r"flow\.s"):
        run_main(flow)
    run = [
        (s.kernel, StepContext(s.step_id, 0, 1, SimpleNamespace(epoch=1), float))
        for s in plan(flow).steps
    ]
    loop: Any = fuse([(kernel, step) for kernel, step in run if isinstance(kernel, RecordKernel)])
    assert "try:" not in loop.__globals__[SOURCE_NAME]


def test_a_guarded_step_is_the_only_one_in_its_try():
    """What the next step raises is not taken for this one's."""
    flow, out = Dataflow("flow"), []
    stream = op.input("in", flow, TestingSource([("a", 1)]))
    stream = op.flat_map("good", stream, lambda r: [r]).on_error("skip")
    stream = op.map("bad", stream, raising_at(1, tuple))
    op.output("out", stream, TestingSink(out))
    with pytest.raises(EngineRuntimeError, match=r"step 'flow\.bad' failed") as caught:
        run_main(flow)
    assert isinstance(caught.value.__cause__, BadRecordError)


@pytest.mark.parametrize(
    "error",
    [
        AbortExecution("enough"),
        MemoryError(),
        InternalError("ours"),
        ConnectorError("the sink's"),
        UnavailableError("not now"),
        KeyboardInterrupt(),
        SystemExit(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("step", ["map", "branch", "flat_map_batch"])
def test_what_is_about_the_run_is_never_the_records_fault(error: BaseException, step: str):
    """The engine's own control flow goes through, whatever the policy."""

    def fail(_record: Any) -> Any:
        raise error

    flow, out = Dataflow("flow", on_error="skip"), []
    stream: Stream[Any] = op.input("in", flow, TestingSource([1, 2]))
    if step == "branch":
        stream = op.branch("s", stream, fail).trues
    else:
        stream = getattr(op, step)("s", stream, fail)
    op.output("out", stream, TestingSink(out))
    if isinstance(error, AbortExecution):
        run_main(flow)
        assert out == []
        return
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is seen below
        run_main(flow)
    assert error in (caught.value, caught.value.__cause__)


@pytest.mark.parametrize(
    ("build", "records", "wanted"),
    [
        (lambda s: op.filter("s", s, lambda n: n), [True, 1, False], [True]),
        (lambda s: op.flat_map("s", s, lambda n: n), [[1], 2, [3]], [1, 3]),
        (lambda s: op.flatten("s", s), [[1], 2, [3]], [1, 3]),
        (lambda s: op.map_value("s", s, str), [("a", 1), 2, ("b", 3)], [("a", "1"), ("b", "3")]),
        (lambda s: op.map_value("s", s, str), [("a", 1), (1, 2, 3)], [("a", "1")]),
        (lambda s: op.key_rm("s", s), [("a", 1), 2], [1]),
        (
            lambda s: op.enrich_cached("s", s, {1: "one"}.__getitem__, lambda c, n: c.get(n)),
            [1, 2, 1],
            ["one", "one"],
        ),
        (lambda s: op.key_on("s", s, lambda n: n), ["a", None], [("a", "a")]),
        (
            lambda s: op.stateful_map("s", s, lambda n, v: (n, v) if v else v),
            [("a", 1), ("a", 0), 7, (None, 1)],
            [("a", 1)],
        ),
        (
            lambda s: op.fold_final("s", s, list, lambda a, v: [*a, 6 // v]),
            [("a", 2), ("a", 0)],
            [("a", [3])],
        ),
        (
            lambda s: op.reduce_final("s", s, lambda a, v: a // v),
            [("a", 6), ("a", 0), ("a", 2)],
            [("a", 3)],
        ),
        (lambda s: op.count_final("s", s, lambda n: 6 // n), [1, 0, 1], [(6, 2)]),
        (lambda s: op.branch("s", s, lambda n: n).trues, [True, 1, False], [True]),
        (lambda s: op.flat_map_batch("s", s, lambda b: [6 // n for n in b]), [1, 0, 2], [6, 3]),
        (lambda s: op.flat_map_batch("s", s, lambda b: None if b == [1] else b), [1, 2], [2]),
        (
            lambda s: op.flat_map_batch("s", s, lambda b: (6 // k for n in b for k in (n + 1, n))),
            [1, 0, 2],
            [3, 6, 2, 3],
        ),
    ],
)
def test_what_a_step_refuses_is_left_out_too(
    build: Callable[[Any], Any], records: list[Any], wanted: list[Any]
):
    """A result or a record that the step can't work with counts as raised."""
    flow, out = Dataflow("flow", on_error="skip"), []
    op.output("out", build(op.input("in", flow, TestingSource(records))), TestingSink(out))
    run_main(flow)
    assert out == wanted


@pytest.mark.parametrize("operator_name", ["count_final", "reduce_final"])
def test_steps_that_combine_batches_among_several_workers_leave_out_single_records(
    operator_name: str,
):
    """Where there is a policy they don't combine, or one record would spoil its batch."""
    flow, out = Dataflow("flow", on_error="skip"), []
    if operator_name == "count_final":
        stream = op.input("in", flow, TestingSource([1, 0, 1, 0], 4))
        counted = op.count_final("s", stream, lambda n: 6 // n)
    else:
        stream = op.input("in", flow, TestingSource([(6, 2), (6, 0), (6, 1)], 3))
        counted = op.reduce_final("s", stream, lambda a, b: a // b)
    op.output("out", counted, TestingSink(out))
    simulate(flow, 0, SimOptions(workers=2))
    assert out == [(6, 2)]


def test_a_batch_that_raises_is_left_out_as_a_whole():
    """The function may have changed the list; what is left out is what it was given."""
    flow, out, letters = Dataflow("flow"), [], []

    def spoil(batch: list[int]) -> list[int]:
        if 3 in batch:
            batch.clear()
            raise BadRecordError
        return batch

    stream = op.input("in", flow, TestingSource(range(6), 2))
    stream = op.flat_map_batch("s", stream, spoil).on_error("dead_letter")
    op.output("out", stream, TestingSink(out))
    records = op.map("record", op.dead_letters("dead", flow), lambda letter: letter.record)
    op.output("letters", records, TestingSink(letters))
    run_main(flow)
    assert (out, letters) == ([0, 1, 4, 5], [2, 3])


def test_a_state_with_a_time_to_live_is_as_before_and_as_old_as_before():
    """A record that is left out neither ends a silence nor moves the key's time."""
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def at(value: tuple[int, bool]) -> datetime:
        return start + timedelta(seconds=value[0])

    def count(n: int | None, value: tuple[int, bool]) -> tuple[int, int]:
        if not value[1]:
            raise BadRecordError
        return (n or 0) + 1, (n or 0) + 1

    times = [(0, True), (8, False), (12, True), (30, False), (14, True), (40, False), (25, True)]
    flow, out = Dataflow("flow"), []
    stream = op.input("in", flow, TestingSource([("a", t) for t in times]))
    ttl = op.TTL(timedelta(seconds=10), event_time=at)
    stream = op.stateful_map("s", stream, count, ttl=ttl).on_error("skip")
    op.output("out", stream, TestingSink(out))
    run_main(flow)
    # The record at 12 finds a key that was last heard of at 0, for that at 8 never came; the one
    # at 14 finds it, and the one at 25 does not.
    assert out == [("a", 1), ("a", 1), ("a", 2), ("a", 1)]


def test_a_step_of_ones_own_hands_its_policy_to_those_it_is_made_of():
    """Unless they say something else; and what is said about the flow comes last."""

    @operator
    def parse(step_id: str, up: Stream[str]) -> Stream[Any]:
        numbers = op.map("number", up, int)
        return op.map("strict", numbers, lambda n: 6 // n).on_error("fail")

    flow, out = Dataflow("flow", on_error="dead_letter"), []
    stream = parse("parse", op.input("in", flow, TestingSource(["1", "x", "2"])))
    op.output("out", stream.on_error("skip"), TestingSink(out))
    said = {step.inner_id: step.on_error for step in plan(flow).steps}
    assert said["flow.parse.number"] == "skip"
    assert said["flow.parse.strict"] == "fail"
    run_main(flow)
    assert out == [6, 3]


def test_a_policy_that_there_is_not_is_refused():
    """Both where a step says it and where the flow does."""
    with pytest.raises(
        ValueError, match=r"`on_error` of dataflow 'flow' must be one of 'fail', 's"
    ):
        Dataflow("flow", on_error="ignore")  # type: ignore[arg-type]
    stream = op.input("in", Dataflow("flow"), TestingSource([1]))
    with pytest.raises(ValueError, match=r"of step 'flow.s' must be one of .*; got None"):
        op.map("s", stream, str).on_error(None)  # type: ignore[arg-type]


def test_a_policy_is_said_where_the_step_is_made():
    """Within another operator it would change a step that somebody else has made."""

    @operator
    def sneaky(step_id: str, up: Stream[Any]) -> Stream[Any]:
        return op.map("inner", up.on_error("skip"), str)

    stream = op.map("s", op.input("in", Dataflow("flow"), TestingSource([1])), str)
    with pytest.raises(ValueError, match=r"'flow.s.map.*' was not made in flow.t|was not made in"):
        sneaky("t", stream)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda s: op.merge("m", s).on_error("skip"), r"'flow.m'.*no function that is called"),
        (lambda s: op.redistribute("r", s).on_error("skip"), r"'flow.r'.*no function that is"),
    ],
)
def test_a_step_that_cannot_go_on_says_so_at_the_start(build: Callable[[Any], Any], words: str):
    """It doesn't pretend; where the flow says so such steps fail as ever."""
    flow, out = Dataflow("flow"), []
    op.output("out", build(op.input("in", flow, TestingSource([1]))), TestingSink(out))
    with pytest.raises(FlowError, match=words):
        run_main(flow)


def test_letters_say_all_that_there_is_to_know():
    """Record, key, step, exception, the user's own lines, source, epoch, worker, time."""
    flow, out, letters = Dataflow("flow"), [], []
    records = [("a", 1), ("b", 0), ("a", 2)]
    stream = op.input("in", flow, TestingSource(records, 2))

    def divide(total: int | None, value: int) -> tuple[int, int]:
        return (total or 0) + 6 // value, value

    stream = op.stateful_map("s", stream, divide).on_error("dead_letter")
    op.output("out", stream, TestingSink(out))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    simulate(flow, 0, SimOptions())
    (letter,) = letters
    assert (letter.step_id, letter.record, letter.key) == ("flow.s", ("b", 0), "b")
    assert letter.error_type == "builtins.ZeroDivisionError"
    assert "by zero" in letter.message
    assert letter.traceback.splitlines()[0] == "Traceback (most recent call last):"
    assert "in divide" in letter.traceback
    assert "engine" not in letter.traceback.replace("test_policies", "")
    assert (letter.source, letter.position) == ("flow.in/iterable", 2)
    assert (letter.attempts, letter.epoch, letter.worker) == (1, 1, 0)
    assert letter.at.year == 2024


def test_letters_of_all_workers_and_stages_reach_the_sink():
    """Whether before an exchange or behind it, each once, and none is the source's then."""
    flow, out, letters = Dataflow("flow", on_error="dead_letter"), [], []
    # Declared before the steps that its letters come from.
    dead = op.dead_letters("dead", flow)
    op.output("letters", op.map("pick", dead, lambda x: x), TestingSink(letters))
    stream = op.input("in", flow, TestingSource(range(40), 3))
    stream = op.map("early", op.redistribute("deal", stream), lambda n: n if n % 4 else 1 // 0)
    keyed = op.key_on("key", stream, lambda n: str(n % 7))
    summed = op.stateful_map("late", keyed, sum_or_raise)
    op.output("out", summed, TestingSink(out))
    simulate(flow, 3, SimOptions(workers=3))
    early = [letter for letter in letters if letter.step_id == "flow.early"]
    late = [letter for letter in letters if letter.step_id == "flow.late"]
    assert sorted(letter.record for letter in early) == list(range(0, 40, 4))
    wanted = [n for n in range(40) if n % 4 and n % 3 == 0]
    assert sorted(letter.record[1] for letter in late) == wanted
    assert len(out) == 40 - len(early) - len(late)
    assert {letter.source for letter in late} == {None}
    assert {letter.worker for letter in letters} == {0, 1, 2}
    assert len({letter.letter_id for letter in letters}) == len(letters)


def test_letters_have_no_letters():
    """A step that works on them fails at an error, and may not ask for anything in a circle."""
    flow = Dataflow("flow", on_error="dead_letter")
    stream = op.map("s", op.input("in", flow, TestingSource(["x"])), int)
    op.output("out", stream, TestingSink([]))
    bad = op.map("bad", op.dead_letters("dead", flow), lambda letter: letter.record // 2)
    op.output("letters", bad, TestingSink([]))
    with pytest.raises(EngineRuntimeError, match=r"flow\.bad"):
        run_main(flow)
    bad.on_error("dead_letter")
    with pytest.raises(FlowError, match=r"'flow.bad' works on dead letters"):
        run_main(flow)
    bad.on_error("skip")
    run_main(flow)


def test_a_taker_of_letters_that_nobody_writes_is_refused():
    """It would wait for ever."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource([1])), TestingSink([]))
    op.output("letters", op.dead_letters("dead", flow), TestingSink([]))
    with pytest.raises(FlowError, match=r"'flow.dead' takes dead letters, and no step"):
        run_main(flow)


def test_what_is_left_out_is_told_at_once_then_now_and_then_and_at_the_end():
    """A thousand bad records are a few lines."""
    lines: list[str] = []
    time = FakeTime()
    ticks = itertools.count(1)

    def parse(text: str) -> int:
        next(ticks)
        time.wait(0.015)
        return int(text)

    flow = Dataflow("flow")
    stream = op.input("in", flow, TestingSource(["x"] * 1000, 10))
    op.output("out", op.map("s", stream, parse).on_error("skip"), TestingSink([]))
    run_flow(flow, RunOptions(clock=time, waiter=time, tell=lines.append))
    told = [line for line in lines if "skipped" in line]
    assert told[0].startswith("step 'flow.s' has skipped 1 record so far on worker 0; the last one")
    assert "ValueError: invalid literal" in told[0]
    assert "skipped 1,000 records" in told[-1]
    assert len(told) == 3


def test_map_kernels_know_nothing_of_policies():
    """A step without failures writes the same lines as ever; with them, a handler around."""
    taken: list[Any] = []

    class Takes:
        def take(self, ex: Exception, record: Any) -> bool:
            taken.append((type(ex), record))
            return True

        def take_all(self, ex: Exception, batch: list[Any]) -> bool:
            raise NotImplementedError

    step = StepContext("s", 0, 1, SimpleNamespace(epoch=1), float, failures=Takes())
    loop = fuse([(MapKernel(int), step)])
    assert loop(["1", "x", "2"]) == [1, 2]
    assert taken == [(ValueError, "x")]
    loop = fuse([(MapKernel(lambda r: r), step), (StatefulMapKernel(lambda s, v: (v, v)), step)])
    assert loop([("a", 1), "no pair", ("a", 2)]) == [("a", 1), ("a", 2)]
    assert taken[1:] == [(UserCodeError, "no pair")]


class Adding(op.StatefulLogic[int, int, int]):
    """Adds values up, and raises at zero, having changed nothing; emits nothing at five."""

    def __init__(self, resume: int | None) -> None:
        if resume is None and self.refuse_new:
            raise BadRecordError
        self.total = resume or 0

    refuse_new = False

    def on_item(self, value: int) -> tuple[list[int], bool]:
        self.total += 6 // value and value
        return ([self.total], self.RETAIN) if value != 5 else (None, self.RETAIN)  # type: ignore[return-value]

    def notify_at(self) -> datetime | None:
        return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=self.total)

    def on_notify(self) -> tuple[list[int], bool]:
        return [-self.total], self.DISCARD

    def snapshot(self) -> int:
        return self.total


class AddingBatches(op.StatefulBatchLogic[int, int, int]):
    def __init__(self, resume: int | None) -> None:
        self.total = resume or 0

    def on_batch(self, values: list[int]) -> tuple[list[int], bool]:
        total = self.total + sum(6 // value and value for value in values)
        values.clear()
        self.total = total
        return [total], self.RETAIN

    def snapshot(self) -> int:
        return self.total


def test_an_object_of_a_key_goes_on_without_the_values_that_it_raises_for():
    """Each by itself, and the key's timer is the one that it was."""
    flow, out, letters = Dataflow("flow"), [], []
    records = [("a", 1), ("a", 0), "no pair", ("a", 2), ("b", 0), ("a", 5), ("b", 3)]
    stream = op.input(
        "in", flow, TestingSource([*records, TestingSource.PAUSE(timedelta(seconds=60))], 9)
    )
    stream = op.stateful("s", stream, Adding).on_error("dead_letter")
    op.output("out", stream, TestingSink(out))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    simulate(flow, 0, SimOptions())
    # What it did before its result was refused is undone: the five isn't added.
    assert out == [("a", 1), ("a", 3), ("b", 3), ("a", -3), ("b", -3)]
    assert [letter.record for letter in letters] == ["no pair", ("a", 0), ("a", 5), ("b", 0)]
    assert [letter.key for letter in letters] == [None, "a", "a", "b"]
    assert {letter.step_id for letter in letters} == {"flow.s.stateful_batch"}


def test_an_object_that_cannot_be_made_leaves_its_key_as_it_was(monkeypatch: pytest.MonkeyPatch):
    """The next value tries again."""
    monkeypatch.setattr(Adding, "refuse_new", True)
    flow, out = Dataflow("flow", on_error="skip"), []
    stream = op.input("in", flow, TestingSource([("a", 1), ("a", 2)]))

    def cure(record: Any) -> Any:
        if record == ("a", 2):
            monkeypatch.setattr(Adding, "refuse_new", False)
        return record

    op.output("out", op.stateful("s", op.map("cure", stream, cure), Adding), TestingSink(out))
    simulate(flow, 0, SimOptions())
    assert out == [("a", 2)]


def test_an_object_that_takes_batches_loses_a_keys_batch():
    """All values that it was given with the call that raised."""
    flow, out, letters = Dataflow("flow"), [], []
    records = [("a", 1), ("b", 2), ("a", 0), ("b", 1), ("a", 3), ("b", 3)]
    stream = op.input("in", flow, TestingSource(records, 4))
    stream = op.stateful_batch("s", stream, AddingBatches).on_error("dead_letter")
    op.output("out", stream, TestingSink(out))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    run_main(flow)
    assert out == [("b", 3), ("a", 3), ("b", 6)]
    assert [letter.record for letter in letters] == [("a", 1), ("a", 0)]


def test_raises_raises_whatever_the_flow_says():
    """It is there for that."""
    flow = Dataflow("flow", on_error="skip")
    op.raises("none", op.input("in", flow, TestingSource([1])))
    with pytest.raises(EngineRuntimeError, match="must not get any record"):
        run_main(flow)


def test_all_bad_records_become_letters_soon_enough():
    """A storm of them: none is lost, and few are told."""
    flow, letters = Dataflow("flow", on_error="dead_letter"), []
    stream = op.input("in", flow, TestingSource(range(5000), 100))
    op.output("out", op.map("s", stream, lambda n: n // 0), TestingSink([]))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    run_main(flow)
    assert [letter.record for letter in letters] == list(range(5000))


def test_what_a_timer_has_emitted_was_read_nowhere():
    """Its letter names no source, though the step is right behind one."""
    flow, letters = Dataflow("flow"), []
    items = [("a", 1), TestingSource.PAUSE(timedelta(seconds=60)), ("b", 1)]
    stream = op.stateful("sum", op.input("in", flow, TestingSource(items)), Adding)
    stream = op.map("s", stream, lambda record: record[1] // 0).on_error("dead_letter")
    op.output("out", stream, TestingSink([]))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    simulate(flow, 0, SimOptions())
    sources = [(letter.record, letter.source, letter.position) for letter in letters]
    assert sources[:2] == [(("a", 1), "flow.in/iterable", 1), (("a", -1), None, None)]
