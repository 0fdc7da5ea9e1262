"""`RandomMetricSource`: made-up measurements, for trying out a dataflow without any data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from engine.clock import utc_now
from engine.connectors._source import FixedPartitionedSource, StatefulSourcePartition

__all__ = ["RandomMetricSource"]


def _random_digit() -> float:
    import random  # noqa: PLC0415 (only flows that use the default pay for it)

    return random.randint(0, 10)  # noqa: S311 (made-up data, not a secret)


class RandomMetricSource(FixedPartitionedSource[tuple[str, float], tuple[datetime, int]]):
    """Gives `(metric_name, value)` at an interval.

    One partition, named like the metric; its state is when the next value is due and how many were
    given. A run that resumes goes on counting, with new random values.

    Args:
        metric_name: The key of all records.
        interval: Time from one value to the next. Values that come late while the worker is busy
            are made up for at once; those of an outage are not.
        count: How many values to give before the end. By default there is no end in sight.
        next_random: Gives the values. By default whole numbers from 0 to 10.
        now_getter: Clock to use, for tests.

    Raises:
        ValueError: `interval` is negative.

    >>> from datetime import timedelta
    >>> source = RandomMetricSource("°C", interval=timedelta(0), next_random=lambda: 21.5)
    >>> part = source.build_part("flow.in", "°C", None)
    >>> part.next_batch()
    [('°C', 21.5)]
    """

    def __init__(
        self,
        metric_name: str,
        interval: timedelta = timedelta(seconds=0.7),
        count: int = sys.maxsize,
        next_random: Callable[[], float] = _random_digit,
        *,
        now_getter: Callable[[], datetime] = utc_now,
    ) -> None:
        if interval < timedelta(0):
            msg = f"the interval must not be negative; got {interval!r}"
            raise ValueError(msg)
        self._metric_name = metric_name
        self._interval = interval
        self._count = count
        self._next_random = next_random
        self._now_getter = now_getter

    def list_parts(self) -> list[str]:
        """Name the only partition."""
        return [self._metric_name]

    def build_part(
        self, step_id: str, for_part: str, resume_state: tuple[datetime, int] | None
    ) -> StatefulSourcePartition[tuple[str, float], tuple[datetime, int]]:
        """Begin at once, or when the next value is due after a restart."""
        del step_id
        now = self._now_getter().astimezone(UTC)
        awake_at, given = resume_state or (now, 0)
        # An outage isn't made up for: nobody wants an hour of made-up values in one go.
        start = (max(awake_at, now), given)
        return _RandomMetricPartition(
            for_part, self._interval, self._count, self._next_random, start
        )


class _RandomMetricPartition(StatefulSourcePartition[tuple[str, float], tuple[datetime, int]]):
    """One value at a time, due one interval after the one before."""

    def __init__(
        self,
        metric_name: str,
        interval: timedelta,
        count: int,
        next_random: Callable[[], float],
        start: tuple[datetime, int],
    ) -> None:
        self._metric_name = metric_name
        self._interval = interval
        self._count = count
        self._next_random = next_random
        self._awake_at, self._given = start

    def next_batch(self) -> list[tuple[str, float]]:
        if self._given >= self._count:
            raise StopIteration
        self._awake_at += self._interval
        self._given += 1
        return [(self._metric_name, self._next_random())]

    def next_awake(self) -> datetime:
        return self._awake_at

    def snapshot(self) -> tuple[datetime, int]:
        return (self._awake_at, self._given)
