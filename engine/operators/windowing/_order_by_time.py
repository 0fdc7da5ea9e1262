"""`order_by_time`: the values of a key in the order in which they happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._state_options import StateOptions, check_state
from engine.operators._types import K, V
from engine.operators.windowing._clocked import EngineClock, clocks_of, migrate_rows
from engine.operators.windowing._order_logic import OrderKernel

K_co = TypeVar("K_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)


@dataclass(frozen=True)
class OrderOut(Generic[K_co, V_co]):
    """The streams that come out of `order_by_time`. Both are keyed."""

    down: Stream[tuple[K_co, V_co]]
    """Values in the order of their times."""
    late: Stream[tuple[K_co, V_co]]
    """Values that came too late for that."""


def _kernel(step: Operator, _workers: int) -> OrderKernel:
    params = step.params
    options = StateOptions(params["state_version"], migrate_rows(params["migrate"], 1))
    return OrderKernel(clocks_of(step.step_id, params["clock"], 1), state_options=options)


@operator(core=True, kernel=_kernel)
def order_by_time(
    step_id: str,
    up: Stream[tuple[K, V]],
    clock: EngineClock[V],
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> OrderOut[K, V]:
    """Bring the values of each key into the order of their times.

    A value comes out when the watermark of its key has reached its time, or at the end of input;
    values of equal time in the order in which they came. Between keys no order is promised. Records
    are routed so that one worker sees all values of a key.

    A value whose time is before the watermark of its key is late, and comes out of `late`. In a run
    that goes on after an end of input so is a value that is earlier than one of its key which that
    end let out. The state of a key is the values that wait; when there are none, its clock is
    remembered for an hour (with an `EventClock` of keys; on each worker of 50,000 such keys).

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them: an `EventClock` or a
            `SystemClock`.
        state_version: Version of the form that the values have which wait.
        migrate: Called with the version of an older stored state and a list with one list in it, of
            the values that wait; gives such a list of values in the present form.

    Returns:
        Keyed streams `down` and `late`.

    Raises:
        TypeError: An argument is of a wrong type, or the clock is not one of the engine's; raised
            while the flow is built.
        ValueError: `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(seconds=5))
    >>> flow, out, late = Dataflow("order_by_time_example"), [], []
    >>> s = op.input("in", flow, TestingSource([("a", 4), ("a", 2), ("a", 9), ("a", 3)]))
    >>> ordered = win.order_by_time("order", s, clock)
    >>> op.output("out", ordered.down, TestingSink(out))
    >>> op.output("late", ordered.late, TestingSink(late))
    >>> run_main(flow)
    >>> out, late
    ([('a', 2), ('a', 4), ('a', 9)], [('a', 3)])
    """
    clocks_of(step_id, clock, 1)
    check_state(step_id, state_version, migrate)
    return OrderOut(new_stream(step_id, up, "down"), new_stream(step_id, up, "late"))
