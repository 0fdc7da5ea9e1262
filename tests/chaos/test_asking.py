"""What actors answer from outside is never taken back, whoever is killed and whenever."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from engine.recovery._disk import RealDisk
from engine.recovery._store_folder import StoreFolder
from tests.chaos.processes import start, wait_for_children

KEYS, KILLS = 8, 4

FLOW = f"""\
import time
from dataclasses import dataclass
import engine.operators as op
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, actor, handles, shared


class Part(StatefulSourcePartition):
    def __init__(self, at):
        self.at = at

    def next_batch(self):
        time.sleep(0.001)
        self.at += 1
        return [(f"k{{i}}", self.at) for i in range({KEYS})]

    def snapshot(self):
        return self.at


class Counting(FixedPartitionedSource):
    def list_parts(self):
        return ["0", "1"]

    def build_part(self, step_id, for_part, resume_state):
        return Part(resume_state or 0)


class Counter(Actor):
    @dataclass
    class State:
        count: int = 0

    @handles(int)
    def add(self, ctx, n: int):
        self.state.count += 1

    @shared
    def count(self, asked):
        return asked.epoch, self.state.count


flow = Dataflow("flow")
numbers = op.input("in", flow, Counting())
op.output("out", actor("counters", numbers, Counter).out, FileSink("out.txt"))
"""


class Asking(threading.Thread):
    """Asks for one key after the other as fast as it can, until it is told to stop."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.over = False
        self.heard: set[tuple[str, int, int]] = set()
        """Key, epoch and count of each answer."""

    def run(self) -> None:
        number = 0
        while not self.over:
            number += 1
            key = f"k{number % KEYS}"
            connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("GET", f"/actors/counters/{key}")
                response = connection.getresponse()
                body = response.read()
            except (OSError, HTTPException):
                continue
            finally:
                connection.close()
            if response.status == 200:
                epoch, count = json.loads(body)
                self.heard.add((key, epoch, count))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def saved_epoch(folder: Path) -> int:
    """The last epoch that the store of a dead job has committed."""
    store = StoreFolder.open(RealDisk(5.0), folder / "store", "looks", create=False)
    try:
        return store.started().epoch
    finally:
        store.close()


def wait_for_answers(asking: Asking, process: subprocess.Popen[str], more: int) -> None:
    """Wait until answers of so many more epochs were heard."""
    until_s = time.monotonic() + 60
    goal = len({epoch for _, epoch, _ in asking.heard.copy()}) + more
    while len({epoch for _, epoch, _ in asking.heard.copy()}) < goal:
        assert process.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.005)


@pytest.mark.parametrize("way", [("-w", "1"), ("-w", "2"), ("-p", "2")])
def test_no_answer_is_ever_taken_back(tmp_path: Path, way: tuple[str, ...]):
    """A count that was told for an epoch is that epoch's for ever, and the store has the epoch."""
    tmp_path.joinpath("flows.py").write_text(FLOW, encoding="utf-8")
    rng, port = random.Random(str(way)), free_port()
    asking = Asking(port)
    asking.start()
    try:
        for number in range(KILLS):
            process = start(tmp_path, "-r", "store", "-s", "10ms", *way, "--ask", str(port))
            wait_for_answers(asking, process, rng.randrange(3, 20))
            if way[0] == "-p" and number % 2:
                # The job goes on by itself.
                os.kill(rng.choice(wait_for_children(process)), signal.SIGKILL)
                wait_for_answers(asking, process, 5)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            told = max(epoch for _, epoch, _ in asking.heard.copy())
            assert told <= saved_epoch(tmp_path)
    finally:
        asking.over = True
        asking.join()
    counts: dict[tuple[str, int], int] = {}
    for key, epoch, count in sorted(asking.heard):
        assert counts.setdefault((key, epoch), count) == count, (key, epoch)
    for key in {key for key, _ in counts}:
        of_key = [count for (k, _), count in sorted(counts.items()) if k == key]
        assert of_key == sorted(of_key)
