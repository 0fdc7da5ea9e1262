"""Processes of a cluster that others start: killed, stopped, cut off, and nothing is lost."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.cluster import SECRET, Certificates, Cluster, free_ports
from tests.chaos.drill import REPOSITORY
from tests.chaos.proxy import Proxy
from tests.chaos.test_processes import Job
from tests.cli.project import clean_environment

RUNS, RUNS_SOAK = 3, 20
STORE = ("-r", "store", "-s", "50ms")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=False)
        metafunc.parametrize("seed", range(RUNS_SOAK if soak else RUNS))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.fixture
def start(job: Job) -> Iterator[Callable[..., Cluster]]:
    """Starts clusters, and ends them with the test."""
    started: list[Cluster] = []

    def start_one(*arguments: Any, **more: Any) -> Cluster:
        started.append(Cluster(job, *arguments, **more))
        return started[-1]

    yield start_one
    for cluster in started:
        cluster.stop()


@pytest.fixture
def proxies() -> Iterator[list[Proxy]]:
    made: list[Proxy] = []
    yield made
    for proxy in made:
        proxy.close()


@pytest.mark.parametrize("arguments", [[], ["-w", "2", *STORE]])
def test_a_cluster_gives_what_one_worker_gives(job: Job, start: Any, arguments: list[str]):
    """In three processes, whatever the order in which they come."""
    cluster = start(3, *arguments, PAUSE_S="0.001")
    assert cluster.wait(tending=False) == [0, 0, 0], cluster.all_said()
    job.check()


def test_a_cluster_with_certificates(job: Job, start: Any):
    """The same over TLS, where the secret must be right as well."""
    certificates = Certificates(job.folder / "tls")
    cluster = start(2, *STORE, *certificates.arguments(), PAUSE_S="0.001")
    assert cluster.wait(tending=False) == [0, 0], cluster.all_said()
    job.check()


def test_killed_processes_come_back(job: Job, start: Any, seed: int):
    """Whoever started them starts them again; those that live go on in place."""
    rng = random.Random(seed)
    cluster = start(3, *STORE, PAUSE_S="0.008")
    pids = [cluster.pid(number) for number in range(3)]
    cluster.wait_for_output()
    victims = [rng.randrange(3), rng.randrange(3)]
    for victim in victims:
        cluster.kill(victim)
        until_s = time.monotonic() + rng.uniform(0.5, 2.5)
        while time.monotonic() < until_s and cluster.tend():
            time.sleep(0.02)
    assert cluster.wait(tending=True) == [0, 0, 0], cluster.all_said()
    assert cluster.restarts >= len(set(victims))
    survivors = set(range(3)) - set(victims)
    assert [cluster.pid(number) for number in survivors] == [pids[n] for n in survivors]
    job.check()


def test_a_process_that_stood_still_joins_again(job: Job, start: Any, seed: int):
    """It was taken for dead meanwhile, and nothing that it still wanted to do is done."""
    cluster = start(2, *STORE, PAUSE_S="0.01")
    cluster.wait_for_output()
    time.sleep(random.Random(seed).uniform(0.0, 1.0))
    victim = seed % 2
    cluster.kill(victim, signal.SIGSTOP)
    time.sleep(7.0)
    cluster.kill(victim, signal.SIGCONT)
    assert cluster.wait(tending=True) == [0, 0], cluster.all_said()
    assert cluster.restarts == 0, cluster.all_said()
    job.check()


@pytest.mark.parametrize("fault", ["cut", "damage", "still"])
def test_a_broken_connection_is_noticed(
    job: Job, start: Any, proxies: list[Proxy], seed: int, fault: str
):
    """Whether it ends, lies, or is silent; whether it leads to the leader or not."""
    rng = random.Random(f"{fault} {seed}")
    ports = free_ports(3)
    one, other = [(1, 0), (2, 1), (2, 0)][seed % 3]
    proxy = Proxy(ports[other])
    proxies.append(proxy)
    cluster = start(3, *STORE, ports=ports, through={(one, other): proxy.port}, PAUSE_S="0.012")
    cluster.wait_for_output()
    time.sleep(rng.uniform(0.0, 1.0))
    if fault == "still":
        proxy.still(still=True)
        time.sleep(rng.uniform(6.0, 8.0))
        proxy.still(still=False)
    else:
        getattr(proxy, fault)(rng.randrange(10))
    assert cluster.wait(tending=True) == [0, 0, 0], cluster.all_said()
    assert "going on from the last epoch" in cluster.said(0), cluster.all_said()
    assert cluster.restarts == 0, cluster.all_said()
    job.check()


def test_strangers_do_no_harm(job: Job, start: Any):
    """Noise, silence and long promises at the leader's port while the job goes on."""
    cluster = start(2, *STORE, PAUSE_S="0.006")
    cluster.wait_for_output()
    before_kb, over = cluster.memory_kb(0), threading.Event()
    promise = bytes(32) + b"\xff\xff"

    def disturb() -> None:
        kept = deque[socket.socket]()
        while not over.is_set():
            with contextlib.suppress(OSError):
                kept.append(socket.create_connection(("127.0.0.1", cluster.ports[0]), timeout=1))
                kept[-1].sendall(random.choice([b"", promise, random.randbytes(20_000)]))
            time.sleep(0.002)
            if len(kept) > 50:
                kept.popleft().close()
        for sock in kept:
            sock.close()

    strangers = threading.Thread(target=disturb)
    strangers.start()
    most_kb = before_kb
    while cluster.running():
        most_kb = max(most_kb, cluster.memory_kb(0))
        time.sleep(0.05)
    over.set()
    strangers.join()
    assert cluster.wait(tending=False) == [0, 0], cluster.all_said()
    assert "going on from the last epoch" not in cluster.said(0)
    assert cluster.said(0).count("refused a connection") < 60
    assert most_kb < before_kb + 30_000
    job.check()


def test_a_network_that_goes_down_and_comes_back(tmp_path: Path, seed: int):
    """The link itself, for longer than a process may be silent."""
    command = [sys.executable, "-m", "tests.chaos.own_network", str(tmp_path), str(seed)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    if "PermissionError" in done.stderr and "unshare" in done.stderr:
        pytest.skip("this system lets nobody have a network of his own")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [0, 1])
def test_a_drain_of_one_process_drains_the_job(job: Job, start: Any, number: int):
    """All end well, and the same command goes on."""
    cluster = start(2, *STORE, PAUSE_S="0.01", END="0")
    cluster.wait_for_output()
    cluster.kill(number, signal.SIGTERM)
    assert cluster.wait(tending=False) == [0, 0], cluster.all_said()
    again = start(2, *STORE, PAUSE_S="0")
    assert again.wait(tending=False) == [0, 0], again.all_said()
    job.check()


def test_a_process_that_waits_for_others_can_be_drained(start: Any):
    """Whether it leads or not."""
    for number in (0, 1):
        cluster = start(2, *STORE)
        cluster.kill(1 - number)
        until_s = time.monotonic() + 20
        while "waiting for process" not in cluster.said(number):
            assert time.monotonic() < until_s, cluster.all_said()
            time.sleep(0.02)
        cluster.kill(number, signal.SIGTERM)
        assert cluster.wait(tending=False)[number] == 0, cluster.all_said()


def test_without_a_store_a_death_ends_the_job(start: Any):
    """For all, and they say why."""
    cluster = start(3, PAUSE_S="0.01")
    cluster.wait_for_output()
    cluster.kill(1)
    codes = cluster.wait(tending=False)
    assert codes == [1, -signal.SIGKILL, 1], cluster.all_said()
    assert "there is no recovery store to go back to" in cluster.said(0)
    assert "error: the job has failed; process 0 says why" in cluster.said(2)


def test_without_a_store_the_leader_takes_the_job_along(start: Any):
    """The others don't wait for what can't go on."""
    cluster = start(2, PAUSE_S="0.01")
    cluster.wait_for_output()
    cluster.kill(0)
    assert cluster.wait(tending=False) == [-signal.SIGKILL, 1], cluster.all_said()
    assert "without a recovery store (-r) so is the job" in cluster.said(1)


def test_an_error_of_the_flow_is_told_once(start: Any):
    """By the leader, wherever it came about."""
    cluster = start(2, PAUSE_S="0", BAD="30777")
    assert cluster.wait(tending=False) == [1, 1], cluster.all_said()
    assert cluster.all_said().count("ValueError: a bad one") == 1
    assert "error: step 'flow.count' failed: ValueError: a bad one" in cluster.said(0)


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        ([], {"ENGINE_CLUSTER_SECRET": "another secret of some bytes"}, "have different secrets"),
        (["-w", "2"], {}, "each process has 1 workers (-w), there each process has 2 workers"),
        (["-r", "store"], {}, "here a recovery folder (-r) is given: False, there a recovery"),
    ],
)
def test_a_process_that_differs_is_told_so(
    start: Any, arguments: list[str], variables: dict[str, str], told: str
):
    """It ends; the leader waits for the right one."""
    cluster = start(2, PAUSE_S="0")
    cluster.replace(1, *arguments, **variables)
    until_s = time.monotonic() + 20
    while told not in cluster.said(1):
        assert time.monotonic() < until_s, cluster.all_said()
        time.sleep(0.02)
    cluster.replace(1)
    assert cluster.wait(tending=False) == [0, 0], cluster.all_said()


def test_a_cluster_can_be_run_from_python(job: Job):
    """By `cluster_main` with addresses, as Bytewax's users know it."""
    ports = free_ports(2)
    script = (
        "import sys, flows\nfrom engine.testing import cluster_main\n"
        f"addresses = ['127.0.0.1:{ports[0]}', '127.0.0.1:{ports[1]}']\n"
        "cluster_main(flows.flow, addresses, int(sys.argv[1]), worker_count_per_proc=2)\n"
    )
    environment = {**clean_environment(), "ENGINE_CLUSTER_SECRET": SECRET, "PAUSE_S": "0"}
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(n)], cwd=job.folder, env=environment)
        for n in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    job.check()
