"""W4s: the mean of each key in sliding windows of a minute, by `fold_window`.

"engine-shared" is the engine with `share_panes=True`, by which it calls the user's folder once for
each record, and his merger to put a window together: what "bare" does, too. Without it, it calls
the folder for each window that a record is in, as Bytewax does.

"bare" adds each record to a pane, a stretch as long as the windows are apart, and a window is what
its panes come to when it closes. "bare-udf" has no panes: it calls the user's folder for each
window that a record is in. What else they do is as in `tumbling.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

from benchmarks.contenders import BARE, BARE_UDF
from benchmarks.feeds import Batch
from benchmarks.workloads._base import Layout
from benchmarks.workloads._throughput import Emit
from benchmarks.workloads._windowed import (
    ALIGN_TO,
    UNORDERED,
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
SHARED = "engine-shared"


def graph(op: Any, up: Any, *, every: timedelta, ordered: bool, **options: bool) -> Any:
    win = windowing_of(op)
    windows = win.fold_window(
        "window",
        up,
        win.EventClock(time_of, WAIT),
        win.SlidingWindower(LENGTH, every, ALIGN_TO),
        no_mean,
        with_reading,
        merged,
        ordered,
        **options,
    )
    return op.map_value("mean", windows.down, mean_of)


def loop_udf(emit: Emit, batches: Iterable[Batch], *, every: timedelta) -> None:
    windows: dict[int, dict[str, Mean]] = {}
    per_window = LENGTH // every
    starts = ends = at = ALIGN_TO
    open_now: list[tuple[int, dict[str, Mean]]] = []
    for batch in batches:
        for key, reading in batch:
            at = time_of(reading)
            if not starts <= at < ends:
                last = (at - ALIGN_TO) // every
                numbers = range(last - per_window + 1, last + 1)
                open_now = [(number, windows.setdefault(number, {})) for number in numbers]
                starts = ALIGN_TO + last * every
                ends = starts + every
            for _number, means in open_now:
                mean = means.get(key)
                means[key] = with_reading(no_mean() if mean is None else mean, reading)
        closed = (at - WAIT - LENGTH - ALIGN_TO) // every
        for number in [number for number in windows if number <= closed]:
            done = windows.pop(number)
            emit([(key, mean_of((number, mean))) for key, mean in done.items()])
    for number, done in windows.items():
        emit([(key, mean_of((number, mean))) for key, mean in done.items()])


def loop_inlined(emit: Emit, batches: Iterable[Batch], *, every: timedelta) -> None:
    panes: dict[int, dict[str, list[float]]] = {}
    per_window = LENGTH // every
    starts = ends = at = ALIGN_TO
    means: dict[str, list[float]] = {}
    get = means.get
    first = 1 - per_window  # The earliest window that is still open.
    for batch in batches:
        for key, (at, reading) in batch:
            if not starts <= at < ends:
                number = (at - ALIGN_TO) // every
                means = panes.setdefault(number, {})
                get = means.get
                starts = ALIGN_TO + number * every
                ends = starts + every
            mean = get(key)
            if mean is None:
                means[key] = [1, reading]
            else:
                mean[0] += 1
                mean[1] += reading
        closed = (at - WAIT - LENGTH - ALIGN_TO) // every
        for number in range(first, closed + 1):
            emit(_window(panes, number, per_window))
            panes.pop(number, None)
        first = max(first, closed + 1)
    for number in range(first, max(panes) + 1):
        emit(_window(panes, number, per_window))
        panes.pop(number, None)


def _window(
    panes: dict[int, dict[str, list[float]]], number: int, per_window: int
) -> list[tuple[str, tuple[int, float]]]:
    """The means of a window: its panes' counts and sums added up."""
    sums: dict[str, tuple[float, float]] = {}
    get = sums.get
    nothing = (0, 0.0)
    for pane in range(number, number + per_window):
        for key, (count, total) in panes.get(pane, {}).items():
            count_before, total_before = get(key, nothing)
            sums[key] = count_before + count, total_before + total
    return [(key, (number, total / count)) for key, (count, total) in sums.items()]


@dataclass(frozen=True, slots=True)
class Sliding(Windowed):
    """With contenders whose windows share panes."""

    layout: ClassVar[Layout] = Layout(
        (
            *(BARE_UDF, BARE, "engine", f"engine{UNORDERED}", SHARED, f"{SHARED}{UNORDERED}"),
            *("bytewax", f"bytewax{UNORDERED}"),
        ),
        (
            ("engine", BARE),
            (SHARED, BARE),
            (f"{SHARED}{UNORDERED}", BARE),
            ("bytewax", BARE),
            ("engine", "bytewax"),
            (SHARED, "bytewax"),
            (f"engine{UNORDERED}", f"bytewax{UNORDERED}"),
            (f"{SHARED}{UNORDERED}", f"bytewax{UNORDERED}"),
        ),
    )

    def graph_of(self, contender: str) -> Callable[..., Any]:
        """The flow as a contender runs it."""
        made = Windowed.graph_of(self, contender)
        return partial(made, share_panes=True) if contender.startswith(SHARED) else made


def _workload(every_s: int, records: int) -> Windowed:
    every = timedelta(seconds=every_s)
    loops: dict[str, Callable[..., None]] = {BARE_UDF: loop_udf, BARE: loop_inlined}
    return Sliding(
        name=f"w4s-{every_s}s",
        title=f"W4s mean per minute, every {every_s} s; {records:,} records, 1,000 keys",
        feeds=lambda made: [readings(made, 1_000)],
        loops={name: partial(loop, every=every) for name, loop in loops.items()},
        graph=partial(graph, every=every),
        records=records,
    )


WORKLOADS = (_workload(15, 1_000_000), _workload(6, 300_000))
