"""W1: map, filter and map over integers, in batches of 1000, 10 and 1.

Small batches show what an engine spends per batch rather than per record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contenders import BARE, BARE_UDF
from benchmarks.feeds import Batch, split
from benchmarks.workloads._throughput import Emit, Throughput


def add_one(number: int) -> int:
    return number + 1


def is_even(number: int) -> bool:
    return number % 2 == 0


def triple(number: int) -> int:
    return number * 3


def graph(op: Any, numbers: Any) -> Any:
    numbers = op.map("add_one", numbers, add_one)
    numbers = op.filter("is_even", numbers, is_even)
    return op.map("triple", numbers, triple)


def loop_udf(emit: Emit, batches: Iterable[Batch]) -> None:
    for batch in batches:
        out: Batch = []
        append = out.append
        for number in batch:
            bumped = add_one(number)
            if is_even(bumped):
                append(triple(bumped))
        if out:
            emit(out)


def loop_inlined(emit: Emit, batches: Iterable[Batch]) -> None:
    for batch in batches:
        out = [bumped * 3 for number in batch if (bumped := number + 1) % 2 == 0]
        if out:
            emit(out)


def _feeds(batch_size: int) -> Callable[[int], list[list[Batch]]]:
    return lambda records: [split(list(range(records)), batch_size)]


def _workload(batch_size: int, records: int) -> Throughput:
    return Throughput(
        name=f"w1-batch{batch_size}",
        title=f"W1 map, filter, map; batch {batch_size}",
        records=records,
        records_quick=records // 20,
        feeds=_feeds(batch_size),
        loops={BARE_UDF: loop_udf, BARE: loop_inlined},
        graph=graph,
    )


WORKLOADS = (_workload(1000, 2_000_000), _workload(10, 1_000_000), _workload(1, 200_000))
