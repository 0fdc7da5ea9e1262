"""`window`: what a user's object makes of the values of each window. All others are made of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from engine.clock import utc_now
from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._checks import require_function
from engine.operators._keys import Key
from engine.operators._state_options import check_state
from engine.operators._stateful_batch import stateful_batch
from engine.operators._stateful_batch_kernel import BuilderOfRun
from engine.operators._stateful_going_on import KeyFailures
from engine.operators._types import S, V, W
from engine.operators._values import filter_map_value
from engine.operators.windowing._clocks import Clock, EventClock
from engine.operators.windowing._emitting import check_emitting
from engine.operators.windowing._key_windows import (
    DOWN,
    LATE,
    META,
    KeyState,
    KeyWindows,
    Tagged,
    WindowStep,
)
from engine.operators.windowing._key_windows_going_on import KeyWindowsGoingOn
from engine.operators.windowing._logic import WindowLogic
from engine.operators.windowing._window_kernel import (
    WindowKernel,
    is_ours,
    shape_of,
    window_kernel,
)
from engine.operators.windowing._windowers import Windower, WindowMetadata
from engine.operators.windowing._works import LogicWork

V_co = TypeVar("V_co", covariant=True)
W_co = TypeVar("W_co", covariant=True)


@dataclass(frozen=True)
class WindowOut(Generic[V_co, W_co]):
    """The streams that come out of an operator with windows.

    All are keyed, and carry a window's id beside what they are about.
    """

    down: Stream[tuple[Any, tuple[int, W_co]]]
    """What was emitted for windows."""
    late: Stream[tuple[Any, tuple[int, V_co]]]
    """Values that came too late, once for each window that refused them."""
    meta: Stream[tuple[Any, tuple[int, WindowMetadata]]]
    """Of each window that was closed, when it began and ended. None of windows merged away."""


def _kernel(step: Operator, _workers: int) -> WindowKernel | None:
    return window_kernel(step, LogicWork(step.params["builder"]))


@operator(kernel=_kernel)
def window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    up: Stream[tuple[Key, V]],
    clock: Clock[V, Any],
    windower: Windower[Any],
    builder: Callable[[S | None], WindowLogic[V, W, S]],
    ordered: bool = True,  # noqa: FBT001, FBT002 - may be given by place, as users know
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> WindowOut[V, W]:
    """Keep an object per window of each key, which is called with its values and when it closes.

    Records are routed so that one worker sees all values of a key. A value whose time is before the
    watermark of its key is late: it comes out of `late`, for each window that it would have gone
    into. So does a value for a window that was closed before, for that window: closed windows are
    never opened again. At the end of input all windows close.

    Of each batch, and in a batch of each key, late values come out first; then values go into their
    windows; then windows merge; then windows close, in the order in which they were opened, each
    with what it emits and its metadata. The state of a key is its clock, its open windows and the
    values that wait for the watermark; it is dropped an hour (by the wall clock) after the last
    window closed and the last value came, and not before windows that an end of input closed early
    would have been over.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        builder: Called with None for a new window, or with a snapshot to resume from; gives the
            object for a window.
        ordered: Whether values go into their windows in the order of their times, each when the
            watermark has reached its time, and those of equal time in the order of arrival. If not,
            they go there at once, as they come.
        state_version: Version of the form that the states of windows have.
        migrate: Called with the version of an older stored state of a window and that state; gives
            it in the present form. Values that wait for the watermark stay as they are.

    Returns:
        Keyed streams `down`, `late` and `meta`.

    Raises:
        TypeError: An argument is of a wrong type; raised while the flow is built.
        ValueError: `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or an
            object of the user's own returned something unusable, a time without a time zone for
            example.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> class Longest(win.WindowLogic):
    ...     def __init__(self, resume):
    ...         self.longest = resume or ""
    ...     def on_value(self, value):
    ...         self.longest = max(self.longest, value[1], key=len)
    ...         return []
    ...     def on_merge(self, original):
    ...         self.longest = max(self.longest, original.longest, key=len)
    ...         return []
    ...     def on_close(self):
    ...         return [self.longest]
    ...     def snapshot(self):
    ...         return self.longest
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v[0]), timedelta(0))
    >>> minutes = win.TumblingWindower(timedelta(minutes=1), start)
    >>> flow, out, late = Dataflow("window_example"), [], []
    >>> words = [("a", (1, "pear")), ("a", (59, "banana")), ("a", (61, "fig")), ("a", (2, "kiwi"))]
    >>> s = op.input("in", flow, TestingSource(words))
    >>> wo = win.window("longest", s, clock, minutes, Longest)
    >>> op.output("out", wo.down, TestingSink(out))
    >>> op.output("late", wo.late, TestingSink(late))
    >>> run_main(flow)
    >>> out
    [('a', (0, 'banana')), ('a', (1, 'fig'))]
    >>> late
    [('a', (0, (2, 'kiwi')))]
    """
    check_windows(step_id, clock, windower, ordered=ordered)
    require_function(step_id, "builder", builder)
    check_state(step_id, state_version, migrate)
    if by_kernel_only(clock):
        return kernel_out(step_id, up)
    tagged = stateful_batch(
        "stateful_batch",
        up,
        _Builder(WindowStep(clock, windower, builder, ordered)),
        state_version=state_version,
        migrate=_migrate_windows(migrate),
    )
    return WindowOut(
        filter_map_value("down", tagged, _picker(DOWN)),
        filter_map_value("late", tagged, _picker(LATE)),
        filter_map_value("meta", tagged, _picker(META)),
    )


@dataclass(frozen=True)
class _Builder(BuilderOfRun):
    """Makes the objects of keys; a key that was saved is told when the run began."""

    step: WindowStep

    def for_run(self, failures: KeyFailures | None) -> Callable[[KeyState | None], KeyWindows]:
        if failures is None:
            return functools.partial(KeyWindows, self.step, utc_now())
        return functools.partial(KeyWindowsGoingOn, self.step, utc_now(), failures)


def _picker(wanted: int) -> Callable[[Tagged], tuple[int, Any] | None]:
    return lambda tagged: tagged[1] if tagged[0] == wanted else None


def _migrate_windows(
    migrate: Callable[[int, Any], Any] | None,
) -> Callable[[int, KeyState], KeyState] | None:
    """What brings a stored key to the present version; the user's function sees one window."""
    if migrate is None:
        return None

    @functools.wraps(migrate)
    def migrated(version: int, stored: KeyState) -> KeyState:
        logics = tuple((number, migrate(version, saved)) for number, saved in stored.logics)
        return replace(stored, logics=logics)

    return migrated


def by_kernel_only(clock: Any, allowed_lateness: Any = None, trigger: Any = None) -> bool:
    """Whether windows are to do what only the kernels can, which know the engine's own clocks."""
    by_stream = isinstance(clock, EventClock) and clock.scope == "stream"
    return by_stream or allowed_lateness is not None or trigger is not None


def kernel_out(step_id: str, up: Stream[Any]) -> WindowOut[Any, Any]:
    """What comes out of a step that isn't composed."""
    return WindowOut(*[new_stream(step_id, up, name) for name in ("down", "late", "meta")])


def check_windows(
    step_id: str,
    clock: Any,
    windower: Any,
    *,
    ordered: Any = False,
    allowed_lateness: Any = None,
    trigger: Any = None,
) -> None:
    """Refuse what is no clock or no windower; called by each operator with windows.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: They don't go together, or make no sense.
    """
    for name, given, kind in (("clock", clock, Clock), ("windower", windower, Windower)):
        if not isinstance(given, kind):
            msg = f"`{name}` of step {step_id!r} must be a `{kind.__name__}`; got {given!r}"
            raise TypeError(msg)
    if not isinstance(ordered, bool):
        msg = f"`ordered` of step {step_id!r} must be a `bool`; got {ordered!r}"
        raise TypeError(msg)
    check_emitting(step_id, trigger, allowed_lateness)
    ours = is_ours(clock) and shape_of(windower) is not None
    if not ours and by_kernel_only(clock, allowed_lateness, trigger):
        msg = (
            f"`allowed_lateness`, `trigger` and `scope='stream'` of step {step_id!r} need a clock "
            f"and a windower of the engine; got {clock!r} and {windower!r}"
        )
        raise ValueError(msg)
