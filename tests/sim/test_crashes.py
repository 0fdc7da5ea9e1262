"""The crash model itself: a seed is one history, and timers come through crashes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

import engine.operators as op
from engine.clock import clock_set_to
from engine.dataflow import Dataflow
from engine.recovery._fakes import FakeDisk, MemoryTables
from engine.recovery._worker_store import WorkerStore
from engine.runtime import deal_partitions, plan
from engine.runtime._recovery import JobStore, RecoveredJob, StoreWorld
from engine.testing import TestingSource
from engine.testing.sim import SimOptions
from engine.testing.sim._gang import Gang
from engine.testing.sim._world import FakeClock
from tests.sim import crashes, replay
from tests.sim.crash_job import MarkedSink, Outside
from tests.sim.crash_world import Tokens
from tests.sim.crashes import CrashRun


def test_a_seed_is_one_history():
    """It replays to the word; another seed is another history."""
    runs = [CrashRun(seed) for seed in (5, 5, 6)]
    for run in runs:
        run.run()
    assert runs[0].log == runs[1].log != runs[2].log


def test_a_history_can_be_seen_again(capsys: pytest.CaptureFixture[str]):
    """With all lives of the job and what ended them."""
    assert replay.main(["store", "5"]) == 0
    shown = capsys.readouterr().out
    assert "life 1 begins with" in shown
    assert shown.endswith("all holds\n")
    assert replay.main(["outcome", "5"]) == 0


def test_a_failure_can_be_seen_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """With what was said last, and what happened to the disk."""
    monkeypatch.setattr(crashes, "check_opened", _refuse)
    assert replay.main(["store", "5"]) == 1
    shown = capsys.readouterr()
    assert "AssertionError: it doesn't hold" in shown.err
    assert "life 1, after 0 turns:" in shown.out
    assert "last operations of its disk: " in shown.out


def _refuse(*_: Any) -> None:
    raise AssertionError("it doesn't hold")


def test_timers_outlive_a_crash():
    """A timer fires in time though the run that set it is gone and its key is never seen again."""
    assert ("a", [1]) in table_after_a_crash()


def test_a_lost_timer_would_be_noticed(monkeypatch: pytest.MonkeyPatch):
    """The test above can fail."""
    monkeypatch.setattr(WorkerStore, "scan_timers", lambda *_: [])
    assert ("a", [1]) not in table_after_a_crash()


def table_after_a_crash() -> list[Any]:
    """What came out 20 s after the start, with a crash after 3 s and a timer at 5 s."""
    outside = Outside(Random(1), [], lambda: 10**9)
    pauses = [TestingSource.PAUSE(timedelta(seconds=s)) for s in (1, 1, 100, 100)]
    source = TestingSource([("a", 1), pauses[0], ("b", 2), *pauses[1:]])
    options = SimOptions(epoch_interval=timedelta(seconds=0.5))
    clock, disk, tokens = FakeClock(options.start.timestamp()), FakeDisk(), Tokens()
    for until_s in (3, 20):
        flow = Dataflow("f")
        lists = op.collect("c", op.input("in", flow, source), timedelta(seconds=5), 9)
        op.output("out", lists, MarkedSink(outside))
        planned = plan(flow)
        world = StoreWorld(disk, MemoryTables(disk), clock, tokens)
        job = RecoveredJob(Path("/store"), flow, planned, deal_partitions(planned), create=True)
        gang = Gang(planned, 1, options, recovery=JobStore.open(job, world), clock=clock)
        with clock_set_to(gang.now):
            gang.start()
            while clock.monotonic_s() < until_s:
                gang.turn()
        disk = disk.after_crash(1)
    return outside.table
