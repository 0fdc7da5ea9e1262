"""A user's project: files in a folder of its own, and command lines run there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
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

    def start(self, *argv: str, stdout: int = subprocess.PIPE) -> Running:
        """Run `engine.run` in a process of its own, which Ctrl-C interrupts.

        A shell's background jobs ignore it, and what they start would inherit that.
        """
        inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return Running(self._popen(argv, stdout))
        finally:
            signal.signal(signal.SIGINT, inherited)

    def _popen(self, argv: Sequence[str], stdout: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "engine.run", *argv],
            cwd=self.folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def clean_environment() -> dict[str, str]:
    """The environment less all settings of Python's and the engine's, and with the engine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ENGINE_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


class Running:
    """A process that a test talks to.

    One that hangs is killed with all that it started, and fails the test by its exit code.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines = {"stdout": "", "stderr": ""}
        self._watchdog = threading.Timer(60, os.killpg, (process.pid, signal.SIGKILL))
        self._watchdog.start()

    def line(self, stream: str = "stdout") -> str:
        """Wait for the next line of its output; what was waited for is part of the outcome too."""
        line = getattr(self.process, stream).readline()
        if not line:
            pytest.fail(f"it has ended: {self.ended()}")
        self._lines[stream] += line
        return line.rstrip("\n")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self) -> Outcome:
        """Wait for its end."""
        with self.process:
            out = self.process.stdout.read() if self.process.stdout else ""
            err = self.process.stderr.read() if self.process.stderr else ""
            code = self.process.wait()
        self._watchdog.cancel()
        self._watchdog.join()
        return Outcome(code, self._lines["stdout"] + out, self._lines["stderr"] + err)
