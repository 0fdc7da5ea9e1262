"""Flows with one step of tasks, and a source that waits for what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import engine.operators as op
from engine.connectors import AbortExecution, FixedPartitionedSource, StatefulSourcePartition
from engine.dataflow import Dataflow
from engine.operators.tasks import ProcessExecutor, TaskError, task
from engine.testing import TestingSink, TestingSource, cluster_main, run_main

MS = timedelta(milliseconds=1)
TWO_PROCESSES = ProcessExecutor(processes=2)
EXECUTORS = ("inline", "async", "thread", "process")


def executor_of(name: str) -> Any:
    """An executor of a kind, small."""
    return TWO_PROCESSES if name == "process" else name


@dataclass
class Ran:
    """What came out of a flow."""

    ok: list[Any] = field(default_factory=list[Any])
    errors: list[TaskError[Any]] = field(default_factory=list[TaskError[Any]])


def flow_of(
    items: Iterable[Any], fn: Callable[..., Any], *, reads_errors: bool = True, **params: Any
) -> tuple[Dataflow, Ran]:
    """A flow of a source, a step `task` and its outputs."""
    flow, ran = Dataflow("flow"), Ran()
    items = items if isinstance(items, FixedPartitionedSource) else TestingSource(items, 10)
    out = task("task", op.input("in", flow, items), fn, **params)
    op.output("ok", out.ok, TestingSink(ran.ok))
    if reads_errors:
        op.output("errors", out.errors, TestingSink(ran.errors))
    return flow, ran


def run_tasks(
    items: Iterable[Any],
    fn: Callable[..., Any],
    *,
    reads_errors: bool = True,
    workers: int = 1,
    **params: Any,
) -> Ran:
    """Run such a flow to its end."""
    flow, ran = flow_of(items, fn, reads_errors=reads_errors, **params)
    if workers == 1:
        run_main(flow)
    else:
        cluster_main(flow, [], 0, worker_count_per_proc=workers)
    return ran


class Until:
    """Among the items of a `PatientSource`: nothing comes before this is true."""

    def __init__(self, condition: Callable[[], Any]) -> None:
        self.condition = condition


class Abort:
    """Among the items of a `PatientSource`: the first time, the run ends here."""

    done = False


class PatientSource(FixedPartitionedSource[Any, int]):
    """Gives its items one by one, each in a batch of its own.

    Args:
        items: Records, `Until` and `Abort`.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = list(items)

    def list_parts(self) -> list[str]:
        return ["part"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _PatientPart:
        return _PatientPart(self._items, resume_state or 0)


class _PatientPart(StatefulSourcePartition[Any, int]):
    def __init__(self, items: list[Any], start: int) -> None:
        self._items, self._next = items, start
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        self._awake = None
        if self._next == len(self._items):
            raise StopIteration
        item = self._items[self._next]
        if isinstance(item, Until) and not item.condition():
            self._awake = datetime.now(UTC) + MS
            return []
        if isinstance(item, Abort) and not item.done:
            item.done = True
            raise AbortExecution
        self._next += 1
        return [] if isinstance(item, Until | Abort) else [item]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._next
