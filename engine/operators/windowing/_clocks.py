"""Clocks: what time a value has, and how far time has got for a key: the watermark.

A `Clock` is what users hand to an operator; it builds a `ClockLogic` for every key, which the step
of `window` asks about each value. `SystemClock` and `EventClock` are the two that come with the
engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, get_args

from engine.clock import utc_now
from engine.operators._checks import require_callable
from engine.operators._event_time import MAX_US, MIN_US, UTC_MAX, event_us, span_us, utc_datetime
from engine.operators._types import S

V_contra = TypeVar("V_contra", contravariant=True)

EventClockScope: TypeAlias = Literal["key", "stream"]
"""What has a watermark of its own: every key, or the whole stream."""

_NEVER_US: Final = -(1 << 62)
"""A watermark before all times, so far that no wall time brings it up to them."""


class ClockLogic(ABC, Generic[V_contra, S]):
    """The clock of one key. Make a subclass, and a `Clock` that builds it.

    A watermark says that no value of an earlier time is waited for. It never goes back: of what
    these methods return the latest counts. All times must carry their time zone.
    """

    __slots__ = ()

    def after_outage(self) -> None:
        """Called after `Clock.build` with a snapshot of an earlier run: the job was down since.

        A key that left memory and comes back is built from a snapshot, too, without this call.
        """
        return

    def before_batch(self) -> None:
        """Called before the values of a batch: the place to look at the wall clock, once."""
        return

    @abstractmethod
    def on_item(self, value: V_contra) -> tuple[datetime, datetime]:
        """Called with each value in arrival order; gives its time, and the watermark with it.

        A value whose time is before the watermark is late.
        """

    @abstractmethod
    def on_notify(self) -> datetime:
        """Called when a time has come that `to_system_utc` gave; gives the watermark."""

    @abstractmethod
    def on_eof(self) -> datetime:
        """Called at the end of input; gives the watermark for it, `UTC_MAX` to close all windows.

        That watermark counts for this once only: a later run goes on from the one before.
        """

    @abstractmethod
    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        """When the watermark will have reached a time, by the wall clock, if no value comes.

        None: only another value, or the end of input, can bring it there.
        """

    @abstractmethod
    def snapshot(self) -> S:
        """The state from which `Clock.build` can make an equal object; it must not change later."""


class Clock(ABC, Generic[V_contra, S]):
    """What values' times are, and when it is too late for them. Base of users' own clocks.

    >>> from datetime import datetime, timezone
    >>> class Newest(ClockLogic):
    ...     '''The latest time that has come is the time that has been reached.'''
    ...     def __init__(self, resume):
    ...         self.newest = resume or UTC_MIN
    ...     def on_item(self, value):
    ...         at = datetime.fromtimestamp(value, timezone.utc)
    ...         self.newest = max(self.newest, at)
    ...         return at, self.newest
    ...     def on_notify(self):
    ...         return self.newest
    ...     def on_eof(self):
    ...         return UTC_MAX
    ...     def to_system_utc(self, timestamp):
    ...         return None
    ...     def snapshot(self):
    ...         return self.newest
    >>> class NewestClock(Clock):
    ...     def build(self, resume_state):
    ...         return Newest(resume_state)
    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.operators.windowing import UTC_MAX, UTC_MIN, TumblingWindower, collect_window
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("own_clock"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 5), ("a", 61)]))
    >>> minutes = TumblingWindower(timedelta(minutes=1), UTC_MIN)
    >>> wo = collect_window("lists", s, NewestClock(), minutes)
    >>> op.output("out", op.map_value("values", wo.down, lambda x: x[1]), TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', [1, 5]), ('a', [61])]
    """

    @abstractmethod
    def build(self, resume_state: S | None) -> ClockLogic[V_contra, S]:
        """Make the clock of a key: a new one for None, or one that goes on from a snapshot."""


@dataclass(frozen=True)
class SystemClock(Clock[object, int]):
    """A value's time is the wall clock's when its batch comes, and so is the watermark.

    So no value comes too late, unless its window was closed by an end of input: that window stays
    closed in a run that goes on. Where the wall clock is set back, time stands still.
    """

    def build(self, resume_state: int | None) -> ClockLogic[object, int]:
        """Make the clock of a key."""
        return _SystemClockLogic(MIN_US if resume_state is None else resume_state)


class _SystemClockLogic(ClockLogic[object, int]):
    __slots__ = ("_now_us",)

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us

    def before_batch(self) -> None:
        self._now_us = max(self._now_us, event_us(utc_now(), utc_now, "utc_now"))

    def on_item(self, value: object) -> tuple[datetime, datetime]:  # noqa: ARG002 - only when it came
        now = utc_datetime(self._now_us)
        return now, now

    def on_notify(self) -> datetime:
        self.before_batch()
        return utc_datetime(self._now_us)

    def on_eof(self) -> datetime:
        return UTC_MAX

    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        return timestamp

    def snapshot(self) -> int:
        return self._now_us


def as_it_is(at: datetime) -> datetime | None:
    """What `to_system_utc` is by default: the clock goes by the system's."""
    return at


@dataclass(frozen=True)
class EventClock(Clock[V_contra, tuple[int, int]]):
    """A value's time is in the value; the watermark follows the times that were seen.

    The watermark of a key is the latest of its values' times, less `wait_for_system_duration`, plus
    the time that has passed since that value came. So a window closes when it was waited for long
    enough, also if no further value comes; and it goes on from where it was saved after the job
    was down: an outage makes nothing late.

    Args:
        ts_getter: Called once with each value; gives the time at which it happened.
        wait_for_system_duration: How far the watermark stays behind the times that were seen: how
            long to wait for values that come out of order.
        now_getter: Gives the present time by which the watermark moves on between values; the
            system's by default.
        to_system_utc: Called with a time by `now_getter` at which a window will be due; gives that
            time by the system's clock, in UTC, or None if there is none: then windows close only
            when a value comes, or at the end of input. The same time by default.
        scope: What has a watermark of its own: "key", every key, or "stream", all keys together: of
            each source partition the latest time less the wait, and of these the earliest. The wall
            clock doesn't move that one, so `now_getter` and `to_system_utc` aren't asked.
        idle_after: With the scope "stream", after what silence a partition of a source isn't waited
            for.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: A duration is negative, or the scope unknown.

    >>> from datetime import datetime, timedelta
    >>> clock = EventClock(datetime.fromisoformat, timedelta(seconds=10)).build(None)
    >>> clock.on_item("2024-01-01T10:00:00+00:00")[1].isoformat()
    '2024-01-01T09:59:50+00:00'
    """

    ts_getter: Callable[[V_contra], datetime]
    wait_for_system_duration: timedelta
    now_getter: Callable[[], datetime] = utc_now
    to_system_utc: Callable[[datetime], datetime | None] = as_it_is
    _: KW_ONLY
    scope: EventClockScope = "key"
    idle_after: timedelta = timedelta(seconds=10)

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("ts_getter", "now_getter", "to_system_utc"):
            require_callable("`EventClock`", name, getattr(self, name))
        for name in ("wait_for_system_duration", "idle_after"):
            check_span("`EventClock`", name, getattr(self, name), zero=True)
        if self.scope not in get_args(EventClockScope):
            msg = f"`scope` of `EventClock` must be 'key' or 'stream'; got {self.scope!r}"
            raise ValueError(msg)

    def build(self, resume_state: tuple[int, int] | None) -> ClockLogic[V_contra, tuple[int, int]]:
        """Make the clock of a key."""
        return _EventClockLogic(self, resume_state)


class _EventClockLogic(ClockLogic[V_contra, tuple[int, int]]):
    """The watermark of one key: where it was at a time by the wall clock, and goes on from."""

    __slots__ = ("_base_us", "_clock", "_now_us", "_since_us", "_ts_getter", "_wait_us")

    def __init__(self, clock: EventClock[V_contra], resume: tuple[int, int] | None) -> None:
        self._clock = clock
        self._ts_getter = clock.ts_getter
        self._wait_us = span_us(clock.wait_for_system_duration)
        self._now_us = self._read_us()
        self._base_us, self._since_us = resume or (_NEVER_US, self._now_us)
        self._now_us = max(self._now_us, self._since_us)

    def after_outage(self) -> None:
        self._now_us = self._since_us = self._read_us()

    def before_batch(self) -> None:
        # A clock that is set back stands still here until it has caught up.
        self._now_us = max(self._now_us, self._read_us())

    def on_item(self, value: V_contra) -> tuple[datetime, datetime]:
        at_us = event_us(self._ts_getter(value), self._ts_getter, "ts_getter")
        at_us = min(max(at_us, MIN_US), MAX_US)
        behind_us = max(at_us - self._wait_us, _NEVER_US)
        self._base_us = max(self._reached_us(), behind_us)
        self._since_us = self._now_us
        return utc_datetime(at_us), utc_datetime(self._base_us)

    def on_notify(self) -> datetime:
        self.before_batch()
        self._base_us = self._reached_us()
        self._since_us = self._now_us
        return utc_datetime(self._base_us)

    def on_eof(self) -> datetime:
        return UTC_MAX

    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        getter = self._clock.to_system_utc
        target_us = event_us(timestamp, getter, "to_system_utc")
        due_us = self._since_us + target_us - self._base_us
        if due_us >= MAX_US:
            return None
        due: Any = getter(utc_datetime(due_us))
        if due is not None:
            event_us(due, getter, "to_system_utc")
        return cast("datetime | None", due)

    def snapshot(self) -> tuple[int, int]:
        return self._base_us, self._since_us

    def _reached_us(self) -> int:
        return self._base_us + self._now_us - self._since_us

    def _read_us(self) -> int:
        getter = self._clock.now_getter
        return event_us(getter(), getter, "now_getter")


def check_span(owner: str, name: str, span: Any, *, zero: bool = False) -> None:
    """Refuse what is no length of time, or too short a one.

    Raises:
        TypeError: It isn't a `timedelta`.
        ValueError: It is negative, or zero where that isn't allowed.
    """
    if not isinstance(span, timedelta):
        msg = f"`{name}` of {owner} must be a `timedelta`; got {span!r}"
        raise TypeError(msg)
    if span < timedelta(0) or (span == timedelta(0) and not zero):
        msg = f"`{name}` of {owner} must be {'0 or more' if zero else 'more than 0'}; got {span!r}"
        raise ValueError(msg)
