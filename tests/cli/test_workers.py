"""Runs in several threads and processes, from the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.project import HEAD, Project, clean_environment

FLOW = """
flow = Dataflow("flow")
words = op.input("in", flow, TestingSource("a b a c a b".split(), batch_size=1))
counts = op.stateful_map("n", op.key_on("key", words, str), lambda n, w: ((n or 0) + 1,) * 2)
op.output("out", op.map("text", counts, lambda p: f"{p[0]} {p[1]}"), StdOutSink())
"""


@pytest.mark.parametrize("module", ["engine.run", "engine.testing"])
@pytest.mark.parametrize("how", ["-w 3", "-p 2", "-p 2 -w 2"])
def test_any_workers_give_what_one_gives(project: Project, module: str, how: str):
    """In processes too, which import the flow by themselves."""
    project.write("flows.py", FLOW)
    done = subprocess.run(
        [sys.executable, "-m", module, "flows:flow", *how.split()],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["a 1", "a 2", "a 3", "b 1", "b 2", "c 1"]


def test_a_flow_that_a_process_can_not_make_is_told(project: Project):
    """Once; it is imported in every process."""
    broken = "import sys\nif 'engine._cli.member' in sys.orig_argv:\n    1 / 0\n"
    project.write("flows.py", FLOW, head=broken + HEAD)
    done = subprocess.run(
        [sys.executable, "-m", "engine.run", "flows:flow", "-p", "2"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "ZeroDivisionError" in done.stderr
