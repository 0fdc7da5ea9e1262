"""Windowers: which windows a time belongs to, and when they close.

A `Windower` is what users hand to an operator; it builds a `WindowerLogic` for every key, which the
step of `window` tells each value's time and the watermark. Windows have numbers, `window_id`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Generic

from engine.operators._event_time import MAX_US, event_us, span_us, utc_datetime
from engine.operators._types import S
from engine.operators.windowing._clocks import check_span

LATE_SESSION_ID: Final = -1
"""The window id of late values where windows are sessions: they belong to none."""

ZERO_TD: Final = timedelta(0)
"""No time at all."""


def _no_ids() -> set[int]:
    return set()


@dataclass(frozen=True, slots=True)
class WindowMetadata:
    """What is known of a window when it closes. Times are in UTC.

    What a `datetime` can't hold is `UTC_MIN` or `UTC_MAX`.
    """

    open_time: datetime
    """When it begins; of a session: the time of its first value."""
    close_time: datetime
    """When it ends, which it doesn't contain; of a session: the time of its last value."""
    merged_ids: set[int] = field(default_factory=_no_ids)
    """The ids of windows that became part of this one."""


class WindowerLogic(ABC, Generic[S]):
    """The windows of one key. Make a subclass, and a `Windower` that builds it."""

    __slots__ = ()

    @abstractmethod
    def open_for(self, timestamp: datetime) -> Iterable[int]:
        """The ids of the windows that a value of this time goes into; new ones open with it."""

    @abstractmethod
    def late_for(self, timestamp: datetime) -> Iterable[int]:
        """The ids of the windows that a value of this time belongs to, if it is late for them.

        Must not open any. Where windows can be told by time, these are the ids that `open_for`
        would give: a value is refused by those of them that were closed before.
        """

    @abstractmethod
    def merged(self) -> Iterable[tuple[int, int]]:
        """The windows that became one since this was last asked: `(original, target)` ids."""

    @abstractmethod
    def close_for(self, watermark: datetime) -> Iterable[tuple[int, WindowMetadata]]:
        """The windows that close when this watermark is reached; they are open no more.

        With `UTC_MAX` all should close. The id of a closed window must not be given to another.
        """

    @abstractmethod
    def notify_at(self) -> datetime | None:
        """The watermark at which `close_for` has something to close next; None if none is open."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether nothing is lost if this object is dropped after an hour without values."""

    @abstractmethod
    def snapshot(self) -> S:
        """The state from which `Windower.build` can make an equal object; it must not change."""


class Windower(ABC, Generic[S]):
    """Which windows there are. Base of users' own windowers.

    >>> from datetime import datetime, timedelta, timezone
    >>> class OneADay(WindowerLogic):
    ...     '''Days of UTC; their ids are ordinals.'''
    ...     def __init__(self, resume):
    ...         self.open = list(resume or [])
    ...     def open_for(self, timestamp):
    ...         day = timestamp.astimezone(timezone.utc).toordinal()
    ...         if day not in self.open:
    ...             self.open.append(day)
    ...         return [day]
    ...     def late_for(self, timestamp):
    ...         return [timestamp.astimezone(timezone.utc).toordinal()]
    ...     def merged(self):
    ...         return []
    ...     def close_for(self, watermark):
    ...         closed = [day for day in self.open if self.span(day).close_time <= watermark]
    ...         self.open = [day for day in self.open if day not in closed]
    ...         return [(day, self.span(day)) for day in closed]
    ...     def span(self, day):
    ...         begin = datetime.fromordinal(day).replace(tzinfo=timezone.utc)
    ...         return WindowMetadata(begin, begin + timedelta(days=1))
    ...     def notify_at(self):
    ...         return min((self.span(day).close_time for day in self.open), default=None)
    ...     def is_empty(self):
    ...         return not self.open
    ...     def snapshot(self):
    ...         return list(self.open)
    >>> class Days(Windower):
    ...     def build(self, resume_state):
    ...         return OneADay(resume_state)
    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.operators.windowing import EventClock, collect_window
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("own_windower"), []
    >>> days = ["2024-01-01T10:00Z", "2024-01-01T11:00Z", "2024-01-02T10:00Z"]
    >>> s = op.input("in", flow, TestingSource([("a", day) for day in days]))
    >>> clock = EventClock(datetime.fromisoformat, timedelta(0))
    >>> op.output("out", collect_window("days", s, clock, Days()).down, TestingSink(out))
    >>> run_main(flow)
    >>> [len(values) for _, (_, values) in out]
    [2, 1]
    """

    @abstractmethod
    def build(self, resume_state: S | None) -> WindowerLogic[S]:
        """Make the windows of a key: none yet for None, or those of a snapshot."""


@dataclass(frozen=True)
class SlidingWindower(Windower[tuple[int, ...]]):
    """Windows of one length that begin at equal distances, and overlap.

    Window `i` begins at `align_to` + `i` * `offset`, which it contains, and ends `length` later,
    which it doesn't. A value goes into all windows that contain its time; each closes when the
    watermark reaches its end. Ids may be negative.

    Args:
        length: How long each window is.
        offset: From the beginning of one window to that of the next.
        align_to: When window 0 begins.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: `length` or `offset` isn't more than 0, `offset` is longer than `length`, or
            `align_to` has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> logic = SlidingWindower(timedelta(seconds=10), timedelta(seconds=5), start).build(None)
    >>> logic.open_for(start + timedelta(seconds=7))
    [0, 1]
    """

    length: timedelta
    offset: timedelta
    align_to: datetime

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_span("`SlidingWindower`", "length", self.length)
        check_span("`SlidingWindower`", "offset", self.offset)
        _check_start("SlidingWindower", self.align_to)
        if self.offset > self.length:
            msg = (
                "`offset` of `SlidingWindower` must not be longer than `length`, or values between "
                f"two windows would be in none; got {self.offset!r} and {self.length!r}"
            )
            raise ValueError(msg)

    def build(self, resume_state: tuple[int, ...] | None) -> WindowerLogic[tuple[int, ...]]:
        """Make the windows of a key."""
        return _AlignedLogic(self.length, self.offset, self.align_to, resume_state or ())


@dataclass(frozen=True)
class TumblingWindower(Windower[tuple[int, ...]]):
    """Windows of one length, each of which begins where the one before ends.

    Window `i` begins at `align_to` + `i` * `length`, which it contains, and ends `length` later,
    which it doesn't. It closes when the watermark reaches its end. Ids may be negative.

    Args:
        length: How long each window is.
        align_to: When window 0 begins.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: `length` isn't more than 0, or `align_to` has no time zone.

    >>> from datetime import datetime, timedelta, timezone
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> logic = TumblingWindower(timedelta(seconds=10), start).build(None)
    >>> logic.open_for(start + timedelta(seconds=25))
    [2]
    """

    length: timedelta
    align_to: datetime

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_span("`TumblingWindower`", "length", self.length)
        _check_start("TumblingWindower", self.align_to)

    def build(self, resume_state: tuple[int, ...] | None) -> WindowerLogic[tuple[int, ...]]:
        """Make the windows of a key."""
        return _AlignedLogic(self.length, self.length, self.align_to, resume_state or ())


class _AlignedLogic(WindowerLogic[tuple[int, ...]]):
    """Windows that follow from time alone: of a key only the ids of open ones are kept."""

    __slots__ = ("_align_us", "_length_us", "_offset_us", "_open")

    def __init__(
        self, length: timedelta, offset: timedelta, align_to: datetime, opened: tuple[int, ...]
    ) -> None:
        self._length_us, self._offset_us = span_us(length), span_us(offset)
        self._align_us = _us(align_to)
        # A dict keeps the order in which they were opened.
        self._open = dict.fromkeys(opened)

    def open_for(self, timestamp: datetime) -> Iterable[int]:
        ids = self.late_for(timestamp)
        self._open.update(dict.fromkeys(ids))
        return ids

    def late_for(self, timestamp: datetime) -> list[int]:
        since_us = _us(timestamp) - self._align_us
        first = (since_us - self._length_us) // self._offset_us + 1
        return list(range(first, since_us // self._offset_us + 1))

    def merged(self) -> Iterable[tuple[int, int]]:
        return ()

    def close_for(self, watermark: datetime) -> Iterable[tuple[int, WindowMetadata]]:
        reached_us = _us(watermark)
        closed = [number for number in self._open if self._close_us(number) <= reached_us]
        for number in closed:
            del self._open[number]
        return [(number, self._metadata(number)) for number in closed]

    def notify_at(self) -> datetime | None:
        return utc_datetime(self._close_us(min(self._open))) if self._open else None

    def is_empty(self) -> bool:
        return not self._open

    def snapshot(self) -> tuple[int, ...]:
        return tuple(self._open)

    def _open_us(self, number: int) -> int:
        return self._align_us + number * self._offset_us

    def _close_us(self, number: int) -> int:
        # No watermark goes further than to the latest time.
        return min(self._open_us(number) + self._length_us, MAX_US)

    def _metadata(self, number: int) -> WindowMetadata:
        open_us = self._open_us(number)
        return WindowMetadata(utc_datetime(open_us), utc_datetime(open_us + self._length_us))


@dataclass(frozen=True, slots=True)
class _Sessions:
    """What is saved of a key's sessions."""

    next_id: int
    open: tuple[tuple[int, int, int, frozenset[int]], ...]
    """Of each: id, first and last time in microseconds since 1970 UTC, ids merged into it."""


@dataclass(frozen=True)
class SessionWindower(Windower[_Sessions]):
    """Windows of values that follow each other closely.

    A value belongs to a session if it is no further than `gap` from one of its values. It closes
    when the watermark is more than `gap` behind its last value. A value between two sessions makes
    one of them, which keeps the id of the session that begins earlier. The ids of a key count from
    0 in the order in which sessions open.

    Args:
        gap: The longest pause within a session.

    Raises:
        TypeError: `gap` isn't a `timedelta`.
        ValueError: `gap` is negative.

    >>> from datetime import datetime, timedelta, timezone
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> logic = SessionWindower(timedelta(seconds=10)).build(None)
    >>> [list(logic.open_for(start + timedelta(seconds=s))) for s in (0, 10, 21)]
    [[0], [0], [1]]
    """

    gap: timedelta

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_span("`SessionWindower`", "gap", self.gap, zero=True)

    def build(self, resume_state: _Sessions | None) -> WindowerLogic[_Sessions]:
        """Make the windows of a key."""
        return _SessionLogic(span_us(self.gap), resume_state or _Sessions(0, ()))


@dataclass(slots=True)
class _Session:
    open_us: int
    close_us: int
    merged_ids: set[int]


class _SessionLogic(WindowerLogic[_Sessions]):
    """The sessions of one key. More than `gap` lies between any two of them."""

    __slots__ = ("_gap_us", "_merged", "_next_id", "_open")

    def __init__(self, gap_us: int, resume: _Sessions) -> None:
        self._gap_us = gap_us
        self._next_id = resume.next_id
        self._open = {
            number: _Session(open_us, close_us, set(merged))
            for number, open_us, close_us, merged in resume.open
        }
        self._merged: list[tuple[int, int]] = []

    def open_for(self, timestamp: datetime) -> Iterable[int]:
        at_us, gap_us = _us(timestamp), self._gap_us
        touched = [
            (session.open_us, number)
            for number, session in self._open.items()
            if session.open_us - gap_us <= at_us <= session.close_us + gap_us
        ]
        if not touched:
            number = self._next_id
            self._next_id += 1
            self._open[number] = _Session(at_us, at_us, set())
            return (number,)
        # A time is near two sessions at most, or they would be near each other.
        (_, target), *others = sorted(touched)
        session = self._open[target]
        for _, original in others:
            other = self._open.pop(original)
            session.close_us = other.close_us
            session.merged_ids |= {original, *other.merged_ids}
            self._merged.append((original, target))
        session.open_us = min(session.open_us, at_us)
        session.close_us = max(session.close_us, at_us)
        return (target,)

    def late_for(self, timestamp: datetime) -> Iterable[int]:  # noqa: ARG002 - whatever its time
        return (LATE_SESSION_ID,)

    def merged(self) -> Iterable[tuple[int, int]]:
        merged, self._merged = self._merged, []
        return merged

    def close_for(self, watermark: datetime) -> Iterable[tuple[int, WindowMetadata]]:
        reached_us = _us(watermark)
        closed = [n for n, session in self._open.items() if self._due_us(session) <= reached_us]
        return [(number, _session_metadata(self._open.pop(number))) for number in closed]

    def notify_at(self) -> datetime | None:
        due_us = min(map(self._due_us, self._open.values()), default=None)
        return None if due_us is None else utc_datetime(due_us)

    def is_empty(self) -> bool:
        return not self._open

    def snapshot(self) -> _Sessions:
        return _Sessions(
            self._next_id,
            tuple(
                (number, session.open_us, session.close_us, frozenset(session.merged_ids))
                for number, session in self._open.items()
            ),
        )

    def _due_us(self, session: _Session) -> int:
        """The first watermark that is more than the gap behind the last value.

        No watermark goes further than to the latest time.
        """
        return min(session.close_us + self._gap_us + 1, MAX_US)


def _session_metadata(session: _Session) -> WindowMetadata:
    return WindowMetadata(
        utc_datetime(session.open_us), utc_datetime(session.close_us), session.merged_ids
    )


def _check_start(owner: str, align_to: Any) -> None:
    if not isinstance(align_to, datetime):
        msg = f"`align_to` of `{owner}` must be a `datetime`; got {align_to!r}"
        raise TypeError(msg)
    if align_to.utcoffset() is None:
        msg = f"`align_to` of `{owner}` must have a time zone; got {align_to!r}"
        raise ValueError(msg)


def _us(at: datetime) -> int:
    """The microseconds of a time that has been looked at before."""
    return event_us(at, _us, "timestamp")
