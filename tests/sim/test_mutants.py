"""The simulator's checks notice when the runtime is broken: they can fail."""

from __future__ import annotations

import pytest

from engine.errors import EngineError
from tests.sim.checks import check_cuts, check_outcome
from tests.sim.mutants import MUTANTS, Mutant

SEEDS = 60
"""As many as `test_random_flows` runs on the runtime as it is."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_runtime_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch):
    """Within the seeds of every test run, at least one shows that something is wrong."""
    mutant.apply(monkeypatch)
    assert any(fails(seed) for seed in range(SEEDS))


def fails(seed: int) -> bool:
    """Whether a check doesn't hold, or the run does not come to its end."""
    try:
        check_cuts(seed)
        check_outcome(seed)
    except (AssertionError, EngineError):
        return True
    return False
