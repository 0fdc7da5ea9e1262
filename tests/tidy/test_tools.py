"""Format, lint and types: the tools that have no tests of their own are run as some.

So one command checks everything, and closes with one summary.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.tidy.tree import ROOT

TOOLS = {
    "format": ["ruff", "format", "--check", "--diff"],
    "lint": ["ruff", "check", "--output-format=concise"],
    "mypy": ["mypy"],
    # It would look for libraries in whatever Python is first on the path.
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("arguments", [pytest.param(a, id=name) for name, a in TOOLS.items()])
def test_the_tool_finds_nothing(arguments: list[str]):
    """Everything is formatted, linted and typed as pyproject.toml says."""
    # Nothing may be fetched while tests run: neither newer versions nor advice to get them.
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
