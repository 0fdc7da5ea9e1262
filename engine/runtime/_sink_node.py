"""The node of an `output` step, and its part in an epoch: flush, prepare, publish.

Nothing here blocks: what a sink says `PENDING` to is asked again in the worker's next round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.connectors import (
    PENDING,
    FixedPartitionedSink,
    SinkPartition,
    SinkSession,
    StatefulSinkPartition,
)
from engine.errors import ConnectorError
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._shown import shown
from engine.runtime._ids import Epoch
from engine.runtime._nodes import Node
from engine.runtime._settling import KnownShard, as_partition
from engine.runtime._store import StepChanges, Store


@dataclass(frozen=True, slots=True)
class Job:
    """Which run of which job is going on: what sinks tell each other's publishing apart by."""

    store_id: str
    """Random, of the store; of the run, where there is no store."""
    generation: int = 1


class SinkNode(Node):
    """What both kinds of sink have in common; subclasses say how batches reach partitions."""

    def __init__(self, step_id: str, job: Job, inputs: int) -> None:
        super().__init__(step_id, inputs)
        self.parts: dict[str, SinkPartition[Any]] = {}
        self._job = job
        self._rows: dict[str, list[bytes]] = {}
        self._positions: dict[str, Any] = {}
        self._out: dict[str, int | None] = {}

    def push(self, batch: list[Any]) -> None:
        """Write a batch."""
        raise NotImplementedError

    def take(self, name: str, part: Any) -> Any:
        """Take over a partition that was just built: write it, and close it in the end."""
        self.parts[name] = as_partition(name, part)
        part.begin(SinkSession(self._job.store_id, self._job.generation, self.step_id, name))
        self._out[name] = part.published()
        return part

    def prepare(self, epoch: Epoch) -> Iterator[None]:
        """Flush, prepare and snapshot all partitions; yields as often as one is pending."""
        for name, part in self.parts.items():
            while part.flush() is PENDING:
                yield
            while (rows := part.prepare(epoch)) is PENDING:
                yield
            self._rows[name] = self._checked(name, rows)
            if isinstance(part, StatefulSinkPartition):
                self._positions[name] = part.snapshot()  # pyright: ignore[reportUnknownMemberType]

    def changes(self) -> StepChanges:
        """What to save of the epoch that was just prepared."""
        return StepChanges(self.step_id, positions=self._positions, kept_rows=self._rows)

    def settle(self, store: Store) -> Iterator[None]:
        """Before the first record of a run: publish what an earlier one committed and did not.

        Raises:
            InconsistentPartitionsError: The target's marker can't be right.
        """
        for name, part in self.parts.items():
            rows, noted = store.kept_rows(self.step_id, name), store.published(self.step_id, name)
            known = KnownShard(self.step_id, name, store.epoch, noted, rows)
            if known.is_behind(self._out[name]):
                while part.publish(store.epoch, rows) is PENDING:
                    yield

    def marked_shards(self) -> list[str]:
        """The shards that keep a marker at the target."""
        return [name for name, out in self._out.items() if out is not None]

    def publish(self, epoch: Epoch) -> Iterator[None]:
        """Publish what was prepared for a durable epoch; yields while a partition is pending."""
        rows, self._rows = self._rows, {}
        for name, kept in rows.items():
            while self.parts[name].publish(epoch, kept) is PENDING:
                yield

    def _checked(self, name: str, rows: Any) -> list[bytes]:
        if not isinstance(rows, list) or not all(isinstance(row, bytes) for row in rows):  # pyright: ignore[reportUnknownVariableType]
            got = shown(rows)  # pyright: ignore[reportUnknownArgumentType]
            msg = f"`prepare` of partition {name!r} must return a list of `bytes`; got {got}"
            raise ConnectorError(msg)
        return rows  # pyright: ignore[reportUnknownVariableType]

    def closers(self) -> list[Callable[[], None]]:
        """What closes the partitions, one by one."""
        return [part.close for part in self.parts.values()]

    def finish(self) -> None:
        """Nothing is downstream of a sink."""


class DynamicSinkNode(SinkNode):
    """A sink of which this worker has one partition, which takes whole records."""

    def open(self, worker_index: int, part: Any) -> None:
        """Take over the worker's partition."""
        self._write_batch = self.take(f"worker-{worker_index}", part).write_batch

    def push(self, batch: list[Any]) -> None:
        """Write a batch."""
        self._write_batch(batch)


class PartitionedSinkNode(SinkNode):
    """A sink of named partitions, which take the values of ``(key, value)`` records.

    Args:
        step_id: The output step.
        sink: The sink.
        names: All partitions of all workers, sorted.
        job: Which run of which job this is.
        inputs: How many edges lead here.
    """

    def __init__(
        self,
        step_id: str,
        sink: FixedPartitionedSink[Any, Any],
        names: list[str],
        job: Job,
        inputs: int,
    ) -> None:
        super().__init__(step_id, job, inputs)
        self._sink = sink
        self._names = names

    def push(self, batch: list[Any]) -> None:
        """Sort values by partition and write each partition's share."""
        part_fn, count = self._sink.part_fn, len(self._names)
        shares: dict[int, list[Any]] = {}
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            key, value = record
            if key.__class__ is not str:
                check_key(key)
            number = 0 if count == 1 else part_fn(key) % count
            share = shares.get(number)
            if share is None:
                shares[number] = [value]
            else:
                share.append(value)
        for number, values in shares.items():
            self._open(self._names[number]).write_batch(values)

    def _open(self, name: str) -> Any:
        """The partition of that name, built at its first record."""
        part = self.parts.get(name)
        if part is None:
            part = self.open(name, None)
        return part

    def open(self, name: str, position: Any) -> Any:
        """Build the partition of that name, to go on from a position."""
        return self.take(name, self._sink.build_part(self.step_id, name, position))
