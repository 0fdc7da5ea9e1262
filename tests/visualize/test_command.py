"""``python -m engine.visualize``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engine import visualize
from tests.cli.project import Project, clean_environment
from tests.tidy.tree import ROOT

FLOW = """\
flow = Dataflow("drawn")
s = op.input("in", flow, TestingSource([("a", 1)]))
s = op.stateful_map("count", s, lambda n, v: (n, v))
op.output("out", s, StdOutSink())
half = Dataflow("half")
op.input("in", half, TestingSource([1]))
"""


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ([], 'flowchart TD\nsubgraph flow["drawn"]\n'),
        (["-o", "mermaid", "-r"], 'flowchart TD\nsubgraph flow["drawn"]\n'),
        (["-o", "plantuml"], "@startuml\ntitle drawn\n"),
        (["-o", "plantuml", "--plan"], "@startuml\ntitle drawn, planned for 2 workers\n"),
        (["-o", "json"], '{\n  "flow_id": "drawn",\n  "substeps": ['),
        (["-o", "json", "--plan", "-w", "5"], '{\n  "flow_id": "drawn",\n  "workers": 5,\n'),
    ],
)
def test_formats(options: list[str], begins: str, project: Project):
    """Mermaid by default; a plan is made for two workers, so that exchanges are seen."""
    project.write("flows.py", FLOW)
    outcome = project.call(visualize.main, "flows", *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(begins)
    assert outcome.out.endswith("\n")
    if "json" in options:
        json.loads(outcome.out)


def test_nothing_runs(project: Project):
    """Sources and sinks aren't opened for a drawing or a plan."""
    project.write(
        "flows.py",
        """\
        flow = Dataflow("files")
        s = op.input("in", flow, FileSource("nowhere.txt"))
        op.output("out", s, StdOutSink())
        """,
    )
    assert project.call(visualize.main, "flows").code == 0
    assert project.call(visualize.main, "flows", "--plan").code == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["flows:half", "--plan"], "dataflow 'half' has no output"),
        (["flows:other"], "its flows are `flows:flow` and `flows:half`"),
        (["nosuchflows"], "there is no module 'nosuchflows'"),
        (["flows", "-o", "svg"], "invalid choice: 'svg'"),
        (["flows", "--plan", "-w", "0"], "-w 0: must be a whole number of at least 1"),
    ],
)
def test_mistakes_exit_2(argv: list[str], said: str, project: Project):
    """With one block on standard error."""
    project.write("flows.py", FLOW)
    outcome = project.call(visualize.main, *argv)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert said in outcome.err


def test_as_a_command_of_its_own():
    """The example that the documents name is drawn with its plan."""
    done = subprocess.run(
        [sys.executable, "-m", "engine.visualize", "examples.wordcount:flow", "--plan"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "by key" in done.stdout
