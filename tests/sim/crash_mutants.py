"""Ways to break the protocol and the store, each of which crashes must bring to light.

Each patches the real code. How some of it was broken until a seed showed it is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from engine.connectors import SinkSession
from engine.operators import _state_ttl
from engine.operators._state import KeyedState
from engine.operators._state_ttl import ExpiringState
from engine.recovery import _opening
from engine.recovery._apply import Applier
from engine.recovery._chain import ManifestChain
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._layout import StorePaths
from engine.recovery._log import LogWriter
from engine.recovery._log_reader import _records, segments_in
from engine.recovery._manifest import encode_manifest
from engine.recovery._opening import WorkerSpot, read_worker
from engine.recovery._overlay import Overlay
from engine.recovery._records import RecordKind
from engine.recovery._rescale import _Dealer
from engine.recovery._rows import TIMER, state_keys
from engine.runtime import _recovery
from engine.runtime._coordinator import Coordinator
from engine.runtime._messages import End, Published
from engine.runtime._settling import KnownShard
from engine.runtime._sink_node import PartitionedSinkNode, SinkNode
from engine.runtime._source_node import SourceNode
from engine.runtime._stage import Sender, StageInput
from engine.runtime._store_start import _Start
from engine.runtime._worker import Worker
from tests.sim.crash_job import MarkedPart
from tests.sim.crashes import check_store
from tests.sim.mutant import Mutant
from tests.sim.takeovers import check_takeovers

Patch = pytest.MonkeyPatch

# Epochs


def _skip_alignment(patch: Patch) -> None:
    patch.setattr(StageInput, "ready", lambda _entry, _channel: True)


def _stop_barriers_at_the_end(patch: Patch) -> None:
    broadcast = Sender.broadcast
    ended: dict[int, Sender] = {}

    def until_the_end(self: Sender, item: Any) -> None:
        if id(self) not in ended:
            broadcast(self, item)
        if isinstance(item, End):
            ended[id(self)] = self

    patch.setattr(Sender, "broadcast", until_the_end)


def _commit_before_all_are_prepared(patch: Patch) -> None:
    heard = Coordinator._heard
    seen: list[Coordinator] = []

    def first_will_do(self: Coordinator, worker: Any, epoch: Any, phase: Any) -> bool:
        if phase is not self.phase or epoch != self.epoch:
            return False
        seen.append(self)
        heard(self, worker, epoch, phase)
        return True

    patch.setattr(Coordinator, "_heard", first_will_do)


def _forget_stateless_sinks(patch: Patch) -> None:
    prepare = SinkNode.prepare

    def stateful_only(self: SinkNode, epoch: Any) -> Iterator[None]:
        if isinstance(self, PartitionedSinkNode):
            yield from prepare(self, epoch)

    patch.setattr(SinkNode, "prepare", stateful_only)


def _flush_no_sinks(patch: Patch) -> None:
    from tests.sim.crash_job import CutPart  # noqa: PLC0415

    patch.setattr(CutPart, "flush", lambda _: None)


def _acknowledge_what_is_prepared(patch: Patch) -> None:
    prepared = Worker._prepared

    def and_tell(self: Worker, epoch: Any) -> None:
        prepared(self, epoch)
        for (node, _), position in zip(self._sources, self._positions, strict=True):
            node.on_commit(position)

    patch.setattr(Worker, "_prepared", and_tell)


def _stay_at_first_positions(patch: Patch) -> None:
    first: dict[int, Any] = {}
    snapshot = SourceNode.snapshot
    patch.setattr(SourceNode, "snapshot", lambda self: first.setdefault(id(self), snapshot(self)))


# Generations


def _forget_what_was_not_reached(patch: Patch) -> None:
    def opened(self: SourceNode) -> dict[str, Any]:
        return {r.name: r.part.snapshot() for r in self._readers if r.part is not None}  # type: ignore[attr-defined] # all of the job's have one

    patch.setattr(SourceNode, "snapshot", opened)


def _do_not_fence_commits(patch: Patch) -> None:
    link = ManifestChain.link

    def next_free(self: ManifestChain, manifest: Any) -> None:
        last = max(self.numbers(), default=0)
        link(self, replace(manifest, seq=max(manifest.seq, last + 1)))

    patch.setattr(ManifestChain, "link", next_free)


def _drop_log_before_claiming(patch: Patch) -> None:
    claim = _Start.claim

    def after_dropping(self: _Start) -> Any:
        manifest, disk = self._folder.manifest, self._world.disk
        if manifest is not None and manifest.epoch:
            for index in map(WorkerIndex, range(manifest.workers)):
                spot = WorkerSpot(disk, self._world.tables, self._root, index)
                folder = StorePaths(self._root).worker(manifest.shards, index)
                for name in read_worker(spot, manifest, folder)[1].leftovers:
                    disk.unlink(folder / "log" / name)
        return claim(self)

    patch.setattr(_Start, "claim", after_dropping)


# The log and the table


def _prepare_without_a_sync(patch: Patch) -> None:
    patch.setattr(LogWriter, "_sync", lambda *_: None)


def _link_without_a_sync(patch: Patch) -> None:
    def link(self: ManifestChain, manifest: Any) -> None:
        file = self._disk.create(self._temporary)
        file.write(encode_manifest(manifest))
        file.sync()
        self._disk.link(self._temporary, self.path(manifest.seq))
        self._disk.unlink(self._temporary)

    patch.setattr(ManifestChain, "link", link)


def _keep_what_was_not_committed(patch: Patch) -> None:
    read_log = _opening.read_log

    def with_all(disk: Any, folder: Any, identity: Any, target: Any) -> Any:
        contents = read_log(disk, folder, identity, target)
        for name in segments_in(disk, folder):
            for record in _records(disk.read(folder / str(name)))[0]:
                if record.kind is RecordKind.CHANGES and record.epoch > target.committed:
                    contents.epochs.setdefault(target.committed, []).append(record.payload)
        return contents

    patch.setattr(_opening, "read_log", with_all)


def _collect_log_that_is_not_flushed(patch: Patch) -> None:
    look = Applier.look_after_flush

    def eagerly(self: Applier, log: LogWriter, committed: Any) -> None:
        look(self, log, committed)
        log.collect(Epoch(min(self.applied.epoch, committed - 1)))

    patch.setattr(Applier, "look_after_flush", eagerly)


def _collect_rows_that_are_not_out(patch: Patch) -> None:
    def with_the_last(self: Applier, log: LogWriter, committed: Any) -> None:
        if self._flushing is not None:
            self.flushed, self._flushing = self._flushing, None
        log.collect(Epoch(min(self.flushed, committed)))

    patch.setattr(Applier, "_end_flush", with_the_last)


def _mark_before_applying(patch: Patch) -> None:
    apply = Applier._apply

    def mark_first(self: Applier, layer: Any, through: Any) -> Iterator[None]:
        self._mark(replace(self.applied, epoch=through))
        yield from apply(self, layer, through)

    patch.setattr(Applier, "_apply", mark_first)


# State


def _save_no_state(patch: Patch) -> None:
    barrier = KeyedState.barrier
    patch.setattr(KeyedState, "barrier", lambda self: replace(barrier(self), keys=[], stored=[]))


def _forget_discarded_keys(patch: Patch) -> None:
    barrier = KeyedState.barrier
    patch.setattr(KeyedState, "barrier", lambda self: replace(barrier(self), gone=[]))


def _evict_before_applied(patch: Patch) -> None:
    """States that were evicted are read from the table, whatever waits to be applied."""

    def from_table(find: Callable[..., Any]) -> Callable[..., Any]:
        def find_there(self: Any, keys: Any) -> Any:
            store = self._worker
            overlay, store._overlay = store._overlay, Overlay()
            try:
                return find(self, keys)
            finally:
                store._overlay = overlay

        return find_there

    state = _recovery._StepState
    patch.setattr(state, "load", from_table(state.load))
    patch.setattr(state, "load_many", from_table(state.load_many))


def _expire_outside_the_log(patch: Patch) -> None:
    """States whose time is over are deleted from the table at once, whether it commits or not."""
    expire = ExpiringState.expire

    def at_once(self: ExpiringState) -> None:
        before = set(self._gone)
        expire(self)
        stored: Any = self._stored
        step = stored._worker._number(stored._step_id)
        stored._worker._table.write([], state_keys(step, [*(self._gone - before)]))

    patch.setattr(ExpiringState, "expire", at_once)


def _save_no_stamps(patch: Patch) -> None:
    patch.setattr(_state_ttl, "stamped_all", lambda states, _stamps: states)


# Sinks


def _publish_early(patch: Patch) -> None:
    prepare = SinkNode.prepare

    def eager(self: SinkNode, epoch: Any) -> Iterator[None]:
        yield from prepare(self, epoch)
        yield from self.publish(epoch)

    patch.setattr(SinkNode, "prepare", eager)


def _go_on_before_all_is_published(patch: Patch) -> None:
    publish = Worker._publish

    def say_so_at_once(self: Worker, epoch: Any) -> Iterator[None]:
        self.reports.append(Published(epoch))
        yield from publish(self, epoch)
        self.reports.pop()

    patch.setattr(Worker, "_publish", say_so_at_once)


def _publish_nothing_after_a_crash(patch: Patch) -> None:
    patch.setattr(SinkNode, "settle", lambda *_: iter(()))


def _publish_again_without_asking(patch: Patch) -> None:
    patch.setattr(KnownShard, "is_behind", lambda _self, out: out is not None)


def _do_not_fence_sinks(patch: Patch) -> None:
    patch.setattr(MarkedPart, "begin", lambda *_: None)


def _settle_before_fencing(patch: Patch) -> None:
    settle = SinkNode.settle

    def take(self: SinkNode, name: str, part: Any) -> Any:
        self.parts[name] = part
        self._out[name] = part.published()
        return part

    def begin_and_settle(self: SinkNode, store: Any) -> Iterator[None]:
        job = self._job
        for name, part in self.parts.items():
            part.begin(SinkSession(job.store_id, job.generation, self.step_id, name))
        yield from settle(self, store)

    patch.setattr(SinkNode, "take", take)
    patch.setattr(SinkNode, "settle", begin_and_settle)


def _cut_files_only_when_written(patch: Patch) -> None:
    opened = PartitionedSinkNode.open

    def lazily(self: PartitionedSinkNode, name: str, position: Any) -> Any:
        return None if position is not None else opened(self, name, None)

    patch.setattr(PartitionedSinkNode, "open", lazily)


def _open_sinks_without_looking(patch: Patch) -> None:
    patch.setattr(ManifestChain, "check_in_force", lambda *_: None)


# Another number of workers


def _reshard_by_worker(patch: Patch) -> None:
    routed = _Dealer._routed
    dealt: dict[int, list[Any]] = {}

    def by_worker(self: _Dealer, source: Any) -> Iterator[Any]:
        sources = dealt.setdefault(id(self), [self])
        sources.append(source)
        for row, _ in routed(self, source):
            yield row, len(sources) % self._after.workers

    patch.setattr(_Dealer, "_routed", by_worker)


def _reshard_without_timers(patch: Patch) -> None:
    routed = _Dealer._routed

    def some(self: _Dealer, source: Any) -> Iterator[Any]:
        for (key, value), target in routed(self, source):
            if key[:1] == TIMER:
                self._dealt[key[:1], int.from_bytes(key[1:3], "big")] -= 1
            else:
                yield (key, value), target

    patch.setattr(_Dealer, "_routed", some)


def _reshard_without_settling(patch: Patch) -> None:
    patch.setattr(_Start, "settle", lambda _: None)


CRASH_MUTANTS = [
    *(
        Mutant(function.__name__.strip("_").replace("_", " "), function, check_store, seed)
        for function, seed in (
            (_skip_alignment, 13),
            (_stop_barriers_at_the_end, 1),
            (_commit_before_all_are_prepared, 1),
            (_forget_stateless_sinks, 0),
            (_flush_no_sinks, 1),
            (_acknowledge_what_is_prepared, 3),
            (_stay_at_first_positions, 0),
            (_forget_what_was_not_reached, 237),
            (_do_not_fence_commits, 3),
            (_drop_log_before_claiming, 19),
            (_prepare_without_a_sync, 2),
            (_link_without_a_sync, 0),
            (_keep_what_was_not_committed, 3),
            (_collect_log_that_is_not_flushed, 2),
            (_collect_rows_that_are_not_out, 11),
            (_mark_before_applying, 0),
            (_save_no_state, 0),
            (_forget_discarded_keys, 0),
            (_evict_before_applied, 0),
            (_expire_outside_the_log, 1),
            (_save_no_stamps, 1),
            (_publish_early, 0),
            (_go_on_before_all_is_published, 0),
            (_publish_nothing_after_a_crash, 2),
            (_publish_again_without_asking, 0),
            (_do_not_fence_sinks, 9),
            (_settle_before_fencing, 59),
            (_cut_files_only_when_written, 1),
            (_reshard_by_worker, 1),
            (_reshard_without_timers, 17),
            (_reshard_without_settling, 9),
        )
    ),
    Mutant("open sinks without looking", _open_sinks_without_looking, check_takeovers, 299),
]
