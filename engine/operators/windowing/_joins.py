"""`join_window`: the values that several streams have for one key in one window, in a tuple."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, Literal, TypeVar, cast, overload

from engine.dataflow import Operator, Stream, operator
from engine.errors import UserCodeError
from engine.operators._join_state import (
    INSERTS,
    JoinEmitMode,
    JoinInsertMode,
    Seen,
    check_mode,
    labeller,
    rows,
)
from engine.operators._keys import Key
from engine.operators._shape import merge
from engine.operators._shown import shown
from engine.operators._state_options import check_state
from engine.operators._types import S
from engine.operators._values import map_value
from engine.operators.windowing._clocks import Clock, ClockLogic
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
from engine.operators.windowing._works import LogicWork, Migrate

V1 = TypeVar("V1")
V2 = TypeVar("V2")
V3 = TypeVar("V3")
V4 = TypeVar("V4")
V5 = TypeVar("V5")


def _kernel(step: Operator, _workers: int) -> WindowKernel | None:
    params, sides = step.params, len(step.ups["sides"].stream_ids)
    work = _JoinWork(params["insert_mode"], params["emit_mode"], sides)
    return window_kernel(step, work, sides=sides)


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"],
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1, tuple[V1]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"],
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1 | V2, tuple[V1, V2]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    side3: Stream[tuple[Key, V3]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"],
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1 | V2 | V3, tuple[V1, V2, V3]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    side3: Stream[tuple[Key, V3]],
    side4: Stream[tuple[Key, V4]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"],
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1 | V2 | V3 | V4, tuple[V1, V2, V3, V4]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    side3: Stream[tuple[Key, V3]],
    side4: Stream[tuple[Key, V4]],
    side5: Stream[tuple[Key, V5]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"],
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1 | V2 | V3 | V4 | V5, tuple[V1, V2, V3, V4, V5]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "final",
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1, tuple[V1 | None]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "final",
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1 | V2, tuple[V1 | None, V2 | None]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    side3: Stream[tuple[Key, V3]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "final",
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1 | V2 | V3, tuple[V1 | None, V2 | None, V3 | None]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    side3: Stream[tuple[Key, V3]],
    side4: Stream[tuple[Key, V4]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "final",
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[V1 | V2 | V3 | V4, tuple[V1 | None, V2 | None, V3 | None, V4 | None]]: ...


@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    side1: Stream[tuple[Key, V1]],
    side2: Stream[tuple[Key, V2]],
    side3: Stream[tuple[Key, V3]],
    side4: Stream[tuple[Key, V4]],
    side5: Stream[tuple[Key, V5]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "final",
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[
    V1 | V2 | V3 | V4 | V5, tuple[V1 | None, V2 | None, V3 | None, V4 | None, V5 | None]
]: ...
@overload
def join_window(
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    *sides: Stream[tuple[Key, Any]],
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "final",
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> WindowOut[Any, tuple[Any, ...]]: ...
@operator(kernel=_kernel)
def join_window(  # noqa: PLR0913 - the parameters that users know, and those about state
    step_id: str,
    clock: Clock[Any, Any],
    windower: Windower[Any],
    *sides: Stream[tuple[Key, Any]],
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "final",
    ordered: bool = True,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[list[Any]]] | None = None,
) -> WindowOut[Any, tuple[Any, ...]]:
    """Put the values that several streams have for one key in one window together in a tuple.

    What is late, in which order things happen and how long a key is remembered is as with `window`;
    all sides of a key have one clock, which is asked about the values of each. First and last are
    so by the times of values, or by their arrival with `ordered=False`, also where windows were
    merged. The state of a window is the values that wait.

    Args:
        step_id: Name of the step.
        clock: What time values have, and when it is too late for them.
        windower: Which windows there are.
        *sides: Keyed streams, at least one.
        insert_mode: What to do with a second value of a side in the same window. "first" keeps the
            first, "last" keeps the latest, "product" keeps all and makes a row of each combination.
        emit_mode: When to emit. "complete": once every side has a value; the window then begins
            anew. "running": after every value and merge, with None for what is missing. "final":
            when the window closes, with None for what is missing.
        ordered: Whether values are taken in the order of their times, each when the watermark has
            reached its time, and those of equal time in the order of arrival. If not, they are
            taken at once, as they come.
        state_version: Version of the form that the values have which wait.
        migrate: Called with the version of an older stored state of a window and a list with, for
            each side, the list of its values; gives such a list, of as many values, in the present
            form. Values that wait for the watermark stay as they are.

    Returns:
        Keyed streams `down`, of tuples with a value per side in the order of the sides, `late`, of
        values of all sides, and `meta`.

    Raises:
        TypeError: No stream was given, or an argument is of a wrong type; raised while the flow is
            built.
        ValueError: There is no such mode, or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            time has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(seconds=30))
    >>> tens = win.TumblingWindower(timedelta(seconds=10), start)
    >>> flow, out = Dataflow("join_window_example"), []
    >>> left = op.input("left", flow, TestingSource([("a", 1), ("a", 12)]))
    >>> right = op.input("right", flow, TestingSource([("a", 4), ("a", 5)]))
    >>> op.output("out", win.join_window("join", clock, tens, left, right).down, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', (0, (1, 5))), ('a', (1, (12, None)))]
    """
    check_mode(step_id, "insert_mode", insert_mode, JoinInsertMode)
    check_mode(step_id, "emit_mode", emit_mode, JoinEmitMode)
    check_windows(step_id, clock, windower, ordered=ordered)
    check_state(step_id, state_version, migrate)
    count = len(sides)
    if sides and by_kernel_only(clock):
        return kernel_out(step_id, sides[0])

    def build(resume: Seen | None) -> _JoinLogic:
        return _JoinLogic(insert_mode, emit_mode, resume or _no_values(count))

    labelled = [map_value(f"label_{i}", side, labeller(i)) for i, side in enumerate(sides)]
    out = window(
        "window",
        merge("merge", *labelled),
        _LabelledClock(clock),
        windower,
        build,
        ordered,
        state_version=state_version,
        migrate=None if migrate is None else _migrate_numbered(migrate),
    )
    late = map_value("late", out.late, _unlabelled)
    return WindowOut(out.down, late, out.meta)


def _unlabelled(late: tuple[int, tuple[int, Any]]) -> tuple[int, Any]:
    window_id, (_, value) = late
    return window_id, value


@dataclass(frozen=True)
class _LabelledClock(Clock[tuple[int, Any], S]):
    clock: Clock[Any, S]

    def build(self, resume_state: S | None) -> ClockLogic[tuple[int, Any], S]:
        return _LabelledClockLogic(self.clock.build(resume_state))


class _LabelledClockLogic(ClockLogic[tuple[int, Any], S]):
    __slots__ = ("_logic",)

    def __init__(self, logic: ClockLogic[Any, S]) -> None:
        self._logic = logic

    def after_outage(self) -> None:
        self._logic.after_outage()

    def before_batch(self) -> None:
        self._logic.before_batch()

    def on_item(self, value: tuple[int, Any]) -> tuple[datetime, datetime]:
        return self._logic.on_item(value[1])

    def on_notify(self) -> datetime:
        return self._logic.on_notify()

    def on_eof(self) -> datetime:
        return self._logic.on_eof()

    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        return self._logic.to_system_utc(timestamp)

    def snapshot(self) -> S:
        return self._logic.snapshot()


class _JoinLogic(CountedLogic[tuple[int, Any], tuple[Any, ...], Seen]):
    """The values of one window by side, with their numbers, in the order of these."""

    __slots__ = ("_emit_mode", "_insert_mode", "seen")

    def __init__(self, insert_mode: JoinInsertMode, emit_mode: JoinEmitMode, seen: Seen) -> None:
        self._insert_mode: JoinInsertMode = insert_mode
        self._emit_mode = emit_mode
        self.seen: Seen = list(seen)

    def on_value(self, value: tuple[int, Any]) -> Iterable[tuple[Any, ...]]:
        side, own = value
        INSERTS[self._insert_mode](self.seen, side, (self.number, own))
        return self._emitted()

    def on_merge(self, original: Any) -> Iterable[tuple[Any, ...]]:
        kept = {"first": slice(1), "last": slice(-1, None), "product": slice(None)}
        for side, others in enumerate(original.seen):
            if others:
                both: list[Any] = sorted([*self.seen[side], *others], key=itemgetter(0))
                self.seen[side] = both[kept[self._insert_mode]]
        return self._emitted()

    def on_close(self) -> Iterable[tuple[Any, ...]]:
        return self._rows() if self._emit_mode == "final" else ()

    def snapshot(self) -> Seen:
        return [list(values) for values in self.seen]

    def _emitted(self) -> Iterable[tuple[Any, ...]]:
        """What is emitted after a change."""
        if self._emit_mode == "running":
            return self._rows()
        if self._emit_mode == "complete" and all(self.seen):
            complete = self._rows()
            self.seen = _no_values(len(self.seen))
            return complete
        return ()

    def _rows(self) -> list[tuple[Any, ...]]:
        return rows([[value for _, value in values] for values in self.seen])


class _JoinWork(LogicWork):
    """The same for kernels, which say the side of a value by the input that it came from."""

    def __init__(self, insert_mode: JoinInsertMode, emit_mode: JoinEmitMode, sides: int) -> None:
        def build(resume: Seen | None) -> _JoinLogic:
            return _JoinLogic(insert_mode, emit_mode, resume or _no_values(sides))

        super().__init__(build, emits_values=emit_mode != "final")

    @property
    def all_or_nothing(self) -> bool:
        return True

    def migrating(self, migrate: Migrate) -> Migrate:
        return _migrate_numbered(migrate)


def _migrate_numbered(migrate: Migrate) -> Callable[[int, Seen], Seen]:
    """What brings the values of a window to the present version; the user's function sees these."""

    @functools.wraps(migrate)
    def migrated(version: int, stored: Seen) -> Seen:
        given = [[value for _, value in values] for values in stored]
        sizes = [len(values) for values in given]
        got: Any = migrate(version, given)
        if _sizes(got) != sizes:
            wanted = f"lists of {', '.join(map(str, sizes))} values, as many as it got of each side"
            msg = f"`migrate` of `join_window` must return {wanted}; got {shown(got)}"
            raise UserCodeError(msg, function=migrate, hint="keep the lists, migrate the values")
        return [
            [(number, value) for (number, _), value in zip(old, new, strict=True)]
            for old, new in zip(stored, cast("list[list[Any]]", got), strict=True)
        ]

    return migrated


def _sizes(by_side: Any) -> list[int] | None:
    """How many values there are of each side; None for what isn't a list of lists."""
    if by_side.__class__ is not list or any(values.__class__ is not list for values in by_side):
        return None
    return [len(values) for values in by_side]


def _no_values(sides: int) -> Seen:
    return [()] * sides
