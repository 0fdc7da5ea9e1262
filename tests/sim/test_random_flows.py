"""Random flows in random schedules, against plain Python."""

from __future__ import annotations

import pytest

from tests.sim.checks import check_cuts, check_outcome


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_lost_doubled_or_reordered(seed: int):
    """Whatever the flow, the schedule and the number of workers, the output is the oracle's."""
    check_outcome(seed)


@pytest.mark.parametrize("seed", range(60))
def test_every_epoch_is_a_consistent_cut(seed: int):
    """What sinks took by an epoch is what the flow makes of what sources gave by it."""
    check_cuts(seed)
