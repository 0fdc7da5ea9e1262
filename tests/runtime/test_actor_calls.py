"""The calls of actors: how many are under way, what they take of a worker. Nothing real runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import WorkerProcessError
from engine.operators import tasks
from engine.operators.actors import Actor, Context, Retry, dedicated, handles
from engine.operators.actors._requests import TaskRequest, request_of
from engine.operators.tasks import (
    AnyExecutor,
    Call,
    Completion,
    Kind,
    ProcessExecutor,
    Resources,
    RunningExecutor,
)
from engine.runtime import _actor_calls
from engine.runtime._actor_calls import ActorCalls, Order, Parcel
from engine.runtime._actor_node import ActorNode, ActorSite
from engine.runtime._actor_table import ActorTable
from engine.runtime._ids import WorkerIndex
from engine.runtime._ledger import Ledger
from engine.runtime._lending import Lending
from engine.runtime._nodes import Target
from engine.runtime._store import Store

SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class HandClock:
    at_s: list[float] = field(default_factory=lambda: [0.0])

    def monotonic_s(self) -> float:
        return self.at_s[0]

    def time_s(self) -> float:
        return self.at_s[0]


class HandExecutor(RunningExecutor):
    """Calls end when the test says so."""

    def __init__(self, clock: HandClock) -> None:
        self.calls: dict[int, Any] = {}
        self.cancelled: list[int] = []
        self._clock = clock
        self._began_s: dict[int, float] = {}
        self._ended: list[Completion] = []

    def submit(self, calls: Sequence[Call]) -> None:
        self.calls.update(calls)
        self._began_s.update((call, self._clock.monotonic_s()) for call, _ in calls)

    def end(self, kind: Kind = Kind.RETURNED, value: Any = "done") -> None:
        """End the oldest one."""
        call = next(iter(self.calls))
        del self.calls[call]
        self._ended.append(Completion(call, kind, value))

    def completions(self) -> list[Completion]:
        ended, self._ended = self._ended, []
        return ended

    def ended(self) -> bool:
        return bool(self._ended)

    def started_s(self, call_id: int) -> float | None:
        return self._began_s.get(call_id)

    def cancel(self, call_id: int) -> None:
        self.cancelled.append(call_id)
        self.calls.pop(call_id, None)

    def close(self, timeout_s: float) -> list[str]:
        return []


@dataclass
class HandExecutors:
    """Notes what is started."""

    clock: HandClock
    named: list[AnyExecutor] = field(default_factory=list[AnyExecutor])
    running: list[HandExecutor] = field(default_factory=list[HandExecutor])

    def start(
        self, executor: AnyExecutor, fn: Any, wake: Callable[[], None], step_id: str
    ) -> RunningExecutor:
        self.named.append(executor)
        self.running.append(HandExecutor(self.clock))
        return self.running[-1]

    def close(self, timeout_s: float) -> list[str]:
        return []


@dataclass(frozen=True)
class Site:
    """A worker."""

    clock: HandClock
    executors: HandExecutors
    ledger: Ledger
    index: WorkerIndex = WorkerIndex(0)  # noqa: RUF009 - a number
    count: int = 1
    chance: Callable[[], float] = lambda: 0.5
    store: Store | None = None
    lending: Lending | None = None
    wake: Callable[[], None] = lambda: None


class Scene:
    """Calls on a worker that offers something."""

    def __init__(self, offer: Resources | None = None) -> None:
        self.clock = HandClock()
        self.executors = HandExecutors(self.clock)
        self.calls = ActorCalls(
            "f.act", __name__, Site(self.clock, self.executors, Ledger(offer or Resources()))
        )

    def submit(self, work: TaskRequest | Parcel, *addresses: str) -> None:
        self.calls.submit([Order(address, 0, work) for address in addresses])
        self.turn()

    def turn(self) -> list[tuple[str, Any, Any]]:
        """Let all happen that can; gives what has ended."""
        while self.calls.turn():
            pass
        return [(end.order.address, end.result, end.error) for end in self.calls.take_ends()]


def root(**options: Any) -> TaskRequest:
    return request_of(math.sqrt, (9.0,), options)  # type: ignore[arg-type] # as users write them


def parcel(cls: type[Actor]) -> Parcel:
    return Parcel(cls, lambda: b"parcel")


@dedicated(resources=Resources(gpu=1), processes=2)
class Costly(Actor):
    pass


@dedicated()
class Cheap(Actor):
    supervise = Retry(deaths=2)


def test_nothing_is_started_before_it_is_needed():
    """Most actors have nothing done elsewhere, and wait for nothing."""
    scene = Scene()
    assert scene.turn() == []
    assert scene.calls.wait_s(room=True) == math.inf
    assert scene.executors.named == []


def test_calls_of_an_executor_share_it_whatever_their_timeouts():
    """A timeout for each message would be an executor for each, too."""
    scene = Scene()
    for seconds in (1, 2, 3):
        scene.submit(root(timeout=seconds * SECOND), f"a{seconds}")
    scene.submit(root(executor="process"), "b")
    assert len(scene.executors.named) == 2
    scene.clock.at_s[0] = 1.5
    ((address, _, error),) = scene.turn()
    assert address == "a1"
    assert isinstance(error, TimeoutError)
    assert scene.calls.wait_s(room=True) == 0.5


def test_what_is_more_than_may_be_under_way_waits(monkeypatch: pytest.MonkeyPatch):
    """It begins as others end."""
    monkeypatch.setattr(_actor_calls, "IN_FLIGHT_MAX", 2)
    scene = Scene()
    scene.submit(root(), "a", "b", "c")
    (executor,) = scene.executors.running
    assert len(executor.calls) == 2
    executor.end()
    assert scene.turn() == [("a", "done", None)]
    scene.turn()
    assert len(executor.calls) == 2


def test_handlers_take_what_their_class_says():
    """Others of the class wait for it; other classes don't."""
    scene = Scene(Resources(gpu=1))
    scene.submit(parcel(Costly), "a", "b")
    scene.submit(parcel(Cheap), "c", "d")
    costly, cheap = scene.executors.running
    assert scene.executors.named == [ProcessExecutor(2), ProcessExecutor(1)]
    assert (len(costly.calls), len(cheap.calls)) == (1, 2)
    costly.end()
    assert scene.turn() == [("a", "done", None)]
    scene.turn()
    assert len(costly.calls) == 1


def test_a_handler_is_sent_again_when_its_process_has_died():
    """Until it has died so often that the message must be the cause."""
    scene = Scene()
    scene.submit(parcel(Cheap), "a")
    (executor,) = scene.executors.running
    died = WorkerProcessError("its process has died")
    executor.end(Kind.DIED, died)
    assert scene.turn() == []
    scene.clock.at_s[0] = 1.0
    assert scene.turn() == []
    executor.end(Kind.DIED, died)
    assert scene.turn() == [("a", None, died)]


def test_a_handler_that_raises_isnt_tried_again_here():
    """That is what `supervise` is for."""
    scene = Scene()
    scene.submit(parcel(Cheap), "a")
    error = ValueError("no")
    scene.executors.running[0].end(Kind.RAISED, error)
    assert scene.turn() == [("a", None, error)]


def test_what_has_ended_waits_for_room():
    """The worker has nothing to do with it until then."""
    scene = Scene()
    scene.submit(root(), "a")
    scene.executors.running[0].end()
    assert scene.calls.wait_s(room=False) == 0.0
    scene.calls.turn()
    assert scene.calls.wait_s(room=False) == math.inf
    assert scene.calls.wait_s(room=True) == 0.0


def test_tries_of_earlier_runs_count():
    """What is saved of a task says how often it has failed."""
    scene = Scene()
    twice = request_of(math.sqrt, (9.0,), {"retry": tasks.Retry(attempts=2)})
    scene.submit(twice, "a")
    scene.executors.running[0].end(Kind.RAISED, ValueError("no"))
    assert scene.turn() == []
    ((order, work),) = scene.calls.take_tried()
    assert (order.work, work.tries, work.deaths) == (twice, 1, 0)
    assert scene.calls.take_tried() == []
    later = Scene()
    later.submit(work, "a")
    error = ValueError("no")
    later.executors.running[0].end(Kind.RAISED, error)
    assert later.turn() == [("a", None, error)]


class Rooter(Actor):
    @handles(float)
    def take(self, ctx: Context, number: float) -> None:
        retry = tasks.Retry(attempts=2)
        ctx.task(math.sqrt, number, on_result=self.rooted, retry=retry)

    def rooted(self, ctx: Context, root: float) -> None:
        ctx.emit(root)


def test_a_try_that_has_failed_is_saved_with_the_actor():
    """So the one that is left is the last one, in a later run too."""
    scene, out = Scene(), list[Any]()
    table = ActorTable((Rooter,), "f.act", lambda: 0.5)
    site = ActorSite("f.act", scene.clock.time_s, lambda: True, None, scene.calls)
    node = ActorNode(site, table, (Target(out.extend, lambda: None), None), 1)

    def turn() -> None:
        while node.turn(room=True) == 0.0:
            pass

    node.push([("a", 9.0)])
    turn()
    (executor,) = scene.executors.running
    executor.end(Kind.RAISED, ValueError("no"))
    turn()
    ((_, work, *_),) = table.state.requests.values()
    assert work.tries == 1
    scene.clock.at_s[0] = 1.0
    turn()
    executor.end(value=3.0)
    turn()
    assert out == [3.0]
    assert table.state.requests == {}
