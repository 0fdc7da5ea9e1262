"""Crashes of a job whose steps raise for some records, and go on without them.

Its dead letters go to a sink, or are kept in the store; then they are put back before their steps
now and then, where they fail again or, in some jobs, have been cured by then. Whatever happens,
each record is in the output, among the dead letters or among those that were skipped, once.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow
from engine.recovery._letter_requests import LetterRequest, has_requests, write_request
from engine.runtime import Plan, plan
from engine.runtime._recovery import JobStore
from tests.sim.crash_checks import positions_of, states_of
from tests.sim.crash_job import ITEMS, CutSink, MarkedSink, Numbers, Outside
from tests.sim.crash_world import Life
from tests.sim.crashes import ROOT, CrashRun
from tests.sim.failing_steps import WindowsOfJob, counted, recent

KEEPER = "f.dead_letters"
BESIDE = ("window", "recent")
"""Steps that don't stand in line."""
NAMES = ("window", "late", "recent")
"""What these call what comes out of them."""


def check_failures(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = FailureRun(seed)
    run.run()
    return run.counts


@dataclass
class Failing(Outside):
    """What lies outside of a job with bad records."""

    taken: bool = False
    """A step of the job takes the dead letters."""
    curable: bool = False
    cured: bool = field(default=False)
    """No step raises any more."""
    windows: WindowsOfJob | None = None

    def fate(self, value: int) -> str:
        """Which step raises for a value, if none is cured; "out" for none."""
        if value % 4 == 1:
            return "early"
        if value % 5 == 2:
            return "late"
        return "skipped" if value % 7 == 3 else "out"

    def bad(self, step: str, value: int) -> bool:
        """Whether a step raises for a value now."""
        return self.fate(value) == step and (step == "skipped" or not self.cured)

    def bad_beside(self, step: str, value: int) -> bool:
        """The same of a step that doesn't stand in line with the others."""
        return not self.cured and is_bad_beside(step, value)


def is_bad_beside(step: str, value: int) -> bool:
    """Whether a value is bad for a step beside the line, where none comes that is bad early."""
    return value % 4 != 1 and (value % 6 == 4 if step == "window" else value % 9 == 7)


def flow_of(outside: Failing) -> Dataflow:
    """A step that raises before an exchange, one with state behind it, and one that skips."""
    flow = Dataflow("f", on_error="dead_letter")

    def early(value: int) -> int:
        if outside.bad("early", value):
            raise ValueError(value)
        return value

    def late(count: int | None, value: int) -> tuple[int, tuple[int, int]]:
        if outside.bad("late", value):
            raise ValueError(value)
        return (count or 0) + 1, ((count or 0) + 1, value)

    def skipping(record: tuple[str, tuple[int, int]]) -> Any:
        if outside.bad("skipped", record[1][1]):
            raise ValueError(record)
        return record[0], record

    first = op.map_value("early", op.input("in", flow, Numbers(outside)), early)
    assert outside.windows is not None
    beside = [
        outside.windows.add(first, functools.partial(outside.bad_beside, "window")),
        recent(first, functools.partial(outside.bad_beside, "recent")),
    ]
    s = op.stateful_map("late", first, late)
    line = op.map("skip", s, skipping).on_error("skip")
    aside = op.map("aside", op.merge("beside", *beside), lambda record: (record[0], record))
    op.output("files", op.merge("all", line, aside), CutSink(outside))
    if outside.taken:
        letters = op.dead_letters("letters", flow)
        rows = op.map("row", letters, lambda letter: (letter.key, (letter.step_id, letter.record)))
        op.output("table", rows, MarkedSink(outside))
    return flow


class FailureRun(CrashRun):
    """The history of a job whose steps raise."""

    _outside: Failing
    workers_max = 3

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._plans_of: dict[tuple[int, bool], tuple[Dataflow, Plan]] = {}

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        rng = Random(f"failures {seed}")
        taken = rng.random() < 0.4
        curable = not taken and rng.random() < 0.4
        outside = Failing(self._rng, [], self._chain.durable_epoch, weather, taken=taken)
        outside.curable = curable
        outside.windows = WindowsOfJob(rng)
        return outside

    def _flow(self) -> Dataflow:
        return flow_of(self._outside)

    def _planned(self, life: Life) -> tuple[Dataflow, Plan]:
        if life.recovery is None:
            life.replaying = has_requests(life.disk, ROOT)
        name = life.workers, life.replaying
        if name not in self._plans_of:
            flow = self._flow()
            self._plans_of[name] = flow, plan(flow, life.workers, replaying=life.replaying)
        return self._plans_of[name]

    def _check_opened(self, recovery: JobStore) -> None:
        self.counts["replayed"] += sum(o.step_id is not None for o in recovery.start.letters)
        if not self._outside.taken:
            self._check_letters(recovery)
            self._ask(recovery)
        if self._outside.curable and self._rng.random() < 0.2:
            self._outside.cured = True

    def _ask(self, recovery: JobStore) -> None:
        """As the command does that puts letters back, for some of them."""
        ids = [letter_id for letter_id in states_of(recovery, KEEPER) if self._rng.random() < 0.5]
        if ids and self._rng.random() < 0.8:
            token = f"{self._rng.getrandbits(64):x}"
            write_request(self._disk.shared(), ROOT, token, LetterRequest("replay", tuple(ids)))

    def _check_letters(self, recovery: JobStore) -> None:
        """The store has the letters of the records that were read, no more no less."""
        outside, found = self._outside, Counter(self._letters(recovery))
        positions = positions_of(recovery, "f.in")
        read = [record for name, at in positions.items() for record in outside.parts[name][:at]]
        wanted = Counter(_name(key, v, outside.fate(v)) for key, v in read)
        wanted = Counter({name: n for name, n in wanted.items() if name[2] in ("early", "late")})
        wanted += Counter(
            _name(key, v, step) for key, v in read for step in BESIDE if is_bad_beside(step, v)
        )
        # Values of windows wait for their turn, or are late once they are put back.
        found += Counter({n: c for n, c in (wanted - found).items() if n[2] == "window"})
        if outside.curable:
            assert found <= wanted, "a letter is there twice, or of a record that is none"
            return
        assert found == wanted, f"dead letters at {positions}"
        counts = Counter(key for key, v in read if outside.fate(v) in ("skipped", "out"))
        assert states_of(recovery, "f.late") == counts, "a record that was left out was counted"

    def _letters(self, recovery: JobStore) -> list[tuple[str, int, str]]:
        kept = states_of(recovery, KEEPER).values()
        records = [(ast.literal_eval(letter["shown"]), letter["step_id"]) for letter in kept]
        return [_name(key, v, _step_of(step_id)) for (key, v), step_id in records]

    def _check_ended(self, recovery: JobStore) -> None:
        if not self._outside.taken:
            self._check_letters(recovery)
            self._left = Counter(self._letters(recovery))
        self._check_all()

    def _check_output(self) -> None:
        """All is checked when the store is open, which has a part of it."""

    def _check_all(self) -> None:
        outside = self._outside
        left = (
            Counter(
                _name(key, record[1], _step_of(step_id)) for key, (step_id, record) in outside.table
            )
            if outside.taken
            else self._left
        )
        self.counts["letters"] += left.total()
        out: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        for file in outside.files.values():
            for key, pair in file.records:
                out[key].append(pair)
        for key in {key for key, _ in ITEMS}:
            values = [v for k, v in ITEMS if k == key]
            line = [pair for pair in out[key] if pair[0] not in NAMES]
            self._check_key(key, values, line, left)
            came = {
                name: [given for its_name, given in out[key] if its_name == name] for name in NAMES
            }
            for step, check in (("window", self._check_windows), ("recent", self._check_recent)):
                kept = [name[1] for name in left.elements() if name[0] == key and name[2] == step]
                early = {name[1] for name in left if name[0] == key and name[2] == "early"}
                assert not early & {*kept}, f"{key}: {early} are letters of {step} too"
                check(key, [v for v in values if v not in early], kept, came)

    def _check_windows(
        self, key: str, values: list[int], kept: list[int], came: dict[str, list[Any]]
    ) -> None:
        """Each value is in its windows, or late for them, or a letter: all of it or nothing."""
        windows = self._outside.windows
        assert windows is not None
        inside = [v for some in came["window"] for v in some]
        counts = Counter(inside + [v for some in came["late"] for v in some] + kept * windows.times)
        assert counts == Counter(values * windows.times), f"{key}: {came}, letters {kept}"
        if not self._outside.curable:
            assert not any(is_bad_beside("window", v) for v in inside), f"{key}: {inside}"

    def _check_recent(
        self, key: str, values: list[int], kept: list[int], came: dict[str, list[Any]]
    ) -> None:
        """Each value is counted from the last long silence on, or is a letter."""
        out = came["recent"]
        assert sorted([v for _, v in out] + kept) == values, f"{key}: {out}, letters {kept}"
        if not self._outside.curable:
            wanted = counted([v for v in values if not is_bad_beside("recent", v)])
            assert out == wanted, f"{key}: {out} in place of {wanted}"

    def _check_key(
        self, key: str, values: list[int], out: list[tuple[int, int]], left: Counter[Any]
    ) -> None:
        outside = self._outside
        expected = [v for v in values if outside.fate(v) != "skipped"]
        lettered = [name[1] for name in left.elements() if name[0] == key and name[2] not in BESIDE]
        came = [value for _, value in out]
        assert sorted(came + lettered) == sorted(expected), f"{key}: {came}, letters {lettered}"
        if not outside.curable:
            counted = [v for v in values if outside.fate(v) in ("out", "skipped")]
            wanted = [p for p in enumerate(counted, 1) if outside.fate(p[1]) == "out"]
            assert out == wanted, f"{key} gave {out} in place of {wanted}"


def _step_of(step_id: str) -> str:
    """The user's step, of one that may be within it."""
    return step_id.split(".")[1]


def _name(key: str, value: int, step: str) -> tuple[str, int, str]:
    return key, value, step
