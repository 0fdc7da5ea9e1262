"""A run's side of the recovery store: opens it, begins a generation, commits epochs to it.

Binds the workers' port (`engine.runtime._store.Store`) to `engine.recovery`, for a job all of whose
workers are in this process. The driver (`engine.runtime._run`), or the simulator, opens and closes
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.dataflow import Dataflow, fingerprint
from engine.errors import InconsistentPartitionsError
from engine.operators._kernels import InputKernel, OutputKernel
from engine.recovery._changes import Changes, KeptRows, KeyedChanges, PartitionChanges
from engine.recovery._disk import Disk
from engine.recovery._evolution import Evolution, WantedStep, evolve
from engine.recovery._ids import Epoch as StoredEpoch
from engine.recovery._ids import WorkerIndex as StoredWorker
from engine.recovery._overlay import Missing
from engine.recovery._rescale import newest_partitions
from engine.recovery._store_folder import JobIdentity, StoreFolder
from engine.recovery._table import Tables
from engine.recovery._worker_store import WorkerSpot, WorkerStore
from engine.runtime._ids import Epoch
from engine.runtime._plan import Plan, PlannedStep, is_keyed
from engine.runtime._ports import Clock, Entropy
from engine.runtime._sink_node import Job
from engine.runtime._store import StepChanges

_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class RecoveredJob:
    """What is to run, and the folder it saves its epochs in."""

    root: Path
    flow: Dataflow
    planned: Plan
    create: bool
    """Make a store if there is none."""


@dataclass(frozen=True, slots=True)
class StoreWorld:
    """What a store is made of and told the time by."""

    disk: Disk
    tables: Tables
    clock: Clock
    entropy: Entropy


class JobStore:
    """The open store of a job all of whose workers are in this process."""

    def __init__(self, folder: StoreFolder, workers: list[WorkerStore], clock: Clock) -> None:
        manifest = workers[0].manifest
        self.epoch = Epoch(manifest.epoch)
        """The last epoch that was committed when the store was opened; 0 for none."""
        self.job = Job(manifest.store_id, manifest.generation)
        self._folder = folder
        self._stores = workers
        self._clock = clock
        self.workers = [WorkerRecovery(self, store, clock) for store in workers]
        """What each worker is given as its store."""

    @staticmethod
    def open(wanted: RecoveredJob, world: StoreWorld) -> JobStore:
        """Go back to the last epoch that was committed, and claim the store for this run.

        Raises:
            StoreError: The store can't be opened, or isn't this flow's. It is left as it was.
        """
        with ExitStack() as stack:
            root, token = wanted.root, world.entropy.token()
            folder = StoreFolder.open(world.disk, root, token, create=wanted.create)
            stack.callback(folder.close)
            job = JobIdentity(wanted.flow.flow_id, fingerprint(wanted.flow))
            folder.check_flow(job)
            evolution = _evolution(folder, wanted.planned)
            count = wanted.planned.workers
            manifest = folder.start_generation(job, evolution, count, world.clock.time_s())
            workers: list[WorkerStore] = []
            for index in range(count):
                spot = WorkerSpot(world.disk, world.tables, root, StoredWorker(index))
                workers.append(WorkerStore.open(spot, manifest))
                stack.callback(workers[-1].close)
            stack.pop_all()
        return JobStore(folder, workers, world.clock)

    def positions(self, step_id: str) -> dict[str, Any]:
        """The newest positions of a step's partitions, whichever worker saved them."""
        stored = [store.partitions(step_id) for store in self._stores]
        owners, _ = newest_partitions([{n: (p.epoch, p) for n, p in s.items()} for s in stored])
        return {name: stored[worker][name].value for name, worker in owners.items()}

    def kept_rows(self, step_id: str, shard: str) -> list[bytes]:
        """What a shard of a sink gave away in the last committed epoch, to whichever worker."""
        for store in self._stores:
            if rows := store.kept_rows(step_id).get(shard):
                return rows
        return []

    def link(self, epoch: Epoch, marked: Mapping[str, Sequence[str]]) -> None:
        """Commit an epoch that all workers have prepared.

        Args:
            epoch: The epoch.
            marked: Shards of sinks with a marker, by step; the epoch before is out on all of them.
        """
        before = epoch - 1
        published = {step: dict.fromkeys(shards, before) for step, shards in marked.items()}
        self._folder.commit(StoredEpoch(epoch), published, self._clock.time_s())

    def close(self, *, apply: bool) -> None:
        """Let go of the store; after a clean end with all of it in the table."""
        with ExitStack() as stack:
            stack.callback(self._folder.close)
            for store in self._stores:
                stack.callback(store.close, apply=apply)


class WorkerRecovery:
    """One worker's part of the store: the port that `engine.runtime._store.Store` describes."""

    def __init__(self, job: JobStore, store: WorkerStore, clock: Clock) -> None:
        self.epoch = job.epoch
        self._job = job
        self._store = store
        self._clock = clock

    def state(self, step_id: str) -> _StepState:
        """As in `Store`."""
        return _StepState(self._store, step_id)

    def timers(self, step_id: str, until_s: float) -> Iterator[tuple[float, Any]]:
        """As in `Store`."""
        for due_us, key in self._store.scan_timers(step_id, int(until_s * _MICROSECONDS)):
            yield due_us / _MICROSECONDS, key

    def positions(self, step_id: str) -> dict[str, Any]:
        """As in `Store`."""
        return self._job.positions(step_id)

    def kept_rows(self, step_id: str, shard: str) -> list[bytes]:
        """As in `Store`."""
        return self._job.kept_rows(step_id, shard)

    def published(self, step_id: str, shard: str) -> int:
        """As in `Store`."""
        return self._store.manifest.published.get(step_id, {}).get(shard, 0)

    def append(self, epoch: Epoch, changes: Sequence[StepChanges]) -> None:
        """As in `Store`."""
        self._store.append(StoredEpoch(epoch), [part for step in changes for part in _parts(step)])

    def prepare(self, epoch: Epoch) -> None:
        """As in `Store`."""
        self._store.prepare(StoredEpoch(epoch))

    def commit(self, epoch: Epoch) -> None:
        """As in `Store`."""
        self._store.commit(StoredEpoch(epoch))

    def apply_some(self, budget_s: float, *, eager: bool) -> bool:
        """As in `Store`."""
        return self._store.apply_some(budget_s, self._clock.monotonic_s, eager=eager)


class _StepState:
    """What the store has of one step's state."""

    def __init__(self, worker: WorkerStore, step_id: str) -> None:
        self._worker = worker
        self._step_id = step_id

    def load(self, key: Any) -> Any:
        """As in `Stored`."""
        (row,) = self._worker.get_rows(self._step_id, [key])
        return None if isinstance(row, Missing) else row.value

    def keys(self) -> Iterable[Any]:
        """As in `Stored`."""
        return (key for key, _ in self._worker.scan_step(self._step_id))


def _evolution(folder: StoreFolder, planned: Plan) -> Evolution:
    """How the stored steps become those of this flow; refused if state would be lost."""
    stored = folder.manifest
    wanted = {step.step_id: WantedStep(_kind(step)) for step in planned.steps if _kind(step)}
    evolution = evolve(stored.steps if stored else {}, stored.next_step if stored else 1, wanted)
    if evolution.gone or evolution.changed:
        steps = ", ".join(map(repr, (*evolution.gone, *evolution.changed)))
        msg = (
            f"{folder.root} has saved state of steps that this flow hasn't, or that are another "
            f"kind of step now: {steps}. Give the steps their old names and operators back, or "
            "use another folder"
        )
        raise InconsistentPartitionsError(msg)
    return evolution


def _kind(step: PlannedStep) -> str:
    """What a step saves, by the operator that the user chose; empty if nothing."""
    if is_keyed(step.kernel):
        return step.kind
    return step.kind if isinstance(step.kernel, InputKernel | OutputKernel) else ""


def _parts(changes: StepChanges) -> Iterator[Changes]:
    """A step's changes in the words of the store."""
    state = changes.state
    if state is not None and (state.keys or state.gone):
        dues = state.due_s
        yield KeyedChanges(
            changes.step_id,
            state.keys,
            state.stored,
            None if dues is None else [None if s is None else int(s * _MICROSECONDS) for s in dues],
            state.gone,
        )
    if changes.positions:
        yield PartitionChanges(changes.step_id, changes.positions)
    for shard, rows in changes.kept_rows.items():
        if rows:
            yield KeptRows(changes.step_id, shard, rows)
