"""What the processes of a job and their leader say to each other. Plain values.

From the leader: `Membership`, then commands (`engine.runtime._messages`), `Question`, `Abort`,
`Count`, `Dismiss`. From a process: `Beat`, `Reported`, `Counted`, `Answered`, and `Left` or
`Failed` for each of its workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.connectors import AbortExecution
from engine.errors import LinkError
from engine.operators.tasks._resources import Resources
from engine.recovery import RecoveryConfig
from engine.runtime._deal import Deal
from engine.runtime._ids import WorkerIndex
from engine.runtime._launch import ReportedError
from engine.runtime._sink_node import Job

if TYPE_CHECKING:
    from engine.runtime._recovery import RunStart

BEAT_INTERVAL_S = 1.0
SILENT_S_MAX = 5.0
"""A process that has said nothing for so long is taken for dead."""


class UnmetError(LinkError):
    """Two processes that are both there can't reach each other."""


@dataclass(frozen=True, slots=True)
class Membership:
    """To a process: which part of a run it is to be."""

    workers: int
    """How many the job has."""
    mine: list[WorkerIndex]
    """Those that run in this process."""
    job: Job
    deal: Deal
    epoch_per_batch: bool
    recovery: RecoveryConfig | None
    start: RunStart | None
    """With recovery: what the workers go on from."""
    counting: bool
    """The workers count what they do."""
    source_timeout_s: float
    """For how long they ask sources again that can't be reached."""
    offers: tuple[Resources, ...]
    """What each worker of the job offers to tasks; empty if no task takes anything."""


@dataclass(frozen=True, slots=True)
class Abort:
    """To a process: its workers are to leave as soon as they can."""


@dataclass(frozen=True, slots=True)
class Count:
    """To a process: its workers are to say what they have counted."""


@dataclass(frozen=True, slots=True)
class Dismiss:
    """To a process: all of its workers have been heard to leave, or are left behind."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Every second: whoever says it is there."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a process: a worker has left because of an error, of which this is the report."""

    worker: WorkerIndex
    kind: str
    """"abort", "link", "unmet", or "error"."""
    text: str
    report: str

    def error(self) -> BaseException:
        """What to raise at the leader."""
        if self.kind == "abort":
            return AbortExecution()
        if self.kind == "link":
            return LinkError(self.text)
        if self.kind == "unmet":
            return UnmetError(self.text)
        return ReportedError(self.text, self.report)
