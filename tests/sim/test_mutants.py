"""The simulator's checks notice when the engine is broken: they can fail."""

from __future__ import annotations

import pytest

from tests.sim.mutant import SEEDS, Catch, Mutant, catch
from tests.sim.mutants_table import ALL_MUTANTS


@pytest.mark.parametrize("mutant", ALL_MUTANTS, ids=str)
def test_a_broken_engine_is_caught(mutant: Mutant, catches: list[tuple[Mutant, Catch]]):
    """By the seed that is known to catch it, or another one of the first two hundred."""
    caught = catch(mutant, range(mutant.seed, mutant.seed + 1)) or catch(mutant, range(SEEDS))
    assert caught is not None, "it survives"
    catches.append((mutant, caught))
