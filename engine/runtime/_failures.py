"""What takes the records that a running step goes on without: counts them, tells, keeps letters.

One for each step whose policy isn't "fail", on each worker; `engine.runtime._build` makes them. The
loop of a step, or its node, calls `take` with the exception it has caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

from engine.connectors import AbortExecution
from engine.errors import (
    DeserializationError,
    EngineError,
    RemoteError,
    UserCodeError,
    WorkerProcessError,
)
from engine.operators._dead_letters import DeadLetter
from engine.operators._kernels import Progress
from engine.operators._keys import is_pair
from engine.operators._shown import shortened
from engine.runtime._failure import is_step_code, name_of, refusal_of
from engine.runtime._ids import StageIndex, WorkerIndex
from engine.runtime._nodes import Push
from engine.runtime._planned_step import PlannedStep

_RECORDS_FAULT = (UserCodeError, DeserializationError, RemoteError, WorkerProcessError)
"""Errors of the engine that are about a record; the others are about the run."""
_TELL_EVERY_S = 10.0


Place: TypeAlias = Callable[[], tuple[str, Any]]
"""Gives a source partition, and where it goes on after the batch that it gave last."""


@dataclass(slots=True)
class FailureSite:
    """What the failures of one stage on one worker have in common."""

    worker: WorkerIndex
    stage: StageIndex
    time_s: Callable[[], float]
    """The wall clock."""
    monotonic_s: Callable[[], float]
    tell: Callable[[str], None]
    """Takes lines for people."""
    letters: int = 0
    """How many there were in this run, of all steps."""
    place: Place | None = None
    """Where the batch in hand was read; None where that isn't known."""

    def follow(self, place: Place, push: Push, batch: list[Any]) -> None:
        """Hand on a batch that was read there."""
        self.place = place
        push(batch)
        self.place = None


class StepFailures:
    """Takes the records that one step raises for.

    Args:
        step: The step.
        site: What all steps of the stage share.
        progress: Says which epoch the records belong to.
        letters: Takes the dead letters; None to skip records.
    """

    def __init__(
        self,
        step: PlannedStep,
        site: FailureSite,
        progress: Progress,
        letters: list[Any] | None,
    ) -> None:
        self.step_id = step.step_id
        self.policy = "skip" if letters is None else "dead_letter"
        self.count = 0
        """How many records it has left out."""
        self._site = site
        self._progress = progress
        self._letters = letters
        self._inner_id = step.inner_id
        self._keyed: bool = getattr(step.kernel, "takes_pairs", False)
        self._told = 0
        self._tell_at_s = -1.0
        self._last = ""

    def take(self, ex: Exception, record: Any, attempts: int = 1) -> bool:
        """As `engine.operators._kernels.Failures` says."""
        if not is_records_fault(ex):
            return False
        error = refusal_of(ex)
        self.count += 1
        if self._letters is not None:
            self._letters.append(self._letter(error, record, attempts))
        self._last = f"{shortened(record)}: {name_of(error)}"
        if self._site.monotonic_s() >= self._tell_at_s:
            self.tell()
        return True

    def take_all(self, ex: Exception, batch: list[Any]) -> bool:
        """The step has raised for a batch, all of which is left out; as `take` otherwise."""
        return is_records_fault(ex) and all(self.take(ex, record) for record in batch)

    def tell(self) -> None:
        """Tell people how many records were left out, if it is more than they know."""
        count = self.count
        if count == self._told:
            return
        self._told = count
        self._tell_at_s = self._site.monotonic_s() + _TELL_EVERY_S
        how = "skipped" if self._letters is None else "put aside as dead letters"
        records = "1 record" if count == 1 else f"{count:,} records"
        self._site.tell(
            f"step {self.step_id!r} has {how} {records} so far on worker {self._site.worker}; "
            f"the last one: {self._last}"
        )

    def _letter(self, ex: BaseException, record: Any, attempts: int) -> DeadLetter:
        site = self._site
        site.letters += 1
        source, position = (None, None) if site.place is None else site.place()
        epoch, kind = self._progress.epoch, type(ex)
        return DeadLetter(
            letter_id=f"{epoch}-{site.worker}-{site.stage}-{site.letters}",
            step_id=self._inner_id,
            record=record,
            key=record[0] if self._keyed and is_pair(record) else None,
            error_type=f"{kind.__module__}.{kind.__qualname__}",
            message=name_of(ex).removeprefix(kind.__name__).removeprefix(": "),
            traceback=_traceback_of(ex),
            attempts=attempts,
            source=source,
            position=position,
            epoch=epoch,
            worker=site.worker,
            at=datetime.fromtimestamp(site.time_s(), UTC),
        )


def is_records_fault(ex: Exception) -> bool:
    """Whether a step may go on after this without the record.

    Not after what is about the run and would come again with each record: the engine's own errors,
    a run that is given up, memory that has run out.
    """
    # Memory of another process is another matter: that of a task is gone with its call.
    ours = not isinstance(ex.__cause__, RemoteError)
    if isinstance(ex, AbortExecution) or (isinstance(ex, MemoryError) and ours):
        return False
    return not isinstance(ex, EngineError) or isinstance(ex, _RECORDS_FAULT)


def _traceback_of(ex: BaseException) -> str:
    """As Python prints it, without the engine's frames before the user's."""
    # Here, because most runs need none, and it takes a while to load.
    import traceback  # noqa: PLC0415

    inner = ex.__traceback__
    for entry in _entries(ex.__traceback__):
        if not is_step_code(entry.tb_frame):
            inner = entry
            break
    try:
        return "".join(traceback.format_exception(type(ex), ex, inner))
    except Exception as broken:  # noqa: BLE001 - a user's __str__ must not end the run
        return f"{name_of(ex)}\n(its traceback can't be shown: {type(broken).__name__})\n"


def _entries(entry: TracebackType | None) -> Iterator[TracebackType]:
    while entry is not None:
        yield entry
        entry = entry.tb_next
