"""Crashes of a job with windows, joins in time and their like.

Half of the jobs are *held*: their input doesn't end before all that the wall clock is to close has
come out. So what a crash makes forget is missed, and not repaired by the end of the input.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from random import Random
from typing import Any

import engine.operators as op
from engine.clock import utc_now
from engine.dataflow import Dataflow
from engine.runtime._recovery import JobStore
from tests.sim.crash_checks import positions_of, states_of
from tests.sim.crash_job import LATER, CutSink, MarkedSink, Numbers, NumbersPart, Outside
from tests.sim.crashes import CrashRun
from tests.sim.window_steps import (
    DISORDER_S,
    START,
    STEP_S,
    STEPS_MAX,
    Row,
    Step,
    WindowStep,
    draw_steps,
)

VALUES = range(1, 61)
HELD_S = 4000.0
"""So long may it take, at most, until the wall clock has closed all windows."""
WORKERS_MAX = 4


def check_windowed_store(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = WindowedRun(seed)
    run.run()
    return run.counts


@dataclass
class Windowed(Outside):
    """What lies outside of a job with windows."""

    steps: list[Step] = field(default_factory=list[Step])
    filed: set[str] = field(default_factory=set[str])
    """The steps whose rows go to the files; those of others go to the table."""
    dealt: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    held: bool = False

    @property
    def parts(self) -> dict[str, list[Any]]:
        """What each partition of the source has."""
        return self.dealt

    @cached_property
    def wanted(self) -> dict[tuple[str, str], list[Row]]:
        """What each step must give for each key."""
        values: dict[str, list[int]] = defaultdict(list)
        for part in self.dealt.values():
            for key, value in part:
                values[key].append(value)
        return {
            (step.step_id, key): step.wanted(some)
            for step in self.steps
            for key, some in values.items()
        }

    def found(self) -> dict[tuple[str, str], list[Row]]:
        """What each step has given for each key."""
        found: dict[tuple[str, str], list[Row]] = defaultdict(list)
        filed = [record for file in self.files.values() for record in file.records]
        for key, row in [*self.table, *filed]:
            found[row[0], key].append(row[1])
        return found

    def missing(self) -> dict[tuple[str, str], list[Row]]:
        """What the wall clock must still bring about."""
        found = self.found()
        by_wall = {step.step_id for step in self.steps if step.scope == "key"}
        return {
            place: [row for row in wanted if row not in found[place]]
            for place, wanted in self.wanted.items()
            if place[0] in by_wall and len(found[place]) < len(wanted)
        }


class HeldNumbers(Numbers):
    """As the source of the other job. One partition may wait before it ends."""

    def __init__(self, outside: Windowed) -> None:
        super().__init__(outside)
        self._windowed = outside

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> NumbersPart:
        if not self._windowed.held or for_part != "p0":
            return super().build_part(step_id, for_part, resume_state)
        super().build_part(step_id, for_part, resume_state)
        return HeldPart(self._windowed, for_part, resume_state or 0)


class HeldPart(NumbersPart):
    """Waits for all that the wall clock is to bring about."""

    def __init__(self, outside: Windowed, name: str, at: int) -> None:
        super().__init__(outside, name, at)
        self._windowed = outside
        self._until: datetime | None = None

    def next_batch(self) -> list[Any]:
        self._until = None
        try:
            return super().next_batch()
        except StopIteration:
            if not self._windowed.missing():
                raise
        now = utc_now()
        self._deadline = getattr(self, "_deadline", now + timedelta(seconds=HELD_S))
        assert now < self._deadline, f"the wall clock has not closed {self._windowed.missing()}"
        self._until = now + timedelta(seconds=100)
        return []

    def next_awake(self) -> datetime | None:
        return self._until or super().next_awake()


class WindowedRun(CrashRun):
    """The history of a job with windows."""

    workers_max = WORKERS_MAX
    # All three outputs of a step may go to one other.
    batches_of_one = 3 * STEPS_MAX

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        del extras
        rng = Random(f"windows {seed}")
        times = {
            value: START
            + timedelta(seconds=STEP_S * value + rng.randint(-DISORDER_S, DISORDER_S))
            + timedelta(microseconds=value)
            for value in VALUES
        }
        keys = rng.choice((1, 3, 6))
        dealt: dict[str, list[Any]] = {"p0": [], "p1": [], "p2": [], LATER: []}
        for value in VALUES:
            number = rng.randrange(keys)
            dealt[f"p{number % 3}"].append((f"k{number}", value))
        steps = draw_steps(rng, times)
        filed = {step.step_id for step in steps if rng.random() < 0.5}
        held = rng.random() < 0.5
        self._outages = rng
        self._windowed = Windowed(
            self._rng,
            (),
            self._chain.durable_epoch,
            weather,
            steps=steps,
            filed=filed,
            dealt=dealt,
            held=held,
        )
        self._note(f"{'held; ' if held else ''}{', '.join(map(str, steps))}")
        return self._windowed

    def _start(self) -> None:
        if not self.lives and self._outages.random() < 0.3:
            # While it is down, time doesn't go on for its windows.
            self._clock.advance(1000.0)
        super()._start()

    def _draw_options(self) -> Any:
        options = super()._draw_options()
        if not self._windowed.held:
            return options
        # Hours go by, and epochs are to be few.
        interval = timedelta(seconds=self._rng.choice((0, 50)))
        return replace(options, epoch_interval=interval, steps_max=10 * options.steps_max)

    def _flow(self) -> Dataflow:
        flow, outside = Dataflow("f"), self._windowed
        s = op.input("in", flow, HeldNumbers(outside))
        files: list[Any] = []
        table: list[Any] = []
        for step in outside.steps:
            rows = op.merge(f"{step.step_id}-rows", *step.add(s))
            named = op.map_value(f"{step.step_id}-named", rows, _naming(step.step_id))
            (files if step.step_id in outside.filed else table).append(named)
        if files:
            shown = op.map("show", op.merge("files-rows", *files), lambda kv: (kv[0], kv))
            op.output("files", shown, CutSink(outside))
        if table:
            op.output("table", op.merge("table-rows", *table), MarkedSink(outside))
        return flow

    def _check_output(self) -> None:
        outside = self._windowed
        found = outside.found()
        for (step_id, key), wanted in outside.wanted.items():
            step = next(step for step in outside.steps if step.step_id == step_id)
            rows = found.pop((step_id, key), [])
            assert _sorted(rows) == _sorted(wanted), (
                f"{step} gave for {key} {_sorted(rows)} in place of {_sorted(wanted)}"
            )
            if step.in_order:
                for what in {row[0] for row in wanted}:
                    _check_order(step, [r for r in rows if r[0] == what], wanted)
        assert not found, f"nobody can have given {found}"

    def _check_opened(self, recovery: JobStore) -> None:
        """Each key is with its owner, and each pane that holds some of it has its row, no other."""
        for step in self._windowed.steps:
            states = states_of(recovery, f"f.{step.step_id}") if _has_rows(step) else {}
            if isinstance(step, WindowStep) and step.paned:
                _check_rows(states)

    def _check_ended(self, recovery: JobStore) -> None:
        ends = {name: len(part) for name, part in self._windowed.parts.items()}
        assert {LATER: 0, **positions_of(recovery, "f.in")} == ends
        self._check_opened(recovery)
        for step in self._windowed.steps:
            if isinstance(step, WindowStep) and step.paned:
                states = states_of(recovery, f"f.{step.step_id}")
                left = [key for key, state in states.items() if _open_of(state)]
                assert not left, f"{left} have windows open at the end of input"


def _naming(step_id: str) -> Any:
    return lambda row: (step_id, row)


def _sorted(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=repr)


def _check_order(step: Step, rows: list[Row], wanted: list[Row]) -> None:
    """The rows of a kind, which are all there are, came in their order."""
    if isinstance(step, WindowStep):
        ids = [row[1] for row in rows if row[0] == "meta"]
        assert ids == sorted(ids), f"{step} closed windows in the order {ids}"
    else:
        assert rows == wanted, f"{step} gave {rows} in place of {wanted}"


def _has_rows(step: Step) -> bool:
    """Whether its state is under its own name, and not under that of a step within."""
    return isinstance(step, WindowStep) and step.paned


def _open_of(state: Any) -> tuple[int, ...]:
    return tuple(state[3][0])


def _panes_of(state: Any) -> tuple[int, ...]:
    """The panes that hold something of a key: its open windows, or what they share."""
    shared = state[3][3:]
    return tuple(shared[0]) if shared else _open_of(state)


def _check_rows(states: dict[Any, Any]) -> None:
    parts = {key for key in states if isinstance(key, tuple)}
    wanted = {
        (key, None, number)
        for key, state in states.items()
        if key not in parts
        for number in _panes_of(state)
    }
    assert parts == wanted, f"rows of windows {parts}, where keys have open {wanted}"
