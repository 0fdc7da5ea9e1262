"""Joins in time and `order_by_time` in flows: both sides, late values, crashes, other workers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
import engine.operators.windowing as win
from engine.dataflow import Dataflow, Stream
from engine.errors import EngineRuntimeError, UserCodeError
from engine.recovery import RecoveryConfig
from engine.recovery._fakes import SimulatedCrash
from tests.operators.flows import by_key, emitted, emitted_by_all, root_cause
from tests.operators.timed import CRASH, EACH_BATCH, Timeline, at
from tests.runtime.stored import Outside, Source, Table, run

Value = tuple[float, str, int]
"""When it happened, its side, and a number."""
LEFT, RIGHT = "left", "right"


def span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


CLOCK = win.EventClock[Value](lambda value: at(value[0]), span(10))
Build = Callable[..., Any]
"""Makes a step of a stream of values of both sides, and of a clock if it shall be another one."""


def sides(s: Stream[Any]) -> tuple[Stream[Any], Stream[Any]]:
    split = op.branch("sides", s, lambda record: record[1][1] == LEFT)
    return split.trues, split.falses


def interval(how: Any) -> Build:
    def build(s: Stream[Any], clock: Any = CLOCK) -> Any:
        return win.interval_join("j", clock, *sides(s), span(1), span(2), how=how)

    return build


def as_of(s: Stream[Any], clock: Any = CLOCK) -> Any:
    return win.as_of_join("j", clock, *sides(s), tolerance=span(5))


def order(s: Stream[Any], clock: Any = CLOCK) -> Any:
    return win.order_by_time("j", s, clock)


STEPS = {
    "inner": interval("inner"),
    "outer": interval("outer"),
    "as of": as_of,
    "order": order,
}
ALL = pytest.mark.parametrize("build", STEPS.values(), ids=STEPS)


def both(build: Build) -> Callable[[Stream[Any]], Stream[Any]]:
    """What comes out of both outputs, told apart."""

    def tagged(s: Stream[Any]) -> Stream[Any]:
        out = build(s)
        down = op.map_value("down", out.down, lambda value: ("down", value))
        late = op.map_value("late", out.late, lambda value: ("late", value))
        return op.merge("both", down, late)

    return tagged


def records(seed: int, keys: str, count: int) -> list[Any]:
    """Values of some keys, out of order by less than the clocks wait."""
    rng = random.Random(seed)
    return [
        (rng.choice(keys), (n / 2 + rng.uniform(0, 4), rng.choice((LEFT, RIGHT)), n))
        for n in range(count)
    ]


def test_both_sides_and_late_values() -> None:
    """Pairs come out by the first output, refused values by the second, whichever side's."""
    values = [(20, LEFT, 0), (21, RIGHT, 1), (9, RIGHT, 2), (10, LEFT, 3), (12, RIGHT, 4)]
    out = emitted(both(interval("inner")), [("a", value) for value in values])
    down = [value for _, (which, value) in out if which == "down"]
    late = [value for _, (which, value) in out if which == "late"]
    assert down == [((20, LEFT, 0), (21, RIGHT, 1))]
    assert late == [(9, RIGHT, 2), (10, LEFT, 3)]


def test_nobody_need_read_late_values() -> None:
    """A flow that leaves `late` unused drops them."""
    values = [("a", (20, LEFT, 0)), ("a", (1, LEFT, 1))]
    for build in STEPS.values():
        emitted(lambda s, build=build: build(s).down, values)


def test_each_side_may_have_a_clock_of_its_own() -> None:
    """Times are read as each side says, and each side is waited for as its clock says."""
    left = win.EventClock(lambda value: at(value["at"]), span(100))
    right = win.EventClock(at, span(0))

    def build(one: Stream[Any], other: Stream[Any]) -> Stream[Any]:
        joined = win.as_of_join("j", (left, right), one, other)
        late = op.map_value("late", joined.late, lambda value: ("late", value))
        return op.merge("both", joined.down, late)

    out = emitted(build, [("a", {"at": 50}), ("a", {"at": 1000})], [("a", 40), ("a", 30)])
    assert out == [
        ("a", ({"at": 50}, 40)),
        ("a", ("late", 30)),
        ("a", ({"at": 1000}, 40)),
    ]


@pytest.mark.parametrize("how", ["inner", "outer"])
def test_time_that_passes_lets_values_go(how: str) -> None:
    """A timer lets values out that nothing came for; without one they would stay to the end."""
    batches = [(0.0, [("a", (0, LEFT, 0))]), (11.9, []), (12.5, []), (30.0, [("b", (0, LEFT, 1))])]
    seen: list[Any] = []

    def build(s: Stream[Any]) -> Stream[Any]:
        down = interval(how)(s).down
        return op.inspect(
            "seen", down, lambda _step, record: seen.append((line.clock.seconds, record))
        )

    line = Timeline(build, batches)
    line.run()
    alone = [seconds for seconds, (key, _) in seen if key == "a"]
    assert len(alone) == (how == "outer")
    assert all(12 < seconds < 13 for seconds in alone)


@pytest.mark.parametrize("span_s", [0, 1])
def test_ends_of_the_interval_belong_to_it(span_s: int) -> None:
    """Values exactly `before` and exactly `after` are met, those a microsecond further are not."""
    micro = 1e-6
    times = [100 - span_s - micro, 100 - span_s, 100 + span_s, 100 + span_s + micro]
    values = [("a", (100, LEFT, 0)), *[("a", (t, RIGHT, n)) for n, t in enumerate(times)]]
    join = lambda s: win.interval_join("j", CLOCK, *sides(s), span(span_s), span(span_s)).down  # noqa: E731
    assert sorted(right[2] for _, (_, right) in emitted(join, values)) == [1, 2]


@ALL
def test_a_time_without_a_zone_is_refused(build: Build) -> None:
    """The error says so, and on which record it happened."""
    naive = win.EventClock(lambda value: datetime(2024, 1, 1, value[2]), span(0))  # noqa: DTZ001
    with pytest.raises(EngineRuntimeError, match="time zone") as error:
        emitted(lambda s: build(s, naive).down, [("a", (0, LEFT, 1))])
    assert isinstance(root_cause(error.value), UserCodeError)
    assert error.value.record in (("a", (0, LEFT, 1)), (0, LEFT, 1))


@ALL
def test_what_is_no_pair_is_refused(build: Build) -> None:
    """As by every keyed step."""
    with pytest.raises(EngineRuntimeError, match="2-tuples"):
        emitted(lambda s: build(op.map("m", s, lambda _: ["a", (0, LEFT), 1])).down, [1])


@ALL
def test_far_times_work(build: Build) -> None:
    """The first and the last time that there is are times as others."""
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    values = [("a", (first, LEFT, 0)), ("a", (last, LEFT, 1)), ("a", (last, RIGHT, 2))]
    values.append(("a", (first, RIGHT, 3)))
    far = win.EventClock(lambda value: value[0], span(60))
    out = by_key([tagged for _, tagged in emitted(both(lambda s: build(s, far)), values)])
    assert out["late"] == [(first, RIGHT, 3)]
    assert len(out["down"]) == {"inner": 1, "outer": 2, "as of": 2, "order": 3}[_name(build)]


def _name(build: Build) -> str:
    return next(name for name, each in STEPS.items() if each is build)


@ALL
def test_workers_share_keys(build: Build) -> None:
    """With several workers comes out what comes out with one."""
    values = records(1, "abcdefgh", 200)
    wanted = emitted(both(build), values)
    found = emitted_by_all(both(build), values, workers=3)
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))


@pytest.mark.parametrize("workers", [1, 3])
@ALL
def test_with_one_watermark_comes_out_the_same(build: Build, workers: int) -> None:
    """Where nothing is late the definitions don't ask whose watermark it is."""
    values, stream = records(3, "abcdefgh", 200), replace(CLOCK, scope="stream")
    wanted = emitted(both(build), values)
    found = emitted_by_all(both(lambda s: build(s, stream)), values, workers=workers)
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))


def test_one_watermark_lets_values_of_all_keys_out() -> None:
    """What comes for one key lets out what waits for another, long before the end."""
    stream = replace(CLOCK, scope="stream")
    seen: list[Any] = []
    values = [("a", (1, LEFT, 0)), ("b", (30, LEFT, 1)), ("c", (31, LEFT, 2)), ("a", (2, LEFT, 3))]

    def build(s: Stream[Any]) -> Stream[Any]:
        s = op.inspect("came", s, lambda _step, record: seen.append(("came", record[0])))
        out = op.map_value("number", order(s, stream).down, lambda value: value[2])
        return op.inspect("went", out, lambda _step, record: seen.append(("out", record[0])))

    emitted(build, values)
    assert seen.index(("out", "a")) < seen.index(("came", "c"))
    assert seen.count(("out", "a")) == 1


@ALL
def test_a_crash_changes_nothing(build: Build, tmp_path: Path) -> None:
    """What comes out of all runs together is what comes out of one that nothing disturbed.

    But for what a timer let out after the last epoch before a crash: that comes once more.
    """
    values = records(2, "abc", 60)
    calm = Timeline(both(build), [(n / 4, [each]) for n, each in enumerate(values)])
    batches: list[Any] = []
    for n, each in enumerate(values):
        batches.append((n / 4, [each]))
        if n % 7 == 6:
            batches.append((n / 4, CRASH))
    recovery = RecoveryConfig(tmp_path / "store", create=True)
    line = Timeline(both(build), batches, epochs=EACH_BATCH, recovery=recovery)
    found: list[Any] = []
    for _ in range(len(values) // 7 + 1):
        found += line.run()
    assert set(map(repr, found)) == set(map(repr, calm.run()))


def test_a_watermark_of_the_step_outlives_a_crash(tmp_path: Path) -> None:
    """What is late before it is late afterwards, also for a key that is new."""
    batches: list[Any] = [(0.0, [("a", (20, LEFT, 0))]), (0.0, CRASH), (0.0, [("b", (5, LEFT, 1))])]
    recovery = RecoveryConfig(tmp_path / "store", create=True)
    stream = replace(CLOCK, scope="stream")
    build = both(lambda s: order(s, stream))
    line = Timeline(build, batches, epochs=EACH_BATCH, recovery=recovery)
    line.run()
    assert line.run() == [("b", ("late", (5, LEFT, 1))), ("a", ("down", (20, LEFT, 0)))]


@ALL
def test_what_an_end_of_input_let_out_does_not_come_again(build: Build, tmp_path: Path) -> None:
    """A later run goes on with what it finds, and repeats nothing."""
    batches = [(0.0, [("a", (5, LEFT, 0)), ("a", (6, LEFT, 1))])]
    config = RecoveryConfig(tmp_path / "store", create=True)
    Timeline(both(build), batches, recovery=config).run()
    more = [*batches, (0.0, [("a", (4, LEFT, 2)), ("a", (7, RIGHT, 3)), ("a", (9, LEFT, 4))])]
    out = by_key([tagged for _, tagged in Timeline(both(build), more, recovery=config).run()])
    zero, one, two, three, four = (
        (5, LEFT, 0),
        (6, LEFT, 1),
        (4, LEFT, 2),
        (7, RIGHT, 3),
        (9, LEFT, 4),
    )
    assert (
        out
        == {
            "inner": {"down": [(zero, three), (one, three)]},
            "outer": {"down": [(two, None), (None, three), (four, None)]},
            "as of": {"down": [(four, three)], "late": [two]},
            "order": {"down": [three, four], "late": [two]},
        }[_name(build)]
    )


PARTS = {f"p{n}": records(n, keys, 60) for n, keys in enumerate(("abc", "de", "fghi"))}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scope", ["key", "stream"])
@ALL
def test_crashes_and_other_numbers_of_workers_change_nothing(
    build: Build, scope: Any, seed: int
) -> None:
    """A job on 1 worker crashes, then on 3, and is finished by 2; each value counts once."""

    def flow_of(outside: Outside) -> Dataflow:
        flow = Dataflow("flow")
        out = build(op.input("in", flow, Source(outside)), replace(CLOCK, scope=scope))
        op.output("table", out.down, Table(outside))
        op.output("late", out.late, Table(outside))
        return flow

    calm = Outside(source=dict(PARTS))
    run(calm, 1, flow_of=flow_of)
    operations = calm.disk.ops
    outside, rng = Outside(source=dict(PARTS)), random.Random(seed)
    for workers in (1, 3):
        outside.disk.crash_at = rng.randrange(operations // 8, operations // 2)
        with suppress(SimulatedCrash):
            run(outside, workers, flow_of=flow_of)
        outside.disk = outside.disk.after_crash(seed)
    run(outside, 2, flow_of=flow_of)
    for step in ("flow.table", "flow.late"):
        assert Counter(map(repr, outside.rows[step])) == Counter(map(repr, calm.rows[step]))
    assert calm.rows["flow.table"]


def checked(build: Callable[[Any], Any]) -> Any:
    s: Any = op.input("in", Dataflow("flow"), Source(Outside()))
    return build(s)


class Own(win.Clock[Any, None]):
    """A user's clock."""

    def build(self, resume_state: None) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda s: win.order_by_time("j", s, Own()), TypeError, "clock of your own"),
        (lambda s: win.order_by_time("j", s, 5), TypeError, "`clock` of step 'flow.j'"),
        (lambda s: win.order_by_time("j", s, (CLOCK, CLOCK)), TypeError, "`clock`"),
        (lambda s: win.as_of_join("j", (CLOCK,), s, s), ValueError, "one clock or 2"),
        (
            lambda s: win.as_of_join("j", (CLOCK, win.SystemClock()), s, s),
            ValueError,
            "go together",
        ),
        (
            lambda s: win.as_of_join("j", (CLOCK, replace(CLOCK, scope="stream")), s, s),
            ValueError,
            "go together",
        ),
        (
            lambda s: win.as_of_join("j", CLOCK, s, s, tolerance=span(-1)),
            ValueError,
            "`tolerance` of step 'flow.j' must",
        ),
        (lambda s: win.as_of_join("j", CLOCK, s, s, how="right"), ValueError, "`how`"),
        (
            lambda s: win.interval_join("j", CLOCK, s, s, span(-1), span(1)),
            ValueError,
            "`before` of step 'flow.j' must be 0 or more",
        ),
        (lambda s: win.interval_join("j", CLOCK, s, s, span(1), 1), TypeError, "`after`"),
        (
            lambda s: win.interval_join("j", CLOCK, s, s, span(1), span(1), how="full"),
            ValueError,
            "`how`",
        ),
        (
            lambda s: win.interval_join("j", CLOCK, s, s, span(1), span(1), state_version=0),
            ValueError,
            "`state_version`",
        ),
    ],
)
def test_mistakes_are_told_while_the_flow_is_built(build: Build, error: Any, match: str) -> None:
    """Each argument is looked at, and named."""
    with pytest.raises(error, match=match):
        checked(build)


@pytest.mark.parametrize("good", [True, False])
def test_stored_values_are_migrated(good: bool, tmp_path: Path) -> None:
    """A newer flow gets the values that waited in its own form; lists of other lengths don't do."""
    batches: list[Any] = [(0.0, [("a", (5, LEFT, 0)), ("a", (6, RIGHT, 1))]), (0.0, CRASH)]
    config = RecoveryConfig(tmp_path / "store", create=True)

    def migrate(version: int, values: Any) -> Any:
        assert version == 1
        return [[(*v, "new") for v in side] for side in values] if good else [[], []]

    def build(version: int) -> Any:
        more = {} if version == 1 else {"state_version": version, "migrate": migrate}
        return lambda s: win.as_of_join("j", CLOCK, *sides(s), **more).down

    Timeline(build(1), batches, epochs=EACH_BATCH, recovery=config).run()
    batches.append((0.0, [("a", (7, LEFT, 2))]))
    later = Timeline(build(2), batches, epochs=EACH_BATCH, recovery=config)
    if not good:
        with pytest.raises(EngineRuntimeError, match="as many as it got"):
            later.run()
        return
    found = (6, RIGHT, 1, "new")
    assert later.run() == [("a", ((5, LEFT, 0, "new"), None)), ("a", ((7, LEFT, 2), found))]
