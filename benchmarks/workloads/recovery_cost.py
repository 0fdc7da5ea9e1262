"""W6: what saving epochs costs a flow that goes as fast as it can: W3 with and without recovery.

Each engine is measured against itself without recovery. The figure is the time for each record, so
that a ratio says how many times as long it takes with recovery. The store is in a new folder of the
system's folder for temporary files, made before the clock starts; the last epoch is committed and
the store closed before it stops.

Bytewax saves so much slower that it gets an input of its own, long enough for several epochs.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, repeat
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, family_of, load_engine
from benchmarks.feeds import Batch, Count, Digest, split
from benchmarks.workloads import running_mean
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._throughput import time_flow, time_loop

BATCH_SIZE = 1000
KEYS = 100_000
DISTINCT_RECORDS = 1_000_000
"""So many are made; a longer input goes through them again."""

INTERVALS = {"1s": timedelta(seconds=1), "0.1s": timedelta(seconds=0.1)}


def _variants(engine: str) -> tuple[str, ...]:
    return (engine, *(f"{engine}-{label}" for label in INTERVALS))


@dataclass(frozen=True, slots=True)
class RecoveryCost:
    """The running mean per key, by one engine at several epoch intervals."""

    name: str
    title: str
    records: int
    records_quick: int
    engine: str

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("us_per_record", "µs/record", digits=3),)
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, *_variants("engine"), *_variants("bytewax")),
        tuple(
            (f"{engine}-{label}", engine) for engine in ("engine", "bytewax") for label in INTERVALS
        ),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return (BARE_UDF, *_variants(self.engine))

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        rounds = max(1, records // DISTINCT_RECORDS)
        made = split(_readings(records // rounds), BATCH_SIZE)
        batches = chain.from_iterable(repeat(made, rounds))
        with inputs_out_of_gc():
            sink, seconds = _time(contender, batches, Digest if check else Count)
        digest = sink.digest if isinstance(sink, Digest) else None
        return Outcome({"us_per_record": seconds / sink.records * 1e6}, sink.records, digest)


def _time(contender: str, batches: Iterable[Batch], sink_class: type[Count]) -> tuple[Count, float]:
    if contender == BARE_UDF:
        return time_loop(running_mean.loop_udf, [batches], sink_class)
    family = family_of(contender)
    engine = load_engine(family)
    options: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="recovery-cost-") as folder:
        if contender != family:
            options["recovery_config"] = engine.new_store(folder)
            options["epoch_interval"] = INTERVALS[contender.removeprefix(f"{family}-")]
        return time_flow(engine, running_mean.graph, [batches], sink_class, **options)


def _readings(records: int) -> list[tuple[str, float]]:
    names = [f"key{number:06d}" for number in range(KEYS)]
    choice = random.Random(1).choice
    return [(choice(names), float(number)) for number in range(records)]


def _workloads() -> Iterator[RecoveryCost]:
    for engine, records in (("engine", 6_000_000), ("bytewax", 200_000)):
        yield RecoveryCost(
            name=f"w6-{engine}",
            title=f"W6 running mean with recovery, {KEYS:,} keys; {records:,} records",
            records=records,
            records_quick=records // 20,
            engine=engine,
        )


WORKLOADS = tuple(_workloads())
