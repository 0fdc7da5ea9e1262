"""`dedicated`: handlers that run in a process of their own, and what they take of the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from engine.operators.tasks import Resources
from engine.operators.tasks._policies import check_span

C = TypeVar("C", bound=type[Any])


@dataclass(frozen=True, slots=True)
class Dedicated:
    """Where the handlers of a class run."""

    processes: int
    """How many there are for it, on each worker."""
    resources: Resources | None
    """What a handler takes of the worker while it runs."""
    timeout: timedelta | None
    """How long one may take."""


def dedicated(
    *,
    processes: int = 1,
    resources: Resources | None = None,
    timeout: timedelta | None = None,
) -> Callable[[C], C]:
    """Have the handlers of a class of actors run in processes of their own.

    For handlers that compute for long, hold a graphics processor, or may crash. Each worker has so
    many processes for the class, started when they are needed first. State and mailbox stay with
    the worker: the state and a message are sent to a process, and what the handler did comes back
    and counts in one piece. One actor has one handler at a time; other actors go on meanwhile. A
    barrier doesn't wait: what is being handled counts as not handled, and is handled again after a
    crash.

    The class must be importable by name, and state, messages and what is emitted picklable. What a
    process keeps outside of actors, such as a model that it has loaded, stays there.

    A process that dies is replaced. That is a failure of the message (`WorkerProcessError`), as an
    exception is, and so is a handler that takes too long (`TimeoutError`): `supervise` of the class
    says what to do.

    Args:
        processes: How many on each worker.
        resources: What a handler takes of the worker while it runs. It waits while there is too
            little. A flow is refused if not every worker offers so much (``--resources``).
        timeout: How long a handler may take; its process is killed then. For ever if left out.

    Raises:
        TypeError: A parameter is of the wrong type, or the class isn't an `Actor`.
        ValueError: A parameter makes no sense.

    >>> from engine.operators.actors import Actor, Context, dedicated, handles
    >>> from engine.operators.tasks import Resources
    >>> @dedicated(resources=Resources(cpu=1))
    ... class Scorer(Actor):
    ...     @handles(str)
    ...     def score(self, ctx: Context, text: str) -> None:
    ...         ctx.emit((ctx.key, len(text)))
    """
    if isinstance(processes, bool) or not isinstance(processes, int):
        msg = f"`processes` of `dedicated` must be an int; got {processes!r}"
        raise TypeError(msg)
    if processes < 1:
        msg = f"`processes` of `dedicated` must be at least 1; got {processes}"
        raise ValueError(msg)
    if resources is not None and not isinstance(resources, Resources):
        msg = f"`resources` of `dedicated` must be like `Resources(gpu=1)`; got {resources!r}"
        raise TypeError(msg)
    if timeout is not None:
        check_span("timeout", timeout)
        if not timeout:
            msg = "`timeout` of `dedicated` must be above zero"
            raise ValueError(msg)
    rules = Dedicated(processes, resources, timeout)

    def mark(cls: C) -> C:
        if not isinstance(cls, type) or not hasattr(cls, "blueprint"):
            msg = f"`dedicated` is for classes derived from `Actor`; got {cls!r}"
            raise TypeError(msg)
        cls.dedicated = cls.blueprint.dedicated = rules
        return cls

    return mark
