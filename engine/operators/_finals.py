"""Operators that emit one value per key at the end of input: `fold_final`, `count_final`, ...

They need an input that ends. `fold_final` is a composition of `stateful`; the others come down to
it. With several workers `reduce_final` and those made of it combine what they can on each worker
before the exchange.
"""

from __future__ import annotations

import copy
import functools
import operator as arithmetic
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast, overload

from engine.dataflow import Operator, Stream, operator
from engine.operators import _mapping
from engine.operators._checks import require_function
from engine.operators._keying import key_on
from engine.operators._keys import check_key, key_and_value
from engine.operators._state_options import TTL, by_event_time, check_state, state_options
from engine.operators._stateful import StatefulLogic, stateful
from engine.operators._stateful_kernels import (
    CountFinalKernel,
    FoldFinalKernel,
    ReduceFinalKernel,
)
from engine.operators._types import K, S, V, X
from engine.operators._values import map_value


class _Comparable(Protocol):
    """What can be put in order."""

    def __lt__(self, other: Any, /) -> bool: ...


C = TypeVar("C", bound=_Comparable)


def _fold_final_kernel(step: Operator, _workers: int) -> FoldFinalKernel:
    params = step.params
    return FoldFinalKernel(params["builder"], params["folder"], state_options(params))


@operator(kernel=_fold_final_kernel)
def fold_final(  # noqa: PLR0913 - keyword arguments about state are the same for all operators
    step_id: str,
    up: Stream[tuple[K, V]],
    builder: Callable[[], S],
    folder: Callable[[S, V], S],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> Stream[tuple[K, S]]:
    """Fold all values of a key into one, which is emitted at the end of input.

    Records are routed so that one worker sees all values of a key, in arrival order. The results
    come in key order on each worker. The state of a key is its fold so far, forgotten once
    emitted. A key whose `ttl` is over is not emitted.

    Args:
        step_id: Name of the step.
        up: Keyed stream, of an input that ends.
        builder: Called without arguments at a key's first value; gives what to begin with.
        folder: Called with the fold so far and each value; gives the new fold. It may change and
            return the same object. If it gives None, the builder is called again for the next.
        ttl: How long a key may be silent until its state is dropped, by the wall clock or by a
            `TTL`; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of one value per key.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("fold_final_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("b", 5), ("a", 2)]))
    >>> s = op.fold_final("list", s, list, lambda kept, value: [*kept, value])
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', [1, 2]), ('b', [5])]
    """
    require_function(step_id, "builder", builder)
    require_function(step_id, "folder", folder)
    check_state(step_id, state_version, migrate, ttl)

    def build(resume: S | None) -> _Fold[V, S]:
        return _Fold(builder, folder, resume)

    return stateful("stateful", up, build, ttl=ttl, state_version=state_version, migrate=migrate)


class _Fold(StatefulLogic[V, S, S]):
    """The fold of one key."""

    __slots__ = ("_builder", "_folder", "_state")

    def __init__(
        self, builder: Callable[[], S], folder: Callable[[S, V], S], resume: S | None
    ) -> None:
        self._builder = builder
        self._folder = folder
        self._state = resume

    def on_item(self, value: V) -> tuple[Sequence[S], bool]:
        state = self._builder() if self._state is None else self._state
        self._state = self._folder(state, value)
        return (), self.RETAIN

    def on_eof(self) -> tuple[Sequence[S], bool]:
        return [cast("S", self._state)], self.DISCARD

    def snapshot(self) -> S:
        # The user's folder may change the state in place when the next value comes.
        return cast("S", copy.deepcopy(self._state))


def _reduce_final_kernel(step: Operator, workers: int) -> ReduceFinalKernel | None:
    params = step.params
    if workers > 1 and not by_event_time(params["ttl"]):
        return None
    return ReduceFinalKernel(params["reducer"], state_options(params))


@operator(kernel=_reduce_final_kernel)
def reduce_final(
    step_id: str,
    up: Stream[tuple[K, V]],
    reducer: Callable[[V, V], V],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> Stream[tuple[K, V]]:
    """Reduce all values of a key to one, which is emitted at the end of input.

    With several workers, the values of each batch are combined before they are sent to the worker
    that owns the key, unless there is a `ttl` by event time. So the reducer must be associative: it
    doesn't matter how the values are grouped. Their order is kept. The results come in key order on
    each worker. The state of a key is its value so far, forgotten once emitted. A key whose `ttl`
    is over is not emitted.

    Args:
        step_id: Name of the step.
        up: Keyed stream, of an input that ends.
        reducer: Called with the value so far and the next one; gives the new value. A first value
            is taken as it is. None counts as no value yet.
        ttl: How long a key may be silent until its state is dropped, by the wall clock or by a
            `TTL`; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of one value per key.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("reduce_final_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 2), ("b", 5), ("a", 3)]))
    >>> s = op.reduce_final("product", s, lambda x, y: x * y)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 6), ('b', 5)]
    """
    require_function(step_id, "reducer", reducer)
    check_state(step_id, state_version, migrate, ttl)

    def combine(so_far: V | None, value: V) -> V:
        return value if so_far is None else reducer(so_far, value)

    def combine_batch(batch: list[tuple[K, V]]) -> list[tuple[K, V]]:
        combined: dict[K, V] = {}
        for record in batch:
            key, value = key_and_value(record)
            check_key(key)
            combined[key] = combine(combined.get(key), value)
        return list(combined.items())

    if not by_event_time(ttl):
        # Values of different times may not be combined before it is known what lies between them.
        up = _mapping.flat_map_batch("combine_batch", up, combine_batch)
    folded = fold_final(
        "fold_final",
        up,
        _nothing,
        combine,
        ttl=ttl,
        state_version=state_version,
        migrate=migrate,
    )
    return cast("Stream[tuple[K, V]]", folded)


def _nothing() -> None:
    """What a reduction begins with."""


def _count_final_kernel(step: Operator, workers: int) -> CountFinalKernel | None:
    if workers > 1:
        return None
    return CountFinalKernel(step.params["key"], state_options(step.params))


@operator(kernel=_count_final_kernel)
def count_final(
    step_id: str,
    up: Stream[X],
    key: Callable[[X], K],
    *,
    ttl: timedelta | TTL[X] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], int] | None = None,
) -> Stream[tuple[K, int]]:
    """Count the records of each key; the counts are emitted at the end of input.

    The results come in key order on each worker. The state of a key is its count so far, forgotten
    once emitted. A key whose `ttl` is over is not emitted.

    Args:
        step_id: Name of the step.
        up: Stream, of an input that ends.
        key: Called with each record; gives the key that it counts for.
        ttl: How long a key may be silent until its state is dropped, by the wall clock or by a
            `TTL`, whose `event_time` is called with the record; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of one count per key.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
        UserCodeError: The key is of a type that isn't allowed.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("count_final_example"), []
    >>> s = op.input("in", flow, TestingSource(["to", "be", "or", "not", "to", "be"]))
    >>> s = op.count_final("count", s, lambda word: word)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('be', 2), ('not', 1), ('or', 1), ('to', 2)]
    """
    require_function(step_id, "key", key)
    check_state(step_id, state_version, migrate, ttl)
    keyed = key_on("key_on", up, key)
    if isinstance(ttl, TTL) and ttl.event_time is not None:
        # The times are in the records, so these are what is counted.
        return fold_final(
            "sum",
            keyed,
            int,
            _one_more,
            ttl=ttl,
            state_version=state_version,
            migrate=migrate,
        )
    after = ttl.after if isinstance(ttl, TTL) else ttl
    ones = map_value("one", keyed, _one)
    return reduce_final(
        "sum", ones, arithmetic.add, ttl=after, state_version=state_version, migrate=migrate
    )


def _one(_record: object) -> int:
    return 1


def _one_more(count: int, _record: object) -> int:
    return count + 1


def _identity(value: Any) -> Any:
    return value


@overload
def max_final(
    step_id: str,
    up: Stream[tuple[K, C]],
    *,
    ttl: timedelta | TTL[C] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], C] | None = None,
) -> Stream[tuple[K, C]]: ...
@overload
def max_final(
    step_id: str,
    up: Stream[tuple[K, V]],
    by: Callable[[V], _Comparable],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> Stream[tuple[K, V]]: ...
@operator
def max_final(
    step_id: str,
    up: Stream[tuple[K, V]],
    by: Callable[[V], Any] = _identity,
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> Stream[tuple[K, V]]:
    """Find the largest value of each key, which is emitted at the end of input.

    Among equals the first to arrive is kept. The results come in key order on each worker. The
    state of a key is its largest value so far, forgotten once emitted. A key whose `ttl` is over is
    not emitted.

    Args:
        step_id: Name of the step.
        up: Keyed stream, of an input that ends.
        by: Called with a value; gives what to compare. The value itself by default.
        ttl: How long a key may be silent until its state is dropped, by the wall clock or by a
            `TTL`; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of one value per key.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("max_final_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", "pear"), ("a", "banana"), ("b", "fig")]))
    >>> s = op.max_final("longest", s, len)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 'banana'), ('b', 'fig')]
    """
    require_function(step_id, "by", by)
    check_state(step_id, state_version, migrate, ttl)
    larger = functools.partial(max, key=by)
    return reduce_final(
        "reduce_final", up, larger, ttl=ttl, state_version=state_version, migrate=migrate
    )


@overload
def min_final(
    step_id: str,
    up: Stream[tuple[K, C]],
    *,
    ttl: timedelta | TTL[C] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], C] | None = None,
) -> Stream[tuple[K, C]]: ...
@overload
def min_final(
    step_id: str,
    up: Stream[tuple[K, V]],
    by: Callable[[V], _Comparable],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> Stream[tuple[K, V]]: ...
@operator
def min_final(
    step_id: str,
    up: Stream[tuple[K, V]],
    by: Callable[[V], Any] = _identity,
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], V] | None = None,
) -> Stream[tuple[K, V]]:
    """Find the smallest value of each key, which is emitted at the end of input.

    Among equals the first to arrive is kept. The results come in key order on each worker. The
    state of a key is its smallest value so far, forgotten once emitted. A key whose `ttl` is over
    is not emitted.

    Args:
        step_id: Name of the step.
        up: Keyed stream, of an input that ends.
        by: Called with a value; gives what to compare. The value itself by default.
        ttl: How long a key may be silent until its state is dropped, by the wall clock or by a
            `TTL`; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of one value per key.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("min_final_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 3), ("a", 2), ("b", 5)]))
    >>> s = op.min_final("least", s)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 2), ('b', 5)]
    """
    require_function(step_id, "by", by)
    check_state(step_id, state_version, migrate, ttl)
    smaller = functools.partial(min, key=by)
    return reduce_final(
        "reduce_final", up, smaller, ttl=ttl, state_version=state_version, migrate=migrate
    )
