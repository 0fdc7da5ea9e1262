"""The tasks of one step on one worker: which wait, which run, which are done, and what comes next.

A table does nothing by itself: it says what to submit and what to cancel, and hears what became of
it. Each task is in one state at a time, and the first terminal event wins: what comes of a try
after it was given up is not looked at.

Its tasks are part of each epoch, whatever their state: a barrier never waits for one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from heapq import heappop, heappush
from typing import Any, Final, cast

from engine.operators._keys import check_key, key_and_value
from engine.operators.tasks._executor import Completion, Kind
from engine.operators.tasks._policies import TaskRules
from engine.operators.tasks._resources import Resources
from engine.runtime._call_watch import CallWatch
from engine.runtime._counts import TasksSnapshot
from engine.runtime._ledger import Account

_BITS: Final = 64
_BURST_S: Final = 0.1
"""How long a limiter saves up for."""


class State(Enum):
    """What a task is doing."""

    GATHERING = "gathering"
    """Its list isn't full."""
    WAITING = "waiting"
    """To be submitted."""
    RUNNING = "running"
    RESTING = "resting"
    """Between two tries."""
    DONE = "done"
    """It has a result that wasn't emitted."""
    FAILED = "failed"
    """It has an error that wasn't emitted."""


OVER: Final = (State.DONE, State.FAILED)


class Task:
    """One call of the user's function, with all its tries."""

    __slots__ = (
        "alone",
        "deaths",
        "encoded",
        "epoch",
        "home",
        "key",
        "left_s",
        "number",
        "records",
        "result",
        "rows",
        "rules",
        "saved",
        "started_s",
        "state",
        "suspected",
        "task_id",
        "tries",
    )

    def __init__(self, number: int, task_id: str, epoch: int) -> None:
        self.number = number
        """Tasks are numbered in the order in which their records came."""
        self.task_id = task_id
        self.epoch = epoch
        """The epoch that its records belong to."""
        self.key: Any = None
        """Of its record, where each key has an order of its own."""
        self.home: Any = None
        """The key and number of its row, if it has one."""
        self.records: list[Any] = []
        self.encoded: list[bytes] = []
        """The records as they came, where a second try or the store may need them: the user's
        function may have changed them."""
        self.state = State.WAITING
        self.tries = 0
        """How many have begun."""
        self.deaths = 0
        """How many of them ended with the process."""
        self.suspected = 0
        """How many deaths of the worker's own process it was there at. The tries that those have
        cut short don't count, so they are no part of `deaths`."""
        self.alone = False
        """Whether it is to run while no other task of the table does, as it may end the process."""
        self.rows: list[int] = []
        """Where its try is written down for those who come after a death."""
        self.started_s = 0.0
        """When its try began, or its list."""
        self.left_s: float | None = None
        """How much time the next try has, if it goes on from one that a restart cut short."""
        self.result: Any = None
        self.rules: TaskRules | None = None
        """Timeout and retry of its own; None for those of the table."""
        self.saved = False
        """Whether the store has a row of it."""


class TaskTable:
    """The tasks of one step on one worker.

    Args:
        rules: What the user said; of the rate, this worker's share.
        name: What ids of tasks begin with; no other table of the step has the same.
        chance: Gives random numbers from 0 to 1.
        encode: Makes bytes of a record; None if none is needed a second time.
        watch: Looks after calls that may end the process; None if they can't, or nobody could go on
            after that. Only with `encode`.
        account: What tries take their resources by; None if that is somebody else's business.
    """

    def __init__(
        self,
        rules: TaskRules,
        name: str,
        chance: Callable[[], float],
        *,
        encode: Callable[[Any], bytes] | None = None,
        watch: CallWatch | None = None,
        account: Account | None = None,
    ) -> None:
        self.next_id = 0
        """What the id of the next task ends with."""
        self.epoch = 1
        """The epoch that is open."""
        self.durable = 0
        """The last one that is durable."""
        self._next_number = 0
        self._rules = rules
        self._name = name
        self._encode = encode
        self._watch = watch
        self._alone: Task | None = None
        """The task that runs alone now."""
        self._held = False
        """Whether a task waits for others to end because one of them is to run alone."""
        self._chance = chance
        self._tasks: dict[int, Task] = {}
        """All that weren't emitted, by number."""
        self._waiting: deque[Task] = deque()
        self._gathering: Task | None = None
        self._running: dict[int, Task] = {}
        """By the number of the call."""
        self._next_call = 0
        self._resting: list[tuple[float, int]] = []
        """When to try again, and which; a heap."""
        self._ends: list[tuple[float, int]] = []
        """When a try has taken too long, and its call; a heap."""
        self._started = 0
        """How many were submitted by this run and not emitted."""
        self._unsubmitted: set[int] = set()
        """The numbers of those that are over though this run has not submitted them. They don't
        count as such, or where they are many the task that they wait for could never be."""
        self._lines: dict[Any, deque[Task]] = {}
        """Tasks in the order in which they are to be emitted, by key."""
        self._over: list[Task] = []
        """Those that can be emitted."""
        self.changed: dict[int, Task] = {}
        """Those that have changed since the last barrier."""
        self.gone: list[Task] = []
        """Those that were emitted, and of which the store has a row."""
        self._done = self._failed = self._again = 0
        self._durations = [0] * _BITS
        self._duration_s = 0.0
        rate = None if rules.rate is None else rules.rate.per_s
        self._limiter = None if rate is None else _Limiter(rate)
        self._account = account if rules.resources is not None else None

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """How many of its tasks are more than it may have in flight."""
        return max(0, len(self._tasks) - self._rules.max_in_flight)

    # What comes in

    def admit(self, records: list[Any], now_s: float, rules: TaskRules | None = None) -> None:
        """Make tasks of records, with a timeout and retry of their own if there are rules."""
        batch, encode = self._rules.batch, self._encode
        if batch is None:
            for record in records:
                task = self._new()
                task.rules = rules
                task.records.append(record)
                if encode is not None:
                    task.encoded.append(encode(record))
                self._line_up(task)
                self._queue(task)
            return
        for record in records:
            listed = self._gathering or self._new_list(now_s)
            listed.records.append(record)
            listed.epoch = self.epoch
            self.changed[listed.number] = listed
            if encode is not None:
                listed.encoded.append(encode(record))
            if len(listed.records) >= batch.size:
                self._close_list()

    def _new_list(self, now_s: float) -> Task:
        task = self._gathering = self._new()
        task.state, task.started_s = State.GATHERING, now_s
        self._line_up(task)
        return task

    def _new(self) -> Task:
        number = self._next_number
        self._next_number = number + 1
        task = Task(number, f"{self._name}-{self.next_id}", self.epoch)
        self.next_id += 1
        self._tasks[number] = self.changed[number] = task
        return task

    def _line_up(self, task: Task) -> None:
        """Put a task into the line in which it is to be emitted."""
        order = self._rules.order
        if order == "none":
            return
        if order == "key":
            record = task.records[0]
            task.key, _ = key_and_value(record)
            check_key(task.key)
        line = self._lines.get(task.key)
        if line is None:
            line = self._lines[task.key] = deque[Task]()
        line.append(task)

    def _close_list(self) -> None:
        task = self._gathering
        assert task is not None  # noqa: S101
        task.state = State.WAITING
        self._gathering = None
        self._queue(task)

    def _queue(self, task: Task) -> None:
        """Let a task wait for its first try, unless that is known to end the process."""
        watch = self._watch
        if watch is not None and watch.known:
            suspect = watch.suspect(task.encoded)
            if suspect is not None:
                task.suspected, task.alone = suspect.deaths, watch.goes_alone(suspect)
                if (error := watch.verdict(suspect)) is not None:
                    task.tries = max(task.tries, suspect.deaths)
                    self._unsubmitted.add(task.number)
                    self._end(task, State.FAILED, error)
                    return
        self._waiting.append(task)

    def end_input(self) -> None:
        """No more records will come."""
        if self._gathering is not None:
            self._close_list()

    def committed(self, epoch: int) -> None:
        """An epoch is durable."""
        self.durable = epoch

    # What goes out

    def next_calls(self, now_s: float) -> Iterator[tuple[int, Task]]:
        """What to submit now: the number of the call and its task. Each counts as submitted."""
        rules, batch = self._rules, self._rules.batch
        gathering = self._gathering
        if (
            batch is not None
            and gathering is not None
            and gathering.started_s + batch.linger.total_seconds() <= now_s
        ):
            self._close_list()
        while self._resting and self._resting[0][0] <= now_s:
            if not self._may_run(self._tasks[self._resting[0][1]]) or not self._take_leave(now_s):
                return
            yield self._begin(self._tasks[heappop(self._resting)[1]], now_s)
        while self._waiting and self._started < rules.max_in_flight:
            task = self._waiting[0]
            if rules.after_commit and task.epoch > self.durable:
                return
            if not self._may_run(task) or not self._take_leave(now_s):
                return
            self._started += 1
            yield self._begin(self._waiting.popleft(), now_s)

    def _may_run(self, task: Task) -> bool:
        """Whether it can run beside what runs."""
        self._held = self._alone is not None or (task.alone and bool(self._running))
        return not self._held

    def _take_leave(self, now_s: float) -> bool:
        """Take what the next try needs, of the rate and of the worker's resources: both or none."""
        limiter, account = self._limiter, self._account
        if self._held or (limiter is not None and not limiter.has(now_s)):
            return False
        if account is not None and not account.take(self._next_call, self._demand):
            return False
        if limiter is not None:
            limiter.take()
        return True

    @property
    def _demand(self) -> Resources:
        demand = self._rules.resources
        assert demand is not None  # noqa: S101 - or there is no account
        return demand

    def _begin(self, task: Task, now_s: float) -> tuple[int, Task]:
        task.state, task.started_s = State.RUNNING, now_s
        task.tries += 1
        self._again += task.tries > 1
        call = self._next_call
        self._next_call = call + 1
        self._running[call] = task
        if self._watch is not None:
            task.rows = self._watch.begin(task.encoded, task.suspected, alone=task.alone)
            if task.alone:
                self._alone = task
        limit_s = (task.rules or self._rules).timeout_s if task.left_s is None else task.left_s
        if limit_s < math.inf:
            heappush(self._ends, (now_s + limit_s, call))
        self.changed[task.number] = task
        return call, task

    def hear(self, completions: list[Completion], now_s: float) -> bool:
        """Take what has become of calls; whether there was any."""
        for call, kind, value in completions:
            if kind is Kind.RETURNED:
                self.returned(call, value, now_s)
            elif kind is Kind.RAISED:
                self.raised(call, value, now_s)
            else:
                self.died(call, value, now_s)
        return bool(completions)

    def returned(self, call: int, result: Any, now_s: float) -> None:
        """A try has given a result: for a list of records, one for each of them."""
        task = self._over_with(call, now_s)
        if task is None:
            return
        if self._rules.batch is not None:
            records = len(task.records)
            if _length(result) != records:
                self._end(task, State.FAILED, _not_as_many(result, records))
                return
        self._end(task, State.DONE, result)

    def raised(self, call: int, error: BaseException, now_s: float) -> None:
        """A try has raised."""
        task = self._over_with(call, now_s)
        if task is not None:
            self._fail(task, error, now_s)

    def _over_with(self, call: int, now_s: float) -> Task | None:
        """The task of a call that has ended; None if the call was given up."""
        task = self._running.pop(call, None)
        if task is not None:
            if self._account is not None:
                self._account.give_back(call)
            took_s = now_s - task.started_s
            self._durations[min(int(took_s * 1e6).bit_length(), _BITS - 1)] += 1
            self._duration_s += took_s
            self._held = False
            if self._watch is not None:
                self._watch.end(task.rows, task.encoded)
                if task is self._alone:
                    self._alone, task.alone = None, False
        return task

    def died(self, call: int, error: BaseException, now_s: float) -> None:
        """The process that ran a try has died."""
        task = self._over_with(call, now_s)
        if task is None:
            return
        task.deaths += 1
        if task.deaths >= (task.rules or self._rules).retry.deaths:
            self._end(task, State.FAILED, error)
            return
        self._rest(task, task.deaths, now_s)

    def timed_out(self, now_s: float, began_s: Callable[[int], float | None]) -> list[int]:
        """The calls that have taken too long: they are given up, and can be cancelled.

        Args:
            now_s: The present.
            began_s: When a call began; None if it waits for its place, which doesn't count.
        """
        calls = list[int]()
        while self._ends and self._ends[0][0] <= now_s:
            call = heappop(self._ends)[1]
            task = self._running.get(call)
            if task is None:
                continue
            limit_s = (task.rules or self._rules).timeout_s if task.left_s is None else task.left_s
            since_s = began_s(call)
            until_s = now_s + limit_s if since_s is None else since_s + limit_s
            if until_s > now_s:
                heappush(self._ends, (until_s, call))
                continue
            self._over_with(call, now_s)
            calls.append(call)
            self._fail(task, TimeoutError(f"no result after {limit_s:.3g} s"), now_s)
        return calls

    def _fail(self, task: Task, error: BaseException, now_s: float) -> None:
        raised = task.tries - task.deaths
        if (task.rules or self._rules).retry.allows(error, raised):
            self._rest(task, raised, now_s)
        else:
            self._end(task, State.FAILED, error)

    def _rest(self, task: Task, times: int, now_s: float) -> None:
        task.state, task.left_s = State.RESTING, None
        wait_s = (task.rules or self._rules).retry.backoff.wait_s(times, self._chance())
        heappush(self._resting, (now_s + wait_s, task.number))
        self.changed[task.number] = task

    def _end(self, task: Task, state: State, result: Any) -> None:
        task.state, task.result = state, result
        self._done += state is State.DONE
        self._failed += state is State.FAILED
        self.changed[task.number] = task
        if self._rules.order == "none":
            self._over.append(task)
            return
        if self._lines[task.key][0] is task:
            self._advance(task.key)

    def _advance(self, key: Any) -> None:
        """Let those at the head of a line come out that are over."""
        line = self._lines[key]
        while line and line[0].state in OVER:
            self._over.append(line.popleft())
        if not line:
            del self._lines[key]

    def take_over(self) -> list[Task]:
        """The tasks whose turn it is to be emitted; they leave the table."""
        over, self._over = self._over, []
        for task in over:
            number = task.number
            del self._tasks[number]
            self.changed.pop(number, None)
            if task.saved:
                self.gone.append(task)
        free = self._unsubmitted
        if free:
            self._started += len(free)
            free.difference_update(task.number for task in over)
            self._started -= len(free)
        self._started -= len(over)
        return over

    def next_due_s(self) -> float:
        """When there is something to do if nothing comes: `next_calls` or `timed_out`."""
        ends, running = self._ends, self._running
        while ends and ends[0][1] not in running:
            heappop(ends)
        due_s = ends[0][0] if ends else math.inf
        ready_s = self._resting[0][0] if self._resting else math.inf
        if self._can_begin():
            ready_s = -math.inf
        if ready_s < math.inf and self._account is not None and not self._account.has(self._demand):
            # Whoever gives something back has the worker look again.
            ready_s = math.inf
        if self._held:
            # Until a try ends.
            ready_s = math.inf
        batch, gathering = self._rules.batch, self._gathering
        if batch is not None and gathering is not None:
            ready_s = min(ready_s, gathering.started_s + batch.linger.total_seconds())
        if self._limiter is not None and ready_s < math.inf:
            ready_s = max(ready_s, self._limiter.next_s)
        return min(due_s, ready_s)

    def _can_begin(self) -> bool:
        rules = self._rules
        if not self._waiting or self._started >= rules.max_in_flight:
            return False
        return not rules.after_commit or self._waiting[0].epoch <= self.durable

    def running(self) -> Iterable[tuple[int, Task]]:
        """The calls that were submitted and haven't ended, each with its task."""
        return self._running.items()

    @property
    def uncommitted(self) -> bool:
        """Whether there are tasks that the end of the open epoch must come before."""
        waits = self._rules.after_commit and bool(self._waiting)
        return waits and self._waiting[-1].epoch == self.epoch

    @property
    def has_over(self) -> bool:
        """Whether there is something to emit."""
        return bool(self._over)

    def snapshot(self) -> TasksSnapshot:
        """What its tasks do, for metrics."""
        running, resting = len(self._running), len(self._resting)
        waiting = len(self._waiting) + (self._gathering is not None)
        limiter = self._limiter
        return TasksSnapshot(
            *(waiting, running, resting, len(self._tasks) - waiting - running - resting),
            *(self._done, self._failed, self._again),
            durations=tuple(self._durations),
            duration_s=self._duration_s,
            limited_s=0.0 if limiter is None else limiter.waited_s,
        )

    # Epochs

    def restore(self, tasks: list[Task], now_s: float) -> None:
        """Go on with tasks of an earlier run, those that came first first."""
        over = [task for task in tasks if task.state in OVER]
        for number, task in enumerate(tasks, self._next_number):
            task.saved = True
            task.number = number
            self._tasks[number] = task
            self._line_up(task)
            # Others would wait for it if they came behind it. And where ids are safe keys, it may
            # have been called with the records that it had.
            gathers = task is tasks[-1] and not self._rules.after_commit
            if task.state is State.GATHERING and gathers:
                self._gathering = task
                task.started_s = now_s
            elif task.state not in OVER:
                # What it was doing came to nothing: the try is made again, and counts once.
                if task.state is State.RUNNING:
                    task.tries -= 1
                task.state = State.WAITING
                self._queue(task)
        self._next_number += len(tasks)
        self._unsubmitted.update(task.number for task in over)
        if self._rules.order == "none":
            self._over += over
        for key in list(self._lines):
            self._advance(key)


class _Limiter:
    """A token bucket: so many in a second, and up to a tenth of that at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s * _BURST_S)
        self._tokens = self._most
        self._at_s = -math.inf
        self.next_s = -math.inf
        """When there will be one."""
        self.waited_s = 0.0
        """How long someone has waited for one."""
        self._since_s: float | None = None

    def has(self, now_s: float) -> bool:
        """Whether there is one; if not, `next_s` says when."""
        if now_s > self._at_s:
            passed_s = now_s - self._at_s
            self._tokens = min(self._most, self._tokens + passed_s * self._per_s)
            self._at_s = now_s
        if self._tokens < 1.0:
            if self._since_s is None:
                self._since_s = now_s
            self.next_s = now_s + (1.0 - self._tokens) / self._per_s
            return False
        if self._since_s is not None:
            self.waited_s += now_s - self._since_s
            self._since_s = None
        return True

    def take(self) -> None:
        """Take one that is there."""
        self._tokens -= 1.0
        self.next_s = self._at_s + max(0.0, 1.0 - self._tokens) / self._per_s


def _length(result: object) -> int | None:
    """How many results a list has; None of what is no list."""
    return len(cast("list[Any]", result)) if isinstance(result, list) else None


def _not_as_many(result: object, records: int) -> TypeError:
    found = _length(result)
    told = f"a {type(result).__name__}" if found is None else f"{found} results"
    return TypeError(
        f"a function of lists must return a list with as many results; got {told} "
        f"for {records} records"
    )
