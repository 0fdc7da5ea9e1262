"""`collect`: the values of a key gathered into lists, by number and by a pause in arrival."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from engine.clock import utc_now
from engine.dataflow import Stream, operator
from engine.errors import UserCodeError
from engine.operators._shown import shown
from engine.operators._state_options import check_state
from engine.operators._stateful_batch import StatefulBatchLogic, stateful_batch
from engine.operators._stateful_batch_kernel import BuilderOfRun
from engine.operators._stateful_going_on import KeyFailures
from engine.operators._types import K, V


@operator
def collect(
    step_id: str,
    up: Stream[tuple[K, V]],
    timeout: timedelta,
    max_size: int,
    *,
    state_version: int = 1,
    migrate: Callable[[int, Any], list[V]] | None = None,
) -> Stream[tuple[K, list[V]]]:
    """Gather the values of each key into lists.

    A list is emitted once it has `max_size` values, once no value of its key has come for
    `timeout`, and at the end of input. Each new value starts the timeout again, so a list can grow
    old as long as values keep coming. Records are routed so that one worker sees all values of a
    key; a list keeps their arrival order. The state of a key is its list so far; the timeout is its
    time to live.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        timeout: How long to wait for a next value, by the wall clock.
        max_size: How many values make a list complete.
        state_version: Version of the form that the values have.
        migrate: Called with the version of an older stored list and that list; gives the list of
            its values in the present form.

    Returns:
        Keyed stream of lists of at least one and at most `max_size` values.

    Raises:
        TypeError: `timeout` isn't a `timedelta`, `max_size` or `state_version` not an `int`, or
            `migrate` no function; raised while the flow is built.
        ValueError: `timeout` is negative, `max_size` is below 1, or `state_version` out of range;
            raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> from datetime import timedelta
    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("collect_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("b", 2), ("a", 3), ("a", 4)]))
    >>> s = op.collect("pairs", s, timeout=timedelta(seconds=10), max_size=2)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', [1, 3]), ('a', [4]), ('b', [2])]
    """
    _check_limits(step_id, timeout, max_size)
    check_state(step_id, state_version, migrate)

    return stateful_batch(
        "stateful_batch",
        up,
        _Builder(timeout, max_size),
        state_version=state_version,
        migrate=_migrate_values(migrate),
    )


@dataclass(frozen=True, slots=True)
class _Builder(BuilderOfRun):
    """Makes the lists of keys, which never raise for a value."""

    timeout: timedelta
    max_size: int

    def for_run(self, failures: KeyFailures | None) -> Callable[[Any], _Collect]:  # noqa: ARG002 - see above
        return functools.partial(_Collect, self.timeout, self.max_size)


def _migrate_values(
    migrate: Callable[[int, Any], list[Any]] | None,
) -> Callable[[int, _CollectState], _CollectState] | None:
    """What brings a stored list to the present version; the user's function sees the values."""
    if migrate is None:
        return None

    @functools.wraps(migrate)
    def migrated(version: int, stored: _CollectState) -> _CollectState:
        values: Any = migrate(version, list(stored.values))
        if not isinstance(values, list):
            msg = f"`migrate` of `collect` must return a list of values; got {shown(values)}"
            raise UserCodeError(msg, function=migrate, hint="migrate each value of the list")
        return _CollectState(stored.due, cast("list[Any]", values))

    return migrated


def _check_limits(step_id: str, timeout: Any, max_size: Any) -> None:
    if not isinstance(timeout, timedelta):
        msg = f"`timeout` of step {step_id!r} must be a `timedelta`; got {timeout!r}"
        raise TypeError(msg)
    if not isinstance(max_size, int):
        msg = f"`max_size` of step {step_id!r} must be an `int`; got {max_size!r}"
        raise TypeError(msg)
    if timeout < timedelta(0):
        msg = f"`timeout` of step {step_id!r} must not be negative; got {timeout!r}"
        raise ValueError(msg)
    if max_size < 1:
        msg = f"`max_size` of step {step_id!r} must be at least 1; got {max_size!r}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class _CollectState:
    """What is saved of a key: when its list is due, if ever, and the list."""

    due: datetime | None
    values: list[Any]


class _Collect(StatefulBatchLogic[Any, list[Any], _CollectState]):
    """The list of one key."""

    __slots__ = ("_due", "_max_size", "_timeout", "_values")

    def __init__(self, timeout: timedelta, max_size: int, resume: _CollectState | None) -> None:
        self._timeout, self._max_size = timeout, max_size
        self._values: list[Any] = [] if resume is None else list(resume.values)
        self._due = None if resume is None else resume.due

    def on_batch(self, values: list[Any]) -> tuple[Sequence[list[Any]], bool]:
        held, size = self._values, self._max_size
        held.extend(values)
        whole = len(held) - len(held) % size
        full = [held[start : start + size] for start in range(0, whole, size)]
        if full:
            held = self._values = held[whole:]
        try:
            self._due = utc_now() + self._timeout
        except OverflowError:  # the timeout lies beyond the end of time: there is none
            self._due = None
        return full, not held

    def on_notify(self) -> tuple[Sequence[list[Any]], bool]:
        return [self._values], self.DISCARD

    def on_eof(self) -> tuple[Sequence[list[Any]], bool]:
        return [self._values], self.DISCARD

    def notify_at(self) -> datetime | None:
        return self._due

    def snapshot(self) -> _CollectState:
        return _CollectState(self._due, list(self._values))
