"""Memory over 10,000,000 records with keys that come and go, through windows of a second.

Each key has ten records within six seconds of event time, one thousand keys at a time; then it
never comes again. Its last window closes when the wall clock says so, `WAIT` and `LENGTH` after its
last record, or, with a watermark for the whole stream (`engine-stream`), when the others' times do.
So after some seconds what is in memory should grow no more, however long the input.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, family_of, load_engine
from benchmarks.feeds import Batch, BatchPart, Count, Digest
from benchmarks.workloads._base import Layout, Metric, Outcome
from benchmarks.workloads._resident import resident_bytes
from benchmarks.workloads._windowed import ALIGN_TO, APART_US, BATCH_SIZE, time_of, windowing_of

LENGTH = timedelta(seconds=1)
WAIT = timedelta(seconds=1)
KEYS_AT_ONCE = 1_000
RECORDS_PER_KEY = 10
EARLY = 0.3
"""The part of the input after which memory is read for the first time."""

STREAM = "engine-stream"

Reading = tuple[Any, int]


class Footprint:
    """Makes the input as it is asked for, and reads the resident set early and at its end."""

    def __init__(self, records: int) -> None:
        self._records = records
        self.before_bytes = 0
        self.early_bytes = 0
        self.end_bytes = 0

    def batches(self) -> Iterator[Batch]:
        self.before_bytes = _settled_bytes()
        early = int(self._records * EARLY)
        for first in range(0, self._records, BATCH_SIZE):
            if first <= early < first + BATCH_SIZE:
                self.early_bytes = _settled_bytes()
            yield _records(range(first, min(first + BATCH_SIZE, self._records)))
        self.end_bytes = _settled_bytes()


def _records(numbers: range) -> Batch:
    records: Batch = []
    for number in numbers:
        generation = number // (KEYS_AT_ONCE * RECORDS_PER_KEY)
        key = f"key{generation * KEYS_AT_ONCE + number % KEYS_AT_ONCE:09d}"
        records.append((key, (ALIGN_TO + timedelta(microseconds=number * APART_US), number)))
    return records


def _settled_bytes() -> int:
    gc.collect()
    return resident_bytes()


def count_none() -> int:
    return 0


def count_one(count: int, _reading: Reading) -> int:
    return count + 1


def add(one: int, other: int) -> int:
    return one + other


def graph(op: Any, up: Any, **scope: str) -> Any:
    win = windowing_of(op)
    clock = win.EventClock(time_of, WAIT, **scope)
    windower = win.TumblingWindower(LENGTH, ALIGN_TO)
    return win.fold_window("count", up, clock, windower, count_none, count_one, add).down


@dataclass(frozen=True, slots=True)
class WindowMemory:
    """Many keys, few at a time."""

    name: str
    title: str
    records: int
    records_quick: int

    contenders: ClassVar[tuple[str, ...]] = (BARE_UDF, "engine", STREAM, "bytewax")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("early_bytes", "MB more RSS, at 30 %", divisor=1e6, digits=0),
        Metric("end_bytes", "MB more RSS, at the end", divisor=1e6, digits=0),
    )
    layout: ClassVar[Layout] = Layout(contenders, ())

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        footprint = Footprint(records)
        run = _run_loop if contender == BARE_UDF else _run_flow
        sink = run(contender, footprint.batches(), Digest if check else Count)
        digest = sink.digest if isinstance(sink, Digest) else None
        figures: dict[str, float] = {
            "early_bytes": footprint.early_bytes - footprint.before_bytes,
            "end_bytes": footprint.end_bytes - footprint.before_bytes,
        }
        return Outcome(figures, sink.records, digest)


def _run_flow(contender: str, batches: Iterable[Batch], sink_class: type[Count]) -> Count:
    engine = load_engine(family_of(contender))
    op: Any = engine.operators
    scope = {"scope": "stream"} if contender == STREAM else {}
    sink = engine.sink_part(sink_class)
    flow = engine.dataflow.Dataflow("benchmark")
    up = op.input("in", flow, engine.source(engine.source_part(BatchPart, batches)))
    op.output("out", graph(op, up, **scope), engine.sink(sink))
    engine.testing.run_main(flow)
    return sink


def _run_loop(_contender: str, batches: Iterable[Batch], sink_class: type[Count]) -> Count:
    sink = sink_class()
    windows: dict[int, dict[str, int]] = {}
    at = ALIGN_TO
    for batch in batches:
        for key, reading in batch:
            at = time_of(reading)
            counts = windows.setdefault((at - ALIGN_TO) // LENGTH, {})
            counts[key] = count_one(counts.get(key, 0), reading)
        closed = (at - WAIT - ALIGN_TO) // LENGTH
        for window in [window for window in windows if window < closed]:
            sink.write_batch([(key, (window, n)) for key, n in windows.pop(window).items()])
    for window, counts in windows.items():
        sink.write_batch([(key, (window, n)) for key, n in counts.items()])
    return sink


WORKLOADS = (
    WindowMemory(
        name="window-memory",
        title="Memory over 10,000,000 records, keys come and go",
        records=10_000_000,
        records_quick=50_000,
    ),
)
