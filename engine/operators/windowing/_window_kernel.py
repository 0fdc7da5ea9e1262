"""The kernel of steps with windows: chooses how they run for a clock and a windower.

Only the clocks and windowers of the engine have one; where a user brings his own, the operators run
as they are composed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from engine.dataflow import Operator
from engine.operators._event_time import EPOCH, span_us
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext, StreamClock
from engine.operators._state import KeyedState
from engine.operators._state_options import DEFAULT_STATE, StateOptions, state_options
from engine.operators.windowing._aligned_going_on import AlignedGoingOn
from engine.operators.windowing._aligned_logic import AlignedLogic
from engine.operators.windowing._clocks import EventClock, SystemClock
from engine.operators.windowing._engine_clocks import (
    axis_of,
    picking,
    stream_clocks_of,
    times_of,
)
from engine.operators.windowing._panes import PanedState
from engine.operators.windowing._shapes import Aligned, Sessions, Shape
from engine.operators.windowing._windowers import (
    SessionWindower,
    SlidingWindower,
    TumblingWindower,
    Windower,
)
from engine.operators.windowing._windows_going_on import WindowsGoingOn
from engine.operators.windowing._windows_logic import WindowsLogic, WindowSpec
from engine.operators.windowing._works import Folding, Migrate, Work


@dataclass(frozen=True, slots=True)
class WindowKernel(KeyedKernel):
    """The windows of a step."""

    clock: EventClock[Any] | SystemClock
    spec: WindowSpec
    state_options: StateOptions = DEFAULT_STATE
    saves_step = True

    @property
    def _folding(self) -> Folding | None:
        """What its windows do, if the kernel for which speed counts can do it."""
        spec = self.spec
        if spec.tells_causes or isinstance(spec.shape, Sessions):
            return None
        return _folding_of(spec.shape, spec.work)

    def stream_clocks(self) -> Sequence[StreamClock | None]:
        """The clock of each input, if the step has one watermark."""
        return stream_clocks_of([self.clock] * max(1, self.spec.sides))

    def new_state(self) -> KeyedState:
        """State by key that fits the way in which it runs."""
        return KeyedState() if self._folding is None else PanedState()

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        folding, shape, failures = self._folding, self.spec.shape, step.failures
        sides = max(1, self.spec.sides)
        picks, (times, *_) = picking(failures, [times_of(self.clock)] * sides)
        axis = axis_of(self.clock, step)
        logic: KeyedLogic
        if folding is not None and isinstance(shape, Aligned):
            kind = AlignedLogic if failures is None else AlignedGoingOn
            logic = kind(step, axis, times, shape, folding, ordered=self.spec.ordered)
        else:
            kind_of_any = WindowsLogic if failures is None else WindowsGoingOn
            logic = kind_of_any(step, axis, times, self.spec)
        logic.picks = picks
        return logic


def window_kernel(
    step: Operator, work: Work, *, ordered: bool | None = None, sides: int = 0
) -> WindowKernel | None:
    """The kernel of a step, by its parameters; None if it has to run as it is composed.

    Args:
        step: The step.
        work: What its windows do.
        ordered: Whether values are taken in order of time; None: as the parameter says.
        sides: How many inputs it joins, if it does.
    """
    params = step.params
    clock, shape = params["clock"], shape_of(params["windower"])
    if shape is None or not is_ours(clock):
        return None
    lateness = params.get("allowed_lateness")
    spec = WindowSpec(
        shape,
        work,
        params["ordered"] if ordered is None else ordered,
        None if lateness is None else span_us(lateness),
        params.get("trigger"),
        sides,
    )
    options = state_options(params)
    migrate = options.migrate
    if migrate is not None:
        options = replace(options, migrate=_migrate_windows(migrate, shape, work))
    return WindowKernel(clock, spec, options)


def is_ours(clock: Any) -> bool:
    """Whether a clock is one of the engine's."""
    return type(clock) in (EventClock, SystemClock)


def shape_of(windower: Windower[Any]) -> Shape | None:
    """The windows of a windower in microseconds; None if it isn't one of the engine's."""
    if type(windower) is SessionWindower:
        return Sessions(span_us(windower.gap))
    if type(windower) is TumblingWindower:
        length_us = offset_us = span_us(windower.length)
    elif type(windower) is SlidingWindower:
        length_us, offset_us = span_us(windower.length), span_us(windower.offset)
    else:
        return None
    return Aligned(length_us, offset_us, span_us(windower.align_to - EPOCH))


def _folding_of(shape: Shape, work: Work) -> Folding | None:
    """A work in its simplest form, if it has one; windows that overlap share panes, if they can."""
    overlap = isinstance(shape, Aligned) and shape.overlaps
    return (work.sharing() if overlap else None) or work.folding()


def _migrate_windows(migrate: Migrate, shape: Shape, work: Work) -> Migrate:
    """What brings a stored key to the present version; the user's function sees one window."""
    folding = _folding_of(shape, work)
    in_pane = migrate if folding is None else folding.migrating(migrate)
    in_window = work.migrating(migrate)

    def migrated(version: int, stored: Any) -> Any:
        if len(stored) == 1:
            # What a pane holds of a key.
            return (in_pane(version, stored[0]),)
        *times, rest = cast("tuple[Any, ...]", stored)
        if len(rest) != 5:
            # What is known of a key whose windows are in panes.
            return stored
        *others, windows = rest
        migrated = [(*window, in_window(version, acc)) for *window, acc in windows]
        return (*times, (*others, migrated))

    return migrated
