"""What the leader's process knows of a job, and when it calls it stuck or stalled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.runtime import Coordinator, Drain, RunOptions, WorkerIndex, run_flow
from engine.runtime._counts import StepSnapshot, WorkerSnapshot
from engine.runtime._crew import Counted, Left
from engine.runtime._leader import Leader
from engine.runtime._messages import EpochRequest, Prepared, Published
from engine.runtime._monitor import Monitor
from tests.runtime.scripted import FakeTime, LogSink, ScriptedSource, Wait

IDLE = StepSnapshot()
ONE = WorkerIndex(0)


def said(worker: int = 0, step: StepSnapshot = IDLE, **changes: Any) -> WorkerSnapshot:
    """What a worker of one step says."""
    snapshot = WorkerSnapshot(WorkerIndex(worker), {"flow.step": step}, {}, 0.0, 1, settling=False)
    return replace(snapshot, **changes)


class Watched:
    """A monitor with a clock to set."""

    def __init__(self, workers: int = 1) -> None:
        self.time = FakeTime()
        self.monitor = Monitor(self.time.monotonic_s)
        self.monitor.begin(workers)

    def ready_after(self, seconds: int, *snapshots: WorkerSnapshot) -> bool:
        """Whether it is ready when this is said each second for so long."""
        for _ in range(seconds):
            self.time.now_s += 1.0
            for snapshot in snapshots:
                self.monitor.counted(snapshot)
        return self.monitor.not_ready() is None


def test_a_job_is_ready_once_all_workers_were_heard():
    """And again after a restart."""
    watched = Watched(2)
    assert watched.monitor.not_ready() == "starting: nothing was heard yet of worker 0, worker 1"
    watched.monitor.counted(said(0))
    assert watched.monitor.not_ready() == "starting: nothing was heard yet of worker 1"
    watched.monitor.counted(said(1))
    assert watched.monitor.not_ready() is None
    watched.monitor.restarted()
    assert watched.monitor.not_ready() == "starting: nothing was heard yet of worker 0, worker 1"
    assert watched.monitor.restarts == 1


def test_before_the_first_generation_nothing_is_ready():
    """There are no workers, so it would be easy to be ready."""
    assert Monitor(FakeTime().monotonic_s).not_ready() == (
        "starting: nothing was heard yet of any worker"
    )


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param(said(step=replace(IDLE, queued=1)), id="batches in a channel"),
        pytest.param(said(step=replace(IDLE, held=True)), id="a source with a full way out"),
        pytest.param(said(settling=True), id="sinks that are pending"),
    ],
)
def test_work_that_waits_and_is_not_done_is_a_stall(waiting: WorkerSnapshot):
    """For ten seconds; it is over with the next thing that gets done, or with the backlog."""
    watched = Watched()
    watched.monitor.counted(waiting)
    assert watched.ready_after(10, waiting)
    assert not watched.ready_after(1, waiting)
    why = "stalled: worker 0 has work waiting and got nothing done for 11 s"
    assert watched.monitor.not_ready() == why
    step = replace(waiting.steps["flow.step"], items_in=1)
    assert watched.ready_after(1, replace(waiting, steps={"flow.step": step}))
    assert not watched.ready_after(11, replace(waiting, steps={"flow.step": step}))
    assert watched.ready_after(1, replace(waiting, epoch=2))
    assert not watched.ready_after(11, replace(waiting, epoch=2))
    assert watched.ready_after(1, said(epoch=2))


def test_having_nothing_to_do_is_no_stall():
    """However long."""
    watched = Watched()
    assert watched.ready_after(100, said())
    assert watched.ready_after(10, said(step=replace(IDLE, queued=1)))


def test_a_silent_worker_is_a_stall_and_no_death():
    """It is in some call of the flow's; others go on."""
    watched = Watched(2)
    watched.monitor.counted(said(1))
    assert watched.ready_after(10, said(0))
    assert not watched.ready_after(1, said(0))
    why = "stalled: worker 1 has not come back from what it is doing for 11 s"
    assert watched.monitor.not_ready() == why
    assert watched.monitor.stuck() is None
    assert watched.ready_after(1, said(0), said(1))


def test_a_leader_whose_loop_stands_still_is_stuck():
    """Until it turns again, or is over."""
    watched = Watched()
    watched.monitor.turned(watched.time.now_s)
    watched.time.now_s += 10.0
    assert watched.monitor.stuck() is None
    watched.time.now_s += 2.0
    assert watched.monitor.stuck() == "the leader's loop has not turned for 12 s"
    watched.monitor.turned(watched.time.now_s)
    assert watched.monitor.stuck() is None
    watched.time.now_s += 60.0
    watched.monitor.end()
    assert watched.monitor.stuck() is None


def test_workers_are_asked_once_a_second():
    """At once when they begin."""
    monitor = Watched().monitor
    start_s = monitor.next_count_s
    asked = [at for at in range(8) if monitor.ask(start_s + at * 0.4)]
    assert asked == [0, 3, 6]


def test_epochs_are_numbered_and_timed():
    """From the close to the last worker's report; the next one is as old as that is ago."""
    watched = Watched()
    monitor, time = watched.monitor, watched.time
    coordinator = Coordinator(1, 10.0, time.now_s, after=6)

    def report(report: Any) -> None:
        coordinator.on_report(ONE, report, time.now_s)
        monitor.observe(coordinator, time.now_s)

    monitor.observe(coordinator, time.now_s)
    assert monitor.epochs.number == 7
    time.now_s += 4.0
    report(EpochRequest())
    time.now_s += 0.25
    report(Prepared(coordinator.epoch))
    time.now_s += 0.5
    report(Published(coordinator.epoch))
    time.now_s += 2.0
    assert monitor.epochs.number == 8
    assert monitor.epochs.duration_s == 0.75
    assert monitor.epochs.durations == (0, 0, 0, 0, 0, 0, 1, *(0,) * 5)
    assert time.now_s - monitor.epochs.began_s == 2.0


class Crowd:
    """A worker that has nothing to do, and leaves after it was asked some times for its counts."""

    def __init__(self, time: FakeTime, asks_max: int) -> None:
        self.asked_s: list[float] = []
        self._time = time
        self._left = asks_max
        self.leader: Any = None

    def count(self) -> None:
        self.asked_s.append(self._time.now_s)
        self._left -= 1
        self.leader.hear(Counted(ONE, said(0)))
        if not self._left:
            self.leader.hear(Left(ONE, None))

    def start(self) -> None:
        """It has."""

    def command(self, command: Any) -> None:
        """It needn't."""

    def abort(self) -> None:
        """It doesn't."""

    def join(self, timeout_s: float) -> None:
        """It has."""


class Noting(Monitor):
    """Notes at which times the leader's loop has turned."""

    def __init__(self, time: FakeTime) -> None:
        super().__init__(time.monotonic_s)
        self.turned_s: set[float] = set()

    def turned(self, now_s: float) -> None:
        super().turned(now_s)
        self.turned_s.add(now_s)


class FakeWaiter(FakeTime):
    def wake(self) -> None:
        """Nobody waits."""


def test_a_leader_asks_each_second_and_notes_that_its_loop_turns():
    """Also while nothing happens; when it is over, a loop that stands still is no trouble."""
    time = FakeWaiter()
    begin_s, monitor, crowd = time.now_s, Noting(time), Crowd(time, 5)
    coordinator = Coordinator(1, 60.0, time.now_s)
    leader = Leader(1, coordinator, time, time, Drain(), None)
    crowd.leader = leader
    leader.lead(crowd, monitor)
    assert crowd.asked_s == [begin_s + at for at in range(5)]
    assert monitor.turned_s == set(crowd.asked_s)
    assert monitor.not_ready() is None
    time.now_s += 100.0
    assert monitor.stuck() is None


def test_a_run_tells_its_monitor_of_workers_and_epochs():
    """While it runs, not only in the end."""
    time, seen = FakeTime(), []
    monitor = Monitor(time.monotonic_s)

    def look() -> list[int]:
        [(snapshot, age_s)] = monitor.workers()
        seen.append((snapshot.steps["flow.in"].items_out, age_s, monitor.epochs.number))
        return [1]

    script = [Wait(0.1), look, Wait(0.5), look, Wait(2.5), look, Wait(9.0), look]
    flow = Dataflow("flow")
    source = ScriptedSource({"a": script}, [], time)
    op.output("out", op.input("in", flow, source), LogSink([]))
    run_flow(flow, RunOptions(clock=time, waiter=time, monitor=monitor))
    assert [count for count, _, _ in seen] == [0, 0, 2, 3]
    assert all(age_s <= 1.0 for _, age_s, _ in seen)
    assert [epoch for _, _, epoch in seen] == [1, 1, 1, 2]
    assert sum(monitor.epochs.durations) == 2
    assert monitor.not_ready() is None
