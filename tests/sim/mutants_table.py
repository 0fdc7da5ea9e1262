"""Prints which seed catches which mutant first, and how: `python -m tests.sim.mutants_table`.

With this one keeps up the seeds that all of these mutants say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tests.sim.actor_mutants import ACTOR_MUTANTS
from tests.sim.apart_mutants import APART_MUTANTS
from tests.sim.clock_mutants import CLOCK_MUTANTS
from tests.sim.crash_mutants import CRASH_MUTANTS
from tests.sim.failure_mutants import FAILURE_MUTANTS
from tests.sim.graph_mutants import GRAPH_MUTANTS
from tests.sim.mutant import SEEDS, Catch, Mutant, catch
from tests.sim.mutants import MUTANTS
from tests.sim.placement_mutants import PLACEMENT_MUTANTS
from tests.sim.task_mutants import TASK_MUTANTS
from tests.sim.window_mutants import WINDOW_MUTANTS

ALL_MUTANTS = (
    *ACTOR_MUTANTS,
    *APART_MUTANTS,
    *CRASH_MUTANTS,
    *CLOCK_MUTANTS,
    *WINDOW_MUTANTS,
    *FAILURE_MUTANTS,
    *GRAPH_MUTANTS,
    *PLACEMENT_MUTANTS,
    *TASK_MUTANTS,
    *MUTANTS,
)


def lines(catches: Iterable[tuple[Mutant, Catch | None]]) -> list[str]:
    """The table."""
    rows = [f"{'mutant':38}{'seed':>5}  what it broke"]
    for mutant, caught in catches:
        seed, what = (caught.seed, caught.what) if caught else ("-", "nothing: it survives")
        rows.append(f"{mutant.name:38}{seed:>5}  {what[:110]}")
    return rows


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    _tell(lines([])[0])
    survivors = 0
    for mutant in ALL_MUTANTS:
        caught = catch(mutant, range(SEEDS))
        survivors += caught is None
        _tell(lines([(mutant, caught)])[1])
    return survivors


if __name__ == "__main__":
    sys.exit(main())
