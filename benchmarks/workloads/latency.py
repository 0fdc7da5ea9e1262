"""W8: how long a record takes from its source to its sink when records come at a steady pace.

The flow is `key_on` and `stateful_map` on one worker. A record carries the time at which its source
handed it out. "Emission" latency goes from there to the sink; "due" latency goes from the moment at
which the pace wanted the record, so it also has the time that the contender slept too long.
Processor time is that of the whole process from the first poll to the end of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, ENGINES, load_engine
from benchmarks.feeds import Batch
from benchmarks.workloads._base import SIDE_BY_SIDE, Layout, Metric, Outcome, inputs_out_of_gc

SENSORS = tuple(f"sensor{number:02d}" for number in range(100))

Reading = tuple[int, int]
"""The record's number and when it was handed out, in nanoseconds of the performance counter."""


def sensor_of(reading: Reading) -> str:
    return SENSORS[reading[0] % len(SENSORS)]


def count_readings(count: int | None, reading: Reading) -> tuple[int, tuple[int, Reading]]:
    count = (count or 0) + 1
    return count, (count, reading)


class Pace:
    """Hands out the records that are due, and tells when the next one will be."""

    def __init__(self, records: int, per_second: int) -> None:
        self._records = records
        self._interval_ns = 1_000_000_000 // per_second
        self._sent = 0
        self._started_at = datetime.now(UTC)
        self.started_ns = 0
        self.cpu_started_s = 0.0

    def next_batch(self) -> Batch:
        if self._sent == self._records:
            raise StopIteration
        now = time.perf_counter_ns()
        if self.started_ns == 0:
            self.started_ns = now
            self._started_at = datetime.now(UTC)
            self.cpu_started_s = time.process_time()
        due = min(self._records, (now - self.started_ns) // self._interval_ns + 1)
        numbers = range(self._sent, due)
        self._sent = due
        return [(number, now) for number in numbers]

    def due_ns(self, number: int) -> int:
        """When the pace wanted a record, in nanoseconds of the performance counter."""
        return self.started_ns + number * self._interval_ns

    def wait_s(self) -> float:
        """Seconds until the next record is due; zero when it is, and after the last one."""
        if self._sent == self._records:
            return 0.0
        return max(0, self.due_ns(self._sent) - time.perf_counter_ns()) / 1e9

    def next_awake(self) -> datetime | None:
        if self._sent in (0, self._records):
            return None
        # Counted from the start, since reading the wall clock for each record would cost as much
        # as some of what is measured here.
        return self._started_at + timedelta(microseconds=self._sent * self._interval_ns / 1000)


class Arrivals:
    """A sink that notes when each batch came, and works out the latencies after the run."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, Batch]] = []

    def write_batch(self, items: Batch) -> None:
        self._batches.append((time.perf_counter_ns(), items))

    def latencies_ms(self, since: Callable[[Reading], int]) -> list[float]:
        """The sorted times from `since(reading)` to the arrival."""
        return sorted(
            (at - since(reading)) / 1e6
            for at, items in self._batches
            for _key, (_count, reading) in items
        )

    def digest(self) -> int:
        """A sum over keys, counts and numbers: equal for every contender, unlike the times."""
        return sum(
            hash((key, count, number))
            for _at, items in self._batches
            for key, (count, (number, _emitted)) in items
        ) % (2**64)


@dataclass(frozen=True, slots=True)
class Latency:
    """The paced flow at one pace."""

    name: str
    title: str
    per_second: int
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("p50_ms", "ms, p50 from emission", digits=3),
        Metric("p99_ms", "ms, p99 from emission", digits=3),
        Metric("due_p50_ms", "ms, p50 from due", digits=3),
        Metric("due_p99_ms", "ms, p99 from due", digits=3),
        Metric("cpu_s", "CPU s for the run"),
    )
    layout: ClassVar[Layout] = SIDE_BY_SIDE

    @property
    def contenders(self) -> tuple[str, ...]:
        return (BARE_UDF, *ENGINES)

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        run = _run_loop if contender == BARE_UDF else _run_flow
        with inputs_out_of_gc():
            pace, arrivals = run(contender, records, self.per_second)
            cpu_s = time.process_time() - pace.cpu_started_s
        from_emission = arrivals.latencies_ms(lambda reading: reading[1])
        from_due = arrivals.latencies_ms(lambda reading: pace.due_ns(reading[0]))
        figures = {
            "p50_ms": percentile(from_emission, 50),
            "p99_ms": percentile(from_emission, 99),
            "due_p50_ms": percentile(from_due, 50),
            "due_p99_ms": percentile(from_due, 99),
            "cpu_s": cpu_s,
        }
        return Outcome(figures, len(from_emission), arrivals.digest() if check else None)


def graph(op: Any, readings: Any) -> Any:
    return op.stateful_map("count", op.key_on("sensor", readings, sensor_of), count_readings)


def _run_flow(package: str, records: int, per_second: int) -> tuple[Pace, Arrivals]:
    engine = load_engine(package)
    pace = engine.source_part(Pace, records, per_second)
    arrivals = engine.sink_part(Arrivals)
    flow = engine.dataflow.Dataflow("benchmark")
    readings = engine.operators.input("in", flow, engine.source(pace))
    engine.operators.output("out", graph(engine.operators, readings), engine.sink(arrivals))
    engine.testing.run_main(flow)
    return pace, arrivals


def _run_loop(_contender: str, records: int, per_second: int) -> tuple[Pace, Arrivals]:
    pace = Pace(records, per_second)
    arrivals = Arrivals()
    counts: dict[str, int] = {}
    while True:
        try:
            batch = pace.next_batch()
        except StopIteration:
            return pace, arrivals
        out = []
        for reading in batch:
            key = sensor_of(reading)
            counts[key], counted = count_readings(counts.get(key), reading)
            out.append((key, counted))
        arrivals.write_batch(out)
        time.sleep(pace.wait_s())


def percentile(ordered: list[float], percent: int) -> float:
    """The value that so many percent of an ordered list are below."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _workload(per_second: int) -> Latency:
    return Latency(
        name=f"w8-{per_second}",
        title=f"W8 latency, key_on and stateful_map; {per_second:,}/s for 5 s",
        per_second=per_second,
        records=per_second * 5,
        records_quick=per_second // 2,
    )


WORKLOADS = (_workload(1_000), _workload(10_000))
