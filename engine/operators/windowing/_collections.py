"""`collect_window`: the values of each window gathered in a collection."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from datetime import timedelta
from operator import itemgetter
from typing import Any, TypeVar, cast, overload

from engine.dataflow import Operator, Stream, operator
from engine.errors import UserCodeError
from engine.operators._keys import Key, is_pair
from engine.operators._shown import shown
from engine.operators._state_options import check_state
from engine.operators._types import V
from engine.operators.windowing._clocks import Clock
from engine.operators.windowing._emitting import Emission, Trigger
from engine.operators.windowing._logic import CountedLogic
from engine.operators.windowing._window import (
    WindowOut,
    by_kernel_only,
    check_windows,
    kernel_out,
    window,
)
from engine.operators.windowing._window_kernel import WindowKernel, window_kernel
from engine.operators.windowing._windowers import Windower
from engine.operators.windowing._works import Folding, LogicWork, Migrate

DK = TypeVar("DK")
DV = TypeVar("DV")


def _kernel(step: Operator, _workers: int) -> WindowKernel | None:
    return window_kernel(step, _CollectWork(step.params["into"]))


@overload
def collect_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    into: type[list[Any]] = list,
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> WindowOut[V, list[V]]: ...
@overload
def collect_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    into: type[set[Any]],
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> WindowOut[V, set[V]]: ...
@overload
def collect_window(
    step_id: str,
    up: Stream[tuple[Key, tuple[DK, DV]]],
    clock: Clock[tuple[DK, DV], Any],
    windower: Windower[Any],
    into: type[dict[Any, Any]],
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[tuple[DK, DV]]] | None = None,
) -> WindowOut[tuple[DK, DV], dict[DK, DV]]: ...
@overload
def collect_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    into: type[Any] = list,
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    allowed_lateness: timedelta | None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> WindowOut[V, Emission[Any]]: ...
@overload
def collect_window(
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    into: type[Any] = list,
    ordered: bool = True,  # noqa: FBT001, FBT002
    *,
    allowed_lateness: None = None,
    trigger: Trigger,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> WindowOut[V, Emission[Any]]: ...
@operator(kernel=_kernel)
def collect_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    into: type[Any] = list,
    ordered: bool = True,  # noqa: FBT001, FBT002 - may be given by place, as users know
    *,
    allowed_lateness: timedelta | None = None,
    trigger: Trigger | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> WindowOut[Any, Any]:
    """Gather the values of each window into a collection, emitted when the window closes.

    A list has them in the order of their times, or of their arrival with `ordered=False`, also
    where windows were merged; in a dict the last of several values with one key counts, in the same
    order. What is late, in which order things happen and how long a key is remembered is as with
    `window`. The state of a window is its values.

    Args:
        step_id: Name of the step.
        up: Keyed stream; with `into=dict` its values must be `(key, value)` 2-tuples.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        into: `list`, `set` or `dict`.
        ordered: Whether values are taken in the order of their times, each when the watermark has
            reached its time, and those of equal time in the order of arrival. If not, they are
            taken at once, as they come.
        allowed_lateness: For how much longer than the clock's wait a window still takes values:
            until the watermark is so far behind its end. With each the window emits once more.
        trigger: When a window emits before it closes, too: `OnUpdate()`, with each value,
            `OnCount(n)`, with every n-th, or `OnInterval(span)`, so long after a value by the wall
            clock. With it, or with `allowed_lateness`, what comes out is an `Emission` each, which
            says why.
        state_version: Version of the form that values have.
        migrate: Called with the version of an older stored state of a window and the list of its
            values; gives these in the present form. Values that wait for the watermark stay as
            they are.

    Returns:
        Keyed streams `down`, of one collection for each window, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: `into` or `state_version` is none of those allowed; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, a time
            has no time zone, or with `into=dict` a value is no 2-tuple.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(seconds=5))
    >>> sliding = win.SlidingWindower(timedelta(seconds=10), timedelta(seconds=5), start)
    >>> flow, out = Dataflow("collect_window_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 3), ("a", 1), ("a", 7)]))
    >>> op.output("out", win.collect_window("lists", s, clock, sliding).down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (-1, [1, 3])), ('a', (0, [1, 3, 7])), ('a', (1, [7]))]
    """
    if into not in (list, set, dict):
        msg = f"`into` of step {step_id!r} must be `list`, `set` or `dict`; got {into!r}"
        raise ValueError(msg)
    check_windows(
        step_id,
        clock,
        windower,
        ordered=ordered,
        allowed_lateness=allowed_lateness,
        trigger=trigger,
    )
    check_state(step_id, state_version, migrate)

    if by_kernel_only(clock, allowed_lateness, trigger):
        return kernel_out(step_id, up)

    def build(resume: list[tuple[int, V]] | None) -> _Collected[V]:
        return _Collected(into, resume)

    return window(
        "window",
        up,
        clock,
        windower,
        build,
        ordered,
        state_version=state_version,
        migrate=None if migrate is None else _migrate_numbered(migrate),
    )


class _Collected(CountedLogic[V, Any, "list[tuple[int, V]]"]):
    """The values of a window with their numbers, in the order of these."""

    __slots__ = ("_into", "values")

    def __init__(self, into: type[Any], resume: list[tuple[int, V]] | None) -> None:
        self._into = into
        self.values = list(resume or ())

    def on_value(self, value: V) -> Iterable[Any]:
        if self._into is dict and not is_pair(value):
            msg = "`collect_window` with `into=dict` needs `(key, value)` 2-tuples; got "
            raise UserCodeError(msg + shown(value), hint="make such tuples with `map_value`")
        if self._into is not list:
            # Now, while it is known whose fault it is, and not when the window closes.
            hash(cast("Any", value)[0] if self._into is dict else value)
        self.values.append((self.number, value))
        return ()

    def on_merge(self, original: Any) -> Iterable[Any]:
        self.values = sorted(self.values + original.values, key=itemgetter(0))
        return ()

    def on_close(self) -> Iterable[Any]:
        return (self._into(value for _, value in self.values),)

    def snapshot(self) -> list[tuple[int, V]]:
        return list(self.values)


class _CollectWork(LogicWork):
    """The same for kernels; where sessions can't merge, the numbers of values are not needed."""

    def __init__(self, into: type[Any]) -> None:
        super().__init__(functools.partial(_Collected, into), emits_values=False)
        self._into = into

    @property
    def all_or_nothing(self) -> bool:
        return True

    def folding(self) -> Folding | None:
        if self._into is not list:
            return None
        return Folding(_only, _appended, _migrate_values, all_or_nothing=True)

    def migrating(self, migrate: Migrate) -> Migrate:
        return _migrate_numbered(migrate)


def _only(value: Any) -> list[Any]:
    return [value]


def _appended(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


def _migrate_values(migrate: Migrate) -> Migrate:
    """What brings the values of a window to the present version."""

    @functools.wraps(migrate)
    def migrated(version: int, stored: list[Any]) -> list[Any]:
        values: Any = migrate(version, stored)
        if not isinstance(values, list) or len(cast("list[Any]", values)) != len(stored):
            wanted = f"a list of {len(stored)} values, as many as it got; got "
            msg = f"`migrate` of `collect_window` must return {wanted}"
            msg += shown(cast("object", values))
            raise UserCodeError(msg, function=migrate, hint="migrate each value of the list")
        return cast("list[Any]", values)

    return migrated


def _migrate_numbered(migrate: Migrate) -> Migrate:
    """The same where they have numbers; the user's function doesn't see these."""
    migrate_values = _migrate_values(migrate)

    def migrated(version: int, stored: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        values = migrate_values(version, [value for _, value in stored])
        return list(zip([number for number, _ in stored], values, strict=True))

    return migrated
