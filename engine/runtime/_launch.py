"""What a run in several processes is asked for with, and how their errors come back.

Apart from what spawns them, which other runs need not load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineRuntimeError
from engine.runtime._address import Address
from engine.runtime._ids import WorkerIndex

_SECRET_BYTES_MIN = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """Which workers run in which processes."""

    processes: int
    workers_each: int

    def process_of(self, worker: int) -> int:
        """The process of a worker."""
        return worker // self.workers_each

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


def secret_of(text: str) -> bytes:
    """A cluster's secret, as it was given.

    Raises:
        ValueError: It is too short to be one.
    """
    secret = text.strip().encode()
    if len(secret) < _SECRET_BYTES_MIN:
        msg = f"the secret has {len(secret)} bytes; {_SECRET_BYTES_MIN} is the least"
        raise ValueError(msg)
    return secret


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a process shows to others, and by whom theirs must be signed; PEM files."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Cluster:
    """A job in processes that somebody else starts, each on its host, and which of them this is."""

    addresses: tuple[Address, ...]
    process: int
    secret: bytes
    """Known to all of them and to nobody else."""
    tls: TlsFiles | None
    workers_each: int
    report: Callable[[BaseException], str]
    """Makes a report for people of why a worker failed."""

    @property
    def layout(self) -> Layout:
        """Which workers run in which processes."""
        return Layout(len(self.addresses), self.workers_each)


class ReportedError(EngineRuntimeError):
    """An error in another process, which has made a report of it for people.

    Attributes:
        report: The report.
    """

    def __init__(self, text: str, report: str) -> None:
        super().__init__(text)
        self.report = report
