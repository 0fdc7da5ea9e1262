"""How long a worker stands still for an epoch in which 100,000 keys have changed.

The flow is W3's; its input goes through all keys again and again, so that each epoch has them all.
The source notes how long it isn't polled: the longest such gap up to a commit is the stall, from
the barrier until the epoch is committed, together with one batch of ordinary work. The hand-written
loop saves the rows that have changed by the plainest means, in columns of 256 rows to a file, and
syncs it.

Since disks have their moods, each process also writes the same rows in this plainest way itself,
right after each epoch, and the stall is divided by the time of that.
"""

from __future__ import annotations

import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, repeat
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, load_engine
from benchmarks.feeds import Batch, Count, Digest, split
from benchmarks.workloads import running_mean
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc

KEYS = 100_000
BATCH_SIZE = 1000
COLUMN_ROWS = 256
EPOCH_INTERVAL = timedelta(seconds=0.5)
PASSES_PER_EPOCH = 5
"""Of the hand-written loop: about what the engine does in its interval."""


class Rows:
    """A file that rows are written to in the plainest way that survives a crash."""

    def __init__(self, folder: str) -> None:
        self._file = os.open(Path(folder, "rows"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, rows: Mapping[str, Any]) -> float:
        """Add rows and sync; gives the seconds that it took."""
        began_s = time.perf_counter()
        keys, values = list(rows), list(rows.values())
        columns: list[bytes] = []
        for start in range(0, len(keys), COLUMN_ROWS):
            some = slice(start, start + COLUMN_ROWS)
            columns += pickle.dumps(keys[some], 5), pickle.dumps(values[some], 5)
        os.write(self._file, b"".join(columns))
        os.fdatasync(self._file)
        return time.perf_counter() - began_s

    def close(self) -> None:
        os.close(self._file)


class Input:
    """Goes through all keys a number of times, and notes for each epoch how long it stood still.

    Args:
        keys: How many there are.
        passes: How often each comes.
        plain: Where the same rows are written plainly, for comparison.
        epochs_min: After the last record wait until so many epochs are noted.
    """

    def __init__(self, keys: int, passes: int, plain: Rows, epochs_min: int) -> None:
        self.stalls_s: list[float] = []
        self.writes_s: list[float] = []
        self._names = [f"key{number:06d}" for number in range(keys)]
        one_pass = split([(name, float(at)) for at, name in enumerate(self._names)], BATCH_SIZE)
        self.batches_per_pass = len(one_pass)
        self._batches: Iterator[Batch] = chain.from_iterable(repeat(one_pass, passes))
        self._plain = plain
        self._epochs_min = epochs_min
        self._given = 0
        self._given_before_epoch = 0
        self._given_at_s: float | None = None
        self._longest_s = 0.0
        self._committed = False

    def next_batch(self) -> Batch:
        if self._given_at_s is not None:
            self._longest_s = max(self._longest_s, time.perf_counter() - self._given_at_s)
        if self._committed:
            self._end_epoch()
        batch = next(self._batches, None)
        if batch is None:
            if len(self.stalls_s) >= self._epochs_min:
                raise StopIteration
            batch = []
        else:
            self._given += 1
        self._given_at_s = time.perf_counter()
        return batch

    def on_commit(self, _state: None) -> None:
        self._committed = True

    def _end_epoch(self) -> None:
        changed = min(self._given - self._given_before_epoch, self.batches_per_pass)
        if changed == self.batches_per_pass:
            self.stalls_s.append(self._longest_s)
            self.writes_s.append(self._plain.write(self._states()))
        elif self._given == self._given_before_epoch:
            # The input is over, and no epoch to come will have all keys.
            self._epochs_min = 0
        self._committed = False
        self._given_before_epoch, self._longest_s = self._given, 0.0

    def _states(self) -> dict[str, running_mean.MeanState]:
        """What the keys' states are now, or were a pass ago."""
        count = self._given // self.batches_per_pass
        return {name: (count, float(at) * count) for at, name in enumerate(self._names)}


InputArguments = tuple[int, int, Rows, int]
"""Those of `Input`."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """The running mean with all keys changed in each epoch."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("stall_ms", "ms, stall of an epoch", digits=1),
        Metric("write_ms", "ms, plain write of its rows", digits=1),
        Metric("stall_ratio", "stall / plain write"),
    )
    layout: ClassVar[Layout] = Layout((BARE_UDF, "engine"), (("engine", BARE_UDF),))

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        keys = min(KEYS, max(1, records // PASSES_PER_EPOCH))
        sink_class = Digest if check else Count
        run = _run_loop if contender == BARE_UDF else _run_flow
        with tempfile.TemporaryDirectory(prefix="barrier-") as folder:
            plain = Rows(folder)
            try:
                arguments = keys, records // keys, plain, int(not check)
                with inputs_out_of_gc():
                    given, sink = run(contender, arguments, sink_class)
            finally:
                plain.close()
        figures = {} if check else _figures(given)
        return Outcome(figures, sink.records, sink.digest if isinstance(sink, Digest) else None)


def _figures(given: Input) -> dict[str, float]:
    if not given.stalls_s:
        msg = "no epoch had all keys changed"
        raise RuntimeError(msg)
    ratios = [stall / write for stall, write in zip(given.stalls_s, given.writes_s, strict=True)]
    return {
        "stall_ms": statistics.median(given.stalls_s) * 1e3,
        "write_ms": statistics.median(given.writes_s) * 1e3,
        "stall_ratio": statistics.median(ratios),
    }


def _run_flow(
    package: str, arguments: InputArguments, sink_class: type[Count]
) -> tuple[Input, Count]:
    engine = load_engine(package)
    op: Any = engine.operators
    sink = engine.sink_part(sink_class)
    given = engine.source_part(Input, *arguments)
    flow = engine.dataflow.Dataflow("benchmark")
    means = running_mean.graph(op, op.input("in", flow, engine.source(given)))
    op.output("out", means, engine.sink(sink))
    with tempfile.TemporaryDirectory(prefix="barrier-store-") as folder:
        store = engine.new_store(folder)
        engine.testing.run_main(flow, epoch_interval=EPOCH_INTERVAL, recovery_config=store)
    return given, sink


def _run_loop(
    _contender: str, arguments: InputArguments, sink_class: type[Count]
) -> tuple[Input, Count]:
    given, sink = Input(*arguments), sink_class()
    with tempfile.TemporaryDirectory(prefix="barrier-store-") as folder:
        rows = Rows(folder)
        try:
            _loop(given, sink, rows)
        finally:
            rows.close()
    return given, sink


def _loop(given: Input, sink: Count, rows: Rows) -> None:
    """The running mean, saving what has changed every few passes."""
    states: dict[str, running_mean.MeanState] = {}
    touched: dict[str, running_mean.MeanState] = {}
    get, mean_of = states.get, running_mean.running_mean
    batches_until_save = batches_per_epoch = given.batches_per_pass * PASSES_PER_EPOCH
    while True:
        try:
            batch = given.next_batch()
        except StopIteration:
            return
        out: Batch = []
        append = out.append
        for key, value in batch:
            state, mean = mean_of(get(key), value)
            states[key] = touched[key] = state
            append((key, mean))
        sink.write_batch(out)
        batches_until_save -= 1
        if not batches_until_save:
            rows.write(touched)
            touched.clear()
            given.on_commit(None)
            batches_until_save = batches_per_epoch


WORKLOADS = (
    Barrier(
        name="barrier",
        title=f"Barrier after {KEYS:,} changed keys",
        records=4_000_000,
        records_quick=1_000_000,
    ),
)
