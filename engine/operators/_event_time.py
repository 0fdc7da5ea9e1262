"""Times of events: `datetime` where users see them, whole microseconds since 1970 UTC inside.

Used by whatever asks a user's function when a record happened, and shows times to users.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from engine.errors import UserCodeError
from engine.operators._shown import shown

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
UTC_MIN: Final = datetime.min.replace(tzinfo=UTC)
"""The earliest time that a `datetime` can hold."""
UTC_MAX: Final = datetime.max.replace(tzinfo=UTC)
"""The latest time that a `datetime` can hold."""

_MICROSECOND: Final = timedelta(microseconds=1)
MIN_US: Final = (UTC_MIN - EPOCH) // _MICROSECOND
MAX_US: Final = (UTC_MAX - EPOCH) // _MICROSECOND


def event_us(at: Any, getter: Callable[..., Any], name: str) -> int:
    """The time that a user's function gave, in microseconds since 1970 UTC.

    Args:
        at: What it gave.
        getter: The function.
        name: Of the parameter that it was given as.

    Raises:
        UserCodeError: It isn't a `datetime` with a time zone.

    >>> event_us(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), str, "ts_getter")
    1000000
    """
    if not isinstance(at, datetime) or at.tzinfo is None or at.utcoffset() is None:
        msg = f"`{name}` must return a `datetime` with a time zone; got {shown(at)}"
        hint = "for example `datetime.fromtimestamp(seconds, timezone.utc)`"
        raise UserCodeError(msg, function=getter, hint=hint)
    # Quicker than a division of the difference by a microsecond, and exact as that.
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def span_us(span: timedelta) -> int:
    """A length of time in microseconds.

    >>> span_us(timedelta(milliseconds=2))
    2000
    """
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def utc_datetime(at_us: int) -> datetime:
    """The time as users see it; what a `datetime` can't hold becomes the earliest or latest one.

    >>> utc_datetime(1_500_000)
    datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=datetime.timezone.utc)
    >>> utc_datetime(1 << 80) == UTC_MAX
    True
    """
    if at_us >= MAX_US:
        return UTC_MAX
    if at_us <= MIN_US:
        return UTC_MIN
    return EPOCH + timedelta(microseconds=at_us)
