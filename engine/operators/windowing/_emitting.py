"""When a window emits: triggers, and what an emission says about its cause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeAlias, TypeVar

W_co = TypeVar("W_co", covariant=True)

Cause: TypeAlias = Literal["close", "update", "count", "interval", "late"]
"""Why a window emitted: it closed; it took a value, or so many, since it last did; time passed; or
it had closed already and took one more value that came late."""


@dataclass(frozen=True)  # With slots as well a generic one can't be made in Python 3.11.
class Emission(Generic[W_co]):
    """What a window emits where it may do so more than once.

    >>> Emission(3, "close")
    Emission(value=3, cause='close')
    """

    value: W_co
    """The result of the window as it is now."""
    cause: Cause


@dataclass(frozen=True, slots=True)
class OnUpdate:
    """A trigger: emit with every value that a window takes, and once it closes.

    >>> from datetime import datetime, timedelta, timezone
    >>> import engine.operators as op
    >>> import engine.operators.windowing as win
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> clock = win.EventClock(lambda v: start + timedelta(seconds=v), timedelta(0))
    >>> tens = win.TumblingWindower(timedelta(seconds=10), start)
    >>> flow, out = Dataflow("on_update_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 4)]))
    >>> best = win.max_window("max", s, clock, tens, trigger=win.OnUpdate())
    >>> op.output("out", op.map_value("e", best.down, lambda e: e[1]), TestingSink(out))
    >>> run_main(flow)
    >>> [(emission.value, emission.cause) for _, emission in out]
    [(1, 'update'), (4, 'update'), (4, 'close')]
    """


@dataclass(frozen=True, slots=True)
class OnCount:
    """A trigger: emit with every so many values that a window takes, and once it closes.

    Raises:
        ValueError: `count` is less than 1.
        TypeError: It isn't an `int`.
    """

    count: int

    def __post_init__(self) -> None:
        _require(self.count, int, "count")
        if isinstance(self.count, bool) or self.count < 1:
            msg = f"`count` of `OnCount` must be an `int` of at least 1; got {self.count!r}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class OnInterval:
    """A trigger: emit when so much time has passed since a window took its first new value.

    The time is that on the wall. A window that has taken no value since it last emitted doesn't
    emit again until it closes.

    Raises:
        ValueError: `interval` isn't longer than zero.
        TypeError: It isn't a `timedelta`.
    """

    interval: timedelta

    def __post_init__(self) -> None:
        _require(self.interval, timedelta, "interval")
        if self.interval <= timedelta(0):
            msg = f"`interval` of `OnInterval` must be longer than 0; got {self.interval!r}"
            raise ValueError(msg)


Trigger: TypeAlias = OnUpdate | OnCount | OnInterval
"""When a window emits before it closes."""


def _require(value: Any, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        msg = f"`{name}` of a trigger must be a `{kind.__name__}`; got {value!r}"
        raise TypeError(msg)


def check_emitting(step_id: str, trigger: Any, allowed_lateness: Any) -> None:
    """Refuse arguments about when windows emit that make no sense.

    Raises:
        TypeError: One is of the wrong type.
        ValueError: `allowed_lateness` is negative.
    """
    if trigger is not None and not isinstance(trigger, OnUpdate | OnCount | OnInterval):
        kinds = "`OnUpdate()`, `OnCount(...)` or `OnInterval(...)`"
        msg = f"`trigger` of step {step_id!r} must be {kinds}; got {trigger!r}"
        raise TypeError(msg)
    if allowed_lateness is None:
        return
    if not isinstance(allowed_lateness, timedelta):
        msg = f"`allowed_lateness` of step {step_id!r} must be a `timedelta`; "
        raise TypeError(msg + f"got {allowed_lateness!r}")
    if allowed_lateness < timedelta(0):
        msg = f"`allowed_lateness` of step {step_id!r} must be 0 or more; got {allowed_lateness!r}"
        raise ValueError(msg)
