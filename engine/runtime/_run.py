"""Runs a flow on workers of this process: the driver between workers, coordinator and world.

One worker runs on the calling thread. Several have threads of their own (`_crew`), and the calling
thread coordinates them (`_leader`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from engine.connectors import AbortExecution
from engine.dataflow import Dataflow
from engine.errors import FlowError, LinkError, StoreError, WorkerDiedError
from engine.operators._kernels import OutputKernel
from engine.operators.tasks._resources import Resources
from engine.recovery import RecoveryConfig
from engine.runtime._build import WorkerSite
from engine.runtime._channel import CHANNEL_BATCHES_MAX
from engine.runtime._closing import closing
from engine.runtime._coordinator import Coordinator
from engine.runtime._counts import Tally
from engine.runtime._crew import Crew
from engine.runtime._deal import Deal, deal_partitions
from engine.runtime._discovery import Discovery, discovering
from engine.runtime._failure import explained, name_of
from engine.runtime._handler_watch import watching_handlers
from engine.runtime._ids import WorkerIndex
from engine.runtime._leader import Drain, Leader
from engine.runtime._machine import this_machine
from engine.runtime._messages import LinkEpoch, NewParts
from engine.runtime._offers import check_demands, offer_of, wants_offers
from engine.runtime._outage import DEFAULT_SOURCE_TIMEOUT, Asking, Patience
from engine.runtime._plan import Plan, plan
from engine.runtime._planned_letters import keeper_of
from engine.runtime._ports import (
    Clock,
    Entropy,
    NoNetwork,
    SystemClock,
    SystemEntropy,
    SystemWaiter,
    Waiter,
    log,
)
from engine.runtime._questions import answer_of
from engine.runtime._sink_node import Job
from engine.runtime._task_site import RealExecutors
from engine.runtime._worker import Worker

if TYPE_CHECKING:
    from engine.runtime._monitor import Monitor
    from engine.runtime._questions import Desk
    from engine.runtime._recovery import JobStore

DEFAULT_EPOCH_INTERVAL = timedelta(seconds=10)


@dataclass(slots=True)
class RunOptions:
    """How to run a flow; all of it may be left out."""

    epoch_interval: timedelta = DEFAULT_EPOCH_INTERVAL
    """Time between epochs; zero makes each source batch an epoch of its own."""
    kernels: bool = True
    """Use fast kernels of composed operators; their compositions otherwise (for tests)."""
    clock: Clock = field(default_factory=SystemClock)
    waiter: Waiter = field(default_factory=SystemWaiter)
    entropy: Entropy = field(default_factory=SystemEntropy)
    drain: Drain = field(default_factory=Drain)
    workers: int = 1
    """How many workers run it, in threads of this process if they are several."""
    recovery: RecoveryConfig | None = None
    """Where to save epochs; None saves nothing."""
    monitor: Monitor | None = None
    """Learns what the workers count and what becomes of epochs; without one nobody counts."""
    desk: Desk | None = None
    """Where questions from outside about the state of actors come; None if nobody may ask."""
    tell: Callable[[str], None] = log
    """Takes lines about the run that people may want to read."""
    source_timeout: timedelta = DEFAULT_SOURCE_TIMEOUT
    """For how long a source that can't be reached is asked again."""
    resources: Mapping[str, float] | None = None
    """What each worker of this process offers to tasks; what isn't in it is its share of the
    machine's processors (``cpu``) and memory (``memory``, bytes)."""

    def offer(self, share: int) -> Resources:
        """What each worker of this process offers.

        Args:
            share: How many workers share this machine.

        Raises:
            ValueError: Something is wrong with what it was told to.
        """
        return offer_of(this_machine(), share, self.resources)

    @property
    def patience(self) -> Patience:
        """With sources that can't be reached."""
        return Patience(self.source_timeout.total_seconds(), self.tell)

    def asking(self) -> Asking:
        """What asks sources before there are workers."""
        return Asking(self.patience, self.clock, self.waiter, lambda: self.drain.requested)


def run_flow(flow: Dataflow, options: RunOptions | None = None) -> None:
    """Run a flow until its input ends or it is told to drain.

    With one worker all of it runs on this thread.

    Raises:
        FlowError: The flow can't run.
        EngineRuntimeError: The run ended because of an error, which is the cause.
        StoreError: The recovery store can't be used. It is left as it was.
    """
    options = options or RunOptions()
    if options.epoch_interval < timedelta(0):
        msg = f"the epoch interval must not be negative; got {options.epoch_interval}"
        raise ValueError(msg)
    planned = plan_run(flow, options.workers, options)
    check_demands(planned, _offers(planned, options))
    with contextlib.suppress(AbortExecution):
        # First of all, so that what fails here has not even claimed the store.
        deal = deal_partitions(planned, options.asking())
        with saving(flow, planned, deal, options) as recovery:
            try:
                _run(planned, deal, options, recovery)
            except Exception as ex:
                if isinstance(ex, AbortExecution):
                    raise
                error = explained(ex)
                raise error from error.__cause__


def plan_run(flow: Dataflow, workers: int, options: RunOptions) -> Plan:
    """Plan what whoever leads a run is to run.

    Raises:
        FlowError: The flow can't run, or not like this.
    """
    replaying = False
    if options.recovery is not None:
        # Loads RocksDB, which runs without recovery need not wait for.
        from engine.runtime._real_store import letters_asked_for  # noqa: PLC0415

        replaying = letters_asked_for(options.recovery)
    planned = plan(flow, workers, kernels=options.kernels, replaying=replaying)
    if options.recovery is None:
        check_kept(planned)
    return planned


def check_kept(planned: Plan) -> None:
    """See that a run without a recovery store has no dead letters to keep.

    Raises:
        FlowError: It has.
    """
    if keeper_of(planned.steps) is None:
        return
    makers = sorted({step.step_id for step in planned.steps if step.letters is not None})
    msg = (
        f"the dead letters of {', '.join(map(repr, makers))} have nowhere to go: take them with "
        "`op.dead_letters` and write them to a sink, or run with a recovery store (-r DIR)"
    )
    raise FlowError(msg)


def _tell_of_lost_promises(planned: Plan, options: RunOptions) -> None:
    """Where a user asked a sink for more than it can do in a run that saves nothing."""
    for step in planned.steps:
        if not isinstance(step.kernel, OutputKernel):
            continue
        sink = step.kernel.sink
        asked = "delivery" in getattr(sink, "__dict__", {})
        if asked and sink.delivery == "exactly-once":
            options.tell(
                f"sink {step.step_id!r} is exactly-once only with recovery (-r DIR): without it "
                "the next run writes everything again"
            )


@contextlib.contextmanager
def saving(
    flow: Dataflow, planned: Plan, deal: Deal, options: RunOptions, *, again: bool = False
) -> Generator[JobStore | None]:
    """The open store of the run, if it has one. What was told before a rewind isn't told again."""
    config = options.recovery
    if config is None:
        if not again:
            _tell_of_lost_promises(planned, options)
        yield None
        return
    # Loads RocksDB, which runs without recovery need not wait for.
    from engine.runtime._real_store import real_world  # noqa: PLC0415
    from engine.runtime._recovery import JobStore, RecoveredJob  # noqa: PLC0415

    job = RecoveredJob(Path(config.db_dir), flow, planned, deal, create=config.create)
    world = real_world(config, options.clock, options.entropy, options.waiter, options.tell)
    recovery = JobStore.open(job, world)
    try:
        for step in planned.steps:
            if isinstance(step.kernel, OutputKernel) and not again:
                # One that isn't of our classes, but quacks, need not say.
                delivery = getattr(step.kernel.sink, "delivery", "at-least-once")
                options.tell(f"sink {step.step_id!r} is {delivery}")
        yield recovery
    except BaseException as ex:
        try:
            recovery.close(died=isinstance(ex, (WorkerDiedError, LinkError)))
        except StoreError as closing:
            # A full disk fails this too, and what it failed first is the one to report.
            ex.add_note(f"and then, in closing the recovery store: {name_of(closing)}")
        raise
    recovery.close()


def _run(planned: Plan, deal: Deal, options: RunOptions, recovery: JobStore | None) -> None:
    clock, interval_s = options.clock, options.epoch_interval.total_seconds()
    after = 0 if recovery is None else recovery.epoch
    coordinator = Coordinator(
        planned.workers, interval_s, clock.monotonic_s(), after=after, durable=recovery is not None
    )
    with discovering(planned, deal, options.waiter, options.tell) as discovery:
        _run_on(planned, deal, coordinator, options, recovery, discovery)


def _run_on(
    planned: Plan,
    deal: Deal,
    coordinator: Coordinator,
    options: RunOptions,
    recovery: JobStore | None,
    discovery: Discovery | None,
) -> None:
    clock, per_batch = options.clock, options.epoch_interval == timedelta(0)
    sites = _sites(planned, options, recovery)
    if planned.workers > 1:
        leader = Leader(
            planned.workers, coordinator, clock, options.waiter, options.drain, recovery
        )
        crew = Crew(planned, deal, sites, leader.hear, epoch_per_batch=per_batch)
        leader.lead(crew, options.monitor, discovery, options.desk)
        return
    worker = Worker(planned, deal, sites[0], epoch_per_batch=per_batch)
    watch = watching_handlers(planned, options.tell)
    with closing([worker]), _answering(options.desk), watch:
        _drive(worker, coordinator, options, recovery, discovery)


def _offers(planned: Plan, options: RunOptions) -> tuple[Resources, ...]:
    """What each worker offers, if that is of any importance: none of them anything if not."""
    workers = planned.workers
    return (options.offer(workers) if wants_offers(planned) else Resources(),) * workers


def _sites(planned: Plan, options: RunOptions, recovery: JobStore | None) -> list[WorkerSite]:
    job = Job(options.entropy.token()) if recovery is None else recovery.job
    bytes_max = None if options.recovery is None else options.recovery.state_memory
    first = WorkerSite(
        *(WorkerIndex(0), planned.workers, options.clock, NoNetwork(), CHANNEL_BATCHES_MAX, job),
        state_bytes_max=bytes_max,
        patience=options.patience,
        wake=options.waiter.wake,
        offers=_offers(planned, options),
    )
    stores = [None] * planned.workers if recovery is None else recovery.workers
    return [
        replace(
            first,
            index=WorkerIndex(i),
            store=store,
            tally=None if options.monitor is None else Tally(options.clock.monotonic_s),
            executors=RealExecutors(options.tell),
        )
        for i, store in enumerate(stores)
    ]


def _drive(
    worker: Worker,
    coordinator: Coordinator,
    options: RunOptions,
    recovery: JobStore | None,
    discovery: Discovery | None,
) -> None:
    """Let the worker step until the coordinator stops it, carrying what they say to each other."""
    step, reports, monotonic_s = worker.step, worker.reports, options.clock.monotonic_s
    drain, monitor, tally = options.drain, options.monitor, worker.tally
    wait = options.waiter.wait if tally is None else tally.waiting(options.waiter.wait)
    found = deque[NewParts]() if discovery is None else discovery.found
    questions = () if options.desk is None else options.desk.questions
    next_time_s = coordinator.next_time_s()
    if monitor is not None:
        monitor.begin(1)
        monitor.counted(worker.snapshot())
        next_time_s = monitor.next_count_s
    while not worker.stopped:
        wait_s = step()
        now_s = monotonic_s()
        if questions:
            _answer(options.desk, recovery)
        if reports or now_s >= next_time_s or drain.requested or found:
            _coordinate(worker, coordinator, now_s, drain, found, recovery)
            next_time_s = coordinator.next_time_s()
            if monitor is not None:
                monitor.observe(coordinator, now_s)
                if monitor.ask(now_s):
                    monitor.counted(worker.snapshot())
                next_time_s = min(next_time_s, monitor.next_count_s)
        elif wait_s > 0.0:
            wait(min(wait_s, next_time_s - now_s))
    if monitor is not None:
        monitor.counted(worker.snapshot())


@contextlib.contextmanager
def _answering(desk: Desk | None) -> Generator[None]:
    """Let people ask the only worker."""
    if desk is None:
        yield
        return
    desk.begin(1)
    try:
        yield
    finally:
        desk.end()


def _answer(desk: Desk | None, recovery: JobStore | None) -> None:
    assert desk is not None  # noqa: S101 - somebody has asked
    assert recovery is not None  # noqa: S101 - nobody may ask without a store
    store = recovery.workers[0]
    desk.carry(lambda question: desk.answered(answer_of(store, question)))


def _coordinate(
    worker: Worker,
    coordinator: Coordinator,
    now_s: float,
    drain: Drain,
    found: deque[NewParts],
    recovery: JobStore | None,
) -> None:
    """One exchange of words: reports to the coordinator, its decisions to the worker."""
    commands = coordinator.on_time(now_s)
    if drain.requested:
        drain.requested = False
        commands += coordinator.drain(now_s)
    while found:
        commands += coordinator.add_parts(found.popleft(), now_s)
    while worker.reports:
        commands += coordinator.on_report(worker.index, worker.reports.popleft(), now_s)
    for decision in commands:
        if isinstance(decision, LinkEpoch):
            assert recovery is not None  # noqa: S101 - it decides so for durable runs alone
            recovery.link(decision.epoch, worker.marked_shards())
            commands += coordinator.on_linked(decision.epoch)
        else:
            worker.command(decision)
