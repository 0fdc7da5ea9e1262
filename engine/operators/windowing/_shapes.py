"""Which windows a time falls into, in microseconds: the windowers, for the kernels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from engine.operators._event_time import MAX_US, utc_datetime


class OpenWindow:
    """A window of one key that holds something."""

    __slots__ = ("acc", "close_us", "fired", "fresh", "merged_ids", "number", "open_us")

    def __init__(self, number: int, open_us: int, close_us: int, acc: Any) -> None:
        self.number = number
        """Its id."""
        self.open_us = open_us
        self.close_us = close_us
        """For a session the time of its last value."""
        self.acc = acc
        self.fired = False
        """It has closed, and is kept for values that come late."""
        self.fresh = 0
        """How many values it took since it last emitted."""
        self.merged_ids: set[int] = set()
        """Sessions that have become part of it."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """Tumbling and sliding windows: window i is from `align_us` + i * `offset_us`, so long."""

    length_us: int
    offset_us: int
    align_us: int

    def told(self) -> str:
        """The windows in words."""
        length, offset = (timedelta(microseconds=us) for us in (self.length_us, self.offset_us))
        return f"windows of {length} every {offset}, from {utc_datetime(self.align_us)}"

    def numbers(self, at_us: int) -> range:
        """The ids of the windows that a time falls into, in order."""
        since_us = at_us - self.align_us
        first = (since_us - self.length_us) // self.offset_us + 1
        return range(first, since_us // self.offset_us + 1)

    def open_us(self, number: int) -> int:
        """When a window opens."""
        return self.align_us + number * self.offset_us

    def close_us(self, number: int) -> int:
        """When it closes; not after the end of time, which no watermark passes."""
        return min(self.align_us + number * self.offset_us + self.length_us, MAX_US)

    def last_closed(self, at_us: int) -> int:
        """The id of the last window that isn't open any more at a watermark."""
        if at_us >= MAX_US:
            # All that can be told end by then.
            return (MAX_US - self.align_us) // self.offset_us
        return (at_us - self.align_us - self.length_us) // self.offset_us

    @property
    def overlaps(self) -> bool:
        """Whether a time falls into several windows."""
        return self.offset_us < self.length_us

    @property
    def cuts(self) -> int:
        """Into how many stretches the beginnings and ends of windows cut each `offset_us`."""
        return 2 if self.length_us % self.offset_us else 1

    @property
    def stretches(self) -> int:
        """How many of those stretches a window has."""
        times, rest = divmod(self.length_us, self.offset_us)
        return times * self.cuts + (1 if rest else 0)

    def stretch(self, at_us: int) -> int:
        """The number of the stretch that a time is in; window i begins with `cuts` * i."""
        times, rest = divmod(at_us - self.align_us, self.offset_us)
        end = self.length_us % self.offset_us
        return times if not end else 2 * times + (rest >= end)

    def stretch_us(self, number: int) -> int:
        """When a stretch begins."""
        times, rest = divmod(number, self.cuts)
        us = self.length_us % self.offset_us if rest else 0
        return self.align_us + times * self.offset_us + us

    def first_close_us(self, at_us: int) -> int:
        """When the first window closes that a time falls into: a watermark closes it then."""
        since_us = (at_us - self.align_us - self.length_us) % self.offset_us
        return min(at_us + self.offset_us - since_us, MAX_US)

    def last_close_us(self, at_us: int) -> int:
        """The latest end of a window that isn't after that time."""
        return at_us - (at_us - self.align_us - self.length_us) % self.offset_us

    def not_over(self, numbers: tuple[int, ...], at_us: int) -> tuple[int, ...]:
        """Those windows that end after that time, or at the end of time."""
        ends = [(number, self.close_us(number)) for number in numbers]
        return tuple(number for number, end in ends if end > at_us or end == MAX_US)

    def closing_us(self, window: OpenWindow) -> int:
        """The first watermark that closes a window."""
        return window.close_us


@dataclass(frozen=True, slots=True)
class Sessions:
    """Session windows: values that are no further apart than the gap."""

    gap_us: int

    def told(self) -> str:
        """The windows in words."""
        return "sessions"

    def first_close_us(self, at_us: int) -> int:
        """The first watermark that could close a session with a value of that time."""
        return min(at_us + self.gap_us + 1, MAX_US)

    def closing_us(self, window: OpenWindow) -> int:
        """The first watermark that closes a session."""
        return min(window.close_us + self.gap_us + 1, MAX_US)

    def near(self, windows: Iterable[OpenWindow], at_us: int) -> list[OpenWindow]:
        """The sessions that a time is near enough to, the one that begins earliest first."""
        gap_us = self.gap_us
        found = [w for w in windows if w.open_us - gap_us <= at_us <= w.close_us + gap_us]
        return sorted(found, key=lambda window: window.open_us) if len(found) > 1 else found


Shape = Aligned | Sessions
