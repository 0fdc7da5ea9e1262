"""Decides when epochs close, when they are committed and when the run is over.

A state machine without I/O: it takes the time and the workers' reports and gives commands, each
meant for all workers. At most one epoch is on its way from closing to published.

    OPEN --close--> CLOSING --all prepared--> LINKING --linked--> COMMITTING
     ▲                                                                │
     └───────────────────────── all published ────────────────────────┴──► STOPPED

Linking is making the epoch's manifest durable, which is the commit itself. It is work for the
driver: the coordinator tells it by `LinkEpoch`. Without a store there is nothing to link.
"""

from __future__ import annotations

import math
from enum import Enum, auto

from engine.errors import InternalError
from engine.runtime._ids import Epoch, WorkerIndex
from engine.runtime._messages import (
    CloseEpoch,
    CommitEpoch,
    Decision,
    Ended,
    EpochRequest,
    LinkEpoch,
    NewParts,
    Prepared,
    Published,
    Report,
    Stop,
)


class Phase(Enum):
    """Where the epoch with the number `Coordinator.epoch` is."""

    OPEN = auto()
    CLOSING = auto()
    LINKING = auto()
    COMMITTING = auto()
    STOPPED = auto()


class Coordinator:
    """One per run.

    Args:
        workers: How many workers take part.
        interval_s: Seconds between epochs; 0 makes an epoch of each source batch.
        now_s: The monotonic time of the start.
        after: The last epoch that was committed before this run; 0 if there was none.
        durable: There is a store, so epochs need a manifest.
    """

    def __init__(
        self,
        workers: int,
        interval_s: float,
        now_s: float,
        *,
        after: int = 0,
        durable: bool = False,
    ) -> None:
        self.epoch = Epoch(after + 1)
        self._durable = durable
        self.phase = Phase.OPEN
        self.epochs_committed = 0
        self._workers = workers
        self._interval_s = interval_s
        self._close_at_s = now_s + interval_s if interval_s else math.inf
        self._waiting_for: set[WorkerIndex] = set()
        self._ended: set[WorkerIndex] = set()
        self._requested = False
        self._draining = False
        self._final = False
        self._new_parts: NewParts = {}

    def drain(self, now_s: float) -> list[Decision]:
        """Stop the sources, commit one last epoch, stop. It isn't an end of input."""
        self._draining = True
        return self.on_time(now_s)

    def add_parts(self, new_parts: NewParts, now_s: float) -> list[Decision]:
        """Have new partitions of sources read from the next epoch on, which begins soon."""
        for step_id, dealt in new_parts.items():
            self._new_parts.setdefault(step_id, {}).update(dealt)
        self._requested = True
        return self.on_time(now_s)

    def next_time_s(self) -> float:
        """When `on_time` has something to do, if nothing else happens before."""
        return self._close_at_s if self.phase is Phase.OPEN else math.inf

    def on_time(self, now_s: float) -> list[Decision]:
        """Close the open epoch if it is time to."""
        if self.phase is not Phase.OPEN:
            return []
        final = self._draining or len(self._ended) == self._workers
        if not (final or self._requested or now_s >= self._close_at_s):
            return []
        self._requested = False
        self._final = final
        self._await_all(Phase.CLOSING)
        new_parts, self._new_parts = self._new_parts, {}
        return [CloseEpoch(self.epoch, final, new_parts)]

    def on_report(self, worker: WorkerIndex, report: Report, now_s: float) -> list[Decision]:
        """Take up what a worker says.

        Raises:
            InternalError: It can't be true in the present state.
        """
        match report:
            case EpochRequest():
                self._requested = True
            case Ended():
                self._ended.add(worker)
            case Prepared(epoch):
                if self._heard(worker, epoch, Phase.CLOSING):
                    if not self._durable:
                        return self._commit()
                    self.phase = Phase.LINKING
                    return [LinkEpoch(epoch)]
            case Published(epoch):
                if self._heard(worker, epoch, Phase.COMMITTING):
                    return self._after_published(now_s)
        return self.on_time(now_s)

    def on_linked(self, epoch: Epoch) -> list[Decision]:
        """The manifest of the epoch is durable.

        Raises:
            InternalError: It wasn't asked for.
        """
        if self.phase is not Phase.LINKING or epoch != self.epoch:
            msg = f"epoch {epoch} was linked while epoch {self.epoch} is {self.phase.name}"
            raise InternalError(msg)
        return self._commit()

    def _commit(self) -> list[Decision]:
        self._await_all(Phase.COMMITTING)
        return [CommitEpoch(self.epoch)]

    def _await_all(self, phase: Phase) -> None:
        self.phase = phase
        self._waiting_for = {WorkerIndex(i) for i in range(self._workers)}

    def _heard(self, worker: WorkerIndex, epoch: Epoch, phase: Phase) -> bool:
        """Tick off a worker's report; True once it was the last one."""
        if self.phase is not phase or epoch != self.epoch or worker not in self._waiting_for:
            msg = (
                f"worker {worker} reports epoch {epoch} while epoch {self.epoch} "
                f"is {self.phase.name}"
            )
            raise InternalError(msg)
        self._waiting_for.discard(worker)
        return not self._waiting_for

    def _after_published(self, now_s: float) -> list[Decision]:
        self.epochs_committed += 1
        if self._final:
            self.phase = Phase.STOPPED
            return [Stop()]
        self.epoch = Epoch(self.epoch + 1)
        self.phase = Phase.OPEN
        if self._interval_s:
            self._close_at_s = now_s + self._interval_s
        return self.on_time(now_s)
