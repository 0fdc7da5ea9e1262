"""`as_of_join`: each value with the one that was in force at its time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, overload

from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._event_time import span_us
from engine.operators._join_state import check_mode
from engine.operators._state_options import StateOptions, check_state
from engine.operators._types import K, V, W
from engine.operators.windowing._as_of_logic import AsOfJoinHow, AsOfJoinKernel, AsOfSpec
from engine.operators.windowing._clocked import EngineClock, clocks_of, migrate_rows
from engine.operators.windowing._clocks import check_span
from engine.operators.windowing._interval_join import JoinOut


def _kernel(step: Operator, _workers: int) -> AsOfJoinKernel:
    params = step.params
    tolerance = params["tolerance"]
    spec = AsOfSpec(None if tolerance is None else span_us(tolerance), params["how"])
    clocks = clocks_of(step.step_id, params["clock"], 2)
    options = StateOptions(params["state_version"], migrate_rows(params["migrate"], 2))
    return AsOfJoinKernel(clocks, spec, state_options=options)


@overload
def as_of_join(
    step_id: str,
    clock: EngineClock[Any] | tuple[EngineClock[V], EngineClock[W]],
    left: Stream[tuple[K, V]],
    right: Stream[tuple[K, W]],
    *,
    tolerance: timedelta | None = None,
    how: Literal["left"] = "left",
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[K, tuple[V, W | None], V | W]: ...
@overload
def as_of_join(
    step_id: str,
    clock: EngineClock[Any] | tuple[EngineClock[V], EngineClock[W]],
    left: Stream[tuple[K, V]],
    right: Stream[tuple[K, W]],
    *,
    tolerance: timedelta | None = None,
    how: Literal["inner"],
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[K, tuple[V, W], V | W]: ...
@operator(core=True, kernel=_kernel)
def as_of_join(  # noqa: PLR0913 - what is joined, and what all keyed steps have
    step_id: str,
    clock: Any,
    left: Stream[tuple[Any, Any]],
    right: Stream[tuple[Any, Any]],  # noqa: ARG001 - becomes a port
    *,
    tolerance: timedelta | None = None,
    how: AsOfJoinHow = "left",
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> JoinOut[Any, tuple[Any, Any], Any]:
    """Join each value on the left with the latest one on the right at or before its time.

    Such as each trade with the price in force when it was made. Of several values on the right that
    have the same time, the last that came counts. Records are routed so that one worker sees all
    values of a key.

    A value on the left comes out once the watermark of its key has passed its time, so that no
    other value on the right can come that would be the better one, or at the end of input. Those of
    a key come in the order of their times, those of equal time in the order in which they came.
    Between keys no order is promised.

    A value of either side whose time is before the watermark of its key is late, and comes out of
    `late` only. In a run that goes on after an end of input so is a value on the left that is
    earlier than one of its key which that end let out.

    The state of a key is the values on the left that wait, and those on the right that a value on
    the left may still find: of those that the watermark has passed only the newest. Without
    `tolerance` that one stays for ever, so where there is no end to new keys, there should be one.

    Args:
        step_id: Name of the step.
        clock: What time values have, and when it is too late for them: an `EventClock` or a
            `SystemClock`, or a pair with one for each side, which differ only in how they read
            times and how long they wait.
        left: Keyed stream.
        right: Keyed stream.
        tolerance: How much older than a value on the left the one on the right may be at most, in
            event time; any age by default.
        how: Whether a value on the left for which there is none on the right comes out with None
            ("left") or not at all ("inner").
        state_version: Version of the form that the values have which are kept.
        migrate: Called with the version of an older stored state and a list with, for each side,
            the list of its values that are kept; gives such a list of values in the present form.

    Returns:
        Keyed streams: `down`, of pairs (left, right), and `late`.

    Raises:
        TypeError: An argument is of a wrong type, or the clock is not one of the engine's; raised
            while the flow is built.
        ValueError: `tolerance` is negative, there is no such `how`, the clocks of the sides don't
            go together, or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v[0]), timedelta(minutes=1))
    >>> flow, out = Dataflow("as_of_join_example"), []
    >>> trades = op.input("trades", flow, TestingSource([("XY", (7, "buy")), ("XY", (3, "sell"))]))
    >>> prices = op.input("prices", flow, TestingSource([("XY", (2, 9.50)), ("XY", (5, 9.75))]))
    >>> priced = win.as_of_join("price", clock, trades, prices)
    >>> op.output("out", priced.down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('XY', ((3, 'sell'), (2, 9.5))), ('XY', ((7, 'buy'), (5, 9.75)))]
    """
    clocks_of(step_id, clock, 2)
    if tolerance is not None:
        check_span(f"step {step_id!r}", "tolerance", tolerance, zero=True)
    check_mode(step_id, "how", how, AsOfJoinHow)
    check_state(step_id, state_version, migrate)
    return JoinOut(new_stream(step_id, left, "down"), new_stream(step_id, left, "late"))
