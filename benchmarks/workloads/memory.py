"""Memory per key: how much a process grows for each key that `stateful_map` keeps.

Each key comes once and leaves a small tuple (two numbers, made by W3's function). Its string is
made for it alone, so the key is part of the figure, as it is of a hand-written dict's. The growth
is that of the resident set between the first batch asked for and the end of the input, when every
record has come out and all state is still there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, ENGINES, load_engine
from benchmarks.feeds import Batch, BatchPart, Count, Digest
from benchmarks.workloads import running_mean
from benchmarks.workloads._base import SIDE_BY_SIDE, Layout, Metric, Outcome
from benchmarks.workloads._resident import resident_bytes

BATCH_SIZE = 1000
SETTLING_POLLS = 100
"""Empty batches after the last record, so that an engine that works off its queue between polls
has done so when the memory is read."""


class Growth:
    """Reads the resident set at the two ends of the input that it hands out."""

    def __init__(self, keys: int) -> None:
        self._keys = keys
        self.bytes = 0

    def batches(self) -> Iterator[Batch]:
        before = _settled_bytes()
        for first in range(0, self._keys, BATCH_SIZE):
            numbers = range(first, min(first + BATCH_SIZE, self._keys))
            yield [(f"key{number:09d}", float(number)) for number in numbers]
        for _ in range(SETTLING_POLLS):
            yield []
        self.bytes = _settled_bytes() - before


@dataclass(frozen=True, slots=True)
class Memory:
    """Many keys with a small state."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("bytes_per_key", "bytes/key", digits=0),)
    layout: ClassVar[Layout] = SIDE_BY_SIDE

    @property
    def contenders(self) -> tuple[str, ...]:
        return (BARE_UDF, *ENGINES)

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        growth = Growth(records)
        run = _run_loop if contender == BARE_UDF else _run_flow
        sink = run(contender, growth.batches(), Digest if check else Count)
        digest = sink.digest if isinstance(sink, Digest) else None
        return Outcome({"bytes_per_key": growth.bytes / records}, sink.records, digest)


def _run_flow(package: str, batches: Iterable[Batch], sink_class: type[Count]) -> Count:
    engine = load_engine(package)
    op: Any = engine.operators
    sink = engine.sink_part(sink_class)
    flow = engine.dataflow.Dataflow("benchmark")
    readings = op.input("in", flow, engine.source(engine.source_part(BatchPart, batches)))
    op.output("out", running_mean.graph(op, readings), engine.sink(sink))
    engine.testing.run_main(flow)
    return sink


def _run_loop(_contender: str, batches: Iterable[Batch], sink_class: type[Count]) -> Count:
    sink = sink_class()
    running_mean.loop_udf(sink.write_batch, batches)
    return sink


def _settled_bytes() -> int:
    gc.collect()
    return resident_bytes()


WORKLOADS = (
    Memory(
        name="memory",
        title="Memory per key of a small state; 500,000 keys",
        records=500_000,
        records_quick=50_000,
    ),
)
