"""Crashes bring to light whatever is broken in the epoch protocol: these tests can fail."""

from __future__ import annotations

import pytest

from engine.errors import EngineError
from tests.sim.crash_job import Job, check, run
from tests.sim.crash_mutants import CRASH_MUTANTS, CrashMutant

SEEDS = 200
JOBS = (Job(2, 0.05), Job(1, 0.05), Job(3, 0.0))


@pytest.mark.parametrize("mutant", CRASH_MUTANTS, ids=str)
def test_a_broken_protocol_is_caught(mutant: CrashMutant, monkeypatch: pytest.MonkeyPatch):
    """Within the seeds, at least one shows that something is wrong."""
    mutant.apply(monkeypatch)
    assert any(fails(seed) for seed in range(SEEDS))


def fails(seed: int) -> bool:
    """Whether a check doesn't hold, or the job breaks."""
    try:
        check(run(seed, JOBS[seed % len(JOBS)])[0])
    except (AssertionError, EngineError, ValueError, KeyError, StopIteration):
        return True
    return False
