"""Windows whose values become one: by a fold, or by a reducer.

Each is `window` with an object of the engine's own.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, cast, overload

from engine.dataflow import Operator, Stream, operator
from engine.operators._checks import require_function
from engine.operators._keys import Key
from engine.operators._state_options import check_state
from engine.operators._types import S, V
from engine.operators.windowing._clocks import Clock
from engine.operators.windowing._emitting import Emission, Trigger
from engine.operators.windowing._logic import WindowLogic
from engine.operators.windowing._window import (
    WindowOut,
    by_kernel_only,
    check_windows,
    kernel_out,
    window,
)
from engine.operators.windowing._window_kernel import WindowKernel, window_kernel
from engine.operators.windowing._windowers import Windower
from engine.operators.windowing._works import FoldWork, ReduceWork


def _fold_kernel(step: Operator, _workers: int) -> WindowKernel | None:
    params = step.params
    builder, folder, merger = params["builder"], params["folder"], params["merger"]
    return window_kernel(step, FoldWork(builder, folder, merger, params["share_panes"]))


@overload
def fold_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    builder: Callable[[], S],
    folder: Callable[[S, V], S],
    merger: Callable[[S, S], S],
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> WindowOut[V, S]: ...
@overload
def fold_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    builder: Callable[[], S],
    folder: Callable[[S, V], S],
    merger: Callable[[S, S], S],
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    allowed_lateness: timedelta | None,
    trigger: Trigger | None = None,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> WindowOut[V, Emission[S]]: ...
@overload
def fold_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    builder: Callable[[], S],
    folder: Callable[[S, V], S],
    merger: Callable[[S, S], S],
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    allowed_lateness: None = None,
    trigger: Trigger,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> WindowOut[V, Emission[S]]: ...
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
    allowed_lateness: timedelta | None = None,
    trigger: Trigger | None = None,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> WindowOut[Any, Any]:
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
            what the one window has then. Only sessions merge, and only with `ordered=False`; but
            see `share_panes`.
        ordered: Whether values are folded in the order of their times, each when the watermark has
            reached its time, and those of equal time in the order of arrival. If not, they are
            folded at once, as they come.
        allowed_lateness: For how much longer than the clock's wait a window still takes values:
            until the watermark is so far behind its end. With each the window emits once more.
        trigger: When a window emits before it closes, too: `OnUpdate()`, with each value,
            `OnCount(n)`, with every n-th, or `OnInterval(span)`, so long after a value by the wall
            clock. With it, or with `allowed_lateness`, what comes out is an `Emission` each, which
            says why.
        share_panes: Whether sliding windows that overlap share what they fold: each value is folded
            once, into the stretch of time between two beginnings or ends of windows, and `merger`
            puts a window together from its stretches when it closes, in their order, beginning with
            what `builder` gives. So `merger` must be associative, `merger(builder(), x)` must be
            `x`, and it must neither change nor keep nor give back its second argument, which other
            windows are made of, too. With `ordered=False` values count in the order of stretches,
            and within one as they come. It makes no difference to other windows, with a trigger or
            `allowed_lateness`, or with a clock or windower of your own.
        state_version: Version of the form that the states of windows have.
        migrate: Called with the version of an older stored state of a window and that state; gives
            it in the present form. Values that wait for the watermark stay as they are.

    Returns:
        Keyed streams `down`, of one result for each window, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: A number is out of range, or with `allowed_lateness` or `trigger` the clock or
            windower is none of the engine's; raised likewise.
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
    check_windows(
        step_id,
        clock,
        windower,
        ordered=ordered,
        allowed_lateness=allowed_lateness,
        trigger=trigger,
    )
    _check_sharing(step_id, share_panes)
    check_state(step_id, state_version, migrate)

    if by_kernel_only(clock, allowed_lateness, trigger):
        return kernel_out(step_id, up)

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


def _check_sharing(step_id: str, share_panes: Any) -> None:
    if not isinstance(share_panes, bool):
        msg = f"`share_panes` of step {step_id!r} must be a `bool`; got {share_panes!r}"
        raise TypeError(msg)


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
    reducer = step.params["reducer"]
    return window_kernel(step, ReduceWork(reducer, step.params["share_panes"]), ordered=False)


@overload
def reduce_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    reducer: Callable[[V, V], V],
    *,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, V]: ...
@overload
def reduce_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    reducer: Callable[[V, V], V],
    *,
    allowed_lateness: timedelta | None,
    trigger: Trigger | None = None,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, Emission[V]]: ...
@overload
def reduce_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    reducer: Callable[[V, V], V],
    *,
    allowed_lateness: None = None,
    trigger: Trigger,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, Emission[V]]: ...
@operator(kernel=_reduce_kernel)
def reduce_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    reducer: Callable[[V, V], V],
    *,
    allowed_lateness: timedelta | None = None,
    trigger: Trigger | None = None,
    share_panes: bool = False,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[Any, Any]:
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
        allowed_lateness: For how much longer than the clock's wait a window still takes values:
            until the watermark is so far behind its end. With each the window emits once more.
        trigger: When a window emits before it closes, too: `OnUpdate()`, with each value,
            `OnCount(n)`, with every n-th, or `OnInterval(span)`, so long after a value by the wall
            clock. With it, or with `allowed_lateness`, what comes out is an `Emission` each, which
            says why.
        share_panes: Whether sliding windows that overlap share what they reduce: each value is
            reduced once, within the stretch of time between two beginnings or ends of windows, and
            a window when it closes from what its stretches came to, in their order. So `reducer`
            must be associative and must not change what it is given. Values count in the order of
            stretches, and within one as they come. It makes no difference to other windows, with a
            trigger or `allowed_lateness`, or with a clock or windower of your own.
        state_version: Version of the form that values have.
        migrate: Called with the version of an older stored state of a window and that state; gives
            it in the present form.

    Returns:
        Keyed streams `down`, of one value for each window, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: A number is out of range, or with `allowed_lateness` or `trigger` the clock or
            windower is none of the engine's; raised likewise.
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
    check_windows(
        step_id,
        clock,
        windower,
        allowed_lateness=allowed_lateness,
        trigger=trigger,
    )
    _check_sharing(step_id, share_panes)
    check_state(step_id, state_version, migrate)

    if by_kernel_only(clock, allowed_lateness, trigger):
        return kernel_out(step_id, up)

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
