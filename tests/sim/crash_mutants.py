"""Ways to break the epoch protocol, each of which crashes must bring to light."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from engine.operators._state import KeyedState
from engine.runtime._channel import Channel
from engine.runtime._coordinator import Coordinator
from engine.runtime._messages import Barrier
from engine.runtime._sink_node import PartitionedSinkNode, SinkNode
from engine.runtime._source_node import SourceNode
from engine.runtime._stage import RunningStage
from tests.sim.model_store import ModelStore, World

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class CrashMutant:
    """One way to break the protocol."""

    name: str
    apply: Patch

    def __str__(self) -> str:
        return self.name


def _skip_alignment(patch: pytest.MonkeyPatch) -> None:
    take = Channel.take

    def unblocked(self: Channel) -> Any:
        item = take(self)
        self.blocked = False
        return item

    def pass_at_once(self: RunningStage, entry: Any, channel: Any, network: Any, me: Any) -> bool:
        aligned = consume(self, entry, channel, network, me)
        seen[id(self)] = seen.get(id(self), 0) + (1 if took_barrier.pop() else 0)
        total = len(self.channels)
        if seen[id(self)] == total:
            seen[id(self)] = 0
            return True
        return aligned

    def noted(self: Channel) -> Any:
        item = unblocked(self)
        took_barrier.append(item.__class__ is Barrier)
        return item

    seen: dict[int, int] = {}
    took_barrier: list[bool] = []
    consume = RunningStage.consume
    patch.setattr(Channel, "take", noted)
    patch.setattr(RunningStage, "consume", pass_at_once)


def _publish_early(patch: pytest.MonkeyPatch) -> None:
    prepare = SinkNode.prepare

    def eager(self: SinkNode, epoch: Any) -> Iterator[None]:
        yield from prepare(self, epoch)
        yield from self.publish(epoch)

    patch.setattr(SinkNode, "prepare", eager)


def _commit_before_all_are_prepared(patch: pytest.MonkeyPatch) -> None:
    heard = Coordinator._heard

    def first_will_do(self: Coordinator, worker: Any, epoch: Any, phase: Any) -> bool:
        if self.phase is not phase:
            return False
        heard(self, worker, epoch, phase)
        return True

    patch.setattr(Coordinator, "_heard", first_will_do)


def _forget_stateless_sinks(patch: pytest.MonkeyPatch) -> None:
    prepare = SinkNode.prepare

    def stateful_only(self: SinkNode, epoch: Any) -> Iterator[None]:
        if isinstance(self, PartitionedSinkNode):
            yield from prepare(self, epoch)

    patch.setattr(SinkNode, "prepare", stateful_only)


def _forget_discarded_keys(patch: pytest.MonkeyPatch) -> None:
    barrier = KeyedState.barrier
    patch.setattr(KeyedState, "barrier", lambda self: replace(barrier(self), gone=[]))


def _save_no_state(patch: pytest.MonkeyPatch) -> None:
    barrier = KeyedState.barrier
    patch.setattr(KeyedState, "barrier", lambda self: replace(barrier(self), keys=[], stored=[]))


def _positions_of_the_start(patch: pytest.MonkeyPatch) -> None:
    first: dict[int, Any] = {}
    snapshot = SourceNode.snapshot
    patch.setattr(SourceNode, "snapshot", lambda self: first.setdefault(id(self), snapshot(self)))


def _publish_nothing_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SinkNode, "settle", lambda *_: iter(()))


def _publish_again_without_asking(patch: pytest.MonkeyPatch) -> None:
    settle = SinkNode.settle

    def without_marker(self: SinkNode, store: Any) -> Iterator[None]:
        self._out = dict.fromkeys(self._out, 0)
        yield from settle(self, store)

    patch.setattr(SinkNode, "settle", without_marker)


def _keep_what_was_not_committed(patch: pytest.MonkeyPatch) -> None:
    begin = World.begin

    def with_all(self: World) -> list[ModelStore]:
        late = [
            changes
            for shard in self.shards
            for (_, epoch), changes in shard.log.items()
            if epoch > self.epoch
        ]
        stores = begin(self)
        if late:
            for store, encoded in zip(stores, late, strict=False):
                store.append_encoded(encoded)
        return stores

    patch.setattr(World, "begin", with_all)


def _cut_files_only_when_written(patch: pytest.MonkeyPatch) -> None:
    def lazily(self: PartitionedSinkNode, name: str, position: Any) -> Any:
        return None if position is not None else opened(self, name, None)

    opened = PartitionedSinkNode.open
    patch.setattr(PartitionedSinkNode, "open", lazily)


def _marker_apart_from_rows(patch: pytest.MonkeyPatch) -> None:
    """The sink's mistake, not the engine's: rows without the marker that tells of them."""
    from tests.sim.crash_job import MarkedPart  # noqa: PLC0415

    patch.setattr(MarkedPart, "published", lambda _: 0)


CRASH_MUTANTS = [
    CrashMutant("skip alignment", _skip_alignment),
    CrashMutant("publish before the commit", _publish_early),
    CrashMutant("commit before all are prepared", _commit_before_all_are_prepared),
    CrashMutant("forget stateless sinks", _forget_stateless_sinks),
    CrashMutant("forget that keys were discarded", _forget_discarded_keys),
    CrashMutant("save no state", _save_no_state),
    CrashMutant("sources stay at their first position", _positions_of_the_start),
    CrashMutant("publish nothing after a crash", _publish_nothing_after_a_crash),
    CrashMutant("publish again without asking the marker", _publish_again_without_asking),
    CrashMutant("keep what was not committed", _keep_what_was_not_committed),
    CrashMutant("cut files only when they are written", _cut_files_only_when_written),
    CrashMutant("a marker that isn't read", _marker_apart_from_rows),
]
