"""Own connectors: a source that is polled, and a sink that writes compressed JSON.

Shows the shortest way to each: a `SimplePollingSource` needs one method, and a `DynamicSink` gives
each worker a partition with `write_batch`. The source also keeps a position, so that with recovery
a restart can go on where the last durable epoch ended.

Run it from the top of the project. It writes ``readings-0.jsonl.gz`` where you are; the second line
writes elsewhere, without waiting between readings::

    python -m engine.run examples.own_connectors:flow
    python -m engine.run 'examples.own_connectors:log_readings("/tmp/log", readings=100, every_s=0)'
"""

from __future__ import annotations

import gzip
import json
import math
from datetime import timedelta

import engine.operators as op
from engine.connectors import DynamicSink, SimplePollingSource, StatelessSinkPartition
from engine.dataflow import Dataflow

Reading = tuple[int, float]
"""The number of a reading, and what was read."""


class Thermometer(SimplePollingSource[Reading, int]):
    """Gives a reading each time it is polled. A sine stands in for the device.

    Args:
        readings: How many readings to give before the end.
        interval: Time between two polls.
    """

    def __init__(self, readings: int, interval: timedelta) -> None:
        super().__init__(interval)
        self._readings = readings
        self._given = 0

    def next_item(self) -> Reading:
        """Read once. `StopIteration` ends the input; a source without end never raises it."""
        if self._given == self._readings:
            raise StopIteration
        self._given += 1
        return self._given, 20 + 5 * math.sin(self._given / 10)

    def snapshot(self) -> int:
        """Where to go on: the state that is saved with an epoch."""
        return self._given

    def resume(self, resume_state: int) -> None:
        """Go on there."""
        self._given = resume_state


class CompressedJsonSink(DynamicSink[object]):
    """Writes each record as a line of JSON, into one gzip file per worker.

    At-least-once: with recovery, what came after the last durable epoch is written again. A file
    that is there is appended to, which gzip allows.

    Args:
        stem: The files are called ``{stem}-0.jsonl.gz`` and so on.
    """

    def __init__(self, stem: str) -> None:
        self._stem = stem

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[object]:
        """Open the file of one worker."""
        del step_id, worker_count  # The worker's number is enough to tell the files apart.
        return _CompressedJsonFile(f"{self._stem}-{worker_index}.jsonl.gz")


class _CompressedJsonFile(StatelessSinkPartition[object]):
    """What one worker writes with."""

    def __init__(self, path: str) -> None:
        self._file = gzip.open(path, "at", encoding="utf-8")  # noqa: SIM115 (open until `close`)

    def write_batch(self, items: list[object]) -> None:
        """Write a batch."""
        self._file.writelines(json.dumps(item) + "\n" for item in items)

    def flush(self) -> None:
        """Put what was written where it is safe; an epoch waits for this."""
        self._file.flush()

    def close(self) -> None:
        """Write the end of the file."""
        self._file.close()


def log_readings(to: str = "readings", readings: int = 10, every_s: float = 0.1) -> Dataflow:
    """Make a flow that writes readings of a thermometer into a file.

    Args:
        to: What the file's name begins with.
        readings: How many readings to take.
        every_s: Time between two readings, in seconds.
    """
    flow = Dataflow("own_connectors")
    taken = op.input("thermometer", flow, Thermometer(readings, timedelta(seconds=every_s)))
    rows = op.map("row", taken, lambda r: {"reading": r[0], "celsius": round(r[1], 2)})
    op.output("file", rows, CompressedJsonSink(to))
    return flow


flow = log_readings()
