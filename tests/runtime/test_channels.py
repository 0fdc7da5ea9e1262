"""Channels, credit and alignment: what a stage may take, and what a sender may send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.errors import InternalError
from engine.runtime._channel import Channel, Credit, Room, channel_room
from engine.runtime._frames import TooLongError
from engine.runtime._ids import EdgeId, Epoch, StageIndex, WorkerIndex
from engine.runtime._messages import END, Barrier
from engine.runtime._nodes import Target
from engine.runtime._stage import RunningStage, Sender, StageInput, StageProgress, have_room

ME = WorkerIndex(0)
BARRIER = Barrier(Epoch(1))


@dataclass
class Wire:
    """A network that keeps what was sent."""

    frame_bytes: int = 0
    """What it says that an item has become."""

    sent: list[tuple[int, int, int, Any]] = field(default_factory=list)
    credits: list[tuple[int, int, int]] = field(default_factory=list)

    def send(self, edge: int, sender: int, receiver: int, item: Any) -> int:
        self.sent.append((edge, sender, receiver, item))
        return self.frame_bytes

    def return_credit(self, edge: int, sender: int, receiver: int) -> None:
        self.credits.append((edge, sender, receiver))


@dataclass
class Stage:
    """A stage with one input edge from some workers, or several, and a list at its end."""

    senders: Sequence[Sender] = ()
    edges: int = 1
    workers: int = 2
    wire: Wire = field(default_factory=Wire)
    seen: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running = RunningStage(StageIndex(1), StageProgress())
        self.running.senders = list(self.senders)
        target = Target(self.seen.extend, lambda: self.seen.append("end"))
        for edge in map(EdgeId, range(self.edges)):
            channels = [Channel(edge, WorkerIndex(i)) for i in range(self.workers)]
            entry = StageInput(edge, channels, target, list(self.senders))
            self.running.inputs.append(entry)
            self.running.channels += [(entry, channel) for channel in channels]

    def put(self, number: int, *items: Any) -> None:
        """Items arrive in a channel, by its number over all edges."""
        self.running.channels[number][1].items.extend(items)

    def take(self) -> bool:
        """Take the next item there is; True if the stage is aligned by it."""
        entry, channel = next(self.running.ready_channels())
        return self.running.consume(entry, channel, self.wire, ME)

    def ready(self) -> list[int]:
        """The numbers of the channels that an item could be taken out of."""
        found = [channel for _, channel in self.running.ready_channels()]
        channels = [channel for _, channel in self.running.channels]
        return sorted(channels.index(channel) for channel in found)


def sender(
    wire: Wire, workers: int = 2, *, credit: int = 2, nbytes: int = 1 << 20, owners: Any = None
) -> Sender:
    """An outgoing edge of worker 0."""
    receivers = [WorkerIndex(i) for i in range(workers)]
    return Sender(EdgeId(7), ME, receivers, owners, wire, Room(credit, nbytes))


# Alignment


def test_a_barrier_blocks_its_channel_until_all_have_it():
    """What lies behind the barrier waits; other channels go on."""
    stage = Stage()
    stage.put(0, BARRIER, ["later"])
    stage.put(1, ["a"], ["b"], BARRIER)
    aligned = [stage.take() for _ in range(4)]
    assert aligned == [False, False, False, True]
    assert stage.seen == ["a", "b"]
    assert stage.ready() == []
    stage.running.pass_barrier(Epoch(1))
    assert stage.ready() == [0]


def test_all_edges_of_a_stage_are_aligned():
    """A barrier counts on every edge from every sender."""
    stage = Stage(edges=2)
    for number in range(4):
        assert stage.ready() == []
        stage.put(number, BARRIER)
        assert stage.take() is (number == 3)


def test_a_passed_barrier_goes_to_all_receivers_of_all_edges():
    """And the stage is in the next epoch."""
    wire = Wire()
    stage = Stage([sender(wire), sender(wire)])
    stage.running.pass_barrier(Epoch(1))
    assert [(receiver, item) for _, _, receiver, item in wire.sent] == [
        (0, BARRIER), (1, BARRIER), (0, BARRIER), (1, BARRIER)
    ]  # fmt: skip
    assert stage.running.progress.epoch == 2


def test_barriers_go_on_after_the_end():
    """The end of a channel doesn't block it, and barriers behind it align the stage."""
    stage = Stage()
    stage.put(0, END, BARRIER)
    stage.put(1, BARRIER)
    assert [stage.take() for _ in range(3)] == [False, False, True]


def test_an_input_ends_with_the_last_of_its_senders():
    """The end is handed on once."""
    stage = Stage()
    stage.put(0, END)
    stage.take()
    assert stage.seen == []
    stage.put(1, ["last"], END)
    stage.take()
    stage.take()
    assert stage.seen == ["last", "end"]


# Credit


def test_taking_a_batch_out_returns_its_credit():
    """To the worker it came from, once per batch; barriers and ends have none to return."""
    stage = Stage()
    stage.put(1, ["a"], END, BARRIER)
    for _ in range(3):
        stage.take()
    assert stage.wire.credits == [(0, 1, 0)]


def test_a_batch_is_taken_only_if_there_is_room_behind():
    """Room on every edge that it may reach; barriers and ends pass without."""
    wire = Wire()
    full, free = sender(wire, credit=0), sender(wire)
    stage = Stage([free, full])
    stage.put(0, ["waits"])
    stage.put(1, END, BARRIER)
    assert stage.ready() == [1]
    stage.take()
    stage.take()
    assert stage.ready() == []
    for credit in full.credits.values():
        credit.batches = 1
    assert stage.ready() == [0]


def test_one_full_channel_makes_an_edge_full():
    """The sender can't know which receivers the next batch will have records for."""
    edge = sender(Wire(), workers=3, credit=1)
    assert have_room([edge])
    edge.credits[WorkerIndex(2)].batches = 0
    assert not have_room([edge])
    assert have_room([])


def test_barriers_and_ends_cost_no_credit():
    """A full channel never holds up an epoch."""
    wire = Wire()
    edge = sender(wire, credit=0)
    edge.broadcast(BARRIER)
    edge.end()
    assert [item for *_, item in wire.sent] == [BARRIER, BARRIER, END, END]
    assert [credit.batches for credit in edge.credits.values()] == [0, 0]


def test_credit_is_paid_by_the_receivers_that_get_something():
    """A worker whose part is empty gets no batch."""
    wire = Wire()
    edge = sender(wire, owners=lambda record: record % 2)
    edge.push([2, 4, 6])
    assert wire.sent == [(7, 0, 0, [2, 4, 6])]
    assert [credit.batches for credit in edge.credits.values()] == [1, 2]


def test_a_local_edge_hands_batches_on_whole():
    """With one receiver there is nothing to part."""
    wire = Wire()
    edge = Sender(EdgeId(7), WorkerIndex(1), [WorkerIndex(1)], None, wire, Room(1, 1))
    edge.push([1, 2])
    assert wire.sent == [(7, 1, 1, [1, 2])]


def test_a_channel_that_is_full_of_bytes_takes_no_more():
    """However few batches they are: what a batch takes comes back when it is taken out."""
    wire = Wire(frame_bytes=60)
    edge = sender(wire, credit=9, nbytes=100, owners=lambda _record: 1)
    edge.push([1])
    assert edge.has_room()
    wire.frame_bytes = 500
    edge.push([2])
    assert not edge.has_room()
    credit = edge.credits[WorkerIndex(1)]
    assert (credit.batches, credit.nbytes) == (7, -460)
    credit.give_back(1)
    assert (credit.batches, credit.nbytes) == (8, -400)
    assert not edge.has_room()
    credit.give_back(1)
    assert (credit.batches, credit.nbytes) == (9, 100)


def test_a_batch_that_is_handed_over_as_it_is_takes_about_its_size():
    """A million records are not eight times as few as eight batches of them."""
    edge = sender(Wire(), workers=1, nbytes=1 << 20)
    edge.push([("key", number) for number in range(100_000)])
    assert not edge.has_room()
    credit = edge.credits[ME]
    assert credit.batches == 1
    credit.give_back(1)
    assert credit.nbytes == 1 << 20


def test_frames_tell_how_large_the_records_of_an_edge_are():
    """Also those that are handed over as they are, and which pieces are large."""
    wire = Wire(frame_bytes=600_000)
    edge = sender(wire, owners=lambda record: record["to"])
    edge.push([{"to": 1, "value": ["x" * 100_000]}] * 6)
    assert edge.has_room()
    edge.push([{"to": number % 2, "value": ["x" * 100_000]} for number in range(20)])
    mine, *theirs = [part for *_, part in wire.sent[1:]]
    assert len(mine) == 10
    assert [len(part) for part in theirs] == [3, 3, 3, 1]
    assert edge.credits[ME].nbytes < (1 << 20) - 500_000


def test_one_large_record_does_not_make_all_seem_large():
    """What is known is an average that forgets."""
    wire = Wire(frame_bytes=10_000_000)
    edge = sender(wire, owners=lambda _record: 1)
    edge.push(["large"])
    wire.frame_bytes = 20_000
    for _ in range(20):
        edge.push(["small"] * 1000)
    wire.sent.clear()
    edge.push(["small"] * 1000)
    assert len(wire.sent) == 1


def test_credit_that_nobody_has_spent_does_not_come_back():
    """The two ends don't agree any more."""
    credit = Credit(Room(2, 100))
    credit.spend(10)
    with pytest.raises(InternalError, match="credit for 2 batches came back, and 1 were under way"):
        credit.give_back(2)


@pytest.mark.parametrize(("channels", "nbytes"), [(0, 1 << 20), (16, 1 << 20), (256, 1 << 16)])
def test_many_channels_share_the_room_of_a_worker(channels: int, nbytes: int):
    """So that it doesn't grow with the number of workers."""
    assert channel_room(8, 1 << 20, channels) == Room(8, nbytes)


@pytest.mark.parametrize(("size", "pieces"), [(10, [1000, 1000, 500]), (100_000, [2] * 1250)])
def test_a_large_batch_goes_to_others_in_pieces(size: int, pieces: list[int]):
    """Of a thousand records, or of about 256 KiB; the worker's own part stays whole."""
    wire = Wire()
    edge = sender(wire, owners=lambda record: record[0] % 2)
    edge.push([(number, b"x" * size) for number in range(5000)])
    whole = sum(pieces)
    assert [len(part) for _, _, to, part in wire.sent if to == ME] == [whole]
    assert [len(part) for _, _, to, part in wire.sent if to != ME] == pieces
    assert edge.credits[WorkerIndex(1)].batches == 2 - len(pieces)


# Fairness


def test_channels_are_taken_from_in_turn():
    """However much one has, the others get theirs."""
    stage = Stage(edges=2, workers=1)
    stage.put(0, ["a1"], ["a2"], ["a3"])
    stage.put(1, ["b1"], ["b2"])
    for _ in range(5):
        stage.take()
    assert stage.seen == ["a1", "b1", "a2", "b2", "a3"]


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[0, 1, 2], [3]]])
def test_dealing_goes_on_where_the_last_batch_stopped(batches: list[list[int]]):
    """However records are batched, each worker gets its share."""
    wire = Wire()
    edge = sender(wire)
    for batch in batches:
        edge.push(batch)
    shares: dict[int, list[int]] = {}
    for _, _, receiver, part in wire.sent:
        shares.setdefault(receiver, []).extend(part)
    assert shares == {0: [0, 2], 1: [1, 3]}


def test_a_batch_that_makes_too_long_a_frame_is_halved():
    """Again and again, in order; one record that is too long by itself is an error."""

    class Narrow(Wire):
        def send(self, edge: int, sender: int, receiver: int, item: Any) -> int:
            if sum(item) > 10:
                raise TooLongError("too long")
            return super().send(edge, sender, receiver, item)

    wire = Narrow(frame_bytes=3)
    edge = Sender(EdgeId(7), ME, [WorkerIndex(1)], None, wire, Room(8, 100))
    edge.push([1, 2, 3, 4, 5, 6, 7])
    assert [item for *_, item in wire.sent] == [[1, 2, 3, 4], [5], [6], [7]]
    assert edge.credits[WorkerIndex(1)].batches == 8 - 4
    with pytest.raises(TooLongError):
        edge.push([1, 11])
