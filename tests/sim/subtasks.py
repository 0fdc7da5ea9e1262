"""Crashes of a job whose tasks have subtasks: all that holds for tasks holds for these.

The record that began a graph is the unit of recovery, so nothing more is in the store than for
other tasks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from engine.dataflow import Stream
from engine.operators.tasks import Resources, TaskContext, TaskOut, task
from engine.runtime._task_graph import TaskGraphs
from tests.sim.crash_job import Outside
from tests.sim.crash_world import Life
from tests.sim.tasks import Tasked, TaskedRun

OFFER = Resources(cpu=2)
DEMANDS = (None, Resources(cpu=1), Resources(cpu=2))
WORKERS_MAX = 3


def check_subtasks(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = SubtasksRun(seed)
    run.run()
    return run.counts


@dataclass
class Graphs:
    """The function of the step, and those of its subtasks."""

    outside: Tasked
    demand: Resources | None
    """What the last of them takes."""

    async def call(self, argument: Any, ctx: TaskContext) -> Any:
        """Ask for each record by a subtask of its own."""
        records = argument if isinstance(argument, list) else [argument]
        results = await ctx.gather(*[ctx.submit(self.ask, record) for record in records])
        return results if isinstance(argument, list) else results[0]

    async def ask(self, record: Any, ctx: TaskContext) -> Any:
        """Ask by one more, and hand that on by a third."""
        return await ctx.submit(
            self.hand_on, [ctx.submit(self.answer, record, resources=self.demand)]
        )

    async def answer(self, record: Any) -> Any:
        """As the function without subtasks."""
        return self.outside.call(record)

    async def hand_on(self, results: list[Any]) -> Any:
        """What the other one gave."""
        return results[0]


class SubtasksRun(TaskedRun):
    """The history of a job with subtasks."""

    def _make_outside(self, *args: Any) -> Outside:
        outside = super()._make_outside(*args)
        params = self._tasked.params
        if self._fails and params["timeout"] is not None:
            # Where many tasks wait for one place, a short time is over in each life.
            params["timeout"] = timedelta(minutes=1)
        return outside

    def _draw_options(self) -> Any:
        return replace(super()._draw_options(), offers=(OFFER,) * WORKERS_MAX)

    def _called(self, records: Stream[Any]) -> TaskOut[Any, Any]:
        demand, own = (self._drawn.choice(DEMANDS) for _ in range(2))
        called = Graphs(self._tasked, demand).call
        return task("call", records, called, resources=own, **self._tasked.params)

    def _turn(self, life: Life) -> None:
        super()._turn(life)
        if life.gang is not None:
            for worker in life.gang.workers:
                for node, _ in worker._tasked:
                    graphs = node._executor
                    assert isinstance(graphs, TaskGraphs)
                    if not len(node.table) and not graphs.ended():
                        held = {c.call_id for c in graphs._live.values() if not c.unwanted}
                        assert not held, f"{held} run for nobody"
