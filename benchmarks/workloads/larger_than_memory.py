"""State ten times as large as the memory it may take: W3 on keys that follow Zipf's law.

Three runs on one store, in one process: on an empty store; off the clock, once through all keys, so
that each has a state; and again, on the filled store. The hand-written loop does the same with a
dict, which holds everything.

Records are made when they are asked for, off the clock: so their keys are in memory only as long as
somebody keeps them. Memory is the greatest resident set seen at any batch, above that before the
first run; the second figure has thus what the first run left behind.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
import time
from array import array
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, family_of, load_engine
from benchmarks.feeds import Batch, BatchPart, Count, Digest
from benchmarks.workloads import running_mean
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._resident import resident_bytes

BATCH_SIZE = 1000
RECORDS_PER_KEY = 3
EPOCH_INTERVAL = timedelta(seconds=1)
BOUND_SHARE = 10
_MIXER = 7_368_787
"""A prime: multiplied by it, frequent keys lie anywhere among the others."""
_ENTRY_BYTES = 220
"""What the engine reckons for a key in its dicts, besides the key and the state."""

Run = Callable[[Iterable[Batch]], None]
"""Takes in all batches, keeping state from one call to the next."""


def state_bytes(keys: int) -> int:
    """About what the states of so many keys take in memory, as the engine reckons."""
    entry = ("key0000000", (1, 1.5))
    key, state = entry
    return keys * (_ENTRY_BYTES + sum(map(sys.getsizeof, (entry, key, state, *state))))


class Watch:
    """Makes records of key numbers, without time for that, and looks at the memory."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._off_clock_s = 0.0
        self._started_s: float | None = None

    def seconds(self, run: Run, numbers: array[int]) -> float:
        """How long a run takes from the first batch asked for to its end."""
        self.peak_bytes, self._off_clock_s, self._started_s = 0, 0.0, None
        run(self._batches(numbers))
        assert self._started_s is not None
        return time.perf_counter() - self._started_s - self._off_clock_s

    def _batches(self, numbers: array[int]) -> Iterator[Batch]:
        self._started_s = time.perf_counter()
        for start in range(0, len(numbers), BATCH_SIZE):
            began_s = time.perf_counter()
            # What the garbage collector has to do for the states is not to be done off the clock.
            gc.disable()
            some = numbers[start : start + BATCH_SIZE]
            batch = [(f"key{number:07d}", float(at)) for at, number in enumerate(some)]
            gc.enable()
            self.peak_bytes = max(self.peak_bytes, resident_bytes())
            self._off_clock_s += time.perf_counter() - began_s
            yield batch


@dataclass(frozen=True, slots=True)
class LargerThanMemory:
    """The running mean on three records for each key that there is."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("first_records_per_s", "M records/s, empty store", divisor=1e6, digits=3),
        Metric("first_rss_mb", "MB more RSS, empty store", digits=0),
        Metric("again_records_per_s", "M records/s, filled store", divisor=1e6, digits=3),
        Metric("again_rss_mb", "MB more RSS, filled store", digits=0),
    )
    layout: ClassVar[Layout] = Layout((BARE_UDF, "engine-bounded"), (("engine-bounded", BARE_UDF),))

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        keys = records // RECORDS_PER_KEY
        drawn, every = _drawn(records, keys), array("L", range(keys))
        sink_class = Digest if check else Count
        with tempfile.TemporaryDirectory(prefix="larger-than-memory-") as folder:
            if contender == BARE_UDF:
                sink, run = _loop(sink_class)
            else:
                bound = state_bytes(keys) // BOUND_SHARE
                sink, run = _flow(family_of(contender), sink_class, f"{folder}/store", bound)
            figures = _measured(run, drawn, every)
        return Outcome(figures, sink.records, sink.digest if isinstance(sink, Digest) else None)


def _measured(run: Run, drawn: array[int], every: array[int]) -> dict[str, float]:
    watch = Watch()
    with inputs_out_of_gc():
        before = resident_bytes()
        first_s = watch.seconds(run, drawn)
        first_bytes = watch.peak_bytes
        watch.seconds(run, every)
        again_s = watch.seconds(run, drawn)
        again_bytes = watch.peak_bytes
    return {
        "first_records_per_s": len(drawn) / first_s,
        "first_rss_mb": (first_bytes - before) / 1e6,
        "again_records_per_s": len(drawn) / again_s,
        "again_rss_mb": (again_bytes - before) / 1e6,
    }


def _loop(sink_class: type[Count]) -> tuple[Count, Run]:
    sink = sink_class()
    states: dict[str, running_mean.MeanState] = {}
    get, mean_of = states.get, running_mean.running_mean

    def run(batches: Iterable[Batch]) -> None:
        for batch in batches:
            out: Batch = []
            append = out.append
            for key, value in batch:
                states[key], mean = mean_of(get(key), value)
                append((key, mean))
            sink.write_batch(out)

    return sink, run


def _flow(
    package: str, sink_class: type[Count], store: str, state_memory: int
) -> tuple[Count, Run]:
    engine = load_engine(package)
    op: Any = engine.operators
    sink = engine.sink_part(sink_class)
    config = engine.recovery.RecoveryConfig(store, create=True, state_memory=state_memory)

    def run(batches: Iterable[Batch]) -> None:
        flow = engine.dataflow.Dataflow("benchmark")
        readings = op.input("in", flow, engine.source(engine.source_part(BatchPart, batches)))
        op.output("out", running_mean.graph(op, readings), engine.sink(sink))
        engine.testing.run_main(flow, epoch_interval=EPOCH_INTERVAL, recovery_config=config)

    return sink, run


def _drawn(records: int, keys: int) -> array[int]:
    """Key numbers by Zipf's law with exponent 1. In arrays, which leave no garbage behind."""
    weights = array("d", accumulate(1 / rank for rank in range(1, keys + 1)))
    draw, total = random.Random(1).random, weights[-1]
    return array("L", (bisect(weights, draw() * total) * _MIXER % keys for _ in range(records)))


WORKLOADS = (
    LargerThanMemory(
        name="larger-than-memory",
        title=f"State 10 times its {state_bytes(1_000_000) / BOUND_SHARE / 1e6:.0f} MB; Zipf keys",
        records=3_000_000,
        records_quick=150_000,
    ),
)
