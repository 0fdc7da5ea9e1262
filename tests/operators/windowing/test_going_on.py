"""Windows and joins in time that go on without the records that users' functions raise for.

Values are `(seconds, number)`. The oracle is the same step in a flow that never gets the bad ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.operators as op
import engine.operators.windowing as win
from engine.dataflow import Dataflow, Stream
from engine.errors import EngineRuntimeError
from engine.recovery import RecoveryConfig
from engine.runtime import RunOptions, run_flow
from engine.testing import TestingSink, TestingSource, run_main
from tests.operators.timed import Timeline
from tests.operators.windowing.runs import (
    WAYS,
    OwnClock,
    all_three,
    at,
    session,
    sliding,
    sorted_out,
    tumbling,
)

Value = tuple[float, int]
LONG_S = 100_000.0
"""No window closes before the end, and nothing is late."""


class BadValueError(Exception):
    """What the functions here raise."""


def refuse(value: Value) -> None:
    """Raise for a value that is bad for the functions of a step."""
    if value[1] % 5 == 0:
        raise BadValueError(value)


def is_bad(value: Value) -> bool:
    return value[1] % 5 == 0


def has_no_time(value: Value) -> bool:
    return value[1] % 7 == 0


def time_of(value: Value) -> datetime:
    if has_no_time(value):
        raise BadValueError(value)
    return at(value[0])


def append(values: list[Value], value: Value) -> list[Value]:
    """Changes in place, and then raises."""
    values.append(value)
    refuse(value)
    return values


def extend(values: list[Value], others: list[Value]) -> list[Value]:
    return [*values, *others]


def add_in_place(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """As `append`, for values that are dicts."""
    one["sum"] = one.get("sum", one["n"]) + other["n"]
    if other["n"] % 5 == 0:
        raise BadValueError(other)
    return one


class Listing(win.WindowLogic[Value, Any, list[Value]]):
    """Emits each value as it comes, and all at the end."""

    def __init__(self, resume: list[Value] | None) -> None:
        self.values = resume or []

    def on_value(self, value: Value) -> Iterable[Any]:
        self.values.append(value)
        yield value
        refuse(value)

    def on_merge(self, original: Listing) -> Iterable[Any]:
        self.values += original.values
        return ()

    def on_close(self) -> Iterable[Any]:
        return [list(self.values)]

    def snapshot(self) -> list[Value]:
        return self.values


WINDOWERS: dict[str, win.Windower[Any]] = {
    "tumbling": tumbling(20),
    "sliding": sliding(25, 10),
    "sessions": session(6),
}
Build = Callable[[Stream[Any], Any, Any, bool], win.WindowOut[Any, Any]]
STEPS: dict[str, Build] = {
    "fold": lambda s, c, w, o: win.fold_window("w", s, c, w, list, append, extend, o),
    "fold shared": lambda s, c, w, o: win.fold_window(
        "w", s, c, w, list, append, extend, o, share_panes=True
    ),
    "fold often": lambda s, c, w, o: win.fold_window(
        "w", s, c, w, list, append, extend, o, trigger=win.OnCount(2)
    ),
    "window": lambda s, c, w, o: win.window("w", s, c, w, Listing, o),
    "collect": lambda s, c, w, o: win.collect_window("w", s, c, w, ordered=o),
}

values = st.tuples(st.integers(0, 60).map(float), st.integers(0, 40))
records = st.lists(st.tuples(st.sampled_from("ab"), values), max_size=25)


def batches_of(all_: list[Any], size: int, good: Callable[[Any], bool]) -> list[tuple[float, Any]]:
    """Batches of records, a second apart, that have only the good ones."""
    parts = [all_[first : first + size] for first in range(0, len(all_), size)]
    return [(s, [r for r in part if good(r)]) for s, part in enumerate(parts)]


def clock_of(wait_s: float, own: bool) -> Any:
    clock = win.EventClock(time_of, timedelta(seconds=wait_s))
    return OwnClock(clock, lambda value: value) if own else clock


def came(
    build: Callable[[Stream[Any]], win.WindowOut[Any, Any]],
    batches: list[tuple[float, Any]],
    *,
    kernels: bool,
    skips: bool,
) -> Any:
    """What comes out by key and stream: a timer may ring before a batch that is empty, or after."""

    def step(stream: Stream[Any]) -> Stream[Any]:
        out = build(stream)
        if skips:
            out.down.on_error("skip")
        return all_three(out)

    return sorted_out(Timeline(step, batches, kernels=kernels).run())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STEPS)
@given(
    given_records=records,
    size=st.integers(1, 9),
    windower=st.sampled_from([*WINDOWERS]),
    wait_s=st.sampled_from([0, 5, 30]),
    ordered=st.booleans(),
    own=st.booleans(),
)
def test_records_without_a_time_never_came(
    way: str,
    name: str,
    given_records: list[Any],
    size: int,
    windower: str,
    wait_s: float,
    ordered: bool,
    own: bool,
):
    """Neither windows nor the watermark have seen them."""
    own = own and name != "fold often"

    def build(stream: Stream[Any]) -> win.WindowOut[Any, Any]:
        return STEPS[name](stream, clock_of(wait_s, own), WINDOWERS[windower], ordered)

    def is_good(record: Any) -> bool:
        return not has_no_time(record[1])

    # Values that are bad for the functions are tried elsewhere.
    tried = [(key, (s, n + 1 if is_bad((s, n)) else n)) for key, (s, n) in given_records]
    with_all = batches_of(tried, size, lambda _: True)
    with_good = batches_of(tried, size, is_good)
    wanted = came(build, with_good, kernels=WAYS[way], skips=False)
    assert came(build, with_all, kernels=WAYS[way], skips=True) == wanted


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name in STEPS if name != "collect"])
@given(
    given_records=records,
    size=st.integers(1, 9),
    windower=st.sampled_from([*WINDOWERS]),
    ordered=st.booleans(),
    own=st.booleans(),
)
def test_windows_are_as_if_a_value_that_is_raised_for_had_not_come(
    way: str,
    name: str,
    given_records: list[Any],
    size: int,
    windower: str,
    ordered: bool,
    own: bool,
):
    """Whatever the function had done to what they hold; it opens, stretches and merges none."""
    own = own and name != "fold often"

    def build(stream: Stream[Any]) -> win.WindowOut[Any, Any]:
        return STEPS[name](stream, clock_of(LONG_S, own), WINDOWERS[windower], ordered)

    tried = [(key, (s, n + 1 if has_no_time((s, n)) else n)) for key, (s, n) in given_records]
    with_all = batches_of(tried, size, lambda _: True)
    with_good = batches_of(tried, size, lambda record: not is_bad(record[1]))
    wanted = came(build, with_good, kernels=WAYS[way], skips=False)
    assert came(build, with_all, kernels=WAYS[way], skips=True) == wanted


@pytest.mark.parametrize("shared", [False, True])
@given(
    given_records=records,
    size=st.integers(1, 9),
    windower=st.sampled_from(["tumbling", "sliding"]),
    wait_s=st.sampled_from([0, 5, 30]),
    ordered=st.booleans(),
)
def test_windows_close_when_they_always_did(
    shared: bool, given_records: list[Any], size: int, windower: str, wait_s: float, ordered: bool
):
    """The time of a value that is left out counts; a window that has only such ones isn't there."""

    def pass_over(values: list[Value], value: Value) -> list[Value]:
        return values if is_bad(value) else [*values, value]

    def build(folder: Any) -> Callable[[Stream[Any]], Any]:
        clock, windows = clock_of(wait_s, own=False), WINDOWERS[windower]
        return lambda s: win.fold_window(
            "w", s, clock, windows, list, folder, extend, ordered, share_panes=shared
        )

    tried = [(key, (s, n + 1 if has_no_time((s, n)) else n)) for key, (s, n) in given_records]
    batches = batches_of(tried, size, lambda _: True)
    model = came(build(pass_over), batches, kernels=True, skips=False)
    for rows in model.values():
        empty = {number for number, folded in rows.down if not folded}
        rows.down = [row for row in rows.down if row[0] not in empty]
        rows.meta = [row for row in rows.meta if row[0] not in empty]
    wanted = {key: rows for key, rows in model.items() if rows.down or rows.late}
    found = came(build(append), batches, kernels=True, skips=True)
    # Windows that close together do so in the order in which they were opened.
    for rows in [*wanted.values(), *found.values()]:
        rows.down.sort(key=itemgetter(0))
        rows.meta.sort(key=itemgetter(0))
    assert found == wanted


def run_skipping(
    build: Callable[[Stream[Any]], Any], items: list[Any], batch_size: int = 3
) -> tuple[list[Any], list[Any]]:
    """What comes out of a step, and what its dead letters are about."""
    flow, out, letters = Dataflow("flow"), [], []
    made = build(op.input("in", flow, TestingSource(items, batch_size)))
    made.on_error("dead_letter")
    op.output("out", made, TestingSink(out))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    run_main(flow)
    return out, letters


CLOCK = win.EventClock(time_of, timedelta(seconds=30))


def test_a_value_that_waited_for_its_turn_names_no_source():
    """The batch in hand isn't the one that it was read with; one that didn't wait names its own."""
    items = [("a", (1.0, 5)), ("a", (2.0, 1)), ("a", (200.0, 7)), ("a", (300.0, 2))]
    for ordered in (True, False):
        out, letters = run_skipping(
            lambda s, ordered=ordered: (
                win.fold_window("w", s, CLOCK, tumbling(50), list, append, extend, ordered).down
            ),
            items,
            1,
        )
        assert out == [("a", (0, [(2.0, 1)])), ("a", (6, [(300.0, 2)]))]
        by_record = {letter.record: letter for letter in letters}
        assert [*by_record] == ([items[2], items[0]] if ordered else [items[0], items[2]])
        waited, timeless = by_record[items[0]], by_record[items[2]]
        assert (waited.key, waited.step_id) == ("a", "flow.w")
        assert (waited.source, waited.position) == (
            (None, None) if ordered else ("flow.in/iterable", 1)
        )
        assert (timeless.source, timeless.position) == ("flow.in/iterable", 3)


def test_values_of_a_reduction_that_are_changed_in_place_are_put_back():
    """A window's first value is what it holds, and the reducer changes that."""
    items = [("a", {"at": s, "n": n}) for s, n in enumerate([1, 5, 2, 10, 3])]
    clock = win.EventClock(lambda v: at(v["at"]), timedelta(0))
    out, letters = run_skipping(
        lambda s: win.reduce_window("w", s, clock, tumbling(100), add_in_place).down, items
    )
    assert [(key, held["sum"]) for key, (_, held) in out] == [("a", 6)]
    assert [letter.record[1]["n"] for letter in letters] == [5, 10]


@pytest.mark.parametrize(
    ("build", "items", "wanted", "bad"),
    [
        (
            lambda s: (
                win.max_window("w", s, CLOCK, sliding(20, 10), lambda v: 60 // (v[1] - 3)).down
            ),
            [("a", (1.0, 3)), ("a", (1.0, 4)), ("a", (2.0, 3)), ("a", (3.0, 5))],
            [(-1, (1.0, 4)), (0, (1.0, 4))],
            2,
        ),
        (
            lambda s: win.min_window("w", s, CLOCK, session(9), lambda v: 60 // (v[1] - 3)).down,
            [("a", (1.0, 3)), ("a", (1.0, 4)), ("a", (2.0, 3)), ("a", (3.0, 5))],
            [(0, (3.0, 5))],
            2,
        ),
        (
            lambda s: win.count_window("w", s, CLOCK, tumbling(50), lambda v: str(6 // v[1])).down,
            [(1.0, 6), (2.0, 0), (3.0, 6), (4.0, 7)],
            [(0, 2)],
            2,
        ),
        (
            lambda s: win.collect_window("w", s, CLOCK, tumbling(50), set).down,
            [("a", (1.0, 1)), ("a", (2.0, 1, [])), ("a", (3.0, 2))],
            [(0, {(1.0, 1), (3.0, 2)})],
            1,
        ),
        (
            lambda s: win.collect_window("w", s, CLOCK, tumbling(50), dict).down,
            [("a", (1.0, 1)), ("a", (2.0, 1, 3)), ("a", (3.0, 2)), ("a", (3.0, 7))],
            [(0, {1.0: 1, 3.0: 2})],
            2,
        ),
        (
            lambda s: win.order_by_time("w", s, CLOCK).down,
            [("a", (2.0, 1)), ("a", (1.0, 7)), 8, ("a", (1.0, 2)), (None, (1.0, 2))],
            [(1.0, 2), (2.0, 1)],
            3,
        ),
    ],
)
def test_each_step_leaves_out_what_it_cannot_work_with(
    build: Callable[[Stream[Any]], Any], items: list[Any], wanted: list[Any], bad: int
):
    """Time, key, comparison, or a value of the wrong form."""
    out, letters = run_skipping(build, items)
    assert [value for _, value in out] == wanted
    assert len(letters) == bad


JOINS: dict[str, Callable[..., Any]] = {
    "join_window": lambda c, a, b: win.join_window("j", c, tumbling(50), a, b).down,
    "join_window by composition": lambda c, a, b: (
        win.join_window("j", OwnClock(c, lambda v: v), tumbling(50), a, b).down
    ),
    "interval_join": lambda c, a, b: (
        win.interval_join(
            "j", c, a, b, timedelta(seconds=9), timedelta(seconds=9), how="outer"
        ).down
    ),
    "inner interval_join": lambda c, a, b: (
        win.interval_join("j", c, a, b, timedelta(seconds=9), timedelta(seconds=9)).down
    ),
    "as_of_join": lambda c, a, b: win.as_of_join("j", c, a, b).down,
}


@pytest.mark.parametrize("name", JOINS)
def test_a_letter_of_a_join_says_by_which_input_its_record_came(name: str):
    """The other side's records are joined as if it had not come."""
    left = [("a", (1.0, 1)), ("a", (2.0, 7)), ("a", (30.0, 2))]
    right = [("a", (1.0, 4)), "no pair", ("a", (30.0, 14))]

    def run(*, good: bool) -> tuple[list[Any], list[Any]]:
        flow, out, letters = Dataflow("flow"), [], []
        sides = [
            [r for r in side if not good or (r != "no pair" and not has_no_time(r[1]))]  # type: ignore[arg-type] # pairs by then
            for side in (left, right)
        ]
        streams = [
            op.input(f"in{port}", flow, TestingSource(side)) for port, side in enumerate(sides)
        ]
        made = JOINS[name](CLOCK, *streams)
        op.output("out", made, TestingSink(out))
        if not good:
            made.on_error("dead_letter")
            op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
        run_main(flow)
        return out, letters

    out, letters = run(good=False)
    assert sorted(out, key=repr) == sorted(run(good=True)[0], key=repr)
    found = sorted((letter.port, repr(letter.record)) for letter in letters)
    if name == "join_window by composition":
        assert len(found) == 3
        return
    assert found == [
        (0, repr(("a", (2.0, 7)))),
        (1, repr("no pair")),
        (1, repr(("a", (30.0, 14)))),
    ]


class FailingAtTheEnd(Listing):
    """What is made of a whole window fails."""

    def on_value(self, value: Value) -> Iterable[Any]:
        self.values.append(value)
        return ()

    def on_close(self) -> Iterable[Any]:
        raise BadValueError(self.values)


@pytest.mark.parametrize("clock", [CLOCK, OwnClock(CLOCK, lambda v: v)])
def test_what_is_called_for_no_record_ends_the_run(clock: Any):
    """A letter of a window couldn't be put back before the step, and would lose all its records."""
    flow, out = Dataflow("flow", on_error="skip"), []
    stream = op.input("in", flow, TestingSource([("a", (1.0, 1))]))
    made = win.window("w", stream, clock, tumbling(50), FailingAtTheEnd)
    op.output("out", made.down, TestingSink(out))
    with pytest.raises(EngineRuntimeError, match=r"step 'flow\.w' failed for key 'a'"):
        run_main(flow)


def test_a_merger_that_raises_ends_the_run():
    """Two sessions are one by then, and none of their values is at fault alone."""

    def merge(_one: list[Value], _other: list[Value]) -> list[Value]:
        raise BadValueError

    flow, out = Dataflow("flow", on_error="skip"), []
    items = [("a", (1.0, 1)), ("a", (9.0, 1)), ("a", (5.0, 1))]
    stream = op.input("in", flow, TestingSource(items))
    made = win.fold_window("w", stream, CLOCK, session(5), list, append, merge, ordered=False)
    op.output("out", made.down, TestingSink(out))
    with pytest.raises(EngineRuntimeError, match=r"flow\.w"):
        run_main(flow)


@pytest.mark.parametrize("name", STEPS)
def test_a_policy_comes_and_goes_between_two_runs(name: str, tmp_path: Path):
    """What is saved is the same with one as without."""
    items = [
        *[("a", (1.0, 1)), ("a", (2.0, 2)), TestingSource.ABORT()],
        *[("a", (3.0, 5)), ("a", (4.0, 7)), ("a", (5.0, 3)), TestingSource.ABORT()],
        ("a", (6.0, 4)),
    ]
    source, out = TestingSource(items, 1), list[Any]()
    recovery = RecoveryConfig(tmp_path, create=True)
    for policy in ("fail", "skip", "fail"):
        flow = Dataflow("flow", on_error=policy)  # type: ignore[arg-type] # one of the policies
        stream = op.input("in", flow, source)
        made = STEPS[name](stream, CLOCK, tumbling(50), False)
        op.output("out", made.down, TestingSink(out))
        run_flow(flow, RunOptions(timedelta(0), recovery=recovery))
    bad = [(3.0, 5)] if name == "collect" else []
    good = [(1.0, 1), (2.0, 2), *bad, (5.0, 3), (6.0, 4)]
    _, (number, last) = out[-1]
    assert (number, getattr(last, "value", last)) == (0, good)
