"""What metrics cost: W1 and W3 with metrics on against off.

The difference is smaller than what one process differs from another by, so both are run in the same
process, in turn and several times, and the figure is the ratio of their medians. The hand-written
loop is compared with itself in the same way: how far that is from 1 is what the ratio is good for.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, load_engine
from benchmarks.feeds import Batch, Count, Digest, split
from benchmarks.workloads import running_mean, stateless
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._throughput import Graph, Loop, time_flow, time_loop

KEYS = 1000
PAIRS = 9
ANY_PORT = "0"


@dataclass(frozen=True, slots=True)
class MetricsCost:
    """A graph with metrics and without them, and its hand-written loop twice."""

    name: str
    title: str
    records: int
    records_quick: int
    feed: Callable[[int], list[Batch]]
    loop: Loop
    graph: Graph

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("us_per_record", "µs/record, metrics off", digits=3),
        Metric("on_over_off", "metrics on / off", digits=3),
    )
    layout: ClassVar[Layout] = Layout((BARE_UDF, "engine"), ())

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        feed = self.feed(records)
        with inputs_out_of_gc():
            if check:
                sink, _ = self._time(contender, feed, Digest, on=True)
                return Outcome({}, sink.records, sink.digest if isinstance(sink, Digest) else None)
            sink, _ = self._time(contender, feed, Count, on=True)
            taken_s: dict[bool, list[float]] = {False: [], True: []}
            for pair in range(PAIRS):
                # Neither always comes first: a machine that grows faster or slower favours none.
                for on in (True, False) if pair % 2 else (False, True):
                    taken_s[on].append(self._time(contender, feed, Count, on=on)[1])
        off, on_s = statistics.median(taken_s[False]), statistics.median(taken_s[True])
        figures = {"us_per_record": off / records * 1e6, "on_over_off": on_s / off}
        return Outcome(figures, sink.records)

    def _time(
        self, contender: str, feed: list[Batch], sink_class: type[Count], *, on: bool
    ) -> tuple[Count, float]:
        if contender == BARE_UDF:
            return time_loop(self.loop, [feed], sink_class)
        options: dict[str, Any] = {"metrics": ANY_PORT} if on else {}
        return time_flow(load_engine(contender), self.graph, [feed], sink_class, **options)


def _numbers(batch_size: int) -> Callable[[int], list[Batch]]:
    return lambda records: split(list(range(records)), batch_size)


def _readings(records: int) -> list[Batch]:
    names = [f"key{number:03d}" for number in range(KEYS)]
    readings = [(names[at * 7919 % KEYS], float(at)) for at in range(records)]
    return split(readings, running_mean.BATCH_SIZE)


def _of_stateless(batch_size: int, records: int) -> MetricsCost:
    return MetricsCost(
        name=f"metrics-cost-batch{batch_size}",
        title=f"W1 with metrics; batch {batch_size}",
        records=records,
        records_quick=records // 20,
        feed=_numbers(batch_size),
        loop=stateless.loop_udf,
        graph=stateless.graph,
    )


WORKLOADS = (
    _of_stateless(1000, 4_000_000),
    _of_stateless(100, 2_000_000),
    MetricsCost(
        name="metrics-cost-keyed",
        title=f"W3 with metrics, {KEYS:,} keys",
        records=2_000_000,
        records_quick=100_000,
        feed=_readings,
        loop=running_mean.loop_udf,
        graph=running_mean.graph,
    ),
)
