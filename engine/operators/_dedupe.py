"""`dedupe`: the first record of each key, and again the first after a silence.

A composition: what it keeps of a key is that it was there, and the time to live of that state says
when it is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from engine.dataflow import Stream, operator
from engine.operators._checks import require_function
from engine.operators._keying import key_on, key_rm
from engine.operators._keys import Key
from engine.operators._state_options import TTL, check_ttl
from engine.operators._stateful import stateful_flat_map
from engine.operators._types import X


@operator
def dedupe(
    step_id: str, up: Stream[X], key: Callable[[X], Key], ttl: timedelta | TTL[X]
) -> Stream[X]:
    """Drop records whose key has been there before.

    The first record of a key passes, and those that come again within `ttl` are dropped. Each of
    them, though dropped, starts the time again: a key is forgotten, and passes once more, when it
    has been silent for `ttl`. By event time a record that is earlier than one of its key before it
    is dropped too. Records are routed so that one worker sees all of a key; those that pass keep
    their order within a key. The state of a key is that it was there.

    Args:
        step_id: Name of the step.
        up: Stream.
        key: Called with each record; gives what records that are the same have in common.
        ttl: How long a key must be silent to be forgotten, by the wall clock or by a `TTL`, whose
            `event_time` is called with the record.

    Returns:
        Stream of the records that pass.

    Raises:
        TypeError: `key` is no function, or `ttl` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` is out of range; raised likewise.
        UserCodeError: The key is of a type that isn't allowed.

    >>> from datetime import timedelta
    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> payments = [{"id": 1, "sum": 5}, {"id": 2, "sum": 7}, {"id": 1, "sum": 5}]
    >>> flow, out = Dataflow("dedupe_example"), []
    >>> s = op.input("in", flow, TestingSource(payments))
    >>> s = op.dedupe("once", s, lambda payment: payment["id"], timedelta(days=1))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [{'id': 1, 'sum': 5}, {'id': 2, 'sum': 7}]
    """
    require_function(step_id, "key", key)
    check_ttl(step_id, ttl)
    firsts = stateful_flat_map("first", key_on("key_on", up, key), _first, ttl=ttl)
    return key_rm("key_rm", firsts)


_NOTHING: list[Any] = []


def _first(seen: object, record: X) -> tuple[bool, list[X]]:
    return True, [record] if seen is None else _NOTHING
