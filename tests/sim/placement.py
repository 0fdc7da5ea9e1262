"""Crashes of a job whose tasks take resources, and may be run by other workers than their own.

Two steps with tasks share the workers' resources, each with a demand and a placement of its own.
Whatever happens, no worker runs more calls than its offer allows, none runs a call that it isn't
able to, all is given back in the end, and each record comes out as in `tests.sim.tasks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators.tasks import Exponential, Label, Resources, Retry, task
from engine.operators.tasks._policies import TaskRules
from engine.runtime import Worker
from engine.runtime._lent_step import LentStep
from engine.runtime._offers import able_workers
from engine.runtime._recovery import JobStore
from engine.testing.sim._executors import FakeExecutor
from tests.sim.crash_checks import states_of
from tests.sim.crash_job import CutSink, MarkedSink, Outside
from tests.sim.crash_world import Life
from tests.sim.crashes import CrashRun
from tests.sim.tasks import TaskedNumbers, TaskedRun

SECOND = timedelta(seconds=1)


def check_placed_store(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = PlacedRun(seed)
    run.run()
    return run.counts


class PlacedRun(TaskedRun):
    """The history of such a job."""

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        outside = super()._make_outside(seed, extras, weather)
        rng = Random(f"placement {seed}")
        most = Resources(cpu=3, gpu=1, slots=2)
        self._before = self._draw_step(rng)
        self._tasked.params.update(self._draw_step(rng))
        stay = [p for p in (self._before, self._tasked.params) if p["placement"] == "worker"]
        # The first worker can run anything, or the job wouldn't start.
        share = 1.0 if stay else 0.3
        others = (self._draw_offer(rng) for _ in range(self.workers_max - 1))
        self._offers = (most, *(most if rng.random() < share else other for other in others))
        params = {name: self._tasked.params[name] for name in ("resources", "placement")}
        self._note(f"offers {self._offers}; before {self._before}; call {params}")
        return outside

    @staticmethod
    def _draw_offer(rng: Random) -> Resources:
        gpu, slots = rng.choice((0, 0, 1)), rng.randint(0, 2)
        return Resources(cpu=rng.randint(0, 3), gpu=gpu, slots=slots)

    @staticmethod
    def _draw_step(rng: Random) -> dict[str, Any]:
        demands = (
            None,
            Resources(cpu=1),
            Resources(cpu=1, slots=1),
            Resources(cpu=3),
            Resources(gpu=0.5),
            Resources(cpu=2, gpu=1),
        )
        places = ("any", "any", Label("gpu"), Label("slots"), "worker")
        return {"resources": rng.choice(demands), "placement": rng.choice(places)}

    def _draw_options(self) -> Any:
        # Three times what the longest life takes.
        return replace(super()._draw_options(), offers=self._offers, steps_max=15_000)

    def _flow(self) -> Dataflow:
        flow, outside = Dataflow("f"), self._tasked
        s = op.input("in", flow, TaskedNumbers(outside))
        before = task(
            "before",
            s,
            lambda record: record,
            order=outside.params["order"],
            timeout=SECOND,
            retry=Retry(1000, Exponential(0.05 * SECOND), deaths=1000),
            **self._before,
        )
        called = task("call", before.ok, outside.call, **outside.params)
        rows = called.ok
        if outside.reads_errors:
            failed = op.map("failed", called.errors, lambda e: (e.record[0], ("err", e.record[1])))
            rows = op.merge("rows", rows, failed)
        if self._drawn.random() < 0.5:
            op.output("table", rows, MarkedSink(outside))
        else:
            shown = op.map("show", rows, lambda kv: (kv[0], kv))
            op.output("files", shown, CutSink(outside))
        return flow

    def _turn(self, life: Life) -> None:
        # What one worker runs for others is beyond the limit of its own step.
        CrashRun._turn(self, life)
        if life.gang is None:
            return
        for worker in life.gang.workers:
            self._check_worker(worker)
            if life.gang.stopped:
                taken = worker.ledger.taken()
                assert not any(taken.values()), f"worker {worker.index} ends with {taken} taken"
                if worker.lending is not None:
                    lent = sum(step.lent_count for step in worker.lending.steps.values())
                    self.counts["lent"] += lent

    def _check_worker(self, worker: Worker) -> None:
        """What it runs is what it offers, or less."""
        offer, taken = self._offers[worker.index].parts, Counter[str]()
        for rules, executor in executors_of(worker):
            running = executor.running
            for name, parts in (rules.resources or Resources()).parts.items():
                taken[name] += parts * running
            if worker.index not in able_workers(rules.resources, rules.placement, self._offers):
                assert not executor.most, f"worker {worker.index} runs what it can't"
        for name, parts in taken.items():
            assert parts <= offer.get(name, 0), f"worker {worker.index} gives {parts} of {name}"

    def _check_ended(self, recovery: JobStore) -> None:
        super()._check_ended(recovery)
        assert states_of(recovery, "f.before") == {}, "tasks are left"


def executors_of(worker: Worker) -> Iterator[tuple[TaskRules, FakeExecutor]]:
    """What runs the calls of each step."""
    for node, _ in worker._tasked:
        executor = node._executor
        if isinstance(executor, LentStep):
            executor = executor._executor
        assert isinstance(executor, FakeExecutor)
        yield node._kernel.rules, executor
