"""What is kept of a key: what is saved, in which version, for how long, and on which worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
import engine.operators.windowing as win
from engine.clock import clock_set_to
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.operators import _timed
from engine.operators._state import StateChanges
from engine.operators.windowing._collections import _Collected
from engine.operators.windowing._folds import _Fold, _Reduce
from engine.operators.windowing._joins import _JoinLogic
from engine.operators.windowing._key_windows import KeyWindows, WindowStep
from engine.operators.windowing._logic import number_value
from engine.operators.windowing._panes import PanedState
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, TestingSource, run_main
from tests.operators.flows import by_key, emitted_by_all, root_cause
from tests.operators.timed import CRASH, HandClock
from tests.operators.windowing.runs import (
    START,
    WAYS,
    Run,
    at,
    came,
    event_clock,
    plain,
    second,
    session,
    sliding,
    tumbling,
)

EACH_WAY = pytest.mark.parametrize("kernels", WAYS.values(), ids=WAYS)
WAIT = event_clock(100)
LATER = timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> RecoveryConfig:
    return RecoveryConfig(tmp_path / "store", create=True)


class All(win.WindowLogic[Any, Any, Any]):
    """Gathers values."""

    def __init__(self, resume: Any) -> None:
        self.seen = list(resume or [])

    def on_value(self, value: Any) -> Iterable[Any]:
        self.seen.append(value)
        return ()

    def on_merge(self, original: All) -> Iterable[Any]:
        self.seen += original.seen
        return ()

    def on_close(self) -> Iterable[Any]:
        return (self.seen,)

    def snapshot(self) -> Any:
        return list(self.seen)


def key_windows(
    clock: win.Clock[Any, Any], windower: win.Windower[Any], resume: Any = None, began: Any = START
) -> KeyWindows:
    return KeyWindows(WindowStep(clock, windower, All, ordered=True), began, resume)


def test_what_is_saved_does_not_change() -> None:
    """A snapshot is as it was, whatever comes after it; an object made of it goes on from there."""
    clock = HandClock()
    with clock_set_to(clock.now):
        object_ = key_windows(event_clock(5), session(3))
        object_.on_batch([1, 9, 2])
        saved = object_.snapshot()
        went_on = object_.on_batch([10, 30]), object_.on_eof()
        again = key_windows(event_clock(5), session(3), saved)
        assert again.snapshot() == saved
        assert (again.on_batch([10, 30]), again.on_eof()) == went_on
        third = key_windows(event_clock(5), session(3), saved)
        assert third.notify_at() == key_windows(event_clock(5), session(3), saved).notify_at()


@pytest.mark.parametrize(
    "make",
    [
        lambda resume: _Fold(lambda all_, n: all_.append(n) or all_, max, (resume or [[]])[0]),
        lambda resume: _Reduce(lambda one, n: one.extend(n) or one, resume),
        lambda resume: _Collected(list, resume),
        lambda resume: _JoinLogic("product", "final", resume or [()]),
    ],
    ids=["fold", "reduce", "collect", "join"],
)
def test_what_is_saved_of_a_window_does_not_change(make: Any) -> None:
    """Also where the user's function changes in place what it is given."""
    logic = make(None)
    give(logic, 1)
    saved = logic.snapshot()
    before = repr(saved)
    give(logic, 2)
    assert repr(saved) == before
    again = make(saved)
    give(again, 2)
    assert list(again.on_close()) == list(logic.on_close())


def give(logic: Any, number: int) -> None:
    number_value(logic, number)
    logic.on_value([number] if isinstance(logic, _Reduce) else (0, number))


@EACH_WAY
def test_keys_are_forgotten_where_memory_is_narrow(kernels: bool, tmp_path: Path) -> None:
    """A key that left memory and comes back is no younger for it."""
    narrow = RecoveryConfig(tmp_path / "store", create=True, state_memory=1)
    batches: list[Any] = [(0, [("a", 1)]), (20, [("b", 1)])]
    batches += [(20 + 100 * n, [(f"k{n}", 1)]) for n in range(1, 38)]
    batches += [(3800, [("a", 9000)])]
    build = lambda s: win.collect_window("w", s, event_clock(), session(3))  # noqa: E731
    out = Run(build, batches, kernels=kernels, recovery=narrow).run()["a"]
    assert [n for n, _ in out.meta] == [0, 1 if kernels else 0]


@EACH_WAY
@pytest.mark.parametrize("sides", [1, 2])
def test_windows_close_in_time_where_memory_is_narrow(
    kernels: bool, sides: int, tmp_path: Path
) -> None:
    """For a key that isn't in memory time goes on as for any other."""
    narrow = RecoveryConfig(tmp_path / "store", create=True, state_memory=1)
    batches: list[Any] = [(0, [("a", 1)]), *[(n, [(f"k{n}", n)]) for n in range(1, 30)]]
    build: Any = lambda *s: win.collect_window("w", s[0], event_clock(5), tumbling(10))  # noqa: E731
    if sides == 2:
        build = lambda *s: win.join_window("w", event_clock(5), tumbling(10), *s)  # noqa: E731
    run = Run(build, batches, kernels=kernels, sides=sides, recovery=narrow)
    keys = [key for name, (key, _) in run.line.run() if name == "meta"]
    assert keys[:5] == ["a", "k1", "k2", "k3", "k4"]


def test_sessions_are_saved_with_what_merged_into_them() -> None:
    """And what is saved doesn't change with sessions that merge later."""
    sessions = session(10).build(None)
    for seconds in (0, 18, 9, 38):
        sessions.open_for(at(seconds))
    saved = sessions.snapshot()
    sessions.open_for(at(28))
    again = session(10).build(saved)
    closed = dict(again.close_for(win.UTC_MAX))
    assert [plain(closed[n])[2] for n in (0, 2)] == [{1}, set()]
    [(_, metadata)] = sessions.close_for(win.UTC_MAX)
    assert metadata == win.WindowMetadata(at(0), at(38), {1, 2})


def test_when_a_key_wants_to_be_called() -> None:
    """For its first value that waits or its first window that is due, or else to be forgotten."""
    clock = HandClock()
    with clock_set_to(clock.now):
        waiting = key_windows(event_clock(5), tumbling(10))
        waiting.on_batch([1])
        assert waiting.notify_at() == at(5)
        clock.seconds = 5
        assert waiting.on_notify() == ([], False)
        assert waiting.notify_at() == at(14)
        clock.seconds = 14
        closed, discard = waiting.on_notify()
        assert [tag for tag, _ in closed] == [0, 2]
        assert not discard
        assert waiting.notify_at() == at(14) + LATER
        clock.seconds = 3613.9
        assert waiting.on_notify() == ([], False)
        clock.seconds = 3614
        assert waiting.on_notify() == ([], True)


def test_closed_windows_are_remembered_no_longer_than_needed() -> None:
    """Those that an end of input closed, until the watermark has passed them; others not at all."""
    clock = HandClock()
    with clock_set_to(clock.now):
        windows = key_windows(event_clock(), tumbling(10))
        windows.on_batch([1, 12, 25])
        assert windows.snapshot().closed == ()
        windows.on_eof()
        assert [n for n, _ in windows.snapshot().closed] == [2]
        windows.on_batch([31])
        assert windows.snapshot().closed == ()


def test_a_key_is_remembered_until_windows_that_an_end_closed_are_over() -> None:
    """Also if that is longer than an hour; but not where it can't be known when they are."""
    clock = HandClock()
    with clock_set_to(clock.now):
        windows = key_windows(win.SystemClock(), tumbling(86400))
        windows.on_batch([1])
        windows.on_eof()
        assert windows.notify_at() == at(86400)
        clock.seconds = 7200
        assert windows.on_notify() == ([], False)
        clock.seconds = 86400
        assert windows.on_notify() == ([], True)
        unknown = key_windows(GoesBack(), tumbling(200000))
        unknown.on_batch([1])
        unknown.on_eof()
        assert unknown.notify_at() == at(86400) + LATER


def test_an_hour_counts_within_a_run() -> None:
    """A key that was saved long ago is remembered for an hour from when the run began."""
    clock = HandClock()
    with clock_set_to(clock.now):
        before = key_windows(event_clock(), session(1))
        before.on_batch([1])
        clock.seconds = 10
        before.on_notify()
        saved = before.snapshot()
        assert key_windows(event_clock(), session(1), saved).notify_at() == at(10) + LATER
        assert key_windows(event_clock(), session(1), saved, at(99)).notify_at() == at(99) + LATER


def test_a_watermark_never_goes_back() -> None:
    """Not where a clock of one's own goes back, nor where the present time does."""
    clock = HandClock()
    with clock_set_to(clock.now):
        logic = event_clock().build(None)
        logic.before_batch()
        assert logic.on_item(50) == (at(50), at(50))
        clock.seconds = 10
        assert logic.on_notify() == at(60)
        clock.seconds = 5
        assert logic.on_notify() == at(60)
        logic.before_batch()
        assert logic.on_item(40) == (at(40), at(60))
        system = win.SystemClock().build(None)
        assert system.on_notify() == at(5)
        clock.seconds = 3
        system.before_batch()
        assert system.on_item(None) == (at(5), at(5))
        assert win.SystemClock().build(system.snapshot()).on_notify() == at(5)
        going_back = key_windows(GoesBack(), tumbling(10))
        going_back.on_batch([20])
        assert going_back.on_batch([5])[0] == [(1, (0, 5))]


class GoesBack(win.Clock[Any, Any]):
    """The watermark is the time of each value."""

    def build(self, resume_state: Any) -> Any:
        return _GoesBackLogic()


class _GoesBackLogic(win.ClockLogic[Any, Any]):
    def on_item(self, value: Any) -> tuple[datetime, datetime]:
        return second(value), second(value)

    def on_notify(self) -> datetime:
        return win.UTC_MIN

    def on_eof(self) -> datetime:
        return win.UTC_MAX

    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        return None

    def snapshot(self) -> Any:
        return None


def test_wall_time_counts_while_the_job_runs() -> None:
    """And goes on from where the watermark was after an outage, of which nothing counts."""
    clock = HandClock()
    with clock_set_to(clock.now):
        logic = event_clock().build(None)
        logic.on_item(50)
        clock.seconds = 7
        logic.on_notify()
        saved = logic.snapshot()
        clock.seconds = 8
        assert event_clock().build(saved).on_notify() == at(58)
        clock.seconds = 5000
        resumed = event_clock().build(saved)
        resumed.after_outage()
        assert resumed.on_notify() == at(57)
        assert resumed.to_system_utc(at(60)) == at(5003)
        clock.seconds = 5001
        assert resumed.on_notify() == at(58)


def test_the_longest_wait_is_for_ever() -> None:
    """The watermark stays before all times, and nothing is due by the wall clock."""
    logic = win.EventClock(second, timedelta.max).build(None)
    assert logic.on_item(5) == (at(5), win.UTC_MIN)
    assert logic.on_notify() == win.UTC_MIN
    assert logic.to_system_utc(at(10)) is None


class Pairs(win.Windower[Any]):
    """Windows of two values each, and every third window becomes part of the one before."""

    def build(self, resume_state: Any) -> Any:
        return _PairsLogic()


class _PairsLogic(win.WindowerLogic[Any]):
    def __init__(self) -> None:
        self.count = 0
        self.merges: list[tuple[int, int]] = []

    def open_for(self, timestamp: datetime) -> list[int]:
        self.count += 1
        window_id = (self.count - 1) // 2
        if window_id % 3 == 2 and self.count % 2 == 0:
            self.merges.append((window_id, window_id - 1))
        return [window_id]

    def late_for(self, timestamp: datetime) -> list[int]:
        return [-7]

    def merged(self) -> list[tuple[int, int]]:
        merges, self.merges = self.merges, []
        return merges

    def close_for(self, watermark: datetime) -> list[tuple[int, win.WindowMetadata]]:
        if watermark < win.UTC_MAX:
            return []
        return [(n, win.WindowMetadata(win.UTC_MIN, win.UTC_MAX)) for n in (0, 1, 3)]

    def notify_at(self) -> datetime | None:
        return None

    def is_empty(self) -> bool:
        return False

    def snapshot(self) -> Any:
        return None


@EACH_WAY
def test_a_windower_of_ones_own(kernels: bool) -> None:
    """It says which windows there are, what merges, what closes, and what late values belong to."""
    records = [("a", n) for n in (1, 2, 3, 4, 5, 6, 7, 0)]
    out = came(
        lambda s: win.window("w", s, event_clock(), Pairs(), All), [(0, records)], kernels=kernels
    )
    assert out["a"].down == [(0, [1, 2]), (1, [3, 4, 5, 6]), (3, [7])]
    assert out["a"].late == [(-7, 0)]
    assert [n for n, _ in out["a"].meta] == [0, 1, 3]


def windows_of(**more: Any) -> dict[str, Callable[..., win.WindowOut[Any, Any]]]:
    """Operators, and for each the sum of the two values that are in its windows."""
    add = lambda x, y: x + y  # noqa: E731
    return {
        "window": lambda s: win.window("w", s, WAIT, tumbling(10), All, False, **more),
        "fold": lambda s: win.fold_window("w", s, WAIT, tumbling(10), int, add, add, False, **more),
        "collect": lambda s: win.collect_window("w", s, WAIT, tumbling(10), list, False, **more),
        "reduce": lambda s: win.reduce_window("w", s, WAIT, tumbling(10), add, **more),
        "max": lambda s: win.max_window("w", s, WAIT, tumbling(10), **more),
        "min": lambda s: win.min_window("w", s, WAIT, tumbling(10), **more),
        "join": lambda s: win.join_window(
            "w", WAIT, tumbling(10), s, insert_mode="product", ordered=False, **more
        ),
        "count": lambda s: op_count(s, **more),
    }


def op_count(s: Any, **more: Any) -> win.WindowOut[Any, Any]:
    return win.count_window("w", op.key_rm("rm", s), WAIT, tumbling(10), lambda _: "a", **more)


def in_tens(state: Any) -> Any:
    """A state of a window, its numbers times ten."""
    return [in_tens(each) for each in state] if isinstance(state, list) else state * 10


@EACH_WAY
@pytest.mark.parametrize(
    ("name", "given", "result"),
    [
        ("window", [1, 2], [[10, 20, 4]]),
        ("fold", 3, [34]),
        ("collect", [1, 2], [[10, 20, 4]]),
        ("reduce", 3, [34]),
        ("max", 2, [20]),
        ("min", 1, [4]),
        ("join", [[1, 2]], [(10,), (20,), (4,)]),
        ("count", 2, [21]),
    ],
)
def test_states_are_migrated(
    kernels: bool, store: RecoveryConfig, name: str, given: Any, result: Any
) -> None:
    """The user's function sees what a window has, in no wrapping, with the version it is of."""
    Run(
        windows_of()[name], [(0, [("a", 1), ("a", 2)]), (0, CRASH)], kernels=kernels, recovery=store
    ).run()
    seen = []

    def migrate(version: int, state: Any) -> Any:
        seen.append((version, state))
        return in_tens(state)

    changed = windows_of(state_version=2, migrate=migrate)[name]
    batches = [(0, [("a", 1), ("a", 2)]), (0, CRASH), (0, [("a", 4)])]
    out = Run(changed, batches, kernels=kernels, recovery=store).run()["a"]
    assert seen == [(1, given)]
    assert [value for _, value in out.down] == result


@EACH_WAY
@pytest.mark.parametrize("name", ["collect", "join"])
@pytest.mark.parametrize("migrated", [None, [], [[1], [2]], (1, 2)])
def test_a_migrated_state_must_be_of_the_same_form(
    kernels: bool, store: RecoveryConfig, name: str, migrated: Any
) -> None:
    """As many values as there were: which came first is kept beside them."""
    Run(windows_of()[name], [(0, [("a", 1)]), (0, CRASH)], kernels=kernels, recovery=store).run()
    changed = windows_of(state_version=2, migrate=lambda _version, _state: migrated)[name]
    batches = [(0, [("a", 1)]), (0, CRASH), (0, [("a", 4)])]
    with pytest.raises(EngineRuntimeError) as caught:
        Run(changed, batches, kernels=kernels, recovery=store).run()
    assert "`migrate` of `" in str(root_cause(caught.value))
    assert "as many as it got" in str(root_cause(caught.value))


@EACH_WAY
def test_folded_none_is_a_state(kernels: bool, store: RecoveryConfig) -> None:
    """A fold that became None goes on from None, also after a crash."""
    folder = lambda state, value: None if value == 1 else ("after", state)  # noqa: E731
    batches = [(0, [("a", 1)]), (0, CRASH), (0, [("a", 2)])]
    run = Run(
        lambda s: win.fold_window("w", s, WAIT, tumbling(10), int, folder, max, ordered=False),
        batches,
        kernels=kernels,
        recovery=store,
    )
    assert run.run() == {}
    assert run.run()["a"].down == [(0, ("after", None))]


@EACH_WAY
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers(kernels: bool, workers: int) -> None:
    """Each key has all of its windows on one of them."""
    records = [(f"k{n % 7}", n) for n in range(60)]
    out = emitted_by_all(
        lambda s: win.collect_window("w", s, event_clock(1000), tumbling(20)).down,
        records,
        workers=workers,
        kernels=kernels,
    )
    for key, windows in by_key(out).items():
        mine = [n for its_key, n in records if its_key == key]
        assert windows == [(i, [n for n in mine if n // 20 == i]) for i in range(3)]
    assert len(by_key(out)) == 7


def test_windows_of_another_kind_are_refused(tmp_path: Path) -> None:
    """Ids would mean other times: the start says what is saved, and the ways out."""
    store = RecoveryConfig(tmp_path / "store", create=True)
    minutes, hours = (
        lambda s, length=length: win.fold_window(
            "w", s, event_clock(), tumbling(length), int, int.__add__, int.__add__
        )
        for length in (60, 3600)
    )
    Run(minutes, [(0, [("a", 1)])], kernels=True, recovery=store).run()
    with pytest.raises(EngineRuntimeError, match="is of windows of 0:01:00 .*drop-step DIR flow.w"):
        Run(hours, [(0, [("a", 1)])], kernels=True, recovery=store).run()


OF_KEY = win.EventClock(second, timedelta(0))
OF_STREAM = win.EventClock(second, timedelta(0), scope="stream")


@pytest.mark.parametrize("operator", [win.collect_window, win.order_by_time])
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (OF_KEY, OF_STREAM, "with a watermark for each key, .* with one watermark for the stream"),
        (OF_STREAM, OF_KEY, "with one watermark for the stream, .* with a watermark for each key"),
        (win.SystemClock(), OF_KEY, "with the time of the system, .* with a watermark for each"),
    ],
)
def test_another_kind_of_clock_is_refused(
    operator: Callable[..., Any], before: Any, after: Any, told: str, store: RecoveryConfig
) -> None:
    """The wall clock of a run would be a watermark, and all that happened before it late."""

    def run(clock: Any) -> None:
        windower = () if operator is win.order_by_time else (tumbling(60),)
        flow = Dataflow("flow")
        s = op.input("in", flow, TestingSource([("a", 1)]))
        op.output("out", operator("w", s, clock, *windower).down, TestingSink([]))
        run_main(flow, recovery_config=store)

    run(before)
    with pytest.raises(EngineRuntimeError, match=told):
        run(after)


class OwnWindower(win.TumblingWindower):
    """A windower of a user's own, if only by its name: such steps run as they are composed."""


@pytest.mark.parametrize("first", [win.TumblingWindower, OwnWindower])
def test_state_of_the_other_way_to_run_is_refused(tmp_path: Path, first: Any) -> None:
    """A windower of one's own in place of the engine's, or the other way round, says so."""
    store = RecoveryConfig(tmp_path / "store", create=True)
    second = OwnWindower if first is win.TumblingWindower else win.TumblingWindower
    before, after = (
        lambda s, kind=kind: win.fold_window(
            "w", s, event_clock(), kind(timedelta(seconds=9), START), int, int.__add__, max
        )
        for kind in (first, second)
    )
    Run(before, [(0, [("a", 1)])], kernels=True, recovery=store).run()
    with pytest.raises(EngineRuntimeError, match=r"what is saved of it is of .* drop-step DIR"):
        Run(after, [(0, [("a", 1)])], kernels=True, recovery=store).run()


def sliding_sums(s: Any, *, share: bool, **more: Any) -> win.WindowOut[Any, Any]:
    """Windows of ten seconds every five."""
    add = int.__add__
    return win.fold_window("w", s, WAIT, sliding(10, 5), int, add, add, share_panes=share, **more)


@pytest.mark.parametrize("share", [True, False])
def test_a_store_without_shared_panes_is_none_with_them(share: bool, store: RecoveryConfig) -> None:
    """What the rows hold is something else: the start says so, either way."""
    batches = [(0, [("a", 1)])]
    Run(lambda s: sliding_sums(s, share=share), batches, kernels=True, recovery=store).run()
    with pytest.raises(
        EngineRuntimeError, match=r"is of windows of 0:00:10 .*drop-step DIR flow.w"
    ):
        Run(lambda s: sliding_sums(s, share=not share), batches, kernels=True, recovery=store).run()


@pytest.mark.parametrize(("share", "numbers"), [(True, {0}), (False, {-3, -2, -1, 0})])
def test_a_value_that_windows_share_is_one_row(
    share: bool, numbers: set[int], store: RecoveryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four windows that a key is in one row is saved, besides the key's own."""
    saved: set[Any] = set()
    barrier = PanedState.barrier

    def noted(self: PanedState) -> StateChanges:
        changes = barrier(self)
        saved.update(changes.keys)
        return changes

    monkeypatch.setattr(PanedState, "barrier", noted)
    build = lambda s: win.fold_window(  # noqa: E731
        "w", s, WAIT, sliding(20, 5), int, int.__add__, int.__add__, False, share_panes=share
    )
    batches = [(0, [("a", 1), ("a", 2)]), (0, CRASH)]
    Run(build, batches, kernels=True, recovery=store).run()
    assert saved == {"a", *[("a", None, number) for number in numbers]}


@pytest.mark.parametrize(("name", "result"), [("fold", 138), ("max", 70)])
def test_states_of_shared_panes_are_migrated(name: str, result: int, store: RecoveryConfig) -> None:
    """As those of windows; of `max_window` without the number that tells which came first."""

    def build(s: Any, **more: Any) -> win.WindowOut[Any, Any]:
        if name == "fold":
            return sliding_sums(s, share=True, ordered=False, **more)
        return win.max_window("w", s, WAIT, sliding(10, 5), **more)

    batches: list[Any] = [(0, [("a", 6), ("a", 7)]), (0, CRASH)]
    Run(build, batches, kernels=True, recovery=store).run()
    more: dict[str, Any] = {"state_version": 2, "migrate": lambda _, state: state * 10}
    batches += [(0, [("a", 8)])]
    out = Run(lambda s: build(s, **more), batches, kernels=True, recovery=store).run()["a"]
    assert out.down == [(0, result), (1, result)]


@EACH_WAY
def test_of_equal_values_the_first_to_come_counts(kernels: bool, store: RecoveryConfig) -> None:
    """Also where it is in a later pane than the other, and came in an earlier run."""
    build = lambda s: win.max_window("w", s, WAIT, sliding(10, 5), lambda _: 0)  # noqa: E731
    run = Run(
        build, [(0, [("a", 7)]), (0, CRASH), (0, [("a", 3)])], kernels=kernels, recovery=store
    )
    run.run()
    assert run.run()["a"].down == [(0, 7), (1, 7), (-1, 3)]


@EACH_WAY
@pytest.mark.parametrize("share", [True, False])
def test_a_window_that_an_end_closed_takes_nothing_of_what_others_take(
    share: bool, kernels: bool, store: RecoveryConfig
) -> None:
    """Of a pane's windows one may be closed for a key: the value is late for that alone."""
    build = lambda s: sliding_sums(s, share=share, ordered=False)  # noqa: E731
    run = Run(build, [(0, [("a", 17)])], kernels=kernels, recovery=store)
    assert run.run()["a"].down == [(2, 17), (3, 17)]
    run.add([(0, [("a", 12), ("a", 13)]), (0, CRASH), (0, [("a", 14), ("a", 6)])])
    assert run.run()["a"].late == [(2, 12), (2, 13)]
    run.batches.pop(-2)
    out = run.run()["a"]
    assert out.late == [(2, 14)]
    assert out.down == [(1, 45), (0, 6)]


@EACH_WAY
def test_a_key_that_fell_behind_is_remembered(kernels: bool) -> None:
    """Its watermark goes on: a timer for a window that closed meanwhile doesn't make it new."""
    batches: list[Any] = [
        (2, [("a", -28), ("a", -27), ("b", 15), ("a", 23), ("a", 22)]),
        (4, [("b", 28)]),
        (6, [("b", 3)]),
        (26, [("a", 30), ("b", 38), ("a", 37), ("b", 37), ("b", 10)]),
        (26, [("b", 39)]),
    ]
    build = lambda s: win.reduce_window("w", s, event_clock(), tumbling(5), max)  # noqa: E731
    late = came(build, batches, kernels=kernels)["b"].late
    assert [value for _, value in late] == [3, 38, 37, 10, 39]


@pytest.mark.parametrize("windower", [tumbling(5), session(5)], ids=["tumbling", "session"])
def test_a_key_may_be_forgotten_while_input_ends(
    windower: win.Windower[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One before it becomes idle, and is one too many: the others are closed all the same."""
    monkeypatch.setattr(_timed, "IDLE_MAX", 1)
    batches = [(0, [("c", 1), ("c", 20), ("c", 1)]), (30, [("a", 50), ("b", 50)])]
    build = lambda s: win.reduce_window("w", s, event_clock(), windower, max)  # noqa: E731
    out = came(build, batches, kernels=True)
    assert [value for _, value in out["c"].down] == [1, 20]
    assert [value for key in "ab" for _, value in out[key].down] == [50, 50]
