"""Crashes of a job with a step that has tasks.

Calls take simulated time and end in any order; some raise, some never end, some end with the death
of their process. Whatever happens, each record comes out once: as a result, as an error, or not at
all where errors are skipped. And in the order that was promised.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow, Stream
from engine.errors import WorkerProcessError
from engine.operators import DeadLetter
from engine.operators.tasks import Batching, Exponential, Rate, Retry, TaskOut, task
from engine.runtime import Plan, plan
from engine.runtime._recovery import JobStore
from engine.testing.sim._gang import Gang
from tests.sim.crash_checks import positions_of, states_of
from tests.sim.crash_job import LATER, CutSink, MarkedSink, Numbers, NumbersPart, Outside
from tests.sim.crash_world import Life
from tests.sim.crashes import CrashRun
from tests.sim.task_watch import Known, TaskWatch

VALUES = range(1, 41)
FAILED_MAX = 100
"""Where tasks take too long now and then, though the service was mended."""
_FAILURES = (ValueError, TimeoutError, WorkerProcessError)
"""What ends a job whose tasks fail."""


def check_tasked_store(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = TaskedRun(seed)
    run.run()
    return run.counts


@dataclass
class Tasked(Outside):
    """What lies outside of a job with tasks."""

    params: dict[str, Any] = field(default_factory=dict[str, Any])
    reads_errors: bool = True
    flaky: float = 0.0
    """What share of the calls raises that need not."""
    dealt: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    luck: Random = field(default_factory=Random)
    places: dict[Any, tuple[str, int]] = field(default_factory=dict[Any, tuple[str, int]])
    """Where each record is in its partition."""
    opened: dict[str, int] = field(default_factory=dict[str, int])
    """Up to which positions records were durable when the store was last opened."""
    snapped: dict[str, list[tuple[int, int]]] = field(
        default_factory=dict[str, list[tuple[int, int]]]
    )
    """Positions that epochs were to save, with the last epoch that was durable then."""
    early: int = 0
    """How many were taken before they were durable."""
    mended: bool = False
    """No call fails any more."""

    @property
    def parts(self) -> dict[str, list[Any]]:
        """What each partition of the source has."""
        return self.dealt

    def call(self, argument: Any) -> Any:
        """The function of the step."""
        if isinstance(argument, list):
            return [self._one(record) for record in argument]
        return self._one(argument)

    def _one(self, record: Any) -> Any:
        key, value = record
        if self.params["submit"] == "after_commit":
            part, place = self.places[record]
            newest = self.durable_epoch()
            snapped = [at for at, epoch in self.snapped.get(part, ()) if epoch < newest]
            self.early += place >= max([self.opened.get(part, 0), *snapped])
        if not self.mended and (is_bad(value) or self.luck.random() < self.flaky):
            raise ValueError(value)
        return key, ("ok", value)


def _dead(letter: DeadLetter) -> tuple[str, int]:
    return "dead", letter.record[1]


def is_bad(value: int) -> bool:
    """Whether its task always fails."""
    return value % 7 == 0


class TaskedNumbers(Numbers):
    """As the source of the other job, and notes what epochs save."""

    def __init__(self, outside: Tasked) -> None:
        super().__init__(outside)
        self._tasked = outside

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> NumbersPart:
        part = super().build_part(step_id, for_part, resume_state)
        snapshot, outside = part.snapshot, self._tasked

        def noted() -> int:
            at = snapshot()
            outside.snapped.setdefault(for_part, []).append((at, outside.durable_epoch()))
            return at

        part.snapshot = noted  # type: ignore[method-assign]
        return part


class TaskedRun(CrashRun):
    """The history of a job with tasks."""

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        del extras
        rng = self._drawn = Random(f"tasks {seed}")
        keys = rng.choice((1, 3, 6))
        dealt: dict[str, list[Any]] = {"p0": [], "p1": [], "p2": [], LATER: []}
        for value in VALUES:
            number = rng.randrange(keys)
            dealt[f"p{number % 3}"].append((f"k{number}", value))
        seconds = timedelta(seconds=1)
        self._hangs = rng.choice((0.0, 0.0, 0.05))
        timeout = rng.choice((None, 0.3 * seconds, 2 * seconds))
        if self._hangs and timeout is None:
            timeout = seconds
        params = {
            "max_in_flight": rng.choice((1, 2, 5, 50)),
            "order": rng.choice(("key", "input", "none")),
            "timeout": timeout,
            "retry": Retry(
                attempts=rng.choice((1, 2, 5)),
                backoff=Exponential(0.1 * seconds),
                deaths=rng.choice((1, 3)),
            ),
            "batch": rng.choice((None, None, Batching(3, 0.2 * seconds))),
            "rate": rng.choice((None, None, Rate(20, per=seconds))),
            "submit": rng.choice(("now", "now", "after_commit")),
            "on_error": rng.choice(("skip", "dead_letter", "fail")),
        }
        if params["order"] == "key":
            params["batch"] = None
        self._deaths = rng.choice((0.0, 0.0, 0.1))
        if not self._deaths:
            # Nor does a record fail that was in flight when the job was killed.
            params["retry"] = replace(params["retry"], deaths=1000)
        self._tasked = Tasked(
            self._rng,
            (),
            self._chain.durable_epoch,
            weather,
            params=params,
            reads_errors=rng.random() < 0.7,
            flaky=rng.choice((0.0, 0.0, 0.2)),
            dealt=dealt,
            luck=rng,
            places={r: (name, at) for name, part in dealt.items() for at, r in enumerate(part)},
        )
        self._watches: dict[int, list[TaskWatch]] = {}
        """By the number of the life."""
        self._known = Known()
        self._drains = rng.choice((0, 0, 1, 3))
        """How many there may be."""
        self._drained: set[int] = set()
        self._fails = params["on_error"] == "fail" and not self._tasked.reads_errors
        self._failures_left = rng.randint(1, 3)
        self._note(f"{params}, deaths {self._deaths}, hangs {self._hangs}")
        return self._tasked

    def _draw_options(self) -> Any:
        options = super()._draw_options()
        longest = timedelta(seconds=self._drawn.choice((0.01, 0.5, 3)))
        return replace(
            options,
            call_max=longest,
            deaths=self._deaths,
            hangs=self._hangs,
            steps_max=4 * options.steps_max,
        )

    def _flow(self) -> Dataflow:
        flow, outside = Dataflow("f"), self._tasked
        s = op.input("in", flow, TaskedNumbers(outside))
        called = self._called(s)
        rows = called.ok
        if outside.reads_errors:
            failed = op.map("failed", called.errors, lambda e: (e.record[0], ("err", e.record[1])))
            rows = op.merge("rows", rows, failed)
        elif outside.params["on_error"] == "dead_letter":
            letters = op.dead_letters("letters", flow)
            dead = op.map("dead", letters, lambda letter: (letter.record[0], _dead(letter)))
            rows = op.merge("rows", rows, dead)
        if self._drawn.random() < 0.5:
            op.output("table", rows, MarkedSink(outside))
        else:
            shown = op.map("show", rows, lambda kv: (kv[0], kv))
            op.output("files", shown, CutSink(outside))
        return flow

    def _called(self, records: Stream[Any]) -> TaskOut[Any, Any]:
        return task("call", records, self._tasked.call, **self._tasked.params)

    def _open(self, life: Life) -> None:
        super()._open(life)
        gang = life.gang
        assert gang is not None
        # From one worker, or from all of them, batches of up to three records each.
        senders = life.workers if self._tasked.params["order"] == "key" else 1
        room = senders * self._options.channel_batches * 3
        self._watches[life.number] = [
            TaskWatch(node, self._clock.monotonic_s, self._known, room=room, share=1 / life.workers)
            for worker in gang.workers
            for node, _ in worker._tasked
        ]

    def _turn(self, life: Life) -> None:
        if life is self.current and life.gang is not None and self._drains:
            self._may_drain(life, life.gang)
        super()._turn(life)
        if life.gang is None:
            return
        limit = self._tasked.params["max_in_flight"]
        most = max((executor.most for executor in life.gang.executors), default=0)
        assert most <= limit, f"{most} calls were under way"
        for watch in self._watches.get(life.number, ()):
            watch.look()
            if life.gang.stopped and life.number not in self._drained:
                watch.check_ended()
        if life.over and life is self.current and life.number in self._drained:
            # Another life goes on where this one has stopped.
            self.lives.remove(life)
            self.current = None

    def _may_drain(self, life: Life, gang: Gang) -> None:
        if life.number not in self._drained and self._drawn.random() < 0.01:
            self._note(f"{life} is drained")
            self.counts["drains"] += 1
            self._drains -= 1
            self._drained.add(life.number)
            now_s = self._clock.monotonic_s()
            self._do(life, lambda: gang._tell(gang._coordinator.drain(now_s)))

    def _may_fail(self, life: Life, error: Exception) -> bool:
        """A life may end by a task that has failed, too, where that is to end it."""
        cause = error.__cause__ or error
        late = isinstance(cause, TimeoutError)
        if isinstance(cause, _FAILURES) and self._fails and (late or not self._tasked.mended):
            self.counts["failed"] += 1
            assert self.counts["failed"] < FAILED_MAX, "it fails for ever"
            self._failures_left -= 1
            if self._failures_left <= 0:
                # Somebody mends the service, so that the job can come to its end.
                self._tasked.mended = True
                calm = timedelta(seconds=0.01)
                self._options = replace(self._options, call_max=calm, deaths=0.0, hangs=0.0)
            return True
        return super()._may_fail(life, error)

    def _planned(self, life: Life) -> tuple[Dataflow, Plan]:
        # One flow for all lives: which sink it has was drawn once.
        if not self._plans:
            super()._planned(life)
        flow = next(iter(self._plans.values()))[0]
        workers = life.workers
        if workers not in self._plans:
            self._plans[workers] = flow, plan(flow, workers)
        return self._plans[workers]

    def _check_output(self) -> None:
        outside = self._tasked
        assert not outside.early, f"{outside.early} calls came before their epoch was durable"
        found: dict[str, list[Any]] = defaultdict(list)
        filed = [record for file in outside.files.values() for record in file.records]
        for key, row in [*outside.table, *filed]:
            found[key].append(row)
        sure = not outside.flaky and outside.params["batch"] is None
        sure = sure and not self._deaths and outside.params["timeout"] is None
        for part in outside.dealt.values():
            for key, value in part:
                came = [what for what, its_value in found[key] if its_value == value]
                allowed = self._allowed(value, sure=sure)
                assert came in allowed, f"{key} {value} came out as {came}, not as {allowed}"
        if outside.params["order"] == "key":
            for key, rows in found.items():
                for what in ("ok", "err", "dead"):
                    values = [value for kind, value in rows if kind == what]
                    assert values == sorted(values), f"{what} of {key}: {values}"

    def _allowed(self, value: int, *, sure: bool) -> list[list[str]]:
        if self._fails:
            return [["ok"]]
        failed: list[str] = []
        if self._tasked.reads_errors:
            failed = ["err"]
        elif self._tasked.params["on_error"] == "dead_letter":
            failed = ["dead"]
        if is_bad(value):
            return [failed]
        return [["ok"]] if sure else [["ok"], failed]

    def _check_opened(self, recovery: JobStore) -> None:
        states_of(recovery, "f.call")
        self._tasked.opened = positions_of(recovery, "f.in")

    def _check_ended(self, recovery: JobStore) -> None:
        ends = {name: len(part) for name, part in self._tasked.parts.items()}
        assert {LATER: 0, **positions_of(recovery, "f.in")} == ends
        assert states_of(recovery, "f.call") == {}, "tasks are left"
