"""`enrich_cached` and its `TTLCache`: joining a stream with a table that is looked up elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from engine.clock import utc_now
from engine.dataflow import Stream, operator
from engine.operators import _mapping
from engine.operators._checks import require_function
from engine.operators._types import X, Y

DK = TypeVar("DK")
"""Key of the table."""
DV = TypeVar("DV")
"""Value of the table."""


class TTLCache(Generic[DK, DV]):
    """Values that are looked up once and kept for a time. It has no limit to its size.

    Args:
        v_getter: Looks up the value of a key that isn't cached, or no longer.
        now_getter: Clock.
        ttl: How long a value is good after it was looked up.

    >>> from datetime import UTC, datetime, timedelta
    >>> from engine.operators import TTLCache
    >>> now = datetime(2024, 1, 1, tzinfo=UTC)
    >>> def look_up(key):
    ...     print("looking up", key)
    ...     return key.upper()
    >>> cache = TTLCache(look_up, lambda: now, timedelta(minutes=1))
    >>> cache.get("a")
    looking up a
    'A'
    >>> cache.get("a")
    'A'
    >>> now += timedelta(minutes=2)
    >>> cache.get("a")
    looking up a
    'A'
    """

    def __init__(
        self, v_getter: Callable[[DK], DV], now_getter: Callable[[], datetime], ttl: timedelta
    ) -> None:
        self._v_getter = v_getter
        self._now_getter = now_getter
        self._ttl = ttl
        self._cached: dict[DK, tuple[datetime, DV]] = {}

    def get(self, k: DK) -> DV:
        """The value of a key, looked up if it isn't cached or is too old.

        What the getter raises comes through, and leaves nothing cached.
        """
        now = self._now_getter()
        cached = self._cached.get(k)
        if cached is not None and now - cached[0] <= self._ttl:
            return cached[1]
        value = self._v_getter(k)
        self._cached[k] = (now, value)
        return value

    def remove(self, k: DK) -> None:
        """Forget a key, so that the next `get` looks it up. Does nothing if it isn't cached."""
        self._cached.pop(k, None)


@operator
def enrich_cached(
    step_id: str,
    up: Stream[X],
    getter: Callable[[DK], DV],
    mapper: Callable[[TTLCache[DK, DV], X], Y],
    ttl: timedelta = timedelta.max,
    _now_getter: Callable[[], datetime] = utc_now,
) -> Stream[Y]:
    """Turn each record into one other with the help of values that are looked up and cached.

    Order is kept. The cache is not state: each worker has its own, it grows with the keys that are
    asked for, and it is empty after a restart. Each batch sees one time, so a value doesn't grow
    too old within a batch. The worker waits for the getter; if that takes long, `task` is better.

    Args:
        step_id: Name of the step.
        up: Stream.
        getter: Looks up the value of a key.
        mapper: Called with the cache and each record; gives the record to emit. It calls
            `cache.get(key)` for whatever it needs.
        ttl: How long a value is good after it was looked up. For ever by default.

    Returns:
        Stream of what the mapper gives.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> names = {1: "ann", 2: "bob"}
    >>> flow, out = Dataflow("enrich_cached_example"), []
    >>> s = op.input("in", flow, TestingSource([1, 2, 1]))
    >>> s = op.enrich_cached("name", s, names.get, lambda cache, user: cache.get(user))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    ['ann', 'bob', 'ann']
    """
    require_function(step_id, "getter", getter)
    require_function(step_id, "mapper", mapper)
    caches = _WorkerCaches(getter, ttl)

    def map_all(batch: list[X]) -> list[Y]:
        caches.now = _now_getter()
        cache = caches.cache
        return [mapper(cache, record) for record in batch]

    return _mapping.flat_map_batch("flat_map_batch", up, map_all)


class _WorkerCaches(threading.local, Generic[DK, DV]):
    """A cache, and the time of its batch, for each worker of this process: a worker is a thread."""

    now: datetime
    cache: TTLCache[DK, DV]

    def __init__(self, getter: Callable[[DK], DV], ttl: timedelta) -> None:
        self.cache = TTLCache(getter, lambda: self.now, ttl)
