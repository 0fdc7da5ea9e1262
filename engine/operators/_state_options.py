"""What a user may say about the state of a step: how long it lives, and which version it is.

Keyed operators take these as keyword arguments (`check_state` looks at them while the flow is
built) and hand them to their kernels as `StateOptions`. The runtime reads them there: how long
states live when it builds the step, versions when it opens a store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from engine._stamps import stamped, unstamped
from engine.operators._checks import require_function

V_contra = TypeVar("V_contra", contravariant=True)

VERSION_MAX = 65_535
"""A row of the store has two bytes for it."""


@dataclass(frozen=True)  # With slots as well `TTL[X](...)` would raise.
class TTL(Generic[V_contra]):
    """How long a key may be silent before its state is dropped: time to live.

    A record that comes `after` the last one of its key or later finds no state, as if it were the
    first. So a key's state lives as long as its records come closer together than that. What no
    record comes for is deleted at the end of an epoch.

    Args:
        after: How long.
        event_time: Called with a record's value; gives the time that it happened, a `datetime`
            with a time zone, and ages count in that time. None: they count by the wall clock.
        lateness: By how much records may come behind the latest time that the step has seen, and
            still find the state of their key: it is deleted that much later. Only with
            `event_time`; as long as `after` by default.

    >>> from datetime import datetime, timedelta
    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> def at(clock):
    ...     return datetime.fromisoformat(f"2024-01-01T{clock}+00:00")
    >>> flow, out = Dataflow("ttl_example"), []
    >>> logins = [("ann", "10:00"), ("ann", "10:50"), ("ann", "12:30")]
    >>> s = op.input("in", flow, TestingSource(logins))
    >>> def count(n, clock):
    ...     return (n or 0) + 1, (n or 0) + 1
    >>> s = op.stateful_map("count", s, count, ttl=op.TTL(timedelta(hours=1), event_time=at))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('ann', 1), ('ann', 2), ('ann', 1)]
    """

    after: timedelta
    event_time: Callable[[V_contra], Any] | None = None
    lateness: timedelta | None = None


@dataclass(frozen=True, slots=True)
class StateOptions:
    """How the states of a step are kept."""

    version: int = 1
    """Of the form that the step's states have in the flow as it is now."""
    migrate: Callable[[int, Any], Any] | None = None
    """The user's: given the version of a state and that state, makes one of the version above."""
    ttl: TTL[Any] | None = None
    """How long they live; None for ever."""

    def migrated(self, version: int, stored: Any) -> Any:
        """Bring what is stored of an older version to the present one; None if `migrate` gave None.

        The user's function sees the state alone: a time stamp that was stored with it stays.
        """
        assert self.migrate is not None  # noqa: S101
        state, stamp_us = unstamped(stored)
        state = self.migrate(version, state)
        return state if state is None or stamp_us is None else stamped(state, stamp_us)


DEFAULT_STATE = StateOptions()


def state_options(params: Mapping[str, Any]) -> StateOptions:
    """What the parameters of a keyed step say about its state."""
    ttl = params.get("ttl")
    if isinstance(ttl, timedelta):
        ttl = TTL[Any](ttl)
    return StateOptions(params["state_version"], params["migrate"], ttl)


def by_event_time(ttl: timedelta | TTL[Any] | None) -> bool:
    """Whether ages count by times that records carry."""
    return isinstance(ttl, TTL) and ttl.event_time is not None


def check_state(step_id: str, state_version: Any, migrate: Any, ttl: Any = None) -> None:
    """Refuse arguments about the state of a step that make no sense.

    Raises:
        TypeError: One is of the wrong type.
        ValueError: One is out of range.
    """
    if not isinstance(state_version, int) or isinstance(state_version, bool):
        msg = f"`state_version` of step {step_id!r} must be an `int`; got {state_version!r}"
        raise TypeError(msg)
    if not 1 <= state_version <= VERSION_MAX:
        msg = (
            f"`state_version` of step {step_id!r} must be between 1 and {VERSION_MAX}; "
            f"got {state_version!r}"
        )
        raise ValueError(msg)
    if migrate is not None:
        require_function(step_id, "migrate", migrate)
    if ttl is not None:
        check_ttl(step_id, ttl)


def check_ttl(step_id: str, ttl: Any) -> None:
    """Refuse a time to live that makes no sense, or none where there must be one.

    Raises:
        TypeError: It is of the wrong type.
        ValueError: It is out of range.
    """
    if not isinstance(ttl, TTL):
        _check_span(step_id, "ttl", ttl, "a `timedelta` or an `op.TTL`")
        return
    ttl = cast("TTL[Any]", ttl)
    _check_span(step_id, "ttl.after", ttl.after, "a `timedelta`")
    if ttl.event_time is not None:
        require_function(step_id, "ttl.event_time", ttl.event_time)
    if ttl.lateness is None:
        return
    if ttl.event_time is None:
        msg = f"`ttl.lateness` of step {step_id!r} is for event time; give `event_time` too"
        raise ValueError(msg)
    _check_span(step_id, "ttl.lateness", ttl.lateness, "a `timedelta`", zero=True)


def _check_span(step_id: str, name: str, span: Any, wanted: str, *, zero: bool = False) -> None:
    if not isinstance(span, timedelta):
        msg = f"`{name}` of step {step_id!r} must be {wanted}; got {span!r}"
        raise TypeError(msg)
    if span < timedelta(0) or (span == timedelta(0) and not zero):
        msg = f"`{name}` of step {step_id!r} must be {'0 or more' if zero else 'more than 0'}; "
        raise ValueError(msg + f"got {span!r}")
