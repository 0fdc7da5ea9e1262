"""What a run does with its store before there are workers: claims it and makes it fit the run.

In this order, so that a run which can't go on leaves the store in force as it was:

1. lock it; compare it with the flow; claim it for a new generation, which fences older runs;
2. open the stores of the workers that there were, at the last committed epoch;
3. settle the shards of sinks that nobody will open as they were;
4. if there are to be more workers or fewer, deal the rows anew; one link switches to the result.

A crash anywhere in between is followed by a start that does it again. Called by
`engine.runtime._recovery.JobStore.open`.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.connectors import SinkSession
from engine.dataflow import Dataflow, fingerprint
from engine.errors import EngineRuntimeError, InconsistentPartitionsError
from engine.operators._kernels import OutputKernel
from engine.recovery._disk import Disk
from engine.recovery._evolution import Evolution
from engine.recovery._ids import WorkerIndex as StoredWorker
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import Manifest, Published
from engine.recovery._rescale import RescalePlan, newest_partitions, rescale
from engine.recovery._state_view import StoredPartition
from engine.recovery._store_folder import JobIdentity, StoreFolder
from engine.recovery._table import Tables
from engine.recovery._worker_files import check_folders
from engine.recovery._worker_store import StoreOptions, WorkerSpot, WorkerStore
from engine.runtime._deal import Deal
from engine.runtime._evolving import evolution_of
from engine.runtime._ids import Epoch
from engine.runtime._ids import WorkerIndex as RunWorker
from engine.runtime._plan import Plan, is_keyed
from engine.runtime._planned_clocks import row_owners
from engine.runtime._ports import Clock, Entropy, SystemWaiter, Waiter, log
from engine.runtime._settling import KnownShard, OldShard, settle

_SETTLING_POLL_S = 0.001
_PROGRESS_INTERVAL_S = 5.0
_WORKER_SHARD = "worker-"


@dataclass(frozen=True, slots=True)
class RecoveredJob:
    """What is to run, and the folder it saves its epochs in."""

    root: Path
    flow: Dataflow
    planned: Plan
    deal: Deal
    """Which worker has which partition."""
    create: bool
    """Make a store if there is none."""


@dataclass(frozen=True, slots=True)
class StoreWorld:
    """What a store is made of, told the time by, and reports to."""

    disk: Disk
    tables: Tables
    clock: Clock
    entropy: Entropy
    waiter: Waiter = field(default_factory=SystemWaiter)
    """How to wait for the targets of sinks."""
    tell: Callable[[str], None] = log
    """Takes lines about what a start does, for people."""
    options: StoreOptions = field(default_factory=StoreOptions)
    """How the stores of workers work."""


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store that is claimed and fits the run."""

    folder: StoreFolder
    workers: list[WorkerStore]
    """Of each worker that the run has."""
    evolution: Evolution


def open_store(wanted: RecoveredJob, world: StoreWorld) -> OpenStore:
    """Claim a store for a run and make it fit.

    Raises:
        StoreError: It can't be opened, or doesn't fit the flow. It is in force as it was.
        EngineRuntimeError: The target of a sink can't be reached. As above.
    """
    with ExitStack() as stack:
        folder = StoreFolder.open(
            world.disk, wanted.root, world.entropy.token(), create=wanted.create
        )
        stack.callback(folder.close)
        start = _Start(wanted, world, folder, stack)
        evolution = start.claim()
        start.open_workers()
        start.check_sources()
        start.settle()
        start.rescale()
        stack.pop_all()
    return OpenStore(folder, start.stores, evolution)


def partitions_of(stores: list[WorkerStore], step_id: str) -> dict[str, StoredPartition]:
    """The newest state of each partition of a step, whichever worker saved it."""
    stored = [store.partitions(step_id) for store in stores]
    owners, _ = newest_partitions([{n: (p.epoch, p) for n, p in s.items()} for s in stored])
    return {name: stored[worker][name] for name, worker in owners.items()}


def rows_dealt(planned: Plan, deal: Deal) -> dict[str, dict[str, RunWorker]]:
    """Which worker will have the rows of partitions, by step: of sources, sinks and clocks."""
    return {**deal.sources, **deal.sinks, **row_owners(planned, deal.sources)}


class _Start:
    """One start, step by step."""

    def __init__(
        self,
        wanted: RecoveredJob,
        world: StoreWorld,
        folder: StoreFolder,
        stack: ExitStack,
    ) -> None:
        self.stores: list[WorkerStore] = []
        self._root = wanted.root
        self._flow = wanted.flow
        self._planned = wanted.planned
        self._world = world
        self._folder = folder
        self._deal = wanted.deal
        self._dealt = rows_dealt(wanted.planned, wanted.deal)
        self._stack = stack

    @property
    def _manifest(self) -> Manifest:
        """The one in force."""
        return self._folder.started()

    def claim(self) -> Evolution:
        """See that the store is this flow's and whole, and begin a generation."""
        folder, before = self._folder, self._folder.manifest
        job = JobIdentity(self._flow.flow_id, fingerprint(self._flow))
        folder.check_flow(job)
        evolution = evolution_of(self._root, before, self._planned)
        if before is not None and before.epoch:
            for index in range(before.workers):
                path = StorePaths(self._root).worker(before.shards, StoredWorker(index))
                check_folders(self._world.disk, before, path)
        workers = self._planned.workers if before is None else before.workers
        folder.start_generation(job, evolution, workers, self._world.clock.time_s())
        # Only now: what looks left over may be what a newer generation has made.
        folder.remove_leftovers()
        if before is not None and before.epoch:
            self._tell_new(evolution)
        return evolution

    def _tell_new(self, evolution: Evolution) -> None:
        for step in self._planned.steps:
            if step.step_id in evolution.new and is_keyed(step.kernel):
                self._world.tell(f"step {step.step_id!r} is new and starts without state")

    def open_workers(self) -> None:
        """Open the stores of the workers that the manifest in force names."""
        manifest = self._manifest
        self.stores = []
        for index in range(manifest.workers):
            world = self._world
            spot = WorkerSpot(world.disk, world.tables, self._root, StoredWorker(index))
            self.stores.append(WorkerStore.open(spot, manifest, world.options))
            self._stack.callback(self.stores[-1].close)

    def check_sources(self) -> None:
        """See that there are still all partitions that were read.

        Raises:
            InconsistentPartitionsError: One is gone.
        """
        for step_id, dealt in self._deal.sources.items():
            gone = sorted(set(partitions_of(self.stores, step_id)) - set(dealt))
            if gone:
                msg = (
                    f"source {step_id!r} has no partition {', '.join(map(repr, gone))} any more, "
                    f"of which {self._root} has saved how far it was read. Bring it back, if only "
                    "as an empty one at the end of its input; or forget how far all partitions of "
                    f"the source were read, so that they are read from their start: "
                    f"{self._drop_command(step_id)}"
                )
                raise InconsistentPartitionsError(msg)

    def _drop_command(self, step_id: str) -> str:
        folder = str(self._root)
        return shlex.join(["python", "-m", "engine.recovery", "drop-step", folder, step_id])

    # Settling

    def settle(self) -> None:
        """Bring shards that nobody will open as they were up to the last epoch."""
        if not self._manifest.epoch:
            return
        shards = [
            shard
            for step in self._planned.steps
            if isinstance(step.kernel, OutputKernel)
            for shard in self._old_shards(step.step_id, step.kernel.sink)
        ]
        if shards:
            self._world.tell(
                f"settling {_counted(len(shards), 'shard')} of sinks of the run before"
            )
        try:
            for _ in settle(shards, self._folder.check_in_force):
                self._world.waiter.wait(_SETTLING_POLL_S)
        except EngineRuntimeError as ex:
            ex.add_note(
                "the store is as it was. Bring the target back and start again; or, if nothing of "
                "it matters any more, forget what the store knows of the sink: "
                f"{self._drop_command(str(ex.step_id))}"
            )
            raise

    def _old_shards(self, step_id: str, sink: Any) -> Iterator[OldShard]:
        """The shards of a sink that are to be settled."""
        noted = self._manifest.published.get(step_id, {})
        if hasattr(sink, "list_parts"):
            saved = partitions_of(self.stores, step_id)
            # All partitions of a run are saved in each epoch: others were settled before it.
            last = {n for n, part in saved.items() if part.epoch == self._manifest.epoch}
            names = last | set(noted)
            if not self._rescales:
                names -= set(self._deal.sinks[step_id])
            for name in sorted(names):
                state = saved[name].value if name in saved else None
                build = functools.partial(sink.build_part, step_id, name, state)
                yield self._old_shard(step_id, name, build)
        elif self._rescales:
            for name in sorted(noted):
                index = int(name.removeprefix(_WORKER_SHARD))
                build = functools.partial(sink.build, step_id, index, self._manifest.workers)
                yield self._old_shard(step_id, name, build)

    def _old_shard(self, step_id: str, name: str, build: Callable[[], Any]) -> OldShard:
        manifest = self._manifest
        noted = manifest.published.get(step_id, {}).get(name)
        rows = [row for store in self.stores for row in store.kept_rows(step_id).get(name, [])]
        session = SinkSession(manifest.job_id, manifest.generation, step_id, name)
        known = KnownShard(step_id, name, Epoch(manifest.epoch), noted, rows)
        return OldShard(known, session, build)

    # Another number of workers

    @property
    def _rescales(self) -> bool:
        return self._manifest.workers != self._planned.workers

    def rescale(self) -> None:
        """Deal the rows to as many workers as the run has, if that is another number."""
        if not self._rescales:
            return
        manifest, workers = self._manifest, self._planned.workers
        progress = _Progress(
            self._world, f"from {manifest.workers} to {_counted(workers, 'worker')}"
        )
        plan = RescalePlan(
            workers,
            self._world.clock.time_s(),
            kept_rows_settled=True,
            published=self._published_by_all(),
            partition_owner=self._owner,
            progress=progress,
        )
        rescale(self._world.disk, self._world.tables, self._folder, self.stores, plan)
        progress.end()
        self._folder.remove_leftovers()
        self.open_workers()

    def _published_by_all(self) -> Published:
        """What is out after the settling, of the shards that will be written again."""
        epoch, workers = self._manifest.epoch, self._planned.workers
        there = {f"{_WORKER_SHARD}{index}" for index in range(workers)}
        return {
            step_id: {
                shard: epoch for shard in shards if shard in self._deal.sinks.get(step_id, there)
            }
            for step_id, shards in self._manifest.published.items()
        }

    def _owner(self, step_id: str, name: str) -> StoredWorker:
        """The worker that will have a partition; the first has those that are gone."""
        dealt = self._dealt.get(step_id, {})
        return StoredWorker(dealt.get(name, 0))


class _Progress:
    """Tells people how far the dealing of rows is, now and then."""

    def __init__(self, world: StoreWorld, what: str) -> None:
        self._tell = world.tell
        self._monotonic_s = world.clock.monotonic_s
        self._rows = 0
        self._next_s = self._monotonic_s() + _PROGRESS_INTERVAL_S
        self._tell(f"re-sharding the store {what}")

    def __call__(self, done: int, total: int) -> None:
        self._rows = done
        now_s = self._monotonic_s()
        if now_s >= self._next_s:
            self._next_s = now_s + _PROGRESS_INTERVAL_S
            self._tell(f"re-sharding the store: {done:,} of about {total:,} rows")

    def end(self) -> None:
        self._tell(f"re-sharded the store: {self._rows:,} rows")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
