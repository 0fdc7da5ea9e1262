"""What becomes of an actor whose handler has raised, and of the message."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from engine.operators.tasks._policies import Exponential


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with the next message; this one becomes a dead letter."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the actor: its state is gone, and this message and those behind it are dead letters."""


@dataclass(frozen=True, slots=True)
class Escalate:
    """Stop the actor, and tell its parent by `ChildFailed`; without a parent, the run fails."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin again with a fresh state; this message becomes a dead letter, those behind it stay.

    >>> from datetime import timedelta
    >>> Restart(max=5, within=timedelta(minutes=1)).max
    5
    """

    max: int = 10
    """After so many restarts within the time below the failure goes to the parent (`Escalate`)."""
    within: timedelta = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Retry:
    """Handle the message again, after a while; those behind it wait.

    How often it was tried is saved with each epoch, and so counts across restarts of the job.
    """

    attempts: int = 3
    backoff: Exponential = field(default_factory=Exponential)
    """How long to wait between two tries."""
    then: Resume | Stop | Escalate | Restart = field(default_factory=Resume)
    """What to do after the last one."""


Directive: TypeAlias = Resume | Stop | Escalate | Restart | Retry
"""What an actor's class says in `supervise`."""
