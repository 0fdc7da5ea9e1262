"""Interval join of two streams of 500,000: each value on the left with those near it on the right.

Near is `BEFORE` to `AFTER` of its time. Bytewax has no such operator, so the hand-written loop is
the only other contender; there is no user function in it but the one that gives times, which it has
inlined. It keeps for each key and side what another value can still meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, load_engine
from benchmarks.feeds import Batch, Count, Digest
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._throughput import Emit, time_flow, time_loop
from benchmarks.workloads._windowed import WAIT, readings, time_of, windowing_of

BEFORE = timedelta(seconds=2)
AFTER = timedelta(seconds=2)
KEYS = 10_000


def graph(op: Any, left: Any, right: Any) -> Any:
    win = windowing_of(op)
    clock = win.EventClock(time_of, WAIT)
    return win.interval_join("join", clock, left, right, BEFORE, AFTER).down


def loop(emit: Emit, left: Iterable[Batch], right: Iterable[Batch]) -> None:
    lefts: dict[str, Batch] = {}
    rights: dict[str, Batch] = {}
    for left_batch, right_batch in zip(left, right, strict=True):
        out = _met_by_left(left_batch, rights)
        _keep(lefts, left_batch, AFTER)
        out += _met_by_right(right_batch, lefts)
        _keep(rights, right_batch, BEFORE)
        if out:
            emit(out)


def _met_by_left(batch: Batch, rights: dict[str, Batch]) -> Batch:
    get = rights.get
    met: Batch = []
    append = met.append
    for key, value in batch:
        waiting = get(key)
        if waiting is not None:
            at = value[0]
            earliest, latest = at - BEFORE, at + AFTER
            for other in waiting:
                if earliest <= other[0] <= latest:
                    append((key, (value, other)))
    return met


def _met_by_right(batch: Batch, lefts: dict[str, Batch]) -> Batch:
    get = lefts.get
    met: Batch = []
    append = met.append
    for key, value in batch:
        waiting = get(key)
        if waiting is not None:
            at = value[0]
            earliest, latest = at - AFTER, at + BEFORE
            for other in waiting:
                if earliest <= other[0] <= latest:
                    append((key, (other, value)))
    return met


def _keep(side: dict[str, Batch], batch: Batch, met_until: timedelta) -> None:
    """Add a batch to what waits, and drop of the same keys what nothing can meet any more."""
    expired = batch[-1][1][0] - WAIT - met_until
    get = side.get
    for key, value in batch:
        waiting = get(key)
        if waiting is None:
            side[key] = [value]
        else:
            if waiting[0][0] < expired:
                del waiting[0]
            waiting.append(value)


@dataclass(frozen=True, slots=True)
class IntervalJoin:
    """Two streams with the same keys and the same pace."""

    name: str
    title: str
    records: int
    records_quick: int

    contenders: ClassVar[tuple[str, ...]] = (BARE_UDF, "engine")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "M records/s", divisor=1e6, digits=3),
    )
    layout: ClassVar[Layout] = Layout(contenders, (("engine", BARE_UDF),))

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        feeds = [readings(records // 2, KEYS, seed=seed) for seed in (1, 2)]
        sink_class = Digest if check else Count
        with inputs_out_of_gc():
            if contender == BARE_UDF:
                sink, seconds = time_loop(loop, feeds, sink_class)
            else:
                sink, seconds = time_flow(load_engine(contender), graph, feeds, sink_class)
        digest = sink.digest if isinstance(sink, Digest) else None
        return Outcome({"records_per_s": records / seconds}, sink.records, digest)


WORKLOADS = (
    IntervalJoin(
        name="interval-join",
        title="Interval join, 2 s each way, of 2 streams of 500,000; 10,000 keys",
        records=1_000_000,
        records_quick=50_000,
    ),
)
