"""A sink that is slower than the source: 400 MB go by, and no process ever holds much of it."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.processes import children, ended, start

INPUT_BYTES = 400_000_000
SINK_BYTES_PER_S = 60_000_000
"""What the sink of one worker takes; the other one's is fast, and so are both sources."""
PROCESS_BYTES_MAX = 100_000_000
"""Of which Python and the engine take 30 to 40."""
FLOW = f"""\
import os, sys, time
import engine.operators as op
from engine.connectors import DynamicSink, FixedPartitionedSource
from engine.connectors import StatefulSourcePartition, StatelessSinkPartition
from engine.dataflow import Dataflow

SIZE, BATCH = int(os.environ["SIZE"]), int(os.environ["BATCH"])


class Given(StatefulSourcePartition):
    def __init__(self, at):
        self.at = at or 0

    def next_batch(self):
        if self.at * SIZE >= {INPUT_BYTES} // 2:
            raise StopIteration
        numbers = range(self.at, self.at + BATCH)
        self.at += BATCH
        return [make(number) for number in numbers]

    def snapshot(self):
        return self.at


class Both(FixedPartitionedSource):
    def list_parts(self):
        return ["a", "b"]

    def build_part(self, step_id, name, at):
        return Given(at)


def make(number):
    text = str(number).zfill(SIZE)
    return str(number % 100), {{"deep": [text]}} if os.environ["DEEP"] else text


class Counts(StatelessSinkPartition):
    def __init__(self, is_slow):
        self.is_slow, self.taken = is_slow, 0

    def write_batch(self, items):
        self.taken += len(items)
        if self.is_slow:
            time.sleep(len(items) * SIZE / {SINK_BYTES_PER_S})

    def close(self):
        sys.stderr.write(f"info: taken {{self.taken}}\\n")


class Sinks(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Counts(worker_index == 1)


flow = Dataflow("flow")
stream = op.input("in", flow, Both())
last = op.stateful_map("last", stream, lambda state, value: (len(value), value))
op.output("out", last, Sinks())
"""


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def exited(process: subprocess.Popen[str]) -> bool:
    """Whether a process is gone, after a moment's wait."""
    try:
        process.wait(0.02)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize(
    ("size", "batch", "deep", "arguments"),
    [
        pytest.param(1000, 1000, "", ["-s", "0.1", "-r", "store"], id="small"),
        pytest.param(1000, 1000, "", ["-s", "3600"], id="small in one epoch"),
        pytest.param(64_000, 250, "", ["-s", "0.1"], id="large"),
        pytest.param(64_000, 250, "1", ["-s", "3600", "-r", "store"], id="deep in one epoch"),
    ],
)
def test_a_slow_sink_throttles_the_sources(
    tmp_path: Path, size: int, batch: int, deep: str, arguments: list[str]
):
    """Whatever the records are like, and however long the epochs."""
    (tmp_path / "flows.py").write_text(FLOW, encoding="utf-8")
    process = start(
        tmp_path,
        *("-p", "2", *arguments),
        SIZE=str(size),
        BATCH=str(batch),
        DEEP=deep,
    )
    peaks: dict[int, int] = {}
    until_s = time.monotonic() + 60
    while not exited(process) and time.monotonic() < until_s:
        for pid in children(process):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
    said = ended(process, 1)
    assert process.returncode == 0, said
    batches = -(-INPUT_BYTES // 2 // size // batch)
    assert sum(map(int, re.findall(r"taken (\d+)", said))) == 2 * batches * batch
    assert len(peaks) == 2
    assert max(peaks.values()) < PROCESS_BYTES_MAX
