"""Workloads that are about records per second: input made in advance, as fast as it goes.

The stateless, word count, running mean and join workloads are instances of `Throughput`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.contenders import ENGINES, Engine, load_engine
from benchmarks.feeds import Batch, BatchPart, Count, Digest, Stopwatch
from benchmarks.workloads._base import SIDE_BY_SIDE, Layout, Metric, Outcome, inputs_out_of_gc

Emit = Callable[[Batch], None]
Loop = Callable[..., None]
"""A bare contender: `loop(emit, *feeds)`, each feed an iterable of batches."""
Graph = Callable[..., Any]
"""The flow between its inputs and its output: `graph(op, *streams)` gives the last stream."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """A graph and its hand-written loops over the same batches.

    `feeds(records)` makes the batches of each input. The time of a run goes from the first batch
    asked for to the end of the run, clearing up included: building the flow and starting the
    engine are left out, and a bare loop likewise begins with its first batch and ends when it
    has returned and its state is gone.
    """

    name: str
    title: str
    records: int
    records_quick: int
    feeds: Callable[[int], list[list[Batch]]]
    loops: Mapping[str, Loop]
    graph: Graph

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "M records/s", divisor=1e6, digits=3),
    )
    layout: ClassVar[Layout] = SIDE_BY_SIDE

    @property
    def contenders(self) -> tuple[str, ...]:
        return (*self.loops, *ENGINES)

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        feeds = self.feeds(records)
        sink_class = Digest if check else Count
        with inputs_out_of_gc():
            if contender in self.loops:
                sink, seconds = time_loop(self.loops[contender], feeds, sink_class)
            else:
                sink, seconds = time_flow(load_engine(contender), self.graph, feeds, sink_class)
        digest = sink.digest if isinstance(sink, Digest) else None
        return Outcome({"records_per_s": records / seconds}, sink.records, digest)


def time_loop(
    loop: Loop, feeds: Sequence[Iterable[Batch]], sink_class: type[Count]
) -> tuple[Count, float]:
    """Run a loop; gives its sink and the seconds it took."""
    sink = sink_class()
    stopwatch = Stopwatch()
    stopwatch.start()
    loop(sink.write_batch, *feeds)
    return sink, stopwatch.elapsed_s()


def time_flow(
    engine: Engine,
    graph: Graph,
    feeds: Sequence[Iterable[Batch]],
    sink_class: type[Count],
    **options: Any,
) -> tuple[Count, float]:
    """Run a flow with the options of `run_main`; gives its sink and the seconds it took."""
    op = engine.operators
    sink = engine.sink_part(sink_class)
    stopwatch = Stopwatch()
    flow = engine.dataflow.Dataflow("benchmark")
    streams = []
    for number, feed in enumerate(feeds):
        part = engine.source_part(BatchPart, stopwatch.starting(feed))
        streams.append(op.input(f"in_{number}", flow, engine.source(part)))
    op.output("out", graph(op, *streams), engine.sink(sink))
    engine.testing.run_main(flow, **options)
    return sink, stopwatch.elapsed_s()
