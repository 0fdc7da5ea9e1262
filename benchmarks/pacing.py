"""The flow whose latency `workloads/exchange_latency.py` takes, and the same by hand.

Two processes each hand out half of the records at a steady pace; a record goes to the process that
owns its key, to be counted there. It carries the process that it is from and when it was due there.
At its end a process writes a file: the latencies of the records that came from the other one, with
when each was due, and when epochs closed here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any
from zlib import crc32

from benchmarks.contenders import load_engine
from benchmarks.feeds import Batch
from benchmarks.workloads.exchange import PROCESSES
from benchmarks.workloads.latency import SENSORS, Pace

EPOCH_S = 1.0

Reading = tuple[int, int, int]
"""Its number, the process it is from, and when it was due, in nanoseconds of `perf_counter_ns`."""

_epochs_ns: list[int] = []


def sensor_of(reading: Reading) -> str:
    return SENSORS[reading[0] % len(SENSORS)]


def count_readings(count: int | None, reading: Reading) -> tuple[int, Reading]:
    return (count or 0) + 1, reading


class PacedPart(Pace):
    """One process's partition of the source. It is asked for its position when an epoch closes."""

    def __init__(self, records: int, per_second: int) -> None:
        super().__init__(records, per_second)
        self._process = os.getpid()

    def next_batch(self) -> Batch:
        readings = super().next_batch()
        return [(number, self._process, self.due_ns(number)) for number, _ in readings]

    def snapshot(self) -> None:
        _epochs_ns.append(time.perf_counter_ns())


class Arrived:
    """Notes when each batch came, and writes what that says about its records at the end."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._batches: list[tuple[int, Batch]] = []

    def write_batch(self, items: Batch) -> None:
        self._batches.append((time.perf_counter_ns(), items))

    def close(self) -> None:
        process = os.getpid()
        taken = [
            (due_ns, at - due_ns)
            for at, items in self._batches
            for _key, (_number, source, due_ns) in items
            if source != process
        ]
        numbers = [item[1][0] for _at, items in self._batches for item in items]
        told = {
            "taken": taken,
            "epochs": _epochs_ns,
            "records": len(numbers),
            "sum": sum(numbers),
        }
        Path(self._folder, f"{process}.json").write_text(json.dumps(told), encoding="utf-8")


def flow_of(family: str, records: int, per_second: int, folder: str) -> Any:
    """The flow, of an engine, which is to run it in two processes."""
    engine = load_engine(family)
    part = type("Part", (PacedPart, engine.inputs.StatefulSourcePartition), {})
    arrived = type("Here", (Arrived, engine.outputs.StatelessSinkPartition), {})

    def list_parts(_self: Any) -> list[str]:
        return [str(number) for number in range(PROCESSES)]

    def build_part(*_: Any) -> Any:
        return part(records // PROCESSES, per_second // PROCESSES)

    def build(*_: Any) -> Any:
        return arrived(folder)

    parts = {"list_parts": list_parts, "build_part": build_part}
    source = type("Halves", (engine.inputs.FixedPartitionedSource,), parts)()
    sink = type("Sinks", (engine.outputs.DynamicSink,), {"build": build})()
    flow, op = engine.dataflow.Dataflow("pacing"), engine.operators
    keyed = op.key_on("sensor", op.input("in", flow, source), sensor_of)
    op.output("out", op.stateful_map("count", keyed, count_readings), sink)
    return flow


class ByHand:
    """One of two processes that do the same without an engine."""

    def __init__(self, process: int, pace: PacedPart, connection: Any, folder: str) -> None:
        self._process = process
        self._pace = pace
        self._connection = connection
        self._arrived = Arrived(folder)
        self._counts: dict[str, int] = {}
        self._peer_goes_on = True

    def run(self) -> None:
        goes_on = True
        epoch_ns = time.perf_counter_ns()
        while goes_on or self._peer_goes_on:
            if goes_on:
                try:
                    self._give(self._pace.next_batch())
                except StopIteration:
                    goes_on = False
                    self._connection.send_bytes(b"")
            if time.perf_counter_ns() > epoch_ns + EPOCH_S * 1e9:
                # Nothing happens then.
                epoch_ns = time.perf_counter_ns()
                self._pace.snapshot()
            self._receive(self._pace.wait_s() if goes_on else None)
        self._arrived.close()

    def _give(self, batch: Batch) -> None:
        mine: Batch = []
        theirs: Batch = []
        for reading in batch:
            key = sensor_of(reading)
            is_mine = crc32(key.encode()) % PROCESSES == self._process
            (mine if is_mine else theirs).append((key, reading))
        if theirs:
            self._connection.send_bytes(pickle.dumps(theirs, 5))
        if mine:
            self._take(mine)

    def _receive(self, wait_s: float | None) -> None:
        while self._peer_goes_on and self._connection.poll(wait_s):
            received = self._connection.recv_bytes()
            if received:
                self._take(pickle.loads(received))
            else:
                self._peer_goes_on = False
            wait_s = 0.0
        if not self._peer_goes_on and wait_s:
            time.sleep(wait_s)

    def _take(self, pairs: Batch) -> None:
        out: Batch = []
        for key, reading in pairs:
            self._counts[key], counted = count_readings(self._counts.get(key), reading)
            out.append((key, counted))
        self._arrived.write_batch(out)


def by_hand(process: int, records: int, per_second: int, connection: Any, folder: str) -> None:
    """One of the two processes."""
    pace = PacedPart(records // PROCESSES, per_second // PROCESSES)
    ByHand(process, pace, connection, folder).run()


def main(records: int, per_second: int, folder: str) -> None:
    """Both processes."""
    processes = [
        multiprocessing.Process(target=by_hand, args=(number, records, per_second, end, folder))
        for number, end in enumerate(multiprocessing.Pipe())
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
