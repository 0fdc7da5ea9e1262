"""Runs a flow on one worker of this process: the driver between worker, coordinator and world."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from engine.connectors import AbortExecution
from engine.dataflow import Dataflow
from engine.errors import StoreError
from engine.operators._kernels import OutputKernel
from engine.recovery import RecoveryConfig
from engine.runtime._build import WorkerSite, deal_partitions
from engine.runtime._channel import CHANNEL_BATCHES_MAX
from engine.runtime._coordinator import Coordinator
from engine.runtime._failure import explained, name_of
from engine.runtime._ids import WorkerIndex
from engine.runtime._messages import LinkEpoch
from engine.runtime._plan import Plan, plan
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
from engine.runtime._sink_node import Job
from engine.runtime._worker import Worker

if TYPE_CHECKING:
    from engine.runtime._recovery import JobStore

_SMALL_BUFFER_BYTES = 16 << 20
"""What a table holds back of its rows where memory is bounded."""

DEFAULT_EPOCH_INTERVAL = timedelta(seconds=10)


@dataclass(slots=True)
class Drain:
    """A switch that a signal handler or another thread may set, waking the waiter after it."""

    requested: bool = False
    """True stops the sources and ends the run after one last epoch."""


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
    recovery: RecoveryConfig | None = None
    """Where to save epochs; None saves nothing."""
    tell: Callable[[str], None] = log
    """Takes lines about the run's recovery that people may want to read."""


def run_flow(flow: Dataflow, options: RunOptions | None = None) -> None:
    """Run a flow on this thread until its input ends or it is told to drain.

    Raises:
        FlowError: The flow can't run.
        EngineRuntimeError: The run ended because of an error, which is the cause.
        StoreError: The recovery store can't be used. It is left as it was.
    """
    options = options or RunOptions()
    if options.epoch_interval < timedelta(0):
        msg = f"the epoch interval must not be negative; got {options.epoch_interval}"
        raise ValueError(msg)
    planned = plan(flow, 1, kernels=options.kernels)
    with contextlib.suppress(AbortExecution), _saving(flow, planned, options) as recovery:
        try:
            _run(planned, options, recovery)
        except Exception as ex:
            if isinstance(ex, AbortExecution):
                raise
            error = explained(ex)
            raise error from error.__cause__


@contextlib.contextmanager
def _saving(flow: Dataflow, planned: Plan, options: RunOptions) -> Generator[JobStore | None]:
    """The open store of the run, if it has one."""
    config = options.recovery
    if config is None:
        yield None
        return
    # Loads RocksDB, which runs without recovery need not wait for.
    from engine.recovery._backups import BackupOptions  # noqa: PLC0415
    from engine.recovery._disk import RealDisk  # noqa: PLC0415
    from engine.recovery._worker_store import StoreOptions, bounded  # noqa: PLC0415
    from engine.recovery.store import RocksTables  # noqa: PLC0415
    from engine.runtime._recovery import JobStore, RecoveredJob, StoreWorld  # noqa: PLC0415

    root = Path(config.db_dir)
    job = RecoveredJob(root, flow, planned, create=config.create)
    bound = config.state_memory
    tables = RocksTables() if bound is None else RocksTables(write_buffer_bytes=_SMALL_BUFFER_BYTES)
    world = StoreWorld(
        RealDisk(), tables, options.clock, options.entropy, options.waiter, options.tell
    )
    stores = StoreOptions() if bound is None else bounded(bound)
    backup = BackupOptions(config.backup_interval or timedelta(0), options.clock.time_s)
    world = replace(world, options=replace(stores, backup=backup))
    recovery = JobStore.open(job, world)
    try:
        for step in planned.steps:
            if isinstance(step.kernel, OutputKernel):
                # One that isn't of our classes, but quacks, need not say.
                delivery = getattr(step.kernel.sink, "delivery", "at-least-once")
                options.tell(f"sink {step.step_id!r} is {delivery}")
        yield recovery
    except BaseException as ex:
        try:
            recovery.close()
        except StoreError as closing:
            # A full disk fails this too, and what it failed first is the one to report.
            ex.add_note(f"and then, in closing the recovery store: {name_of(closing)}")
        raise
    recovery.close()


def _run(planned: Plan, options: RunOptions, recovery: JobStore | None) -> None:
    clock, interval_s = options.clock, options.epoch_interval.total_seconds()
    job = Job(options.entropy.token()) if recovery is None else recovery.job
    after = 0 if recovery is None else recovery.epoch
    coordinator = Coordinator(
        1, interval_s, clock.monotonic_s(), after=after, durable=recovery is not None
    )
    store = None if recovery is None else recovery.workers[0]
    bytes_max = None if options.recovery is None else options.recovery.state_memory
    site = WorkerSite(
        WorkerIndex(0), 1, clock, NoNetwork(), CHANNEL_BATCHES_MAX, job, store, bytes_max
    )
    deal = deal_partitions(planned) if recovery is None else recovery.deal
    worker = Worker(planned, deal, site, epoch_per_batch=interval_s == 0)
    with closing([worker]):
        _drive(worker, coordinator, options, recovery)


@contextlib.contextmanager
def closing(workers: Sequence[Worker]) -> Generator[None]:
    """Close all workers at the end, however it comes about.

    An error in closing is raised, or becomes a note of the error that ended the run.
    """
    try:
        yield
    except AbortExecution:
        _raise_all(_close(workers))
        raise
    except BaseException as ex:
        _note_all(ex, _close(workers))
        raise
    _raise_all(_close(workers))


def _close(workers: Sequence[Worker]) -> list[Exception]:
    return [error for worker in workers for error in worker.close()]


def _raise_all(errors: list[Exception]) -> None:
    if errors:
        _note_all(errors[0], errors[1:])
        raise errors[0]


def _note_all(ex: BaseException, errors: list[Exception]) -> None:
    for error in errors:
        ex.add_note(f"and then, {error.__notes__[-1]}: {name_of(error)}")


def _drive(
    worker: Worker, coordinator: Coordinator, options: RunOptions, recovery: JobStore | None
) -> None:
    """Let the worker step until the coordinator stops it, carrying what they say to each other."""
    step, reports, monotonic_s = worker.step, worker.reports, options.clock.monotonic_s
    drain, wait = options.drain, options.waiter.wait
    next_time_s = coordinator.next_time_s()
    while not worker.stopped:
        wait_s = step()
        now_s = monotonic_s()
        if reports or now_s >= next_time_s or drain.requested:
            _coordinate(worker, coordinator, now_s, drain, recovery)
            next_time_s = coordinator.next_time_s()
        elif wait_s > 0.0:
            wait(min(wait_s, next_time_s - now_s))


def _coordinate(
    worker: Worker,
    coordinator: Coordinator,
    now_s: float,
    drain: Drain,
    recovery: JobStore | None,
) -> None:
    """One exchange of words: reports to the coordinator, its decisions to the worker."""
    commands = coordinator.on_time(now_s)
    if drain.requested:
        drain.requested = False
        commands += coordinator.drain(now_s)
    while worker.reports:
        commands += coordinator.on_report(worker.index, worker.reports.popleft(), now_s)
    for decision in commands:
        if isinstance(decision, LinkEpoch):
            assert recovery is not None  # noqa: S101 - it decides so for durable runs alone
            recovery.link(decision.epoch, worker.marked_shards())
            commands += coordinator.on_linked(decision.epoch)
        else:
            worker.command(decision)
