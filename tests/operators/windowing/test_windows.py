"""What users are told of windows, one thing at a time; and defects that windows elsewhere have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
import engine.operators.windowing as win
from engine.clock import utc_now
from engine.dataflow import Dataflow, Stream, operator
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, TestingSource, run_main
from tests.operators.flows import emitted_in_time, pause
from tests.operators.timed import CRASH
from tests.operators.windowing.runs import (
    WAYS,
    OwnClock,
    Run,
    at,
    came,
    event_clock,
    session,
    sliding,
    tumbling,
)

EACH_WAY = pytest.mark.parametrize("kernels", WAYS.values(), ids=WAYS)
Build = Callable[..., win.WindowOut[Any, Any]]


def collected(clock: Any, windower: Any, **options: Any) -> Build:
    return lambda s: win.collect_window("w", s, clock, windower, **options)


def joined(clock: Any, windower: Any, **options: Any) -> Build:
    return lambda *s: win.join_window("w", clock, windower, *s, **options)


def of_a(*seconds: Any) -> list[tuple[str, Any]]:
    """Records of a key."""
    return [("a", each) for each in seconds]


@pytest.fixture
def store(tmp_path: Path) -> RecoveryConfig:
    return RecoveryConfig(tmp_path / "store", create=True)


# What users are told.


@EACH_WAY
def test_a_window_contains_its_beginning_and_not_its_end(kernels: bool) -> None:
    """A value exactly between two windows goes into the later one; ids may be negative."""
    batches = [(0, of_a(-10, -0.000001, 0, 9.999999, 10))]
    out = came(collected(event_clock(60), tumbling(10)), batches, kernels=kernels)["a"]
    assert out.down == [(-1, [-10, -0.000001]), (0, [0, 9.999999]), (1, [10])]
    assert out.meta[0] == (-1, (at(-10), at(0), frozenset()))


@EACH_WAY
def test_a_value_goes_into_all_windows_that_contain_it(kernels: bool) -> None:
    """Of windows of 10 seconds each 5 seconds each time is in two."""
    out = came(collected(event_clock(60), sliding(10, 5)), [(0, of_a(1, 5, 12))], kernels=kernels)
    assert out["a"].down == [(-1, [1]), (0, [1, 5]), (1, [5, 12]), (2, [12])]


@EACH_WAY
def test_the_gap_belongs_to_a_session(kernels: bool) -> None:
    """Exactly the gap later is the same session, a microsecond more a new one."""
    out = came(
        collected(event_clock(60), session(5)), [(0, of_a(0, 5, 10.000001))], kernels=kernels
    )
    assert out["a"].down == [(0, [0, 5]), (1, [10.000001])]
    assert out["a"].meta[0] == (0, (at(0), at(5), frozenset()))


@pytest.mark.parametrize(
    ("windower", "early", "due"), [(tumbling(10), 9.999999, 10), (session(2), 10, 10.000001)]
)
def test_a_window_closes_at_its_end(windower: Any, early: float, due: float) -> None:
    """When the watermark is there; a session when it is further than the gap."""
    logic = windower.build(None)
    logic.open_for(at(8))
    assert logic.notify_at() == at(due)
    assert list(logic.close_for(at(early))) == []
    assert [n for n, _ in logic.close_for(at(due))] == [0]
    assert logic.is_empty()
    assert logic.notify_at() is None


@EACH_WAY
def test_a_value_behind_the_watermark_is_late(kernels: bool) -> None:
    """Of equal time is not; late values come out as they are, with the id of their window."""
    out = came(collected(event_clock(5), tumbling(10)), [(0, of_a(10, 5, 4.9))], kernels=kernels)
    assert out["a"].late == [(0, 4.9)]
    assert out["a"].down == [(0, [5]), (1, [10])]


@EACH_WAY
def test_a_late_value_comes_out_once_for_each_of_its_windows(kernels: bool) -> None:
    """Of overlapping windows all refuse it; where windows are sessions the id is -1."""
    batches = [(0, of_a(100, 7))]
    out = came(collected(event_clock(), sliding(10, 5)), batches, kernels=kernels)
    assert out["a"].late == [(0, 7), (1, 7)]
    out = came(collected(event_clock(), session(5)), batches, kernels=kernels)
    assert out["a"].late == [(win.LATE_SESSION_ID, 7)]


@EACH_WAY
def test_keys_have_watermarks_of_their_own(kernels: bool) -> None:
    """What is late for one key isn't for another."""
    batches = [(0, [("a", 100), ("b", 1), ("a", 1)])]
    out = came(collected(event_clock(), tumbling(10)), batches, kernels=kernels)
    assert out["a"].late == [(0, 1)]
    assert out["b"].down == [(0, [1])]


@EACH_WAY
def test_values_go_by_time_or_by_arrival(kernels: bool) -> None:
    """Values of equal time go in the order of arrival either way."""
    clock = win.EventClock(lambda value: at(value[0]), timedelta(seconds=30))
    values = of_a((5, "x"), (2, "y"), (5, "w"), (2, "z"))
    out = came(collected(clock, tumbling(10)), [(0, values)], kernels=kernels)["a"]
    assert [name for _, name in out.down[0][1]] == ["y", "z", "x", "w"]
    out = came(collected(clock, tumbling(10), ordered=False), [(0, values)], kernels=kernels)["a"]
    assert [name for _, name in out.down[0][1]] == ["x", "y", "w", "z"]


@EACH_WAY
def test_what_merged_sessions_had_is_counted_once(kernels: bool) -> None:
    """Counts and extremes are those of all values."""
    batches = [(0, of_a(0)), (0, of_a(18)), (0, of_a(9))]
    clock, sessions = event_clock(60), session(10)
    for build, result in [
        (lambda s: win.count_window("w", op.key_rm("k", s), clock, sessions, lambda _: "a"), 3),
        (lambda s: win.max_window("w", s, clock, sessions), 18),
        (lambda s: win.min_window("w", s, clock, sessions, lambda n: -n), 18),
        (lambda s: win.reduce_window("w", s, clock, sessions, lambda x, y: x + y), 27),
    ]:
        assert came(build, batches, kernels=kernels)["a"].down == [(0, result)]


@EACH_WAY
def test_windows_close_by_key_and_in_opening_order(kernels: bool) -> None:
    """At the end of input keys come in key order, the windows of each in the order they opened."""
    records = [("b", 1), ("a", 25), ("a", 5), ("b", 11), ("a", 15)]
    line = Run(
        collected(event_clock(60), tumbling(10), ordered=False), [(0, records)], kernels=kernels
    )
    down = [record for name, record in line.line.run() if name == "down"]
    assert [(key, n) for key, (n, _) in down] == [("a", 2), ("a", 0), ("a", 1), ("b", 0), ("b", 1)]


@EACH_WAY
def test_a_value_between_two_sessions_makes_them_one(kernels: bool) -> None:
    """It has the id of the one that begins earlier, whichever was opened first."""
    build = collected(event_clock(60), session(10), ordered=False)
    for first, second_, kept in [(0, 18, 0), (18, 0, 1)]:
        out = came(build, [(0, of_a(first, second_)), (0, of_a(9))], kernels=kernels)["a"]
        assert out.meta == [(kept, (at(0), at(18), frozenset({1 - kept})))]
        assert out.down == [(kept, [first, second_, 9])]


@EACH_WAY
def test_of_a_batch_values_go_first_then_windows_merge_and_close(kernels: bool) -> None:
    """A value behind the one between two sessions goes into that which stays, before they merge."""
    build = lambda s: win.fold_window(  # noqa: E731
        "w", s, event_clock(60), session(10), list, lambda all_, n: [*all_, n], merged, False
    )
    out = came(build, [(0, of_a(0, 18, 9, 5, 100))], kernels=kernels)["a"]
    assert out.down == [(0, ["merged", [0, 9, 5], [18]]), (2, [100])]
    assert out.meta[0] == (0, (at(0), at(18), frozenset({1})))


def merged(one: Any, other: Any) -> Any:
    return ["merged", one, other]


def closing_times(
    clock: Callable[[], win.Clock[Any, Any]], *items: Any, kernels: bool
) -> list[tuple[float, Any]]:
    """When sessions with a gap of 3 seconds close, in seconds after the first value."""
    began: list[datetime] = []

    def came_now(value: Any) -> Any:
        began.append(utc_now())
        return value

    def seen_now(record: Any) -> tuple[float, Any]:
        return round((utc_now() - began[0]).total_seconds(), 3), record[1][1]

    def build(s: Stream[Any]) -> Stream[Any]:
        values = op.map("came", s, came_now)
        return op.map("seen", win.collect_window("w", values, clock(), session(3)).down, seen_now)

    return emitted_in_time(build, items, kernels=kernels)


def as_it_comes(_value: Any) -> datetime:
    return utc_now()


@EACH_WAY
def test_windows_close_by_the_wall_clock(kernels: bool) -> None:
    """Where no value comes time goes on all the same: a window closes when it is due."""
    items = [("a", 1), pause(1), ("a", 2), pause(60), ("b", 3)]
    waits = lambda: win.EventClock(as_it_comes, timedelta(seconds=5))  # noqa: E731
    assert closing_times(waits, *items, kernels=kernels) == [(9.0, [1, 2]), (61.0, [3])]
    assert closing_times(win.SystemClock, *items, kernels=kernels) == [(4.0, [1, 2]), (61.0, [3])]


@EACH_WAY
def test_a_clock_may_have_no_time_by_the_wall_clock(kernels: bool) -> None:
    """Then windows close by values, or at the end."""
    items = [("a", 1), pause(60), ("b", 3)]
    clock = lambda: win.EventClock(  # noqa: E731
        as_it_comes, timedelta(seconds=5), to_system_utc=lambda _at: None
    )
    assert closing_times(clock, *items, kernels=kernels) == [(60.0, [1]), (60.0, [3])]


@EACH_WAY
def test_a_clock_of_another_pace_is_asked_again(kernels: bool) -> None:
    """A time by the wall clock that comes too early isn't waited for in vain, or in haste."""
    asked = []

    def slowed(at_: datetime) -> datetime:
        asked.append(at_)
        return win.UTC_MIN

    items = [("a", 1), pause(60), ("b", 3)]
    clock = lambda: win.EventClock(as_it_comes, timedelta(seconds=5), to_system_utc=slowed)  # noqa: E731
    [(first_s, first), _] = closing_times(clock, *items, kernels=kernels)
    assert first == [1]
    assert 8 <= first_s <= 9
    assert len(asked) < 100


# Defects that windows elsewhere have.


@EACH_WAY
def test_a_closed_window_is_never_opened_again(kernels: bool) -> None:
    """Also if its key has no window open in between."""
    for windower in (tumbling(10), session(3)):
        batches = [(0, of_a(1)), (30, [("b", 30)]), (30, of_a(2)), (60, of_a(70))]
        out = came(collected(event_clock(), windower), batches, kernels=kernels)["a"]
        assert [value for _, value in out.late] == [2]
        assert [values for _, values in out.down] == [[1], [70]]
        assert len({n for n, _ in out.meta}) == len(out.meta) == 2


@EACH_WAY
def test_a_key_is_forgotten_after_an_hour(kernels: bool) -> None:
    """An hour after its last window closed and its last value came: no key stays for ever.

    Seen here by the ids of sessions, which begin anew; by kernels they go on from the highest that
    any forgotten key had.
    """
    for silence, then in [(3599, 1), (3601, 1 if kernels else 0)]:
        batches = [(0, of_a(1)), (20, [("b", 1)]), (20 + silence, [("b", 1)])]
        batches.append((20 + silence, of_a(9000)))
        out = came(collected(event_clock(), session(3)), batches, kernels=kernels)["a"]
        assert [n for n, _ in out.meta] == [0, then]


@EACH_WAY
def test_a_key_with_open_windows_is_not_forgotten(kernels: bool) -> None:
    """However long nothing comes, and also if it had to do in the meantime."""
    batches = [(0, of_a(1)), (7200, [("b", 1)]), (7200, of_a(300))]
    out = came(collected(event_clock(7000), tumbling(10000)), batches, kernels=kernels)["a"]
    assert out.down == [(0, [1, 300])]


@EACH_WAY
@pytest.mark.parametrize(
    ("operator_", "result"), [(collected, [4, 5, 5.5, 6]), (joined, (6,))], ids=["one", "join"]
)
def test_an_outage_is_not_event_time(
    kernels: bool, store: RecoveryConfig, operator_: Any, result: Any
) -> None:
    """After an hour in which the job was down nothing is late that wasn't before."""
    batches = [(0, of_a(5)), (0, CRASH), (3600, of_a(4, 6)), (3601, of_a(5.5))]
    build = operator_(event_clock(2), tumbling(60))
    run = Run(build, batches, kernels=kernels, recovery=store)
    assert run.run() == {}
    run.line.clock.seconds = 3600
    out = run.run()["a"]
    assert out.late == []
    assert out.down == [(0, result)]


@EACH_WAY
@pytest.mark.parametrize("operator_", [collected, joined])
def test_a_clock_goes_on_from_where_it_was_saved(
    kernels: bool, store: RecoveryConfig, operator_: Any
) -> None:
    """In the new run time moves it on, from the watermark that was reached in the run before."""
    batches = [(0, of_a(50)), (0, CRASH), (0, of_a(45)), (5, of_a(44, 46))]
    build = operator_(event_clock(10), tumbling(100))
    run = Run(build, batches, kernels=kernels, recovery=store)
    assert run.run() == {}
    assert run.run()["a"].late == [(0, 44)]


@EACH_WAY
def test_an_outage_makes_no_key_forgotten(kernels: bool, store: RecoveryConfig) -> None:
    """The backlog of an outage of two hours finds the windows of before closed."""
    batches = [(0, of_a(1)), (0, of_a(30)), (40, [("b", 1)]), (40, CRASH), (7200, [("b", 1)])]
    batches.append((7200, of_a(2)))
    run = Run(collected(event_clock(), tumbling(10)), batches, kernels=kernels, recovery=store)
    assert run.run()["a"].down == [(0, [1]), (3, [30])]
    run.line.clock.seconds = 7200
    assert run.run()["a"].late == [(0, 2)]


@EACH_WAY
@pytest.mark.parametrize(("mode", "kept"), [("first", 100), ("last", 50)])
def test_merged_joins_keep_the_first_or_last_that_came(kernels: bool, mode: Any, kept: int) -> None:
    """In order of arrival, whichever of the merged sessions began earlier."""
    build = joined(event_clock(999), session(30), insert_mode=mode, ordered=False)
    batches = [(0, of_a(100), 0), (0, of_a(50), 0), (0, of_a(75), 1)]
    out = came(build, batches, kernels=kernels, sides=2)["a"]
    assert out.down == [(1, (kept, 75))]


@EACH_WAY
def test_a_merge_may_complete_a_join(kernels: bool) -> None:
    """Then, and with "running" in any case, rows are emitted because of it."""
    batches = [(0, of_a(0), 0), (0, of_a(18), 1), (0, of_a(9), 2)]
    for mode, rows in [
        ("complete", [(0, (0, 18, 9))]),
        (
            "running",
            [(0, (0, None, None)), (1, (None, 18, None)), (0, (0, None, 9)), (0, (0, 18, 9))],
        ),
        ("final", [(0, (0, 18, 9))]),
    ]:
        build = joined(event_clock(999), session(10), emit_mode=mode, ordered=False)
        assert came(build, batches, kernels=kernels, sides=3)["a"].down == rows


@EACH_WAY
def test_merged_lists_are_in_order_of_arrival(kernels: bool) -> None:
    """And in a dict the last that came counts."""
    build = collected(event_clock(999), session(30), ordered=False)
    batches = [(0, of_a(100)), (0, of_a(50)), (0, of_a(75))]
    assert came(build, batches, kernels=kernels)["a"].down == [(1, [100, 50, 75])]
    clock = win.EventClock(lambda pair: at(pair[1]), timedelta(seconds=999))
    build = collected(clock, session(30), into=dict, ordered=False)
    batches = [(0, of_a((x, n))) for x, n in [("x", 100), ("x", 50), ("y", 75)]]
    assert came(build, batches, kernels=kernels)["a"].down == [(1, {"x": 50, "y": 75})]


@EACH_WAY
def test_what_an_end_of_input_closed_stays_closed(kernels: bool, store: RecoveryConfig) -> None:
    """A run that goes on gives late values for it, and opens what wasn't open."""
    build = collected(event_clock(), sliding(10, 5))
    run = Run(build, [(0, of_a(7))], kernels=kernels, recovery=store)
    assert run.run()["a"].down == [(0, [7]), (1, [7])]
    run.add([(0, of_a(8)), (0, of_a(11)), (0, of_a(9))])
    out = run.run()["a"]
    assert out.late == [(0, 8), (1, 8), (1, 11), (0, 9), (1, 9)]
    assert out.down == [(2, [11])]
    run.add([(0, of_a(16))])
    assert run.run()["a"].late == [(2, 16)]


@EACH_WAY
def test_an_end_of_input_closes_windows_of_the_system_clock(
    kernels: bool, store: RecoveryConfig
) -> None:
    """In a run that goes on within the same window its values are late, and later ones aren't."""
    run = Run(
        collected(win.SystemClock(), tumbling(10)), [(1, of_a(1))], kernels=kernels, recovery=store
    )
    assert run.run()["a"].down == [(0, [1])]
    run.add([(2, of_a(2)), (12, of_a(3))])
    out = run.run()["a"]
    assert (out.late, out.down) == ([(0, 2)], [(1, [3])])


@EACH_WAY
def test_what_an_end_of_input_closed_is_not_forgotten(kernels: bool, store: RecoveryConfig) -> None:
    """A window of a day stays closed for that day, though an hour is over."""
    day = tumbling(86400)
    run = Run(collected(win.SystemClock(), day), [(1, of_a(1))], kernels=kernels, recovery=store)
    assert run.run()["a"].down == [(0, [1])]
    run.add([(7200, [("b", 1)]), (7200, [("b", 1)]), (7200, of_a(2)), (86400, of_a(3))])
    out = run.run()["a"]
    assert (out.late, out.down) == ([(0, 2)], [(1, [3])])


@EACH_WAY
def test_sessions_go_on_counting(kernels: bool, store: RecoveryConfig) -> None:
    """Ids aren't used again in a run that goes on."""
    build = collected(event_clock(), session(5))
    run = Run(build, [(0, of_a(1))], kernels=kernels, recovery=store)
    assert run.run()["a"].down == [(0, [1])]
    run.add([(0, of_a(2))])
    assert run.run()["a"].down == [(1, [2])]


@EACH_WAY
def test_a_join_works_with_any_clock(kernels: bool) -> None:
    """It is asked about the values of the sides; late values come out as they were."""
    asked = []

    def noted(value: Any) -> Any:
        asked.append(value)
        return value

    batches = [(0, of_a(1), 0), (0, of_a(12), 1), (0, of_a(2), 0)]
    out = came(
        joined(OwnClock(event_clock(), noted), tumbling(10)), batches, kernels=kernels, sides=2
    )["a"]
    assert asked == [1, 12, 2]
    assert out.late == [(0, 2)]
    assert out.down == [(0, (1, None)), (1, (None, 12))]


def test_several_operators_with_windows_have_their_own_steps() -> None:
    """All of them in one flow, also within an operator of one's own."""

    @operator
    def mine(step_id: str, up: Stream[Any]) -> Stream[Any]:
        return win.collect_window("w", up, event_clock(), tumbling(10)).down

    flow, out = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource(of_a(1, 2)))
    twice = [mine("one", s), mine("other", s)]
    streams = [win.collect_window(f"w{n}", s, event_clock(), tumbling(10)).down for n in range(2)]
    op.output("out", op.merge("all", *twice, *streams), TestingSink(out))
    run_main(flow)
    assert out == [("a", (0, [1, 2]))] * 4
