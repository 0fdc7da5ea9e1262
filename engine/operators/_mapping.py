"""Stateless operators that turn each record into others: `map`, `filter` and their kin.

All of them are compositions of the core operator `flat_map_batch`, and all have kernels that
share one loop with their neighbours. Called by users; `_values` does the same for keyed streams.
"""

# The operators have the names that users know them by.
# ruff: noqa: A001

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard, cast, overload

from engine.dataflow import Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._checks import require_function
from engine.operators._kernels import (
    BatchKernel,
    FilterKernel,
    FilterMapKernel,
    FlatMapKernel,
    MapKernel,
    not_a_bool_raiser,
    not_iterable_raiser,
)
from engine.operators._types import X, Y

if TYPE_CHECKING:
    from typing_extensions import TypeIs


@operator(core=True, kernel=lambda step, _workers: BatchKernel(step.params["mapper"]))
def flat_map_batch(
    step_id: str, up: Stream[X], mapper: Callable[[list[X]], Iterable[Y]]
) -> Stream[Y]:
    """Turn a whole batch of records into any number of records.

    For what is faster on many records at a time, such as a vectorised calculation. How many
    records make a batch is up to the source and the steps before: at least one, and no promise
    beyond that. Order is kept, as far as the mapper keeps it. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Stream.
        mapper: Called with each batch; gives an iterable of what to emit.

    Returns:
        Stream of what the mapper gives.

    Raises:
        UserCodeError: The mapper's result can't be iterated over.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("flat_map_batch_example"), []
    >>> s = op.input("in", flow, TestingSource([1, 2, 3, 4, 5], batch_size=3))
    >>> s = op.flat_map_batch("sum", s, lambda batch: [sum(batch)])
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [6, 9]
    """
    require_function(step_id, "mapper", mapper)
    return new_stream(step_id, up)


@operator(kernel=lambda step, _workers: MapKernel(step.params["mapper"]))
def map(step_id: str, up: Stream[X], mapper: Callable[[X], Y]) -> Stream[Y]:
    """Turn each record into one other.

    Order is kept. Keeps no state. For a function that waits on something outside, and for an
    ``async def``, use `task`.

    Args:
        step_id: Name of the step.
        up: Stream.
        mapper: Called with each record; gives the one to emit.

    Returns:
        Stream of what the mapper gives.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("map_example"), []
    >>> s = op.input("in", flow, TestingSource([1, 2, 3]))
    >>> s = op.map("times_ten", s, lambda x: x * 10)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [10, 20, 30]
    """
    require_function(step_id, "mapper", mapper)

    def map_all(batch: list[X]) -> list[Y]:
        return [mapper(record) for record in batch]

    return flat_map_batch("flat_map_batch", up, map_all)


@operator(kernel=lambda step, _workers: FlatMapKernel(step.params["mapper"]))
def flat_map(step_id: str, up: Stream[X], mapper: Callable[[X], Iterable[Y]]) -> Stream[Y]:
    """Turn each record into any number of others.

    Order is kept: what comes from one record stands where that record stood. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Stream.
        mapper: Called with each record; gives an iterable of what to emit.

    Returns:
        Stream of what the mapper gives, one by one.

    Raises:
        UserCodeError: The mapper's result can't be iterated over.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("flat_map_example"), []
    >>> s = op.input("lines", flow, TestingSource(["to be", "or not"]))
    >>> s = op.flat_map("words", s, str.split)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    ['to', 'be', 'or', 'not']
    """
    require_function(step_id, "mapper", mapper)

    def map_and_spread(batch: list[X]) -> list[Y]:
        return [item for record in batch for item in iterable_from(mapper, mapper(record))]

    return flat_map_batch("flat_map_batch", up, map_and_spread)


@operator(kernel=lambda _step, _workers: FlatMapKernel(None))
def flatten(step_id: str, up: Stream[Iterable[X]]) -> Stream[X]:  # noqa: ARG001 - the decorator's
    """Emit the items of each record, one by one.

    Order is kept. Keeps no state. A `str` is an iterable of its letters.

    Args:
        step_id: Name of the step.
        up: Stream of iterables.

    Returns:
        Stream of their items.

    Raises:
        UserCodeError: A record can't be iterated over.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("flatten_example"), []
    >>> s = op.input("in", flow, TestingSource([[1, 2], [], [3]]))
    >>> s = op.flatten("flatten", s)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 2, 3]
    """

    def spread(batch: list[Iterable[X]]) -> list[X]:
        return [item for record in batch for item in iterable_from(None, record)]

    return flat_map_batch("flat_map_batch", up, spread)


@overload
def filter(step_id: str, up: Stream[X], predicate: Callable[[X], TypeIs[Y]]) -> Stream[Y]: ...
@overload
def filter(step_id: str, up: Stream[X], predicate: Callable[[X], TypeGuard[Y]]) -> Stream[Y]: ...
@overload
def filter(step_id: str, up: Stream[X], predicate: Callable[[X], bool]) -> Stream[X]: ...
@operator(kernel=lambda step, _workers: FilterKernel(step.params["predicate"]))
def filter(step_id: str, up: Stream[X], predicate: Callable[[X], bool]) -> Stream[Any]:
    """Keep only the records for which a predicate holds.

    Order is kept. Keeps no state. The predicate must give a real `bool`, so that one that forgets
    its ``return`` doesn't drop everything in silence.

    Args:
        step_id: Name of the step.
        up: Stream.
        predicate: Called with each record; True keeps it. A `TypeGuard` or `TypeIs` gives the
            stream the narrower type.

    Returns:
        Stream of the records that were kept.

    Raises:
        UserCodeError: The predicate gave something else than a `bool`.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("filter_example"), []
    >>> s = op.input("in", flow, TestingSource([1, 2, 3, 4]))
    >>> s = op.filter("even", s, lambda x: x % 2 == 0)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [2, 4]
    """
    require_function(step_id, "predicate", predicate)

    def keep_some(batch: list[X]) -> list[X]:
        return [record for record in batch if bool_from(predicate, predicate(record))]

    return flat_map_batch("flat_map_batch", up, keep_some)


@operator(kernel=lambda step, _workers: FilterMapKernel(step.params["mapper"]))
def filter_map(step_id: str, up: Stream[X], mapper: Callable[[X], Y | None]) -> Stream[Y]:
    """Turn each record into one other, or drop it.

    Order is kept. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Stream.
        mapper: Called with each record; gives the one to emit, or None to emit nothing.

    Returns:
        Stream of what the mapper gives, less the Nones.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("filter_map_example"), []
    >>> s = op.input("in", flow, TestingSource(["1", "two", "3"]))
    >>> s = op.filter_map("parse", s, lambda text: int(text) if text.isdigit() else None)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 3]
    """
    require_function(step_id, "mapper", mapper)
    mapped = map("map", up, mapper)
    return cast("Stream[Y]", filter("filter", mapped, lambda item: item is not None))


def iterable_from(mapper: Callable[..., Any] | None, items: Iterable[X]) -> Iterable[X]:
    """What a mapper gave (or, with none, the record itself), refused if it can't be iterated."""
    if items.__class__ is not list:
        not_iterable_raiser(mapper)(items)
    return items


def bool_from(predicate: Callable[..., Any], holds: Any) -> bool:
    """What a predicate gave, refused if it isn't a `bool`."""
    if holds is not True and holds is not False:
        not_a_bool_raiser(predicate)(holds)
    return bool(holds)
