"""A source that reads a list, with sentinels that make it end, stop or pause where told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Generic, TypeVar

from engine.clock import utc_now
from engine.connectors import AbortExecution, FixedPartitionedSource, StatefulSourcePartition

X = TypeVar("X")


@dataclass(slots=True)
class _Eof:
    """End the input here; the next run goes on behind it."""


@dataclass(slots=True)
class _Abort:
    """Stop the run here without committing, once per object."""

    fired: bool = False


@dataclass(slots=True)
class _Pause:
    """Give nothing for a while."""

    for_duration: timedelta


class TestingSource(FixedPartitionedSource[X, int], Generic[X]):
    """A source of the items of an iterable, read by one worker. Its state is an index.

    Among the items may stand, as often as wanted:

    - ``TestingSource.EOF()``: the input ends here; a run that resumes goes on behind it;
    - ``TestingSource.ABORT()``: the run stops here at once and commits nothing more; fires once
      per object, so that a run that resumes passes it;
    - ``TestingSource.PAUSE(for_duration)``: nothing comes for that `timedelta`.

    Args:
        ib: Items; iterated over anew by each run.
        batch_size: Items per batch.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, run_main
    >>> flow, out = Dataflow("doc"), []
    >>> s = op.input("in", flow, TestingSource([1, 2, TestingSource.EOF(), 3]))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 2]
    """

    __test__ = False
    EOF = _Eof
    ABORT = _Abort
    PAUSE = _Pause

    def __init__(self, ib: Iterable[X | _Eof | _Abort | _Pause], batch_size: int = 1) -> None:
        self._ib = ib
        self._batch_size = batch_size

    def list_parts(self) -> list[str]:
        """One partition."""
        return ["iterable"]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSourcePartition[X, int]:
        """Begin at the index in `resume_state`, or at the start."""
        del step_id, for_part
        return _Partition(self._ib, self._batch_size, resume_state or 0)


class _Partition(StatefulSourcePartition[X, int]):
    def __init__(self, ib: Iterable[Any], batch_size: int, start: int) -> None:
        self._items: Iterator[Any] = ffwd_iter(iter(ib), start)
        self._batch_size = batch_size
        self._next = start
        self._sentinel: _Eof | _Abort | _Pause | None = None
        self._awake: datetime | None = None
        self._ended = False

    def next_batch(self) -> list[X]:
        self._awake = None
        if self._ended:
            raise StopIteration
        if self._sentinel is not None:
            sentinel, self._sentinel = self._sentinel, None
            self._next += 1
            return self._obey(sentinel)
        batch: list[X] = []
        for item in self._items:
            self._next += 1
            if isinstance(item, _Eof | _Abort | _Pause):
                if not batch:
                    return self._obey(item)
                # Where a run resumes from now, the sentinel is still to come.
                self._next -= 1
                self._sentinel = item
                return batch
            batch.append(item)
            if len(batch) >= self._batch_size:
                return batch
        if not batch:
            self._ended = True
            raise StopIteration
        return batch

    def _obey(self, sentinel: _Eof | _Abort | _Pause) -> list[X]:
        match sentinel:
            case _Eof():
                self._ended = True
                raise StopIteration
            case _Abort():
                if sentinel.fired:
                    return self.next_batch()
                sentinel.fired = True
                msg = "TestingSource.ABORT"
                raise AbortExecution(msg)
            case _Pause(for_duration):
                self._awake = utc_now() + for_duration
                return []

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._next


def ffwd_iter(it: Iterator[X], n: int) -> Iterator[X]:
    """Skip the first `n` items of an iterator, and give it back.

    >>> list(ffwd_iter(iter([1, 2, 3]), 2))
    [3]
    """
    next(islice(it, n, n), None)
    return it
