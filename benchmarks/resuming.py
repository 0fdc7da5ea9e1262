"""The flow whose resumption `workloads/resume.py` times, run by `python -m engine.run`.

It counts records per key. Its input are some of the keys that the store has, once each; its sink
prints what came out and when, as JSON, on the clock that all processes of a machine share. Run by
itself, `python -m benchmarks.resuming KEYS`, this file does the same in a hand-written loop.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.contenders import load_engine
from benchmarks.feeds import Batch, BatchPart, Count

ASKED = 1000
"""How many keys come after the resumption, in one batch."""

CountState = tuple[int, float]


def counted(state: CountState | None, value: float) -> tuple[CountState, int]:
    count, total = state or (0, 0.0)
    return (count + 1, total + value), count + 1


def readings(numbers: Iterable[int]) -> Batch:
    return [(f"key{number:07d}", 1.0) for number in numbers]


def asked(keys: int) -> Batch:
    """The input of a resumed run: keys from all over the store."""
    return readings(range(0, keys, keys // ASKED))[:ASKED]


class FirstBatch:
    """Prints the first batch that comes: the clock, when the run began, and the counts."""

    def __init__(self, began_s: float) -> None:
        self._began_s: float | None = began_s

    def write_batch(self, items: Batch) -> None:
        if self._began_s is None:
            return
        stamps = {"run_s": self._began_s, "out_s": time.monotonic()}
        self._began_s = None
        print(json.dumps({**stamps, "counts": [count for _key, count in items]}), flush=True)


def flow_of(batches: Iterable[Batch], sink: type[Any] = Count, *arguments: Any) -> Any:
    """The flow over some batches, to a sink made of a class and its arguments."""
    engine = load_engine("engine")
    op: Any = engine.operators
    flow = engine.dataflow.Dataflow("resume")
    stream = op.input("in", flow, engine.source(engine.source_part(BatchPart, batches)))
    counts = op.stateful_map("count", stream, counted)
    op.output("out", counts, engine.sink(engine.sink_part(sink, *arguments)))
    return flow


def resumed(keys: int) -> Any:
    """The flow of a resumed run, over a store that has so many keys."""
    return flow_of([asked(keys)], FirstBatch, time.monotonic())


def main(keys: int) -> None:
    """What the flow does, by hand and without a store."""
    sink = FirstBatch(time.monotonic())
    states: dict[str, CountState] = {}
    out: Batch = []
    for key, value in asked(keys):
        states[key], count = counted(states.get(key), value)
        out.append((key, count))
    sink.write_batch(out)


if __name__ == "__main__":
    main(int(sys.argv[1]))
