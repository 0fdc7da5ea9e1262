"""The models that seeds are drawn for, by name, and running seeds of them.

`python -m tests.sim.replay MODEL SEED` shows one of them again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from tests.sim.actors import check_acted_store
from tests.sim.apart import check_apart_store
from tests.sim.checks import check_abort, check_cuts, check_outcome, check_queues
from tests.sim.clocks import check_clocks
from tests.sim.crashes import check_clocked_store, check_store
from tests.sim.failures import check_failures
from tests.sim.graphs import check_graphs
from tests.sim.placement import check_placed_store
from tests.sim.subtasks import check_subtasks
from tests.sim.takeovers import check_takeovers
from tests.sim.tasks import check_tasked_store
from tests.sim.windows import check_windowed_store

MODELS: dict[str, Callable[[int], Counter[str] | None]] = {
    "store": check_store,
    "takeovers": check_takeovers,
    "outcome": check_outcome,
    "cuts": check_cuts,
    "abort": check_abort,
    "queues": check_queues,
    "clocks": check_clocks,
    "clocked": check_clocked_store,
    "windows": check_windowed_store,
    "tasks": check_tasked_store,
    "actors": check_acted_store,
    "apart": check_apart_store,
    "placement": check_placed_store,
    "failures": check_failures,
    "graphs": check_graphs,
    "subtasks": check_subtasks,
}

_AT_A_TIME = 20


class SeedError(AssertionError):
    """A seed has shown that something doesn't hold; says how to see it again."""


def run_seeds(model: str, seeds: range) -> Counter[str]:
    """Run seeds of a model; gives what happened, counted.

    Raises:
        SeedError: For the first that fails.
    """
    counts = Counter({"seeds": len(seeds)})
    for seed in seeds:
        try:
            counts += MODELS[model](seed) or Counter()
        except Exception as ex:
            # Notes of the cause would be lost on the way from another process.
            msg = f"{type(ex).__name__}: {ex}\n\npython -m tests.sim.replay {model} {seed}\n"
            raise SeedError(msg) from ex
    return counts


def run_many(model: str, seeds: range) -> Iterator[Counter[str]]:
    """As `run_seeds`, on all processors; gives the counts of some seeds at a time."""
    parts = [seeds[i : i + _AT_A_TIME] for i in range(0, len(seeds), _AT_A_TIME)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        try:
            yield from pool.map(run_seeds, repeat(model), parts)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def told(counts: Counter[str]) -> str:
    """Counts in a line."""
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())
