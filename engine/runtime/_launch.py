"""What a run in several processes is asked for with, and how their errors come back.

Apart from what spawns them, which other runs need not load.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import EngineRuntimeError
from engine.runtime._ids import WorkerIndex


@dataclass(frozen=True, slots=True)
class Layout:
    """Which workers run in which processes."""

    processes: int
    workers_each: int

    def workers_of(self, process: int) -> list[WorkerIndex]:
        """The workers of a process."""
        first = process * self.workers_each
        return [WorkerIndex(i) for i in range(first, first + self.workers_each)]

    @property
    def workers(self) -> int:
        """All of them."""
        return self.processes * self.workers_each


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to run in the processes, and in how many."""

    import_str: str
    """Names the flow; every process imports it."""
    layout: Layout
    verbose: bool = False
    """Reports of errors have the engine's own frames."""


class ReportedError(EngineRuntimeError):
    """An error in another process, which has made a report of it for people.

    Attributes:
        report: The report.
    """

    def __init__(self, text: str, report: str) -> None:
        super().__init__(text)
        self.report = report
