"""Runs in several processes: one is killed, or all are told to stop, and nothing is lost."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.chaos.processes import alive, children, children_of, ended, start, wait_for_children

RUNS, RUNS_SOAK = 3, 20
KILLS = 3
PARTS, RECORDS, KEYS = 4, 20_000, 100

FLOW = f"""\
import os, time
import engine.operators as op
from engine.connectors.files import DirSink
from engine.dataflow import Dataflow
from engine.inputs import FixedPartitionedSource, StatefulSourcePartition

PAUSE_S = float(os.environ.get("PAUSE_S", "0.004"))
END = os.environ.get("END", "1") == "1"


class Part(StatefulSourcePartition):
    def __init__(self, name, at):
        self.first, self.at = int(name) * {RECORDS}, at or 0
        self.stuck = name == os.environ.get("STUCK")

    def next_batch(self):
        if self.at >= {RECORDS}:
            if END:
                raise StopIteration
            return []
        time.sleep(1000 if self.stuck else PAUSE_S)
        self.at += 100
        return list(range(self.first + self.at - 100, self.first + self.at))

    def snapshot(self):
        return self.at


class Parts(FixedPartitionedSource):
    def list_parts(self):
        return [str(i) for i in range({PARTS})]

    def build_part(self, step_id, name, at):
        return Part(name, at)


def count(n, value):
    if value == int(os.environ.get("BAD", "-1")):
        raise ValueError("a bad one")
    return (n or 0) + 1, (n or 0) + 1


flow = Dataflow("flow")
keyed = op.key_on("key", op.input("in", flow, Parts()), lambda x: str(x % {KEYS}))
counts = op.stateful_map("count", keyed, count)
texts = op.map("text", counts, lambda pair: (pair[0], f"{{pair[0]}} {{pair[1]}}"))
op.output("out", texts, DirSink("out", {PARTS}))
"""


class Job:
    """A folder with the flow, and runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "flows.py").write_text(FLOW, encoding="utf-8")
        (folder / "out").mkdir()

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return start(self.folder, "-p", "2", *arguments, **variables)

    def wait_for_output(self, process: subprocess.Popen[str]) -> None:
        """Wait until something was written."""
        until_s = time.monotonic() + 30
        while not any(path.stat().st_size for path in (self.folder / "out").iterdir()):
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.01)

    def check(self) -> None:
        """Each record of each key was counted once, in order."""
        found = defaultdict(list)
        for path in (self.folder / "out").iterdir():
            for line in path.read_text(encoding="utf-8").splitlines():
                key, number = line.split()
                found[key].append(int(number))
        each = PARTS * RECORDS // KEYS
        assert found == {str(key): list(range(1, each + 1)) for key in range(KEYS)}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=False)
        metafunc.parametrize("seed", range(RUNS_SOAK if soak else RUNS))


def test_killed_workers_are_replaced(job: Job, seed: int):
    """By the job itself, from the last epoch; with a kill now and then while they start."""
    rng, kills = random.Random(seed), 0
    process = job.start("-r", "store", "-s", "50ms", *(["-w", "2"] if seed % 3 == 2 else []))
    while kills < KILLS and process.poll() is None:
        time.sleep(rng.uniform(0.2, 1.2))
        found = children(process)
        if found:
            os.kill(rng.choice(found), signal.SIGKILL)
            kills += 1
    said = ended(process)
    assert process.returncode == 0, said
    assert kills >= KILLS
    assert said.count("killed by SIGKILL; going on from the last epoch in") >= 1
    assert said.count("sink 'flow.out' is exactly-once") == 1
    job.check()


def test_a_worker_that_stands_still_is_replaced(job: Job, seed: int):
    """After five seconds without a sign of life; it can't wake up and write."""
    rng = random.Random(seed)
    process = job.start("-r", "store", "-s", "50ms")
    found = wait_for_children(process)
    job.wait_for_output(process)
    time.sleep(rng.uniform(0.0, 0.5))
    os.kill(rng.choice(found), signal.SIGSTOP)
    said = ended(process)
    assert process.returncode == 0, said
    assert "died: no sign of life for 5 s, so it was killed; going on from the last" in said
    job.check()


def test_a_leader_that_stands_still_goes_on(job: Job):
    """It doesn't take its workers for dead, though it hasn't heard of them for long."""
    process = job.start("-r", "store", "-s", "50ms")
    wait_for_children(process)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(7.0)
    os.kill(process.pid, signal.SIGCONT)
    said = ended(process)
    assert process.returncode == 0, said
    assert "died" not in said
    job.check()


def test_a_killed_leader_takes_its_workers_along(job: Job):
    """Within moments; the same command goes on."""
    process = job.start("-r", "store", "-s", "50ms")
    found = wait_for_children(process)
    time.sleep(0.8)
    process.kill()
    ended(process)
    until_s = time.monotonic() + 5
    while any(map(alive, found)):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    again = job.start("-r", "store", "-s", "50ms", PAUSE_S="0")
    said = ended(again)
    assert again.returncode == 0, said
    job.check()


def test_without_a_store_a_death_ends_the_job(job: Job):
    """And it is said why there is no way back."""
    process = job.start()
    os.kill(wait_for_children(process)[1], signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 1
    assert "the process of worker 1" in said
    assert "killed by SIGKILL" in said
    assert "there is no recovery store to go back to" in said


def test_a_worker_that_leaves_a_child_behind_is_noticed(job: Job):
    """Though the child, a copy of the process, still holds its connections."""
    fork = "if name == '1' and os.fork() == 0:\n            time.sleep(15)\n            os._exit(0)"
    flow = FLOW.replace("        self.stuck =", f"        {fork}\n        self.stuck =")
    (job.folder / "flows.py").write_text(flow, encoding="utf-8")
    process = job.start(PAUSE_S="0.01", END="0")
    until_s = time.monotonic() + 30
    while not (parents := [pid for pid in children(process) if children_of(pid)]):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    os.kill(parents[0], signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 1
    assert "the process of worker 1" in said


def test_an_error_of_the_flow_is_told_once(job: Job):
    """With step, record and line, as with one worker, and nobody tries again."""
    process = job.start("-r", "store", PAUSE_S="0", BAD="30777")
    said = ended(process)
    assert process.returncode == 1
    assert said.count("error: ") == 1
    assert "error: step 'flow.count' failed: ValueError: a bad one" in said
    assert "record: 30777" in said
    assert "at:     flows.py:" in said
    fixed = job.start("-r", "store", PAUSE_S="0")
    assert ended(fixed).count("error") == 0
    job.check()


def test_a_process_that_hangs_is_left_behind(job: Job):
    """When another one has failed, the job ends all the same: with that one's error."""
    process = job.start(PAUSE_S="0.01", STUCK="1", BAD="177")
    said = ended(process, 30)
    assert process.returncode == 1
    assert said.count("error: ") == 1
    assert "ValueError: a bad one" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_drain_ends_in_an_epoch(job: Job, number: int, code: int):
    """On all workers; what comes later is the next run's."""
    process = job.start("-r", "store", END="0")
    wait_for_children(process)
    time.sleep(1.2)
    process.send_signal(number)
    said = ended(process, 20)
    assert process.returncode == code, said
    assert "draining" in said
    again = job.start("-r", "store", PAUSE_S="0")
    said = ended(again)
    assert again.returncode == 0, said
    job.check()


def test_a_job_that_keeps_dying_ends_with_the_reason(job: Job):
    """After some tries, each a little later; its store is as the last epoch left it."""
    process = job.start("-r", "store", "-s", "1h", PAUSE_S="1")
    until_s = time.monotonic() + 50
    while process.poll() is None and time.monotonic() < until_s:
        for pid in children(process)[:1]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    said = ended(process)
    assert process.returncode == 1
    assert "it died 6 times without committing an epoch in between" in said
    again = job.start("-r", "store", PAUSE_S="0")
    said = ended(again)
    assert again.returncode == 0, said
    job.check()


def test_a_record_that_cannot_be_sent_is_named(job: Job):
    """With the step that made it, and what to do."""
    step = 'keyed = op.map_value("bad", keyed, lambda x: x if x < 150 else os.scandir())\n'
    flow = FLOW.replace("counts = op", f"{step}counts = op")
    (job.folder / "flows.py").write_text(flow, encoding="utf-8")
    process = job.start(PAUSE_S="0")
    said = ended(process)
    assert process.returncode == 1
    assert "error: step 'flow.bad' failed: a record can't be sent to another process" in said
    assert "cannot pickle 'posix.ScandirIterator' object" in said
    assert re.search(r"record: \('\d+', <posix.ScandirIterator", said)
    assert "hint:   what goes to a step by key, or is redistributed, must be picklable" in said
