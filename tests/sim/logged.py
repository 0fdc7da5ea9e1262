"""Sources and sinks that write down what the runtime asks of them, and check that it may.

`Ledger` is the whole run's memory: what each partition was at when an epoch was cut, what it had
written by then, and which epochs were prepared and published, in the order in which it happened.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.connectors import (
    PENDING,
    DynamicSink,
    FixedPartitionedSink,
    FixedPartitionedSource,
    Pending,
    StatefulSinkPartition,
    StatefulSourcePartition,
    StatelessSinkPartition,
    UnavailableError,
)


class BrokenPromiseError(AssertionError):
    """The runtime did what it promises never to do."""


@dataclass
class Ledger:
    """What happened in one run.

    Attributes:
        rng: Draws how often a sink is not ready yet.
        positions: By source partition, its position at each epoch's cut.
        written: By leaf and sink partition, the records it got.
        cuts: By leaf and sink partition, how many records it had got when the epoch was prepared.
        published: By leaf and sink partition, the epochs that it has published.
        committed: By epoch, how many source partitions have heard that it is durable.
        polls: By source partition, how many batches with records it gave between cuts.
        opened_late: Sink partitions that were opened at their first record.
    """

    rng: random.Random
    positions: dict[str, list[int]] = field(default_factory=dict)
    written: dict[int, dict[str, list[Any]]] = field(default_factory=dict)
    cuts: dict[tuple[int, str], dict[int, int]] = field(default_factory=dict)
    published: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    polls: dict[str, list[int]] = field(default_factory=dict)
    opened_late: set[tuple[int, str]] = field(default_factory=set)

    def all_prepared(self, epoch: int) -> bool:
        """Whether all sink partitions have prepared it, less those opened after that."""
        return all(
            epoch in cuts or (part in self.opened_late and epoch < min(cuts, default=epoch + 1))
            for part, cuts in self.cuts.items()
        )

    def epochs(self) -> list[int]:
        """All epochs that were cut."""
        return list(range(1, 1 + min(map(len, self.positions.values()), default=0)))


def require(holds: bool, what: str) -> None:
    """A promise of the runtime."""
    if not holds:
        raise BrokenPromiseError(what)


class LoggedSource(FixedPartitionedSource[Any, int]):
    """Records dealt over two partitions by key, so that the order of a key and origin is kept."""

    def __init__(self, name: str, parts: dict[str, list[Any]], ledger: Ledger) -> None:
        self._name = name
        self._parts = parts
        self._ledger = ledger

    def list_parts(self) -> list[str]:
        return list(self._parts)

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSourcePartition[Any, int]:
        del step_id, resume_state
        name = f"{self._name}-{for_part}"
        return _SourcePart(name, self._parts[for_part], self._ledger)


class _SourcePart(StatefulSourcePartition[Any, int]):
    def __init__(self, name: str, records: list[Any], ledger: Ledger) -> None:
        self._name = name
        self._records = records
        self._ledger = ledger
        self._next = 0
        ledger.positions[name] = []
        ledger.polls[name] = [0]

    def next_batch(self) -> Iterable[Any]:
        if self._next >= len(self._records):
            raise StopIteration
        if self._ledger.rng.random() < 0.2:
            return []
        if self._ledger.rng.random() < 0.05:
            raise UnavailableError("not now")
        size = self._ledger.rng.choice([1, 2, 4])
        batch = self._records[self._next : self._next + size]
        self._next += len(batch)
        self._ledger.polls[self._name][-1] += 1
        return batch

    def snapshot(self) -> int:
        self._ledger.positions[self._name].append(self._next)
        self._ledger.polls[self._name].append(0)
        return self._next

    def on_commit(self, state: int) -> None:
        committed = self._ledger.committed
        positions = self._ledger.positions[self._name]
        epoch = len(positions)
        require(state == positions[-1], f"{self._name} hears of another position than its last")
        require(self._ledger.all_prepared(epoch), "committed before all had prepared")
        committed[epoch] = committed.get(epoch, 0) + 1


class _SinkPart:
    """A sink partition that keeps the contract only if the runtime keeps it too."""

    def __init__(self, leaf: int, name: str, ledger: Ledger) -> None:
        self._ledger = ledger
        self._written = ledger.written.setdefault(leaf, {}).setdefault(name, [])
        self._cuts = ledger.cuts.setdefault((leaf, name), {})
        self._published = ledger.published.setdefault((leaf, name), [])
        self._flushed = True
        self._preparing = False
        self._rows: dict[int, list[bytes]] = {}

    def write(self, records: list[Any]) -> None:
        require(not self._preparing, "a record was written between the flush and its prepare")
        self._flushed = False
        self._written.extend(records)

    def flush(self) -> Pending | None:
        self._preparing = True
        if self._ledger.rng.random() < 0.4:
            return PENDING
        self._flushed = True
        return None

    def prepare(self, epoch: int) -> list[bytes] | Pending:
        require(self._flushed, "prepared while a flush was pending")
        require(epoch == max(self._cuts, default=epoch - 1) + 1, "epochs are not in turn")
        if self._ledger.rng.random() < 0.3:
            return PENDING
        self._preparing = False
        self._cuts[epoch] = len(self._written)
        self._rows[epoch] = [b"%d" % epoch, b"%d" % len(self._written)]
        return self._rows[epoch]

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        require(rows == self._rows.get(epoch), "published other rows than were prepared")
        require(self._ledger.all_prepared(epoch), "published before all had prepared")
        if self._ledger.rng.random() < 0.3:
            return PENDING
        del self._rows[epoch]
        self._published.append(epoch)
        return None


class _WholePart(_SinkPart, StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        self.write(items)


class _ValuesPart(_SinkPart, StatefulSinkPartition[Any, int]):
    def write_batch(self, values: list[Any]) -> None:
        self.write(values)

    def snapshot(self) -> int:
        return len(self._written)


class LoggedSink(DynamicSink[Any]):
    """A sink with a partition per worker."""

    def __init__(self, leaf: int, ledger: Ledger) -> None:
        self._leaf = leaf
        self._ledger = ledger

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[Any]:
        del step_id, worker_count
        return _WholePart(self._leaf, str(worker_index), self._ledger)


class LoggedPartitionedSink(FixedPartitionedSink[Any, int]):
    """A sink with three partitions."""

    def __init__(self, leaf: int, ledger: Ledger) -> None:
        self._leaf = leaf
        self._ledger = ledger

    def list_parts(self) -> list[str]:
        return ["x", "y", "z"]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSinkPartition[Any, int]:
        del step_id, resume_state
        self._ledger.opened_late.add((self._leaf, for_part))
        return _ValuesPart(self._leaf, for_part, self._ledger)
