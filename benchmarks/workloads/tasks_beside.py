"""What waiting tasks cost a sibling branch: W1 beside a step whose calls all wait for its end.

The difference is to be less than what one process differs from another by, so the flow with waiting
tasks and the same one with a plain `map` in their place are run in one process, in turn and several
times, and the figure is the ratio of their medians. The hand-written loop is compared with itself
in the same way: how far that is from 1 is what the ratio is good for.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, load_engine
from benchmarks.feeds import Batch, Count, Digest, split
from benchmarks.workloads import stateless
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._throughput import time_flow, time_loop
from engine.operators.tasks import task
from engine.testing import TestingSink

PAIRS = 9
WAITING = 256
BATCH_SIZE = 1000


class Gate:
    """Calls wait at it until it is opened."""

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._open = False

    async def passed(self, number: int) -> int:
        loop = asyncio.get_running_loop()
        waits = loop.create_future()
        self._waiting.append((loop, waits))
        if self._open:
            return number
        await waits
        return number

    def opened_after(self, feed: Iterable[Batch]) -> Iterator[Batch]:
        """Some batches; the gate is opened behind them."""
        yield from feed
        self._open = True
        for loop, waits in self._waiting:
            loop.call_soon_threadsafe(waits.set_result, None)


@dataclass(frozen=True, slots=True)
class TasksBeside:
    """A stream with tasks that wait, and without them, beside one that works."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("us_per_record", "µs/record, nothing waits", digits=3),
        Metric("waiting_over_none", "256 wait / nothing waits", digits=3),
    )
    layout: ClassVar[Layout] = Layout((BARE_UDF, "engine"), ())

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        feed = split(list(range(records)), BATCH_SIZE)
        with inputs_out_of_gc():
            if check:
                sink, _ = self._time(contender, feed, Digest, waits=True)
                return Outcome({}, sink.records, sink.digest if isinstance(sink, Digest) else None)
            sink, _ = self._time(contender, feed, Count, waits=True)
            taken_s: dict[bool, list[float]] = {False: [], True: []}
            for pair in range(PAIRS):
                # Neither always comes first: a machine that grows faster or slower favours none.
                for waits in (True, False) if pair % 2 else (False, True):
                    taken_s[waits].append(self._time(contender, feed, Count, waits=waits)[1])
        free_s, beside_s = statistics.median(taken_s[False]), statistics.median(taken_s[True])
        figures = {
            "us_per_record": free_s / records * 1e6,
            "waiting_over_none": beside_s / free_s,
        }
        return Outcome(figures, sink.records)

    def _time(
        self, contender: str, feed: list[Batch], sink_class: type[Count], *, waits: bool
    ) -> tuple[Count, float]:
        if contender == BARE_UDF:
            return time_loop(stateless.loop_udf, [feed], sink_class)
        gate = Gate()

        def graph(op: Any, numbers: Any, others: Any) -> Any:
            if waits:
                fn: Any = gate.passed
                others = task("waits", others, fn, max_in_flight=WAITING).ok
            else:
                others = op.map("passes", others, lambda number: number)
            op.output("others", others, TestingSink([]))
            return stateless.graph(op, numbers)

        feeds = [gate.opened_after(feed), [list(range(WAITING))]]
        return time_flow(load_engine(contender), graph, feeds, sink_class)


WORKLOADS = (
    TasksBeside(
        name="tasks-beside",
        title="W1 beside tasks that wait",
        records=4_000_000,
        records_quick=200_000,
    ),
)
