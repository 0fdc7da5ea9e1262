"""The README keeps its word: its first flow, its error and its two commands are the real ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from examples import kafka_quickstart, kafka_statistics
from tests.examples.running import run_flow
from tests.tidy.tree import ROOT

README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
FIRST_FLOW = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """A folder of a newcomer, with the first flow saved in it."""
    tmp_path.joinpath("spending.py").write_text(FIRST_FLOW)
    return tmp_path


def test_the_first_flow_prints_what_the_readme_says(folder):
    """Saved and run as told, it gives the three lines."""
    [_, _, command, *_] = blocks("sh")
    assert command.strip() == "python -m engine.run spending:flow"
    assert "\n".join(run_flow("spending:flow", cwd=folder)) + "\n" in blocks("text")


def test_the_first_flow_fails_as_the_readme_says(folder):
    """With a text among the amounts, the report is the one that is shown."""
    folder.joinpath("spending.py").write_text(FIRST_FLOW.replace('("bob", 5)', '("bob", "five")'))
    done = subprocess.run(
        [sys.executable, "-m", "engine.run", "spending:flow"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr in blocks("text")


def test_the_readme_shows_what_the_word_count_prints():
    """The lines of output in the README are the first of those that come."""
    shown = next(block for block in blocks("text") if block.startswith("  "))
    lines = run_flow("examples.wordcount:flow")
    assert lines[: shown.count("\n")] == shown.splitlines()


def test_the_commands_for_kafka_are_those_of_the_examples():
    """They are run where the examples are tested."""
    quickstart, commands = (block for block in blocks("sh") if "examples.kafka" in block)
    for module, block in ((kafka_quickstart, quickstart), (kafka_statistics, commands)):
        assert re.findall(r"^    (python .*)$", module.__doc__, re.MULTILINE) == block.splitlines()


def test_ci_runs_the_two_commands_of_the_readme():
    """What CI does to a fresh environment is what the README tells people to do."""
    [install_and_run, install_and_test, *_] = [block.strip() for block in blocks("sh")]
    ci = ROOT.joinpath(".ci", "run").read_text(encoding="utf-8").splitlines()
    assert f"{install_and_run} || exit" in ci
    assert f"{install_and_test} || exit" == ci[-1]
