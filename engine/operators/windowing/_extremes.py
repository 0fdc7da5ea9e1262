"""Windows whose values become the largest or smallest one, or their number."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload

from engine.dataflow import Stream, operator
from engine.operators._checks import require_function
from engine.operators._keying import key_on
from engine.operators._keys import Key
from engine.operators._state_options import check_state
from engine.operators._types import V, X
from engine.operators.windowing._clocks import Clock
from engine.operators.windowing._emitting import Emission, Trigger
from engine.operators.windowing._folds import fold_window, reduce_window
from engine.operators.windowing._window import WindowOut, check_windows
from engine.operators.windowing._windowers import Windower
from engine.operators.windowing._works import Extreme


class _Comparable(Protocol):
    """What `max` and `min` can compare."""

    def __lt__(self, other: Any, /) -> bool: ...


C = TypeVar("C", bound=_Comparable)


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
@overload
def max_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = ...,
    *,
    allowed_lateness: timedelta | None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, Emission[V]]: ...
@overload
def max_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = ...,
    *,
    allowed_lateness: None = None,
    trigger: Trigger,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, Emission[V]]: ...
@operator
def max_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = lambda value: value,
    *,
    allowed_lateness: timedelta | None = None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[Any, Any]:
    """Find the largest value of each window, which is emitted when the window closes.

    Of several that are largest the first to come counts; where sessions became one, that of the
    session that began earlier. All else is as with `reduce_window`.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        by: Called with a value; gives what is compared. The value itself by default.
        allowed_lateness: For how much longer than the clock's wait a window still takes values:
            until the watermark is so far behind its end. With each the window emits once more.
        trigger: When a window emits before it closes, too: `OnUpdate()`, with each value,
            `OnCount(n)`, with every n-th, or `OnInterval(span)`, so long after a value by the wall
            clock. With it, or with `allowed_lateness`, what comes out is an `Emission` each, which
            says why.
        state_version: Version of the form that values have.
        migrate: Called with the version of an older stored value and that value; gives it in the
            present form.

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
    >>> tens = win.TumblingWindower(timedelta(seconds=10), start)
    >>> flow, out = Dataflow("max_window_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 3), ("a", 12)]))
    >>> op.output("out", win.max_window("max", s, clock, tens).down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (0, 3)), ('a', (1, 12))]
    """
    require_function(step_id, "by", by)
    check_windows(
        step_id,
        clock,
        windower,
        allowed_lateness=allowed_lateness,
        trigger=trigger,
    )
    check_state(step_id, state_version, migrate)

    return reduce_window(
        "reduce_window",
        up,
        clock,
        windower,
        Extreme(max, by),
        allowed_lateness=allowed_lateness,
        trigger=trigger,
        state_version=state_version,
        migrate=migrate,
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
@overload
def min_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = ...,
    *,
    allowed_lateness: timedelta | None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, Emission[V]]: ...
@overload
def min_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = ...,
    *,
    allowed_lateness: None = None,
    trigger: Trigger,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[V, Emission[V]]: ...
@operator
def min_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    by: Callable[[V], Any] = lambda value: value,
    *,
    allowed_lateness: timedelta | None = None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> WindowOut[Any, Any]:
    """Find the smallest value of each window, which is emitted when the window closes.

    Of several that are smallest the first to come counts; where sessions became one, that of the
    session that began earlier. All else is as with `reduce_window`.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        by: Called with a value; gives what is compared. The value itself by default.
        allowed_lateness: For how much longer than the clock's wait a window still takes values:
            until the watermark is so far behind its end. With each the window emits once more.
        trigger: When a window emits before it closes, too: `OnUpdate()`, with each value,
            `OnCount(n)`, with every n-th, or `OnInterval(span)`, so long after a value by the wall
            clock. With it, or with `allowed_lateness`, what comes out is an `Emission` each, which
            says why.
        state_version: Version of the form that values have.
        migrate: Called with the version of an older stored value and that value; gives it in the
            present form.

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
    >>> tens = win.TumblingWindower(timedelta(seconds=10), start)
    >>> flow, out = Dataflow("min_window_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 3), ("a", 12)]))
    >>> op.output("out", win.min_window("min", s, clock, tens).down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (0, 1)), ('a', (1, 12))]
    """
    require_function(step_id, "by", by)
    check_windows(
        step_id,
        clock,
        windower,
        allowed_lateness=allowed_lateness,
        trigger=trigger,
    )
    check_state(step_id, state_version, migrate)

    return reduce_window(
        "reduce_window",
        up,
        clock,
        windower,
        Extreme(min, by),
        allowed_lateness=allowed_lateness,
        trigger=trigger,
        state_version=state_version,
        migrate=migrate,
    )


@overload
def count_window(
    step_id: str,
    up: Stream[X],
    clock: Clock[X, Any],
    windower: Windower[Any],
    key: Callable[[X], Key],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], int] | None = None,
) -> WindowOut[X, int]: ...
@overload
def count_window(
    step_id: str,
    up: Stream[X],
    clock: Clock[X, Any],
    windower: Windower[Any],
    key: Callable[[X], Key],
    *,
    allowed_lateness: timedelta | None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], int] | None = None,
) -> WindowOut[X, Emission[int]]: ...
@overload
def count_window(
    step_id: str,
    up: Stream[X],
    clock: Clock[X, Any],
    windower: Windower[Any],
    key: Callable[[X], Key],
    *,
    allowed_lateness: None = None,
    trigger: Trigger,
    state_version: int = 1,
    migrate: Callable[[int, Any], int] | None = None,
) -> WindowOut[X, Emission[int]]: ...
@operator
def count_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[X],
    clock: Clock[X, Any],
    windower: Windower[Any],
    key: Callable[[X], Key],
    *,
    allowed_lateness: timedelta | None = None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], int] | None = None,
) -> WindowOut[Any, Any]:
    """Count the records of each key and window; the counts are emitted when windows close.

    What is late, in which order things happen and how long a key is remembered is as with `window`.
    The state of a window is its count.

    Args:
        step_id: Name of the step.
        up: Stream.
        clock: What time records have, and when it is too late for them.
        windower: Which windows there are.
        key: Called with each record; gives the key to count it for.
        allowed_lateness: For how much longer than the clock's wait a window still takes values:
            until the watermark is so far behind its end. With each the window emits once more.
        trigger: When a window emits before it closes, too: `OnUpdate()`, with each value,
            `OnCount(n)`, with every n-th, or `OnInterval(span)`, so long after a value by the wall
            clock. With it, or with `allowed_lateness`, what comes out is an `Emission` each, which
            says why.
        state_version: Version of the form that counts have, which is a matter for those who change
            what is counted.
        migrate: Called with the version of an older stored count and that count; gives the present
            one.

    Returns:
        Keyed streams `down`, of the counts, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: A number is out of range, or with `allowed_lateness` or `trigger` the clock or
            windower is none of the engine's; raised likewise.
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
    check_windows(
        step_id,
        clock,
        windower,
        allowed_lateness=allowed_lateness,
        trigger=trigger,
    )
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
        allowed_lateness=allowed_lateness,
        trigger=trigger,
        share_panes=True,
        state_version=state_version,
        migrate=migrate,
    )
