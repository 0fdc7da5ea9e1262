"""A run's side of the recovery store: opens it, begins a generation, commits epochs to it.

Binds the workers' port (`engine.runtime._store.Store`) to `engine.recovery`. The process that leads
the run opens all of it (`JobStore`); workers in other processes open their parts again
(`WorkerRecovery.open`).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from engine.operators._kernels import InputKernel, OutputKernel
from engine.recovery._chain import ManifestChain
from engine.recovery._changes import Changes, KeptRows, KeyedChanges, PartitionChanges
from engine.recovery._ids import Epoch as StoredEpoch
from engine.recovery._ids import WorkerIndex as StoredWorker
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import Manifest
from engine.recovery._rescale import newest_partitions
from engine.recovery._running_calls import (
    CallRows,
    Suspect,
    Suspicions,
    died_with,
    rows_path,
    suspects_of,
)
from engine.recovery._state_view import StateView
from engine.recovery._store_folder import StoreFolder
from engine.recovery._worker_store import WorkerSpot, WorkerStore
from engine.runtime._call_watch import CallWatch
from engine.runtime._deal import Deal
from engine.runtime._evolving import Migration, options_of
from engine.runtime._ids import Epoch
from engine.runtime._letter_orders import LetterDesk, orders_of, replays
from engine.runtime._plan import Plan
from engine.runtime._planned_clocks import row_owners, saves_rows
from engine.runtime._replays import LetterOrder
from engine.runtime._sink_node import Job
from engine.runtime._store import StepChanges
from engine.runtime._store_start import (
    OpenStore,
    RecoveredJob,
    StoreWorld,
    open_store,
    partitions_of,
)

__all__ = ["JobStore", "RecoveredJob", "StoreWorld", "WorkerRecovery"]

_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class RunStart:
    """What all workers of a run go on from. Plain values, which can be sent to other processes."""

    root: Path
    manifest: Manifest
    """The one in force, of this run's generation."""
    job: Job
    deal: Deal
    """Which worker has which partition."""
    positions: dict[str, bytes]
    """The newest positions of each source's and sink's partitions, and what clocks have saved,
    whichever worker did."""
    kept: dict[str, dict[str, list[bytes]]]
    """What shards of sinks gave away in the last committed epoch, by step and shard."""
    stale: list[dict[str, list[str]]]
    """For each worker, by step, the rows of partitions that another worker has now."""
    letters: list[LetterOrder]
    """What to do about dead letters."""
    replaying: bool
    """Whether the plan has the steps that do so."""
    suspects: dict[str, dict[int, Suspect]]
    """Records whose calls were being made at deaths (`engine.recovery._running_calls`)."""

    @property
    def epoch(self) -> Epoch:
        """The last epoch that was committed when the store was opened; 0 for none."""
        return Epoch(self.manifest.epoch)


class JobStore:
    """The open store of a job: what its leader needs of it, and the stores of its workers."""

    def __init__(self, opened: OpenStore, wanted: RecoveredJob, world: StoreWorld) -> None:
        planned, deal = wanted.planned, wanted.deal
        clocked = [step.step_id for step in planned.steps if saves_rows(step)]
        manifest = opened.folder.started()
        self._folder = opened.folder
        self._stores = opened.workers
        self._steps = opened.evolution.saved_steps
        self._clock = world.clock
        self._suspicions = Suspicions.open(world.disk, wanted.root, manifest.generation)
        ends = _ends(planned)
        self.start = RunStart(
            wanted.root,
            manifest,
            Job(manifest.job_id, manifest.generation),
            deal,
            {step_id: self._positions(step_id) for step_id in (*ends, *clocked)},
            {step_id: self._kept_rows(step_id) for step_id in ends},
            self._stale_partitions(planned, deal),
            orders_of(LetterDesk(world.disk, wanted.root, world.tell), planned, self._stores),
            replays(planned),
            self._suspicions.by_step(),
        )
        """What workers go on from."""
        self.workers = [
            WorkerRecovery(self.start, planned, store, index, world)
            for index, store in enumerate(self._stores)
        ]
        """What each worker is given as its store."""

    @staticmethod
    def open(wanted: RecoveredJob, world: StoreWorld) -> JobStore:
        """Go back to the last epoch that was committed, and claim the store for this run.

        Raises:
            StoreError: The store can't be opened, or doesn't fit the flow. It is in force as it
                was.
            EngineRuntimeError: The target of a sink can't be reached. As above.
        """
        opened = open_store(wanted, world)
        try:
            return JobStore(opened, wanted, world)
        except BaseException:
            _close(opened.folder, opened.workers)
            raise

    @property
    def epoch(self) -> Epoch:
        """The last epoch that was committed when the store was opened; 0 for none."""
        return self.start.epoch

    @property
    def job(self) -> Job:
        """Which run of which job this is."""
        return self.start.job

    @property
    def deal(self) -> Deal:
        """Which worker has which partition."""
        return self.start.deal

    def _stale_partitions(self, planned: Plan, deal: Deal) -> list[dict[str, list[str]]]:
        """They are deleted in the first epoch, in which the other worker saves its own."""
        stale: list[dict[str, list[str]]] = [{} for _ in self._stores]
        for step_id, readers in row_owners(planned, deal.sources).items():
            # Those that nobody has any more are of workers that there were, or of other plans.
            for worker, store in enumerate(self._stores):
                names = [n for n in store.partitions(step_id) if readers.get(n) != worker]
                if names:
                    stale[worker][step_id] = names
        if len(stale) == 1:
            return stale
        for step_id, dealt in (*deal.sources.items(), *deal.sinks.items()):
            stored = [store.partitions(step_id) for store in self._stores]
            owners, _ = newest_partitions([{n: (p.epoch, p) for n, p in s.items()} for s in stored])
            owners.update(dealt)
            for worker, rows in enumerate(stored):
                names = [name for name in rows if owners[name] != worker]
                if names:
                    stale[worker][step_id] = names
        return stale

    def _positions(self, step_id: str) -> bytes:
        found = partitions_of(self._stores, step_id)
        return pickle.dumps({name: partition.value for name, partition in found.items()}, 5)

    def _kept_rows(self, step_id: str) -> dict[str, list[bytes]]:
        by_store = [store.kept_rows(step_id) for store in self._stores]
        return {shard: rows for kept in by_store for shard, rows in kept.items() if rows}

    def link(self, epoch: Epoch, marked: Mapping[str, Sequence[str]]) -> None:
        """Commit an epoch that all workers have prepared.

        Args:
            epoch: The epoch.
            marked: Shards of sinks with a marker, by step; the epoch before is out on all of them.
        """
        before = epoch - 1
        published = {step: dict.fromkeys(shards, before) for step, shards in marked.items()}
        self._folder.commit(StoredEpoch(epoch), published, self._clock.time_s(), self._steps)

    def hand_over(self) -> None:
        """Close the stores of the workers, which other processes will open: a generation later.

        This one has begun its logs.
        """
        stores, self._stores, self.workers = self._stores, [], []
        _close(None, stores)
        manifest = self._folder.change(self._clock.time_s())
        job = Job(manifest.job_id, manifest.generation)
        self.start = replace(self.start, manifest=manifest, job=job)

    def close(self, *, died: bool = False) -> None:
        """Let go of the store. What is in its log alone, the next start reads from there.

        Args:
            died: Because a process has died, so that the run is to begin again.
        """
        for worker in self.workers:
            worker.unwatch()
        if not died:
            self._suspicions.absolve()
        _close(self._folder, self._stores)


def _ends(planned: Plan) -> list[str]:
    """The sources and sinks of a plan."""
    kinds = (InputKernel, OutputKernel)
    return [step.step_id for step in planned.steps if isinstance(step.kernel, kinds)]


def _close(folder: StoreFolder | None, stores: Sequence[WorkerStore]) -> None:
    with ExitStack() as stack:
        if folder is not None:
            stack.callback(folder.close)
        for store in stores:
            stack.callback(store.close)


class WorkerRecovery:
    """One worker's part of the store: the port that `engine.runtime._store.Store` describes."""

    def __init__(
        self, start: RunStart, planned: Plan, store: WorkerStore, index: int, world: StoreWorld
    ) -> None:
        self.epoch = start.epoch
        self._start = start
        self._store = store
        self._options = options_of(planned)
        self._stale = start.stale[index]
        self._clock = world.clock
        self._disk = world.disk
        self._index = index
        self._watched: list[CallRows] = []

    @staticmethod
    def open(start: RunStart, planned: Plan, index: int, world: StoreWorld) -> WorkerRecovery:
        """Open a worker's part in another process than the one that claimed the store.

        Raises:
            StoreError: It can't be opened.
        """
        spot = WorkerSpot(world.disk, world.tables, start.root, StoredWorker(index))
        store = WorkerStore.open(spot, start.manifest, world.options)
        return WorkerRecovery(start, planned, store, index, world)

    def close(self) -> None:
        """Let go of it, in order."""
        self.unwatch()
        self._store.close()

    def unwatch(self) -> None:
        """Its process isn't dying: no call is to be suspected."""
        for rows in self._watched:
            rows.close()
        self._watched.clear()

    def state(self, step_id: str) -> _StepState:
        """As in `Store`."""
        return _StepState(self._store, step_id, Migration(step_id, self._options[step_id]))

    def committed(self, step_id: str, key: Any) -> tuple[Epoch, Any]:
        """As in `Store`."""
        migration = Migration(step_id, self._options[step_id])
        stored = _StepState(self._store.durable, step_id, migration)
        return Epoch(self._store.committed), stored.load(key)

    def timers(self, step_id: str, until_s: float) -> Iterator[tuple[float, Any]]:
        """As in `Store`."""
        for due_us, key in self._store.scan_timers(step_id, int(until_s * _MICROSECONDS)):
            yield due_us / _MICROSECONDS, key

    def positions(self, step_id: str) -> dict[str, Any]:
        """As in `Store`; each time new objects."""
        saved = self._start.positions[step_id]
        return cast("dict[str, Any]", pickle.loads(saved))  # noqa: S301 - made by ourselves

    def kept_rows(self, step_id: str, shard: str) -> list[bytes]:
        """As in `Store`."""
        return self._start.kept[step_id].get(shard, [])

    def published(self, step_id: str, shard: str) -> int | None:
        """As in `Store`."""
        return self._start.manifest.published.get(step_id, {}).get(shard)

    def letter_orders(self) -> Sequence[LetterOrder]:
        """As in `Store`."""
        return self._start.letters

    def call_watch(self, step_id: str, calls: int, deaths_max: int) -> CallWatch:
        """As in `Store`."""
        start = self._start
        path = rows_path(start.root, start.manifest.generation, self._index, step_id)
        rows = CallRows(self._disk, path, calls)
        self._watched.append(rows)
        suspects, died = suspects_of(start.suspects, step_id), died_with(start.suspects, step_id)
        return CallWatch(rows, suspects, deaths_max, after_death=died)

    def check_in_force(self) -> None:
        """As in `Store`."""
        chain = ManifestChain(self._disk, StorePaths(self._start.root).manifests, token="")
        chain.check_in_force(self._start.manifest)

    def append(self, epoch: Epoch, changes: Sequence[StepChanges]) -> None:
        """As in `Store`."""
        parts = [part for step in changes for part in self._parts(step)]
        self._store.append(StoredEpoch(epoch), parts)

    def _parts(self, changes: StepChanges) -> Iterator[Changes]:
        """A step's changes in the words of the store."""
        state = changes.state
        if state is not None and (state.keys or state.gone):
            dues = state.due_s
            yield KeyedChanges(
                changes.step_id,
                state.keys,
                state.stored,
                None
                if dues is None
                else [None if s is None else int(s * _MICROSECONDS) for s in dues],
                state.gone,
                self._options[changes.step_id].version,
            )
        if changes.positions:
            yield PartitionChanges(changes.step_id, changes.positions)
        for shard, rows in changes.kept_rows.items():
            if rows:
                yield KeptRows(changes.step_id, shard, rows)

    def prepare(self, epoch: Epoch) -> None:
        """As in `Store`."""
        stale, self._stale = self._stale, {}
        gone = [PartitionChanges(step_id, {}, names) for step_id, names in stale.items()]
        self._store.append(StoredEpoch(epoch), gone)
        self._store.prepare(StoredEpoch(epoch))

    def commit(self, epoch: Epoch) -> None:
        """As in `Store`."""
        self._store.commit(StoredEpoch(epoch))

    def apply_some(self, budget_s: float, *, eager: bool) -> bool:
        """As in `Store`."""
        return self._store.apply_some(budget_s, self._clock.monotonic_s, eager=eager)


class _StepState:
    """What the store has of one step's state.

    Methods that read states have `step_id` in a local, for `engine.runtime._failure` to find.
    """

    def __init__(self, worker: StateView, step_id: str, migration: Migration) -> None:
        self._worker = worker
        self._step_id = step_id
        self._migration = migration

    def load(self, key: Any) -> Any:
        """As in `Stored`."""
        (state,) = self.load_many([key])
        return state

    def load_many(self, keys: list[Any]) -> list[Any]:
        """As in `Stored`."""
        step_id, migration = self._step_id, self._migration
        return self._worker.load(step_id, keys, migration.version, migration.current)

    def is_empty(self) -> bool:
        """As in `Stored`."""
        return not self._worker.has_states(self._step_id)

    def keys(self) -> Iterable[Any]:
        """As in `Stored`."""
        return (key for key, _ in self._worker.scan_step(self._step_id))
