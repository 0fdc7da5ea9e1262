"""`rolling`: what the latest values of a key come to, at each value.

A composition of `stateful_batch`, with a kernel that has no call per key and batch. Both keep the
same state, a `Window`, by the functions in `_rolling_window`.
"""

from __future__ import annotations

import functools
import operator as arithmetic
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypeVar, get_args, overload

from engine.clock import utc_now
from engine.dataflow import Operator, Stream, operator
from engine.errors import UserCodeError
from engine.operators._checks import require_function
from engine.operators._event_time import EPOCH, event_us, span_us
from engine.operators._kernels import Failures, KeyedKernel, KeyedLogic, StepContext
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._picking import picks_of
from engine.operators._rolling_window import (
    Add,
    Combine,
    Emit,
    LatestTime,
    LatestValues,
    Rolling,
    Stored,
    Window,
)
from engine.operators._shown import shown
from engine.operators._state import KeyedState, StateForm
from engine.operators._state_options import (
    DEFAULT_STATE,
    TTL,
    StateOptions,
    check_state,
    state_options,
)
from engine.operators._state_ttl import ExpiringState
from engine.operators._stateful_batch import StatefulBatchLogic, stateful_batch
from engine.operators._types import K, V, W

A = TypeVar("A")
"""What is aggregated."""

RollingAggregate: TypeAlias = Literal["count", "max", "mean", "min", "sum"]
"""What `rolling` can work out of a window by itself."""


def _rolling(size: int | timedelta, how: str | Callable[[list[Any]], Any]) -> Rolling:
    """How windows of such a size are kept."""
    combine = _COMBINES[how] if isinstance(how, str) else None
    emit = None if isinstance(how, str) else _of_values(how)
    mean = how == "mean"
    if isinstance(size, timedelta):
        return LatestTime(span_us(size), combine, emit, mean=mean)
    return LatestValues(size, combine, emit, mean=mean)


def _of_values(how: Callable[[list[Any]], Any]) -> Emit:
    return lambda window: how(window.values())


def _larger(one: Any, other: Any) -> Any:
    # The built-in functions take any number of arguments, and so more time.
    return other if other > one else one  # noqa: FURB136 - see above


def _smaller(one: Any, other: Any) -> Any:
    return other if other < one else one  # noqa: FURB136 - as in `_larger`


_COMBINES: dict[str, Combine] = {
    "count": arithmetic.add,
    "max": _larger,
    "mean": arithmetic.add,
    "min": _smaller,
    "sum": arithmetic.add,
}


def _identity(value: Any) -> Any:
    return value


def _one(_value: object) -> int:
    return 1


def _taken(how: Any, by: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
    """What gives what is aggregated of a value; None if that is the value itself."""
    if how == "count":
        return _one
    return None if by is _identity else by


def _kernel(step: Operator, _workers: int) -> RollingKernel:
    params = step.params
    ttl = _ttl(params["size"], params["event_time"], params["ttl"])
    options = state_options({**params, "ttl": ttl})
    options = replace(options, migrate=_migrate_window(options.migrate))
    by = _taken(params["how"], params["by"])
    return RollingKernel(_rolling(params["size"], params["how"]), by, options)


@overload
def rolling(
    step_id: str,
    up: Stream[tuple[K, V]],
    size: int | timedelta,
    how: Literal["count"],
    *,
    by: Callable[[V], Any] = _identity,
    event_time: Callable[[V], Any] | None = None,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[Any]] | None = None,
) -> Stream[tuple[K, int]]: ...
@overload
def rolling(
    step_id: str,
    up: Stream[tuple[K, V]],
    size: int | timedelta,
    how: Literal["mean"],
    *,
    by: Callable[[V], Any] = _identity,
    event_time: Callable[[V], Any] | None = None,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[Any]] | None = None,
) -> Stream[tuple[K, float]]: ...
@overload
def rolling(
    step_id: str,
    up: Stream[tuple[K, V]],
    size: int | timedelta,
    how: Literal["max", "min", "sum"],
    *,
    event_time: Callable[[V], Any] | None = None,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> Stream[tuple[K, V]]: ...
@overload
def rolling(
    step_id: str,
    up: Stream[tuple[K, V]],
    size: int | timedelta,
    how: Literal["max", "min", "sum"],
    *,
    by: Callable[[V], A],
    event_time: Callable[[V], Any] | None = None,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[A]] | None = None,
) -> Stream[tuple[K, A]]: ...
@overload
def rolling(
    step_id: str,
    up: Stream[tuple[K, V]],
    size: int | timedelta,
    how: Callable[[list[V]], W],
    *,
    event_time: Callable[[V], Any] | None = None,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> Stream[tuple[K, W]]: ...
@overload
def rolling(
    step_id: str,
    up: Stream[tuple[K, V]],
    size: int | timedelta,
    how: Callable[[list[A]], W],
    *,
    by: Callable[[V], A],
    event_time: Callable[[V], Any] | None = None,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[A]] | None = None,
) -> Stream[tuple[K, W]]: ...
@operator(kernel=_kernel)
def rolling(  # noqa: PLR0913 - three of them are about state, as everywhere
    step_id: str,
    up: Stream[tuple[K, V]],
    size: int | timedelta,
    how: RollingAggregate | Callable[[list[Any]], Any],
    *,
    by: Callable[[V], Any] = _identity,
    event_time: Callable[[V], Any] | None = None,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[Any]] | None = None,
) -> Stream[tuple[K, Any]]:
    """Emit at each value what the latest values of its key come to.

    The window of a value is the last `size` values of its key, or all that came less than a
    `timedelta` before it; the value itself is the last one in it. Records are routed so that one
    worker sees all values of a key, in arrival order, and what is emitted keeps that order. By
    event time a value that comes late counts as if it came with the latest one of its key; if it is
    `size` or more behind the latest of all keys, the values before it may be forgotten. A value
    costs the same however long the window is, but for a function of one's own, which sees the
    whole window each time. The state of a key is the values in its window; by time, until the key
    has been silent so long that it is empty.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        size: How many values, or how long by the wall clock or `event_time`.
        how: "count", "sum", "mean", "min" or "max", or a function that is called with a list of
            what is in the window, oldest first, and gives what to emit.
        by: Called with a value; gives what to aggregate and keep. The value itself by default.
        event_time: Called with a value; gives the time that it happened, a `datetime` with a time
            zone. Only where `size` is a `timedelta`.
        ttl: How long a key may be silent until its values are dropped, by the wall clock or by a
            `TTL`; for ever by default. Only where `size` is a number.
        state_version: Version of the form that the values have which are kept.
        migrate: Called with the version of older stored values and a list of them; gives a list of
            as many in the present form.

    Returns:
        Keyed stream of one value for each.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: One is out of range, there is no such aggregate, or one was given that is for
            the other kind of `size`; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or
            `event_time` gave no time.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("rolling_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 4), ("a", 2), ("a", 6), ("a", 1)]))
    >>> s = op.rolling("mean_of_2", s, 2, "mean")
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 4.0), ('a', 3.0), ('a', 4.0), ('a', 3.5)]
    """
    _check_size(step_id, size, event_time, ttl)
    if isinstance(how, str):
        _check_aggregate(step_id, how)
    else:
        require_function(step_id, "how", how)
    require_function(step_id, "by", by)
    check_state(step_id, state_version, migrate, ttl)
    rule = _rolling(size, how)
    add = rule.adder()
    taken = _taken(how, by)

    def build(resume: Stored | None) -> _OfKey:
        window = Window() if resume is None else rule.restored(resume)
        return _OfKey(add, taken, event_time, window)

    return stateful_batch(
        "stateful_batch",
        up,
        build,
        ttl=_ttl(size, event_time, ttl),
        state_version=state_version,
        migrate=_migrate_window(migrate),
    )


def _check_size(step_id: str, size: Any, event_time: Any, ttl: Any) -> None:
    if isinstance(size, timedelta):
        if size <= timedelta(0):
            msg = f"`size` of step {step_id!r} must be more than 0; got {size!r}"
            raise ValueError(msg)
        if event_time is not None:
            require_function(step_id, "event_time", event_time)
        if ttl is not None:
            msg = f"`ttl` of step {step_id!r} is for a number of values; a time ends by itself"
            raise ValueError(msg)
        return
    if not isinstance(size, int) or isinstance(size, bool):
        msg = f"`size` of step {step_id!r} must be an `int` or a `timedelta`; got {size!r}"
        raise TypeError(msg)
    if size < 1:
        msg = f"`size` of step {step_id!r} must be at least 1; got {size!r}"
        raise ValueError(msg)
    if event_time is not None:
        msg = f"`event_time` of step {step_id!r} is for a `size` in time; got {size!r} values"
        raise ValueError(msg)


def _check_aggregate(step_id: str, how: str) -> None:
    aggregates = get_args(RollingAggregate)
    if how not in aggregates:
        wanted = ", ".join(map(repr, aggregates))
        msg = f"`how` of step {step_id!r} must be one of {wanted}, or a function; got {how!r}"
        raise ValueError(msg)


def _ttl(size: Any, event_time: Any, ttl: Any) -> Any:
    """How long states live: a window of time is empty when its key was silent for so long."""
    return TTL[Any](size, event_time) if isinstance(size, timedelta) else ttl


def _migrate_window(
    migrate: Callable[[int, Any], Any] | None,
) -> Callable[[int, Stored], Stored] | None:
    """What brings a stored window to the present version; the user's function sees the values."""
    if migrate is None:
        return None

    @functools.wraps(migrate)
    def migrated(version: int, stored: Stored) -> Stored:
        before, at_us, front = stored
        values = migrate(version, list(before))
        if values.__class__ is not list or len(values) != len(before):
            msg = f"`migrate` of `rolling` must return a list of {len(before)}; got {shown(values)}"
            raise UserCodeError(msg, function=migrate, hint="migrate each value of the list")
        return values, at_us, front

    return migrated


class _OfKey(StatefulBatchLogic[Any, Any, Stored]):
    """The window of one key."""

    __slots__ = ("_add", "_by", "_event_time", "_window")

    def __init__(
        self,
        add: Add,
        by: Callable[[Any], Any] | None,
        event_time: Callable[[Any], Any] | None,
        window: Window,
    ) -> None:
        self._add = add
        self._by = by
        self._event_time = event_time
        self._window = window

    def on_batch(self, values: list[Any]) -> tuple[Sequence[Any], bool]:
        add, by, getter, window = self._add, self._by, self._event_time, self._window
        now_us = span_us(utc_now() - EPOCH)
        emitted: list[Any] = []
        for value in values:
            at_us = now_us if getter is None else event_us(getter(value), getter, "event_time")
            emitted.append(add(window, value if by is None else by(value), at_us))
        return emitted, self.RETAIN

    def snapshot(self) -> Stored:
        return self._window.stored()


@dataclass(frozen=True, slots=True)
class RollingKernel(KeyedKernel):
    """The kernel of `rolling`."""

    rolling: Rolling
    by: Callable[[Any], Any] | None
    state_options: StateOptions = DEFAULT_STATE

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        state, failures = step.state, step.failures
        state.form = _WindowForm(self.rolling)
        logic: KeyedLogic
        if failures is not None:
            logic = _GoingOn(state, self.rolling, self.by, failures)
        elif isinstance(state, ExpiringState):
            logic = _Expiring(state, self.rolling, self.by)
        else:
            logic = _Lasting(state, self.rolling, self.by)
        logic.picks = picks_of(state, failures)
        return logic


class _Lasting(KeyedLogic):
    """The windows of all keys, which stay for ever; they have a number of values."""

    def __init__(self, state: KeyedState, rule: Rolling, by: Callable[[Any], Any] | None) -> None:
        self._state = state
        self._add = rule.adder()
        self._by = by

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        touched, look_up = self._state.touched, self._state.get
        get, add, by = touched.get, self._add, self._by
        emitted: list[Any] = []
        emit = emitted.append
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            window = get(its_key)
            if window is None and (window := look_up(its_key)) is None:
                window = touched[its_key] = Window()
            emit((its_key, add(window, new if by is None else by(new), 0)))
        return emitted


class _Expiring(KeyedLogic):
    """As `_Lasting`, with a time to live; in windows of time a value's time is also the step's."""

    def __init__(
        self, state: ExpiringState, rule: Rolling, by: Callable[[Any], Any] | None
    ) -> None:
        self._state = state
        self._add = rule.adder()
        self._by = by

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        arrive, put, time_us = self._state.arrive, self._state.put, self._state.arrival_us()
        add, by = self._add, self._by
        emitted: list[Any] = []
        emit = emitted.append
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            at_us = time_us(new)
            window = arrive(its_key, at_us)
            if window is None:
                window = Window()
            put(its_key, window)
            emit((its_key, add(window, new if by is None else by(new), at_us)))
        return emitted


class _GoingOn(KeyedLogic):
    """As both, without values that a function raises for: windows are as if they hadn't come."""

    def __init__(
        self,
        state: KeyedState,
        rule: Rolling,
        by: Callable[[Any], Any] | None,
        failures: Failures,
    ) -> None:
        self._state = state
        self._add = rule.undoing_adder()
        self._by = by
        self._failures = failures

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        state, add, by = self._state, self._add, self._by
        expiring = state if isinstance(state, ExpiringState) else None
        time_us = None if expiring is None else expiring.arrival_us()
        emitted: list[Any] = []
        for its_key, new in batch:
            at_us = 0
            age: tuple[int | None, int | None] = None, None
            window = before = state.get(its_key)
            if expiring is not None and time_us is not None:
                age = expiring.stamps.get(its_key), expiring.latest_us
                at_us = time_us(new)
                window = expiring.arrive(its_key, at_us)
            window = Window() if window is None else window
            try:
                emitted.append((its_key, add(window, new if by is None else by(new), at_us)))
            except Exception as ex:
                if not self._failures.take(ex, (its_key, new)):
                    raise
                state.put_back(its_key, before, *age)
            else:
                state.put(its_key, window)
        return emitted


class _WindowForm(StateForm):
    """Windows are stored as plain lists."""

    def __init__(self, rule: Rolling) -> None:
        self._rolling = rule

    def to_stored(self, state: Any) -> Any:
        return state.stored()

    def from_stored(self, key: Any, stored: Any) -> Any:  # noqa: ARG002 - alike for all
        return self._rolling.restored(stored)
