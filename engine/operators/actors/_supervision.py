"""What becomes of an actor whose handler has raised, and of the message."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from engine.operators.tasks import _policies as tasks

_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the actor: its state is gone, and this message and those behind it are dead letters.

    A message that comes later finds a fresh actor, which knows nothing of how often one before it
    was stopped: so there is no limit to it.
    """


@dataclass(frozen=True, slots=True)
class Escalate:
    """Stop the actor, and tell its parent by `ChildFailed`; without a parent, the run fails."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with the next message; this one becomes a dead letter.

    Args:
        max: After so many failures of the actor within the time below, the next one goes to its
            parent (`Escalate`). None, the default, for any number: bad messages say nothing about
            the actor, and all of them are in `dead_letters`.
        within: What time that is.

    Raises:
        TypeError: `within` isn't a `timedelta`.
        ValueError: One of them is out of its range.

    >>> Resume(max=100).within
    datetime.timedelta(seconds=60)
    """

    max: int | None = None
    within: timedelta = _MINUTE

    def __post_init__(self) -> None:
        _check_limit(self.max, self.within)


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin again with a fresh state; this message becomes a dead letter, those behind it stay.

    Args:
        max: After so many failures of the actor within the time below, the next one goes to its
            parent (`Escalate`). None for any number.
        within: What time that is.

    Raises:
        TypeError: `within` isn't a `timedelta`.
        ValueError: One of them is out of its range.

    >>> from datetime import timedelta
    >>> Restart(max=5, within=timedelta(minutes=1)).max
    5
    """

    max: int | None = 10
    within: timedelta = _MINUTE

    def __post_init__(self) -> None:
        _check_limit(self.max, self.within)


@dataclass(frozen=True, slots=True)
class Retry(tasks.Retry):
    """Handle the message again, after a while; those behind it wait.

    As the `Retry` of tasks, with what is to be done after the last try, since an actor is there
    afterwards. How often a message was tried is saved with each epoch, and so counts across
    restarts of the job.

    Args:
        attempts: How many tries a message has in all, the first among them.
        backoff: The waits between them.
        on: Only after these exceptions; after others `then` counts at once.
        deaths: How many times the worker's process may die of a message.
        then: What to do after the last try.

    Raises:
        TypeError: `on` isn't made of exception types, or `then` is no directive.
        ValueError: `attempts` or `deaths` is below 1.

    >>> Retry(attempts=5, on=(ConnectionError,), then=Stop()).attempts
    5
    """

    attempts: int = 3
    then: Resume | Stop | Escalate | Restart = field(default_factory=Resume)

    def __post_init__(self) -> None:
        tasks.Retry.__post_init__(self)
        if not isinstance(self.then, Resume | Stop | Escalate | Restart):
            msg = f"`then` must be `Resume`, `Stop`, `Escalate` or `Restart`; got {self.then!r}"
            raise TypeError(msg)


Directive: TypeAlias = Resume | Stop | Escalate | Restart | Retry
"""What an actor's class says in `supervise`."""


def _check_limit(most: int | None, within: timedelta) -> None:
    if most is not None and most < 1:
        msg = f"`max` must be at least 1, or None; got {most!r}"
        raise ValueError(msg)
    tasks.check_span("within", within)
    if not within:
        msg = f"`within` must be more than 0; got {within}"
        raise ValueError(msg)
