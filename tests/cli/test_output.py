"""Standard output that can't be written: its reader is gone, its disk is full, it isn't there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.project import Project, clean_environment

FLOWS = """\
import sys

def endless():
    flow = Dataflow("endless")
    s = op.input("in", flow, TestingSource(range(10**9), batch_size=1000))
    op.output("out", s, StdOutSink())
    return flow

def buffered():
    flow = Dataflow("buffered")
    s = op.input("in", flow, TestingSource(["kept back"]))
    op.inspect("print", s, lambda step_id, item: print(item))
    return flow

def foreign():
    def fail(item):
        raise BrokenPipeError(32, "a connection of the user's")
    flow = Dataflow("foreign")
    s = op.input("in", flow, TestingSource([1]))
    op.output("out", op.map("fail", s, fail), StdOutSink())
    return flow
"""


def test_a_reader_that_has_enough(project: Project):
    """The run ends without a word, as other commands do in a pipe."""
    project.write("flows.py", FLOWS)
    running = project.start("flows:endless()")
    assert running.line() == "0"
    running.process.stdout.close()
    running.process.stdout = None
    outcome = running.ended()
    assert (outcome.code, outcome.err) == (141, "")


@pytest.mark.parametrize("layout", [[], ["-w", "2"], ["-p", "2"]], ids=" ".join)
def test_a_start_without_standard_output(layout: list[str], project: Project):
    """It is said what is missing, before anything is read."""
    project.write("flows.py", FLOWS)
    command = [sys.executable, "-m", "engine.run", "flows:endless()"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command, *layout],
        cwd=project.folder,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    said = "failed while opening its sink: OSError: standard output is closed"
    assert done.stderr.startswith(f"error: step 'endless.out' {said}")


def test_a_reader_that_is_gone_before_the_last_words(project: Project):
    """What Python keeps in its buffer until the end can't be written either."""
    project.write("flows.py", FLOWS)
    reader, writer = os.pipe()
    os.close(reader)
    running = project.start("flows:buffered()", stdout=writer)
    os.close(writer)
    outcome = running.ended()
    assert (outcome.code, outcome.err) == (141, "")


def test_a_broken_pipe_of_the_users_own_is_an_error(project: Project):
    """Only standard output is let go in silence."""
    project.write("flows.py", FLOWS)
    outcome = project.start("flows:foreign()").ended()
    assert outcome.code == 1
    assert "BrokenPipeError: [Errno 32] a connection of the user's" in outcome.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["endless", "buffered"])
def test_a_full_disk(name: str, project: Project):
    """Records that can't be written make the run fail, at once or with the last words."""
    project.write("flows.py", FLOWS)
    with Path("/dev/full").open("w") as full:
        outcome = project.start(f"flows:{name}()", stdout=full.fileno()).ended()
    assert outcome.code == 1
    assert "[Errno 28] No space left on device" in outcome.err
    assert "Traceback" not in outcome.err
    assert "Exception ignored" not in outcome.err


def test_a_start_loads_no_more_than_it_needs(project: Project):
    """Modules that only a failure or another command needs would make every start slower."""
    project.write("flows.py", FLOWS)
    program = (
        "import sys; from engine.run import main; main(['flows:buffered()'])\n"
        "print(sorted({'asyncio', 'difflib', 'logging', 'pkgutil', 'rocksdict', 'shutil', 'ssl',"
        " 'confluent_kafka', 'traceback', 'engine.visualize'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "kept back\n[]\n"
