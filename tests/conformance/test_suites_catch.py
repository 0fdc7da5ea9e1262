"""The suites themselves under test: connectors with typical mistakes must fail them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.connectors import (
    FencedError,
    FixedPartitionedSource,
    Lag,
    Pending,
    SinkSession,
    StatefulSourcePartition,
)
from tests.conformance.reference_sinks import LedgerPart, LedgerSink
from tests.conformance.sink_suite import SinkCase, SinkSuite
from tests.conformance.source_suite import Opened, SourceCase, SourceSuite
from tests.conformance.world import World


class _Numbers(StatefulSourcePartition[int, Any]):
    """Gives 0 to 4 in pairs, rightly."""

    def __init__(self, start: int) -> None:
        self.next = start

    def next_batch(self) -> list[int]:
        if self.next >= 5:
            raise StopIteration
        pair = [number for number in (self.next, self.next + 1) if number < 5]
        self.next += 2
        return pair

    def snapshot(self) -> Any:
        return min(self.next, 5)


class _SnapshotIsBehind(_Numbers):
    def snapshot(self) -> Any:
        return max(0, self.next - 2)


class _StartsOverAtItsEnd(_Numbers):
    def next_batch(self) -> list[int]:
        try:
            return super().next_batch()
        except StopIteration:
            self.next = 0
            raise


class _CommitDropsRecords(_Numbers):
    def on_commit(self, state: Any) -> None:
        self.next += 1


class _NeverCaughtUp(_Numbers):
    def caught_up(self) -> bool:
        return False


class _LagsAtItsEnd(_Numbers):
    def lag(self) -> Lag:
        return Lag(6 - min(self.next, 5), None)


class _IsAheadOfItsEnd(_Numbers):
    def lag(self) -> Lag:
        return Lag(4 - self.next, 0.0)


class _ClosesOnce(_Numbers):
    def __init__(self, start: int) -> None:
        super().__init__(start)
        self._handles = ["the only one"]

    def close(self) -> None:
        self._handles.pop()


class _NumbersSource(FixedPartitionedSource[int, Any]):
    def __init__(self, part_class: type[_Numbers]) -> None:
        self._part_class = part_class

    def list_parts(self) -> list[str]:
        return ["only"]

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _Numbers:
        del step_id, for_part
        return self._part_class(resume_state or 0)


class _NewOnesFromTheEnd(_NumbersSource):
    def build_new_part(self, step_id: str, for_part: str) -> _Numbers:
        return self.build_part(step_id, for_part, 5)


def _source_case(part_class: type[_Numbers]) -> SourceCase:
    return SourceCase(
        part_class.__name__, lambda world: _NumbersSource(part_class), [[0, 1, 2, 3, 4]]
    )


def test_a_right_source_passes(tmp_path: Path) -> None:
    """The source that the mistakes are made in has none itself."""
    case = _source_case(_Numbers)
    SourceSuite().test_resumes_from_every_snapshot(Opened(case, World(tmp_path)))
    SourceSuite().test_commits_may_be_repeated(case, Opened(case, World(tmp_path)))


@pytest.mark.parametrize(
    ("part_class", "test"),
    [
        (_SnapshotIsBehind, SourceSuite.test_resumes_from_every_snapshot),
        (_StartsOverAtItsEnd, SourceSuite.test_end_is_for_ever),
        (_NeverCaughtUp, SourceSuite.test_is_caught_up_at_the_end),
        (_LagsAtItsEnd, SourceSuite.test_lag_is_none_at_the_end),
        (_IsAheadOfItsEnd, SourceSuite.test_lag_is_none_at_the_end),
        (_ClosesOnce, SourceSuite.test_close_may_be_repeated),
    ],
)
def test_wrong_sources_fail(
    part_class: type[_Numbers], test: Callable[[SourceSuite, Opened], None], tmp_path: Path
) -> None:
    """Each mistake is caught by the test that is there for it."""
    opened = Opened(_source_case(part_class), World(tmp_path))
    with pytest.raises((AssertionError, IndexError)):
        test(SourceSuite(), opened)


def test_a_source_that_skips_what_new_partitions_hold_fails(tmp_path: Path) -> None:
    """It begins at their end, as it may at the end of the first ones."""
    case = SourceCase("new", lambda world: _NewOnesFromTheEnd(_Numbers), [[0, 1, 2, 3, 4]])
    with pytest.raises(AssertionError):
        SourceSuite().test_a_new_partition_is_read_from_its_start(
            case, Opened(case, World(tmp_path))
        )


def test_a_commit_that_drops_records_fails(tmp_path: Path) -> None:
    """A source that moves on when it hears of a commit is caught."""
    case = _source_case(_CommitDropsRecords)
    with pytest.raises(AssertionError):
        SourceSuite().test_commits_may_be_repeated(case, Opened(case, World(tmp_path)))


class _NoMarker(LedgerPart):
    """Publishes again what it can't know is out."""

    def published(self) -> int | None:
        return 0


class _MarkerFirst(LedgerPart):
    """Moves the marker when it is asked, and writes the rows when it is asked again."""

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        self._marker[1] = str(epoch)
        return super().publish(epoch, rows)


class _NoFence(LedgerPart):
    """Publishes whoever else has begun."""

    def _refuse_if_fenced(self) -> None:
        pass


class _FencesItself(LedgerPart):
    """Takes its own generation, begun once more, for a newer one."""

    def begin(self, session: SinkSession) -> None:
        super().begin(session)
        self._marker[0] = str(session.generation + 1)


class _OneMarkerForAll(LedgerPart):
    """Forgets whose marker it is."""

    def begin(self, session: SinkSession) -> None:
        super().begin(SinkSession("", session.generation, "", ""))


class _WritesWhilePreparing(LedgerPart):
    """Shows records before they are durable."""

    def write_batch(self, items: list[str]) -> None:
        super().write_batch(items)
        self._target += items


class _LosesWhatIsPending(LedgerPart):
    """Forgets its records when it is asked for the first time."""

    def prepare(self, epoch: int) -> list[bytes] | Pending:
        rows = super().prepare(epoch)
        self._unpublished.clear()
        return rows


def _sink_case(part_class: type[LedgerPart]) -> SinkCase:
    def build(world: World) -> LedgerSink:
        sink = LedgerSink(world)
        sink.part_class = part_class
        return sink

    return SinkCase(
        part_class.__name__,
        build,
        lambda world: {"ledger": world.memory.get("ledger", [])},
        [[["a"], ["b"]], [["c"]]],
        [{"ledger": ["a", "b"]}, {"ledger": ["a", "b", "c"]}],
    )


@pytest.mark.parametrize(
    ("part_class", "test"),
    [
        (_NoMarker, SinkSuite.test_survives_a_crash_before_any_call),
        (_MarkerFirst, SinkSuite.test_published_epochs_are_durable),
        (_NoFence, SinkSuite.test_a_newer_run_fences_an_older_one),
        (_FencesItself, SinkSuite.test_a_generation_may_begin_again),
        (_OneMarkerForAll, SinkSuite.test_markers_are_of_one_shard_of_one_step_of_one_job),
        (_WritesWhilePreparing, SinkSuite.test_published_epochs_are_durable),
        (_LosesWhatIsPending, SinkSuite.test_writes_everything_in_order),
    ],
)
def test_wrong_sinks_fail(
    part_class: type[LedgerPart],
    test: Callable[[SinkSuite, SinkCase, Callable[[], World]], None],
    tmp_path: Path,
) -> None:
    """Each mistake is caught by the test that is there for it."""
    with pytest.raises((AssertionError, FencedError, pytest.fail.Exception)):
        test(SinkSuite(), _sink_case(part_class), lambda: World(tmp_path))


def test_a_right_sink_passes(tmp_path: Path) -> None:
    """The sink that the mistakes are made in has none itself."""
    case = _sink_case(LedgerPart)
    SinkSuite().test_survives_a_crash_before_any_call(case, lambda: World(tmp_path))
    SinkSuite().test_published_epochs_are_durable(case, lambda: World(tmp_path))
    SinkSuite().test_a_newer_run_fences_an_older_one(case, lambda: World(tmp_path))
    SinkSuite().test_a_generation_may_begin_again(case, lambda: World(tmp_path))
    SinkSuite().test_markers_are_of_one_shard_of_one_step_of_one_job(case, lambda: World(tmp_path))
