"""The one place where connectors and operators read the wall clock, so that it can be set.

`engine.testing.sim` sets it to simulated time. What runs on a worker by itself reads the worker's
clock port instead.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

__all__ = ["clock_set_to", "utc_now"]

_now: ContextVar[Callable[[], datetime] | None] = ContextVar("engine_now", default=None)


def utc_now() -> datetime:
    """The time now, in UTC, or what `clock_set_to` put in its place.

    >>> utc_now().tzinfo
    datetime.timezone.utc
    """
    now = _now.get()
    return datetime.now(UTC) if now is None else now()


@contextmanager
def clock_set_to(now: Callable[[], datetime]) -> Generator[None]:
    """Let `utc_now` give what `now` gives, within this context.

    >>> with clock_set_to(lambda: datetime(2024, 1, 1, tzinfo=UTC)):
    ...     utc_now().year
    2024
    """
    token = _now.set(now)
    try:
        yield
    finally:
        _now.reset(token)
