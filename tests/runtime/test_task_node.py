"""A node with tasks: what it saves of those that are under way."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from engine.operators.tasks import Call, Completion, InlineExecutor, RunningExecutor
from engine.operators.tasks._policies import TaskRules
from engine.operators.tasks._task import TaskKernel
from engine.runtime._nodes import Target
from engine.runtime._task_node import TaskNode, TaskSite
from engine.runtime._task_table import TaskTable


class OnePlace(RunningExecutor):
    """The first call runs from a moment on, and the others wait for its place."""

    began_s = 2.0

    def submit(self, calls: Sequence[Call]) -> None:
        self.calls = list(calls)

    def completions(self) -> list[Completion]:
        return []

    def ended(self) -> bool:
        return False

    def started_s(self, call_id: int) -> float | None:
        return self.began_s if call_id == self.calls[0].call_id else None

    def cancel(self, call_id: int) -> None:
        pass

    def close(self, timeout_s: float) -> list[str]:
        return []


@pytest.mark.parametrize(("timeout_s", "first_s"), [(10.0, 6.0), (4.0, 0.0)])
def test_the_wait_for_a_place_does_not_shorten_what_a_try_has_left(
    timeout_s: float, first_s: float
):
    """An epoch saves how much time the call has that runs; those that wait have all of theirs."""
    now_s = 0.0
    rules = TaskRules(timeout_s=timeout_s)
    table = TaskTable(rules, "0", lambda: 0.5, encode=pickle.dumps)
    site = TaskSite("step", lambda: now_s, "home", None, ())
    nowhere = Target(lambda _: None, lambda: None)
    kernel = TaskKernel(str, InlineExecutor(), rules, None)
    node = TaskNode(site, kernel, table, OnePlace(), (nowhere, None), 1)
    records: list[Any] = ["runs", "waits"]
    node.push(records)
    node.turn(room=True)
    now_s = 6.0
    rows = [row[0] for row in node.barrier(1).stored]
    assert [(pickle.loads(row[1][0]), row[4]) for row in rows] == [
        ("runs", first_s),
        ("waits", None),
    ]
