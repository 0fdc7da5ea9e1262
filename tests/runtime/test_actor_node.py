"""The node of actors: credit that it holds back, and when its step ends. No workers, no clock."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from engine.operators.actors import Actor, Context, Ref, Resume, handles
from engine.operators.actors._mail import TELL
from engine.operators.tasks import Resources
from engine.runtime import _actor_node
from engine.runtime._actor_calls import ActorCalls
from engine.runtime._actor_node import ActorNode, ActorSite
from engine.runtime._actor_table import ActorTable
from engine.runtime._ids import WorkerIndex
from engine.runtime._ledger import Ledger
from engine.runtime._lending import Lending
from engine.runtime._nodes import Target
from engine.runtime._ports import Clock, SystemClock
from engine.runtime._store import Store
from engine.runtime._task_site import RealExecutors, StartsExecutors

OTHER = WorkerIndex(1)
UNREAD = Target(lambda _: None, lambda: None)


class Echo(Actor):
    supervise = Resume()

    @handles(int)
    def echo(self, ctx: Context, n: int) -> None:
        ctx.emit(n)

    @handles(str)
    def fail(self, _: Context, text: str) -> None:
        raise ValueError(text)


@dataclass
class FakePeers:
    """Other workers, as they are set."""

    room: bool = True
    quiet: bool = False
    news: bool = True
    logged: bool = False
    sent: list[Any] = field(default_factory=list[Any])

    def has_room(self) -> bool:
        return self.room

    def send(self, receiver: WorkerIndex, batch: list[Any]) -> None:
        self.sent.append((receiver, batch))

    def receive(self, sender: WorkerIndex, batch: list[Any]) -> bool:
        return self.logged

    def exchanged(self) -> tuple[int, int]:
        return len(self.sent), 0

    def say_quiet(self) -> bool:
        said, self.news = self.news, False
        return said

    @property
    def has_news(self) -> bool:
        return self.news

    @property
    def all_quiet(self) -> bool:
        return self.quiet


@dataclass(frozen=True)
class Around:
    """A worker on which no tasks run."""

    index: WorkerIndex = OTHER
    count: int = 1
    chance: Callable[[], float] = Random(0).random
    store: Store | None = None
    ledger: Ledger = field(default_factory=lambda: Ledger(Resources()))
    lending: Lending | None = None
    clock: Clock = field(default_factory=SystemClock)
    executors: StartsExecutors = field(default_factory=RealExecutors)
    wake: Callable[[], None] = int


@dataclass
class Scene:
    """A node with what it has around it."""

    peers: FakePeers = field(default_factory=FakePeers)
    room: bool = True
    out: list[Any] = field(default_factory=list[Any])
    ended: bool = False
    paid: list[str] = field(default_factory=list[str])
    told: list[str] = field(default_factory=list[str])
    now_s: float = 0.0

    def __post_init__(self) -> None:
        table = ActorTable((Echo,), "f.act", lambda: 0.5)
        calls = ActorCalls("f.act", __name__, Around())
        now = ("f.act", lambda: self.now_s, lambda: self.room)
        site = ActorSite(*now, self.peers, calls, self.told.append)
        self.node = ActorNode(site, table, (Target(self.out.extend, self._end), UNREAD), 1)

    def _end(self) -> None:
        self.ended = True

    def owe(self, what: str = "input") -> None:
        self.node.owe(lambda: self.paid.append(what))

    def receive(self, *numbers: int) -> None:
        mails = [(Ref("Echo", "a"), (TELL, n, None, None, None)) for n in numbers]
        self.node.receive(OTHER, mails, lambda: self.paid.append("peer"))


def test_records_wait_where_there_is_no_room():
    """And are handled by the first turn with room."""
    scene = Scene(room=False)
    scene.node.push([("a", 1), ("a", 2)])
    assert scene.out == []
    assert scene.node.turn(room=False) > 0.0
    assert scene.node.turn(room=True) == 0.0
    assert scene.out == [1, 2]


def test_a_turn_that_has_done_something_is_followed_by_another():
    """What it has sent on may lie in a channel of the worker itself, which must look there."""
    scene = Scene()
    scene.receive(1)
    assert scene.node.turn(room=True) == 0.0
    assert scene.node.turn(room=True) > 0.0


def test_credit_is_held_back_while_much_waits(monkeypatch: pytest.MonkeyPatch):
    """For input and for peers alike, and given back once it was handled."""
    monkeypatch.setattr(_actor_node, "PENDING_MAX", 1)
    scene = Scene(room=False)
    scene.node.push([("a", 1), ("a", 2)])
    scene.owe()
    scene.receive(3)
    assert scene.paid == []
    scene.node.turn(room=True)
    assert scene.paid == ["peer", "input"]


def test_input_waits_for_peers_that_have_no_room():
    """But what is owed to peers doesn't, or two workers would wait for each other."""
    scene = Scene(FakePeers(room=False))
    scene.node.push([("a", 1)])
    scene.owe()
    scene.receive(2)
    assert scene.paid == ["peer"]
    scene.node.turn(room=True)
    scene.peers.room = True
    assert scene.node.wait_s(room=False) == 0.0
    scene.node.turn(room=True)
    assert scene.paid == ["peer", "input"]


def test_the_step_ends_when_all_workers_are_quiet():
    """This one says so once nothing waits here."""
    scene = Scene()
    scene.receive(1)
    scene.node.end_input()
    scene.node.turn(room=True)
    assert scene.peers.news
    scene.node.turn(room=True)
    assert not scene.peers.news
    assert scene.node.turn(room=True) > 0.0
    assert not scene.ended
    scene.peers.quiet = True
    scene.node.turn(room=True)
    assert scene.ended
    assert scene.out == [1]


def test_a_drain_waits_for_the_same_and_ends_nothing():
    """The end of input isn't handed on."""
    scene = Scene()
    scene.receive(1)
    assert not scene.node.drained()
    scene.node.turn(room=True)
    scene.node.turn(room=True)
    assert not scene.node.drained()
    scene.peers.quiet = True
    scene.node.turn(room=True)
    assert scene.node.drained()
    assert not scene.ended


def test_what_is_on_its_way_at_a_barrier_is_logged_with_its_actor():
    """As a row of the epoch, due at once; what comes behind isn't."""
    scene = Scene(FakePeers(logged=True))
    scene.receive(1)
    scene.peers.logged = False
    scene.receive(2)
    log = scene.node.take_log()
    assert log.keys == [("a", None, ("Echo", 0, 1))]
    assert log.due_s == [0.0]
    (row,) = log.stored
    assert [mail[1] for mail in pickle.loads(row)] == [1]
    assert scene.node.take_log().keys == []


def test_handlers_that_raise_are_told_of_once_in_a_while():
    """The first time at once, however many there are then, and all of them at the end."""
    scene = Scene()
    for n in range(1000):
        scene.now_s = n / 100
        scene.node.push([("a", f"bad {n}")])
    said = "step 'f.act': handlers of its actors have raised {} so far on this worker; "
    said += "the last one: Echo.ref('a') on 'bad {}': ValueError: bad {}"
    assert scene.told == [said.format("once", 0, 0)]
    scene.now_s = 10.0
    scene.node.push([("a", "bad 1000")])
    assert scene.told[1:] == [said.format("1,001 times", 1000, 1000)]
    scene.node.push([("a", "bad 1001")])
    scene.node.end_input()
    scene.peers.quiet = True
    while not scene.ended:
        scene.node.turn(room=True)
    assert scene.told[2:] == [said.format("1,002 times", 1001, 1001)]
