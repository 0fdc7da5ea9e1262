"""W3: the running mean per key through `stateful_map`, every update coming out.

With 1,000 keys the state is at hand; with 200,000 keys most records touch memory that is not in
the processor's cache, which costs every contender.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contenders import BARE, BARE_UDF
from benchmarks.feeds import Batch, split
from benchmarks.workloads._throughput import Emit, Throughput

BATCH_SIZE = 1000

MeanState = tuple[int, float]


def running_mean(state: MeanState | None, value: float) -> tuple[MeanState, float]:
    if state is None:
        count, total = 0, 0.0
    else:
        count, total = state
    count += 1
    total += value
    return (count, total), total / count


def graph(op: Any, readings: Any) -> Any:
    return op.stateful_map("mean", readings, running_mean)


def loop_udf(emit: Emit, batches: Iterable[Batch]) -> None:
    states: dict[str, MeanState] = {}
    get = states.get
    for batch in batches:
        out: Batch = []
        append = out.append
        for key, value in batch:
            states[key], mean = running_mean(get(key), value)
            append((key, mean))
        emit(out)


def loop_inlined(emit: Emit, batches: Iterable[Batch]) -> None:
    states: dict[str, MeanState] = {}
    get = states.get
    nothing = (0, 0.0)
    for batch in batches:
        out: Batch = []
        append = out.append
        for key, value in batch:
            count, total = get(key, nothing)
            count += 1
            total += value
            states[key] = (count, total)
            append((key, total / count))
        emit(out)


def _feeds(keys: int) -> Callable[[int], list[list[Batch]]]:
    def feeds(records: int) -> list[list[Batch]]:
        names = [str(number) for number in range(keys)]
        choice = random.Random(1).choice
        return [split([(choice(names), float(i)) for i in range(records)], BATCH_SIZE)]

    return feeds


def _workload(keys: int, label: str) -> Throughput:
    return Throughput(
        name=f"w3-{label}",
        title=f"W3 running mean per key; {keys:,} keys",
        records=1_000_000,
        records_quick=50_000,
        feeds=_feeds(keys),
        loops={BARE_UDF: loop_udf, BARE: loop_inlined},
        graph=graph,
    )


WORKLOADS = (_workload(1_000, "keys1k"), _workload(200_000, "keys200k"))
