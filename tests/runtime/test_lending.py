"""Calls go to the worker that suits them best, and nobody gives more than it has."""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.errors import RemoteError, UserCodeError
from engine.operators.tasks import (
    Call,
    Completion,
    InlineExecutor,
    Kind,
    Label,
    Resources,
    RunningExecutor,
)
from engine.operators.tasks._policies import Placement, TaskRules
from engine.operators.tasks._task import TaskKernel
from engine.runtime import WorkerIndex
from engine.runtime._errands import ERRANDS, Parcel, Recall
from engine.runtime._frames import FrameReader, FrameWriter, TooLongError
from engine.runtime._ledger import Ledger
from engine.runtime._lending import TELL_S, Lending
from engine.runtime._lent_step import LentStep

STEP = "flow.step"


class Hand(RunningExecutor):
    """Runs calls until it is told that they have ended."""

    def __init__(self) -> None:
        self.running: dict[Any, int] = {}
        """The number of each call, by its argument."""
        self.began_s: float | None = 0.0
        self._over: list[Completion] = []

    def submit(self, calls: Sequence[Call]) -> None:
        self.running.update((argument, call) for call, argument in calls)

    def end(self, argument: Any, value: Any = None, kind: Kind = Kind.RETURNED) -> None:
        """Let a call end."""
        self._over.append(Completion(self.running.pop(argument), kind, value))

    def completions(self) -> list[Completion]:
        over, self._over = self._over, []
        return over

    def ended(self) -> bool:
        return bool(self._over)

    def started_s(self, call_id: int) -> float | None:
        del call_id
        return self.began_s

    def cancel(self, call_id: int) -> None:
        self.running = {a: call for a, call in self.running.items() if call != call_id}

    def close(self, timeout_s: float) -> list[str]:
        del timeout_s
        return []


@dataclass
class Place:
    """A worker."""

    lending: Lending
    step: LentStep
    hand: Hand
    calls: int = 0

    def submit(self, *arguments: Any) -> None:
        """What its node does."""
        calls = [Call(self.calls + i, argument) for i, argument in enumerate(arguments)]
        self.calls += len(calls)
        self.step.submit(calls)


@dataclass
class World:
    """Workers that offer something, and what is under way between them.

    Args:
        demand: What a call takes.
        placement: Where it may run.
        pickles: The workers are processes.
        timeout_s: Of the step.
    """

    demand: Resources | None
    placement: Placement
    pickles: bool = False
    timeout_s: float = math.inf
    now_s: float = 0.0
    workers: list[Place] = field(default_factory=list[Place])
    sent: list[Any] = field(default_factory=list[Any])
    _way: deque[Callable[[], None]] = field(default_factory=deque[Callable[[], None]])

    def offering(self, *offers: Resources) -> list[Place]:
        """Make the workers."""
        rules = TaskRules(timeout_s=self.timeout_s, resources=self.demand, placement=self.placement)
        kernel = TaskKernel(len, InlineExecutor(), rules, None)
        for i, offer in enumerate(offers):
            me, hand = WorkerIndex(i), Hand()
            ledger = Ledger(offer)
            lending = Lending(me, offers, ledger, self, lambda: self.now_s)
            step = LentStep(STEP, kernel, hand, lending, ledger.account())
            self.workers.append(Place(lending, step, hand))
        return self.workers

    def send(self, edge: int, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        """As in `Network`; between processes as `engine.runtime._mesh` does it."""
        assert edge == ERRANDS
        if self.pickles:
            try:
                data = b"".join(FrameWriter(1).item(ERRANDS, item))
            except TooLongError:
                raise
            except Exception as ex:
                msg = "a record can't be sent to another process"
                raise UserCodeError(msg) from ex
            [frame] = FrameReader(1).feed(data)
            item = frame.item
        self.sent += item
        self._way.append(lambda: self.workers[receiver].lending.receive(sender, item))
        return 0

    def return_credit(self, *_: Any) -> None:
        raise AssertionError

    def deliver(self) -> None:
        """Let what is under way come to where it is to go."""
        while self._way:
            self._way.popleft()()

    def settle(self) -> None:
        """Until nobody has anything to do or to hear; no time passes."""
        for _ in range(1000):
            self.deliver()
            idle = [place.lending.turn() > 0.0 for place in self.workers]
            if all(idle) and not self._way:
                return
        pytest.fail("they never come to rest")

    def running(self) -> list[list[Any]]:
        """What each worker runs."""
        return [list(place.hand.running) for place in self.workers]


def cpus(cpu: float) -> Resources:
    """So many processors."""
    return Resources(cpu=cpu)


def test_calls_go_to_the_least_loaded_worker_with_room():
    """One's own comes first among equals; what has no room anywhere waits at home."""
    world = World(cpus(1), "any")
    home, *_ = world.offering(cpus(2), cpus(2), cpus(0.5))
    home.submit("a")
    world.settle()
    assert world.running() == [["a"], [], []]
    home.submit("b", "c", "d", "e")
    world.settle()
    assert world.running() == [["a", "c"], ["b", "d"], []]
    world.workers[1].hand.end("b", 7)
    world.settle()
    assert world.running() == [["a", "c"], ["d", "e"], []]
    assert home.step.completions() == [Completion(1, Kind.RETURNED, 7)]


def test_a_label_keeps_calls_to_those_who_have_it():
    """The home may have nothing of it; its calls still come to their end, one after the other."""
    world = World(None, Label("gpu"))
    home, guest = world.offering(cpus(9), Resources(gpu=1))
    home.submit("a", "b")
    world.settle()
    assert world.running() == [[], ["a", "b"]]
    guest.hand.end("b", "B")
    world.settle()
    assert home.step.completions() == [Completion(1, Kind.RETURNED, "B")]


def test_a_guest_takes_resources_from_its_own_ledger():
    """Two homes that both think that there is room: one of their calls waits."""
    world = World(Resources(gpu=1), Label("gpu"))
    one, two, guest = world.offering(cpus(1), cpus(1), Resources(gpu=1))
    one.submit("a")
    two.submit("b")
    world.settle()
    assert world.running()[2] == ["a"]
    assert guest.lending.ledger.taken() == {"gpu": 10_000}
    guest.hand.end("a")
    world.settle()
    assert world.running()[2] == ["b"]


def test_a_busy_guest_serves_others_too():
    """However many calls of its own it has, those of a home without take their turn."""
    world = World(Resources(gpu=1), Label("gpu"))
    home, guest = world.offering(cpus(1), Resources(gpu=1))
    guest.submit("a", "b", "c", "d")
    home.submit("x", "y", "z")
    order: list[Any] = []
    for _ in range(7):
        world.settle()
        [[], [running]] = world.running()
        order.append(running)
        guest.hand.end(running)
        world.now_s += TELL_S
    assert order == list("abxcydz")


def test_what_waits_at_a_guest_is_called_back_when_another_has_room():
    """It runs once, and where there is room first."""
    world = World(Resources(gpu=1), Label("gpu"))
    home, one, two = world.offering(cpus(1), Resources(gpu=1), Resources(gpu=1))
    home.submit("a", "b", "c")
    world.settle()
    assert world.running() == [[], ["a"], ["b"]]
    assert one.lending.ledger.free() == {"gpu": -10_000}, "the third call waits there"
    world.now_s += TELL_S
    world.settle()
    two.hand.end("b")
    world.settle()
    assert world.running() == [[], ["a"], ["c"]]


def test_what_has_begun_is_not_called_back():
    """Where its beginning crosses with the wish to have it back: it runs once."""
    world = World(Resources(gpu=1), Label("gpu"))
    home, one, two = world.offering(cpus(1), Resources(gpu=1), Resources(gpu=1))
    home.submit("a", "b", "c")
    world.settle()
    two.hand.end("b")
    two.lending.turn()
    world.deliver()
    home.lending.turn()
    assert isinstance(world.sent[-1], Recall)
    one.hand.end("a")
    one.lending.turn()
    assert world.running() == [[], ["c"], []]
    world.settle()
    assert world.running() == [[], ["c"], []]
    one.hand.end("c", "C")
    world.settle()
    assert home.step.completions()[-1] == Completion(2, Kind.RETURNED, "C")


def test_a_call_that_is_given_up_frees_its_guest():
    """Running or waiting there, and what still comes of it isn't looked at."""
    world = World(Resources(gpu=1), Label("gpu"))
    home, guest = world.offering(cpus(1), Resources(gpu=1))
    home.submit("a", "b")
    world.settle()
    home.step.cancel(1)
    guest.hand.end("a")
    home.step.cancel(0)
    world.settle()
    assert home.step.completions() == []
    assert guest.lending.ledger.taken() == {"gpu": 0}
    home.submit("c")
    world.settle()
    home.step.cancel(2)
    world.settle()
    assert world.running() == [[], []]
    assert guest.lending.ledger.taken() == {"gpu": 0}
    world.now_s += TELL_S
    world.settle()
    assert home.lending.peers[WorkerIndex(1)].free == {"gpu": 10_000}


def test_homes_hear_when_calls_have_begun():
    """So that only the time that they run counts for their timeout."""
    world = World(cpus(1), Label("gpu"), timeout_s=5.0)
    home, guest = world.offering(cpus(1), Resources(cpu=1, gpu=1))
    guest.hand.began_s = None
    home.submit("a")
    world.settle()
    assert home.step.started_s(0) is None
    world.now_s = guest.hand.began_s = 3.0
    world.now_s = 3.5
    world.settle()
    assert home.step.started_s(0) == 3.0


def test_loads_are_told_now_and_then():
    """A hundred changes in a moment make one message to each, and the last word is the truth."""
    world = World(cpus(1), "any")
    _, other = world.offering(cpus(1), cpus(1))
    world.settle()
    world.sent.clear()
    account = other.lending.ledger.account()
    for call in range(99):
        account.take(call, cpus(1))
        world.settle()
        if call < 98:
            account.give_back(call)
        world.settle()
    assert len(world.sent) <= 1
    assert 0.0 < other.lending.wait_s() <= TELL_S
    world.now_s += TELL_S
    world.settle()
    assert world.workers[0].lending.peers[WorkerIndex(1)].free == {"cpu": 0}


def test_nothing_is_said_after_the_end():
    """Others may have left already."""
    world = World(cpus(1), "any")
    [place, _] = world.offering(cpus(1), cpus(1))
    world.settle()
    place.lending.ledger.take(cpus(1))
    world.now_s += TELL_S
    place.lending.end()
    world.sent.clear()
    world.settle()
    assert world.sent == []
    assert place.lending.wait_s() == math.inf


class TwoWords(Exception):  # noqa: N818 - a user's
    """Can be pickled, but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        (lambda: 1, "the record of <builtins.len> can't go to another worker"),
        (b"x" * (65 << 20), "67,108,864 is the most"),
    ],
)
def test_a_record_that_can_not_be_sent_fails_its_call(argument: Any, told: str):
    """The job goes on, and so do other calls."""
    world = World(None, Label("gpu"), pickles=True)
    home, _ = world.offering(cpus(1), Resources(gpu=1))
    home.submit(argument, "b")
    world.settle()
    [(call, kind, error)] = home.step.completions()
    assert (call, kind) == (0, Kind.RAISED)
    assert isinstance(error, UserCodeError)
    assert told in str(error)
    assert world.running() == [[], ["b"]]


def test_a_result_that_can_not_be_sent_fails_its_call():
    """As above."""
    world = World(None, Label("gpu"), pickles=True)
    home, guest = world.offering(cpus(1), Resources(gpu=1))
    home.submit("a")
    world.settle()
    guest.hand.end("a", lambda: 1)
    world.settle()
    [(_, kind, error)] = home.step.completions()
    assert kind is Kind.RAISED
    assert "what <builtins.len> gave can't go to another worker" in str(error)


def test_exceptions_arrive_as_what_they_are():
    """With where they were raised; one that can't be read arrives as its text."""
    world = World(None, Label("gpu"), pickles=True)
    home, guest = world.offering(cpus(1), Resources(gpu=1))
    home.submit("a", "b")
    world.settle()
    guest.hand.end("a", ValueError("wrong"), Kind.RAISED)
    guest.hand.end("b", TwoWords("so ", "so"), Kind.RAISED)
    world.settle()
    first, second = (completion.value for completion in home.step.completions())
    assert repr(first) == "ValueError('wrong')"
    assert isinstance(first.__cause__, RemoteError)
    assert isinstance(second, RemoteError)
    assert (second.type_name.rpartition(".")[2], second.message) == ("TwoWords", "so so")


def test_a_parcel_is_opened_where_it_is_read():
    """What can't be read does no harm on the way."""
    parcel = pickle.loads(pickle.dumps(Parcel(Unreadable())))
    with pytest.raises(ValueError, match="not here"):
        parcel.open()
    value = object()
    assert Parcel(value).open() is value


class Unreadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    msg = "not here"
    raise ValueError(msg)
