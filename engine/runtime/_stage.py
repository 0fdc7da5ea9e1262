"""One stage on one worker: its nodes, what feeds them from other stages, what leaves it.

Built by `engine.runtime._build`. The worker runs it by taking items out of its channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.operators._state import KeyedState
from engine.operators._state_ttl import ExpiringState
from engine.runtime._batch import Owners, kind_of
from engine.runtime._channel import Channel, Credit, Room
from engine.runtime._counts import StepCounts
from engine.runtime._failures import StepFailures
from engine.runtime._frames import TooLongError
from engine.runtime._ids import EdgeId, Epoch, StageIndex, WorkerIndex
from engine.runtime._messages import END, LEFT_OUT_US, Barrier, CaughtUp, End, Watermark
from engine.runtime._nodes import KeyedNode, Node, Target
from engine.runtime._ports import Network
from engine.runtime._sink_node import SinkNode
from engine.runtime._source_node import SourceNode
from engine.runtime._task_node import TaskNode
from engine.runtime._watermarks import StageClocks, StepWatermark

_RECORDS_MAX = 1000
"""Larger batches go to other workers in pieces, so that those can begin with the first."""
_PIECE_BYTES = 256 << 10
"""As do batches that seem to be larger than this, down to pieces of one record."""


def have_room(senders: Sequence[Sender]) -> bool:
    """Whether what a batch becomes could be sent on, on whichever of these edges."""
    return all(sender.has_room() for sender in senders)


class _Framed:
    """How large records of an edge are in frames, on the average of the last thousand or so."""

    __slots__ = ("_nbytes", "_records")

    def __init__(self) -> None:
        self._records = 1
        self._nbytes = 0

    def note(self, records: int, nbytes: int) -> None:
        """So many records have become a frame of that size."""
        self._records += records
        self._nbytes += nbytes
        while self._records > _RECORDS_MAX:
            self._records >>= 1
            self._nbytes >>= 1

    def nbytes_of(self, records: int) -> int:
        """How large so many would be."""
        return self._nbytes * records // self._records


class Sender:
    """The outgoing half of an edge: divides batches among workers and keeps their credit.

    Args:
        edge: The edge.
        worker: This worker.
        receivers: The workers that the edge leads to; only this one for a local edge.
        owners: Gives the receiver of a record; None deals records evenly.
        network: Carries what is sent.
        room: What each channel may hold.
    """

    def __init__(
        self,
        edge: EdgeId,
        worker: WorkerIndex,
        receivers: Sequence[WorkerIndex],
        owners: Owners | None,
        network: Network,
        room: Room,
    ) -> None:
        self.edge = edge
        self.producer: str | None = None
        """The step that makes what is sent, for messages about it."""
        self._worker = worker
        self._receivers = tuple(receivers)
        self._owners = owners
        self._network = network
        self.credits = {receiver: Credit(room) for receiver in receivers}
        self._first = WorkerIndex(0)
        self._framed = _Framed()

    def spend_all(self) -> None:
        """Send nothing before the receivers give credit: as they do when they have room."""
        for credit in self.credits.values():
            for _ in range(credit.batches):
                credit.spend(0)

    def has_room(self) -> bool:
        """Whether every channel takes another batch."""
        for credit in self.credits.values():
            if credit.batches <= 0 or credit.nbytes <= 0:
                return False
        return True

    def push(self, batch: list[Any]) -> None:
        """Send a batch, to each worker its part."""
        if len(self._receivers) == 1:
            self._send(self._receivers[0], batch)
            return
        workers = len(self._receivers)
        if self._owners is None:
            parts = kind_of(batch).deal(batch, self._first, workers)
            self._first = WorkerIndex((self._first + len(batch)) % workers)
        else:
            parts = kind_of(batch).partition(batch, self._owners, workers)
        for receiver, part in zip(self._receivers, parts, strict=True):
            if part:
                self._send(receiver, part)

    def _send(self, receiver: WorkerIndex, batch: list[Any]) -> None:
        kind, count = kind_of(batch), len(batch)
        # The estimate doesn't look deep into records. Where some became frames, these tell more.
        nbytes = max(kind.nbytes(batch), self._framed.nbytes_of(count))
        records = _RECORDS_MAX
        if nbytes > _PIECE_BYTES:
            records = min(records, max(1, _PIECE_BYTES * count // nbytes))
        if count > records and receiver != self._worker:
            for piece in kind.pieces(batch, records):
                self._send_one(receiver, piece, nbytes * len(piece) // count)
        else:
            self._send_one(receiver, batch, nbytes)

    def _send_one(self, receiver: WorkerIndex, batch: list[Any], nbytes: int) -> None:
        # For `engine.runtime._failure` to find.
        step_id = self.producer  # noqa: F841 # pyright: ignore[reportUnusedVariable]
        try:
            sent = self._network.send(self.edge, self._worker, receiver, batch)
        except TooLongError:
            if len(batch) == 1:
                raise
            # Its records are larger than they look.
            for half in kind_of(batch).pieces(batch, (len(batch) + 1) // 2):
                self._send_one(receiver, half, nbytes // 2)
            return
        self.credits[receiver].spend(sent or nbytes)
        if sent:
            self._framed.note(len(batch), sent)

    def end(self) -> None:
        """Tell all receivers that no more records will come."""
        self.broadcast(END)

    def broadcast(self, item: Barrier | Watermark | CaughtUp | End) -> None:
        """Send something that needs no room to all receivers."""
        for receiver in self._receivers:
            self._network.send(self.edge, self._worker, receiver, item)


@dataclass(slots=True)
class StageInput:
    """An edge into the stage: a channel from each sender, all leading to one target."""

    edge: EdgeId
    channels: list[Channel]
    target: Target
    senders: list[Sender]
    """The outgoing edges that a batch from here may reach."""
    counts: StepCounts | None = None
    """Of the step that it leads to; None where nobody counts."""
    watermark: StepWatermark | None = None
    """Of the step that it leads to, if a clock stands at the other end."""
    tasks: TaskNode | None = None
    """The node that it leads to, if that is one with tasks: it gives credit back when it can."""

    def give(self, batch: list[Any], give_back: Callable[[], None]) -> None:
        """Hand a batch on, and give back the credit that it has cost, or let tasks do so."""
        if self.tasks is None:
            give_back()
            self.target.push(batch)
        else:
            self.target.push(batch)
            self.tasks.owe(give_back)

    def owe_all(self, batches: int, network: Network, me: WorkerIndex) -> None:
        """Tasks give all credit, of so many batches for each channel, once they have room."""
        assert self.tasks is not None  # noqa: S101
        for channel in self.channels:
            give = functools.partial(network.return_credit, channel.edge, channel.sender, me)
            for _ in range(batches):
                self.tasks.owe_first(give)

    def ready(self, channel: Channel) -> bool:
        """Whether the first item may be taken out: it needs no room, or there is room for it."""
        if channel.blocked:
            return False
        head = channel.items[0].__class__
        if head is Barrier or head is End or have_room(self.senders):
            return True
        if self.counts is not None:
            self.counts.hold()
        return False


@dataclass(slots=True)
class StageProgress:
    """The epoch that the stage's records belong to now."""

    epoch: int = 1


@dataclass(slots=True)
class RunningStage:
    """A stage while it runs."""

    index: StageIndex
    progress: StageProgress
    sources: list[tuple[SourceNode, list[Sender]]] = field(
        default_factory=list[tuple[SourceNode, list[Sender]]]
    )
    sinks: list[SinkNode] = field(default_factory=list[SinkNode])
    timed: list[tuple[KeyedNode, list[Sender]]] = field(
        default_factory=list[tuple[KeyedNode, list[Sender]]]
    )
    tasks: list[tuple[TaskNode, list[Sender]]] = field(
        default_factory=list[tuple[TaskNode, list[Sender]]]
    )
    inputs: list[StageInput] = field(default_factory=list[StageInput])
    senders: list[Sender] = field(default_factory=list[Sender])
    nodes: list[Node] = field(default_factory=list[Node])
    states: dict[str, KeyedState] = field(default_factory=dict[str, KeyedState])
    """Of the keyed steps, by step id, with a store."""
    expiring: list[ExpiringState] = field(default_factory=list[ExpiringState])
    """Of the keyed steps with a time to live, store or no store."""
    saved_steps: dict[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    """What steps save as a whole, by step id, with a store."""
    failures: list[StepFailures] = field(default_factory=list[StepFailures])
    """Of the steps that go on after errors."""
    channels: list[tuple[StageInput, Channel]] = field(
        default_factory=list[tuple[StageInput, Channel]]
    )
    """Those of all inputs."""
    clocks: StageClocks | None = None
    """Where watermarks are made or listened to."""
    _turn: int = 0

    def ready_channels(self) -> Iterator[tuple[StageInput, Channel]]:
        """All channels that something could be taken out of now, in turn.

        Whoever takes the first one of them takes from all channels evenly.
        """
        channels, count = self.channels, len(self.channels)
        for number in range(self._turn, self._turn + count):
            entry, channel = channels[number % count]
            if channel.items and entry.ready(channel):
                self._turn = (number + 1) % count
                yield entry, channel

    def consume(
        self, entry: StageInput, channel: Channel, network: Network, me: WorkerIndex
    ) -> bool:
        """Take one item out and work on it; True if the stage is aligned on a barrier now."""
        item = channel.take()
        kind = item.__class__
        if kind is Barrier:
            aligned = all(c.blocked for _, c in self.channels)
            counts = self.inputs[0].counts
            if counts is not None:
                counts.barrier(aligned=aligned)
            return aligned
        if kind is End:
            if entry.watermark is not None:
                entry.watermark.say(channel, LEFT_OUT_US)
            if self.clocks is not None:
                self.clocks.upstream.say(channel, caught_up=True)
            if all(c.ended for c in entry.channels):
                entry.target.end()
        elif kind is Watermark:
            assert entry.watermark is not None  # noqa: S101
            entry.watermark.say(channel, item.at_us)
        elif kind is CaughtUp:
            assert self.clocks is not None  # noqa: S101
            self.clocks.upstream.say(channel, caught_up=item.yes)
        else:
            give_back = functools.partial(network.return_credit, channel.edge, channel.sender, me)
            entry.give(item, give_back)
        if self.clocks is not None:
            self.clocks.flush()
        return False

    def close(self) -> list[Exception]:
        """Close all sources and sinks; gives the errors of those that would not."""
        for failures in self.failures:
            failures.tell()
        ends: list[SourceNode | SinkNode] = [node for node, _ in self.sources]
        tried = (
            _closed(node.step_id, close)
            for node in [*ends, *self.sinks]
            for close in node.closers()
        )
        return [error for error in tried if error is not None]

    def pass_barrier(self, epoch: Epoch) -> None:
        """All of the epoch's records are done with: send the barrier on and begin the next."""
        for _, channel in self.channels:
            channel.blocked = False
        for sender in self.senders:
            sender.broadcast(Barrier(epoch))
        self.progress.epoch = epoch + 1


def _closed(step_id: str, close: Callable[[], None]) -> Exception | None:
    """Try to close; gives the error. `step_id` is a local for `engine.runtime._failure` to find."""
    try:
        close()
    except Exception as ex:  # noqa: BLE001 - the others must be closed all the same
        ex.add_note(f"while closing step {step_id!r}")
        return ex
    return None
