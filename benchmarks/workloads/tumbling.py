"""W4: the mean of each key and minute by `fold_window`, of records that come a little out of order.

By hand, windows are dicts of means by key, and the one that the last record was in is tried first.
One watermark for all keys is enough there, looked at once a batch: its last record's time less the
wait. Nothing is late, so each window has the same values as with a watermark for each key.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from benchmarks.contenders import BARE, BARE_UDF
from benchmarks.feeds import Batch
from benchmarks.workloads._throughput import Emit
from benchmarks.workloads._windowed import (
    ALIGN_TO,
    APART_US,
    WAIT,
    Mean,
    Windowed,
    mean_of,
    merged,
    no_mean,
    readings,
    time_of,
    windowing_of,
    with_reading,
)

LENGTH = timedelta(minutes=1)


def graph(op: Any, up: Any, *, ordered: bool) -> Any:
    win = windowing_of(op)
    windows = win.fold_window(
        "window",
        up,
        win.EventClock(time_of, WAIT),
        win.TumblingWindower(LENGTH, ALIGN_TO),
        no_mean,
        with_reading,
        merged,
        ordered,
    )
    return op.map_value("mean", windows.down, mean_of)


def loop_udf(emit: Emit, batches: Iterable[Batch]) -> None:
    windows: dict[int, dict[str, Mean]] = {}
    starts = ends = ALIGN_TO
    means: dict[str, Mean] = {}
    at = ALIGN_TO
    for batch in batches:
        for key, reading in batch:
            at = time_of(reading)
            if not starts <= at < ends:
                number = (at - ALIGN_TO) // LENGTH
                means = windows.setdefault(number, {})
                starts = ALIGN_TO + number * LENGTH
                ends = starts + LENGTH
            mean = means.get(key)
            means[key] = with_reading(no_mean() if mean is None else mean, reading)
        closed = (at - WAIT - ALIGN_TO) // LENGTH
        for number in [number for number in windows if number < closed]:
            done = windows.pop(number)
            emit([(key, mean_of((number, mean))) for key, mean in done.items()])
    for number, done in windows.items():
        emit([(key, mean_of((number, mean))) for key, mean in done.items()])


def loop_inlined(emit: Emit, batches: Iterable[Batch]) -> None:
    windows: dict[int, dict[str, list[float]]] = {}
    starts = ends = ALIGN_TO
    means: dict[str, list[float]] = {}
    get = means.get
    at = ALIGN_TO
    for batch in batches:
        for key, (at, reading) in batch:
            if not starts <= at < ends:
                number = (at - ALIGN_TO) // LENGTH
                means = windows.setdefault(number, {})
                get = means.get
                starts = ALIGN_TO + number * LENGTH
                ends = starts + LENGTH
            mean = get(key)
            if mean is None:
                means[key] = [1, reading]
            else:
                mean[0] += 1
                mean[1] += reading
        closed = (at - WAIT - ALIGN_TO) // LENGTH
        for number in [number for number in windows if number < closed]:
            done = windows.pop(number)
            emit([(key, (number, total / count)) for key, (count, total) in done.items()])
    for number, done in windows.items():
        emit([(key, (number, total / count)) for key, (count, total) in done.items()])


WORKLOADS = (
    Windowed(
        name="w4-keys1k",
        title="W4 mean per tumbling minute; 1,000 keys",
        feeds=lambda records: [readings(records, 1_000)],
        loops={BARE_UDF: loop_udf, BARE: loop_inlined},
        graph=graph,
    ),
    Windowed(
        name="w4-keys100k",
        title="W4 mean per tumbling minute; 150,000 records of 100,000 keys",
        feeds=lambda records: [readings(records, 100_000, apart_us=6 * APART_US)],
        loops={BARE_UDF: loop_udf, BARE: loop_inlined},
        graph=graph,
        records=150_000,
    ),
)
