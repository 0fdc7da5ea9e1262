"""What bounds the graphs of a step on one worker: how much runs, and what it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from engine.operators.tasks._resources import Resources


class GivesBack(Protocol):
    """What calls have taken their resources by."""

    def give_back(self, call: int) -> None:
        """Give back what a call holds, if it holds anything."""
        ...


class Account(GivesBack, Protocol):
    """What calls take their resources by (`engine.runtime._ledger`)."""

    def has(self, demand: Resources) -> bool:
        """Whether it could be taken now."""
        ...

    def take(self, call: int, demand: Resources) -> bool:
        """Take it for a call, if it can be taken now."""
        ...

    def leave(self) -> None:
        """Nothing is wanted any more."""
        ...


@dataclass(frozen=True, slots=True)
class GraphRules:
    """What bounds the graphs of a step on one worker."""

    max_in_flight: int
    """So many calls run at the same time, at most."""
    deaths: int
    """How often the process of a subtask may die."""
    account: Account | None = None
    """What subtasks take their resources by; None where resources aren't counted."""
    offer: Resources | None = None
    """What the worker has, all in all; None where resources aren't counted."""
    root_account: GivesBack | None = None
    """What the table has taken the roots' resources by, under the numbers of its calls. They are
    given back to it when a root waits; what it then goes on with is taken by `account`."""
    root_resources: Resources | None = None
    left_alone_s: float = math.inf
    """How long a call that nobody waits for may keep its place, where it can't be stopped."""
