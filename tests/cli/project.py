"""A user's project: files in a folder of its own, and command lines run there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT

HEAD = """\
import engine.operators as op
from engine.connectors import *
from engine.connectors.files import FileSink, FileSource
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow, operator
from engine.testing import TestingSource

"""
"""What the flows in these tests import; their own first line is line 8."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    """A folder with flows in it, which is the current one while a test runs."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def write(self, name: str, text: str, *, head: str = HEAD) -> Path:
        """Write a file, with what flows import at its top."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + textwrap.dedent(text), encoding="utf-8")
        return path

    def call(self, main: Callable[[Sequence[str]], int], *argv: str) -> Outcome:
        """Run a command line in this process."""
        self.capture.readouterr()
        code = main(argv)
        said = self.capture.readouterr()
        return Outcome(int(code), said.out, said.err)

    def start(self, *argv: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Run `engine.run` in a process of its own, whose signals are those of a terminal's."""
        return subprocess.Popen(
            [sys.executable, "-m", "engine.run", *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def ended(process: subprocess.Popen[str], out_before: str = "") -> Outcome:
    """Wait for a process, which must not hang."""
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return Outcome(process.returncode, out_before + (out or ""), err)
