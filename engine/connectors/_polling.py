"""`SimplePollingSource`: a source made of one function that is asked for an item now and then.

For users who poll an HTTP endpoint, a table or a sensor and want neither partitions nor batches.
The runtime sees an ordinary `FixedPartitionedSource` with one partition.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar, cast

from engine.clock import utc_now
from engine.connectors._source import FixedPartitionedSource, StatefulSourcePartition, X_co

Sn = TypeVar("Sn")
"""Type of the state of a `SimplePollingSource`."""

_ONLY_PART = "singleton"


class SimplePollingSource(FixedPartitionedSource[X_co, Sn], Generic[X_co, Sn]):
    """Calls `next_item` at an interval. One worker does; the others get nothing.

    Only `next_item` must be written. Without `snapshot` and `resume` it keeps no state, and what
    was polled since the last durable epoch is lost in a crash.

    A poll that comes late, because the one before took longer than the interval or the worker was
    busy, is made at once; polls that were missed altogether are not made up for.

    Args:
        interval: Time from one poll to the next. Zero polls as often as possible.
        align_to: Poll at whole intervals from this time, which must have a time zone: with an
            interval of an hour and any full hour here, every full hour. None starts at once.
        now_getter: Clock to use, for tests.

    Raises:
        ValueError: `interval` is negative or `align_to` has no time zone.

    >>> from datetime import timedelta
    >>> class Ticker(SimplePollingSource[int, int]):
    ...     def __init__(self) -> None:
    ...         super().__init__(interval=timedelta(seconds=1))
    ...         self._count = 0
    ...
    ...     def next_item(self) -> int:
    ...         self._count += 1
    ...         return self._count
    ...
    ...     def snapshot(self) -> int:
    ...         return self._count
    ...
    ...     def resume(self, resume_state: int) -> None:
    ...         self._count = resume_state
    >>> source = Ticker()
    >>> [part_key] = source.list_parts()
    >>> source.build_part("flow.in", part_key, 41).next_batch()
    [42]
    """

    class Retry(Exception):  # noqa: N818 (the name is part of the API users know)
        """Raise it in `next_item` when there is no item yet, to be asked again after `timeout`.

        The polls after it are back on the schedule.
        """

        def __init__(self, timeout: timedelta) -> None:
            super().__init__(timeout)
            self.timeout = timeout

    def __init__(
        self,
        interval: timedelta,
        align_to: datetime | None = None,
        *,
        now_getter: Callable[[], datetime] = utc_now,
    ) -> None:
        if interval < timedelta(0):
            msg = f"the polling interval must not be negative; got {interval!r}"
            raise ValueError(msg)
        if align_to is not None and align_to.utcoffset() is None:
            msg = f"align_to needs a time zone, for example tzinfo=timezone.utc; got {align_to!r}"
            raise ValueError(msg)
        self._interval = interval
        self._align_to = align_to
        self._now_getter = now_getter

    def list_parts(self) -> list[str]:
        """Name the only partition."""
        return [_ONLY_PART]

    def build_part(
        self, step_id: str, for_part: str, resume_state: Sn | None
    ) -> StatefulSourcePartition[X_co, Sn]:
        """Begin polling, after `resume` if there is a state."""
        del step_id, for_part  # There is one partition, and it needs no name.
        if resume_state is not None:
            self.resume(resume_state)
        schedule = _Schedule(self._interval, self._align_to, self._now_getter())
        return _SimplePollingPartition(self, schedule, self._now_getter)

    @abstractmethod
    def next_item(self) -> X_co:
        """Poll once. Should not block for long: the whole worker waits.

        None means that there is no item this time.

        Raises:
            SimplePollingSource.Retry: There is no item yet; ask again sooner than the interval.
            StopIteration: There will never be an item again.
            AbortExecution: Stop the run without committing.
        """

    def snapshot(self) -> Sn:
        """Give the state to `resume` from: where the next `next_item` reads. None by default."""
        return cast("Sn", None)

    def resume(self, resume_state: Sn) -> None:
        """Go back to a state that `snapshot` gave. Called before any `next_item`."""
        # Doing nothing is right for a source that keeps no state.


class _Schedule:
    """When polls are due: a grid of instants, one interval apart. All in UTC.

    Adding to a local time would go wrong by an hour where the clocks change.
    """

    def __init__(self, interval: timedelta, align_to: datetime | None, now: datetime) -> None:
        self._interval = interval
        self.due = now.astimezone(UTC)
        if align_to is not None and interval:
            grid = align_to.astimezone(UTC)
            self.due = grid - (grid - self.due) // interval * interval

    def advance(self, now: datetime) -> None:
        """Move on to the first instant after `now`, the time at which a poll began."""
        if not self._interval:
            self.due = now.astimezone(UTC)
        elif now >= self.due:
            self.due += ((now - self.due) // self._interval + 1) * self._interval


class _SimplePollingPartition(StatefulSourcePartition[X_co, Sn]):
    """The only partition of a `SimplePollingSource`: forwards to it, on a schedule."""

    def __init__(
        self,
        source: SimplePollingSource[X_co, Sn],
        schedule: _Schedule,
        now_getter: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._schedule = schedule
        self._now_getter = now_getter
        self._awake_at = schedule.due

    def next_batch(self) -> list[X_co]:
        began = self._now_getter()
        try:
            item = self._source.next_item()
        except SimplePollingSource.Retry as retry:
            self._awake_at = began.astimezone(UTC) + retry.timeout
            return []
        self._schedule.advance(began)
        self._awake_at = self._schedule.due
        return [] if item is None else [item]

    def next_awake(self) -> datetime:
        return self._awake_at

    def snapshot(self) -> Sn:
        return self._source.snapshot()
