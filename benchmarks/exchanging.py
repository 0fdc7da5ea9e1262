"""The flow whose exchange `workloads/exchange.py` times, and the same by hand in two processes.

W3, with the records of each process half for its own keys and half for the other's. Each process
makes its half of the input before its first batch.
"""

from __future__ import annotations

import multiprocessing
import pickle
import random
import sys
from typing import Any
from zlib import crc32

from benchmarks.contenders import load_engine
from benchmarks.feeds import Batch, split
from benchmarks.telling import NotedPart, Told, note_start
from benchmarks.workloads.exchange import PROCESSES
from benchmarks.workloads.running_mean import graph, loop_udf

KEYS = 1000
BATCH_SIZE = 1000


def readings(process: int, records: int) -> list[Batch]:
    """The input of one of the processes."""
    names = [f"key{key:03d}" for key in range(KEYS)]
    choice = random.Random(process).choice
    return split([(choice(names), 1.0) for _ in range(records // PROCESSES)], BATCH_SIZE)


class Half(NotedPart):
    """One process's partition of the source."""

    def __init__(self, process: int, records: int) -> None:
        super().__init__(readings(process, records))


def flow_of(family: str, records: int) -> Any:
    """The flow, of an engine, which is to run it in two processes."""
    engine = load_engine(family)

    def build(_self: Any, _step_id: str, worker_index: int, _worker_count: int) -> Any:
        return engine.source_part(Half, worker_index, records)

    halves = type("Halves", (engine.inputs.DynamicSource,), {"build": build})
    flow = engine.dataflow.Dataflow("exchange")
    means = graph(engine.operators, engine.operators.input("in", flow, halves()))
    engine.operators.output("out", means, engine.sink(engine.sink_part(Told)))
    return flow


def exchanged(batches: list[Batch], process: int, connection: Any) -> Any:
    """By hand: what belongs to this process, batch by batch in step with the other process."""
    send, receive, dumps, loads = (
        connection.send_bytes,
        connection.recv_bytes,
        pickle.dumps,
        pickle.loads,
    )
    owner_of: dict[str, int] = {}
    get = owner_of.get
    for batch in batches:
        mine: Batch = []
        theirs: Batch = []
        for record in batch:
            owner = get(record[0])
            if owner is None:
                owner = owner_of[record[0]] = crc32(record[0].encode()) % PROCESSES
            (mine if owner == process else theirs).append(record)
        send(dumps(theirs, 5))
        yield mine
        yield loads(receive())


def by_hand(process: int, records: int, connection: Any) -> None:
    """One of the two processes."""
    told, batches = Told(), readings(process, records)
    note_start()
    loop_udf(told.write_batch, exchanged(batches, process, connection))
    told.close()


def main(records: int) -> None:
    """Both processes."""
    ends = multiprocessing.Pipe()
    processes = [
        multiprocessing.Process(target=by_hand, args=(number, records, end))
        for number, end in enumerate(ends)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
