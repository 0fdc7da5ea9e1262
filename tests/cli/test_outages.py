"""Sources that can't be reached, in real processes: what is said, how a run ends that waits.

The flow's source can be reached as soon as there is a file ``up``.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.project import Project, clean_environment

FLOW = """\
import os

def reach():
    if not os.path.exists("up"):
        raise UnavailableError("nobody there")

class Part(StatefulSourcePartition):
    def __init__(self, at):
        self.at = at
    def next_batch(self):
        if self.at == 2:
            raise StopIteration
        self.at += 1
        return [("k", self.at)]
    def snapshot(self):
        return self.at

class Listed(FixedPartitionedSource):
    def list_parts(self):
        return ["a", "b"]
    def build_part(self, step_id, for_part, resume_state):
        return Part(resume_state or 0)

class NotListed(Listed):
    def list_parts(self):
        reach()
        return super().list_parts()

class NotBuilt(Listed):
    def build_part(self, *about):
        reach()
        return super().build_part(*about)

def make(source):
    flow = Dataflow("f")
    s = op.input("in", flow, source())
    op.output("out", op.map("text", s, str), StdOutSink())
    return flow

def listing():
    return make(NotListed)

def building():
    return make(NotBuilt)
"""
LAYOUTS = [[], ["-w", "2"], ["-p", "2"], ["-r", "store"], ["-p", "2", "-r", "store"]]
WHAT = {"listing": "the list of its partitions", "building": "partition 'a'"}


def said(make: str) -> str:
    return f"info: step 'f.in' ({WHAT[make]}) can't be reached: nobody there; trying again for"


@pytest.mark.parametrize("options", LAYOUTS, ids=" ".join)
@pytest.mark.parametrize("make", WHAT)
def test_a_run_that_waits_goes_on(make: str, options: list[str], project: Project):
    """As soon as the source is there, with all of its records; both are said."""
    project.write("flows.py", FLOW)
    running = project.start(f"flows:{make}()", *options)
    lines = [running.line("stderr")]
    while not any(line.startswith(said(make)) for line in lines):
        lines.append(running.line("stderr"))
    Path("up").touch()
    outcome = running.ended()
    assert outcome.code == 0, outcome.err
    assert sorted(outcome.out.splitlines()) == ["('k', 1)"] * 2 + ["('k', 2)"] * 2
    assert f"info: step 'f.in' ({WHAT[make]}) is back after " in outcome.err


@pytest.mark.parametrize("options", LAYOUTS, ids=" ".join)
@pytest.mark.parametrize("make", WHAT)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_run_that_waits_can_be_ended(
    make: str, options: list[str], number: int, code: int, project: Project
):
    """At once, with the exit codes of any drain."""
    project.write("flows.py", FLOW)
    running = project.start(f"flows:{make}()", *options, "--drain-timeout", "30s")
    while not running.line("stderr").startswith(said(make)):
        pass
    running.signal(number)
    outcome = running.ended()
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert "error" not in outcome.err


@pytest.mark.parametrize("options", LAYOUTS, ids=" ".join)
@pytest.mark.parametrize("make", WHAT)
def test_a_run_gives_up_in_the_end(make: str, options: list[str], project: Project):
    """The report says what was waited for, for how long, why, and what to do about it."""
    project.write("flows.py", FLOW)
    outcome = project.start(f"flows:{make}()", *options, "--source-timeout", "300ms").ended()
    assert outcome.code == 1
    report = outcome.err[outcome.err.index("error: ") :].splitlines()
    assert report[0].startswith("error: step 'f.in' failed while waiting 0.3 s for ")
    assert report[0].endswith(" to be reached: nobody there")
    assert any(line.startswith("  at:     flows.py:12, in reach") for line in report), report
    assert "  hint:   wait longer with --source-timeout (from Python: source_timeout)" in report
    assert not Path("store").exists() or make == "building"


def test_processes_of_a_cluster_wait_too(project: Project):
    """The first one for the names, each for its partitions; one timeout holds for all of them."""
    project.write("flows.py", FLOW)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as b:
        ports = [held.getsockname()[1] for held in (one, b)]
    where = ";".join(f"127.0.0.1:{port}" for port in ports)
    command = [sys.executable, "-m", "engine.run", "flows:building()", "-a", where, "-i"]
    environment = {**clean_environment(), "ENGINE_CLUSTER_SECRET": "0123456789abcdef"}
    started = [
        subprocess.Popen(
            [*command, str(process), "--source-timeout", timeout],
            cwd=project.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process, timeout in enumerate(("500ms", "1h"))
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [1, 1], said
    for text, part in zip(said, "ab", strict=True):
        assert f"info: step 'f.in' (partition '{part}') can't be reached: nobody there" in text
    assert "failed while waiting 0.5 s for partition" in said[0]
