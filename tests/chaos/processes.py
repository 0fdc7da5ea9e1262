"""Runs of several processes, and looking at them from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.project import clean_environment


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start ``flows:flow`` of a folder, in a group of processes of its own.

    Args:
        folder: Where it is run.
        arguments: For `engine.run`.
        variables: For the environment.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "engine.run", "flows:flow", *arguments],
        cwd=folder,
        env={**clean_environment(), **variables},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], timeout_s: float = 60) -> str:
    """Wait for the end; gives what was said."""
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"it hangs: {process.communicate()[1]}")
    return said


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that it has started."""
    return children_of(process.pid)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, on any of its threads."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def wait_for_children(process: subprocess.Popen[str], count: int = 2) -> list[int]:
    """Wait until it has started so many."""
    until_s = time.monotonic() + 30
    while len(found := children(process)) < count:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
