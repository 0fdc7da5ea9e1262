"""Metrics of runs from the command line: one address for all processes, through restarts."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.run import main
from tests.cli.project import Project, Running, clean_environment

FLOWS = """
import os
import pathlib

class Numbers(DynamicSource):
    def __init__(self, die):
        self.die = die

    def build(self, step_id, worker_index, worker_count):
        return Part(self.die and worker_index == 1)

class Part(StatelessSourcePartition):
    '''A thousand numbers, then nothing until the run is stopped.'''

    def __init__(self, die):
        self.left = 100
        self.die = die

    def next_batch(self):
        if self.left == 0:
            if self.die and not pathlib.Path("died").exists():
                pathlib.Path("died").touch()
                os.kill(os.getpid(), 9)
            return []
        self.left -= 1
        return list(range(10))

def make(die=False):
    flow = Dataflow("flow")
    numbers = op.input("in", flow, Numbers(die))
    keyed = op.key_on("key", numbers, str)
    sums = op.stateful_map("sum", keyed, lambda s, n: ((s or 0) + n, (s or 0) + n))
    op.output("out", op.map_value("text", sums, str), FileSink("out.txt"))
    return flow
"""

Samples = dict[tuple[str, str, str], float]


def address_of(run: Running) -> str:
    """What a run says first of all."""
    found = re.fullmatch(r"info: metrics at (http://127\.0\.0\.1:\d+)/metrics", run.line("stderr"))
    assert found is not None
    return found[1]


def scraped(url: str) -> Samples:
    """All samples by name, step and worker."""
    with urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (s.name, s.labels.get("step_id", ""), s.labels.get("worker_index", "")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def once(url: str, true: Callable[[Samples], bool]) -> Samples:
    """The first scrape of which that is true; the run's watchdog ends it if none ever is."""
    while not true(samples := scraped(url)):
        pass
    return samples


def health(url: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as ex:
        with ex:
            return ex.code, ex.read().decode()


def sums(samples: Samples) -> dict[tuple[str, str], float]:
    """Over all workers, by name and step."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for (name, step, _), value in samples.items():
        found[name, step] += value
    return found


@pytest.mark.parametrize("how", ["-p 2", "-w 2", "-p 2 -w 2"])
def test_one_scrape_has_all_workers(how: str, project: Project):
    """What they have taken is the whole input, wherever they run."""
    project.write("flows.py", FLOWS)
    workers = 4 if how == "-p 2 -w 2" else 2
    run = project.start("flows:make", *how.split(), "--metrics", "0")
    url = address_of(run)
    every = 1000.0 * workers
    samples = once(url, lambda s: sums(s)["engine_items_in_total", "flow.sum"] == every)
    found = sums(samples)
    assert found["engine_items_out_total", "flow.in"] == every
    assert found["engine_items_in_total", "flow.sum"] == every
    assert found["engine_batch_items_sum", "flow.sum"] == every
    assert found["engine_state_keys", "flow.sum"] == 10
    busy = {worker for name, _, worker in samples if name == "engine_busy_seconds_total"}
    assert busy == {str(i) for i in range(workers)}
    in_processes = how.startswith("-p")
    sent, received = (
        found[f"engine_exchange_{way}_bytes_total", ""] for way in ("sent", "received")
    )
    assert (sent > 0, received > 0) == (in_processes, in_processes)
    assert health(f"{url}/livez") == (200, "ok\n")
    assert health(f"{url}/readyz") == (200, "ok\n")
    run.process.terminate()
    outcome = run.ended()
    assert outcome.code == 0


def test_the_endpoint_lives_through_the_death_of_a_process(project: Project):
    """The job begins again behind it, and it counts that."""
    project.write("flows.py", FLOWS)
    run = project.start(
        "flows:make(True)", "-p", "2", "-r", "store", "-s", "100ms", "--metrics", "0"
    )
    url = address_of(run)
    samples = once(url, lambda s: s["engine_restarts_total", "", ""] == 1.0)
    samples = once(url, lambda s: sums(s)["engine_items_out_total", "flow.in"] == 2000.0)
    assert samples["engine_epoch", "", ""] >= 1.0
    assert samples["engine_restarts_total", "", ""] == 1.0
    run.process.terminate()
    outcome = run.ended()
    assert (outcome.code, outcome.err.count("going on from the last epoch")) == (0, 1)


def test_a_port_in_use_ends_the_start(project: Project):
    """Before the flow runs: what is wrong, where, and what to do."""
    project.write("flows.py", FLOWS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = project.call(main, "flows:make", "--metrics", address)
    assert (outcome.code, outcome.out) == (2, "")
    why = "something else listens there, perhaps another run; give another port, or 0"
    assert outcome.err.startswith(f"error: can't serve metrics at {address}: {why}")
    assert not project.folder.joinpath("out.txt").exists()


def test_what_is_no_address_is_refused(project: Project):
    """The environment may say it too."""
    project.write("flows.py", FLOWS)
    outcome = project.call(main, "flows:make", "--metrics", "everywhere")
    assert outcome.code == 2
    assert outcome.err.startswith("error: --metrics everywhere: must be a port, such as 9090")


def test_without_metrics_nothing_of_them_is_loaded(project: Project):
    """Most runs would only start later for it."""
    project.write("flows.py", "flow = Dataflow('f')\n" + RUNS_OUT)
    program = (
        "import sys; from engine.run import main; main(['flows:flow'])\n"
        "print(sorted({'prometheus_client', 'http.server', 'socketserver', 'selectors', "
        "'engine.runtime._endpoint', 'engine.runtime._monitor'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("1\n[]\n", "")


RUNS_OUT = "op.output('out', op.input('in', flow, TestingSource([1])), StdOutSink())\n"
