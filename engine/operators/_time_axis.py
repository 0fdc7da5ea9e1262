"""The time that a step with a clock goes by, in microseconds: what its timers and watermarks need.

Three kinds of clock come down to one rule. A step has a time axis, which has a present; each key
has an **offset**; the watermark of a key is their sum::

    watermark = axis.now_us + offset_us

======================  ====================================  ===========================
clock                   the axis' present                     a key's offset
======================  ====================================  ===========================
event time, by key      the wall clock, less the time that    greatest (event time - wait
                        the job was down                      - present) of its values
event time, a stream    the watermark of the step             0
system time             the wall clock                        0
======================  ====================================  ===========================

So a timer for the moment at which a key's watermark reaches an event time is due, on the axis, at
that time less the offset. Only by-key clocks have offsets that records change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from engine.operators._event_time import MAX_US, MIN_US, event_us, utc_datetime

NEVER_US: Final = -(1 << 62)
"""Before all times."""
END_US: Final = 1 << 62
"""After all times."""
_SECOND_US: Final = 1_000_000
_AGAIN_S: Final = 1.0
"""When to look again if a time on the wall that a user's function gave was too early."""

ToWall = Callable[[datetime], datetime | None]


@dataclass(frozen=True, slots=True)
class EventTimes:
    """How the records of one input say when they happened."""

    getter: Callable[[Any], datetime]
    wait_us: int
    """How far a record may come behind the latest one."""

    def at_us(self, value: Any) -> int:
        """When a record happened, by its value.

        Raises:
            UserCodeError: The getter doesn't say so.
        """
        at_us = event_us(self.getter(value), self.getter, "ts_getter")
        # In another zone it may be a moment outside of what can be told in UTC.
        return at_us if MIN_US <= at_us <= MAX_US else max(MIN_US, min(at_us, MAX_US))

    def checked_us(self, at: Any, value: Any) -> int:  # noqa: ARG002 - for the report of an error
        """The time that the getter gave for a value; errors as in `at_us`."""
        return event_us(at, self.getter, "ts_getter")


class TimeAxis:
    """The axis of a step on one worker.

    Args:
        now_s: The wall clock, in seconds since 1970 UTC.
        clock_s: What the axis goes by, if that is another clock, likewise.
        to_wall: Gives for a time by that clock the time on the wall, or None if there is none.
        by_key: Each key has a watermark of its own, which its values move.
        by_stream: The step has one watermark, which it is told.

    >>> axis = TimeAxis(lambda: 5.0)
    >>> axis.sample(); axis.now_us
    5000000
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        clock_s: Callable[[], float] | None = None,
        to_wall: ToWall | None = None,
        *,
        by_key: bool = False,
        by_stream: bool = False,
    ) -> None:
        self.by_key = by_key
        self.by_stream = by_stream
        self.now_us = NEVER_US
        """The present, as it was sampled last."""
        self._now_s = now_s
        self._clock_s = now_s if clock_s is None else clock_s
        self._to_wall = to_wall
        self._down_us = 0
        self._woken_s = -math.inf
        self._asked_us = NEVER_US
        self._answer_s: float | None = None

    @property
    def told(self) -> str:
        """What it goes by, in words. Moments of one such axis mean nothing on another."""
        if self.by_stream:
            return "one watermark for the stream"
        return "a watermark for each key" if self.by_key else "the time of the system"

    def resume(self, at_us: int) -> None:
        """An earlier run came as far as that: go on from there."""
        if self.by_stream:
            self.now_us = max(self.now_us, at_us)
            return
        if self.by_key:
            self._down_us = max(0, self._clock_us() - at_us)
        self.now_us = at_us

    def sample(self) -> None:
        """Read the clock. It never goes back, even if that on the wall does."""
        if not self.by_stream:
            self.now_us = max(self.now_us, self._clock_us() - self._down_us)

    def _ask(self, to_wall: ToWall, axis_us: int) -> float | None:
        at = to_wall(utc_datetime(axis_us + self._down_us))
        if at is None:
            return None
        at_s = event_us(at, to_wall, "to_system_utc") / _SECOND_US
        return at_s if at_s > self._woken_s else self._woken_s + _AGAIN_S

    def wake(self) -> None:
        """It was said when the present will be one that is waited for, and the time has come."""
        self._woken_s = self._now_s()
        self._asked_us = NEVER_US
        self.sample()

    def advance(self, at_us: int) -> None:
        """The watermark of the step has risen."""
        self.now_us = max(self.now_us, at_us)

    def wall_s(self, axis_us: int) -> float | None:
        """When on the wall the present will be that; None if no clock moves it."""
        if self.by_stream:
            return None
        if self._to_wall is not None:
            if axis_us != self._asked_us:
                self._asked_us, self._answer_s = axis_us, self._ask(self._to_wall, axis_us)
            return self._answer_s
        return self._now_s() + (axis_us - (self._clock_us() - self._down_us)) / _SECOND_US

    def _clock_us(self) -> int:
        return round(self._clock_s() * _SECOND_US)


def seconds_of(now_getter: Callable[[], datetime]) -> Callable[[], float]:
    """A clock of seconds since 1970 made of one that gives datetimes."""

    def now_s() -> float:
        return event_us(now_getter(), now_getter, "now_getter") / _SECOND_US

    return now_s
