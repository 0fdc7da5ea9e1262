"""Crashes bring to light whatever is broken in the protocol or the store: these tests can fail."""

from __future__ import annotations

import pytest

from tests.sim.crash_mutants import CRASH_MUTANTS
from tests.sim.mutant import SEEDS, Mutant, catch


@pytest.mark.parametrize("mutant", CRASH_MUTANTS, ids=str)
def test_a_broken_protocol_is_caught(mutant: Mutant, record_property):
    """By the seed that is known to, or else within the seeds."""
    known = catch(mutant, range(mutant.seed, mutant.seed + 1))
    caught = known or catch(mutant, range(SEEDS))
    assert caught is not None, f"no seed up to {SEEDS} shows it"
    record_property("summary", f"{mutant.name:36} {caught.seed:4}  {caught.what[:90]}")
