"""How long a record takes to the process that owns its key when records come at a steady pace.

W8's flow in two processes. The figures are of the records that changed process: from when they were
due at their source to when they came to the sink. The first second, in which processes start, isn't
counted. Epochs close each second, without a store and, in the variants named `-1s`, with one; "near
a barrier" are the records that were due from 10 ms before until 90 ms after an epoch closed in one
of the processes. bare-udf is two processes that send each other pickles. It has no epochs; it takes
note of each second all the same, so that the figures can be compared.
"""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from dataclasses import dataclass
from itertools import chain
from math import nan
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, family_of, load_engine
from benchmarks.workloads._base import Layout, Metric, Outcome
from benchmarks.workloads._processes import flow_arguments, run_module
from benchmarks.workloads.exchange import PROCESSES

WARM_UP_NS = 1_000_000_000
BEFORE_BARRIER_NS, AFTER_BARRIER_NS = 10_000_000, 90_000_000
EPOCH = "1"


@dataclass(frozen=True, slots=True)
class ExchangeLatency:
    """The paced flow at one pace, in two processes."""

    name: str
    title: str
    per_second: int
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("p50_ms", "ms, p50 from due", digits=3),
        Metric("p99_ms", "ms, p99 from due", digits=3),
        Metric("barrier_p50_ms", "ms, p50 near a barrier", digits=3),
        Metric("barrier_p99_ms", "ms, p99 near a barrier", digits=3),
        Metric("rest_p99_ms", "ms, p99 of the rest", digits=3),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, "engine", "engine-1s", "bytewax", "bytewax-1s"),
        (("engine", BARE_UDF), ("engine-1s", "engine"), ("engine", "bytewax")),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="exchange-latency-") as folder:
            told = _told(contender, records, self.per_second, Path(folder))
        count = sum(one["records"] for one in told)
        if count != records:
            msg = f"{contender}: {count} of {records} records came out"
            raise RuntimeError(msg)
        digest = sum(one["sum"] for one in told) if check else None
        return Outcome(figures_of(told), count, digest)


def _told(contender: str, records: int, per_second: int, folder: Path) -> list[dict[str, Any]]:
    """What the processes write."""
    wanted, results = (records, per_second), folder / "results"
    results.mkdir()
    if contender == BARE_UDF:
        run_module(["benchmarks.pacing", *map(str, wanted), str(results)])
    else:
        family = family_of(contender)
        flow = f"benchmarks.pacing:flow_of({family!r}, {records}, {per_second}, {str(results)!r})"
        arguments = [*flow_arguments(contender, flow, PROCESSES), "-s", EPOCH]
        if contender != family:
            store = folder / "store"
            store.mkdir()
            load_engine(family).new_store(str(store))
            arguments += ["-r", str(store), "-b", "0"]
        run_module(arguments)
    return [json.loads(path.read_text(encoding="utf-8")) for path in results.iterdir()]


def figures_of(told: list[dict[str, Any]]) -> dict[str, float]:
    """Percentiles of all latencies after the first second, of those near a barrier, of the rest."""
    taken = sorted(chain.from_iterable(one["taken"] for one in told))
    epochs = sorted(chain.from_iterable(one["epochs"] for one in told))
    begun_ns = taken[0][0] + WARM_UP_NS if taken else 0
    near: list[int] = []
    rest: list[int] = []
    for due_ns, took_ns in taken:
        if due_ns >= begun_ns:
            before = bisect_right(epochs, due_ns + BEFORE_BARRIER_NS)
            is_near = before > 0 and due_ns - epochs[before - 1] < AFTER_BARRIER_NS
            (near if is_near else rest).append(took_ns)
    return {
        "p50_ms": _percentile_ms([*near, *rest], 50),
        "p99_ms": _percentile_ms([*near, *rest], 99),
        "barrier_p50_ms": _percentile_ms(near, 50),
        "barrier_p99_ms": _percentile_ms(near, 99),
        "rest_p99_ms": _percentile_ms(rest, 99),
    }


def _percentile_ms(took_ns: list[int], percent: int) -> float:
    ordered = sorted(took_ns)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] / 1e6 if ordered else nan


WORKLOADS = (
    ExchangeLatency(
        name="exchange-latency",
        title="Latency between 2 processes; 10,000/s for 6 s",
        per_second=10_000,
        records=60_000,
        records_quick=20_000,
    ),
)
