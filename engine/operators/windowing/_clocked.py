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
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar, cast

from engine.errors import UserCodeError
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext, StreamClock
from engine.operators._shown import shown
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.operators._time_axis import EventTimes, TimeAxis
from engine.operators.windowing._clocks import Clock, EventClock, SystemClock
from engine.operators.windowing._engine_clocks import (
    axis_of,
    picking,
    stream_clocks_of,
    times_of,
)

V_contra = TypeVar("V_contra", contravariant=True)

EngineClock: TypeAlias = EventClock[V_contra] | SystemClock
"""The clocks that such a step may have."""

time_of = itemgetter(0)
"""The time of a row: of a value that is kept, with its time before it."""


@dataclass(frozen=True, slots=True)
class ClockedKernel(KeyedKernel):
    """A step with a clock for each of its inputs."""

    clocks: tuple[EngineClock[Any], ...]
    _: KW_ONLY
    state_options: StateOptions = DEFAULT_STATE
    saves_step = True

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        picks, times = picking(step.failures, [times_of(clock) for clock in self.clocks])
        logic = self.logic(step, axis_of(self.clocks[0], step), times)
        logic.picks = picks
        return logic

    def stream_clocks(self) -> Sequence[StreamClock | None]:
        """The clock of each input, if the step has one watermark."""
        return stream_clocks_of(self.clocks)

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
