"""Real runs with one watermark for the stream: history is replayed as the data says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
import engine.operators.windowing as win
from engine.connectors import AbortExecution, FixedPartitionedSource, StatefulSourcePartition
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, cluster_main
from tests.operators.flows import root_cause
from tests.operators.windowing.runs import at, session, tumbling

SECONDS = 200
KEYS = "abc"
WAIT = timedelta(seconds=3)


@dataclass
class Pages(FixedPartitionedSource[Any, int]):
    """Two partitions with a value a second each, of which one is read ten times as fast."""

    crash_at: int | None = None
    """After so many values of the slow one, once."""
    out: list[Any] = field(default_factory=list)
    out_before_the_end: int = 0

    def list_parts(self) -> list[str]:
        return ["fast", "slow"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Page:
        return _Page(self, for_part, resume_state or 0)


class _Page(StatefulSourcePartition[Any, int]):
    def __init__(self, pages: Pages, part: str, position: int) -> None:
        self.pages, self.part, self.position = pages, part, position

    def next_batch(self) -> list[Any]:
        pages, first = self.pages, self.position
        if first >= SECONDS:
            raise StopIteration
        if self.part == "slow":
            if pages.crash_at is not None and first >= pages.crash_at:
                pages.crash_at = None
                raise AbortExecution
            pages.out_before_the_end = len(pages.out)
        self.position = min(SECONDS, first + (50 if self.part == "fast" else 5))
        return [(KEYS[n % len(KEYS)], (self.part, n)) for n in range(first, self.position)]

    def snapshot(self) -> int:
        return self.position


def time_of(value: Any) -> datetime:
    """Long ago, by the wall clock."""
    return at(value[1])


CLOCK = win.EventClock(time_of, WAIT, scope="stream")


def flow_of(pages: Pages, late: list[Any], windower: Any) -> Dataflow:
    flow = Dataflow("replay")
    s = op.input("in", flow, pages)
    out = win.collect_window("w", s, CLOCK, windower, set)
    op.output("out", out.down, TestingSink(pages.out))
    op.output("late", out.late, TestingSink(late))
    return flow


def run(flow: Dataflow, workers: int, recovery: RecoveryConfig | None = None) -> None:
    cluster_main(
        flow,
        [],
        0,
        worker_count_per_proc=workers,
        recovery_config=recovery,
        epoch_interval=timedelta(0),
    )


def wanted(length: int) -> Counter[Any]:
    values: dict[Any, set[Any]] = {}
    for n in range(SECONDS):
        for part in ("fast", "slow"):
            values.setdefault((KEYS[n % len(KEYS)], n // length), set()).add((part, n))
    return Counter((key, number, frozenset(found)) for (key, number), found in values.items())


def came(out: list[Any]) -> Counter[Any]:
    return Counter((key, number, frozenset(found)) for key, (number, found) in out)


@pytest.mark.parametrize("workers", [1, 2])
def test_history_closes_windows_as_the_data_says(workers: int) -> None:
    """However far one partition is ahead nothing is late; and nothing waits for the end."""
    pages, late = Pages(), list[Any]()
    run(flow_of(pages, late, tumbling(20)), workers)
    assert late == []
    assert came(pages.out) == wanted(20)
    assert pages.out_before_the_end >= len(KEYS) * (SECONDS // 20 - 3)


@pytest.mark.parametrize("scale", [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("crash_at", [30, 105])
def test_a_replay_goes_on_after_a_crash(
    scale: tuple[int, int], crash_at: int, tmp_path: Path
) -> None:
    """On as many workers or others; no window is lost, and none made twice or in parts."""
    recovery = RecoveryConfig(tmp_path / "store", create=True)
    pages, late = Pages(crash_at), list[Any]()
    for workers in scale:
        run(flow_of(pages, late, tumbling(20)), workers, recovery)
    assert late == []
    found = came(pages.out)
    # What the last epoch wrote before the crash comes again.
    assert set(found) == set(wanted(20))
    assert max(found.values()) <= 2


def test_sessions_and_joins_have_it_too() -> None:
    """A join has a clock for each of its sides."""
    flow, out = Dataflow("flow"), list[Any]()
    s = op.input("in", flow, Pages())
    fast = op.filter("fast", s, lambda record: record[1][0] == "fast")
    slow = op.filter("slow", s, lambda record: record[1][0] == "slow")
    joined = win.join_window("j", CLOCK, tumbling(3), fast, slow)
    op.output("out", joined.down, TestingSink(out))
    sessions = win.count_window("s", s, of_records(), session(5), lambda record: record[0])
    op.output("counts", sessions.down, TestingSink(counts := list[Any]()))
    run(flow, 2)
    assert sorted(number for _, (number, _) in out) == sorted([n // 3 for n in range(SECONDS)])
    assert all(row == (("fast", row[0][1]), ("slow", row[0][1])) for _, (_, row) in out)
    assert sum(count for _, (_, count) in counts) == 2 * SECONDS


def of_records() -> Any:
    """The clock for records that are pairs."""
    return win.EventClock(lambda record: time_of(record[1]), WAIT, scope="stream")


@pytest.mark.parametrize("workers", [1, 2])
def test_times_need_a_time_zone(workers: int) -> None:
    """The error is the same wherever the clock stands."""
    naive = win.EventClock(lambda _: datetime(2024, 1, 1), WAIT, scope="stream")  # noqa: DTZ001 - what is refused
    flow = Dataflow("flow")
    out = win.collect_window("w", op.input("in", flow, Pages()), naive, tumbling(3))
    op.output("out", out.down, TestingSink([]))
    with pytest.raises(EngineRuntimeError) as caught:
        run(flow, workers)
    assert "`ts_getter` must return a `datetime` with a time zone" in str(root_cause(caught.value))


def test_a_clock_of_keys_makes_them_late_instead() -> None:
    """What this is for: with a watermark per key the slow partition comes too late."""
    flow, late = Dataflow("flow"), list[Any]()
    clock = win.EventClock(time_of, WAIT)
    out = win.collect_window("w", op.input("in", flow, Pages()), clock, tumbling(20))
    op.output("late", out.late, TestingSink(late))
    run(flow, 1)
    assert late
