"""`enrich_cached` and its `TTLCache`: joining a stream with a table that is looked up elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from engine.clock import utc_now
from engine.dataflow import Operator, Stream, operator
from engine.operators import _mapping
from engine.operators._checks import require_function
from engine.operators._codegen import RecordCode, Value
from engine.operators._kernels import RecordKernel, StepContext
from engine.operators._types import X, Y

DK = TypeVar("DK")
"""Key of the table."""
DV = TypeVar("DV")
"""Value of the table."""


class TTLCache(Generic[DK, DV]):
    """Values that are looked up once and kept for a time.

    Args:
        v_getter: Looks up the value of a key that isn't cached, or no longer.
        now_getter: Clock.
        ttl: How long a value is good after it was looked up.
        max_size: How many values are kept at most: for one more, the one that was asked for the
            longest ago is forgotten. No limit by default.

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
        self,
        v_getter: Callable[[DK], DV],
        now_getter: Callable[[], datetime],
        ttl: timedelta,
        max_size: int | None = None,
    ) -> None:
        self._v_getter = v_getter
        self._now_getter = now_getter
        self._ttl = ttl
        self._max_size = max_size
        self._cached: dict[DK, tuple[datetime, DV]] = {}
        """When each value was looked up, and the value. With a limit, the one that was asked for
        the longest ago comes first."""

    def get(self, k: DK) -> DV:
        """The value of a key, looked up if it isn't cached or is too old.

        What the getter raises comes through, and leaves nothing cached.
        """
        now = self._now_getter()
        cached = self._cached.get(k)
        if cached is not None and now - cached[0] <= self._ttl:
            if self._max_size is not None:
                self._cached[k] = self._cached.pop(k)
            return cached[1]
        value = self._v_getter(k)
        # Taken out first, so that it comes last now.
        self._cached.pop(k, None)
        if len(self._cached) == self._max_size:
            del self._cached[next(iter(self._cached))]
        self._cached[k] = (now, value)
        return value

    def remove(self, k: DK) -> None:
        """Forget a key, so that the next `get` looks it up. Does nothing if it isn't cached."""
        self._cached.pop(k, None)


def _kernel(step: Operator, _workers: int) -> RecordKernel:
    params = step.params
    caches = _WorkerCaches[Any, Any](params["getter"], params["ttl"], params["max_size"])
    return EnrichKernel(caches, params["_now_getter"], params["mapper"])


@operator(kernel=_kernel)
def enrich_cached(
    step_id: str,
    up: Stream[X],
    getter: Callable[[DK], DV],
    mapper: Callable[[TTLCache[DK, DV], X], Y],
    ttl: timedelta = timedelta.max,
    _now_getter: Callable[[], datetime] = utc_now,
    *,
    max_size: int | None = None,
) -> Stream[Y]:
    """Turn each record into one other with the help of values that are looked up and cached.

    Order is kept. The cache is not state: each worker has its own, it is empty after a restart, and
    it grows with the keys that are asked for, unless there is a `max_size`. Each batch sees one
    time, so a value doesn't grow too old within a batch. The worker waits for the getter; if that
    takes long, `task` is better.

    Args:
        step_id: Name of the step.
        up: Stream.
        getter: Looks up the value of a key.
        mapper: Called with the cache and each record; gives the record to emit. It calls
            `cache.get(key)` for whatever it needs.
        ttl: How long a value is good after it was looked up. For ever by default.
        max_size: How many values each worker keeps at most: for one more, the one that was asked
            for the longest ago is forgotten. No limit by default.

    Returns:
        Stream of what the mapper gives.

    Raises:
        TypeError: `max_size` isn't an `int`; raised while the flow is built.
        ValueError: It is below 1; raised likewise.

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
    if max_size is not None:
        _check_max_size(step_id, max_size)
    caches = _WorkerCaches(getter, ttl, max_size)

    def map_all(batch: list[X]) -> list[Y]:
        caches.now = _now_getter()
        cache = caches.cache
        return [mapper(cache, record) for record in batch]

    return _mapping.flat_map_batch("flat_map_batch", up, map_all)


def _check_max_size(step_id: str, max_size: object) -> None:
    if not isinstance(max_size, int) or isinstance(max_size, bool):
        msg = f"`max_size` of step {step_id!r} must be an `int`; got {max_size!r}"
        raise TypeError(msg)
    if max_size < 1:
        msg = f"`max_size` of step {step_id!r} must be at least 1; got {max_size!r}"
        raise ValueError(msg)


class _WorkerCaches(threading.local, Generic[DK, DV]):
    """A cache, and the time of its batch, for each worker of this process: a worker is a thread."""

    now: datetime
    cache: TTLCache[DK, DV]

    def __init__(self, getter: Callable[[DK], DV], ttl: timedelta, max_size: int | None) -> None:
        self.cache = TTLCache(getter, lambda: self.now, ttl, max_size)


@dataclass(frozen=True, slots=True)
class EnrichKernel(RecordKernel):
    """`enrich_cached`: one record out for each in, with the worker's cache at hand."""

    caches: _WorkerCaches[Any, Any]
    now_getter: Callable[[], datetime]
    mapper: Callable[[TTLCache[Any, Any], Any], Any]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:  # noqa: ARG002 - as in the base class
        """``out = mapper(cache, record)``; all of a batch see one time."""
        cache, begin = code.name("cache"), code.bind("begin_batch", self._begin_batch)
        code.first(f"{cache} = {begin}()")
        record, fn, out = code.var(value), code.bind("mapper", self.mapper), code.name("record")
        code.line(f"{out} = {fn}({cache}, {record})")
        return Value(out)

    def _begin_batch(self) -> TTLCache[Any, Any]:
        """The cache of the worker that calls, for a batch that begins now."""
        self.caches.now = self.now_getter()
        return self.caches.cache
