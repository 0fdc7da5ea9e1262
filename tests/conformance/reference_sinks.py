"""Sinks that write to the lists of a `World`: the least that each kind of contract asks for.

They show how the contract is meant, and prove that the suite accepts what it should: sinks as
Bytewax knows them, one that the epoch has to wait for, and one that publishes exactly once.
"""

from __future__ import annotations

from engine.connectors import (
    PENDING,
    Delivery,
    DynamicSink,
    FencedError,
    FixedPartitionedSink,
    Pending,
    SinkSession,
    StatefulSinkPartition,
    StatelessSinkPartition,
)
from tests.conformance.world import World


class _PlainPart(StatelessSinkPartition[str]):
    def __init__(self, target: list[str]) -> None:
        self._target = target

    def write_batch(self, items: list[str]) -> None:
        self._target += items


class PlainSink(DynamicSink[str]):
    """As a Bytewax user writes it: `build` and `write_batch`."""

    def __init__(self, world: World) -> None:
        self._target = world.memory.setdefault("plain", [])

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _PlainPart:
        """Give the writer."""
        del step_id, worker_index, worker_count
        return _PlainPart(self._target)


class _TruncatingPart(StatefulSinkPartition[str, int]):
    def __init__(self, target: list[str], length: int) -> None:
        del target[length:]
        self._target = target

    def write_batch(self, values: list[str]) -> None:
        self._target += values

    def snapshot(self) -> int:
        return len(self._target)


class TruncatingSink(FixedPartitionedSink[str, int]):
    """As a Bytewax user writes it, with partitions that go back to their state."""

    delivery: Delivery = "exactly-once"

    def __init__(self, world: World) -> None:
        self._memory = world.memory

    def list_parts(self) -> list[str]:
        """Name three parts."""
        return ["one", "two", "three"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _TruncatingPart:
        """Cut the part's list to its state."""
        del step_id
        return _TruncatingPart(self._memory.setdefault(for_part, []), resume_state or 0)


class _AcknowledgedPart(StatelessSinkPartition[str]):
    """Sends at a flush, and learns only when asked again that all has arrived."""

    def __init__(self, target: list[str]) -> None:
        self._target = target
        self._unsent: list[str] = []
        self._in_flight: list[str] = []

    def write_batch(self, items: list[str]) -> None:
        self._unsent += items

    def flush(self) -> Pending | None:
        self._target += self._in_flight
        self._in_flight, self._unsent = self._unsent, []
        return PENDING if self._in_flight else None


class AcknowledgedSink(DynamicSink[str]):
    """At-least-once, with an epoch that waits for acknowledgements."""

    def __init__(self, world: World) -> None:
        self._target = world.memory.setdefault("acknowledged", [])

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _AcknowledgedPart:
        """Give the writer."""
        del step_id, worker_index, worker_count
        return _AcknowledgedPart(self._target)


class LedgerPart(StatelessSinkPartition[str]):
    """Gives its records away as rows, and writes rows and marker in one go."""

    def __init__(self, memory: dict[str, list[str]]) -> None:
        self._memory = memory
        self._target = memory.setdefault("ledger", [])
        self._unpublished: list[str] = []
        self._asked: set[tuple[str, int]] = set()

    def begin(self, session: SinkSession) -> None:
        """Claim the marker, which is two texts: a generation and an epoch."""
        self._generation = session.generation
        name = f"marker {session.store_id} {session.step_id} {session.shard}"
        self._marker = self._memory.setdefault(name, ["0", "0"])
        self._refuse_if_fenced()
        self._marker[0] = str(session.generation)

    def write_batch(self, items: list[str]) -> None:
        """Keep items for `prepare`."""
        self._unpublished += items

    def prepare(self, epoch: int) -> list[bytes] | Pending:
        """Give the items away, at the second question."""
        if self._is_first_question("prepare", epoch):
            return PENDING
        rows = [item.encode() for item in self._unpublished]
        self._unpublished.clear()
        return rows

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        """Write rows and marker, at the second question."""
        if self._is_first_question("publish", epoch):
            return PENDING
        self._refuse_if_fenced()
        self._target += [row.decode() for row in rows]
        self._marker[1] = str(epoch)
        return None

    def published(self) -> int | None:
        """Read the marker."""
        return int(self._marker[1])

    def _refuse_if_fenced(self) -> None:
        if int(self._marker[0]) > self._generation:
            msg = f"generation {self._marker[0]} has taken over"
            raise FencedError(msg)

    def _is_first_question(self, call: str, epoch: int) -> bool:
        question = (call, epoch)
        is_first = question not in self._asked
        self._asked.add(question)
        return is_first


class LedgerSink(DynamicSink[str]):
    """Exactly-once through `begin`, `prepare`, `publish` and a marker at the target."""

    delivery: Delivery = "exactly-once"
    part_class: type[LedgerPart] = LedgerPart

    def __init__(self, world: World) -> None:
        self._memory = world.memory

    def build(self, step_id: str, worker_index: int, worker_count: int) -> LedgerPart:
        """Give the writer."""
        del step_id, worker_index, worker_count
        return self.part_class(self._memory)
