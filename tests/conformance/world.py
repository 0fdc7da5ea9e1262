"""The outside of a connector under test: a folder, a clock that tests move, standard output.

Both suites hand a `World` to the function that builds the source or sink of a case.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from types import FrameType

import pytest

_HANGING_S = 120.0
# Turns a hang into a failure, and measures nothing: it is far above what any test takes.


class FakeClock:
    """A clock that stands still until it is told the time."""

    def __init__(self) -> None:
        self._now = datetime(2024, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time now."""
        return self._now

    def wait_until(self, time: datetime) -> None:
        """Move on to `time`, never back."""
        self._now = max(self._now, time)


@dataclass(frozen=True)
class World:
    """Where a connector under test lives."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    stdout: StringIO = field(default_factory=StringIO)
    memory: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Named lists that outlive a crash: the target of sinks that write to memory."""


@contextmanager
def nothing_blocks() -> Iterator[None]:
    """Fail if a connector sleeps or hangs in a system call, which an alarm gets it out of.

    Nothing reaches the disk here: the crashes of the suites are those of a process, which syncing
    doesn't matter to, and thousands of them must not wait for a busy disk.
    """

    def no_sleep(seconds: float) -> None:
        pytest.fail(f"slept for {seconds} s")

    def no_sync(handle: int) -> None:
        del handle

    def on_alarm(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        pytest.fail("blocked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", no_sleep)
        patch.setattr(os, "fsync", no_sync)
        before = signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, _HANGING_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
