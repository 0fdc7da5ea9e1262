"""Sources and sinks for the measurements: batches made in advance go in, records are counted out.

Plain classes with the methods of a source's and a sink's partition; `contenders.Engine` puts them
under an engine's own classes, and the bare loops call them as they are. They do as little as
possible, since what they cost is charged to every contender alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

Batch = list[Any]


class BatchPart:
    """Hands out the batches of an iterable, one for each call, until there are none."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)

    def next_batch(self) -> Batch:
        # The iterator's own StopIteration is the end of the partition.
        return next(self._batches)


class Count:
    """Counts what comes out: the sink of a timed run."""

    def __init__(self) -> None:
        self.records = 0

    def write_batch(self, items: Batch) -> None:
        self.records += len(items)


class Digest(Count):
    """Counts and sums the hashes of what comes out: the sink of a run that is checked, not timed.

    The sum does not depend on the order of the records, which engines are free to choose between
    keys. Hashes of strings are equal between processes only with the same `PYTHONHASHSEED`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0

    def write_batch(self, items: Batch) -> None:
        super().write_batch(items)
        self._sum += sum(map(hash, items))

    @property
    def digest(self) -> int:
        return self._sum % 2**64


class Stopwatch:
    """Takes the time from the first batch asked for to the end of the run."""

    def __init__(self) -> None:
        self._started_at: float | None = None

    def start(self) -> None:
        """Start, unless started before: a workload with two sources starts at the first one."""
        if self._started_at is None:
            self._started_at = time.perf_counter()

    def elapsed_s(self) -> float:
        if self._started_at is None:
            msg = "no batch was asked for, so nothing was measured"
            raise RuntimeError(msg)
        return time.perf_counter() - self._started_at

    def starting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on, having started the watch when the first one is asked for."""
        self.start()
        yield from batches


def split(records: Batch, size: int) -> list[Batch]:
    """Cut a list into batches of a size; the last may be shorter."""
    return [records[at : at + size] for at in range(0, len(records), size)]
