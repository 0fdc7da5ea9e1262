"""Watches the tasks of one step on one worker while it runs, and notes what is promised of them.

What comes in, begins and comes out is listened to at the table and at the node's outputs. So it is
seen in each life, whatever becomes of its epochs, that each record comes out once and in the order
that was promised, and that no limit is exceeded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.operators._state import StateChanges
from engine.runtime._nodes import Target
from engine.runtime._task_node import TaskNode
from engine.runtime._task_table import State, Task

BURST_S = 0.1
"""As long a share of the rate may come at once, by the docstring of `Rate`."""


@dataclass
class Known:
    """What is known of tasks from all lives of a job."""

    saved: dict[tuple[str, int], set[tuple[int, int, bool]]] = field(
        default_factory=lambda: defaultdict(set)
    )
    """By id and epoch: with how many tries and deaths it was saved, by whichever life, and whether
    some of its time was gone."""
    records: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    ids: dict[tuple[Any, ...], str] = field(default_factory=dict[tuple[Any, ...], str])

    def note(self, task_id: str, records: tuple[Any, ...]) -> None:
        """A call is made with an id, which must be a safe key."""
        named = self.records.setdefault(task_id, records)
        assert named == records, f"{task_id} was {named}, and now is {records}"
        known = self.ids.setdefault(records, task_id)
        assert known == task_id, f"{records} was {known}, and now is {task_id}"


class TaskWatch:
    """Watches a node, from before its first turn.

    Args:
        node: The node.
        now_s: Simulated time.
        known: What is known from other lives.
        room: How many records may come to it that it has no room for.
    """

    def __init__(
        self,
        node: TaskNode,
        now_s: Callable[[], float],
        known: Known,
        *,
        room: int,
    ) -> None:
        self._node, self._now_s, self._known = node, now_s, known
        self._rules = rules = node.table._rules
        self._per_s = None if rules.rate is None else rules.rate.per_s
        self._came: dict[Any, tuple[int, float]] = {}
        """The place of each record in the order of the input, and when it came."""
        self._begun: set[int] = set()
        """Tasks, by number, that have begun and weren't emitted."""
        self._over: set[Any] = set()
        self._out: set[Any] = set()
        self._last: dict[tuple[str, Any], int] = {}
        """The place of what came out last, by output and key."""
        self._tries_s: list[float] = []
        restored = [record for task in node.table._tasks.values() for record in task.records]
        self._note(restored, -math.inf)
        for task in node.table._tasks.values():
            saved = known.saved[task.task_id, node.table.durable]
            now = task.tries, task.deaths, task.left_s is not None
            # Of deaths of the job itself it hears from elsewhere; they may be its end.
            assert task.state is State.FAILED or now in saved, f"{now}, not {saved}"
        most = rules.max_in_flight + room
        if rules.batch is not None:
            most *= rules.batch.size
        self._most = max(len(restored), most)
        self._listen()

    def _listen(self) -> None:
        node, table = self._node, self._node.table
        admit, next_calls, take_over = table.admit, table.next_calls, table.take_over

        def admitted(records: list[Any], now_s: float) -> None:
            self._note(records, now_s)
            admit(records, now_s)

        def begun(now_s: float) -> Iterator[tuple[int, Task]]:
            for call, task in next_calls(now_s):
                self._begins(task, now_s)
                yield call, task

        def taken() -> list[Task]:
            over = take_over()
            for task in over:
                self._ends(task)
            return over

        barrier = node.barrier

        def saved(epoch: int) -> StateChanges:
            for task in table._tasks.values():
                self._save(task, epoch)
            return barrier(epoch)

        node.barrier = saved  # type: ignore[method-assign]
        table.admit, table.next_calls, table.take_over = admitted, begun, taken  # type: ignore[method-assign]
        node._down = self._heard(node._down, lambda row: (row[0], row[1][1]), "ok")
        if node._errors is not None:
            node._errors = self._heard(node._errors, lambda error: error.record, "errors")

    def _heard(self, target: Target, record_of: Callable[[Any], Any], name: str) -> Target:
        def push(batch: list[Any]) -> None:
            for row in batch:
                self._comes_out(record_of(row), name)
            target.push(batch)

        return Target(push, target.end)

    def _note(self, records: list[Any], now_s: float) -> None:
        for record in records:
            assert record not in self._came, f"{record} came twice"
            self._came[record] = len(self._came), now_s

    def _save(self, task: Task, epoch: int) -> None:
        node, rules = self._node, self._rules
        known = self._known.saved[task.task_id, epoch]
        again = task.state is State.FAILED and node._ends_run(task.result)
        # One that runs is tried again.
        tries = task.tries - (task.state is State.RUNNING or again)
        spent = task.left_s is not None
        calls = {its.number: call for call, its in node.table.running()}
        if task.number in calls and rules.timeout_s < math.inf:
            spent = spent or node._executor.started_s(calls[task.number]) is not None
        if node._ends_run(TimeoutError()):
            spent = False
        known.add((tries, task.deaths, spent))
        # What hasn't changed isn't saved again.
        known |= self._known.saved[task.task_id, epoch - 1] if task.saved else set()

    def _begins(self, task: Task, now_s: float) -> None:
        rules = self._rules
        self._begun.add(task.number)
        assert len(self._begun) <= rules.max_in_flight, f"{len(self._begun)} tasks have begun"
        if rules.after_commit:
            self._known.note(task.task_id, tuple(task.records))
        if self._per_s is not None:
            self._check_rate(self._per_s, now_s)
        if rules.batch is not None:
            count, came_s = len(task.records), self._came[task.records[0]][1]
            assert count <= rules.batch.size, f"a list of {count}"
            lingered = now_s >= came_s + rules.batch.linger.total_seconds() - 1e-9
            full = count == rules.batch.size
            assert full or lingered or self._node._input_over, "a list has not lingered"

    def _check_rate(self, per_s: float, now_s: float) -> None:
        """In no stretch of time more tries begin than a bucket has had tokens for."""
        self._tries_s.append(now_s)
        at_once = max(1.0, per_s * BURST_S)
        for count, since_s in enumerate(reversed(self._tries_s), 1):
            allowed = at_once + per_s * (now_s - since_s)
            assert count <= allowed + 1e-6, f"{count} tries in {now_s - since_s:.3f} s"

    def _ends(self, task: Task) -> None:
        self._begun.discard(task.number)
        for record in task.records:
            assert record in self._came, f"{record} never came"
            assert record not in self._over, f"{record} is over twice"
            self._over.add(record)

    def _comes_out(self, record: Any, name: str) -> None:
        assert record in self._over, f"{record} comes out, and is not over"
        assert record not in self._out, f"{record} comes out twice"
        self._out.add(record)
        if self._rules.order == "none":
            return
        line = name, record[0] if self._rules.order == "key" else None
        place, _ = self._came[record]
        assert place > self._last.get(line, -1), f"{record} comes out of {name} too late"
        self._last[line] = place

    def look(self) -> None:
        """After each turn."""
        inside = len(self._came) - len(self._over)
        assert inside <= self._most, f"{inside} records are inside, and not {self._most}"

    def check_ended(self) -> None:
        """All that came has come out, or was left out and counted."""
        if len(self._node.table):
            return
        assert self._over == set(self._came), "records are lost"
        failures = self._node._failures
        left_out = 0 if failures is None else failures.count
        assert len(self._out) + left_out == len(self._over), f"{left_out} were left out"
