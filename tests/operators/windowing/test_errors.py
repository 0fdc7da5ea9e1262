"""What is refused, by what words: wrong arguments of a flow, and unusable values in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

import engine.operators.windowing as win
from engine.errors import EngineRuntimeError, UserCodeError
from tests.operators.flows import emitted, root_cause
from tests.operators.windowing.runs import (
    START,
    WAYS,
    OwnClock,
    at,
    came,
    event_clock,
    second,
    tumbling,
)

EACH_WAY = pytest.mark.parametrize("kernels", WAYS.values(), ids=WAYS)
HOUR = timedelta(hours=1)
NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - what is refused


async def never(value: Any) -> datetime:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: win.EventClock(5, HOUR), TypeError, "`ts_getter` of `EventClock` must be a func"),
        (
            lambda: win.EventClock(never, HOUR),
            TypeError,
            "`ts_getter` of `EventClock` is an `async",
        ),
        (
            lambda: win.EventClock(second, 5),
            TypeError,
            "`wait_for_system_duration` of `EventClock`",
        ),
        (lambda: win.EventClock(second, -HOUR), ValueError, "must be 0 or more; got datetime.tim"),
        (lambda: win.EventClock(second, HOUR, HOUR), TypeError, "`now_getter` of `EventClock`"),
        (
            lambda: win.EventClock(second, HOUR, to_system_utc=1),
            TypeError,
            "`to_system_utc` of `EventClock` must be a function",
        ),
        (
            lambda: win.EventClock(second, HOUR, scope="flow"),
            ValueError,
            "`scope` of `EventClock` must be 'key' or 'stream'; got 'flow'",
        ),
        (lambda: win.EventClock(second, HOUR, idle_after=1), TypeError, "`idle_after` of `EventCl"),
        (
            lambda: win.EventClock(second, HOUR, idle_after=-HOUR),
            ValueError,
            "`idle_after` of `EventClock` must be 0 or more",
        ),
        (lambda: win.TumblingWindower(5, START), TypeError, "`length` of `TumblingWindower` must"),
        (lambda: win.TumblingWindower(0 * HOUR, START), ValueError, "must be more than 0; got"),
        (lambda: win.TumblingWindower(HOUR, 5), TypeError, "`align_to` of `TumblingWindower` must"),
        (lambda: win.TumblingWindower(HOUR, NAIVE), ValueError, "must have a time zone; got"),
        (lambda: win.SlidingWindower(HOUR, 2 * HOUR, START), ValueError, "must not be longer than"),
        (lambda: win.SlidingWindower(HOUR, 0 * HOUR, START), ValueError, "`offset` of `SlidingW"),
        (lambda: win.SlidingWindower(HOUR, HOUR, NAIVE), ValueError, "must have a time zone; got"),
        (lambda: win.SessionWindower(-HOUR), ValueError, "`gap` of `SessionWindower` must be 0 or"),
        (
            lambda: win.SessionWindower(None),
            TypeError,
            "`gap` of `SessionWindower` must be a `time",
        ),
    ],
)
def test_clocks_and_windowers_look_at_their_arguments(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    """As soon as they are made."""
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


CLOCK: Any = event_clock()
TENS: Any = tumbling(10)


class OwnWindower(win.Windower[Any]):
    """A user's own."""

    def build(self, resume_state: Any) -> Any:
        raise NotImplementedError


OPERATORS: dict[str, Callable[..., Any]] = {
    "window": lambda s, c, w, **kw: win.window("w", s, c, w, lambda _: None, **kw),
    "fold": lambda s, c, w, **kw: win.fold_window("w", s, c, w, int, max, max, **kw),
    "reduce": lambda s, c, w, **kw: win.reduce_window("w", s, c, w, max, **kw),
    "collect": lambda s, c, w, **kw: win.collect_window("w", s, c, w, **kw),
    "count": lambda s, c, w, **kw: win.count_window("w", s, c, w, str, **kw),
    "max": lambda s, c, w, **kw: win.max_window("w", s, c, w, **kw),
    "min": lambda s, c, w, **kw: win.min_window("w", s, c, w, **kw),
    "join": lambda s, c, w, **kw: win.join_window("w", c, w, s, **kw),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_look_at_their_arguments(name: str) -> None:
    """While the flow is built; the message names the step that the user wrote."""
    by_stream = win.EventClock(second, HOUR, scope="stream")
    ours = "`allowed_lateness`, `trigger` and `scope='stream'` of step 'flow.w' need a clock and"
    own = OwnClock(CLOCK, lambda value: value)
    cases: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (5, TENS, {}, TypeError, "`clock` of step 'flow.w' must be a `Clock`; got 5"),
        (CLOCK, HOUR, {}, TypeError, "`windower` of step 'flow.w' must be a `Windower`; got"),
        (by_stream, OwnWindower(), {}, ValueError, ours),
        (CLOCK, TENS, {"state_version": 0}, ValueError, "`state_version` of step 'flow.w' must"),
        (CLOCK, TENS, {"migrate": 5}, TypeError, "`migrate` of step 'flow.w' must be a function"),
    ]
    if name in {"window", "fold", "collect", "join"}:
        wrong = "`ordered` of step 'flow.w' must be a `bool`; got 1"
        cases.append((CLOCK, TENS, {"ordered": 1}, TypeError, wrong))
    if name not in {"window", "join"}:
        cases += [
            (own, TENS, {"allowed_lateness": HOUR}, ValueError, ours),
            (own, TENS, {"trigger": win.OnUpdate()}, ValueError, ours),
            (CLOCK, OwnWindower(), {"trigger": win.OnCount(2)}, ValueError, ours),
            (CLOCK, TENS, {"allowed_lateness": -HOUR}, ValueError, "must be 0 or more; got"),
            (CLOCK, TENS, {"allowed_lateness": 5}, TypeError, "must be a `timedelta`; got 5"),
            (CLOCK, TENS, {"trigger": 5}, TypeError, "`trigger` of step 'flow.w' must be `OnUpd"),
        ]
    for clock, windower, more, error, message in cases:
        build = functools.partial(OPERATORS[name], c=clock, w=windower, **more)
        with pytest.raises(error) as caught:
            came(build, [], kernels=False)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: win.window("w", s, CLOCK, TENS, 5), "`builder` of step 'flow.w' must be a func"),
        (lambda s: win.fold_window("w", s, CLOCK, TENS, 0, max, max), "`builder` of step 'flow.w'"),
        (lambda s: win.fold_window("w", s, CLOCK, TENS, int, 0, max), "`folder` of step 'flow.w'"),
        (lambda s: win.fold_window("w", s, CLOCK, TENS, int, max, 0), "`merger` of step 'flow.w'"),
        (lambda s: win.reduce_window("w", s, CLOCK, TENS, 0), "`reducer` of step 'flow.w' must be"),
        (lambda s: win.count_window("w", s, CLOCK, TENS, 0), "`key` of step 'flow.w' must be a fu"),
        (lambda s: win.max_window("w", s, CLOCK, TENS, 0), "`by` of step 'flow.w' must be a func"),
        (lambda s: win.min_window("w", s, CLOCK, TENS, 0), "`by` of step 'flow.w' must be a func"),
        (
            lambda s: win.collect_window("w", s, CLOCK, TENS, tuple),
            "must be `list`, `set` or `dict",
        ),
        (
            lambda s: win.join_window("w", CLOCK, TENS, s, insert_mode="any"),
            "`insert_mode` of step 'flow.w' must be one of 'first', 'last', 'product'; got 'any'",
        ),
        (
            lambda s: win.join_window("w", CLOCK, TENS, s, emit_mode="any"),
            "`emit_mode` of step 'flow.w' must be one of 'complete', 'final', 'running'; got 'any'",
        ),
    ],
)
def test_functions_and_modes_are_checked(build: Any, message: str) -> None:
    """While the flow is built."""
    with pytest.raises((TypeError, ValueError)) as caught:
        emitted(lambda s: build(s).down, [])
    assert message in str(caught.value)


def failure(build: Any, records: list[Any], **options: Any) -> UserCodeError:
    """The user's error that ends a run."""
    with pytest.raises(EngineRuntimeError) as caught:
        came(build, [(0, records)], **options)
    cause = root_cause(caught.value)
    assert isinstance(cause, UserCodeError)
    return cause


@EACH_WAY
def test_times_need_a_time_zone(kernels: bool) -> None:
    """The error names what the user gave, and the function that gave it."""
    for wrong in (NAIVE, 5, None):
        clock = win.EventClock(lambda _value, wrong=wrong: wrong, HOUR)
        build = functools.partial(OPERATORS["collect"], c=clock, w=TENS)
        ex = failure(build, [("a", 1)], kernels=kernels)
        assert "`ts_getter` must return a `datetime` with a time zone; got" in str(ex)
        assert ex.function is clock.ts_getter
    clock = win.EventClock(second, HOUR, lambda: NAIVE)
    ex = failure(lambda s: win.collect_window("w", s, clock, TENS), [("a", 1)], kernels=kernels)
    assert "`now_getter` must return" in str(ex)
    clock = win.EventClock(second, HOUR, to_system_utc=lambda _at: NAIVE)
    ex = failure(lambda s: win.collect_window("w", s, clock, TENS), [("a", 1)], kernels=kernels)
    assert "`to_system_utc` must return" in str(ex)


class Wrong(OwnClock):
    """A clock whose values' times are as a function says."""

    def __init__(self, judged: Any) -> None:
        super().__init__(event_clock(), lambda value: value)
        self.judged = judged

    def build(self, resume_state: Any) -> Any:
        logic = super().build(resume_state)
        logic.on_item = lambda _value: self.judged  # type: ignore[method-assign]
        return logic


@EACH_WAY
@pytest.mark.parametrize("judged", [None, START, (START,), (NAIVE, START), (START, None)])
def test_own_clocks_are_held_to_their_contract(kernels: bool, judged: Any) -> None:
    """What `on_item` must give is said in the error."""
    build = lambda s: win.collect_window("w", s, Wrong(judged), TENS)  # noqa: E731
    ex = failure(build, [("a", 1)], kernels=kernels)
    assert "_OwnLogic.on_item` must" in str(ex)


class Emits(win.WindowLogic[Any, Any, Any]):
    """Gives what it is told to."""

    def __init__(self, emitted: Any) -> None:
        self.emitted = emitted

    def on_value(self, value: Any) -> Any:
        return self.emitted

    on_merge = on_value

    def on_close(self) -> Any:
        return []

    def snapshot(self) -> Any:
        return None


@EACH_WAY
def test_own_logics_are_held_to_their_contract(kernels: bool) -> None:
    """A builder must give a `WindowLogic`, and that one something to iterate over."""
    for built, message in [
        (SimpleNamespace(), "must return a `WindowLogic`; got namespace()"),
        (Emits(None), "`Emits.on_value` must return the values to emit; got None"),
    ]:
        build = lambda s, built=built: win.window("w", s, CLOCK, TENS, lambda _: built)  # noqa: E731
        assert message in str(failure(build, [("a", 1)], kernels=kernels))


@EACH_WAY
def test_a_dict_is_made_of_pairs(kernels: bool) -> None:
    """What else comes is an error that says so."""
    build = lambda s: win.collect_window("w", s, CLOCK, TENS, dict)  # noqa: E731
    assert "needs `(key, value)` 2-tuples; got 1" in str(
        failure(build, [("a", 1)], kernels=kernels)
    )


def no_time(value: Any) -> datetime:
    return {1: at(1)}[value]


@pytest.mark.parametrize("scope", ["key", "stream"])
@pytest.mark.parametrize(
    "build",
    [
        lambda s, clock: win.collect_window("w", s, clock, TENS),
        lambda s, clock: win.collect_window("w", s, clock, win.SessionWindower(HOUR)),
        lambda s, clock: win.join_window("w", clock, TENS, s),
        lambda s, clock: win.as_of_join("w", clock, s, s),
        lambda s, clock: win.order_by_time("w", s, clock),
    ],
)
def test_a_value_without_time_is_reported_with_its_key(build: Any, scope: Any) -> None:
    """Although times are asked for before anything else."""
    clock = win.EventClock(no_time, HOUR, scope=scope)
    records = [("ann", 1), ("bob", 2), ("eve", 1)]
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: build(s, clock).down, records, batch_size=3)
    assert (caught.value.key, caught.value.record) == ("bob", 2)


@EACH_WAY
def test_records_must_be_keyed(kernels: bool) -> None:
    """As with all keyed steps."""
    build = lambda s: win.collect_window("w", s, CLOCK, TENS)  # noqa: E731
    assert "a key must be" in str(failure(build, [(1.5, 1)], kernels=kernels))
    assert "2-tuple" in str(failure(build, [1], kernels=kernels))


def test_far_times_are_shown_as_the_farthest() -> None:
    """Metadata beyond what a `datetime` holds is the earliest or latest one."""
    for when, bound in [(win.UTC_MIN, "open_time"), (win.UTC_MAX, "close_time")]:
        logic = win.TumblingWindower(timedelta(days=999), at(0)).build(None)
        [number] = logic.open_for(when)
        [(closed, metadata)] = logic.close_for(win.UTC_MAX)
        assert closed == number
        assert getattr(metadata, bound) == when
        assert metadata.open_time.tzinfo is UTC
