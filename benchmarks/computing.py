"""The flow that `workloads/cpu_map.py` times in one and in two processes, and the same by hand."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

from benchmarks.contenders import load_engine
from benchmarks.feeds import Batch, split
from benchmarks.telling import NotedPart, Told, note_start

BATCH_SIZE = 100
ROUNDS = 300
"""So many take about 20 microseconds."""


def work(number: int) -> int:
    """Plain Python that does nothing but compute."""
    for turn in range(ROUNDS):
        number = (number * 31 + turn) & 0xFFFFFF
    return number


def numbers(process: int, processes: int, records: int) -> list[Batch]:
    """The input of one of the processes."""
    return split(list(range(process, records, processes)), BATCH_SIZE)


def flow_of(family: str, records: int, check: bool) -> Any:  # noqa: FBT001 - from a command line
    """The flow, of an engine, which runs it in some number of processes."""
    engine = load_engine(family)

    def build(_self: Any, _step_id: str, worker_index: int, worker_count: int) -> Any:
        return engine.source_part(NotedPart, numbers(worker_index, worker_count, records))

    def build_sink(*_: Any) -> Any:
        return type("TheTold", (Told, engine.outputs.StatelessSinkPartition), {})(check=check)

    op = engine.operators
    source = type("Shares", (engine.inputs.DynamicSource,), {"build": build})()
    sink = type("Tell", (engine.outputs.DynamicSink,), {"build": build_sink})()
    flow = engine.dataflow.Dataflow("computing")
    op.output("out", op.map("work", op.input("in", flow, source), work), sink)
    return flow


def by_hand(process: int, processes: int, records: int, check: bool) -> None:  # noqa: FBT001
    """One of the processes."""
    told, batches = Told(check=check), numbers(process, processes, records)
    note_start()
    for batch in batches:
        told.write_batch([work(number) for number in batch])
    told.close()


def main(processes: int, records: int, check: bool) -> None:  # noqa: FBT001
    """All of them."""
    started = [
        multiprocessing.Process(target=by_hand, args=(number, processes, records, check))
        for number in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True")
