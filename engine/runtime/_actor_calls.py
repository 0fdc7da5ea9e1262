"""What actors of one step on one worker have running apart from them: tasks, dedicated handlers.

Those of an executor, and those of a class, have a table of their own, as a step with tasks has.
What runs them is started when there is a call first. What is to be saved of a call is with its
actor.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from engine.errors import UserCodeError
from engine.operators.actors import Actor
from engine.operators.actors._apart import HandledApart
from engine.operators.actors._mail import FAILED, RESULT, Mail, packed
from engine.operators.actors._requests import Requested, RequestedAsync, TaskRequest
from engine.operators.tasks import Call, ProcessExecutor, Retry, RunningExecutor, TaskError
from engine.operators.tasks._executor import AnyExecutor, executor_of
from engine.operators.tasks._policies import TaskRules
from engine.runtime._failure import name_of
from engine.runtime._task_site import Surroundings
from engine.runtime._task_table import State, Task, TaskTable

IN_FLIGHT_MAX = 256
"""So many calls of a table are under way at the same time; as of a step with tasks by default."""


class Parcel(NamedTuple):
    """A message for a handler that runs apart."""

    cls: type[Actor]
    pack: Callable[[], bytes]
    """Gives what its process needs, when it begins: states of those that wait aren't copied."""


class Order(NamedTuple):
    """A call that an actor wants."""

    address: Any
    task: int | None
    """The number of the task; None if it is a handler."""
    work: TaskRequest | Parcel


class End(NamedTuple):
    """What has become of a call."""

    order: Order
    result: Any
    error: BaseException | None
    tries: int

    def mail(self) -> Mail:
        """What tells the actor of the end of a task."""
        (_, number, work), error = self.order, self.error
        if error is None:
            try:
                return RESULT, packed(self.result), None, number, None
            except UserCodeError as ex:
                error = ex
        assert isinstance(work, TaskRequest)  # noqa: S101
        failed = TaskError(work.args(), portable(error), self.tries, str(number))
        return FAILED, packed(failed), None, number, None


def portable(error: BaseException) -> Exception:
    """What was raised, or the same in words if it can't be saved or would end the process."""
    if isinstance(error, Exception):
        try:
            if type(pickle.loads(pickle.dumps(error, 5))) is type(error):  # noqa: S301 - our own
                return error
        except Exception:  # noqa: BLE001, S110 - whatever the user's classes raise
            pass
    return UserCodeError(f"it raised {name_of(error)}")


class ActorCalls:
    """The calls of the actors of one step on one worker.

    Args:
        step_id: The step.
        module: The name of the module that its classes are in.
        site: What there is on the worker.
    """

    def __init__(self, step_id: str, module: str, site: Surroundings) -> None:
        self._step_id = step_id
        self._module = module
        self._site = site
        self._now_s = site.clock.monotonic_s
        self._lines: dict[str | type[Actor], _Line] = {}
        """By the name of the executor of tasks, or the class of handlers."""

    def submit(self, orders: list[Order]) -> None:
        """Take calls; `turn` has them run."""
        now_s = self._now_s()
        for order in orders:
            work = order.work
            if isinstance(work, Parcel):
                self._handlers(work.cls).table.admit([order], now_s)
            else:
                self._tasks(work.executor).take(order, work, now_s)

    def turn(self) -> bool:
        """Hear of calls and have others begin. Whether there was something to do."""
        now_s, worked = self._now_s(), False
        for line in self._lines.values():
            worked = line.turn(now_s) or worked
        return worked

    def take_tried(self) -> list[tuple[Order, TaskRequest]]:
        """Tasks that have failed since it was asked last and are tried again, as they are now."""
        return [tried for line in self._lines.values() for tried in line.take_tried()]

    def take_ends(self) -> list[End]:
        """The calls that have ended since it was asked last."""
        return [end for line in self._lines.values() for end in line.take_ends()]

    def wait_s(self, *, room: bool) -> float:
        """In how many seconds there is something to do if no call ends.

        Args:
            room: Whether `take_ends` would be asked.
        """
        if not self._lines:
            return math.inf
        due_s = min(line.due_s(room=room) for line in self._lines.values())
        return max(0.0, due_s - self._now_s())

    def _tasks(self, executor: str) -> _Line:
        line = self._lines.get(executor)
        if line is None:
            function = (RequestedAsync if executor == "async" else Requested)(self._module)
            rules = TaskRules(IN_FLIGHT_MAX, "none")
            line = self._lines[executor] = self._line(rules, executor_of(executor), function)
        return line

    def _handlers(self, cls: type[Actor]) -> _Line:
        line, spec = self._lines.get(cls), cls.blueprint.dedicated
        if line is None:
            assert spec is not None  # noqa: S101 - or there would be no parcel
            timeout_s = math.inf if spec.timeout is None else spec.timeout.total_seconds()
            # What a call takes it holds also while it waits for a process.
            most = IN_FLIGHT_MAX if spec.resources is None else spec.processes
            retry, resources = Retry(deaths=cls.blueprint.deaths_max), spec.resources
            rules = TaskRules(most, "none", timeout_s, retry, resources=resources)
            executor = ProcessExecutor(spec.processes)
            line = self._lines[cls] = self._line(rules, executor, HandledApart(cls))
        return line

    def _line(
        self, rules: TaskRules, executor: AnyExecutor, function: Callable[[Any], Any]
    ) -> _Line:
        site = self._site
        table = TaskTable(rules, "", site.chance, account=site.ledger.account())
        return _Line(table, site.executors.start(executor, function, site.wake, self._step_id))


class _Line:
    """Calls of one kind.

    Args:
        table: The calls.
        executor: What runs them.
    """

    def __init__(self, table: TaskTable, executor: RunningExecutor) -> None:
        self.table = table
        self._executor = executor

    def due_s(self, *, room: bool) -> float:
        table, executor = self.table, self._executor
        if executor.ended() or (room and table.has_over):
            return -math.inf
        return min(table.next_due_s(), executor.due_s())

    def take(self, order: Order, work: TaskRequest, now_s: float) -> None:
        timeout_s = math.inf if work.timeout is None else work.timeout.total_seconds()
        rules = TaskRules(timeout_s=timeout_s, retry=work.retry)
        if not work.tries:
            self.table.admit([order], now_s, rules)
            return
        task = Task(0, "", 0)
        task.records, task.rules = [order], rules
        task.tries, task.deaths = work.tries, work.deaths
        self.table.restore([task], now_s)

    def take_tried(self) -> list[tuple[Order, TaskRequest]]:
        table, tried = self.table, list[tuple[Order, TaskRequest]]()
        for task in table.changed.values():
            order: Order = task.records[0]
            if task.state is State.RESTING and isinstance(order.work, TaskRequest):
                work = replace(order.work, tries=task.tries, deaths=task.deaths)
                task.records[0] = order._replace(work=work)
                tried.append((order, work))
        table.changed.clear()
        table.gone.clear()
        return tried

    def turn(self, now_s: float) -> bool:
        table, executor = self.table, self._executor
        worked = table.hear(executor.completions(), now_s)
        for call in table.timed_out(now_s, executor.started_s):
            executor.cancel(call)
            worked = True
        calls = [Call(call, _argument(task.records[0])) for call, task in table.next_calls(now_s)]
        if calls:
            executor.submit(calls)
        return worked or bool(calls)

    def take_ends(self) -> list[End]:
        return [
            End(task.records[0], task.result, None, task.tries)
            if task.state is State.DONE
            else End(task.records[0], None, task.result, task.tries)
            for task in self.table.take_over()
        ]


def _argument(order: Order) -> bytes:
    work = order.work
    return work.pack() if isinstance(work, Parcel) else work.work
