"""The simulator's checks notice when the engine is broken: they can fail."""

from __future__ import annotations

import pytest

from tests.sim.clock_mutants import CLOCK_MUTANTS
from tests.sim.crash_mutants import CRASH_MUTANTS
from tests.sim.failure_mutants import FAILURE_MUTANTS
from tests.sim.graph_mutants import GRAPH_MUTANTS
from tests.sim.mutant import SEEDS, Catch, Mutant, catch
from tests.sim.mutants import MUTANTS
from tests.sim.placement_mutants import PLACEMENT_MUTANTS
from tests.sim.task_mutants import TASK_MUTANTS
from tests.sim.window_mutants import WINDOW_MUTANTS


@pytest.mark.parametrize(
    "mutant",
    [
        *CRASH_MUTANTS,
        *CLOCK_MUTANTS,
        *WINDOW_MUTANTS,
        *FAILURE_MUTANTS,
        *GRAPH_MUTANTS,
        *PLACEMENT_MUTANTS,
        *TASK_MUTANTS,
        *MUTANTS,
    ],
    ids=str,
)
def test_a_broken_engine_is_caught(mutant: Mutant, catches: list[tuple[Mutant, Catch]]):
    """By the seed that is known to catch it, or another one of the first two hundred."""
    caught = catch(mutant, range(mutant.seed, mutant.seed + 1)) or catch(mutant, range(SEEDS))
    assert caught is not None, "it survives"
    catches.append((mutant, caught))
