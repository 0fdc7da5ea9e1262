"""Crashes, zombies and other numbers of workers change nothing about what comes out in the end."""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.sim.crashes import check_store

BATCHES = 17
SEEDS = 50
"""In each batch. With the 150 of `test_random_flows` that makes the 1,000 of a test run."""
SOAK_SEEDS = 20_000
BASE = int(os.environ.get("SIM_BASE") or random.SystemRandom().randrange(10**9))
"""The first seed: fresh in each run, or given to run the same ones again."""


@pytest.mark.parametrize("batch", range(BATCHES))
def test_crashes_change_nothing(batch: int):
    """State and output are those of a run without a crash, over seeds that nobody has tried."""
    counts = Counter[str]()
    for seed in range(BASE + batch * SEEDS, BASE + (batch + 1) * SEEDS):
        counts += tried(seed)
    assert counts["crashes"] > SEEDS
    assert counts["zombies"]
    assert counts["rescales"]


def test_many_seeds(soak: bool, record_property):
    """Some times more, on all processors, if there is time for it."""
    if not soak:
        pytest.skip("a long run: give --soak")
    first = BASE + BATCHES * SEEDS
    with ProcessPoolExecutor() as pool:
        counts = sum(
            pool.map(tried, range(first, first + SOAK_SEEDS), chunksize=50), Counter[str]()
        )
    record_property("summary", f"{SOAK_SEEDS:,} seeds from {first}: {dict(counts)}")


def tried(seed: int) -> Counter[str]:
    """What happened with a seed; a failure says how to see it again."""
    try:
        return check_store(seed)
    except Exception as ex:
        msg = f"seed {seed} fails; see it again with: python -m tests.sim.replay store {seed}"
        raise AssertionError(msg) from ex
