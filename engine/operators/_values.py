"""Stateless operators on the values of a keyed stream: `map_value` and its kin.

The key stays as it is, so no record changes workers. Compositions of the operators in `_mapping`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard, overload

from engine.dataflow import Stream, operator
from engine.operators import _mapping
from engine.operators._checks import require_function
from engine.operators._kernels import (
    FilterKernel,
    FilterMapKernel,
    FlatMapKernel,
    MapKernel,
    OnValueKernel,
)
from engine.operators._keys import key_and_value
from engine.operators._types import K, V, W

if TYPE_CHECKING:
    from typing_extensions import TypeIs


@operator(kernel=lambda step, _workers: OnValueKernel(MapKernel(step.params["mapper"])))
def map_value(
    step_id: str, up: Stream[tuple[K, V]], mapper: Callable[[V], W]
) -> Stream[tuple[K, W]]:
    """Turn the value of each record into one other; the key stays.

    Order is kept. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        mapper: Called with each value; gives the new one.

    Returns:
        Keyed stream of what the mapper gives.

    Raises:
        UserCodeError: A record isn't a `(key, value)` 2-tuple.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("map_value_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("b", 2)]))
    >>> s = op.map_value("times_ten", s, lambda x: x * 10)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 10), ('b', 20)]
    """
    require_function(step_id, "mapper", mapper)

    def map_one(record: tuple[K, V]) -> tuple[K, W]:
        key, value = key_and_value(record)
        return key, mapper(value)

    return _mapping.map("map", up, map_one)


@operator(kernel=lambda step, _workers: OnValueKernel(FlatMapKernel(step.params["mapper"])))
def flat_map_value(
    step_id: str, up: Stream[tuple[K, V]], mapper: Callable[[V], Iterable[W]]
) -> Stream[tuple[K, W]]:
    """Turn the value of each record into any number of others, each with the same key.

    Order is kept: what comes from one record stands where that record stood. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        mapper: Called with each value; gives an iterable of new ones.

    Returns:
        Keyed stream of what the mapper gives, one by one.

    Raises:
        UserCodeError: A record isn't a `(key, value)` 2-tuple, or the mapper's result can't be
            iterated over.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("flat_map_value_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", "to be"), ("b", "or not")]))
    >>> s = op.flat_map_value("words", s, str.split)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 'to'), ('a', 'be'), ('b', 'or'), ('b', 'not')]
    """
    require_function(step_id, "mapper", mapper)

    def map_values(record: tuple[K, V]) -> Iterable[tuple[K, W]]:
        key, value = key_and_value(record)
        return [(key, emitted) for emitted in _mapping.iterable_from(mapper, mapper(value))]

    return _mapping.flat_map("flat_map", up, map_values)


@overload
def filter_value(
    step_id: str, up: Stream[tuple[K, V]], predicate: Callable[[V], TypeIs[W]]
) -> Stream[tuple[K, W]]: ...
@overload
def filter_value(
    step_id: str, up: Stream[tuple[K, V]], predicate: Callable[[V], TypeGuard[W]]
) -> Stream[tuple[K, W]]: ...
@overload
def filter_value(
    step_id: str, up: Stream[tuple[K, V]], predicate: Callable[[V], bool]
) -> Stream[tuple[K, V]]: ...
@operator(kernel=lambda step, _workers: OnValueKernel(FilterKernel(step.params["predicate"])))
def filter_value(
    step_id: str, up: Stream[tuple[K, V]], predicate: Callable[[V], bool]
) -> Stream[tuple[K, Any]]:
    """Keep only the records for whose value a predicate holds.

    Order is kept. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        predicate: Called with each value; must give a real `bool`; True keeps the record.

    Returns:
        Keyed stream of the records that were kept.

    Raises:
        UserCodeError: A record isn't a `(key, value)` 2-tuple, or the predicate gave something
            else than a `bool`.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("filter_value_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 2), ("b", 4)]))
    >>> s = op.filter_value("even", s, lambda x: x % 2 == 0)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 2), ('b', 4)]
    """
    require_function(step_id, "predicate", predicate)

    def holds(record: tuple[K, V]) -> bool:
        _key, value = key_and_value(record)
        return _mapping.bool_from(predicate, predicate(value))

    return _mapping.filter("filter", up, holds)


@operator(kernel=lambda step, _workers: OnValueKernel(FilterMapKernel(step.params["mapper"])))
def filter_map_value(
    step_id: str, up: Stream[tuple[K, V]], mapper: Callable[[V], W | None]
) -> Stream[tuple[K, W]]:
    """Turn the value of each record into one other, or drop the record.

    Order is kept. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        mapper: Called with each value; gives the new one, or None to emit nothing.

    Returns:
        Keyed stream of what the mapper gives, less the Nones.

    Raises:
        UserCodeError: A record isn't a `(key, value)` 2-tuple.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("filter_map_value_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", {"n": 1}), ("b", {})]))
    >>> s = op.filter_map_value("get_n", s, lambda value: value.get("n"))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 1)]
    """
    require_function(step_id, "mapper", mapper)

    def map_one(record: tuple[K, V]) -> tuple[K, W] | None:
        key, value = key_and_value(record)
        emitted = mapper(value)
        return None if emitted is None else (key, emitted)

    return _mapping.filter_map("filter_map", up, map_one)
