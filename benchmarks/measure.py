"""Runs workloads by several contenders, fairly: processes of their own, in turn, several times.

One round runs every contender once, one after another, and a round follows a round; so a machine
that grows slower for a while does so for all, and figures are compared within a round. Before the
first round each contender makes a checked run, whose output must be equal to the reference's.
`__main__.py` calls `measure`; `report.py` prints what it returns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan
from typing import Protocol

from benchmarks.contenders import family_of, is_installed
from benchmarks.workloads import Outcome, Workload

RUN_TIMEOUT_S = 600.0
NOT_INSTALLED = "not installed"


class RunError(Exception):
    """A contender's run gave no outcome, or the wrong one."""


class Runner(Protocol):
    """Runs a workload once by one contender; raises `RunError` if that fails."""

    def __call__(
        self, workload: Workload, contender: str, records: int, *, check: bool
    ) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What to run and how often."""

    contenders: tuple[str, ...]
    repetitions: int
    quick: bool


@dataclass(slots=True)
class Series:
    """All samples of one contender at one workload, or the reason why there are none."""

    contender: str
    samples: list[dict[str, float]] = field(default_factory=list)
    problem: str | None = None

    def values(self, metric: str) -> list[float]:
        return [sample[metric] for sample in self.samples]

    def median(self, metric: str) -> float:
        return statistics.median(self.values(metric))

    def spread(self, metric: str) -> float:
        """Half the distance between the lowest and the highest sample, as a part of the median."""
        values = self.values(metric)
        middle = self.median(metric)
        return (max(values) - min(values)) / 2 / middle if middle else 0.0

    def ratio_to(self, other: Series, metric: str) -> float:
        """The median of the ratios within each round."""
        rounds = zip(self.values(metric), other.values(metric), strict=True)
        return statistics.median(mine / theirs if theirs else nan for mine, theirs in rounds)


@dataclass(frozen=True, slots=True)
class Result:
    """A workload and what its contenders did."""

    workload: Workload
    series: dict[str, Series]


def run_in_child(workload: Workload, contender: str, records: int, *, check: bool) -> Outcome:
    """Run a workload in a process of its own, which must end well and print its outcome last."""
    mode = "check" if check else "time"
    command = [sys.executable, "-m", "benchmarks.child"]
    arguments = [workload.name, contender, str(records), mode]
    # The same hashes in each process: sets and dicts behave alike, and digests can be compared.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            command + arguments,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        msg = f"failed: not done after {RUN_TIMEOUT_S:.0f} s"
        raise RunError(msg) from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        msg = f"failed: {reason}"
        raise RunError(msg)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def measure(
    workload: Workload,
    options: Options,
    progress: Callable[[str], None],
    run: Runner = run_in_child,
) -> Result:
    """Check, then time, every chosen contender of a workload."""
    names = [name for name in workload.contenders if family_of(name) in options.contenders]
    series = {name: Series(name) for name in names}
    for one in series.values():
        if not is_installed(one.contender):
            one.problem = NOT_INSTALLED
    progress(f"{workload.name}: checking that the outputs are equal")
    _run_round(series, lambda name: run(workload, name, workload.records_quick, check=True))
    records = workload.records_quick if options.quick else workload.records
    for number in range(1, options.repetitions + 1):
        progress(f"{workload.name}: round {number} of {options.repetitions}")
        outcomes = _run_round(series, lambda name: run(workload, name, records, check=False))
        for name, outcome in outcomes.items():
            series[name].samples.append(outcome.figures)
    return Result(workload, series)


def _run_round(series: dict[str, Series], run: Callable[[str], Outcome]) -> dict[str, Outcome]:
    """Run each contender that has no problem so far, and note the problem of one that fails."""
    outcomes: dict[str, Outcome] = {}
    reference: Outcome | None = None
    for one in series.values():
        if one.problem is not None:
            continue
        try:
            outcome = run(one.contender)
            _compare(outcome, reference)
        except RunError as error:
            one.problem = str(error)
        else:
            reference = reference or outcome
            outcomes[one.contender] = outcome
    return outcomes


def _compare(outcome: Outcome, reference: Outcome | None) -> None:
    if reference is None:
        return
    if outcome.records != reference.records:
        msg = f"wrong output: {outcome.records} records, not {reference.records}"
        raise RunError(msg)
    if outcome.digest != reference.digest:
        msg = "wrong output: other records than the reference's"
        raise RunError(msg)
