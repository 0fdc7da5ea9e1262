"""Crashes at random moments change nothing about what comes out in the end."""

from __future__ import annotations

from datetime import timedelta

import pytest

import engine.operators as op
from engine.clock import clock_set_to
from engine.dataflow import Dataflow
from engine.runtime import plan
from engine.testing import TestingSource
from engine.testing.sim import SimOptions
from engine.testing.sim._simulation import Gang
from tests.sim.crash_job import Job, MarkedSink, Target, check, run
from tests.sim.model_store import ModelStore, World

JOBS = [
    pytest.param(Job(workers, interval_s), id=f"{workers}-workers-{interval_s}s")
    for workers in (1, 2, 3)
    for interval_s in (0.0, 0.05)
]


@pytest.mark.parametrize("job", JOBS)
def test_crashes_change_nothing(job: Job):
    """State and output are those of a run without a crash, over many seeds."""
    crashes = 0
    for seed in range(15):
        target, happened = run(seed, job)
        check(target)
        crashes += happened
    assert crashes > 10


def test_timers_outlive_a_crash():
    """A timer fires in time though the run that set it is gone and its key is never seen again."""
    assert ("a", [1]) in table_after_a_crash()


def test_a_lost_timer_would_be_noticed(monkeypatch: pytest.MonkeyPatch):
    """The test above can fail."""
    monkeypatch.setattr(ModelStore, "timers", lambda *_: [])
    assert ("a", [1]) not in table_after_a_crash()


def table_after_a_crash() -> list[object]:
    """What came out 20 s after the start, with a crash after 3 s and a timer at 5 s."""
    target, world = Target(), World(1)
    pauses = [TestingSource.PAUSE(timedelta(seconds=s)) for s in (1, 1, 100, 100)]
    source = TestingSource([("a", 1), pauses[0], ("b", 2), *pauses[1:]])
    for until_s in (3, 20):
        flow = Dataflow("f")
        lists = op.collect("c", op.input("in", flow, source), timedelta(seconds=5), 9)
        op.output("out", lists, MarkedSink(target, world))
        options = SimOptions(epoch_interval=timedelta(seconds=0.5))
        gang = Gang(plan(flow), 1, options, world.begin(), world.linker())
        with clock_set_to(gang.now):
            gang.start()
            while gang.now() < options.start + timedelta(seconds=until_s):
                gang.turn()
    return target.table
