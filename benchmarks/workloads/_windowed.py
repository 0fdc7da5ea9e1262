"""What the workloads on windows have in common: records that carry their time, and who does them.

A record is `(key, (time, number))`. The times are `datetime`s in UTC, made in advance, and out of
order by at most `DISORDER_S`, so with `WAIT` none is late. The numbers are whole, so their sums are
the same in any order. The engines run each flow in two ways: with values given to the fold in the
order of their times, as is the default, and (`-unordered`) in the order of arrival.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar

from benchmarks.contenders import BARE, BARE_UDF, ENGINES, family_of, load_engine
from benchmarks.feeds import Batch, Count, Digest, split
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._throughput import Loop, time_flow, time_loop

BATCH_SIZE = 1000
ALIGN_TO = datetime(2024, 1, 1, tzinfo=UTC)
WAIT = timedelta(seconds=10)
DISORDER_S = 3.0
APART_US = 600
"""Between two records, unless they are for a flow that runs longer than their times say: then
Bytewax's clock, which goes on by the wall clock, would find values late."""

UNORDERED = "-unordered"

Reading = tuple[datetime, float]
Mean = tuple[int, float]
"""The fold of a mean: how many, and their sum."""


def time_of(reading: Reading) -> datetime:
    return reading[0]


def no_mean() -> Mean:
    return 0, 0.0


def with_reading(mean: Mean, reading: Reading) -> Mean:
    return mean[0] + 1, mean[1] + reading[1]


def merged(one: Mean, other: Mean) -> Mean:
    return one[0] + other[0], one[1] + other[1]


def mean_of(window: tuple[int, Mean]) -> tuple[int, float]:
    number, (count, total) = window
    return number, total / count


def windowing_of(op: Any) -> Any:
    """The module of window operators that belongs to an engine's operators."""
    return importlib.import_module(f"{op.__name__}.windowing")


def readings(records: int, keys: int, *, seed: int = 1, apart_us: int = APART_US) -> list[Batch]:
    """So many records of so many keys in batches."""
    start = ALIGN_TO + timedelta(seconds=DISORDER_S)
    names = [f"key{number:06d}" for number in range(keys)]
    generator = random.Random(seed)
    choice, uniform = generator.choice, generator.uniform
    made = []
    for number in range(records):
        at_us = number * apart_us - int(uniform(0.0, DISORDER_S) * 1e6)
        made.append((choice(names), (start + timedelta(microseconds=at_us), float(number))))
    return split(made, BATCH_SIZE)


@dataclass(frozen=True, slots=True)
class Windowed:
    """A flow with windows and its hand-written loops over the same batches."""

    name: str
    title: str
    feeds: Callable[[int], list[list[Batch]]]
    loops: Mapping[str, Loop]
    graph: Callable[..., Any]
    """`graph(op, *streams, ordered=...)` gives the last stream."""
    records: int = 1_000_000
    records_quick: int = 50_000

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "M records/s", divisor=1e6, digits=3),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, BARE, *(f"{name}{order}" for name in ENGINES for order in ("", UNORDERED))),
        (
            ("engine", BARE),
            (f"engine{UNORDERED}", BARE),
            ("bytewax", BARE),
            ("engine", "bytewax"),
            (f"engine{UNORDERED}", f"bytewax{UNORDERED}"),
        ),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def graph_of(self, contender: str) -> Callable[..., Any]:
        """The flow as a contender runs it."""
        return partial(self.graph, ordered=not contender.endswith(UNORDERED))

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        feeds = self.feeds(records)
        sink_class = Digest if check else Count
        with inputs_out_of_gc():
            if contender in self.loops:
                sink, seconds = time_loop(self.loops[contender], feeds, sink_class)
            else:
                graph = self.graph_of(contender)
                engine = load_engine(family_of(contender))
                sink, seconds = time_flow(engine, graph, feeds, sink_class)
        digest = sink.digest if isinstance(sink, Digest) else None
        return Outcome({"records_per_s": records / seconds}, sink.records, digest)
