"""How tasks are tried again, gathered and held back: what users say about a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from engine.operators.tasks._resources import Label, Resources


def check_span(name: str, span: object) -> None:
    """See that a parameter is a length of time that isn't negative."""
    if not isinstance(span, timedelta):
        msg = f"`{name}` must be a `timedelta`; got {span!r}"
        raise TypeError(msg)
    if span < timedelta(0):
        msg = f"`{name}` must not be negative; got {span}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Waits that grow from try to try: `first`, then `factor` times as long each, up to `longest`.

    Each is made shorter or longer at random by up to `jitter` of it, so that tasks which failed
    together don't come again together.

    Args:
        first: The wait before the second try.
        factor: How many times as long each wait is as the one before; at least 1.
        longest: No wait is longer.
        jitter: From 0 to 1.

    Raises:
        TypeError: A wait isn't a `timedelta`.
        ValueError: A value is out of its range.

    >>> from datetime import timedelta
    >>> waits = Exponential(timedelta(seconds=1), longest=timedelta(seconds=5), jitter=0)
    >>> [waits.wait_s(tries, 0.5) for tries in (1, 2, 3, 4)]
    [1.0, 2.0, 4.0, 5.0]
    """

    first: timedelta = timedelta(milliseconds=100)
    factor: float = 2.0
    longest: timedelta = timedelta(seconds=30)
    jitter: float = 0.1

    def __post_init__(self) -> None:
        check_span("first", self.first)
        check_span("longest", self.longest)
        if not self.factor >= 1:
            msg = f"`factor` must be at least 1; got {self.factor!r}"
            raise ValueError(msg)
        if not 0 <= self.jitter <= 1:
            msg = f"`jitter` must be from 0 to 1; got {self.jitter!r}"
            raise ValueError(msg)

    def wait_s(self, tries: int, chance: float) -> float:
        """How long to wait after so many tries, in seconds.

        Args:
            tries: How many there were, from 1 on.
            chance: A random number from 0 to 1.
        """
        longest_s = self.longest.total_seconds()
        try:
            wait_s = min(self.first.total_seconds() * self.factor ** (tries - 1), longest_s)
        except OverflowError:
            wait_s = longest_s
        return wait_s * (1 + self.jitter * (2 * chance - 1))


@dataclass(frozen=True, slots=True)
class Retry:
    """When a task that raised is tried again.

    Args:
        attempts: How many tries a task has in all, the first among them.
        backoff: The waits between them.
        on: Only after these exceptions; a try that took too long raises a `TimeoutError`.
        deaths: How many times the process that runs it may die of it, or of whatever, apart from
            `attempts`; then it has failed.

    Raises:
        TypeError: `on` isn't made of exception types.
        ValueError: `attempts` or `deaths` is below 1.

    >>> Retry(attempts=3, on=(OSError,)).allows(ConnectionError(), 2)
    True
    """

    attempts: int = 1
    backoff: Exponential = Exponential()
    on: Sequence[type[Exception]] = (Exception,)
    deaths: int = 3

    def __post_init__(self) -> None:
        for name, value in (("attempts", self.attempts), ("deaths", self.deaths)):
            if value < 1:
                msg = f"`{name}` must be at least 1; got {value!r}"
                raise ValueError(msg)
        if isinstance(self.on, type):
            msg = f"`on` must be made of exception types, as in `on=({self.on.__name__},)`"
            raise TypeError(msg)
        object.__setattr__(self, "on", tuple(self.on))
        for kind in self.on:
            if not isinstance(kind, type) or not issubclass(kind, Exception):
                msg = f"`on` must be made of exception types; got {kind!r}"
                raise TypeError(msg)

    def allows(self, error: BaseException, tries: int) -> bool:
        """Whether there is one more try after an error in the last of so many."""
        return tries < self.attempts and isinstance(error, tuple(self.on))


@dataclass(frozen=True, slots=True)
class Batching:
    """Records go to the function in lists.

    Args:
        size: So many at most.
        linger: A list that isn't full waits so long for more after its first record.

    Raises:
        TypeError: `linger` isn't a `timedelta`.
        ValueError: `size` is below 1, or `linger` is negative.

    >>> from datetime import timedelta
    >>> Batching(size=100, linger=timedelta(milliseconds=5)).size
    100
    """

    size: int
    linger: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if self.size < 1:
            msg = f"`size` must be at least 1; got {self.size!r}"
            raise ValueError(msg)
        check_span("linger", self.linger)


@dataclass(frozen=True, slots=True)
class Rate:
    """No more than so many tries in a time, evenly shared by the workers of the job.

    Up to a tenth of a second's share may come at once (a token bucket), at least one.

    Args:
        count: How many.
        per: In what time.

    Raises:
        TypeError: `per` isn't a `timedelta`.
        ValueError: One of them isn't above zero.

    >>> from datetime import timedelta
    >>> Rate(100, per=timedelta(seconds=1)).per_s
    100.0
    """

    count: float
    per: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        check_span("per", self.per)
        if not 0 < self.count < math.inf or not self.per:
            msg = f"a rate must be above zero; got {self.count!r} per {self.per}"
            raise ValueError(msg)

    @property
    def per_s(self) -> float:
        """How many in a second."""
        return self.count / self.per.total_seconds()


Order = Literal["input", "key", "none"]
Placement: TypeAlias = Literal["worker", "any"] | Label


@dataclass(frozen=True, slots=True)
class TaskRules:
    """What the user said about the step."""

    max_in_flight: int = 256
    order: Order = "input"
    timeout_s: float = math.inf
    retry: Retry = field(default_factory=Retry)
    batch: Batching | None = None
    rate: Rate | None = None
    after_commit: bool = False
    """Whether a task is submitted only once the epoch of its records is durable."""
    resources: Resources | None = None
    """What each of its tries takes of the worker that runs it."""
    placement: Placement = "worker"
    """Which worker that may be."""
