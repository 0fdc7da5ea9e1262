"""Tasks under `kill -9`, of the job and of its pool's processes: what comes out stays the same."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos.processes import alive, children_of, ended, start

SEEDS, SEEDS_SOAK = 1, 20
KILLS = 3
POOL_KILLS, POOL_KILLS_SOAK = 10, 200
TASKS = {"async": 5_000, "thread": 5_000, "process": 1_500}
TASKS_SOAK = 100_000
RECORDS, RECORDS_SOAK, KEYS = 600, 1500, 7
WAYS = (
    ("thread", ("-w", "1")),
    ("process", ("-w", "1")),
    ("async", ("-w", "2")),
    ("thread", ("-w", "3")),
    ("process", ("-p", "2")),
)

FLOW = f"""\
import asyncio, os, random, time
from datetime import timedelta
from pathlib import Path
import engine.operators as op
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import FileSink
from engine.connectors.sqlite import SqliteSink
from engine.dataflow import Dataflow
from engine.operators.tasks import Exponential, ProcessExecutor, Retry, task

HERE = Path(__file__).parent
EXECUTOR = os.environ["EXECUTOR"]
RECORDS = int(os.environ["RECORDS"])
PAUSE_S = float(os.environ["PAUSE_S"])
PARTS = 3


class Part(StatefulSourcePartition):
    def __init__(self, name, resume_state):
        self.name, self.at = int(name), resume_state or 0

    def next_batch(self):
        if self.at >= RECORDS:
            raise StopIteration
        time.sleep(PAUSE_S)
        self.at += 30
        return [(n % {KEYS}, n) for n in range(self.at - 30, self.at) if n % PARTS == self.name]

    def snapshot(self):
        return self.at


class Parts(FixedPartitionedSource):
    def list_parts(self):
        return [str(i) for i in range(PARTS)]

    def build_part(self, step_id, for_part, resume_state):
        return Part(for_part, resume_state)


def hangs(n):
    return n % 100 == 7


def work(record):
    key, n = record
    if n % 20 == 3:
        raise ValueError(n)
    if random.random() < 0.1:
        raise ConnectionError
    if random.random() < 0.5:
        time.sleep(random.uniform(0, 0.004))
    return key, n * n


def plain(record):
    if hangs(record[1]):
        time.sleep(0.4)
    return work(record)


async def waiting(record):
    await asyncio.sleep(3600 if hangs(record[1]) else random.uniform(0, 0.01))
    return work(record)


def number(count, _value):
    return (count or 0) + 1, (count or 0) + 1


flow = Dataflow("flow")
s = op.input("in", flow, Parts())
out = task(
    "work",
    s,
    waiting if EXECUTOR == "async" else plain,
    executor=ProcessExecutor(processes=2) if EXECUTOR == "process" else EXECUTOR,
    max_in_flight=64,
    order=os.environ["ORDER"],
    timeout=timedelta(seconds=0.2),
    retry=Retry(20, Exponential(timedelta(milliseconds=2)), (ConnectionError,), deaths=1000),
)
results = op.map("result", out.ok, lambda pair: ("", "%d %d" % pair))
op.output("results", results, FileSink(HERE / "results.txt"))
counts = op.stateful_map("count", out.ok, number)
counted = op.map("counted", counts, lambda pair: ("", "%d %s" % pair))
op.output("counts", counted, FileSink(HERE / "counts.txt"))
rows = op.map("row", out.errors, lambda e: {{"n": e.record[1], "why": type(e.exception).__name__}})
op.output("errors", rows, SqliteSink(HERE / "errors.db", table="errors", columns=["n", "why"]))
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many seeds as there is time for."""
    if "seed" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=False)
        metafunc.parametrize("seed", range(SEEDS_SOAK if soak else SEEDS))


def wanted(records: int) -> dict[str, Counter[object]]:
    """What each run must write, whatever happens to it."""
    late = {n for n in range(records) if n % 100 == 7}
    bad = {n for n in range(records) if n % 20 == 3}
    good = [n for n in range(records) if n not in late | bad]
    keys = Counter(n % KEYS for n in good)
    return {
        "results": Counter(f"{n % KEYS} {n * n}" for n in good),
        "counts": Counter(f"{key} {number + 1}" for key in keys for number in range(keys[key])),
        "errors": Counter(
            [*((n, "TimeoutError") for n in late), *((n, "ValueError") for n in bad)]
        ),
    }


def differences(job: Job) -> list[str]:
    """What there is too much of, or too little, in which file."""
    found, output = list[str](), job.output()
    for name, rows in wanted(job.records).items():
        found += [f"{name}: no {row}" for row in (rows - output[name]).elements()]
        found += [f"{name}: {row} too many" for row in (output[name] - rows).elements()]
    return found


class Job:
    """A folder with the flow, and its runs.

    Args:
        folder: The folder.
        executor: Where the tasks run.
        way: How the workers are started.
        order: What is promised.
        soak: Whether there is time for more records.
    """

    def __init__(
        self, folder: Path, executor: str, way: tuple[str, ...], order: str, *, soak: int
    ) -> None:
        self.folder = folder
        self.records = RECORDS_SOAK if soak else RECORDS
        self._way = way
        self._variables = {"EXECUTOR": executor, "ORDER": order, "RECORDS": str(self.records)}
        folder.joinpath("flows.py").write_text(FLOW, encoding="utf-8")
        with sqlite3.connect(folder / "errors.db") as database:
            database.execute("CREATE TABLE errors (n INTEGER, why TEXT)")
        database.close()

    def start(self, pause_s: float = 0.02) -> subprocess.Popen[str]:
        """Start a run; a kill of it must not find it done already."""
        arguments = ("-r", "store", "-s", "20ms", *self._way)
        return start(self.folder, *arguments, PAUSE_S=str(pause_s), **self._variables)

    def finish(self) -> None:
        """Run it to its end."""
        process = self.start(0.0)
        said = ended(process)
        assert process.returncode == 0, said

    def lines(self, name: str) -> list[str]:
        path = self.folder / f"{name}.txt"
        return path.read_text(encoding="ascii").splitlines() if path.exists() else []

    def output(self) -> dict[str, Counter[object]]:
        """All that it has written."""
        database = sqlite3.connect(self.folder / "errors.db")
        rows = database.execute("SELECT n, why FROM errors").fetchall()
        database.close()
        files = {name: Counter[object](self.lines(name)) for name in ("results", "counts")}
        return {**files, "errors": Counter(rows)}


def kill_while_it_works(job: Job, rng: random.Random, enough: int) -> None:
    """Start a run and `kill -9` one of its processes or all, once it has written some more."""
    process = job.start()
    goal = len(job.lines("results")) + rng.randrange(enough)
    until_s = time.monotonic() + 60
    while len(job.lines("results")) <= goal and process.poll() is None:
        assert time.monotonic() < until_s
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.05))
    pools = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    # Whatever it has started ends with it, with nobody to tell it.
    until_s = time.monotonic() + 30
    while any(alive(pid) for pid in pools):
        assert time.monotonic() < until_s, "processes outlive their job"
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, with those that they have started."""
    found = children_of(pid)
    return [*found, *(other for child in found for other in descendants(child))]


@pytest.mark.parametrize(("executor", "way"), WAYS)
def test_kills_of_the_job_change_nothing(
    tmp_path: Path, executor: str, way: tuple[str, ...], seed: int, soak: int
):
    """Each record comes out once, as a result or as an error, and is counted once."""
    rng = random.Random(f"{executor} {way} {seed}")
    sys.stdout.write(f"seed {seed}\n")
    order = rng.choice(["input", "key", "none"])
    job = Job(tmp_path, executor, way, order, soak=soak)
    for left in range(KILLS, 0, -1):
        kill_while_it_works(job, rng, job.records // (2 * left))
    job.finish()
    assert "\n".join(differences(job)) == ""
    if order == "key":
        squares: dict[str, list[int]] = {}
        for line in job.lines("results"):
            key, square = line.split()
            squares.setdefault(key, []).append(int(square))
        # Partitions are read side by side: within one of them, the order of a key is that of n.
        for values in squares.values():
            for part in range(3):
                mine = [v for v in values if round(v**0.5) % 3 == part]
                assert mine == sorted(mine)


def test_kills_of_pool_processes_change_nothing(tmp_path: Path, soak: int):
    """Who was killed is replaced; its records are tried again, and none is lost or doubled."""
    rng = random.Random(11)
    job = Job(tmp_path, "process", ("-w", "1"), "input", soak=soak)
    process = job.start(0.05)
    kills, goal = 0, POOL_KILLS_SOAK if soak else POOL_KILLS
    while process.poll() is None and kills < goal:
        for pid in rng.sample(children_of(process.pid), k=1) if children_of(process.pid) else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        time.sleep(rng.uniform(0, 0.1))
    said = ended(process)
    assert process.returncode == 0, said
    assert kills >= POOL_KILLS
    assert "\n".join(differences(job)) == ""


ENDLESS = """\
import asyncio, os, sys, time
from pathlib import Path
import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.tasks import ProcessExecutor, task
from engine.testing import TestingSource

EXECUTOR = os.environ["EXECUTOR"]


def endless(n):
    (Path(__file__).parent / "begun").touch()
    while True:
        time.sleep(0.01)


async def waiting(n):
    (Path(__file__).parent / "begun").touch()
    await asyncio.sleep(3600)


flow = Dataflow("flow")
s = op.input("in", flow, TestingSource([1, 2, 3]))
executor = ProcessExecutor(processes=2) if EXECUTOR == "process" else EXECUTOR
out = task("call", s, waiting if EXECUTOR == "async" else endless, executor=executor)
op.output("ok", out.ok, StdOutSink())
"""


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
def test_a_drain_does_not_wait_for_calls_that_never_end(tmp_path: Path, executor: str):
    """They are part of the last epoch, for the next run; what is left behind is told by name."""
    tmp_path.joinpath("flows.py").write_text(ENDLESS, encoding="ascii")
    arguments = ("-r", "store", "--drain-timeout", "10m")
    for _ in range(2):
        process = start(tmp_path, *arguments, EXECUTOR=executor)
        until_s = time.monotonic() + 30
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < until_s
            time.sleep(0.01)
        (tmp_path / "begun").unlink()
        process.send_signal(signal.SIGTERM)
        said = ended(process)
        assert process.returncode == 0, said
    if executor == "thread":
        assert "3 calls of <flows.endless" in said


COUNTED = """\
import asyncio, sys, threading, time
from collections import Counter
from datetime import timedelta
import engine.operators as op
from engine.connectors import DynamicSink, StatelessSinkPartition
from engine.dataflow import Dataflow
from engine.operators.tasks import ProcessExecutor, ThreadExecutor, task
from engine.testing import TestingSource, run_main


def failing(n):
    if n % 20 == 3:
        raise ValueError(n)
    return n


def plain(n):
    if n % 100 == 7:
        # As good as for ever, though threads come back in the end.
        time.sleep(LATE_S)
    return failing(n)


async def waiting(n):
    if n % 100 == 7:
        await asyncio.sleep(3600)
    return failing(n)


class Counts(DynamicSink, StatelessSinkPartition):
    def __init__(self, name):
        self.seen, self.name = Counter(), name

    def build(self, step_id, worker_index, worker_count):
        return self

    def write_batch(self, items):
        self.seen.update(map(self.name, items))


LATE_S = 0.15
EXECUTORS = {
    "async": "async",
    "thread": ThreadExecutor(abandoned=1000),
    "process": ProcessExecutor(processes=2),
}
if __name__ == "__main__":
    executor, count = sys.argv[1], int(sys.argv[2])
    results, errors = Counts(int), Counts(lambda e: (e.record, type(e.exception).__name__))
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource(range(count), 100))
    out = task(
        "task",
        s,
        waiting if executor == "async" else plain,
        executor=EXECUTORS[executor],
        timeout=timedelta(seconds=0.05),
        order="none",
    )
    op.output("ok", out.ok, results)
    op.output("errors", out.errors, errors)
    run_main(flow)
    whys = Counter(why for _, why in errors.seen)
    print(len(results.seen), results.seen.total(), errors.seen.total(), dict(sorted(whys.items())))
"""


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
def test_many_tasks_of_which_some_fail_are_counted_exactly(
    executor: str, tmp_path: Path, soak: int
):
    """Five in a hundred raise and one takes too long: each comes out once, as what it was."""
    count = TASKS_SOAK if soak else TASKS[executor]
    script = tmp_path / "counted.py"
    script.write_text(COUNTED, encoding="ascii")
    done = subprocess.run(
        [sys.executable, script, executor, str(count)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    bad, late = count // 20, count // 100
    good = count - bad - late
    whys = {"TimeoutError": late, "ValueError": bad}
    assert done.stdout.split(maxsplit=3) == [str(good), str(good), str(bad + late), f"{whys}\n"]
