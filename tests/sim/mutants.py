"""Ways to break the runtime on purpose, each of which the simulator's checks must notice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import InternalError
from engine.runtime import _batch
from engine.runtime._channel import Channel, Credit
from engine.runtime._coordinator import Coordinator
from engine.runtime._messages import Barrier, End
from engine.runtime._sink_node import SinkNode
from engine.runtime._source_node import SourceNode
from engine.runtime._stage import RunningStage, Sender, StageInput
from engine.runtime._worker import Worker
from engine.testing.sim._world import Line
from tests.sim.checks import check_cuts, check_outcome, check_queues
from tests.sim.mutant import Mutant


def check_flows(seed: int) -> None:
    """Run the random flow of a seed twice: to look at each epoch, and at what comes out."""
    check_cuts(seed)
    check_outcome(seed)


def _barrier_does_not_block(patch: pytest.MonkeyPatch) -> None:
    """Records that come after a channel's barrier are taken before the stage is aligned."""
    patch.setattr(StageInput, "ready", lambda _entry, _channel: True)


def _first_barrier_passes(patch: pytest.MonkeyPatch) -> None:
    """A stage sends the barrier on when the first of its channels has it."""
    whole = RunningStage.consume

    def consume(stage: RunningStage, entry: Any, channel: Channel, *rest: Any) -> bool:
        item = channel.items[0]
        if item.__class__ is not Barrier:
            return whole(stage, entry, channel, *rest)
        channel.items.popleft()
        return item.epoch == stage.progress.epoch

    patch.setattr(RunningStage, "consume", consume)


def _barrier_overtakes(patch: pytest.MonkeyPatch) -> None:
    """A barrier goes before the batches that wait in a channel."""

    def receive(worker: Worker, edge: Any, sender: Any, item: Any) -> None:
        items = worker.channels[edge, sender].items
        (items.appendleft if item.__class__ is Barrier else items.append)(item)

    patch.setattr(Worker, "receive", receive)


def _barriers_stop_after_end(patch: pytest.MonkeyPatch) -> None:
    """An edge on which the end was sent carries no more barriers."""
    broadcast = Sender.broadcast
    ended: list[Sender] = []

    def broadcast_once(sender: Sender, item: Any) -> None:
        if item.__class__ is End:
            ended.append(sender)
        elif any(sender is other for other in ended):
            return
        broadcast(sender, item)

    patch.setattr(Sender, "broadcast", broadcast_once)


def _end_swallowed(patch: pytest.MonkeyPatch) -> None:
    """The end that comes from the last worker is not noticed."""
    take = Channel.take

    def take_without_end(channel: Channel) -> Any:
        item = take(channel)
        if channel.sender == 1:
            channel.ended = False
        return item

    patch.setattr(Channel, "take", take_without_end)


def _end_of_one_is_end_of_all(patch: pytest.MonkeyPatch) -> None:
    """An input counts as ended when one of its senders has ended."""
    take = Channel.take
    all_of: dict[Any, StageInput] = {}
    ready = StageInput.ready

    def ready_noting(entry: StageInput, channel: Channel) -> bool:
        all_of[id(channel)] = entry
        return ready(entry, channel)

    def take_for_all(channel: Channel) -> Any:
        item = take(channel)
        if channel.ended:
            for other in all_of[id(channel)].channels:
                other.ended = True
        return item

    patch.setattr(StageInput, "ready", ready_noting)
    patch.setattr(Channel, "take", take_for_all)


def _credit_not_returned(patch: pytest.MonkeyPatch) -> None:
    """A receiver never tells the sender that there is room again."""
    patch.setattr(Worker, "credit", lambda *_: None)


def _batches_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A sender spends the bytes of a batch and not the batch."""
    spend = Credit.spend

    def spend_bytes(credit: Credit, nbytes: int) -> None:
        spend(credit, nbytes)
        credit.batches += 1

    patch.setattr(Credit, "spend", spend_bytes)


def _bytes_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A sender spends the batch and not its bytes."""
    spend = Credit.spend
    patch.setattr(Credit, "spend", lambda credit, _nbytes: spend(credit, 0))


def _bytes_not_given_back(patch: pytest.MonkeyPatch) -> None:
    """Credit that comes back is that of batches alone."""

    def give_back(credit: Credit, batches: int) -> None:
        credit.batches += batches

    patch.setattr(Credit, "give_back", give_back)


def _sink_not_awaited(patch: pytest.MonkeyPatch) -> None:
    """An epoch is prepared although a sink's flush is pending."""

    def prepare(node: SinkNode, epoch: Any) -> Iterator[None]:
        for name, part in node.parts.items():
            part.flush()
            rows = part.prepare(epoch)
            node._rows[name] = rows if isinstance(rows, list) else []
        yield

    patch.setattr(SinkNode, "prepare", prepare)


def _worker_goes_on_while_preparing(patch: pytest.MonkeyPatch) -> None:
    """A stage passes the barrier before its sinks have prepared."""
    prepare = SinkNode.prepare
    waiting: list[Iterator[None]] = []

    def prepare_later(node: SinkNode, epoch: Any) -> Iterator[None]:
        for old in waiting:
            yield from old
        waiting[:] = [prepare(node, epoch)]
        next(waiting[0], None)

    patch.setattr(SinkNode, "prepare", prepare_later)


def _committed_by_the_first(patch: pytest.MonkeyPatch) -> None:
    """An epoch counts as durable when the first worker has prepared it."""
    on_report = Coordinator.on_report

    def on_any_report(coordinator: Coordinator, worker: Any, report: Any, now_s: float) -> Any:
        coordinator._waiting_for &= {worker}
        try:
            return on_report(coordinator, worker, report, now_s)
        except InternalError:
            return []

    patch.setattr(Coordinator, "on_report", on_any_report)


def _not_published(patch: pytest.MonkeyPatch) -> None:
    """Of several partitions of a sink only one publishes."""
    publish = SinkNode.publish

    def publish_one(node: SinkNode, epoch: Any) -> Iterator[None]:
        if node._rows:
            name, rows = node._rows.popitem()
            node._rows = {name: rows}
        return publish(node, epoch)

    patch.setattr(SinkNode, "publish", publish_one)


def _source_not_held(patch: pytest.MonkeyPatch) -> None:
    """With no interval, a source is polled again before its last batch is committed."""
    poll_one = Worker._poll_one

    def poll_on(worker: Worker, *arguments: Any) -> float:
        wait_s = poll_one(worker, *arguments)
        worker._hold = False
        return wait_s

    patch.setattr(Worker, "_poll_one", poll_on)


def _position_noted_late(patch: pytest.MonkeyPatch) -> None:
    """Sources note their positions once everything is prepared, not at their barrier."""
    close_epoch, report = Worker._close_epoch, Worker._publish

    def close_without(worker: Worker, epoch: Any, *, final: bool) -> None:
        sources, worker._sources = worker._sources, []
        close_epoch(worker, epoch, final=final)
        worker._sources = sources

    def note_and_publish(worker: Worker, epoch: Any) -> Iterator[None]:
        worker._positions = [node.snapshot() for node, _ in worker._sources]
        return report(worker, epoch)

    patch.setattr(Worker, "_close_epoch", close_without)
    patch.setattr(Worker, "_publish", note_and_publish)


def _stops_with_the_first_end(patch: pytest.MonkeyPatch) -> None:
    """The last epoch begins when one worker has reached its end."""
    on_time = Coordinator.on_time

    def on_time_early(coordinator: Coordinator, now_s: float) -> Any:
        if coordinator._ended:
            coordinator._draining = True
        return on_time(coordinator, now_s)

    patch.setattr(Coordinator, "on_time", on_time_early)


def _link_reorders(patch: pytest.MonkeyPatch) -> None:
    """A link between two workers delivers the newest first."""

    def take(line: Line[Any]) -> Any:
        return line._items.pop()[1]

    patch.setattr(Line, "take", take)


def _outage_is_the_end(patch: pytest.MonkeyPatch) -> None:
    """A partition that can't be reached is never asked again."""

    def end(node: SourceNode, _reader: Any, _why: Any) -> float:
        del node._live[node._turn]
        return math.inf

    patch.setattr(SourceNode, "_without_batch", end)


def _lost_after_an_outage(patch: pytest.MonkeyPatch) -> None:
    """The first batch that comes after an outage goes nowhere."""
    ask_again = SourceNode._ask_again

    def drop(node: SourceNode, *arguments: Any) -> list[Any]:
        ask_again(node, *arguments)
        return []

    patch.setattr(SourceNode, "_ask_again", drop)


def _key_moves(patch: pytest.MonkeyPatch) -> None:
    """Records of a key go to whichever worker's turn it is."""
    turns: dict[int, int] = {}

    def divide(owners: Any, batch: list[Any], parts: list[list[Any]]) -> None:
        for record in batch:
            turns[id(owners)] = turns.get(id(owners), 0) + 1
            parts[turns[id(owners)] % owners._workers].append(record)

    patch.setattr(_batch.KeyOwners, "divide", divide)


def _dealt_twice(patch: pytest.MonkeyPatch) -> None:
    """`redistribute` gives the first record of a batch to one worker more."""
    deal = _batch.ListKind.deal

    def deal_more(kind: Any, batch: list[Any], first: Any, workers: int) -> list[list[Any]]:
        parts = deal(kind, batch, first, workers)
        parts[-1] = [batch[0], *parts[-1]] if workers > 1 else parts[-1]
        return parts

    patch.setattr(_batch.ListKind, "deal", deal_more)


def _part_lost(patch: pytest.MonkeyPatch) -> None:
    """Where a batch is parted among workers, the last one's part stays behind."""
    partition = _batch.ListKind.partition

    def partition_less(kind: Any, batch: list[Any], owners: Any, workers: int) -> list[list[Any]]:
        return [*partition(kind, batch, owners, workers)[:-1], []]

    patch.setattr(_batch.ListKind, "partition", partition_less)


MUTANTS = [
    *(
        Mutant(function.__name__.strip("_").replace("_", " "), function, check_flows)
        for function in (
            _barrier_does_not_block,
            _first_barrier_passes,
            _barrier_overtakes,
            _barriers_stop_after_end,
            _end_swallowed,
            _end_of_one_is_end_of_all,
            _credit_not_returned,
            _bytes_not_given_back,
            _sink_not_awaited,
            _worker_goes_on_while_preparing,
            _committed_by_the_first,
            _not_published,
            _source_not_held,
            _position_noted_late,
            _stops_with_the_first_end,
            _outage_is_the_end,
            _lost_after_an_outage,
            _link_reorders,
            _key_moves,
            _dealt_twice,
            _part_lost,
        )
    ),
    *(
        Mutant(function.__name__.strip("_").replace("_", " "), function, check_queues, seed)
        for function, seed in ((_batches_not_counted, 0), (_bytes_not_counted, 2))
    ),
]
