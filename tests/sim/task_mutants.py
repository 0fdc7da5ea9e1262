"""Ways to break steps with tasks, each of which a seed must bring to light."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import UserCodeError
from engine.operators._state import StateChanges
from engine.runtime import _failures
from engine.runtime._stage import Sender, StageInput
from engine.runtime._task_node import TaskNode
from engine.runtime._task_table import OVER, State, Task, TaskTable, _Limiter
from tests.sim.mutant import Mutant
from tests.sim.tasks import check_tasked_store

Patch = pytest.MonkeyPatch


def _without(patch: Patch, dropped: Callable[[Any], bool]) -> None:
    """Some rows aren't saved."""
    barrier = TaskNode.barrier

    def some(self: TaskNode, epoch: int) -> StateChanges:
        changes = barrier(self, epoch)
        rows = zip(changes.keys, changes.stored, strict=True)
        kept = [(key, row) for key, row in rows if not dropped(State(row[0][5]))]
        return replace(changes, keys=[k for k, _ in kept], stored=[row for _, row in kept])

    patch.setattr(TaskNode, "barrier", some)


def _running_tasks_not_saved(patch: Patch) -> None:
    _without(patch, lambda state: state is State.RUNNING)


def _waiting_tasks_not_saved(patch: Patch) -> None:
    _without(patch, lambda state: state is State.WAITING)


def _finished_tasks_not_saved(patch: Patch) -> None:
    _without(patch, lambda state: state in OVER)


def _emitted_tasks_not_deleted(patch: Patch) -> None:
    barrier = TaskNode.barrier
    patch.setattr(TaskNode, "barrier", lambda self, e: replace(barrier(self, e), gone=[]))


def _a_list_that_is_not_full_lost(patch: Patch) -> None:
    _without(patch, lambda state: state is State.GATHERING)


def _late_results_taken(patch: Patch) -> None:
    """A call that was given up for its time still counts."""
    timed_out, returned = TaskTable.timed_out, TaskTable.returned
    given_up: dict[int, dict[int, Task]] = {}

    def remember(self: TaskTable, now_s: float, began_s: Any) -> list[int]:
        running = dict(self._running)
        calls = timed_out(self, now_s, began_s)
        given_up.setdefault(id(self), {}).update((call, running[call]) for call in calls)
        return calls

    def take(self: TaskTable, call: int, result: Any, now_s: float) -> None:
        task = given_up.get(id(self), {}).pop(call, None)
        if task is not None:
            self._over.append(task)
            task.state, task.result = State.DONE, result
        returned(self, call, result, now_s)

    patch.setattr(TaskTable, "timed_out", remember)
    patch.setattr(TaskTable, "returned", take)


def _ended_before_its_tasks(patch: Patch) -> None:
    end_input = TaskNode.end_input

    def at_once(self: TaskNode) -> None:
        end_input(self)
        if self._input_over:
            self._end()

    patch.setattr(TaskNode, "end_input", at_once)


def _ids_begin_again(patch: Patch) -> None:
    """Two tasks may have the same row."""
    restore = TaskTable.restore

    def forget(self: TaskTable, tasks: list[Task], now_s: float) -> None:
        self.next_id = 0
        restore(self, tasks, now_s)

    patch.setattr(TaskTable, "restore", forget)


def _no_order(patch: Patch) -> None:
    """Tasks come out as they end, whatever was promised."""

    def end(self: TaskTable, task: Task, state: State, result: Any) -> None:
        task.state, task.result = state, result
        self.changed[task.number] = task
        self._over.append(task)

    patch.setattr(TaskTable, "_end", end)


def _tasks_of_keys_stay_with_workers(patch: Patch) -> None:
    """They aren't dealt by their key."""
    row_key = TaskNode._row_key

    def at_home(self: TaskNode, task: Task) -> Any:
        key, none, number = row_key(self, task)
        del key
        return self._home, none, number

    patch.setattr(TaskNode, "_row_key", at_home)


def _more_than_the_limit(patch: Patch) -> None:
    next_calls = TaskTable.next_calls

    def all_of_them(self: TaskTable, now_s: float) -> Any:
        self._started = -math.inf
        return next_calls(self, now_s)

    patch.setattr(TaskTable, "next_calls", all_of_them)


def _credit_given_back_at_once(patch: Patch) -> None:
    patch.setattr(TaskNode, "owe", lambda _self, give_back: give_back())


def _called_before_its_epoch_is_durable(patch: Patch) -> None:
    admit = TaskTable.admit

    def old(self: TaskTable, records: list[Any], now_s: float) -> None:
        self.epoch -= 1
        admit(self, records, now_s)
        self.epoch += 1

    patch.setattr(TaskTable, "admit", old)


def _tries_begin_again(patch: Patch) -> None:
    """What was tried before a crash is forgotten."""
    restore = TaskTable.restore

    def forget(self: TaskTable, tasks: list[Task], now_s: float) -> None:
        for task in tasks:
            task.tries = 0
        restore(self, tasks, now_s)

    patch.setattr(TaskTable, "restore", forget)


def _tasks_not_awaited_to_be_ready_for_more(patch: Patch) -> None:
    """The table forgets which tasks are being awaited to be tried again."""
    rest = TaskTable._rest

    def drop(self: TaskTable, task: Task, times: int, now_s: float) -> None:
        rest(self, task, times, now_s)
        self._resting.clear()

    patch.setattr(TaskTable, "_rest", drop)


def _more_taken_in_at_each_start(patch: Patch) -> None:
    """Channels have their credit at once, whatever tasks there are."""
    patch.setattr(Sender, "spend_all", lambda _self: None)
    patch.setattr(StageInput, "owe_all", lambda *_: None)


def _results_of_others_take_room(patch: Patch) -> None:
    """What was over when the run began counts as in flight."""
    restore = TaskTable.restore

    def count(self: TaskTable, tasks: list[Task], now_s: float) -> None:
        restore(self, tasks, now_s)
        self._started += len(self._over_before)
        self._over_before.clear()

    patch.setattr(TaskTable, "restore", count)


def _what_failed_once_fails_for_ever(patch: Patch) -> None:
    """A failure that ended a run ends each run after it."""
    patch.setattr(TaskNode, "_ends_run", lambda _self, _error: False)


def _a_list_that_was_called_gets_more(patch: Patch) -> None:
    """Under the same id."""
    restore = TaskTable.restore

    def go_on(self: TaskTable, tasks: list[Task], now_s: float) -> None:
        rules = self._rules
        self._rules = replace(rules, after_commit=False)
        restore(self, tasks, now_s)
        self._rules = rules

    patch.setattr(TaskTable, "restore", go_on)


def _a_death_is_not_the_records_fault(patch: Patch) -> None:
    """It ends the job, though the step goes on without records that fail."""
    patch.setattr(_failures, "_RECORDS_FAULT", (UserCodeError,))


def _a_moment_left_stays_a_moment(patch: Patch) -> None:
    """A try that is cut short by a restart has what it had left, though a failure ends the run."""
    resumed = TaskNode._task

    def keep(self: TaskNode, key: Any, row: Any) -> Task:
        task = resumed(self, key, row)
        task.left_s = row[4]
        return task

    patch.setattr(TaskNode, "_task", keep)


def _no_limiter_waits(patch: Patch) -> None:
    take = _Limiter.take

    def twice(self: _Limiter, now_s: float) -> bool:
        self._tokens += 0.5
        return take(self, now_s)

    patch.setattr(_Limiter, "take", twice)


def _lists_do_not_linger(patch: Patch) -> None:
    next_calls = TaskTable.next_calls

    def at_once(self: TaskTable, now_s: float) -> Any:
        if self._gathering is not None:
            self._close_list()
        return next_calls(self, now_s)

    patch.setattr(TaskTable, "next_calls", at_once)


TASK_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check_tasked_store, seed)
    for function, seed in (
        (_running_tasks_not_saved, 3),
        (_waiting_tasks_not_saved, 1),
        (_finished_tasks_not_saved, 70),
        (_emitted_tasks_not_deleted, 0),
        (_a_list_that_is_not_full_lost, 6),
        (_late_results_taken, 1),
        (_ended_before_its_tasks, 0),
        (_ids_begin_again, 1),
        (_no_order, 0),
        (_tasks_of_keys_stay_with_workers, 5),
        (_more_than_the_limit, 0),
        (_credit_given_back_at_once, 0),
        (_called_before_its_epoch_is_durable, 1),
        (_tasks_not_awaited_to_be_ready_for_more, 0),
        (_tries_begin_again, 1),
        (_more_taken_in_at_each_start, 1),
        (_results_of_others_take_room, 25),
        (_what_failed_once_fails_for_ever, 41),
        (_a_list_that_was_called_gets_more, 49),
        (_a_death_is_not_the_records_fault, 8),
        (_a_moment_left_stays_a_moment, 0),
        (_no_limiter_waits, 0),
        (_lists_do_not_linger, 4),
    )
]
