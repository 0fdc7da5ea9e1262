"""Tasks that go to workers of other processes, which are killed: nothing is lost or misplaced."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.test_processes import Job

SEEDS, SEEDS_SOAK = 1, 20
KILLS = 3
PARTS, RECORDS = 3, 600
OFFERS = ("left=2", "right=2,cpu=1")
STORE = ("-r", "store", "-s", "50ms")

FLOW = f"""\
import os, random, time
from datetime import timedelta
import engine.operators as op
from engine.connectors.files import DirSink
from engine.dataflow import Dataflow
from engine.inputs import FixedPartitionedSource, StatefulSourcePartition
from engine.operators.tasks import Label, Resources, Retry, task

NODE = os.environ["NODE"]
PAUSE_S = float(os.environ["PAUSE_S"])


class Part(StatefulSourcePartition):
    def __init__(self, name, at):
        self.name, self.at = int(name), at or 0

    def next_batch(self):
        if self.at >= {RECORDS}:
            raise StopIteration
        time.sleep(PAUSE_S)
        self.at += 10
        return [n * {PARTS} + self.name for n in range(self.at - 10, self.at)]

    def snapshot(self):
        return self.at


class Parts(FixedPartitionedSource):
    def list_parts(self):
        return [str(i) for i in range({PARTS})]

    def build_part(self, step_id, name, at):
        return Part(name, at)


def note(step, n):
    with open(f"calls-{{NODE}}", "a") as file:
        file.write(f"{{step}} {{n}}\\n")
    time.sleep(random.random() * PAUSE_S / 10)


def on_right(n):
    note("right", n)
    if n % 10 == 3:
        raise ValueError(n)
    return n


async def on_left(n):
    note("left", n)
    return n, n * n


flow = Dataflow("flow")
s = op.input("in", flow, Parts())
right = task(
    "right",
    s,
    on_right,
    resources=Resources(right=0.5),
    placement=Label("right"),
    timeout=timedelta(seconds=30),
)
left = task("left", right.ok, on_left, resources=Resources(left=1), placement="any", order="none")
good = op.map("good", left.ok, lambda pair: (str(pair[0] % 7), f"{{pair[0]}} {{pair[1]}}"))
bad = op.map("bad", right.errors, lambda e: (str(e.record % 7), f"{{e.record}} {{e.exception!r}}"))
op.output("out", op.merge("both", good, bad), DirSink("out", 3))
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many seeds as there is time for."""
    if "seed" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=False)
        metafunc.parametrize("seed", range(SEEDS_SOAK if soak else SEEDS))


class Labelled(Cluster):
    """A cluster whose processes offer different things."""

    def start(self, number: int, *arguments: str, **variables: str) -> None:
        """Start a process with what it offers."""
        offer = ("--resources", OFFERS[number])
        super().start(number, *offer, *arguments, NODE=str(number), **variables)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A folder with the flow."""
    job = Job(tmp_path)
    (tmp_path / "flows.py").write_text(FLOW, encoding="utf-8")
    return job


@pytest.fixture
def clusters() -> Iterator[list[Cluster]]:
    """Clusters that end with the test."""
    started: list[Cluster] = []
    yield started
    for cluster in started:
        cluster.stop()


def check(folder: Path) -> None:
    """What came out, and where calls were made."""
    lines = [line for path in (folder / "out").iterdir() for line in path.read_text().splitlines()]
    numbers = range(RECORDS * PARTS)
    wanted = (f"{n} {n * n}" if n % 10 != 3 else f"{n} ValueError({n})" for n in numbers)
    assert Counter(lines) == Counter(wanted)
    for node, step in enumerate(("left", "right")):
        calls = (folder / f"calls-{node}").read_text().splitlines()
        assert {call.split()[0] for call in calls} == {step}, f"calls of process {node}"


def test_calls_are_made_where_their_label_is(job: Job, clusters: list[Cluster], seed: int):
    """While one process after the other is killed, each record comes out once."""
    rng = random.Random(seed)
    cluster = Labelled(job, 2, *STORE, PAUSE_S="0.03")
    clusters.append(cluster)
    cluster.wait_for_output()
    for victim in [1, 0, 1][:KILLS]:
        cluster.kill(victim)
        until_s = time.monotonic() + rng.uniform(0.8, 1.5)
        while time.monotonic() < until_s and cluster.tend():
            time.sleep(0.02)
    assert cluster.wait(tending=True) == [0, 0], cluster.all_said()
    assert cluster.restarts >= KILLS
    check(job.folder)


def test_a_cluster_that_offers_too_little_does_not_start(
    job: Job, clusters: list[Cluster], monkeypatch: pytest.MonkeyPatch
):
    """Process 0 says what each worker offers; the other one, who to ask."""
    monkeypatch.setattr("tests.chaos.test_placement.OFFERS", ("left=2", "gpu=1,memory=4GB,cpu=1"))
    cluster = Labelled(job, 2, *STORE, PAUSE_S="0.03")
    clusters.append(cluster)
    assert cluster.wait(tending=False) == [2, 1], cluster.all_said()
    said = cluster.said(0)
    assert "step 'flow.right' takes right=0.5 of a worker that offers 'right'" in said
    assert "worker 1 offers cpu=1,gpu=1,memory=4GB" in said
    assert "process 0 says why" in cluster.said(1)
    assert not any((job.folder / "out").iterdir()), "nothing was opened"
