"""The small tools of the test kit: a list as a sink, a clock to set, a patient poll."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from engine.connectors import DynamicSink, StatelessSinkPartition

X = TypeVar("X")


class TestingSink(DynamicSink[X], Generic[X]):
    """A sink that appends every record to a list, which is not cleared between runs.

    Args:
        ls: The list.
    """

    __test__ = False

    def __init__(self, ls: list[X]) -> None:
        self._ls = ls

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[X]:
        """A partition that extends the list."""
        del step_id, worker_index, worker_count
        return _ListPartition(self._ls)


class _ListPartition(StatelessSinkPartition[X]):
    def __init__(self, ls: list[X]) -> None:
        self._ls = ls

    def write_batch(self, items: list[X]) -> None:
        self._ls.extend(items)


class TimeTestingGetter:
    """A clock for tests, which moves only when told to.

    >>> from datetime import timezone
    >>> clock = TimeTestingGetter(datetime(2024, 1, 1, tzinfo=timezone.utc))
    >>> clock.advance(timedelta(minutes=1))
    >>> clock.get().minute
    1
    """

    def __init__(self, now: datetime) -> None:
        self.now = now

    def advance(self, td: timedelta) -> None:
        """Move the clock on."""
        self.now += td

    def get(self) -> datetime:
        """The time it shows."""
        return self.now


def poll_next_batch(part: Any, timeout: timedelta = timedelta(seconds=5)) -> list[Any]:
    """Poll a source partition until it gives records, as the runtime would.

    Args:
        part: An open source partition.
        timeout: How long to go on polling.

    Raises:
        TimeoutError: Nothing came in time.
        StopIteration: The partition has ended.

    >>> from engine.testing import TestingSource
    >>> part = TestingSource([1]).build_part("flow.in", "iterable", None)
    >>> poll_next_batch(part)
    [1]
    """
    give_up_s = time.monotonic() + timeout.total_seconds()
    while True:
        batch = list(part.next_batch())
        if batch:
            return batch
        if time.monotonic() > give_up_s:
            msg = f"the partition gave no records within {timeout}"
            raise TimeoutError(msg)
        time.sleep(0.001)
