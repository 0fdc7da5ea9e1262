"""Watermarks over runs: saved with the epoch, dealt to other workers, in threads and processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.clock import clock_set_to
from engine.dataflow import Dataflow
from engine.recovery import RecoveryConfig
from engine.recovery._fakes import FakeDisk, MemoryTables
from engine.runtime import deal_partitions, plan
from engine.runtime._planned_clocks import row_owners
from engine.runtime._recovery import JobStore, RecoveredJob, StoreWorld
from engine.testing import TestingSink, cluster_main
from engine.testing.sim import SimOptions
from engine.testing.sim._gang import Gang
from engine.testing.sim._world import FakeClock
from tests.cli.project import clean_environment
from tests.runtime.test_watermarks import Heard, at, climbing, dealt
from tests.runtime.watermarked import NumberClock, ScriptedTimes, Silent, watermarked
from tests.sim.crash_world import Tokens

TICK = timedelta(milliseconds=1)


@dataclass
class Job:
    """A job on a disk in memory that is run for a while, and crashed."""

    scripts: dict[str, list[Any]]
    between: Any = None
    disk: FakeDisk = field(default_factory=FakeDisk)
    clock: FakeClock = field(default_factory=lambda: FakeClock(1_700_000_000.0))
    tokens: Tokens = field(default_factory=Tokens)

    def flow(self, heard: Heard) -> Dataflow:
        flow = Dataflow("flow")
        s = op.input("in", flow, ScriptedTimes(self.scripts))
        s = s if self.between is None else self.between(s)
        s = watermarked("step", s, clocks=(NumberClock(),), heard=heard.hear)
        op.output("out", s, TestingSink(heard.out))
        return flow

    def run(self, workers: int, seconds: float, seed: int = 0) -> Heard:
        """Run it and pull the plug."""
        heard = Heard()
        recovery = self.open(workers, heard)
        options = SimOptions(workers, 20 * TICK, step_max=TICK, delay_max=5 * TICK)
        gang = Gang(self.planned, seed, options, recovery=recovery, clock=self.clock)
        until_s = self.clock.monotonic_s() + seconds
        with clock_set_to(gang.now):
            gang.start()
            while self.clock.monotonic_s() < until_s and not gang.stopped:
                gang.turn()
        self.disk = self.disk.after_crash(seed)
        return heard

    def open(self, workers: int, heard: Heard) -> JobStore:
        """Its store, as a run of so many workers opens it."""
        flow = self.flow(heard)
        self.planned = planned = plan(flow, workers)
        world = StoreWorld(self.disk, MemoryTables(self.disk), self.clock, self.tokens)
        job = RecoveredJob(Path("/store"), flow, planned, deal_partitions(planned), create=True)
        return JobStore.open(job, world)

    def rows(self, workers: int) -> tuple[list[set[str]], list[set[str]]]:
        """The names of the rows of the step that each worker's store has, and should have."""
        recovery = self.open(workers, Heard())
        owners = row_owners(self.planned, recovery.deal.sources)["flow.step"]
        found = [set(store.partitions("flow.step")) for store in recovery._stores]
        recovery.close()
        return found, [{row for row in owners if owners[row] == w} for w in range(workers)]


AHEAD = [at(90), Silent(0.3), at(95), Silent(100, caught_up=False)]
BEHIND = [at(40), Silent(0.3), at(50), Silent(100, caught_up=False)]
SCRIPTS = {"p0": AHEAD, "p1": BEHIND, "p2": [at(70), Silent(100, caught_up=False)]}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_run_goes_on_from_the_watermark(workers: int):
    """All workers have it before anything else, and it doesn't go back."""
    job = Job(SCRIPTS)
    assert job.run(workers, 0.9).risen_to(50, workers)
    heard = job.run(workers, 0.9)
    assert sorted(heard.events) == [("resumed", worker, 50) for worker in range(workers)]


@pytest.mark.parametrize("between", [None, dealt])
def test_another_number_of_workers_has_it_too(between: Any):
    """And each partition's latest time is with who reads it now, and nowhere else."""
    job = Job(SCRIPTS, between)
    first = job.run(2, 0.9)
    mark = max(first.last().values())
    for workers in (3, 1, 2):
        heard = job.run(workers, 0.9, workers)
        resumed = [event for event in heard.events if event[0] == "resumed"]
        assert resumed == [("resumed", worker, mark) for worker in range(workers)]
        mark = max(heard.last().values(), default=mark)
        found, wanted = job.rows(workers)
        assert all(rows <= own for rows, own in zip(found, wanted, strict=True))
        assert found == wanted or between is not None


def test_what_was_saved_lets_it_rise():
    """A partition that gives nothing after a restart counts with what it gave before."""
    behind = [at(40), Silent(5, caught_up=False), *climbing(50, 90), Silent(100, caught_up=False)]
    job = Job({"p0": [at(100), Silent(100, caught_up=False)], "p1": behind})
    for workers in (2, 3, 2):
        assert not job.run(workers, 0.9).last() or workers == 2
    heard = job.run(2, 8)
    assert heard.risen_to(89, 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_and_a_store_on_a_disk(workers: int, tmp_path: Path):
    """As in the simulation: the second run goes on where the first one ended."""
    scripts = {"p0": climbing(0, 200), "p1": climbing(100, 400), "p2": []}
    for number in range(2):
        heard, flow = Heard(), Dataflow("flow")
        s = op.input("in", flow, ScriptedTimes(scripts))
        s = watermarked("step", s, clocks=(NumberClock(),), heard=heard.hear)
        op.output("out", s, TestingSink(heard.out))
        cluster_main(
            *(flow, [], 0),
            epoch_interval=timedelta(0),
            recovery_config=RecoveryConfig(tmp_path / "store", create=True),
            worker_count_per_proc=workers,
        )
        assert not heard.late()
        resumed = [mark for what, _, mark in heard.events if what == "resumed"]
        assert len(resumed) == number * workers
        assert all(mark >= 100 for mark in resumed)


PROCESSES = """
import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from tests.runtime.watermarked import NumberClock, ScriptedTimes, watermarked

times = {name: [[(str(t % 5), t)] for t in range(first, first + 300)]
         for name, first in (("p0", 0), ("p1", 1000))}
flow = Dataflow("flow")
s = op.input("in", flow, ScriptedTimes(times))
s = watermarked("step", s, clocks=(NumberClock(),))
op.output("out", op.map("text", s, repr), StdOutSink())
"""


def test_between_processes(tmp_path: Path):
    """Watermarks go over sockets, behind the records that they count."""
    (tmp_path / "flows.py").write_text(PROCESSES, encoding="utf-8")
    here = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "engine.run", "flows:flow", "-p", "2"],
        env={**clean_environment(), "PYTHONPATH": f"{here}:{tmp_path}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    values = [eval(line)[1] for line in done.stdout.splitlines()]
    records = [value for value in values if value[0] == "record"]
    assert len(records) == 600
    assert all(at_us >= mark for _, at_us, mark in records)
    assert max(at_us for what, at_us, _ in values if what == "watermark") >= 298
