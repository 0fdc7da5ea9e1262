"""`kill -9` of jobs with windows and joins, whose number of workers changes: nothing else does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.processes import ended, start

SEEDS, SEEDS_SOAK = 1, 20
KILLS = 3
WAYS = (("-w", "1"), ("-w", "3"), ("-p", "2"), ("-p", "2", "-w", "2"))
PARTS, RECORDS, KEYS = 4, 3000, 40
FILES = 4
STEPS = ("mean", "count", "session", "each", "near", "latest", "sides", "order")

FLOW = f"""\
import os, time
from datetime import datetime, timedelta, UTC
import engine.operators as op
import engine.operators.windowing as win
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import DirSink
from engine.dataflow import Dataflow

PAUSE_S = float(os.environ["PAUSE_S"])
START = datetime(2024, 1, 1, tzinfo=UTC)


def at(n):
    # A second for each record of a partition, up to half a minute out of order.
    return START + timedelta(seconds=n % {RECORDS} + n * 7919 % 30, microseconds=n)


def seconds(n):
    return timedelta(seconds=n)


class Part(StatefulSourcePartition):
    def __init__(self, name, resume_state):
        self.first, self.at = int(name) * {RECORDS}, resume_state or 0

    def next_batch(self):
        if self.at >= {RECORDS}:
            raise StopIteration
        time.sleep(PAUSE_S)
        self.at += 50
        return list(range(self.first + self.at - 50, self.first + self.at))

    def snapshot(self):
        return self.at


class Parts(FixedPartitionedSource):
    def list_parts(self):
        return [str(i) for i in range({PARTS})]

    def build_part(self, step_id, for_part, resume_state):
        return Part(for_part, resume_state)


class Each(win.WindowLogic):
    def __init__(self, resume):
        self.count = resume or 0

    def on_value(self, value):
        self.count += 1
        return ["%d is number %d" % (value, self.count)]

    def on_merge(self, original):
        self.count += original.count
        return []

    def on_close(self):
        return ["%d in all" % self.count]

    def snapshot(self):
        return self.count


# Long enough for what is out of order, and for the minute that a run takes.
clock = win.EventClock(at, seconds(300))
# Here one side may be as far ahead as it likes.
patient = win.EventClock(at, seconds(100_000))
tumbling = win.TumblingWindower(seconds(90), START)
sliding = win.SlidingWindower(seconds(200), seconds(60), START)
session = win.SessionWindower(seconds(40))

flow = Dataflow("flow")
# The keys of a partition are its own, so that all of a key have an order.
numbers = op.input("in", flow, Parts())
keyed = op.key_on("key", numbers, lambda n: "%d.%d" % (n // {RECORDS}, n * n % {KEYS}))
left = op.filter_value("left", keyed, lambda n: n % 3 > 0)
right = op.filter_value("right", keyed, lambda n: n % 3 < 2)
count = lambda n, _: n + 1
add = lambda sums, n: (sums[0] + n, sums[1] + 1)
both = lambda one, other: (one[0] + other[0], one[1] + other[1])

outs = {{
    "mean": win.fold_window("mean", keyed, clock, tumbling, lambda: (0, 0), add, both),
    "count": win.fold_window("count", keyed, clock, sliding, int, count, int.__add__, False),
    "session": win.collect_window("session", keyed, clock, session),
    "each": win.window("each", keyed, clock, sliding, Each),
    "near": win.interval_join("near", patient, left, right, seconds(20), seconds(10)),
    "latest": win.as_of_join("latest", patient, left, right, tolerance=seconds(60)),
    "sides": win.join_window("sides", patient, tumbling, left, right, insert_mode="first"),
    "order": win.order_by_time("order", keyed, clock),
}}


def told(name, stream):
    return op.map("told-%s" % name, stream, lambda kv: (kv[0], "%s %r" % (name, kv)))


lines = [told(name, out.down) for name, out in outs.items()]
lines += [told("late-%s" % name, out.late) for name, out in outs.items()]
op.output("out", op.merge("lines", *lines), DirSink("out", {FILES}))
"""

Output = dict[str, Counter[str]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=False)
        metafunc.parametrize("seed", range(SEEDS_SOAK if soak else SEEDS))


class Job:
    """A folder with the flow, and runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "flows.py").write_text(FLOW, encoding="utf-8")
        (folder / "out").mkdir()

    def start(self, way: tuple[str, ...], pause_s: float) -> subprocess.Popen[str]:
        arguments = ("-r", "store", "-s", "50ms", "--state-memory", "3MB", *way)
        return start(self.folder, *arguments, PAUSE_S=str(pause_s))

    def links(self) -> int:
        """The number of the newest manifest."""
        return max((int(p.stem) for p in self.folder.glob("store/manifests/*.json")), default=0)

    def finish(self, way: tuple[str, ...]) -> Output:
        """Run it to its good end, and give what it has written: by step, how often each line."""
        process = self.start(way, 0.0)
        said = ended(process)
        assert process.returncode == 0, said
        found: Output = {}
        for path in (self.folder / "out").iterdir():
            for line in path.read_text(encoding="utf-8").splitlines():
                found.setdefault(line.split()[0], Counter())[line] += 1
        return found

    def killed(self, way: tuple[str, ...], rng: random.Random) -> None:
        """Run it until some epochs are committed, and a moment more; then kill all of it."""
        wanted = self.links() + rng.randint(1, 6)
        process = self.start(way, 0.02)
        until_s = time.monotonic() + 30
        while self.links() < wanted:
            assert process.poll() is None, ended(process)
            assert time.monotonic() < until_s
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.06))
        os.killpg(process.pid, signal.SIGKILL)
        ended(process)
        assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """The output of a run to which nothing happened."""
    return Job(tmp_path_factory.mktemp("windows") / "whole").finish(("-w", "1"))


def test_windows_come_through_kills(tmp_path: Path, seed: int, whole: Output):
    """What comes out of each step is what comes out of a run that nobody killed."""
    assert whole.keys() == {*STEPS}, "each step gives something, and nothing is late"
    rng = random.Random(seed)
    ways = [rng.choice(WAYS) for _ in range(KILLS)]
    ways[rng.randrange(KILLS)] = ("-p", "2")
    job = Job(tmp_path / "killed")
    for way in ways:
        sys.stdout.write(f"killed at link {job.links()}: {' '.join(way)}\n")
        job.killed(way, rng)
    found = job.finish(rng.choice(WAYS))
    for step in STEPS:
        assert found[step] - whole[step] == whole[step] - found[step] == Counter()
    assert found.keys() == whole.keys()
