"""Deals the rows of a store to another number of workers.

All rows go, by the key group that they belong to, into a new folder beside the one in force; the
manifest that begins the next generation then switches to it, with its number of workers. A crash
before that link leaves the old folder in force and the new one to be deleted at the next start, a
crash after it the other way round.

Before: the process has claimed the store with `StoreFolder.start_generation` and the old number of
workers, has opened the stores of all of them, and has settled the rows that sinks kept under their
old shards. After: workers open their stores with the manifest that `rescale` gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CorruptStoreError, InternalError, StoreError
from engine.keys import KEY_GROUPS, key_group, owner
from engine.recovery._disk import Disk, remove_tree, writing
from engine.recovery._ids import StepNumber, WorkerIndex
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import Manifest, Published
from engine.recovery._rows import (
    APPLIED_KEY,
    META,
    STATE,
    STATE_HEAD,
    TIMER,
    TIMER_HEAD,
    name_of_partition,
    split_partition_value,
)
from engine.recovery._store_folder import StoreFolder
from engine.recovery._table import Row, Table, Tables
from engine.recovery._worker_files import (
    Applied,
    create_worker,
    encode_applied,
    identity_rows,
    read_meta,
    table_folder,
)
from engine.recovery._worker_store import WorkerStore

_BATCH_ROWS = 2000


@dataclass(frozen=True, slots=True)
class RescalePlan:
    """How a store is to be dealt anew."""

    workers: int
    """How many there will be."""
    time_s: float
    """Now, in seconds since 1970 UTC."""
    kept_rows_settled: bool = False
    """Whether what sinks kept for the last epoch has been published; it isn't taken along."""
    published: Published | None = None
    """Then: what is out, of the shards that will go on; as it was known before if None."""
    partition_owner: Callable[[str, str], WorkerIndex] | None = None
    """Which worker gets the row of a step's partition; by the partition's key group if None."""
    progress: Callable[[int, int], None] | None = None
    """Called now and then with the rows dealt and about how many there are."""


def rescale(
    disk: Disk,
    tables: Tables,
    folder: StoreFolder,
    stores: Sequence[WorkerStore],
    plan: RescalePlan,
) -> Manifest:
    """Deal a store's rows to another number of workers; gives the manifest that is in force then.

    Args:
        disk: Where.
        tables: To open and make tables.
        folder: The store.
        stores: Those of all workers, open with the folder's manifest. They are closed here.
        plan: What is wanted.

    Raises:
        CorruptStoreError: A row can't be read. The store is in force as it was.
        StoreWriteError: The disk refused. As above.
        FencedError: A newer generation has taken over.
        StoreError: A sink's kept rows are not settled.
    """
    before = folder.manifest
    if before is None or before.kind != "generation" or len(stores) != before.workers:
        msg = "a store is rescaled right after its generation was started, from all its workers"
        raise InternalError(msg)
    after = before.after_start(
        plan.time_s,
        workers=plan.workers,
        # By its generation, so that an older one which wakes up knows it for none of its leftovers.
        shards=before.generation + 1,
        shards_epoch=before.epoch,
        published=before.published if plan.published is None else plan.published,
    )
    for store in stores:
        _settle(store, folder.root, plan)
    if before.epoch:
        _Dealer(disk, tables, folder.root, before, after, plan).deal()
    # Before the first epoch no worker has anything, and each makes its store when it opens it.
    folder.add(after)
    return after


def _settle(store: WorkerStore, root: Path, plan: RescalePlan) -> None:
    """Bring all of a worker's log into its table."""
    try:
        kept = [step_id for step_id in store.manifest.steps if store.kept_rows(step_id)]
        if kept and not plan.kept_rows_settled:
            msg = (
                f"{root}: sink {kept[0]!r} has rows of epoch {store.committed} that may not be "
                "out yet; they must be before the store can be rescaled"
            )
            raise StoreError(msg)
        store.apply_all()
    finally:
        store.close()


class _Dealer:
    """Copies rows from the tables of one set of workers to those of another."""

    def __init__(
        self,
        disk: Disk,
        tables: Tables,
        root: Path,
        before: Manifest,
        after: Manifest,
        plan: RescalePlan,
    ) -> None:
        self._disk = disk
        self._tables = tables
        self._paths = StorePaths(root)
        self._before = before
        self._after = after
        self._plan = plan
        self._step_ids = {e.number: step_id for step_id, e in before.steps.items()}
        self._owners = [owner(group, after.workers) for group in range(KEY_GROUPS)]
        self._partitions: dict[bytes, bytes] = {}
        self._dealt: Counter[tuple[bytes, int]] = Counter()
        self._rows = 0
        self._timed_steps: frozenset[int] = frozenset()

    def deal(self) -> None:
        """Make the new folder, whole and synced."""
        folder = self._paths.shards(self._after.shards)
        with writing(folder, "deal the store to another number of workers"):
            remove_tree(self._disk, folder)
        with ExitStack() as stack:
            sources = [self._open(self._before, i, stack) for i in range(self._before.workers)]
            for index in range(self._after.workers):
                worker = WorkerIndex(index)
                rows = identity_rows(self._after, worker, self._after.epoch)
                path = self._paths.worker(self._after.shards, worker)
                create_worker(self._disk, self._tables, path, rows)
            targets = [self._open(self._after, i, stack) for i in range(self._after.workers)]
            self._copy(sources, targets)
            self._finish(targets)

    def _open(self, manifest: Manifest, index: int, stack: ExitStack) -> Table:
        path = table_folder(self._paths.worker(manifest.shards, WorkerIndex(index)))
        table = self._tables.open(path)
        stack.callback(table.close)
        return table

    def _copy(self, sources: list[Table], targets: list[Table]) -> None:
        total = sum(table.estimated_rows() for table in sources)
        pending: list[list[Row]] = [[] for _ in targets]
        for index, source in enumerate(sources):
            path = table_folder(self._paths.worker(self._before.shards, WorkerIndex(index)))
            _, applied = read_meta(path, source)
            self._timed_steps |= applied.timed_steps
            for row, target in self._routed(source):
                rows = pending[target]
                rows.append(row)
                if len(rows) >= _BATCH_ROWS:
                    targets[target].write(rows, [])
                    rows.clear()
                    self._report(total)
        for row, target in self._routed_partitions():
            pending[target].append(row)
        for rows, table in zip(pending, targets, strict=True):
            table.write(rows, [])
        self._report(self._rows)

    def _routed(self, source: Table) -> Iterator[tuple[Row, int]]:
        """Rows of keys, each with the worker that gets it; rows of partitions are put aside."""
        owners, step_ids = self._owners, self._step_ids
        for key, value in source.scan(b"", b"\xff"):
            kind = key[:1]
            if kind == META or StepNumber(int.from_bytes(key[1:3], "big")) not in step_ids:
                # Rows of dropped steps stay behind.
                continue
            if kind == STATE:
                target = owners[key[STATE_HEAD - 1]]
            elif kind == TIMER:
                target = owners[key[TIMER_HEAD]]
            else:
                self._keep_newest(key, value)
                continue
            self._count(key)
            yield (key, value), target

    def _keep_newest(self, key: bytes, value: bytes) -> None:
        """Of one partition's rows in several tables the newest counts."""
        other = self._partitions.get(key)
        if other is None or split_partition_value(value)[1] > split_partition_value(other)[1]:
            self._partitions[key] = value

    def _routed_partitions(self) -> Iterator[tuple[Row, int]]:
        for key, value in self._partitions.items():
            name = name_of_partition(key)
            step = StepNumber(int.from_bytes(key[1:3], "big"))
            if self._plan.partition_owner is None:
                target = self._owners[key_group(name)]
            else:
                target = self._plan.partition_owner(self._step_ids[step], name)
            self._count(key)
            yield (key, value), target

    def _count(self, key: bytes) -> None:
        self._rows += 1
        self._dealt[key[:1], int.from_bytes(key[1:3], "big")] += 1

    def _report(self, total: int) -> None:
        if self._plan.progress is not None:
            self._plan.progress(self._rows, max(self._rows, total))

    def _finish(self, targets: list[Table]) -> None:
        """Make the new tables durable, and see that every row has arrived."""
        after = self._after
        applied = Applied(
            after.epoch,
            after.generation,
            after.fingerprint,
            self._timed_steps,
            frozenset(after.dropped),
        )
        found: Counter[tuple[bytes, int]] = Counter()
        for table in targets:
            table.write([(APPLIED_KEY, encode_applied(applied))], [])
            table.flush()
            for key, _ in table.scan(b"", b"\xff"):
                if key[:1] != META:
                    found[key[:1], int.from_bytes(key[1:3], "big")] += 1
        if found != self._dealt:
            msg = f"of {self._rows} rows that were dealt, {found.total()} arrived"
            raise CorruptStoreError(self._paths.shards(after.shards), msg)


def newest_partitions(
    stored: list[dict[str, tuple[int, object]]],
) -> tuple[dict[str, int], list[list[str]]]:
    """Which worker's row of each partition counts, where several have one.

    A partition that moves to another worker leaves its old row behind in the store of the first.

    Args:
        stored: For each worker, by partition, the epoch of its row and its state.

    Returns:
        By partition the worker whose row is the newest, and for each worker the partitions whose
        rows it should delete.

    >>> newest_partitions([{"p": (3, "old")}, {"p": (5, "new")}])
    ({'p': 1}, [['p'], []])
    """
    newest: dict[str, int] = {}
    for worker, rows in enumerate(stored):
        for name, (epoch, _) in rows.items():
            if name not in newest or epoch > stored[newest[name]][name][0]:
                newest[name] = worker
    stale = [[name for name in rows if newest[name] != i] for i, rows in enumerate(stored)]
    return newest, stale
