"""What is done when processes are lost, with made-up processes and a real store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import LinkError, WorkerDiedError
from engine.operators.tasks import Resources
from engine.recovery import RecoveryConfig
from engine.runtime import Drain, RunOptions, WorkerIndex, plan
from engine.runtime._crew import Left
from engine.runtime._membership import UnmetError
from engine.runtime._messages import CloseEpoch, Command
from engine.runtime._supervise import supervise
from engine.testing import TestingSink, TestingSource


class Skipping:
    """Time that passes as soon as somebody waits for it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    time_s = monotonic_s

    def wait(self, seconds: float) -> None:
        self.now_s += min(seconds, 100.0)

    def wake(self) -> None: ...


class Team:
    """Processes of which each run ends as it was told to.

    Args:
        ends: What each run's only worker leaves with; None if it leaves well.
        during: Is called while each run is on.
    """

    def __init__(
        self, *ends: BaseException | None, during: Callable[[], None] = lambda: None
    ) -> None:
        self.ends = list(ends)
        self.during = during
        self.commands: list[list[Command]] = []

    def gather(self) -> bool:
        return True

    def offers(self) -> tuple[Resources, ...]:
        return (Resources(cpu=1),)

    def led(self, member: Any, hear: Callable[[Any], None]) -> Team:
        member([WorkerIndex(0)])
        self.hear = hear
        self.commands.append([])
        return self

    def start(self) -> None:
        self.during()

    def command(self, command: Command) -> None:
        self.commands[-1].append(command)

    def count(self) -> None: ...

    def abort(self) -> None: ...

    def join(self, timeout_s: float) -> None: ...

    def end(self) -> None:
        """The run's worker leaves."""
        self.hear(Left(WorkerIndex(0), self.ends.pop(0)))


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Team], list[str]]:
    """Supervises a team; gives what was told."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource([1])), TestingSink([]))
    told: list[str] = []

    def start(team: Team, drain: Drain | None = None) -> list[str]:
        time = Skipping()

        def wait(seconds: float) -> None:
            Skipping.wait(time, seconds)
            if team.ends and len(team.commands) > len(told_runs):
                told_runs.append(0)
                team.end()

        told_runs: list[int] = []
        waiter: Any = time
        waiter.wait = wait
        options = RunOptions(
            clock=time,
            waiter=waiter,
            drain=drain or Drain(),
            recovery=RecoveryConfig(tmp_path / "store", create=True),
            tell=told.append,
        )
        supervise(flow, plan(flow, 1), options, team)
        return told

    return start


def test_a_job_goes_on_after_some_deaths(run: Callable[..., list[str]]):
    """Each told, with a longer pause; what each sink promises is told once."""
    told = run(Team(WorkerDiedError("one"), LinkError("two"), None))
    assert told == [
        "sink 'flow.out' is at-least-once",
        "one; going on from the last epoch in 0.2 s",
        "two; going on from the last epoch in 0.4 s",
    ]


def test_a_job_that_dies_too_often_ends(run: Callable[..., list[str]]):
    """With the last reason."""
    with pytest.raises(WorkerDiedError, match="number 5") as raised:
        run(Team(*(WorkerDiedError(f"number {number}") for number in range(10))))
    assert "it died 6 times without committing an epoch" in raised.value.__notes__[0]


def test_processes_that_cannot_meet_are_waited_for(run: Callable[..., list[str]]):
    """However often they try: the network may be mended."""
    told = run(Team(*(UnmetError("cut") for _ in range(20)), None))
    assert told.count("cut; going on from the last epoch in 0.2 s") == 20


def test_a_drain_outlives_the_run_that_it_came_in(run: Callable[..., list[str]]):
    """The next one drains at once, and the pause before it is cut short."""
    drain = Drain()

    def request() -> None:
        drain.requested = True

    team = Team(WorkerDiedError("during the drain"), None, during=request)
    run(team, drain)
    assert [type(command) for command in team.commands[1]] == [CloseEpoch]
    [closing] = team.commands[1]
    assert isinstance(closing, CloseEpoch)
    assert closing.final
