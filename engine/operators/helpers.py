"""Small functions to give to operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

__all__ = ["map_dict_value"]


def map_dict_value(key: K, mapper: Callable[[V], V]) -> Callable[[dict[K, V]], dict[K, V]]:
    """Make a mapper that changes one entry of a dict, to give to `map` or `map_value`.

    The dict itself is changed, and passed on. Where a stream goes to several steps, all see the
    change, for they get the same objects.

    Args:
        key: Of the entry. A dict without it raises `KeyError`.
        mapper: Called with the entry's value; gives the new one.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.operators.helpers import map_dict_value
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("map_dict_value_example"), []
    >>> s = op.input("in", flow, TestingSource([{"name": "ann", "city": "Bath"}]))
    >>> s = op.map("shout", s, map_dict_value("name", str.upper))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [{'name': 'ANN', 'city': 'Bath'}]
    """

    def change(items: dict[K, V]) -> dict[K, V]:
        items[key] = mapper(items[key])
        return items

    return change
