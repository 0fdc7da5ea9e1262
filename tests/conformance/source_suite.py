"""What every source must do, whatever it reads: one suite, run on each.

To put a source under it, add a `SourceCase` to the list in `test_sources.py`, or subclass
`SourceSuite` in a module of its own, parametrised with cases. The suite drives partitions as the
runtime does, without a runtime.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from engine.connectors import (
    DynamicSource,
    FixedPartitionedSource,
    Lag,
    Source,
    SourcePartition,
    StatefulSourcePartition,
)
from tests.conformance.world import World, nothing_blocks

_MOST_CALLS = 10_000

Part: TypeAlias = SourcePartition[Any, Any]


@dataclass(frozen=True)
class SourceCase:
    """One source to test.

    Attributes:
        name: Id of the case.
        build: Makes the source; called again for each "run", in the same world.
        records: What it gives: a list for each partition, in the order of their sorted names.
    """

    name: str
    build: Callable[[World], Source[Any]]
    records: list[list[Any]]

    def __str__(self) -> str:
        return self.name


class Opened:
    """The partitions of a case in one run, in the order of their names."""

    def __init__(self, case: SourceCase, world: World) -> None:
        self._source = case.build(world)
        self._clock = world.clock
        self._built: list[Part] = []

    @property
    def is_stateful(self) -> bool:
        """Whether the source can be resumed."""
        return isinstance(self._source, FixedPartitionedSource)

    def names(self) -> list[str]:
        """The partitions there are; a stateless source has one per worker."""
        if isinstance(self._source, FixedPartitionedSource):
            return sorted(self._source.list_parts())
        return ["worker 0"]

    def part(self, name: str, state: Any = None) -> Part:
        """Open a partition."""
        part: Part
        if isinstance(self._source, FixedPartitionedSource):
            part = self._source.build_part("flow.in", name, state)
        else:
            assert isinstance(self._source, DynamicSource)
            part = self._source.build("flow.in", 0, 1)
        self._built.append(part)
        return part

    def new_part(self, name: str) -> StatefulSourcePartition[Any, Any]:
        """Open a partition as one that was found while the flow was running."""
        assert isinstance(self._source, FixedPartitionedSource)
        part = self._source.build_new_part("flow.in", name)
        self._built.append(part)
        return part

    def parts(self) -> list[Part]:
        """Open all partitions."""
        return [self.part(name) for name in self.names()]

    def batch(self, part: Part) -> list[Any] | None:
        """Wait until the partition wants to be asked, and ask it; None at its end."""
        awake_at = part.next_awake()
        if awake_at is not None:
            assert isinstance(awake_at, datetime)
            assert awake_at.utcoffset() is not None, "next_awake needs a time zone"
            self._clock.wait_until(awake_at)
        try:
            return list(part.next_batch())
        except StopIteration:
            return None

    def batches(self, part: Part) -> Iterator[list[Any]]:
        """Read to the end."""
        for _ in range(_MOST_CALLS):
            batch = self.batch(part)
            if batch is None:
                return
            yield batch
        pytest.fail(f"no end after {_MOST_CALLS} batches")

    def records(self, part: Part) -> list[Any]:
        """All records up to the end."""
        return [record for batch in self.batches(part) for record in batch]

    def close(self) -> None:
        """Close all that was opened, a crash's leftovers too."""
        for part in self._built:
            part.close()


class SourceSuite:
    """The tests. Subclasses are parametrised with `case`."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        """An outside in which nothing may block."""
        with nothing_blocks():
            yield World(tmp_path)

    @pytest.fixture
    def opened(self, case: SourceCase, world: World) -> Iterator[Opened]:
        """The case's source, whose partitions are closed after the test."""
        opened = Opened(case, world)
        yield opened
        opened.close()

    def test_gives_all_records_in_order(self, case: SourceCase, opened: Opened) -> None:
        """Each partition gives its records, all of them, once and in order."""
        assert [opened.records(part) for part in opened.parts()] == case.records

    def test_names_of_partitions_are_unique_and_stay(self, opened: Opened) -> None:
        """Asked again, a source names the same partitions, each once."""
        names = opened.names()
        assert len(set(names)) == len(names)
        assert all(type(name) is str for name in names)
        assert opened.names() == names

    def test_end_is_for_ever(self, opened: Opened) -> None:
        """After `StopIteration` there is nothing but `StopIteration`."""
        for part in opened.parts():
            opened.records(part)
            assert [opened.batch(part) for _ in range(3)] == [None] * 3

    def test_is_caught_up_at_the_end(self, opened: Opened) -> None:
        """`caught_up` is a real bool throughout, and true when there is nothing more."""
        for part in opened.parts():
            assert isinstance(part.caught_up(), bool)
            for _ in opened.batches(part):
                assert isinstance(part.caught_up(), bool)
            assert part.caught_up() is True

    def test_lag_is_none_at_the_end(self, opened: Opened) -> None:
        """A partition that says how far behind it is says that it isn't when all is read."""
        for part in opened.parts():
            _check_lag(part.lag())
            for _ in opened.batches(part):
                _check_lag(part.lag())
            lag = part.lag()
            if lag is not None:
                assert lag.records in (0, None)
                assert lag.seconds in (0.0, None)

    def test_close_may_be_repeated(self, opened: Opened) -> None:
        """Closing twice is fine: unread, half read and at the end."""
        for unread in opened.parts():
            unread.close()
            unread.close()
        for half_read in opened.parts():
            opened.batch(half_read)
            half_read.close()
            half_read.close()
        for read in opened.parts():
            opened.records(read)
            read.close()
            read.close()

    def test_resumes_from_every_snapshot(self, opened: Opened) -> None:
        """From each snapshot, the first before any read, exactly the remaining records come."""
        for name, part in _stateful_parts(opened):
            states, counts, read = [part.snapshot()], [0], []
            for batch in opened.batches(part):
                read += batch
                states.append(part.snapshot())
                counts.append(len(read))
            states.append(part.snapshot())
            counts.append(len(read))
            for state, count in zip(states, counts, strict=True):
                assert opened.records(opened.part(name, state)) == read[count:]

    def test_resumes_after_every_batch(self, case: SourceCase, opened: Opened) -> None:
        """Crashing after each batch and resuming from the last state loses and doubles nothing."""
        for (name, part), records in zip(_stateful_parts(opened), case.records, strict=False):
            read: list[Any] = []
            current: Part = part
            while (batch := opened.batch(current)) is not None:
                read += batch
                assert isinstance(current, StatefulSourcePartition)
                current = opened.part(name, current.snapshot())
            assert read == records

    def test_a_new_partition_is_read_from_its_start(self, case: SourceCase, opened: Opened) -> None:
        """One that came after the source was first read gives all it has."""
        if opened.is_stateful:
            names = opened.names()
            assert [opened.records(opened.new_part(name)) for name in names] == case.records

    def test_snapshots_stay_as_they_were(self, opened: Opened) -> None:
        """A snapshot taken twice is equal, and reading on doesn't change it."""
        for _, part in _stateful_parts(opened):
            taken = [(part.snapshot(), copy.deepcopy(part.snapshot()))]
            taken.extend(
                (part.snapshot(), copy.deepcopy(part.snapshot())) for _ in opened.batches(part)
            )
            for snapshot, at_that_time in taken:
                assert snapshot == at_that_time

    def test_commits_may_be_repeated(self, case: SourceCase, opened: Opened) -> None:
        """`on_commit`, once or more for each epoch and again after a restart, disturbs nothing."""
        for name, records in zip(opened.names(), case.records, strict=True):
            read: list[Any] = []
            part, state = opened.part(name), None
            for batch in opened.batches(part):
                read += batch
                if isinstance(part, StatefulSourcePartition):
                    state = part.snapshot()
                part.on_commit(state)
                part.on_commit(state)
            part.on_commit(state)
            assert read == records
            if opened.is_stateful:
                again = opened.part(name, state)
                again.on_commit(state)
                assert opened.records(again) == []


def _check_lag(lag: Any) -> None:
    assert lag is None or isinstance(lag, Lag)
    if lag is not None:
        assert lag.records is None or (type(lag.records) is int and lag.records >= 0)
        assert lag.seconds is None or 0.0 <= lag.seconds < math.inf


def _stateful_parts(
    opened: Opened,
) -> Iterator[tuple[str, StatefulSourcePartition[Any, Any]]]:
    for name in opened.names() if opened.is_stateful else []:
        part = opened.part(name)
        assert isinstance(part, StatefulSourcePartition)
        yield name, part
