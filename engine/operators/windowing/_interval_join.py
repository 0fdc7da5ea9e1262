"""`interval_join`: the values of two streams that lie near each other in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, overload

from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._event_time import span_us
from engine.operators._join_state import check_mode
from engine.operators._state_options import StateOptions, check_state
from engine.operators._types import K, V, W
from engine.operators.windowing._clocked import EngineClock, clocks_of, migrate_rows
from engine.operators.windowing._clocks import check_span
from engine.operators.windowing._interval_logic import (
    IntervalJoinHow,
    IntervalJoinKernel,
    IntervalSpec,
)

K_co = TypeVar("K_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)
W_co = TypeVar("W_co", covariant=True)


@dataclass(frozen=True)
class JoinOut(Generic[K_co, W_co, V_co]):
    """The streams that come out of a join in time. Both are keyed."""

    down: Stream[tuple[K_co, W_co]]
    """What was joined."""
    late: Stream[tuple[K_co, V_co]]
    """Values of either side that came too late, as they came."""


def _kernel(step: Operator, _workers: int) -> IntervalJoinKernel:
    params = step.params
    spec = IntervalSpec(span_us(params["before"]), span_us(params["after"]), params["how"])
    clocks = clocks_of(step.step_id, params["clock"], 2)
    options = StateOptions(params["state_version"], migrate_rows(params["migrate"], 2))
    return IntervalJoinKernel(clocks, spec, state_options=options)


@overload
def interval_join(
    step_id: str,
    clock: EngineClock[Any] | tuple[EngineClock[V], EngineClock[W]],
    left: Stream[tuple[K, V]],
    right: Stream[tuple[K, W]],
    before: timedelta,
    after: timedelta,
    *,
    how: Literal["inner"] = "inner",
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[K, tuple[V, W], V | W]: ...
@overload
def interval_join(
    step_id: str,
    clock: EngineClock[Any] | tuple[EngineClock[V], EngineClock[W]],
    left: Stream[tuple[K, V]],
    right: Stream[tuple[K, W]],
    before: timedelta,
    after: timedelta,
    *,
    how: Literal["left"],
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[K, tuple[V, W | None], V | W]: ...
@overload
def interval_join(
    step_id: str,
    clock: EngineClock[Any] | tuple[EngineClock[V], EngineClock[W]],
    left: Stream[tuple[K, V]],
    right: Stream[tuple[K, W]],
    before: timedelta,
    after: timedelta,
    *,
    how: Literal["right"],
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[K, tuple[V | None, W], V | W]: ...
@overload
def interval_join(
    step_id: str,
    clock: EngineClock[Any] | tuple[EngineClock[V], EngineClock[W]],
    left: Stream[tuple[K, V]],
    right: Stream[tuple[K, W]],
    before: timedelta,
    after: timedelta,
    *,
    how: Literal["outer"],
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[K, tuple[V | None, W | None], V | W]: ...


@operator(core=True, kernel=_kernel)
def interval_join(  # noqa: PLR0913 - what each side may meet, and what all keyed steps have
    step_id: str,
    clock: Any,
    left: Stream[tuple[Any, Any]],
    right: Stream[tuple[Any, Any]],  # noqa: ARG001 - becomes a port
    before: timedelta,
    after: timedelta,
    *,
    how: IntervalJoinHow = "inner",
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[Any, tuple[Any, Any], Any]:
    """Join each value with those of the other side that happened near it.

    A value on the left, of time t, meets all values on the right of the same key whose time is from
    t - `before` to t + `after`, both included. Each pair comes out once, when its second value has
    come; a value may be in many pairs. Records are routed so that one worker sees all values of a
    key.

    A value whose time is before the watermark of its key is late: it comes out of `late` and meets
    nobody. The watermark of a key goes by the values of both sides; where one side may lag behind
    the other, the clock has to wait for it.

    The pairs of a key come in the order in which their second values came, those of one value in
    the order of the times of the others. Values that met none come out behind the pairs of their
    batch, in the order in which the watermark passes what could have met them. Between keys no
    order is promised.

    The state of a key is the values for which others may still come that aren't late. (With "inner"
    the others go when the next value of the key comes, or when none of its values is needed.) They
    stay over an end of input: a later run goes on with them, but for those that the end made come
    out alone.

    Args:
        step_id: Name of the step.
        clock: What time values have, and when it is too late for them: an `EventClock` or a
            `SystemClock`, or a pair with one for each side, which differ only in how they read
            times and how long they wait.
        left: Keyed stream.
        right: Keyed stream.
        before: How much earlier than a value on the left those on the right may be.
        after: How much later they may be.
        how: Which values come out that met none, with None in the other's place, as soon as the
            watermark has passed all that could meet them, or at the end of input: those on the
            "left", those on the "right", those of both sides ("outer"), or of no side ("inner").
        state_version: Version of the form that the values have which wait.
        migrate: Called with the version of an older stored state and a list with, for each side,
            the list of its values that wait; gives such a list of values in the present form.

    Returns:
        Keyed streams: `down`, of pairs (left, right), and `late`.

    Raises:
        TypeError: An argument is of a wrong type, or the clock is not one of the engine's; raised
            while the flow is built.
        ValueError: A span is negative, there is no such `how`, the clocks of the sides don't go
            together, or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v[0]), timedelta(minutes=1))
    >>> flow, out = Dataflow("interval_join_example"), []
    >>> shown = op.input("shown", flow, TestingSource([("ann", (0, "shoes")), ("ann", (9, "hat"))]))
    >>> clicks = op.input("clicks", flow, TestingSource([("ann", (12, "click"))]))
    >>> none, short = timedelta(0), timedelta(seconds=5)
    >>> joined = win.interval_join("join", clock, shown, clicks, none, short, how="left")
    >>> op.output("out", joined.down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('ann', ((9, 'hat'), (12, 'click'))), ('ann', ((0, 'shoes'), None))]
    """
    clocks_of(step_id, clock, 2)
    for name, span in (("before", before), ("after", after)):
        check_span(f"step {step_id!r}", name, span, zero=True)
    check_mode(step_id, "how", how, IntervalJoinHow)
    check_state(step_id, state_version, migrate)
    return JoinOut(new_stream(step_id, left, "down"), new_stream(step_id, left, "late"))
