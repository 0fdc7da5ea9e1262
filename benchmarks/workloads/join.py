"""W5: join two streams of unique keys; each pair comes out when its second side has come.

Both sides hold the same keys in different random orders, so that in the middle of the run a quarter
of the keys wait on each side. There is no user function in it: the only loop is both the inlined
one and the reference.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from benchmarks.contenders import BARE_UDF
from benchmarks.feeds import Batch, split
from benchmarks.workloads._throughput import Emit, Throughput

BATCH_SIZE = 1000


def graph(op: Any, left: Any, right: Any) -> Any:
    return op.join("join", left, right)


def loop(emit: Emit, left: Iterable[Batch], right: Iterable[Batch]) -> None:
    left_waiting: dict[str, int] = {}
    right_waiting: dict[str, int] = {}
    for left_batch, right_batch in zip(left, right, strict=True):
        out: Batch = []
        append = out.append
        for key, value in left_batch:
            if key in right_waiting:
                append((key, (value, right_waiting.pop(key))))
            else:
                left_waiting[key] = value
        for key, value in right_batch:
            if key in left_waiting:
                append((key, (left_waiting.pop(key), value)))
            else:
                right_waiting[key] = value
        if out:
            emit(out)


def _feeds(records: int) -> list[list[Batch]]:
    return [_side(records // 2, seed) for seed in (1, 2)]


def _side(keys: int, seed: int) -> list[Batch]:
    # Each side makes its own strings: keys read from two real streams are never the same objects.
    names = [f"key{number:07d}" for number in range(keys)]
    random.Random(seed).shuffle(names)
    return split([(name, value) for value, name in enumerate(names)], BATCH_SIZE)


WORKLOADS = (
    Throughput(
        name="w5-join",
        title="W5 join of 2 streams of 500,000 unique keys",
        records=1_000_000,
        records_quick=50_000,
        feeds=_feeds,
        loops={BARE_UDF: loop},
        graph=graph,
    ),
)
