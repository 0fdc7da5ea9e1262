"""A step with tasks, on one worker: between the stage, the table of its tasks and an executor."""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.keys import part_key
from engine.operators._shown import shortened
from engine.operators._state import StateChanges, Stored
from engine.operators.tasks._context import TaskContext
from engine.operators.tasks._executor import Call, RunningExecutor
from engine.operators.tasks._task import TaskError, TaskKernel
from engine.runtime._failure import name_of
from engine.runtime._failures import StepFailures, is_records_fault
from engine.runtime._nodes import Aside, Node, Target, push_asides
from engine.runtime._task_table import OVER, State, Task, TaskTable

_Row = tuple[str, list[bytes], int, int, float | None, str, bytes, int]


@dataclass(frozen=True, slots=True)
class TaskSite:
    """What a step with tasks has around it on its worker."""

    step_id: str
    now_s: Callable[[], float]
    """A clock that never goes back."""
    home: str
    """A key that this worker owns: rows under it come back to it, if there are as many workers."""
    failures: StepFailures | None
    """What takes the records of tasks that have failed; None where that ends the run."""
    letters: Sequence[Aside]
    """Dead letters, and where they go."""


class TaskNode(Node):
    """A step with tasks.

    Args:
        site: What it has around it.
        kernel: What the user said.
        table: Its tasks.
        executor: What runs them.
        downs: Where results and errors go; None for errors that nobody reads.
        inputs: How many edges lead here.
    """

    def __init__(
        self,
        site: TaskSite,
        kernel: TaskKernel,
        table: TaskTable,
        executor: RunningExecutor,
        downs: tuple[Target, Target | None],
        inputs: int,
    ) -> None:
        super().__init__(site.step_id, inputs)
        self.table = table
        self._kernel = kernel
        self._executor = executor
        self._down, self._errors = downs
        self._now_s = site.now_s
        self._failures, self._letters = site.failures, site.letters
        self._home = site.home
        self._owed: deque[Callable[[], None]] = deque()
        """Credit to give back once the table has room."""
        self._input_over = False
        self._unsaved = False
        """Whether something has happened since the last barrier that an epoch must save."""
        self._asked = 0
        """The last epoch that was asked to end, so that the last tasks can begin."""

    # From the stage

    def push(self, batch: list[Any]) -> None:
        """Make tasks of a batch."""
        self.table.admit(batch, self._now_s())

    def owe(self, give_back: Callable[[], None]) -> None:
        """Credit for a batch is given back when the table has room for more."""
        self._owed.append(give_back)
        self._pay()

    def owe_first(self, give_back: Callable[[], None]) -> None:
        """Credit that a sender begins without.

        A run begins with the tasks of the run before. If it took a few batches more each time, a
        job that crashes again and again would have ever more tasks.
        """
        self._owed.append(give_back)

    def _pay(self) -> None:
        while self._owed and self.table.waiting == 0:
            self._owed.popleft()()

    def end_input(self) -> None:
        """One of the inputs has ended. The step ends when its tasks have."""
        self._inputs_open -= 1
        if self._inputs_open == 0:
            self._input_over = True
            self.table.end_input()

    # From the worker

    def wait_s(self, *, room: bool) -> float:
        """In how many seconds `turn` has something to do, if no call ends."""
        table = self.table
        over = self._input_over and not len(table)
        pays = self._owed and table.waiting == 0
        if over or pays or self._executor.ended() or (room and table.has_over):
            return 0.0
        if self._needs_commit:
            return 0.0
        due_s = min(table.next_due_s(), self._executor.due_s())
        return max(0.0, due_s - self._now_s())

    def turn(self, *, room: bool) -> float:
        """Hear of calls, emit what can be, submit what can be.

        Args:
            room: Whether what is emitted could be sent on.

        Returns:
            In how many seconds there will be something to do if no call ends: 0 at once.
        """
        # A local for `engine.runtime._failure` to find.
        step_id = self.step_id  # noqa: F841 # pyright: ignore[reportUnusedVariable]
        table, executor, now_s = self.table, self._executor, self._now_s()
        worked = table.hear(executor.completions(), now_s)
        for call in table.timed_out(now_s, executor.started_s):
            executor.cancel(call)
            # It has given back its resources, for which others may wait.
            worked = True
        if room and table.has_over:
            self._emit(table.take_over())
            worked = True
        calls = [Call(call, self._argument(task)) for call, task in table.next_calls(now_s)]
        if calls:
            executor.submit(calls)
            worked = True
        self._pay()
        if worked:
            self._unsaved = True
            return 0.0
        if self._input_over and not len(table):
            self._end()
            return 0.0
        return self.wait_s(room=room)

    def _argument(self, task: Task) -> Any:
        records = task.records
        if task.encoded and task.tries > 1:
            # An earlier try may have changed them.
            records = [pickle.loads(data) for data in task.encoded]  # noqa: S301 - our own
        argument = records if self._kernel.rules.batch is not None else records[0]
        if not self._kernel.takes_context:
            return argument
        own = self._kernel.idempotency
        key = task.task_id if own is None else own(argument)
        return argument, TaskContext(task.task_id, key, task.tries)

    def _emit(self, over: list[Task]) -> None:
        """Hand on what tasks have come to, results and errors in order each."""
        batched = self._kernel.rules.batch is not None
        results: list[Any] = []
        errors: list[Any] = []
        for task in over:
            if task.state is State.DONE:
                if batched:
                    results += task.result
                else:
                    results.append(task.result)
            elif self._errors is not None:
                errors += [
                    TaskError(record, task.result, task.tries, task.task_id)
                    for record in task.records
                ]
            elif not self._left_out(task):
                self._fail(task)
        if results:
            self._down.push(results)
        push_asides(self._letters)
        if errors:
            assert self._errors is not None  # noqa: S101
            self._errors.push(errors)

    def _left_out(self, task: Task) -> bool:
        """Go on without the records of a task that has failed, if the step does so."""
        failures, error = self._failures, task.result
        if failures is None or not isinstance(error, Exception):
            return False
        return all(failures.take(error, record, task.tries) for record in task.records)

    def _fail(self, task: Task) -> None:
        # Locals for `engine.runtime._failure` to find.
        step_id = self.step_id  # noqa: F841 # pyright: ignore[reportUnusedVariable]
        record = task.records if self._kernel.rules.batch is not None else task.records[0]
        error = cast("BaseException", task.result)
        if isinstance(error, Exception):
            raise error
        # What ends a program when a step raises it is only a failed task here.
        function = self._kernel.function
        msg = f"{f_repr(function)} raised {name_of(error)} for {shortened(record)}"
        raise UserCodeError(msg, function=function) from error

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._down.end()
        if self._errors is not None:
            self._errors.end()
        for _, target in self._letters:
            target.end()

    # Epochs

    @property
    def _needs_commit(self) -> bool:
        return self._input_over and self.table.uncommitted and self._asked < self.table.epoch

    def asks_commit(self) -> bool:
        """Whether the epoch must end, or the last tasks would wait for it; told once for each."""
        asks = self._needs_commit
        if asks:
            self._asked = self.table.epoch
        return asks

    def take_unsaved(self) -> bool:
        """Whether something has happened that an epoch must save; asked once for each time."""
        unsaved, self._unsaved = self._unsaved, False
        return unsaved

    def barrier(self, epoch: int) -> StateChanges:
        """What the epoch has changed; the next one begins."""
        table = self.table
        table.epoch = epoch + 1
        keys: list[Any] = []
        stored: list[Any] = []
        limited = self._kernel.rules.timeout_s < math.inf
        calls = {task.number: call for call, task in table.running()} if limited else {}
        for task in table.changed.values():
            left_s = task.left_s
            if task.number in calls:
                left_s = self._left_s(task, calls[task.number])
            keys.append(self._row_key(task))
            stored.append((self._row(task, left_s),))
            task.saved = True
        gone = [self._row_key(task) for task in table.gone]
        table.changed.clear()
        table.gone.clear()
        return StateChanges(keys, stored, None, gone)

    def _row_key(self, task: Task) -> Any:
        if task.home is None:
            key = self._home if self._kernel.rules.order != "key" else task.key
            task.home = part_key(key, int(task.task_id.rsplit("-", 1)[1]))
        return task.home

    def _left_s(self, task: Task, call: int) -> float | None:
        """How much time a try has left; None for all of it."""
        began_s = self._executor.started_s(call)
        if began_s is None:
            # It waits for its place, which doesn't count.
            return task.left_s
        limit_s = self._kernel.rules.timeout_s if task.left_s is None else task.left_s
        return max(0.0, began_s + limit_s - self._now_s())

    def _row(self, task: Task, left_s: float | None) -> _Row:
        state, result = task.state, b""
        if state in OVER:
            try:
                result = pickle.dumps(task.result, 5)
            except Exception:  # noqa: BLE001 - whatever the user's classes raise
                # A run that goes on from here makes the last try again.
                state = State.RUNNING
        counts = task.tries, task.deaths
        return task.task_id, task.encoded, *counts, left_s, state.value, result, task.epoch

    def resume(self, stored: Stored) -> None:
        """Go on with the tasks that were saved."""
        keys = stored.keys()
        rows = [(key, stored.load(key)) for key in keys]
        tasks = sorted((self._task(key, row[0]) for key, row in rows), key=_order_of)
        self.table.restore(tasks, self._now_s())

    def _task(self, key: Any, row: _Row) -> Task:
        task_id, encoded, tries, deaths, left_s, state, result, epoch = row
        task = Task(0, task_id, epoch)
        task.home = key
        task.encoded = encoded
        task.records = [pickle.loads(data) for data in encoded]  # noqa: S301 - our own
        task.tries, task.deaths, task.left_s = tries, deaths, left_s
        task.state = State(state)
        try:
            task.result = pickle.loads(result) if result else None  # noqa: S301 - as above
        except Exception:  # noqa: BLE001 - as when it was written
            task.state = State.RUNNING
        if task.state is State.FAILED and self._ends_run(task.result):
            # It would end this run as it has ended the last one: it is tried again.
            task.state = State.RUNNING
        if self._ends_run(TimeoutError()):
            # A try with a moment left would end each run after this one.
            task.left_s = None
        if self._kernel.rules.order == "key":
            task.key = key[0]
        return task

    def _ends_run(self, error: BaseException) -> bool:
        """Whether nobody takes a task that has failed so."""
        if self._errors is not None:
            return False
        if self._failures is None or not isinstance(error, Exception):
            return True
        return not is_records_fault(error)


def _order_of(task: Task) -> tuple[int, str]:
    worker, number = task.task_id.rsplit("-", 1)
    return int(number), worker
