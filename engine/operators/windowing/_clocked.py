"""What steps with one of the engine's clocks, and no windows, have in common.

Such a step keeps values of a key in the order of their times until the key's watermark lets go of
them. It has one clock, or one for each of its inputs.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar, cast

from engine.errors import UserCodeError
from engine.operators._event_time import EPOCH, event_us
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext, StreamClock
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._shown import shown
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.operators._time_axis import EventTimes, TimeAxis
from engine.operators.windowing._clocks import Clock, EventClock, SystemClock
from engine.operators.windowing._window_kernel import axis_of, times_of

V_contra = TypeVar("V_contra", contravariant=True)

EngineClock: TypeAlias = EventClock[V_contra] | SystemClock
"""The clocks that such a step may have."""

time_of = itemgetter(0)
"""The time of a row: of a value that is kept, with its time before it."""


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """How the watermark of a step is told from the records of one input."""

    times: EventTimes
    idle_after_s: float

    @property
    def wait_us(self) -> int:
        """How far records may come behind the latest one, in microseconds."""
        return self.times.wait_us

    def latest_us(self, batch: list[Any]) -> int | None:
        """The latest time in a batch."""
        return max(times_of_batch(batch, self.times, 0), default=None)


@dataclass(frozen=True, slots=True)
class ClockedKernel(KeyedKernel):
    """A step with a clock for each of its inputs."""

    clocks: tuple[EngineClock[Any], ...]
    _: KW_ONLY
    state_options: StateOptions = DEFAULT_STATE
    saves_step = True

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        return self.logic(step, axis_of(self.clocks[0], step), [times_of(c) for c in self.clocks])

    def stream_clocks(self) -> Sequence[StreamClock | None]:
        """The clock of each input, if the step has one watermark."""
        return [
            StreamTimes(times, clock.idle_after.total_seconds())
            for clock in self.clocks
            if isinstance(clock, EventClock) and clock.scope == "stream"
            if (times := times_of(clock)) is not None
        ]

    @abstractmethod
    def logic(
        self, step: StepContext, axis: TimeAxis, times: list[EventTimes | None]
    ) -> KeyedLogic:
        """Begin with no keys in memory, going by that time."""


def clocks_of(step_id: str, clock: Any, sides: int) -> tuple[EngineClock[Any], ...]:
    """The clock of each input, from what the user gave; a pair is one for each of two.

    Raises:
        TypeError: A clock isn't one of the engine's.
        ValueError: They don't go together.
    """
    given: tuple[Any, ...] = (clock,) * sides
    if sides > 1 and isinstance(clock, tuple):
        given = cast("tuple[Any, ...]", clock)
        if len(given) != sides:
            msg = f"`clock` of step {step_id!r} must be one clock or {sides}; got {len(given)}"
            raise ValueError(msg)
    for each in given:
        _check_clock(step_id, each)
    if len({_moved_by(each) for each in given}) > 1:
        msg = (
            f"the clocks of step {step_id!r} must go together: be of one class, and have the same "
            f"`scope` and `now_getter`; got {clock!r}"
        )
        raise ValueError(msg)
    return given


def _check_clock(step_id: str, clock: Any) -> None:
    if type(clock) in (EventClock, SystemClock):
        return
    wanted = "an `EventClock` or a `SystemClock`"
    if isinstance(clock, Clock):
        wanted += "; only steps with windows can have a clock of your own"
    msg = f"`clock` of step {step_id!r} must be {wanted}; got {clock!r}"
    raise TypeError(msg)


def _moved_by(clock: EngineClock[Any]) -> tuple[Any, ...]:
    """What moves the watermark, besides values."""
    if isinstance(clock, EventClock):
        return clock.scope, clock.now_getter
    return (SystemClock,)


def migrate_rows(
    migrate: Callable[[int, Any], Any] | None, sides: int
) -> Callable[[int, Any], Any] | None:
    """What brings a stored key to the present version; the user's function sees values by input."""
    if migrate is None:
        return None

    @functools.wraps(migrate)
    def migrated(version: int, stored: Any) -> Any:
        *times, by_side = stored
        given = [[row[1] for row in rows] for rows in by_side]
        sizes = [len(values) for values in given]
        got: Any = migrate(version, given)
        if _sizes(got) != sizes:
            wanted = f"{sides} lists, of {' and '.join(map(str, sizes))} values, as many as it got"
            msg = f"`migrate` must return a list of {wanted}; got {shown(got)}"
            raise UserCodeError(msg, function=migrate, hint="keep the lists, migrate the values")
        changed = [
            [(row[0], value, *row[2:]) for row, value in zip(rows, values, strict=True)]
            for rows, values in zip(by_side, got, strict=True)
        ]
        return (*times, changed)

    return migrated


def _sizes(by_side: Any) -> list[int] | None:
    """How many values there are of each input; None for what isn't a list of lists."""
    if by_side.__class__ is not list or any(values.__class__ is not list for values in by_side):
        return None
    return [len(values) for values in by_side]


def insert(rows: list[Any], at_us: int, row: Any) -> None:
    """Put a row behind those of its time and before."""
    if not rows or at_us >= rows[-1][0]:
        rows.append(row)
    else:
        rows.insert(bisect_right(rows, at_us, key=time_of), row)


def times_of_batch(batch: list[Any], times: EventTimes | None, now_us: int) -> list[int]:
    """When the records of a batch happened, which are made sure to be ``(key, value)``.

    Raises:
        UserCodeError: A record isn't of that form, or its time can't be told.
    """
    getter = None if times is None else times.getter
    times_us: list[int] = []
    for record in batch:
        if record.__class__ is not tuple or len(record) != 2:
            refuse_unkeyed(record)
        its_key, new = record
        if its_key.__class__ is not str:
            check_key(its_key)
        if getter is None:
            times_us.append(now_us)
            continue
        at = getter(new)
        if at.__class__ is datetime and at.tzinfo is UTC:
            # As `event_us` does it, which asks for more.
            since = at - EPOCH
            seconds = since.days * 86_400 + since.seconds
            times_us.append(seconds * 1_000_000 + since.microseconds)
        else:
            times_us.append(event_us(at, getter, "ts_getter"))
    return times_us
