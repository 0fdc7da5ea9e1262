"""How long after its time a window comes out, when records come at a steady pace.

Windows of 0.2 s close by the wall clock: a key's watermark goes on with it after the key's latest
record, so a window is due `WAIT` after its end, and no record need come. After the last record the
source stays silent until all windows were due. Latency goes from the moment at which a window was
due to its arrival at the sink; all keys' windows are due at the same moments, 100 at a time.
By hand, one sleeps until the next record or window is due. Times of events are those that the pace
wants, on a date of their own, so that all contenders give the same windows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, ENGINES, load_engine
from benchmarks.feeds import Batch
from benchmarks.workloads._base import SIDE_BY_SIDE, Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._windowed import ALIGN_TO, time_of, windowing_of
from benchmarks.workloads.latency import SENSORS, Pace, percentile

LENGTH = timedelta(milliseconds=200)
WAIT = timedelta(seconds=1)
"""Long, lest records are late when the machine stands still for a moment."""

SILENCE_NS = 100_000_000
"""How long the source goes on when the last window was due."""

_LENGTH_NS = 200_000_000
_WAIT_NS = 1_000_000_000

Reading = tuple[datetime, int]


def count_none() -> int:
    return 0


def count_one(count: int, _reading: Reading) -> int:
    return count + 1


def add(one: int, other: int) -> int:
    return one + other


class TimedPace(Pace):
    """Hands out records with the times of their events, and is silent for a while at the end."""

    def __init__(self, records: int, per_second: int) -> None:
        super().__init__(records, per_second)
        self._apart = timedelta(seconds=1) / per_second
        last_window = (records - 1) * self._apart // LENGTH
        self._ends_after_ns = (last_window + 1) * _LENGTH_NS + _WAIT_NS + SILENCE_NS

    def next_batch(self) -> Batch:
        if self._sent == self._records:
            if time.perf_counter_ns() >= self.started_ns + self._ends_after_ns:
                raise StopIteration
            return []
        apart, sensors = self._apart, len(SENSORS)
        return [
            (SENSORS[number % sensors], (ALIGN_TO + number * apart, number))
            for number, _handed_out_ns in super().next_batch()
        ]

    def next_awake(self) -> datetime | None:
        if self._sent == self._records:
            return self._started_at + timedelta(microseconds=self._ends_after_ns / 1000)
        return super().next_awake()

    def window_due_ns(self, window: int) -> int:
        """When a window should come out, in nanoseconds of the performance counter."""
        return self.started_ns + (window + 1) * _LENGTH_NS + _WAIT_NS


class Closings:
    """A sink that notes when each batch of windows came."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, Batch]] = []

    def write_batch(self, items: Batch) -> None:
        self._batches.append((time.perf_counter_ns(), items))

    def latencies_ms(self, pace: TimedPace) -> list[float]:
        """The sorted times from when windows were due to their arrival."""
        return sorted(
            (at - pace.window_due_ns(window)) / 1e6
            for at, items in self._batches
            for _key, (window, _count) in items
        )

    def digest(self) -> int:
        """A sum over what came, which doesn't depend on when."""
        return sum(hash(item) for _at, items in self._batches for item in items) % 2**64


@dataclass(frozen=True, slots=True)
class WindowLatency:
    """The paced flow."""

    name: str
    title: str
    per_second: int
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("p50_ms", "ms, p50", digits=3),
        Metric("p99_ms", "ms, p99", digits=3),
        Metric("cpu_s", "CPU s for the run"),
    )
    layout: ClassVar[Layout] = SIDE_BY_SIDE

    @property
    def contenders(self) -> tuple[str, ...]:
        return (BARE_UDF, *ENGINES)

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        run = _run_loop if contender == BARE_UDF else _run_flow
        with inputs_out_of_gc():
            pace, closings = run(contender, records, self.per_second)
            cpu_s = time.process_time() - pace.cpu_started_s
        latencies = closings.latencies_ms(pace)
        figures = {
            "p50_ms": percentile(latencies, 50),
            "p99_ms": percentile(latencies, 99),
            "cpu_s": cpu_s,
        }
        return Outcome(figures, len(latencies), closings.digest() if check else None)


def graph(op: Any, readings: Any) -> Any:
    win = windowing_of(op)
    clock = win.EventClock(time_of, WAIT)
    windower = win.TumblingWindower(LENGTH, ALIGN_TO)
    return win.fold_window("count", readings, clock, windower, count_none, count_one, add).down


def _run_flow(package: str, records: int, per_second: int) -> tuple[TimedPace, Closings]:
    engine = load_engine(package)
    pace = engine.source_part(TimedPace, records, per_second)
    closings = engine.sink_part(Closings)
    flow = engine.dataflow.Dataflow("benchmark")
    readings = engine.operators.input("in", flow, engine.source(pace))
    engine.operators.output("out", graph(engine.operators, readings), engine.sink(closings))
    engine.testing.run_main(flow)
    return pace, closings


def _run_loop(_contender: str, records: int, per_second: int) -> tuple[TimedPace, Closings]:
    pace = TimedPace(records, per_second)
    closings = Closings()
    windows: dict[int, dict[str, int]] = {}
    while True:
        try:
            batch = pace.next_batch()
        except StopIteration:
            return pace, closings
        for key, reading in batch:
            counts = windows.setdefault((time_of(reading) - ALIGN_TO) // LENGTH, {})
            counts[key] = count_one(counts.get(key, 0), reading)
        now = time.perf_counter_ns()
        for window in [window for window in windows if pace.window_due_ns(window) <= now]:
            counted = windows.pop(window)
            closings.write_batch([(key, (window, count)) for key, count in counted.items()])
        waits_s = [(pace.window_due_ns(window) - now) / 1e9 for window in windows]
        time.sleep(max(0.0, min([pace.wait_s() or SILENCE_NS / 1e9, *waits_s])))


WORKLOADS = (
    WindowLatency(
        name="window-latency",
        title="Windows of 0.2 s on time; 1,000/s for 5 s",
        per_second=1_000,
        records=5_000,
        records_quick=500,
    ),
)
