"""`table_join`: each value of a stream with the latest one that another stream has for its key.

A composition of `map_value`, `merge` and `stateful_flat_map`, with a kernel that runs without
labels. Both keep the same state: the row of a key, which is its latest value in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypeVar, get_args, overload

from engine.dataflow import Operator, Stream, operator
from engine.operators._event_time import UTC_MIN
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._picking import picks_of
from engine.operators._shape import merge
from engine.operators._state import KeyedState
from engine.operators._state_options import (
    DEFAULT_STATE,
    TTL,
    StateOptions,
    check_state,
    state_options,
)
from engine.operators._state_ttl import ExpiringState
from engine.operators._stateful import stateful_flat_map
from engine.operators._types import K, V
from engine.operators._values import map_value

R = TypeVar("R")
"""Row of the table."""

TableJoinMode: TypeAlias = Literal["inner", "left"]
"""What `table_join` does with a value whose key has no row."""

_STREAM, _TABLE = 0, 1


def _event_time(ttl: timedelta | TTL[Any] | None) -> TTL[Any] | timedelta | None:
    """The time to live for values and rows; the end of a row has no time of its own."""
    if not isinstance(ttl, TTL) or ttl.event_time is None:
        return ttl
    given = ttl.event_time

    def event_time(value: Any) -> Any:
        return UTC_MIN if value is None else given(value)

    return replace(ttl, event_time=event_time)


def _kernel(step: Operator, _workers: int) -> TableJoinKernel:
    params = {**step.params, "ttl": _event_time(step.params["ttl"])}
    return TableJoinKernel(params["how"] == "left", state_options(params))


@overload
def table_join(
    step_id: str,
    stream: Stream[tuple[K, V]],
    table: Stream[tuple[K, R | None]],
    how: Literal["inner"] = "inner",
    *,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], R] | None = None,
) -> Stream[tuple[K, tuple[V, R]]]: ...
@overload
def table_join(
    step_id: str,
    stream: Stream[tuple[K, V]],
    table: Stream[tuple[K, R | None]],
    how: TableJoinMode,
    *,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], R] | None = None,
) -> Stream[tuple[K, tuple[V, R | None]]]: ...
@operator(kernel=_kernel)
def table_join(  # noqa: PLR0913 - three of them are about state, as everywhere
    step_id: str,
    stream: Stream[tuple[K, V]],
    table: Stream[tuple[K, R | None]],
    how: TableJoinMode = "inner",
    *,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], R] | None = None,
) -> Stream[tuple[K, tuple[V, R | None]]]:
    """Put with each value of a stream the row that a table has for its key at that moment.

    The table is a stream too: each of its values is the new row of its key, and None deletes the
    row. Rows alone emit nothing. Records are routed so that one worker sees all of a key, and what
    is emitted keeps the order of the stream's values within a key. Which of the two inputs comes
    first is not certain: a value may come before a row that was written earlier. The state of a
    key is its row, which stays until it is deleted, or for the `ttl`.

    Args:
        step_id: Name of the step.
        stream: Keyed stream whose values are looked up.
        table: Keyed stream of rows.
        how: What to do with a value whose key has no row. "inner" drops it, "left" emits it with
            None.
        ttl: How long a key may be silent, in stream and table, until its row is dropped, by the
            wall clock or by a `TTL`, whose `event_time` is called with values and rows; for ever
            by default.
        state_version: Version of the form that the rows have.
        migrate: Called with the version of an older stored row and that row; gives it in the
            present form.

    Returns:
        Keyed stream of `(value, row)`.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: There is no such mode, or `ttl` or `state_version` is out of range; raised
            likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("table_join_example"), []
    >>> prices = op.input("prices", flow, TestingSource([("tea", 3), ("tea", 4), ("tea", None)]))
    >>> orders = op.input("orders", flow, TestingSource([("tea", 1), ("tea", 2), ("tea", 5)]))
    >>> s = op.table_join("priced", orders, prices)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('tea', (1, 3)), ('tea', (2, 4))]
    """
    if how not in get_args(TableJoinMode):
        msg = f"`how` of step {step_id!r} must be one of 'inner', 'left'; got {how!r}"
        raise ValueError(msg)
    check_state(step_id, state_version, migrate, ttl)
    ttl = _event_time(ttl)
    if isinstance(ttl, TTL) and ttl.event_time is not None:
        ttl = replace(ttl, event_time=_of_labelled(ttl.event_time))

    def look_up(row: R | None, labelled: tuple[int, Any]) -> tuple[R | None, list[Any]]:
        side, value = labelled
        if side == _TABLE:
            return value, []
        return row, [(value, row)] if row is not None or how == "left" else []

    both = merge(
        "merge",
        map_value("label_stream", stream, lambda value: (_STREAM, value)),
        map_value("label_table", table, lambda row: (_TABLE, row)),
    )
    return stateful_flat_map(
        "stateful_flat_map", both, look_up, ttl=ttl, state_version=state_version, migrate=migrate
    )


def _of_labelled(event_time: Callable[[Any], Any]) -> Callable[[tuple[int, Any]], Any]:
    return lambda labelled: event_time(labelled[1])


@dataclass(frozen=True, slots=True)
class TableJoinKernel(KeyedKernel):
    """The kernel of `table_join`."""

    left: bool
    """Whether values without a row are emitted."""
    state_options: StateOptions = DEFAULT_STATE

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        state = step.state
        logic: KeyedLogic
        if isinstance(state, ExpiringState):
            logic = _ExpiringTable(state, left=self.left)
        else:
            logic = _Table(state, left=self.left)
        logic.picks = picks_of(state, step.failures, sides=2)
        return logic


class _Table(KeyedLogic):
    """The rows of a table, by key."""

    def __init__(self, state: KeyedState, *, left: bool) -> None:
        self._state = state
        self._left = left

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        if port == _TABLE:
            self._write(batch)
            return []
        # A key that is only read doesn't count as touched while it is in memory: nothing of it
        # has to be saved.
        get, get_other = self._state.touched.get, self._state.rest.get
        load, left = self._state.get, self._left
        emitted: list[Any] = []
        emit = emitted.append
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            row = get(its_key)
            if row is None and (row := get_other(its_key)) is None:
                row = load(its_key)
            if row is not None or left:
                emit((its_key, (new, row)))
        return emitted

    def _write(self, batch: list[Any]) -> None:
        touched, take = self._state.touched, self._state.rest.pop
        miss, discard = self._state.miss, self._state.discard
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            if new is None:
                discard(its_key)
            else:
                if its_key not in touched and take(its_key, None) is None:
                    miss(its_key)
                touched[its_key] = new


class _ExpiringTable(KeyedLogic):
    """As `_Table`, with a time to live: whatever comes for a key keeps its row alive."""

    def __init__(self, state: ExpiringState, *, left: bool) -> None:
        self._state = state
        self._left = left

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        state, time_us, left = self._state, self._state.arrival_us(), self._left
        emitted: list[Any] = []
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            row = state.arrive(its_key, time_us(new))
            if port == _TABLE:
                row = new
            elif row is not None or left:
                emitted.append((its_key, (new, row)))
            if row is None:
                state.discard(its_key)
            else:
                state.put(its_key, row)
        return emitted
