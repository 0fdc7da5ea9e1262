"""Windows of all kinds against the oracle, on random input.

Streams are out of order, with duplicates, equal times, times in several time zones about a change
to winter time, and far past and future ones; the wall clock moves between batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
import engine.operators.windowing as win
from engine.recovery import RecoveryConfig
from tests.operators.timed import CRASH
from tests.operators.windowing.oracle import (
    END,
    Aligned,
    AllModel,
    EventTime,
    Expected,
    FoldModel,
    JoinModel,
    Sessions,
    StreamTime,
    SystemTime,
    since_epoch,
)
from tests.operators.windowing.runs import BERLIN, START, WAYS, ZERO, OwnClock, Run, came, of_oracle

WINTER = datetime(2024, 10, 27, 0, 59, 40, tzinfo=UTC)
"""A while before the clocks of Berlin are set back: 02:59:40 comes twice."""
ZONES = [UTC, BERLIN, ZoneInfo("America/New_York"), timezone(timedelta(hours=5, minutes=45))]
FAR = [
    # Not the very first moments: as long as a job runs, so long after them kernels aren't exact.
    datetime(1, 2, 1, tzinfo=UTC),
    win.UTC_MAX,
    datetime(2, 1, 1, tzinfo=UTC),
    datetime(9998, 12, 31, tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),
    datetime(1, 2, 1, tzinfo=timezone(timedelta(hours=5))),
]
SIDES = 3


@dataclass(frozen=True)
class Value:
    """What the flows carry."""

    at: datetime
    n: int
    side: int = 0


def time_of(value: Value) -> datetime:
    return value.at


@dataclass(frozen=True)
class Operator:
    """An operator with windows, and what the oracle knows of it."""

    build: Callable[..., win.WindowOut[Any, Any]]
    make: Callable[[], Any]
    by_arrival: bool = False
    """Whether it works in arrival order whatever is said."""
    sides: int = 1


class Trace(win.WindowLogic[Value, Any, list[Any]]):
    """Emits whatever happens to a window, as it happens."""

    def __init__(self, resume: list[Any] | None) -> None:
        self.seen = list(resume or [])

    def on_value(self, value: Value) -> Iterator[Any]:
        self.seen.append(value)
        yield "value", value

    def on_merge(self, original: Trace) -> list[Any]:
        self.seen.append(original.seen)
        return [("merge", original.seen), "merged"]

    def on_close(self) -> Sequence[Any]:
        return (("close", self.seen),)

    def snapshot(self) -> list[Any]:
        return list(self.seen)


class TraceModel:
    """As `Trace`, for the oracle."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def value(self, number: int, value: Any) -> list[Any]:
        self.seen.append(value)
        return [("value", value)]

    def merge(self, other: TraceModel) -> list[Any]:
        self.seen.append(other.seen)
        return [("merge", other.seen), "merged"]

    def close(self) -> list[Any]:
        return [("close", self.seen)]


def fold(state: tuple[Any, ...], value: Value) -> tuple[Any, ...] | None:
    """Not commutative, and None now and then, which is a state as any other."""
    return None if value.n == 3 else ("fold", state, value.n)


def reduce(one: Value, other: Value) -> Value:
    return Value(other.at, one.n * 3 + other.n)


def merge(one: Any, other: Any) -> Any:
    return ("merge", one, other)


def reduce_model() -> FoldModel:
    return FoldModel(None, lambda s, v: v if s is None else reduce(s, v), reduce)


def extreme_model(pick: Any) -> FoldModel:
    def folder(best: Any, value: Any) -> Any:
        return value if best is None else pick(best, value, key=lambda v: v.n)

    return FoldModel(None, folder, folder)


def in_place(all_: list[Any], value: Value) -> list[Any]:
    all_.append(value)
    return all_


def extended(one: list[Any], other: list[Any]) -> list[Any]:
    one.extend(other)
    return one


def by_time(values: Iterable[Value]) -> list[Value]:
    return sorted(values, key=lambda value: since_epoch(value.at))


def shared(clock: Any, windower: Any, ordered: Any, s: Any, folder: Any) -> win.WindowOut[Any, Any]:
    """A fold whose windows share panes, in each of which values are in the order of arrival."""
    make = (list, in_place, extended) if folder is in_place else (tuple, folder, merge_tuples)
    out = win.fold_window("w", s, clock, windower, *make, ordered, share_panes=True)
    shown: Any = list if ordered and isinstance(clock, win.EventClock) else by_time
    down = op.map_value("shown", out.down, lambda down: (down[0], shown(down[1])))
    return win.WindowOut(down, out.late, out.meta)


class SharedModel(FoldModel):
    """As `shared`, for the oracle."""

    def __init__(self) -> None:
        super().__init__((), with_one, merge_tuples)

    def close(self) -> list[Any]:
        return [by_time(self.state)]


def with_one(all_: tuple[Value, ...], value: Value) -> tuple[Value, ...]:
    return (*all_, value)


def merge_tuples(one: tuple[Value, ...], other: tuple[Value, ...]) -> tuple[Value, ...]:
    return one + other


def sum_of(one: Value, other: Value) -> Value:
    """Associative, and in any order the same; the time is that of neither."""
    return Value(max(one.at, other.at), one.n + other.n + 1)


def sum_model() -> FoldModel:
    return FoldModel(None, lambda s, v: v if s is None else sum_of(s, v), sum_of)


def window(c: Any, w: Any, o: bool, s: Any) -> Any:
    return win.window("w", s, c, w, Trace, o)


def as_pairs(values: list[Value]) -> dict[int, Value]:
    return {v.n: v for v in values}


def of_pairs(clock: Any) -> OwnClock:
    """The clock of records that are pairs with a value."""
    return OwnClock(clock, lambda pair: pair[1])


def counted(clock: Any, windower: Any, s: Any) -> win.WindowOut[Any, Any]:
    """Counts records, which are pairs; late ones are shown as values."""
    out = win.count_window("w", s, of_pairs(clock), windower, lambda pair: pair[0])
    late = op.map_value("late_value", out.late, lambda late: (late[0], late[1][1]))
    return win.WindowOut(out.down, late, out.meta)


def into_dict(clock: Any, windower: Any, ordered: Any, s: Any) -> win.WindowOut[Any, Any]:
    """Collects into a dict by `n`."""
    pairs = op.map_value("pair", s, lambda v: (v.n, v))
    out = win.collect_window("w", pairs, of_pairs(clock), windower, dict, ordered)
    late = op.map_value("late_value", out.late, lambda late: (late[0], late[1][1]))
    return win.WindowOut(out.down, late, out.meta)


OPERATORS = {
    "window": Operator(window, TraceModel),
    "fold": Operator(
        lambda c, w, o, s: win.fold_window("w", s, c, w, tuple, fold, merge, o),
        lambda: FoldModel((), fold, merge),
    ),
    "fold-shared": Operator(lambda c, w, o, s: shared(c, w, o, s, with_one), SharedModel),
    "fold-shared-in-place": Operator(lambda c, w, o, s: shared(c, w, o, s, in_place), SharedModel),
    "reduce-shared": Operator(
        lambda c, w, o, s: win.reduce_window("w", s, c, w, sum_of, share_panes=True),
        sum_model,
        by_arrival=True,
    ),
    "list": Operator(
        lambda c, w, o, s: win.collect_window("w", s, c, w, ordered=o), lambda: AllModel(list)
    ),
    "set": Operator(
        lambda c, w, o, s: win.collect_window("w", s, c, w, set, o), lambda: AllModel(set)
    ),
    "dict": Operator(into_dict, lambda: AllModel(as_pairs)),
    "reduce": Operator(
        lambda c, w, o, s: win.reduce_window("w", s, c, w, reduce), reduce_model, by_arrival=True
    ),
    "count": Operator(lambda c, w, o, s: counted(c, w, s), lambda: AllModel(len), by_arrival=True),
    "max": Operator(
        lambda c, w, o, s: win.max_window("w", s, c, w, lambda v: v.n),
        lambda: extreme_model(max),
        by_arrival=True,
    ),
    "min": Operator(
        lambda c, w, o, s: win.min_window("w", s, c, w, lambda v: v.n),
        lambda: extreme_model(min),
        by_arrival=True,
    ),
    **{
        f"join-{insert}-{emit}": Operator(
            lambda c, w, o, *s, i=insert, e=emit: win.join_window(
                "w", c, w, *s, insert_mode=i, emit_mode=e, ordered=o
            ),
            lambda i=insert, e=emit: JoinModel(SIDES, lambda v: v.side, i, e),
            sides=SIDES,
        )
        for insert in ("first", "last", "product")
        for emit in ("complete", "running", "final")
    },
}


@dataclass(frozen=True)
class Case:
    """A clock, a windower, an order and a stream."""

    wait: timedelta | None
    """Of the event clock; None: the system's."""
    windower: win.Windower[Any]
    ordered: bool
    batches: list[Any]
    scope: Any = "key"

    def clock(self) -> win.Clock[Any, Any]:
        if self.wait is not None and self.scope == "stream":
            never = timedelta(days=1000)
            return win.EventClock(time_of, self.wait, scope="stream", idle_after=never)
        return win.SystemClock() if self.wait is None else win.EventClock(time_of, self.wait)

    def windows(self) -> Any:
        w = self.windower
        if isinstance(w, win.SessionWindower):
            return Sessions(w.gap)
        if isinstance(w, win.SlidingWindower):
            return Aligned(w.length, w.offset, w.align_to)
        assert isinstance(w, win.TumblingWindower)
        return Aligned(w.length, w.length, w.align_to)

    def expected(self, operator: Operator, batches: list[Any]) -> dict[Any, Expected]:
        clock: Any = SystemTime()
        if self.wait is not None and self.scope == "stream":
            clock = StreamTime(time_of, self.wait, operator.sides)
        elif self.wait is not None:
            clock = EventTime(time_of, self.wait)
        ordered = self.ordered and not operator.by_arrival
        return of_oracle(batches, clock, self.windows, operator.make, ordered=ordered)

    def build(self, operator: Operator) -> Callable[..., Any]:
        return lambda *s: operator.build(self.clock(), self.windower, self.ordered, *s)


def seconds(*each: float) -> st.SearchStrategy[timedelta]:
    return st.sampled_from([timedelta(seconds=s) for s in each])


STARTS = st.sampled_from(
    [
        START,
        WINTER,
        WINTER.astimezone(BERLIN),
        datetime(2024, 10, 27, 2, 59, 41, tzinfo=BERLIN, fold=1),
        datetime(2200, 1, 1, tzinfo=UTC),
        win.UTC_MIN,
        win.UTC_MAX,
    ]
)
WINDOWERS = st.one_of(
    st.builds(win.TumblingWindower, seconds(3, 10, 3600), STARTS),
    st.tuples(st.sampled_from([(10, 10), (10, 4), (9, 3), (5, 2.5)]), STARTS).map(
        lambda drawn: win.SlidingWindower(*[timedelta(seconds=s) for s in drawn[0]], drawn[1])
    ),
    st.builds(win.SessionWindower, seconds(0, 0.5, 3, 6, 12)),
)
WAITS = st.sampled_from([ZERO, timedelta(seconds=4), timedelta(seconds=20), timedelta.max])
NEAR = st.builds(
    lambda s, zone: (WINTER + timedelta(seconds=s)).astimezone(zone),
    st.integers(-20, 40) | st.floats(0, 30).map(lambda s: round(s, 1)),
    st.sampled_from(ZONES),
)
TIMES = st.one_of(NEAR, NEAR, NEAR, NEAR, NEAR, st.sampled_from(FAR))
RECORDS = st.lists(
    st.tuples(st.sampled_from("aaab"), TIMES, st.integers(0, 3)), min_size=1, max_size=8
)
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 3, 12]), RECORDS, st.integers(0, SIDES - 1)),
    min_size=1,
    max_size=8,
)


def made(steps: list[Any], sides: int) -> list[Any]:
    """Batches one after the other by the wall clock."""
    now, batches = 0.0, []
    for gap, records, number in steps:
        now += gap
        side = number % sides
        batches.append((now, [(key, Value(at, n, side)) for key, at, n in records], side))
    return batches


def check(out: dict[Any, Any], wanted: dict[Any, Expected]) -> None:
    """All of a key's streams, in their orders; of late values of a batch that isn't promised."""
    for key, each in wanted.items():
        got = out.get(key, Expected())
        assert got.meta == each.meta
        assert sorted(got.late, key=repr) == sorted(each.late, key=repr)
        assert got.down == each.down
    assert set(out) <= set(wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=10)
@given(wait=WAITS | st.none(), windower=WINDOWERS, ordered=st.booleans(), steps=STEPS)
def test_what_comes_out(
    way: str, name: str, wait: Any, windower: Any, ordered: bool, steps: Any
) -> None:
    """Results, late values and metadata are what the definition says, in the order it says."""
    operator = OPERATORS[name]
    batches = made(steps, operator.sides)
    case = Case(wait, windower, ordered, batches)
    out = came(case.build(operator), batches, kernels=WAYS[way], sides=operator.sides)
    check(out, case.expected(operator, [*batches, END]))


def before_the_end(steps: list[Any]) -> bool:
    """Nothing is of the last moment of all, of which nobody can say what is late."""
    return all(at < win.UTC_MAX for _, records, _ in steps for _, at, _ in records)


BY_STREAM = [name for name in OPERATORS if name not in {"count", "dict"}]
"""Those that have the engine's clocks here."""


@pytest.mark.parametrize("name", BY_STREAM)
@settings(max_examples=10)
@given(
    wait=WAITS,
    windower=WINDOWERS,
    ordered=st.booleans(),
    steps=STEPS.filter(before_the_end),
)
def test_what_comes_out_with_one_watermark(
    name: str, wait: Any, windower: Any, ordered: bool, steps: Any
) -> None:
    """With a watermark for the stream, which each batch moves for the next one."""
    operator = OPERATORS[name]
    batches = made(steps, operator.sides)
    case = Case(wait, windower, ordered, batches, "stream")
    out = came(case.build(operator), batches, kernels=True, sides=operator.sides)
    check(out, case.expected(operator, [*batches, END]))


MERGING = st.lists(
    st.tuples(
        st.just(0),
        st.lists(
            st.tuples(
                st.just("a"),
                st.integers(0, 45).map(lambda s: WINTER + timedelta(seconds=s)),
                st.integers(0, 2),
            ),
            min_size=1,
            max_size=6,
        ),
        st.integers(0, SIDES - 1),
    ),
    min_size=3,
    max_size=6,
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=6)
@given(gap=seconds(3, 6), wait=seconds(45, 30), steps=MERGING)
def test_what_comes_of_sessions_that_merge(
    way: str, name: str, gap: Any, wait: Any, steps: Any
) -> None:
    """As above, of sessions that open apart and become one."""
    operator = OPERATORS[name]
    batches = made(steps, operator.sides)
    case = Case(wait, win.SessionWindower(gap), ordered=False, batches=batches)
    out = came(case.build(operator), batches, kernels=WAYS[way], sides=operator.sides)
    check(out, case.expected(operator, [*batches, END]))


STOPS = st.sampled_from([None, None, CRASH, END])


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15)
@given(
    name=st.sampled_from(sorted(OPERATORS)),
    wait=WAITS | st.none(),
    windower=WINDOWERS,
    ordered=st.booleans(),
    steps=STEPS,
    stops=st.lists(STOPS, min_size=8, max_size=8),
)
def test_what_comes_out_with_recovery(
    way: str, name: str, wait: Any, windower: Any, ordered: bool, steps: Any, stops: Any
) -> None:
    """The same, whether the job goes on after a crash or after an end of input.

    With the event clock the wall clock stands still: what passes of it while a job is down doesn't
    count, and there are tests of that.
    """
    operator = OPERATORS[name]
    batches = made(steps, operator.sides)
    if wait is not None:
        batches = [(0.0, *rest) for _, *rest in batches]
    case = Case(wait, windower, ordered, batches)
    with TemporaryDirectory() as folder:
        recovery = RecoveryConfig(Path(folder) / "store", create=True)
        run = Run(
            case.build(operator),
            [],
            kernels=WAYS[way],
            sides=operator.sides,
            recovery=recovery,
        )
        out: dict[Any, Expected] = {}
        whole: list[Any] = []
        for batch, stop in zip(batches, stops, strict=False):
            whole.append(batch)
            run.add([batch])
            if stop == CRASH:
                # What timers do after a batch is part of the epoch of the next one.
                whole.append((batch[0], [("c", Value(WINTER, 0))]))
                run.add([whole[-1], (batch[0], CRASH)])
                put(out, run.run())
                run.batches.pop()
            elif stop is END:
                put(out, run.run())
                whole.append(END)
        put(out, run.run())
        check(out, case.expected(operator, [*whole, END]))


def put(out: dict[Any, Expected], more: dict[Any, Any]) -> None:
    """What came out of a further run behind what came before."""
    for key, each in more.items():
        before = out.setdefault(key, Expected())
        before.down += each.down
        before.late += each.late
        before.meta += each.meta
