"""A job with every kind of sink on a disk in memory: run, crashed, and started again.

Its targets lie outside of it and survive. Each call that reaches a target is an operation of the
disk too, so that who counts operations and crashes before each of them crashes there as well.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import engine.operators as op
from engine.clock import clock_set_to
from engine.connectors import (
    PENDING,
    Delivery,
    DynamicSink,
    FencedError,
    FixedPartitionedSink,
    FixedPartitionedSource,
    SinkSession,
    StatefulSinkPartition,
    StatefulSourcePartition,
    StatelessSinkPartition,
)
from engine.dataflow import Dataflow
from engine.keys import key_group, owner
from engine.recovery._fakes import FakeDisk, MemoryTables, SimulatedCrash
from engine.runtime import deal_partitions, plan
from engine.runtime._recovery import JobStore, RecoveredJob, StoreWorld
from engine.runtime._store_start import partitions_of
from engine.testing.sim import SimOptions
from engine.testing.sim._gang import Gang
from tests.runtime.scripted import FakeTime

ROOT = Path("/store")
PARTS = {
    "p0": [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("d", 5), ("e", 6)],
    "p1": [("f", 7), ("g", 8), ("f", 9), ("h", 10), ("f", 11), ("i", 12)],
    "p2": [("j", 13), ("k", 14), ("l", 15), ("j", 16)],
}
FAR_US = 1 << 52


@dataclass
class Outside:
    """What lies outside of the job."""

    disk: FakeDisk = field(default_factory=FakeDisk)
    source: dict[str, list[Any]] = field(default_factory=lambda: dict(PARTS))
    files: dict[str, list[Any]] = field(default_factory=lambda: collections.defaultdict(list))
    file_names: list[str] = field(default_factory=lambda: ["f0", "f1"])
    ledgers: list[str] = field(default_factory=lambda: ["l0", "l1"])
    rows: dict[str, list[Any]] = field(default_factory=lambda: collections.defaultdict(list))
    """By sink step."""
    markers: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Generation and epoch by step and shard."""
    log: list[tuple[Any, ...]] = field(default_factory=list)
    pending: int = 0
    """How often each `publish` says so first."""
    down: set[str] = field(default_factory=set)
    """Shards whose target can't be reached."""
    crash_in_epoch: int | None = None
    """Crash in the second `publish` of this epoch."""
    published: int = 0

    def call(self, what: str, *about: Any) -> None:
        """One call that reaches a target."""
        self.log.append((what, *about))
        self.disk.op(what, Path("target"))
        if self.down.intersection(about):
            raise ConnectionError("the target is down")


class Source(FixedPartitionedSource[Any, int]):
    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def list_parts(self) -> list[str]:
        return list(self._outside.source)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> SourcePart:
        return SourcePart(self._outside.source[for_part], resume_state or 0)


class SourcePart(StatefulSourcePartition[Any, int]):
    def __init__(self, records: list[Any], at: int) -> None:
        self._records, self._at = records, at

    def next_batch(self) -> list[Any]:
        if self._at >= len(self._records):
            raise StopIteration
        self._at += 1
        return self._records[self._at - 1 : self._at]

    def snapshot(self) -> int:
        return self._at


class Files(FixedPartitionedSink[Any, int]):
    """Cut back to their position, without a marker."""

    delivery: Delivery = "exactly-once"

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def list_parts(self) -> list[str]:
        return self._outside.file_names

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> FilePart:
        self._outside.call("cut", for_part, resume_state)
        return FilePart(self._outside.files[for_part], resume_state or 0)


class FilePart(StatefulSinkPartition[Any, int]):
    def __init__(self, file: list[Any], at: int) -> None:
        assert len(file) >= at
        del file[at:]
        self._file = file

    def write_batch(self, values: list[Any]) -> None:
        self._file += values

    def snapshot(self) -> int:
        return len(self._file)


class _Marked:
    """What publishes by a marker."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._open: list[bytes] = []
        self._shard = ("", "")
        self._generation = 0
        self._pending = outside.pending

    def begin(self, session: SinkSession) -> None:
        outside = self._outside
        self._shard = (session.step_id, session.shard)
        self._generation = session.generation
        outside.call("begin", *self._shard)
        generation, epoch = outside.markers.get(self._shard, (0, 0))
        if generation > session.generation:
            raise FencedError("too late")
        outside.markers[self._shard] = (session.generation, epoch)

    def write_batch(self, items: list[Any]) -> None:
        self._open += [repr(item).encode() for item in items]

    def prepare(self, epoch: int) -> list[bytes]:
        rows, self._open = self._open, []
        return rows

    def publish(self, epoch: int, rows: list[bytes]) -> Any:
        outside = self._outside
        if self._pending:
            self._pending -= 1
            return PENDING
        self._pending = outside.pending
        outside.call("publish", *self._shard, epoch)
        if epoch == outside.crash_in_epoch:
            outside.published += 1
            if outside.published == 2:
                raise SimulatedCrash
        generation, out = outside.markers[self._shard]
        if generation != self._generation:
            raise FencedError("too late")
        assert epoch > out, "published twice"
        outside.rows[self._shard[0]] += [eval(row) for row in rows]
        outside.markers[self._shard] = (generation, epoch)
        # A crash after the target has it, and before anybody knows.
        outside.disk.op("published", Path("target"))
        return None

    def published(self) -> int | None:
        self._outside.call("published", *self._shard)
        return self._outside.markers[self._shard][1]

    def close(self) -> None:
        self._outside.log.append(("close", *self._shard))


class TablePart(_Marked, StatelessSinkPartition[Any]):
    """Of a sink without named partitions."""


class Table(DynamicSink[Any]):
    delivery: Delivery = "exactly-once"
    part = TablePart

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def build(self, step_id: str, worker_index: int, worker_count: int) -> TablePart:
        self._outside.call("build", f"worker-{worker_index}", worker_count)
        return self.part(self._outside)


class LedgerPart(_Marked, StatefulSinkPartition[Any, int]):
    """With a name and a position besides the marker."""

    def __init__(self, outside: Outside, written: int) -> None:
        super().__init__(outside)
        self._written = written

    def write_batch(self, values: list[Any]) -> None:
        super().write_batch(values)
        self._written += len(values)

    def snapshot(self) -> int:
        return self._written


class Ledger(FixedPartitionedSink[Any, int]):
    delivery: Delivery = "exactly-once"

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def list_parts(self) -> list[str]:
        return self._outside.ledgers

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> LedgerPart:
        self._outside.call("build", for_part, resume_state)
        return LedgerPart(self._outside, resume_state or 0)


def flow_of(outside: Outside) -> Dataflow:
    """State, timers, positions, and all kinds of sinks that are exactly-once."""
    flow = Dataflow("flow")
    s = op.input("in", flow, Source(outside))
    total = op.stateful_map("sum", s, lambda total, v: ((total or 0) + v, (total or 0) + v))
    pairs = op.collect("pairs", s, timedelta(hours=1), 2)
    op.output("files", total, Files(outside))
    op.output("table", total, Table(outside))
    op.output("ledger", op.map_value("pair", pairs, tuple), Ledger(outside))
    return flow


def open_job(
    outside: Outside,
    workers: int,
    *,
    time: FakeTime | None = None,
    told: list[str] | None = None,
    flow_of: Callable[[Outside], Dataflow] = flow_of,
) -> JobStore:
    """Open the job's store for so many workers."""
    time = time or FakeTime()
    flow, disk = flow_of(outside), outside.disk
    world = StoreWorld(
        disk, MemoryTables(disk), time, Tokens(), time, (told if told is not None else []).append
    )
    return JobStore.open(_job(flow, workers), world)


def _job(flow: Dataflow, workers: int) -> RecoveredJob:
    planned = plan(flow, workers)
    return RecoveredJob(ROOT, flow, planned, deal_partitions(planned), create=True)


class Tokens:
    """Texts that are as good as random."""

    count = 0

    def token(self) -> str:
        Tokens.count += 1
        return f"token{Tokens.count}"


def run(
    outside: Outside,
    workers: int,
    job: JobStore | None = None,
    *,
    interval_s: float = 0.0,
    flow_of: Callable[[Outside], Dataflow] = flow_of,
) -> None:
    """Run the job to the end of its input, or into a crash."""
    job = job or open_job(outside, workers, flow_of=flow_of)
    options = SimOptions(workers=workers, epoch_interval=timedelta(seconds=interval_s))
    gang = Gang(plan(flow_of(outside), workers), 7, options, recovery=job)
    with clock_set_to(gang.now):
        gang.run()
    for worker in gang.workers:
        assert worker.close() == []
    job.close()


def crashed(workers: int, epoch: int = 4, *, pending: int = 0) -> Outside:
    """A job that has crashed when an epoch was committed, and out at one shard only."""
    outside = Outside(crash_in_epoch=epoch, pending=pending)
    with suppress(SimulatedCrash):
        run(outside, workers)
    assert outside.published == 2
    outside.crash_in_epoch = None
    outside.disk = outside.disk.after_crash(1)
    outside.log.clear()
    return outside


@contextmanager
def opened(outside: Outside, workers: int, **options: Any) -> Iterator[JobStore]:
    """An open store, closed again."""
    job = open_job(outside, workers, **options)
    try:
        yield job
    finally:
        job.close()


def contents(job: JobStore) -> dict[str, Any]:
    """State with timers and positions of all steps, each key being with its owner."""
    found: dict[str, Any] = {}
    for step_id in job._stores[0].manifest.steps:
        states = {}
        for worker, store in enumerate(job._stores):
            for key, row in store.scan_step(step_id):
                assert owner(key_group(key), len(job._stores)) == worker
                assert key not in states
                states[key] = (row.value, row.due_us)
        timers = [t for store in job._stores for t in store.scan_timers(step_id, FAR_US)]
        positions = {n: p.value for n, p in partitions_of(job._stores, step_id).items()}
        found[step_id] = (states, sorted(timers), positions)
    return found


def expected_sums() -> dict[str, list[int]]:
    """What the sums of each key are, in their order."""
    sums: dict[str, list[int]] = collections.defaultdict(list)
    for key, value in (record for records in PARTS.values() for record in records):
        sums[key].append((sums[key][-1] if sums[key] else 0) + value)
    return sums


def check_output(outside: Outside) -> None:
    """All of it is out, once, and in order of each key."""
    wanted = expected_sums()
    by_key = collections.defaultdict(list)
    for key, value in outside.rows["flow.table"]:
        by_key[key].append(value)
    assert by_key == wanted
    flat = sorted(value for file in outside.files.values() for value in file)
    assert flat == sorted(value for values in wanted.values() for value in values)
    pairs = sorted(value for pair in outside.rows["flow.ledger"] for value in pair)
    assert pairs == list(range(1, 17))
