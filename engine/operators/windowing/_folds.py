"""Windows whose values become one: by a fold, by a reducer, by counting.

Each is `window` with an object of the engine's own.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast, overload

from engine.dataflow import Operator, Stream, operator
from engine.operators._checks import require_function
from engine.operators._keying import key_on
from engine.operators._keys import Key
from engine.operators._state_options import check_state
from engine.operators._types import S, V, X
from engine.operators.windowing._clocks import Clock
from engine.operators.windowing._logic import WindowLogic
from engine.operators.windowing._window import WindowOut, check_windows, window
from engine.operators.windowing._window_kernel import WindowKernel, window_kernel
from engine.operators.windowing._windowers import Windower
from engine.operators.windowing._works import FoldWork, ReduceWork


class _Comparable(Protocol):
    """What `max` and `min` can compare."""

    def __lt__(self, other: Any, /) -> bool: ...


C = TypeVar("C", bound=_Comparable)


def _fold_kernel(step: Operator, _workers: int) -> WindowKernel | None:
    params = step.params
    return window_kernel(step, FoldWork(params["builder"], params["folder"], params["merger"]))


@operator(kernel=_fold_kernel)
def fold_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    builder: Callable[[], S],
    folder: Callable[[S, V], S],
    merger: Callable[[S, S], S],
    ordered: bool = True,  # noqa: FBT001, FBT002 - may be given by place, as users know
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> WindowOut[V, S]:
    """Fold the values of each window into one, which is emitted when the window closes.

    What is late, in which order things happen and how long a key is remembered is as with `window`.
    The state of a window is what its values were folded into.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        builder: Called for a new window; gives what its first value is folded into.
        folder: Called with what a window has so far and a value; gives what it has then. It may
            change the former in place.
        merger: Called with what a window has and what a window has that became part of it; gives
            what the one window has then. Only sessions merge, and only with `ordered=False`.
        ordered: Whether values are folded in the order of their times, each when the watermark has
            reached its time, and those of equal time in the order of arrival. If not, they are
            folded at once, as they come.
        state_version: Version of the form that the states of windows have.
        migrate: Called with the version of an older stored state of a window and that state; gives
            it in the present form. Values that wait for the watermark stay as they are.

    Returns:
        Keyed streams `down`, of one result for each window, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v[0]), timedelta(seconds=30))
    >>> minutes = win.TumblingWindower(timedelta(minutes=1), start)
    >>> flow, out = Dataflow("fold_window_example"), []
    >>> prices = [("a", (1, 5)), ("a", (62, 2)), ("a", (59, 3)), ("a", (100, 1))]
    >>> s = op.input("in", flow, TestingSource(prices))
    >>> def sums(one, other):
    ...     return one + other
    >>> wo = win.fold_window("sum", s, clock, minutes, int, lambda s, v: s + v[1], sums)
    >>> op.output("out", wo.down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (0, 8)), ('a', (1, 3))]
    """
    require_function(step_id, "builder", builder)
    require_function(step_id, "folder", folder)
    require_function(step_id, "merger", merger)
    check_windows(step_id, clock, windower, ordered=ordered)
    check_state(step_id, state_version, migrate)

    def build(resume: tuple[S] | None) -> _Fold[V, S]:
        return _Fold(folder, merger, builder() if resume is None else resume[0])

    return window(
        "window",
        up,
        clock,
        windower,
        build,
        ordered,
        state_version=state_version,
        migrate=_migrate_wrapped(migrate),
    )


class _Fold(WindowLogic[V, S, tuple[S]]):
    """What the values of a window were folded into.

    It is saved in a tuple: so that None, which may be a result, differs from nothing saved.
    """

    __slots__ = ("_folder", "_merger", "state")

    def __init__(self, folder: Callable[[S, V], S], merger: Callable[[S, S], S], state: S) -> None:
        self._folder, self._merger, self.state = folder, merger, state

    def on_value(self, value: V) -> Iterable[S]:
        self.state = self._folder(self.state, value)
        return ()

    def on_merge(self, original: Any) -> Iterable[S]:
        self.state = self._merger(self.state, original.state)
        return ()

    def on_close(self) -> Iterable[S]:
        return (self.state,)

    def snapshot(self) -> tuple[S]:
        # The user's folder may change the state in place when the next value comes.
        return (copy.deepcopy(self.state),)


def _migrate_wrapped(
    migrate: Callable[[int, Any], Any] | None,
) -> Callable[[int, Any], tuple[Any]] | None:
    """What brings a stored fold to the present version; the user's function sees what is in it."""
    if migrate is None:
        return None

    @functools.wraps(migrate)
    def migrated(version: int, stored: tuple[Any]) -> tuple[Any]:
        return (migrate(version, stored[0]),)

    return migrated


def _reduce_kernel(step: Operator, _workers: int) -> WindowKernel | None:
    return window_kernel(step, ReduceWork(step.params["reducer"]), ordered=False)


@operator(kernel=_reduce_kernel)
def reduce_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    reducer: Callable[[V, V], V],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, V]:
    """Reduce the values of each window to one, which is emitted when the window closes.

    Values are reduced as they come, not by time. What is late, in which order things happen and how
    long a key is remembered is as with `window`. The state of a window is one value.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        reducer: Called with what a window has so far, which at first is its first value, and
            another value or what a merged window has; gives what it has then.
        state_version: Version of the form that values have.
        migrate: Called with the version of an older stored state of a window and that state; gives
            it in the present form.

    Returns:
        Keyed streams `down`, of one value for each window, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(0))
    >>> flow, out = Dataflow("reduce_window_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 3), ("a", 9)]))
    >>> sessions = win.SessionWindower(timedelta(seconds=5))
    >>> wo = win.reduce_window("sum", s, clock, sessions, lambda x, y: x + y)
    >>> op.output("out", wo.down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (0, 4)), ('a', (1, 9))]
    """
    require_function(step_id, "reducer", reducer)
    check_windows(step_id, clock, windower)
    check_state(step_id, state_version, migrate)

    def build(resume: tuple[V] | None) -> _Reduce[V]:
        return _Reduce(reducer, resume)

    return window(
        "window",
        up,
        clock,
        windower,
        build,
        ordered=False,
        state_version=state_version,
        migrate=_migrate_wrapped(migrate),
    )


class _Reduce(WindowLogic[V, V, "tuple[V]"]):
    """What the values of a window were reduced to, in a tuple; None before the first."""

    __slots__ = ("_reducer", "state")

    def __init__(self, reducer: Callable[[V, V], V], state: tuple[V] | None) -> None:
        self._reducer, self.state = reducer, state

    def on_value(self, value: V) -> Iterable[V]:
        self.state = (value if self.state is None else self._reducer(self.state[0], value),)
        return ()

    def on_merge(self, original: Any) -> Iterable[V]:
        return () if original.state is None else self.on_value(original.state[0])

    def on_close(self) -> Iterable[V]:
        return self.state or ()

    def snapshot(self) -> tuple[V]:
        # The user's reducer may change the state in place when the next value comes.
        return copy.deepcopy(cast("tuple[V]", self.state))


@overload
def max_window(
    step_id: str,
    up: Stream[tuple[Key, C]],
    clock: Clock[C, Any],
    windower: Windower[Any],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], C] | None = None,
) -> WindowOut[C, C]: ...
@overload
def max_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], _Comparable],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, V]: ...
@operator
def max_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = lambda value: value,
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, V]:
    """Find the largest value of each window, which is emitted when the window closes.

    Of several that are largest the first to come counts; where sessions became one, that of the
    session that began earlier. All else is as with `reduce_window`.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        by: Called with a value; gives what is compared. The value itself by default.
        state_version: Version of the form that values have.
        migrate: Called with the version of an older stored value and that value; gives it in the
            present form.

    Returns:
        Keyed streams `down`, of one value for each window, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(0))
    >>> tens = win.TumblingWindower(timedelta(seconds=10), start)
    >>> flow, out = Dataflow("max_window_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 3), ("a", 12)]))
    >>> op.output("out", win.max_window("max", s, clock, tens).down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (0, 3)), ('a', (1, 12))]
    """
    require_function(step_id, "by", by)
    check_windows(step_id, clock, windower)
    check_state(step_id, state_version, migrate)

    def larger(one: V, other: V) -> V:
        return max(one, other, key=by)

    return reduce_window(
        "reduce_window", up, clock, windower, larger, state_version=state_version, migrate=migrate
    )


@overload
def min_window(
    step_id: str,
    up: Stream[tuple[Key, C]],
    clock: Clock[C, Any],
    windower: Windower[Any],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], C] | None = None,
) -> WindowOut[C, C]: ...
@overload
def min_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], _Comparable],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, V]: ...
@operator
def min_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = lambda value: value,
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, V]:
    """Find the smallest value of each window, which is emitted when the window closes.

    Of several that are smallest the first to come counts; where sessions became one, that of the
    session that began earlier. All else is as with `reduce_window`.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        by: Called with a value; gives what is compared. The value itself by default.
        state_version: Version of the form that values have.
        migrate: Called with the version of an older stored value and that value; gives it in the
            present form.

    Returns:
        Keyed streams `down`, of one value for each window, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(0))
    >>> tens = win.TumblingWindower(timedelta(seconds=10), start)
    >>> flow, out = Dataflow("min_window_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 3), ("a", 12)]))
    >>> op.output("out", win.min_window("min", s, clock, tens).down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (0, 1)), ('a', (1, 12))]
    """
    require_function(step_id, "by", by)
    check_windows(step_id, clock, windower)
    check_state(step_id, state_version, migrate)

    def smaller(one: V, other: V) -> V:
        return min(one, other, key=by)

    return reduce_window(
        "reduce_window", up, clock, windower, smaller, state_version=state_version, migrate=migrate
    )


@operator
def count_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[X],
    clock: Clock[X, Any],
    windower: Windower[Any],
    key: Callable[[X], Key],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], int] | None = None,
) -> WindowOut[X, int]:
    """Count the records of each key and window; the counts are emitted when windows close.

    What is late, in which order things happen and how long a key is remembered is as with `window`.
    The state of a window is its count.

    Args:
        step_id: Name of the step.
        up: Stream.
        clock: What time records have, and when it is too late for them.
        windower: Which windows there are.
        key: Called with each record; gives the key to count it for.
        state_version: Version of the form that counts have, which is a matter for those who change
            what is counted.
        migrate: Called with the version of an older stored count and that count; gives the present
            one.

    Returns:
        Keyed streams `down`, of the counts, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: `state_version` is out of range; raised likewise.
        UserCodeError: A key is of a type that isn't allowed, or a time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(0))
    >>> tens = win.TumblingWindower(timedelta(seconds=10), start)
    >>> flow, out = Dataflow("count_window_example"), []
    >>> s = op.input("in", flow, TestingSource([1, 3, 4, 12]))
    >>> wo = win.count_window("count", s, clock, tens, lambda v: "odd" if v % 2 else "even")
    >>> op.output("out", wo.down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('even', (0, 1)), ('even', (1, 1)), ('odd', (0, 2))]
    """
    require_function(step_id, "key", key)
    check_windows(step_id, clock, windower)
    check_state(step_id, state_version, migrate)
    keyed: Stream[tuple[Key, X]] = key_on("keyed", up, key)

    def add_one(count: int, _record: X) -> int:
        return count + 1

    def add(one: int, other: int) -> int:
        return one + other

    return fold_window(
        "fold_window",
        keyed,
        clock,
        windower,
        int,
        add_one,
        add,
        ordered=False,
        state_version=state_version,
        migrate=migrate,
    )
