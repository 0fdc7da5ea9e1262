"""Exactly once through Kafka and back, whatever dies: each input is counted once, in order.

Each drill is a run of `counting_flow` by the real command with a reader of committed messages
beside it. `docs/reliability.md` has the figures of long ones.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.processes import children
from tests.kafka.broker import Broker
from tests.kafka.client import Kafka
from tests.kafka.counting import PARTITIONS, Counting, Load, kill, wait_until
from tests.kafka.lossy import LossyProxy, Lost
from tests.kafka.watching import Stopped, Watch, look_at_stopped

RUNS, RUNS_SOAK = 3, 20
BROKER_RUNS, BROKER_RUNS_SOAK = 1, 5
SHAPES = (("-p", "2"), ("-w", "2"), ())
"""How many workers, in which way; each run of a drill has the next."""
KILLS = 3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many runs as there is time for."""
    soak = metafunc.config.getoption("--soak", default=0)
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(RUNS_SOAK if soak else RUNS))
    if "broker_seed" in metafunc.fixturenames:
        metafunc.parametrize("broker_seed", range(BROKER_RUNS_SOAK if soak else BROKER_RUNS))


@pytest.fixture
def job(kafka: Kafka, topic: str, tmp_path: Path) -> Iterator[Counting]:
    """A job on the shared broker."""
    job = Counting(tmp_path / "job", kafka, topic).prepare()
    yield job
    job.close()


def test_an_undisturbed_run(job: Counting):
    """The drill itself is sound: without a fault all is counted once, and marked as out."""
    with Watch(job) as watch:
        job.finish("-p", "2")
    job.check(watched=watch.messages)
    manifest = job.manifest()
    assert manifest is not None
    assert manifest.epoch > 5
    assert job.markers() == dict.fromkeys(["worker-0", "worker-1"], manifest.epoch)


class Killer:
    """Somebody who kills runs of a job, and looks at what they leave."""

    def __init__(self, job: Counting, watch: Watch, rng: random.Random) -> None:
        self._job = job
        self._watch = watch
        self._rng = rng
        self.stopped: list[Stopped] = []
        self.workers_killed = 0

    def kill_worker(self, run: subprocess.Popen[bytes]) -> None:
        """Kill one of the processes of a run, which goes on by itself."""
        self._work(run)
        found = children_of_run(run)
        if found:
            os.kill(self._rng.choice(found), signal.SIGKILL)
            self.workers_killed += 1

    def kill_at_work(self, run: subprocess.Popen[bytes]) -> None:
        """Kill all of it, after it has done a bit."""
        self._work(run)
        self._kill(run)

    def kill_at_start(self, run: subprocess.Popen[bytes]) -> None:
        """Kill all of it while it starts, recovers, or has just begun."""
        time.sleep(self._rng.uniform(0, 1.5))
        self._kill(run)

    def kill_at_commit(self, run: subprocess.Popen[bytes]) -> None:
        """Kill all of it as soon as an epoch is durable: it is hardly out then."""
        self._work(run)
        before = self._job.epoch()
        wait_until(lambda: run.poll() is not None or self._job.epoch() > before, "an epoch")
        self._kill(run)

    def _work(self, run: subprocess.Popen[bytes]) -> None:
        self._watch.wait_for_more(run, self._rng.uniform(0.05, 0.2))

    def _kill(self, run: subprocess.Popen[bytes]) -> None:
        kill(run)
        assert run.returncode in (0, -signal.SIGKILL), self._job.said()
        self.stopped.append(look_at_stopped(self._job))

    def told(self) -> str:
        """What was done, in figures."""
        behind = sum(stopped.behind > 0 for stopped in self.stopped)
        return (
            f"{len(self.stopped)} kills of all, {behind} between durable and out, "
            f"{self.workers_killed} of a worker, {self._watch.looks} looks at the markers"
        )


def children_of_run(run: subprocess.Popen[bytes]) -> list[int]:
    return children(run)  # type: ignore[arg-type] - of any kind


def test_kills_of_workers(job: Counting, seed: int):
    """At random moments, of one process and of all, three times and more in a run's life."""
    rng = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    with Watch(job) as watch:
        killer = Killer(job, watch, rng)
        ways = [killer.kill_at_commit, killer.kill_at_work, killer.kill_at_start]
        rng.shuffle(ways)
        for way in ways:
            run = job.start(*shape)
            if shape == ("-p", "2"):
                killer.kill_worker(run)
            way(run)
        job.finish(*shape)
    job.check(watched=watch.messages)
    sys.stdout.write(f"workers {shape}, seed {seed}: {killer.told()}\n")


def test_the_number_of_workers_changes(job: Counting, seed: int):
    """From one to three to two, each killed as soon as an epoch is durable."""
    rng = random.Random(seed)
    with Watch(job) as watch:
        killer = Killer(job, watch, rng)
        for shape in (("-w", "1"), ("-p", "3"), ("-w", "2")):
            killer.kill_at_commit(job.start(*shape))
        job.finish("-p", "2")
    job.check(watched=watch.messages)
    sys.stdout.write(f"rescaled, seed {seed}: {killer.told()}\n")


def test_kills_of_the_broker(own_kafka: Broker, topic: str, tmp_path: Path, broker_seed: int):
    """It comes back after a moment, and the job goes on as if it had been slow."""
    rng = random.Random(broker_seed)
    load = Load(tail=True, pause_s=0.03)
    job = Counting(tmp_path / "job", own_kafka, topic, load).prepare()
    looks = 0
    with Watch(job) as watch, contextlib.closing(job):
        run = job.start("-p", "2")
        for _ in range(KILLS):
            job.feed(load.records // (KILLS + 1))
            watch.wait_for_more(run, rng.uniform(0.02, 0.2))
            own_kafka.kill()
            time.sleep(rng.uniform(0, 1))
            own_kafka.start()
        job.feed(load.records - job.fed)
        watch.wait_for_more(run, 1 - len(watch.messages) / len(job.inputs))
        run.send_signal(signal.SIGTERM)
        assert job.wait(run) == 0, job.said()
        looks = watch.looks
    job.check(watched=watch.messages)
    sys.stdout.write(f"broker, seed {broker_seed}: {KILLS} kills, {looks} looks\n")


def _has_grown(job: Counting, count: int) -> bool:
    return len(job.kafka.read_all(job.target)) >= count


@pytest.mark.parametrize("what", ["request", "response"])
@pytest.mark.usefixtures("kafka_jars")
def test_the_end_of_a_transaction_is_lost(topic: str, tmp_path: Path, what: Lost):
    """Before or after the broker has seen it: what became of it is found out, not guessed."""
    broker = Broker(tmp_path / "kafka", listeners={"LOSSY": "PLAINTEXT"})
    proxy = LossyProxy(broker.ports["LOSSY"], what)
    broker.advertise("LOSSY", proxy.port)
    with broker, contextlib.closing(proxy):
        job = Counting(tmp_path / "job", broker, topic, broker=f"127.0.0.1:{proxy.port}").prepare()
        with Watch(job) as watch, contextlib.closing(job):
            job.finish("-p", "2")
        job.check(watched=watch.messages)
    assert proxy.lost > 3
    sys.stdout.write(f"{proxy.ends} ends of transactions, of {proxy.lost} the {what} was lost\n")


def test_a_run_that_wakes_up_publishes_nothing(job: Counting):
    """While it stood still, another run went on from a copy of its store to the end."""
    with Watch(job) as watch:
        paused = pause_and_copy(job, watch)
        job.finish("-p", "2")
        assert paused.poll() is None
        said = len(job.said())
        os.killpg(paused.pid, signal.SIGCONT)
        assert job.wait(paused) == 1
        assert "another run of this job has taken over" in job.said()[said:]
    job.check(watched=watch.messages)


def test_a_run_that_wakes_up_leaves_the_other_alone(job: Counting):
    """The one that has taken over still runs, and goes on."""
    with Watch(job) as watch:
        paused = pause_and_copy(job, watch)
        said, other = len(job.said()), job.start("-p", "2")
        watch.wait_for_more(other, 0.2)
        os.killpg(paused.pid, signal.SIGCONT)
        assert job.wait(paused) == 1, job.said()
        assert job.wait(other) == 0, job.said()
        assert "another run of this job has taken over" in job.said()[said:]
    job.check(watched=watch.messages)


def pause_and_copy(job: Counting, watch: Watch) -> subprocess.Popen[bytes]:
    """Start a run, stop it in its middle, and have the next one begin with a copy of its store."""
    paused = job.start("-p", "2")
    watch.wait_for_more(paused, 0.2)
    assert paused.poll() is None, job.said()
    os.killpg(paused.pid, signal.SIGSTOP)
    # It would not let go of the store itself as long as it lives.
    shutil.copytree(job.store, copy := job.folder / "copy")
    job.store = copy
    return paused


def test_at_least_once(kafka: Kafka, topic: str, tmp_path: Path, seed: int):
    """With kills as above nothing is lost; some is there twice, which exactly once is for."""
    job = Counting(tmp_path / "job", kafka, topic, Load(delivery="at-least-once")).prepare()
    rng = random.Random(seed)
    with contextlib.closing(job):
        for _ in range(KILLS):
            run = job.start("-p", "2")
            more = int(rng.uniform(0.05, 0.2) * len(job.inputs))
            wait_until(partial(_has_grown, job, len(kafka.read_all(job.target)) + more), "output")
            kill(run)
        job.finish("-p", "2")
        doubled = job.check_at_least_once()
    sys.stdout.write(f"at least once, seed {seed}: {KILLS} kills, {len(doubled)} doubled\n")
