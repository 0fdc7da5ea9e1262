"""`timeout`: says which keys have fallen silent, each with its last value.

A composition of `stateful_batch`, with a kernel that has no object per key, and sets a timer only
where there is none: one that has come, of a key that has had values since, is set anew then. Both
keep the same state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from engine.clock import utc_now
from engine.dataflow import Operator, Stream, operator
from engine.operators._event_time import EPOCH, span_us, utc_datetime
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._picking import picks_of
from engine.operators._state import StateForm
from engine.operators._state_options import DEFAULT_STATE, StateOptions, check_state
from engine.operators._stateful_batch import StatefulBatchLogic, stateful_batch
from engine.operators._timers import Timers
from engine.operators._types import K, V

_AFTER_MAX = timedelta(days=366_000)
"""Longer is for ever, and times must stay such as a `datetime` can hold."""

_Last: TypeAlias = tuple[int, Any]
"""The state of a key: when its last value came, in microseconds since 1970 UTC, and the value."""


def _kernel(step: Operator, _workers: int) -> TimeoutKernel:
    params = step.params
    options = StateOptions(params["state_version"], _migrate_value(params["migrate"]))
    return TimeoutKernel(span_us(min(params["after"], _AFTER_MAX)), options)


@operator(kernel=_kernel)
def timeout(
    step_id: str,
    up: Stream[tuple[K, V]],
    after: timedelta,
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> Stream[tuple[K, V]]:
    """Emit the last value of each key that has been silent for a while.

    Once no value of a key has come for `after`, its last one is emitted, one time per silence.
    The values themselves go on from `up`, which other steps may read as well. Records are routed so
    that one worker sees all values of a key. The state of a key is its last value and when that
    came, until the key has fallen silent. A job that is down hears nothing: time goes on, and keys
    that are overdue when it is back are emitted then. At the end of input nothing is emitted.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        after: How long a key must be silent, by the wall clock.
        state_version: Version of the form that the values have.
        migrate: Called with the version of an older stored value and that value; gives it in the
            present form.

    Returns:
        Keyed stream of the last value before each silence.

    Raises:
        TypeError: `after` isn't a `timedelta`, `state_version` not an `int`, or `migrate` no
            function; raised while the flow is built.
        ValueError: `after` isn't more than 0, or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> from datetime import timedelta
    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> pause = TestingSource.PAUSE(timedelta(seconds=0.1))
    >>> flow, out = Dataflow("timeout_example"), []
    >>> s = op.input("in", flow, TestingSource([("door", "open"), pause, ("lift", "up")]))
    >>> s = op.timeout("silent", s, after=timedelta(seconds=0.01))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('door', 'open')]
    """
    if not isinstance(after, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"`after` of step {step_id!r} must be a `timedelta`; got {after!r}"
        raise TypeError(msg)
    if after <= timedelta(0):
        msg = f"`after` of step {step_id!r} must be more than 0; got {after!r}"
        raise ValueError(msg)
    check_state(step_id, state_version, migrate)
    longest = min(after, _AFTER_MAX)

    def build(resume: _Last | None) -> _Silence:
        return _Silence(longest, resume)

    return stateful_batch(
        "stateful_batch",
        up,
        build,
        state_version=state_version,
        migrate=_migrate_value(migrate),
    )


def _migrate_value(
    migrate: Callable[[int, Any], Any] | None,
) -> Callable[[int, _Last], _Last] | None:
    """What brings a stored state to the present version; the user's function sees the value."""
    if migrate is None:
        return None

    @functools.wraps(migrate)
    def migrated(version: int, stored: _Last) -> _Last:
        return stored[0], migrate(version, stored[1])

    return migrated


class _Silence(StatefulBatchLogic[Any, Any, _Last]):
    """The last value of one key."""

    __slots__ = ("_after", "_last")

    def __init__(self, after: timedelta, resume: _Last | None) -> None:
        self._after = after
        self._last = resume

    def on_batch(self, values: list[Any]) -> tuple[Sequence[Any], bool]:
        last, now_us = self._last, span_us(utc_now() - EPOCH)
        self._last = now_us, values[-1]
        if last is None or now_us - last[0] < span_us(self._after):
            return (), self.RETAIN
        return [last[1]], self.RETAIN

    def on_notify(self) -> tuple[Sequence[Any], bool]:
        return [self.snapshot()[1]], self.DISCARD

    def notify_at(self) -> datetime:
        return utc_datetime(self.snapshot()[0]) + self._after

    def snapshot(self) -> _Last:
        assert self._last is not None  # noqa: S101 - nobody asks before there was a value
        return self._last


@dataclass(frozen=True, slots=True)
class TimeoutKernel(KeyedKernel):
    """The kernel of `timeout`."""

    after_us: int
    state_options: StateOptions = DEFAULT_STATE

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        return _Silences(step, self.after_us)


class _Silences(KeyedLogic):
    """The last values of all keys. Each that is in memory has a timer, early or in time."""

    def __init__(self, step: StepContext, after_us: int) -> None:
        self._now_s = step.now_s
        self._after_us = after_us
        self.picks = picks_of(step.state, step.failures)
        self._state = step.state
        self._timers: Timers = Timers()
        self._state.form = _LastForm(self._timers, after_us)

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        now_us = round(self._now_s() * 1e6)
        over_us = now_us - self._after_us
        touched, look_up = self._state.touched, self._state.get
        get = touched.get
        emitted: list[Any] = []
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            last = get(its_key)
            if last is None and (last := look_up(its_key)) is None:
                self._timers.set(its_key, (now_us + self._after_us) / 1e6)
            elif last[0] <= over_us:
                # Its timer is late.
                emitted.append((its_key, last[1]))
            touched[its_key] = (now_us, new)
        return emitted

    def next_due_s(self) -> float | None:
        return self._timers.first_s()

    def on_notify(self) -> list[Any]:
        state, after_us, now_s = self._state, self._after_us, self._now_s()
        emitted: list[Any] = []
        for _due_s, key in self._timers.pop_due(now_s):
            last = state.get(key)
            if last is None:
                continue
            due_s = (last[0] + after_us) / 1e6
            if due_s > now_s:
                self._timers.set(key, due_s)
            else:
                emitted.append((key, last[1]))
                state.discard(key)
                self._timers.set(key, None)
        return emitted


class _LastForm(StateForm):
    """A key's state is stored as it is; its timer is set anew when it is read."""

    def __init__(self, timers: Timers, after_us: int) -> None:
        self.timers: Timers | None = timers
        self._after_us = after_us

    def from_stored(self, key: Any, stored: Any) -> Any:
        assert self.timers is not None  # noqa: S101
        self.timers.set(key, (stored[0] + self._after_us) / 1e6)
        return stored
