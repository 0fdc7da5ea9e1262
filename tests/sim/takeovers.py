"""Crashes where most processes are paused while they open the store, and others take over.

So rare is it in the other model that a process wakes up just before it opens its sinks, after
another has written to them, that one would try millions of seeds to see it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tests.sim.crash_world import Incident
from tests.sim.crashes import CrashRun


def check_takeovers(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = TakeoverRun(seed)
    run.run()
    return run.counts


class TakeoverRun(CrashRun):
    """The history of a job that is taken over again and again."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._zombies = True
        self._zombie_share = 0.6
        self._incidents_left = 8
        # As in the other model: where there are zombies, there are no copies.
        self._store_options = replace(self._store_options, backup=None)

    def _draw_incident(self, *, pauses: bool) -> Incident:
        if pauses and self._rng.random() < 0.6:
            return Incident("pause", op=self._rng.randint(4, 45))
        return super()._draw_incident(pauses=pauses)
