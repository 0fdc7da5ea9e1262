"""Crashes of a job whose tasks take resources, and may be run by other workers than their own.

Two steps with tasks share the workers' resources, each with a demand and a placement of its own.
Whatever happens, no worker runs more calls than its offer allows, none runs a call that it isn't
able to, all is given back in the end, and each record comes out once, in the order of its key.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators.tasks import Batching, Exponential, Label, Rate, Resources, Retry, task
from engine.operators.tasks._policies import TaskRules
from engine.runtime import Plan, Worker, plan
from engine.runtime._lent_step import LentStep
from engine.runtime._offers import able_workers
from engine.runtime._recovery import JobStore
from engine.testing.sim._executors import FakeExecutor
from tests.sim.crash_checks import positions_of, states_of
from tests.sim.crash_job import LATER, CutSink, MarkedSink, Numbers, Outside
from tests.sim.crash_world import Life
from tests.sim.crashes import CrashRun

SECOND = timedelta(seconds=1)
VALUES = range(1, 41)
MOST = Resources(cpu=3, gpu=1, slots=2)
DEMANDS = (
    None,
    Resources(cpu=1),
    Resources(cpu=1, slots=1),
    Resources(cpu=3),
    Resources(gpu=0.5),
    Resources(cpu=2, gpu=1),
)
STEPS_MAX = 15_000
"""Three times what the longest life takes."""


def check_placed_store(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = PlacedRun(seed)
    run.run()
    return run.counts


@dataclass
class Placed(Outside):
    """What lies outside of the job."""

    dealt: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    @property
    def parts(self) -> dict[str, list[Any]]:
        """What each partition of the source has."""
        return self.dealt


def work(argument: Any) -> Any:
    """The function of the second step, of a record or of a list."""
    return [_one(r) for r in argument] if isinstance(argument, list) else _one(argument)


def _one(record: Any) -> Any:
    key, value = record
    if value % 7 == 0:
        raise ValueError(value)
    return key, ("ok", value)


class PlacedRun(CrashRun):
    """The history of the job."""

    batches_of_one = 2
    """A list of results, and one of errors."""

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        del extras
        rng = self._drawn = Random(f"placement {seed}")
        self._order = rng.choice(("key", "input", "none"))
        self._batch = None if self._order == "key" else rng.choice((None, Batching(3, SECOND / 5)))
        self._limits = [rng.choice((1, 2, 5, 50)) for _ in range(2)]
        self._steps = [self._draw_step(rng) for _ in range(2)]
        self._submit = rng.choice(("now", "now", "after_commit"))
        self._rate = rng.choice((None, None, Rate(20, per=SECOND)))
        self._deaths, self._hangs = rng.choice((0.0, 0.1)), rng.choice((0.0, 0.0, 0.05))
        stay = any(step["placement"] == "worker" for step in self._steps)
        share = 1.0 if stay else 0.3
        others = (self._draw_offer(rng) for _ in range(self.workers_max - 1))
        # The first worker can run anything, or the job wouldn't start.
        self._offers = (MOST, *(MOST if rng.random() < share else other for other in others))
        dealt: dict[str, list[Any]] = {"p0": [], "p1": [], "p2": [], LATER: []}
        keys = rng.choice((1, 3, 6))
        for value in VALUES:
            number = rng.randrange(keys)
            dealt[f"p{number % 3}"].append((f"k{number}", value))
        self._note(f"offers {self._offers}; steps {self._steps}; order {self._order}")
        self._placed = Placed(self._rng, (), self._chain.durable_epoch, weather, dealt=dealt)
        return self._placed

    @staticmethod
    def _draw_offer(rng: Random) -> Resources:
        gpu, slots = rng.choice((0, 0, 1)), rng.randint(0, 2)
        return Resources(cpu=rng.randint(0, 3), gpu=gpu, slots=slots)

    @staticmethod
    def _draw_step(rng: Random) -> dict[str, Any]:
        places = ("any", "any", Label("gpu"), Label("slots"), "worker")
        return {"resources": rng.choice(DEMANDS), "placement": rng.choice(places)}

    def _draw_options(self) -> Any:
        return replace(
            super()._draw_options(),
            offers=self._offers,
            call_max=timedelta(seconds=self._drawn.choice((0.01, 0.5, 3))),
            deaths=self._deaths,
            hangs=self._hangs,
            steps_max=STEPS_MAX,
        )

    def _flow(self) -> Dataflow:
        flow = Dataflow("f")
        # Whatever becomes of a try, the record's own result counts in the end.
        retry = Retry(1000, Exponential(SECOND / 20), on=(TimeoutError,), deaths=1000)
        options = {"order": self._order, "timeout": SECOND, "retry": retry}
        s = op.input("in", flow, Numbers(self._placed))
        before = task(
            "before", s, _same, max_in_flight=self._limits[0], **options, **self._steps[0]
        )
        called = task(
            "call",
            before.ok,
            work,
            max_in_flight=self._limits[1],
            batch=self._batch,
            rate=self._rate,
            submit=self._submit,
            **options,
            **self._steps[1],
        )
        failed = op.map("failed", called.errors, lambda e: (e.record[0], ("err", e.record[1])))
        rows = op.merge("rows", called.ok, failed)
        if self._drawn.random() < 0.5:
            op.output("table", rows, MarkedSink(self._placed))
        else:
            shown = op.map("show", rows, lambda kv: (kv[0], kv))
            op.output("files", shown, CutSink(self._placed))
        return flow

    def _planned(self, life: Life) -> tuple[Dataflow, Plan]:
        # One flow for all lives: which sink it has was drawn once.
        if not self._plans:
            super()._planned(life)
        flow = next(iter(self._plans.values()))[0]
        if life.workers not in self._plans:
            self._plans[life.workers] = flow, plan(flow, life.workers)
        return self._plans[life.workers]

    def _turn(self, life: Life) -> None:
        super()._turn(life)
        if life.gang is None:
            return
        for worker in life.gang.workers:
            self._check_worker(worker)
            if life.gang.stopped:
                taken = worker.ledger.taken()
                assert not any(taken.values()), f"worker {worker.index} ends with {taken} taken"
                self.counts["lent"] += sum(worker.lending.lent().values() if worker.lending else ())

    def _check_worker(self, worker: Worker) -> None:
        """What it runs is what it offers, or less."""
        offer, taken = self._offers[worker.index].parts, Counter[str]()
        for rules, executor in executors_of(worker):
            for name, parts in (rules.resources or Resources()).parts.items():
                taken[name] += parts * executor.running
            if worker.index not in able_workers(rules.resources, rules.placement, self._offers):
                assert not executor.most, f"worker {worker.index} runs what it can't"
        for name, parts in taken.items():
            assert parts <= offer.get(name, 0), f"worker {worker.index} gives {parts} of {name}"

    def _check_output(self) -> None:
        outside, found = self._placed, defaultdict[str, list[Any]](list)
        filed = [record for file in outside.files.values() for record in file.records]
        for key, row in [*outside.table, *filed]:
            found[key].append(row)
        for part in outside.dealt.values():
            for key, value in part:
                came = [what for what, its_value in found[key] if its_value == value]
                # A list fails as a whole.
                bad = value % 7 == 0 or (self._batch is not None and came == ["err"])
                assert came == (["err"] if bad else ["ok"]), f"{key} {value} came out as {came}"
        for key, rows in found.items() if self._order == "key" else ():
            for what in ("ok", "err"):
                values = [value for kind, value in rows if kind == what]
                assert values == sorted(values), f"{what} of {key}: {values}"

    def _check_opened(self, recovery: JobStore) -> None:
        for step_id in ("f.before", "f.call"):
            states_of(recovery, step_id)

    def _check_ended(self, recovery: JobStore) -> None:
        ends = {name: len(part) for name, part in self._placed.parts.items()}
        assert {LATER: 0, **positions_of(recovery, "f.in")} == ends
        for step_id in ("f.before", "f.call"):
            assert states_of(recovery, step_id) == {}, "tasks are left"


def _same(record: Any) -> Any:
    return record


def executors_of(worker: Worker) -> Iterator[tuple[TaskRules, FakeExecutor]]:
    """What runs the calls of each step."""
    for node, _ in worker._tasked:
        executor = node._executor
        if isinstance(executor, LentStep):
            executor = executor._executor
        assert isinstance(executor, FakeExecutor)
        yield node._kernel.rules, executor
