"""The scheduler of subtasks by itself: who comes first, what is taken, what is told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from engine.errors import SubtaskCancelledError, UserCodeError
from engine.operators.tasks import Call, Completion, Kind, Resources, RunningExecutor, TaskContext
from engine.operators.tasks._requests import (
    Drops,
    Invocation,
    Outcome,
    Request,
    Submitted,
    Waits,
    Work,
)
from engine.runtime._graph_rules import GraphRules
from engine.runtime._ledger import Ledger
from engine.runtime._task_graph import TaskGraphs
from tests.sim.graphs import SimpleAccount


class Desk(RunningExecutor):
    """An executor that does what the test says, and the table beside it."""

    runs_graphs = True

    def __init__(self, limit: int = 100, places: int | None = None, **rules: Any) -> None:
        self.places = places
        self.begun: list[Invocation] = []
        self.cancelled: list[int] = []
        self.released: list[Any] = []
        self.answers: dict[int, list[Outcome] | None] = {}
        """What calls have waited for, by call."""
        self._completions: list[Completion] = []
        self._requests: list[Request] = []
        self._numbers: dict[int, int] = {}
        self.now_s = 0.0
        self.graphs = TaskGraphs(self, GraphRules(limit, 3, **rules), lambda: self.now_s)

    # As an executor

    def submit(self, calls: Sequence[Call]) -> None:
        self.begun += [call.argument for call in calls]

    def completions(self) -> list[Completion]:
        taken, self._completions = self._completions, []
        return taken

    def requests(self) -> list[Request]:
        taken, self._requests = self._requests, []
        return taken

    def ended(self) -> bool:
        return bool(self._completions or self._requests)

    def started_s(self, call_id: int) -> float | None:
        return 7.0 if any(call.call_id == call_id for call in self.begun) else None

    def cancel(self, call_id: int) -> None:
        self.cancelled.append(call_id)

    def release(self, result: Any) -> None:
        self.released.append(result)

    def close(self, timeout_s: float) -> list[str]:
        del timeout_s
        return []

    # As a test has it

    def roots(self, *numbers: int) -> None:
        self.graphs.submit([Call(n, (n, TaskContext(f"0-{n}", "key", 1))) for n in numbers])

    def subtask(
        self,
        above: int,
        *,
        needs: Iterable[int] = (),
        parent: bool = False,
        resources: Resources | None = None,
    ) -> int:
        number = self._numbers[above] = self._numbers.get(above, -1) + 1
        work = Work("fn", (), parent, tuple(needs), resources)
        self._requests.append(Submitted(above, number, work))
        return number

    def wait(self, call: int, *numbers: int, takes_failures: bool = False) -> None:
        def reply(outcomes: list[Outcome] | None) -> None:
            self.answers[call] = outcomes

        self._requests.append(Waits(call, 1, numbers, takes_failures, reply))

    def drop(self, call: int, *numbers: int) -> None:
        self._requests.append(Drops(call, numbers))

    def end(self, call: int, value: Any = None, kind: Kind = Kind.RETURNED) -> None:
        self._completions.append(Completion(call, kind, value))

    def look(self) -> list[Completion]:
        """A turn of the worker."""
        return self.graphs.completions()

    @property
    def ids(self) -> list[int]:
        """The calls that have begun, in that order."""
        return [invocation.call_id for invocation in self.begun]


def test_the_deepest_come_first_and_then_the_oldest():
    """So that what has begun ends before more begins."""
    desk = Desk(limit=1)
    desk.roots(1, 2)
    desk.subtask(1, parent=True)
    desk.subtask(1)
    desk.wait(1, 0, 1)
    desk.look()
    assert [i.depth for i in desk.begun] == [0, 1]
    desk.subtask(2)
    desk.wait(2, 0)
    desk.look()
    assert [i.depth for i in desk.begun] == [0, 1, 2]
    for call in (3, 2, 4):
        desk.end(call)
        desk.look()
    assert [i.depth for i in desk.begun] == [0, 1, 2, 1]


def test_who_has_waited_goes_on_before_others_begin():
    """And takes its place again."""
    desk = Desk(limit=1)
    desk.roots(1, 2)
    desk.subtask(1)
    desk.wait(1, 0)
    desk.look()
    desk.end(2, "value")
    desk.look()
    assert desk.answers == {1: [(True, "value")]}
    assert len(desk.begun) == 2


def test_roots_are_held_back_while_many_wait():
    """Each that waits keeps a thread or a process; one more begins only if nothing runs."""
    desk = Desk(places=1)
    desk.roots(*range(30))
    for _ in range(17):
        call = desk.ids[-1]
        number = desk.subtask(call, resources=Resources(gpu=2))
        desk.wait(call, number)
        desk.look()
    assert desk.begun[-1].work is not None, "subtasks run before roots"


def test_a_leaf_may_begin_ahead_of_its_place_and_a_parent_may_not():
    """A leaf never waits, so a queue of them is no harm."""
    desk = Desk(places=1)
    desk.roots(1, 2)
    for _ in range(3):
        desk.subtask(1)
    desk.subtask(1, parent=True)
    desk.look()
    assert len(desk.begun) == 4


def test_resources_are_taken_while_a_subtask_runs_and_given_back_while_it_waits():
    """And one that finds too little holds back others that take some, not those that don't."""
    account = SimpleAccount(Ledger(Resources(gpu=1)))
    desk = Desk(account=account, offer=Resources(gpu=1))
    desk.roots(1)
    desk.subtask(1, parent=True, resources=Resources(gpu=1))
    desk.subtask(1, resources=Resources(gpu=1))
    desk.subtask(1)
    desk.wait(1, 0, 1, 2)
    desk.look()
    assert len(desk.begun) == 3
    first = next(i.call_id for i in desk.begun if i.depth == 1 and i.context is not None)
    assert account.held == {first: Resources(gpu=1)}
    desk.subtask(first)
    desk.wait(first, 0)
    desk.look()
    assert list(account.held.values()) == [Resources(gpu=1)]
    assert first not in account.held
    second = next(iter(account.held))
    below = next(i.call_id for i in desk.begun if i.depth == 2)
    desk.end(below)
    desk.look()
    assert first not in desk.answers
    desk.end(second)
    desk.look()
    assert first in desk.answers
    assert set(account.held) == {first}


def test_what_others_give_back_is_noticed():
    """Though no call of this step ends."""
    account = SimpleAccount(Ledger(Resources(gpu=1)))
    assert account.take(-1, Resources(gpu=1))
    desk = Desk(account=account, offer=Resources(gpu=1))
    desk.roots(1)
    desk.subtask(1, resources=Resources(gpu=0.5))
    desk.wait(1, 0)
    desk.look()
    assert not desk.graphs.ended()
    account.give_back(-1)
    assert desk.graphs.ended()
    desk.look()
    assert len(desk.begun) == 2


def test_a_root_that_waits_gives_its_resources_back():
    """The table has taken them under its own number of the call."""
    ledger = Ledger(Resources(gpu=1))
    roots, subtasks = SimpleAccount(ledger), SimpleAccount(ledger)
    demand = Resources(gpu=1)
    desk = Desk(
        account=subtasks,
        offer=Resources(gpu=1),
        root_account=roots,
        root_resources=demand,
    )
    assert roots.take(9, demand)
    desk.roots(9)
    desk.subtask(1, resources=demand)
    desk.wait(1, 0)
    desk.look()
    assert (list(roots.held), len(subtasks.held)) == ([], 1)
    desk.end(desk.ids[-1])
    desk.look()
    assert (list(roots.held), list(subtasks.held)) == ([], [1])
    desk.end(1)
    desk.look()
    assert (roots.held, subtasks.held) == ({}, {})


def test_a_demand_that_the_worker_can_never_meet_is_told():
    """Where it is gathered, with what the worker has."""
    desk = Desk(account=SimpleAccount(Ledger(Resources(cpu=2))), offer=Resources(cpu=2))
    desk.roots(1)
    desk.subtask(1, resources=Resources(gpu=1))
    desk.wait(1, 0)
    desk.look()
    outcomes = desk.answers[1]
    assert outcomes is not None
    assert isinstance(outcomes[0][1], UserCodeError)
    assert "needs Resources(gpu=1), and its worker offers Resources(cpu=2)" in str(outcomes[0][1])


def test_a_root_is_not_over_before_its_subtasks():
    """What it has returned waits for them."""
    desk = Desk()
    desk.roots(5)
    desk.subtask(1)
    desk.end(1, "value")
    assert desk.look() == []
    desk.end(2)
    assert desk.look() == [Completion(5, Kind.RETURNED, "value")]


def test_a_failure_gives_up_the_rest_of_its_gather():
    """At once; what needs one of those is given up too, and nobody blames the parent for it."""
    desk = Desk()
    desk.roots(5)
    for needs in ((), (), (), (1,)):
        desk.subtask(1, needs=needs)
    desk.wait(1, 0, 1)
    desk.look()
    error = ValueError("so")
    desk.end(2, error, Kind.RAISED)
    desk.look()
    assert desk.cancelled == [3]
    assert desk.answers == {1: [(False, error)]}
    desk.end(1, "value")
    desk.end(4)
    assert desk.look() == [Completion(5, Kind.RETURNED, "value")]


def test_what_was_given_up_can_be_waited_for_and_says_why():
    """With the failure as its cause."""
    desk = Desk()
    desk.roots(5)
    desk.subtask(1)
    desk.subtask(1)
    desk.wait(1, 0, 1)
    desk.look()
    error = ValueError("so")
    desk.end(2, error, Kind.RAISED)
    desk.look()
    desk.wait(1, 1, takes_failures=True)
    desk.look()
    outcomes = desk.answers[1]
    assert outcomes is not None
    [(ok, found)] = outcomes
    assert (ok, type(found), found.__cause__) == (False, SubtaskCancelledError, error)


def test_the_time_of_a_root_goes_on_while_it_waits_and_ends():
    """Its executor may not know it any more."""
    desk = Desk()
    desk.roots(5)
    assert desk.graphs.started_s(5) == 7.0
    desk.subtask(1)
    desk.end(1)
    desk.look()
    assert desk.graphs.started_s(5) == 7.0
    desk.graphs.cancel(5)
    assert desk.graphs.started_s(5) is None
    assert desk.cancelled == [2]


def test_a_result_is_let_go_with_its_last_future_and_user():
    """Not before the one, nor before the other."""
    desk = Desk()
    desk.roots(5)
    desk.subtask(1)
    desk.subtask(1, needs=(0,))
    desk.drop(1, 0)
    desk.look()
    desk.end(2, "first")
    desk.look()
    assert desk.released == []
    assert desk.begun[-1].results == {0: "first"}
    desk.end(3, "second")
    desk.look()
    assert desk.released == ["first"]
    desk.drop(1, 1)
    desk.look()
    assert desk.released == ["first", "second"]


def test_a_call_that_is_unknown_is_told_not_to_wait():
    """It was given up before its request came: its thread must not wait for ever."""
    desk = Desk()
    desk.roots(5)
    desk.subtask(1)
    desk.wait(1, 0)
    desk.graphs.cancel(5)
    desk.look()
    assert desk.answers == {1: None}


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_subtask_is_tried_again_when_its_process_dies(deaths: int):
    """Up to the budget; its own subtasks are given up with it."""
    desk = Desk()
    desk.roots(5)
    desk.subtask(1, parent=True)
    desk.wait(1, 0, takes_failures=True)
    desk.look()
    for _ in range(deaths):
        call = desk.ids[-1]
        desk.subtask(call)
        desk.look()
        desk.end(call, RuntimeError("dead"), Kind.DIED)
        desk.look()
        assert desk.cancelled[-1] == call + 1
    assert (1 in desk.answers) == (deaths == 3)


@pytest.mark.parametrize("limit_s", [5.0, math.inf])
def test_a_call_that_cannot_be_stopped_loses_its_place_after_the_timeout(limit_s: float):
    """Or calls that never come back would hold all places, and no task could ever begin."""
    desk = Desk(limit=1, left_alone_s=limit_s)
    desk.stops = False
    desk.roots(1, 2)
    desk.subtask(1)
    desk.wait(1, 0)
    desk.look()
    desk.end(1, ValueError(), Kind.RAISED)
    desk.look()
    assert desk.ids == [1, 2], "the subtask keeps its place"
    assert desk.graphs.due_s() == limit_s
    desk.now_s = 5.0
    desk.look()
    assert desk.ids == ([1, 2, 3] if limit_s == 5.0 else [1, 2])
    assert desk.cancelled == ([2] if limit_s == 5.0 else [])
