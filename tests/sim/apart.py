"""Crashes of a job with actors that have functions called, and handlers run, apart from them.

The worlds are those of `tests.sim.actors`. Handlers of some classes are run by a simulated
executor, and tokens are given to tasks now and then. Calls take simulated time and end in any
order; some raise, some end with the death of their process, some never end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from math import inf
from random import Random
from typing import Any
from unittest.mock import patch

from engine.operators.actors import Actor
from engine.operators.actors._dedicated import Dedicated
from engine.operators.tasks import Exponential, Retry
from tests.sim.actors import Account, ActedRun, Leaf, Spot
from tests.sim.crash_job import Outside


def check_apart_store(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = ApartRun(seed)
    run.run()
    return run.counts


class ApartRun(ActedRun):
    """The history of a job with actors, some of whose work is done apart from them."""

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        outside = super()._make_outside(seed, extras, weather)
        rng, world = Random(f"apart {seed}"), self._world
        seconds = timedelta(seconds=1)
        hangs = rng.choice((0.0, 0.0, 0.05))
        timeout = rng.choice((None, seconds)) if not hangs else seconds
        places = rng.choice((1, 3, inf))
        # Sources wait for actors, and must not think that they wait for the outside for too long.
        longest = rng.choice((0.01, 0.1, 0.1 if places == 1 else 2)) * seconds
        deaths = rng.choice((0.0, 0.0, 0.1))
        self._calls = {"call_max": longest, "deaths": deaths, "hangs": hangs, "places": places}
        if world.timeout < timedelta(days=1):
            # Or no answer would ever come before it, and all would be asked for ever.
            world.timeout = 20 * seconds
            self._calls |= {"call_max": 0.01 * seconds, "hangs": 0.0, "places": inf}
        if not self._bank:
            world.tasks = rng.choice((0.0, 0.3, 0.6))
            retry = Retry(rng.choice((1, 3)), Exponential(0.1 * seconds))
            executor = rng.choice(("thread", "process"))
            world.options.update(executor=executor, timeout=timeout, retry=retry)
        every: tuple[type[Actor], ...] = (Account,) if self._bank else (Spot, Leaf)
        few = 0 if world.tasks else 1
        self._dedicated = rng.sample(every, rng.randint(few, len(every)))
        self._rules = Dedicated(rng.choice((1, 3)), None, timeout)
        self._note(f"{self._dedicated} {self._rules}, {self._calls}")
        return outside

    def _draw_options(self) -> Any:
        options = super()._draw_options()
        return replace(options, **self._calls, steps_max=2 * options.steps_max)

    def run(self) -> None:
        """As of any job with actors."""
        with ExitStack() as stack:
            for cls in self._dedicated:
                stack.enter_context(patch.object(cls.blueprint, "dedicated", self._rules))
                stack.enter_context(patch.object(cls.blueprint, "deaths_max", 1000))
            super().run()
