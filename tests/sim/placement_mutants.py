"""Ways to break resources and lent calls, each of which a seed must bring to light."""

from __future__ import annotations

from typing import Any

import pytest

from engine.operators.tasks import Resources
from engine.operators.tasks._executor import Completion
from engine.runtime import WorkerIndex
from engine.runtime._errands import AboutStep, Ended
from engine.runtime._ledger import Account, Ledger
from engine.runtime._lending import Lending
from engine.runtime._lent_step import LentStep
from engine.runtime._task_table import Task, TaskTable
from tests.sim.mutant import Mutant
from tests.sim.placement import check_placed_store

Patch = pytest.MonkeyPatch


def _guests_take_nothing(patch: Patch) -> None:
    """A guest runs what it is lent, whether there is room or not."""
    has, take = Account.has, Account.take

    def of_guest(self: LentStep) -> list[Account]:
        return [guests.place for guests in self._guests.values()]

    admit = LentStep._admit

    def at_once(self: LentStep) -> None:
        guests = of_guest(self)
        patch.setattr(Account, "has", lambda a, demand: a in guests or has(a, demand))
        patch.setattr(
            Account,
            "take",
            lambda a, call, demand, place=None: place in guests or take(a, call, demand, place),
        )
        try:
            admit(self)
        finally:
            patch.setattr(Account, "has", has)
            patch.setattr(Account, "take", take)

    patch.setattr(LentStep, "_admit", at_once)


def _not_given_back_when_given_up(patch: Patch) -> None:
    def give_up(self: LentStep, number: int) -> None:
        del self._runs[number]
        self._unbegun.discard(number)
        self._executor.cancel(number)

    patch.setattr(LentStep, "_give_up", give_up)


def _not_given_back_by_tables(patch: Patch) -> None:
    """A try that takes too long keeps what it has taken."""
    timed_out = TaskTable.timed_out

    def keep(self: TaskTable, now_s: float, began_s: Any) -> list[int]:
        account, self._account = self._account, None
        calls = timed_out(self, now_s, began_s)
        self._account = account
        return calls

    patch.setattr(TaskTable, "timed_out", keep)


def _given_back_as_it_begins(patch: Patch) -> None:
    begin = TaskTable._begin

    def at_once(self: TaskTable, task: Task, now_s: float) -> tuple[int, Task]:
        call, task = begin(self, task, now_s)
        if self._account is not None:
            self._account.give_back(call)
        return call, task

    patch.setattr(TaskTable, "_begin", at_once)


def _labels_not_looked_at(patch: Patch) -> None:
    def all_of_them(self: Lending, _kernel: Any) -> list[WorkerIndex]:
        return [WorkerIndex(i) for i in range(self.workers)]

    patch.setattr(Lending, "able", all_of_them)


def _stale_ends_taken(patch: Patch) -> None:
    """What comes of a call that was given up counts for the oldest that is lent."""
    hear = LentStep._hear_of_lent

    def take(self: LentStep, sender: WorkerIndex, errand: AboutStep) -> None:
        if isinstance(errand, Ended) and errand.call not in self._lent and self._lent:
            call = next(iter(self._lent))
            self._forget(call)
            self._over.append(Completion(call, errand.kind, errand.value.open()))
            return
        hear(self, sender, errand)

    patch.setattr(LentStep, "_hear_of_lent", take)


def _nobody_leaves_the_line(patch: Patch) -> None:
    """What was placed elsewhere is still waited for."""
    patch.setattr(Account, "leave", lambda _self: None)


def _the_end_not_waited_for(patch: Patch) -> None:
    """A worker whose own input is over does nothing for others."""
    turn, wait_s = Lending.turn, Lending.wait_s

    def over(self: Lending) -> bool:
        return all(not step._lent and not step._here for step in self.steps.values()) and any(
            step._guests for step in self.steps.values()
        )

    patch.setattr(Lending, "turn", lambda self: wait_s(self) if over(self) else turn(self))
    patch.setattr(Lending, "wait_s", lambda self: float("inf") if over(self) else wait_s(self))


def _taken_beyond_the_offer(patch: Patch) -> None:
    """The last of it is taken twice."""

    def has(self: Ledger, demand: Resources, account: Account | None = None) -> bool:
        del account
        return all(self._free.get(name, 0) > 0 for name in demand.parts)

    patch.setattr(Ledger, "has", has)


PLACEMENT_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check_placed_store, seed)
    for function, seed in (
        (_guests_take_nothing, 8),
        (_not_given_back_when_given_up, 9),
        (_not_given_back_by_tables, 3),
        (_given_back_as_it_begins, 2),
        (_labels_not_looked_at, 6),
        (_stale_ends_taken, 18),
        (_nobody_leaves_the_line, 54),
        (_the_end_not_waited_for, 0),
        (_taken_beyond_the_offer, 3),
    )
]
