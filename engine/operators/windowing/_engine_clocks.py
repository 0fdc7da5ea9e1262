"""The engine's clocks, for kernels: the time that a step goes by, and those of its records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from engine.clock import utc_now
from engine.operators._event_time import EPOCH, MAX_US, MIN_US, span_us
from engine.operators._kernels import Failures, Picks, StepContext, StreamClock
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._picking import Picker
from engine.operators._time_axis import EventTimes, TimeAxis, seconds_of
from engine.operators.windowing._clocks import Clock, EventClock, as_it_is


def axis_of(clock: Clock[Any, Any], step: StepContext) -> TimeAxis:
    """The time axis of a step with one of the engine's clocks."""
    if not isinstance(clock, EventClock):
        return TimeAxis(step.now_s)
    if clock.scope == "stream":
        return TimeAxis(step.now_s, by_stream=True)
    clock_s = None if clock.now_getter is utc_now else seconds_of(clock.now_getter)
    to_wall = None if clock.to_system_utc is as_it_is else clock.to_system_utc
    return TimeAxis(step.now_s, clock_s, to_wall, by_key=True)


def times_of(clock: Clock[Any, Any]) -> EventTimes | None:
    """How values say their time to one of the engine's clocks."""
    if not isinstance(clock, EventClock):
        return None
    return EventTimes(clock.ts_getter, span_us(clock.wait_for_system_duration))


def picking(
    failures: Failures | None, times: list[EventTimes | None]
) -> tuple[Picks | None, list[EventTimes | None]]:
    """What picks the records that have a key and a time, and how these say their times then.

    Args:
        failures: Takes the others; None if the step ends the run at an error.
        times: For each input, how its records say their times.
    """
    if failures is None:
        return None, times
    picker = Picker(failures, [None if each is None else _teller(each) for each in times])
    return picker.pick, [each and replace(each, getter=picker.next_time) for each in times]


def _teller(times: EventTimes) -> Callable[[Any], datetime]:
    """Gives the time of a record by its value, and makes sure that it is one."""
    getter = times.getter

    def tell(value: Any) -> datetime:
        at = getter(value)
        if at.__class__ is not datetime or at.tzinfo is not UTC:
            times.checked_us(at, value)
        return at

    return tell


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
        """The latest time in a batch; records that have none are the step's business."""
        try:
            return max(times_of_batch(batch, self.times, 0), default=None)
        except Exception:  # noqa: BLE001 - a user's function raises again where the step asks it
            told = [self._us_of(record) for record in batch]
            return max((us for us in told if us is not None), default=None)

    def _us_of(self, record: Any) -> int | None:
        try:
            return times_of_batch([record], self.times, 0)[0]
        except Exception:  # noqa: BLE001 - as above
            return None


def stream_clocks_of(clocks: Sequence[Clock[Any, Any]]) -> Sequence[StreamClock | None]:
    """What makes the watermark of a step with these clocks, if it has one for the stream."""
    return [
        StreamTimes(times, clock.idle_after.total_seconds())
        for clock in clocks
        if isinstance(clock, EventClock) and clock.scope == "stream"
        if (times := times_of(clock)) is not None
    ]


def times_of_batch(batch: list[Any], times: EventTimes | None, now_us: int) -> list[int]:
    """When the records of a batch happened, which are made sure to be ``(key, value)``.

    Raises:
        UserCodeError: A record isn't of that form, or its time can't be told.
    """
    times_us: list[int] = []
    for record in batch:
        if record.__class__ is not tuple or len(record) != 2:
            refuse_unkeyed(record)
        its_key, new = record
        if its_key.__class__ is not str:
            check_key(its_key)
        if times is None:
            times_us.append(now_us)
            continue
        at = times.getter(new)
        if at.__class__ is datetime and at.tzinfo is UTC:
            # As `checked_us` does it, which asks for more.
            since = at - EPOCH
            seconds = since.days * 86_400 + since.seconds
            times_us.append(seconds * 1_000_000 + since.microseconds)
        else:
            times_us.append(min(max(times.checked_us(at, new), MIN_US), MAX_US))
    return times_us
