"""`join`: the values that several keyed streams have for one key, put together in a tuple.

A composition of `map_value`, `merge` and `stateful`, with a kernel (`_join_kernel`) that runs
without labels and objects. Both keep the same state, `Seen`, by the functions in `_join_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

from engine.dataflow import Operator, Stream, operator
from engine.operators._join_kernel import JoinKernel
from engine.operators._join_state import (
    INSERTS,
    JoinEmitMode,
    JoinInsertMode,
    Seen,
    check_mode,
    labeller,
    migrate_seen,
    rows,
)
from engine.operators._shape import merge
from engine.operators._state_options import TTL, check_state, state_options
from engine.operators._stateful import StatefulLogic, stateful
from engine.operators._types import K
from engine.operators._values import map_value

V1 = TypeVar("V1")
V2 = TypeVar("V2")
V3 = TypeVar("V3")
V4 = TypeVar("V4")
V5 = TypeVar("V5")


def _kernel(step: Operator, _workers: int) -> JoinKernel:
    sides = len(step.ups["sides"].stream_ids)
    params = step.params
    options = state_options(params)
    options = replace(options, migrate=migrate_seen(options.migrate, sides))
    return JoinKernel(sides, params["insert_mode"], params["emit_mode"], options)


@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"] = "complete",
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"] = "complete",
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1, V2]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    side3: Stream[tuple[K, V3]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"] = "complete",
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1, V2, V3]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    side3: Stream[tuple[K, V3]],
    side4: Stream[tuple[K, V4]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"] = "complete",
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1, V2, V3, V4]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    side3: Stream[tuple[K, V3]],
    side4: Stream[tuple[K, V4]],
    side5: Stream[tuple[K, V5]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: Literal["complete"] = "complete",
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1, V2, V3, V4, V5]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1 | None]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1 | None, V2 | None]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    side3: Stream[tuple[K, V3]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1 | None, V2 | None, V3 | None]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    side3: Stream[tuple[K, V3]],
    side4: Stream[tuple[K, V4]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1 | None, V2 | None, V3 | None, V4 | None]]]: ...
@overload
def join(
    step_id: str,
    side1: Stream[tuple[K, V1]],
    side2: Stream[tuple[K, V2]],
    side3: Stream[tuple[K, V3]],
    side4: Stream[tuple[K, V4]],
    side5: Stream[tuple[K, V5]],
    /,
    *,
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode,
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[V1 | None, V2 | None, V3 | None, V4 | None, V5 | None]]]: ...
@overload
def join(
    step_id: str,
    *sides: Stream[tuple[K, Any]],
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "complete",
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[K, tuple[Any, ...]]]: ...
@operator(kernel=_kernel)
def join(
    step_id: str,
    *sides: Stream[tuple[Any, Any]],
    insert_mode: JoinInsertMode = "last",
    emit_mode: JoinEmitMode = "complete",
    ttl: timedelta | TTL[Any] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], Any] | None = None,
) -> Stream[tuple[Any, tuple[Any, ...]]]:
    """Put the values that several streams have for one key together in a tuple.

    Records are routed so that one worker sees all values of a key. The values of one side come in
    their order; which of two sides comes first is not certain, and with it what "running" shows
    and what "last" overwrites. Emitted rows keep the order of the values that made them, within a
    key. The state of a key is the values that wait: with "complete", keys that never get all
    sides stay for ever, and with "running" all keys do; a `ttl` is for these.

    Args:
        step_id: Name of the step.
        *sides: Keyed streams, at least one.
        insert_mode: What to do with a second value of a side for the same key. "first" keeps the
            first, "last" keeps the latest, "product" keeps all and makes a row of each combination.
        emit_mode: When to emit. "complete": once every side has a value; the key then begins anew.
            "running": after every value, with None for what is missing. "final": once, at the end
            of input, with None for what is missing.
        ttl: How long a key may be silent, on all sides, until its values are dropped, by the wall
            clock or by a `TTL`, whose `event_time` is called with values of all sides; for ever by
            default. Nothing is emitted of them then.
        state_version: Version of the form that the values have which wait.
        migrate: Called with the version of an older stored state and a list with, for each side,
            the list of its values that wait; gives such a list of values in the present form.

    Returns:
        Keyed stream of tuples with a value per side, in the order of the sides.

    Raises:
        TypeError: No stream was given, or `ttl`, `state_version` or `migrate` is of a wrong type;
            raised while the flow is built.
        ValueError: There is no such mode, or `ttl` or `state_version` is out of range; raised
            likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("join_example"), []
    >>> names = op.input("names", flow, TestingSource([("u1", "ann"), ("u2", "bob")]))
    >>> cities = op.input("cities", flow, TestingSource([("u2", "Bath"), ("u1", "York")]))
    >>> s = op.join("join", names, cities)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('u2', ('bob', 'Bath')), ('u1', ('ann', 'York'))]
    """
    check_mode(step_id, "insert_mode", insert_mode, JoinInsertMode)
    check_mode(step_id, "emit_mode", emit_mode, JoinEmitMode)
    check_state(step_id, state_version, migrate, ttl)
    count = len(sides)

    def build(resume: Seen | None) -> _Join:
        return _Join(insert_mode, emit_mode, resume or [()] * count)

    labelled = [map_value(f"label_{i}", side, labeller(i)) for i, side in enumerate(sides)]
    if isinstance(ttl, TTL) and ttl.event_time is not None:
        ttl = replace(ttl, event_time=_of_labelled(ttl.event_time))
    return stateful(
        "stateful",
        merge("merge", *labelled),
        build,
        ttl=ttl,
        state_version=state_version,
        migrate=migrate_seen(migrate, count),
    )


def _of_labelled(event_time: Callable[[Any], Any]) -> Callable[[tuple[int, Any]], Any]:
    return lambda labelled: event_time(labelled[1])


class _Join(StatefulLogic[tuple[int, Any], tuple[Any, ...], Seen]):
    """The values of one key that wait for others."""

    __slots__ = ("_emit_mode", "_insert", "_seen")

    def __init__(self, insert_mode: JoinInsertMode, emit_mode: JoinEmitMode, seen: Seen) -> None:
        self._insert = INSERTS[insert_mode]
        self._emit_mode = emit_mode
        self._seen = seen

    def on_item(self, value: tuple[int, Any]) -> tuple[Sequence[tuple[Any, ...]], bool]:
        seen = self._seen
        self._insert(seen, *value)
        if self._emit_mode == "running":
            return rows(seen), self.RETAIN
        if self._emit_mode == "complete" and all(seen):
            return rows(seen), self.DISCARD
        return (), self.RETAIN

    def on_eof(self) -> tuple[Sequence[tuple[Any, ...]], bool]:
        if self._emit_mode == "final":
            return rows(self._seen), self.DISCARD
        return (), self.RETAIN

    def snapshot(self) -> Seen:
        return [list(values) for values in self._seen]
