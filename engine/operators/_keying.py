"""`key_on` and `key_rm`: how a stream gets keys, and loses them again.

Compositions of `map`. Keyed steps route by these keys; adding one moves no record yet.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.dataflow import Stream, operator
from engine.operators import _mapping
from engine.operators._checks import require_function
from engine.operators._kernels import KeyOnKernel, KeyRmKernel
from engine.operators._keys import check_key, key_and_value
from engine.operators._types import K, V, X


@operator(kernel=lambda step, _workers: KeyOnKernel(step.params["key"]))
def key_on(step_id: str, up: Stream[X], key: Callable[[X], K]) -> Stream[tuple[K, X]]:
    """Put a key before each record, as all keyed steps need.

    Order is kept. Keeps no state. Records don't change workers here but at the next keyed step.

    Args:
        step_id: Name of the step.
        up: Stream.
        key: Called with each record; gives its key: a `str` by convention, or `bytes`, `int` or
            a tuple of these.

    Returns:
        Keyed stream: `(key, record)` 2-tuples.

    Raises:
        UserCodeError: The key is of another type.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("key_on_example"), []
    >>> s = op.input("in", flow, TestingSource([{"user": "ann", "n": 1}]))
    >>> s = op.key_on("by_user", s, lambda event: event["user"])
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('ann', {'user': 'ann', 'n': 1})]
    """
    require_function(step_id, "key", key)

    def with_key(record: X) -> tuple[K, X]:
        its_key = key(record)
        check_key(its_key)
        return its_key, record

    return _mapping.map("map", up, with_key)


@operator(kernel=lambda _step, _workers: KeyRmKernel())
def key_rm(step_id: str, up: Stream[tuple[K, V]]) -> Stream[V]:  # noqa: ARG001 - the decorator's
    """Drop the key of each record.

    Order is kept. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Keyed stream.

    Returns:
        Stream of the values.

    Raises:
        UserCodeError: A record isn't a `(key, value)` 2-tuple.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("key_rm_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("b", 2)]))
    >>> s = op.key_rm("unkey", s)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 2]
    """
    return _mapping.map("map", up, lambda record: key_and_value(record)[1])
