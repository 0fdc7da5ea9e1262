"""What breaking something on purpose has in common: a mutant, and whether a seed catches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

SEEDS = 200
"""Within how many a mutant must be caught."""


@dataclass(frozen=True)
class Mutant:
    """One way to break the engine."""

    name: str
    apply: Callable[[pytest.MonkeyPatch], None]
    check: Callable[[int], Any]
    """What a seed is tried with: raises if something doesn't hold."""
    seed: int = 0
    """One that is known to catch it: tried first, so that a test run need not search."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Catch:
    """How a mutant was found."""

    seed: int
    what: str
    """What didn't hold."""


def catch(mutant: Mutant, seeds: range) -> Catch | None:
    """The first of some seeds that catches a mutant."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        return next(filter(None, (_try(mutant, seed) for seed in seeds)), None)


def _try(mutant: Mutant, seed: int) -> Catch | None:
    try:
        mutant.check(seed)
    except Exception as ex:  # noqa: BLE001 - a broken engine may end in any way
        return Catch(seed, f"{type(ex).__name__}: {ex}".splitlines()[0])
    return None
