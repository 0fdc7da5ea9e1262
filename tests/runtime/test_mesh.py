"""Connections between two workers, over real sockets, with the workers' places taken by lists."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from engine.errors import LinkError
from engine.runtime._ids import EdgeId, Epoch, WorkerIndex
from engine.runtime._mesh import MeshSeat
from engine.runtime._messages import END, Barrier

A, B, EDGE = WorkerIndex(0), WorkerIndex(1), EdgeId(4)


class Taker:
    """Stands in for a worker: notes what it is given."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.credits: list[tuple[EdgeId, WorkerIndex, int]] = []

    def receive(self, edge: EdgeId, sender: WorkerIndex, item: Any) -> None:
        self.items.append((edge, sender, item))

    def credit(self, edge: EdgeId, receiver: WorkerIndex, batches: int = 1) -> None:
        self.credits.append((edge, receiver, batches))


class Pair:
    """Two seats with a connection between them, to be closed at the end of a test."""

    made: ClassVar[list[Pair]] = []

    def __init__(self, generations: tuple[int, int] = (3, 3)) -> None:
        self.sockets = socket.socketpair()
        self.a = MeshSeat({B: self.sockets[0]}, generations[0])
        self.b = MeshSeat({A: self.sockets[1]}, generations[1])
        self.at_a, self.at_b = Taker(), Taker()
        self.made.append(self)

    def turn(self, seconds: float = 0.0) -> None:
        """A round of both workers."""
        for seat, taker in ((self.a, self.at_a), (self.b, self.at_b)):
            seat.wait(seconds)
            seat.receive(taker)  # type: ignore[arg-type]

    def turns(self, count: int = 20) -> None:
        for _ in range(count):
            self.turn()


@pytest.fixture(autouse=True)
def close_all() -> Iterator[None]:
    yield
    for pair in Pair.made:
        for seat in (pair.a, pair.b):
            seat.close()
    Pair.made.clear()


def test_items_arrive_in_order():
    """Batches, barriers and ends alike; equal, and of the same types."""
    pair = Pair()
    items: list[Any] = [[("a", (1, 2))], Barrier(Epoch(5)), [("b", None)] * 1000, END]
    sent = [pair.a.send(EDGE, A, B, item) for item in items]
    assert max(sent[0], sent[1], sent[3]) < 100 < 1000 < sent[2]
    pair.turns()
    assert pair.at_b.items == [(EDGE, A, item) for item in items]
    assert pair.at_a.items == []


def test_credit_comes_back_in_sums():
    """One frame for all that a round has taken of an edge."""
    pair = Pair()
    for _ in range(3):
        pair.b.return_credit(EDGE, A, B)
    pair.b.return_credit(EdgeId(5), A, B)
    pair.turns()
    assert pair.at_a.credits == [(EDGE, B, 3), (EdgeId(5), B, 1)]


def test_a_peer_that_does_not_read_blocks_nobody():
    """What it can't take now is sent later."""
    pair = Pair()
    batch = ["x" * 1000] * 1000
    for _ in range(10):
        pair.a.send(EDGE, A, B, batch)
        pair.a.wait(0.0)
    assert pair.at_b.items == []
    pair.turns(2000)
    assert pair.at_b.items == [(EDGE, A, batch)] * 10


def test_a_peer_that_is_gone_is_an_error_at_once():
    """Whether one reads from it or writes to it."""
    pair = Pair()
    pair.sockets[1].close()
    with pytest.raises(LinkError, match="connection to worker 1 is lost: its process has closed"):
        pair.turns()
    pair = Pair()
    pair.sockets[1].close()
    pair.a.send(EDGE, A, B, ["x"])
    with pytest.raises(LinkError, match="connection to worker 1 is lost: .*Broken pipe"):
        pair.a.wait(0.0)


def test_a_peer_that_says_goodbye_may_go():
    """After all that it sent has come."""
    pair = Pair()
    pair.b.send(EDGE, B, A, ["last"])
    pair.b.close()
    for _ in range(5):
        pair.a.wait(0.0)
        pair.a.receive(pair.at_a)  # type: ignore[arg-type]
    assert pair.at_a.items == [(EDGE, B, ["last"])]


def test_what_is_no_frame_of_this_run_is_an_error():
    """It names the peer."""
    pair = Pair((3, 4))
    pair.a.send(EDGE, A, B, ["x"])
    with pytest.raises(LinkError, match="connection to worker 0: a frame of generation 3 came"):
        pair.turns()


def test_a_wait_ends_when_something_comes_or_somebody_wakes():
    """Long before its time is over."""
    pair, started_s = Pair(), time.monotonic()
    pair.a.send(EDGE, A, B, ["x"])
    pair.a.wait(0.0)
    pair.b.wait(60.0)
    pair.b.receive(pair.at_b)  # type: ignore[arg-type]
    assert pair.at_b.items == [(EDGE, A, ["x"])]
    pair.b.wake()
    pair.b.wake()
    pair.b.wait(60.0)
    pair.b.receive(pair.at_b)  # type: ignore[arg-type]
    pair.b.wait(0.001)
    assert time.monotonic() - started_s < 50
