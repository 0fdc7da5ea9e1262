"""Runs a flow in several processes, and again from the last epoch if one of them is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from engine.connectors import AbortExecution
from engine.dataflow import Dataflow
from engine.errors import LinkError, StoreInUseError, WorkerDiedError
from engine.operators.tasks._resources import Resources
from engine.runtime._coordinator import Coordinator
from engine.runtime._crew import CrewEvent
from engine.runtime._deal import deal_partitions
from engine.runtime._discovery import discovering
from engine.runtime._ids import WorkerIndex
from engine.runtime._launch import Launch
from engine.runtime._leader import Leader, Led
from engine.runtime._membership import Membership, UnmetError
from engine.runtime._offers import check_demands, wants_offers
from engine.runtime._outage import pause
from engine.runtime._plan import Plan
from engine.runtime._processes import Processes
from engine.runtime._run import RunOptions, plan_run, saving
from engine.runtime._sink_node import Job

_RESTARTS_MAX = 5
"""How often in a row a job may die without an epoch in between."""
_FIRST_PAUSE_S = 0.2
_PAUSE_MAX_S = 10.0


class Team(Protocol):
    """The processes that a job can have."""

    def gather(self) -> bool:
        """Wait until a run can begin; False if the job is to drain before."""
        ...

    def offers(self) -> tuple[Resources, ...]:
        """What each worker offers to tasks, once all have gathered."""
        ...

    def led(
        self,
        member: Callable[[list[WorkerIndex]], Membership],
        hear: Callable[[CrewEvent], None],
    ) -> Led:
        """The workers of one run.

        Args:
            member: Gives what the process of these workers is told of the run.
            hear: Takes what happens to workers, on any thread.
        """
        ...


class _SpawnedTeam:
    """Processes of this machine, started for each run."""

    def __init__(self, launch: Launch, options: RunOptions) -> None:
        self._launch = launch
        self._options = options

    def gather(self) -> bool:
        """As in `Team`."""
        return True

    def offers(self) -> tuple[Resources, ...]:
        """As in `Team`."""
        workers = self._launch.layout.workers
        return (self._options.offer(workers),) * workers

    def led(
        self,
        member: Callable[[list[WorkerIndex]], Membership],
        hear: Callable[[CrewEvent], None],
    ) -> Led:
        """As in `Team`."""
        return Processes(self._launch, member, hear)


def run_processes(flow: Dataflow, launch: Launch, options: RunOptions) -> None:
    """Run a flow in processes of this machine until its input ends or it is told to drain.

    Raises:
        FlowError: The flow can't run.
        BaseException: As `supervise`.
    """
    planned = plan_run(flow, launch.layout.workers, options)
    supervise(flow, planned, options, _SpawnedTeam(launch, options))


def supervise(flow: Dataflow, planned: Plan, options: RunOptions, team: Team) -> None:
    """Run a flow in processes until its input ends or it is told to drain.

    If a process dies and there is a recovery store, all workers start again from the last epoch;
    not more than some times without an epoch in between.

    Raises:
        FlowError: Tasks need more than the workers offer.
        EngineRuntimeError: The run ended because of an error.
        StoreError: The recovery store can't be used.
        WorkerDiedError: A process died, and there is nothing to go back to; or they keep dying.
        LinkError: As above, of a connection between two workers.
    """
    deaths, again = 0, False
    while team.gather():
        offers = team.offers() if wants_offers(planned) else ()
        check_demands(planned, offers)
        run = _Run(planned, team, options, offers, again=again)
        try:
            with contextlib.suppress(AbortExecution):
                run.run(flow)
        except (WorkerDiedError, LinkError, StoreInUseError) as ex:
            if isinstance(ex, StoreInUseError) and not again:
                raise
            again = True
            if not isinstance(ex, UnmetError):
                # Those that can't reach each other may need as long as it takes to mend a network.
                deaths = 1 if run.progressed else deaths + 1
            if options.recovery is None:
                ex.add_note(
                    "there is no recovery store to go back to, so the job is over; with -r it "
                    "would have gone on from its last epoch"
                )
                raise
            if deaths > _RESTARTS_MAX:
                ex.add_note(
                    f"it died {deaths} times without committing an epoch in between; the store "
                    "holds the last epoch, and the same command goes on from there"
                )
                raise
            pause_s = min(_PAUSE_MAX_S, _FIRST_PAUSE_S * 2 ** max(0, deaths - 1))
            options.tell(f"{ex}; going on from the last epoch in {pause_s:g} s")
            if options.monitor is not None:
                options.monitor.restarted()
            pause(pause_s, options.clock, options.waiter, lambda: options.drain.requested)
        else:
            return


class _Run:
    """One generation."""

    def __init__(
        self,
        planned: Plan,
        team: Team,
        options: RunOptions,
        offers: tuple[Resources, ...],
        *,
        again: bool,
    ) -> None:
        self._planned = planned
        self._offers = offers
        self._team = team
        self._options = options
        self._again = again
        self.progressed = False
        """Whether an epoch was committed."""

    def run(self, flow: Dataflow) -> None:
        """Run it until all workers have left."""
        options = self._options
        # First of all, so that what fails here has not even claimed the store.
        deal = deal_partitions(self._planned, options.asking())
        with saving(flow, self._planned, deal, options, again=self._again) as recovery:
            start = None
            if recovery is not None:
                recovery.hand_over()
                start = recovery.start
            workers = self._planned.workers
            interval_s = options.epoch_interval.total_seconds()
            coordinator = Coordinator(
                workers,
                interval_s,
                options.clock.monotonic_s(),
                after=0 if start is None else start.epoch,
                durable=start is not None,
            )
            job = Job(options.entropy.token()) if start is None else start.job

            def member(mine: list[WorkerIndex]) -> Membership:
                return Membership(
                    *(workers, mine, job, deal, interval_s == 0, options.recovery, start),
                    options.monitor is not None,
                    options.patience.timeout_s,
                    self._offers,
                )

            leader = Leader(
                workers, coordinator, options.clock, options.waiter, options.drain, recovery
            )
            try:
                led = self._team.led(member, leader.hear)
                with discovering(self._planned, deal, options.waiter, options.tell) as discovery:
                    leader.lead(led, options.monitor, discovery, options.desk)
            finally:
                self.progressed = coordinator.epochs_committed > 0
