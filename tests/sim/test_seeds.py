"""Fresh seeds of all models. A failure says which command shows it again."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.sim.models import SeedError, run_many, run_seeds, told

SEEDS = {
    "store": 200,
    "takeovers": 30,
    "outcome": 100,
    "cuts": 100,
    "abort": 40,
    "queues": 40,
    "clocks": 100,
    "clocked": 60,
    "windows": 70,
    "failures": 60,
    "actors": 1000,
    "apart": 100,
    "graphs": 100,
    "subtasks": 30,
    "placement": 40,
    "tasks": 100,
}
PARTS = 10


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("model", SEEDS)
def test_whatever_happens_all_holds(
    model: str, part: int, sim_base: int, counts: dict[str, Counter[str]]
):
    """A thousand seeds of actors and a thousand of all else, which nobody has tried before."""
    size = SEEDS[model] // PARTS
    first = sim_base + part * size
    counts[model] = counts.get(model, Counter()) + run_seeds(model, range(first, first + size))


def test_a_soak(sim_base: int, soak: int, counts: dict[str, Counter[str]]):
    """As many seeds of crashes over the real store as one has time for, on all processors."""
    if not soak:
        pytest.skip("takes long: --soak 20000")
    total: Counter[str] = Counter()
    for some in run_many("store", range(sim_base, sim_base + soak)):
        total += some
        sys.stdout.write(told(total) + "\n")
    counts["soak"] = total


def test_a_failure_tells_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch):
    """With the model and the seed."""

    def fail_at_three(seed: int) -> None:
        assert seed != 3, "it is three"

    monkeypatch.setitem(run_seeds.__globals__["MODELS"], "store", fail_at_three)
    with pytest.raises(SeedError, match=r"(?s)it is three.*python -m tests\.sim\.replay store 3\n"):
        run_seeds("store", range(10))
