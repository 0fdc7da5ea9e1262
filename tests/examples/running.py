"""Runs flows as people do: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.tidy.tree import ROOT


def run(*arguments: str, cwd: Path = ROOT, **environ: str) -> str:
    """What ``python`` with these arguments prints, from any folder.

    Args:
        arguments: Behind ``python``.
        cwd: The folder.
        environ: More variables of the environment.
    """
    done = completed(*arguments, cwd=cwd, **environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def completed(
    *arguments: str, cwd: Path = ROOT, **environ: str
) -> subprocess.CompletedProcess[str]:
    """``python`` with these arguments, when it has ended, however that was."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def run_flow(import_str: str, cwd: Path = ROOT) -> list[str]:
    """The lines that a flow prints."""
    return run("-m", "engine.run", import_str, cwd=cwd).splitlines()
