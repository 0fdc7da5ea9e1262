"""What the leader's process knows of the whole job: counts of all workers, epochs, health.

The leader tells it what happens, about once a second what each worker has counted, and that its own
loop still turns. The endpoint (`engine.runtime._endpoint`) reads it from threads of its own: each
attribute is replaced as a whole, so that a reader sees the old or the new one and no mixture.

It outlives generations: a job that starts again from its last epoch goes on here. The counts of
workers begin anew then, as counters of processes do that start again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from engine.runtime._coordinator import Coordinator, Phase
from engine.runtime._counts import WorkerSnapshot
from engine.runtime._ids import WorkerIndex

COUNT_INTERVAL_S = 1.0
"""How often the workers are asked what they have counted."""
SILENT_S_MAX = 10.0
"""A worker, or the leader's loop, that has said nothing for so long counts as stuck."""
STALLED_S_MAX = 10.0
"""So long there may be something to do while nothing gets done."""
EPOCH_DURATION_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class EpochCounts:
    """What has become of epochs."""

    number: int = 0
    """Of the open one."""
    began_s: float = 0.0
    closing_since_s: float | None = None
    """Since when it is on its way from closing to published."""
    durations: tuple[int, ...] = (0,) * (len(EPOCH_DURATION_BOUNDS_S) + 1)
    """How many took how long from closing to published, by the bounds above; not cumulative."""
    duration_s: float = 0.0
    """All of these together."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """The last that one worker has said."""

    snapshot: WorkerSnapshot
    at_s: float
    progress_s: float
    """When it has last got something done, or had nothing to do."""


class Monitor:
    """One per job.

    Args:
        now_s: The monotonic clock.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.restarts = 0
        """How often the job has gone on from its last epoch after the death of a process."""
        self.epochs = EpochCounts()
        self.next_count_s = -math.inf
        """When to ask the workers again what they have counted."""
        self._heard: Mapping[WorkerIndex, _Heard | None] = {}
        self._turned_s: float | None = None
        self._committed = 0
        self._ended = False

    # What the driver says

    def begin(self, workers: int) -> None:
        """A generation begins: nothing has been heard of its workers yet."""
        now_s = self.now_s()
        self._heard = {WorkerIndex(i): None for i in range(workers)}
        self._committed = 0
        self._ended = False
        self.epochs = replace(self.epochs, began_s=now_s, closing_since_s=None)
        self.next_count_s = now_s

    def end(self) -> None:
        """The generation is over, and its leader's loop."""
        self._turned_s = None

    def restarted(self) -> None:
        """Another generation will go on from the last epoch."""
        self.restarts += 1
        self._heard = dict.fromkeys(self._heard)

    def ask(self, now_s: float) -> bool:
        """Whether it is time to ask the workers what they have counted; they are asked then."""
        if now_s < self.next_count_s:
            return False
        self.next_count_s = now_s + COUNT_INTERVAL_S
        return True

    def counted(self, snapshot: WorkerSnapshot) -> None:
        """A worker says what it has counted."""
        now_s, before = self.now_s(), self._heard.get(snapshot.worker)
        progress_s = now_s
        if before is not None and snapshot.backlog and snapshot.done == before.snapshot.done:
            progress_s = before.progress_s
        heard = _Heard(snapshot, now_s, progress_s)
        self._heard = {**self._heard, snapshot.worker: heard}

    def turned(self, now_s: float) -> None:
        """The loop of a leader with a thread to itself has turned once more."""
        self._turned_s = now_s

    def observe(self, coordinator: Coordinator, now_s: float) -> None:
        """Look at what the coordinator has decided; after each of its decisions."""
        epochs = self.epochs
        if coordinator.epochs_committed != self._committed:
            self._committed = coordinator.epochs_committed
            epochs = _published(epochs, now_s)
        since_s = epochs.closing_since_s
        if coordinator.phase in {Phase.OPEN, Phase.STOPPED}:
            since_s = None
        elif since_s is None:
            since_s = now_s
        self._ended = coordinator.phase is Phase.STOPPED
        self.epochs = replace(epochs, number=coordinator.epoch, closing_since_s=since_s)

    # What the endpoint asks

    def workers(self) -> list[tuple[WorkerSnapshot, float]]:
        """What each worker has said last, with how many seconds ago that was."""
        now_s = self.now_s()
        heard = [last for last in self._heard.values() if last is not None]
        return [(last.snapshot, now_s - last.at_s) for last in heard]

    def stuck(self) -> str | None:
        """Why the process should be started again; None if all is well."""
        turned_s = self._turned_s
        if turned_s is None:
            # Nobody leads yet, or the only worker's own thread does: a long call isn't a death.
            return None
        silent_s = self.now_s() - turned_s
        if silent_s <= SILENT_S_MAX:
            return None
        return f"the leader's loop has not turned for {silent_s:.0f} s"

    def not_ready(self) -> str | None:
        """Why the job isn't at work; None if it is."""
        heard, now_s = self._heard, self.now_s()
        missing = [worker for worker, last in heard.items() if last is None]
        if missing or not heard:
            who = ", ".join(f"worker {worker}" for worker in missing) or "any worker"
            return f"starting: nothing was heard yet of {who}"
        if self._ended:
            return None
        for worker, last in heard.items():
            if last is not None and (why := _stall_of(last, now_s)):
                return f"stalled: worker {worker} {why}"
        return None


def _stall_of(heard: _Heard, now_s: float) -> str | None:
    silent_s, idle_s = now_s - heard.at_s, now_s - heard.progress_s
    if silent_s > SILENT_S_MAX:
        return f"has not come back from what it is doing for {silent_s:.0f} s"
    if idle_s > STALLED_S_MAX:
        return f"has work waiting and got nothing done for {idle_s:.0f} s"
    return None


def _published(epochs: EpochCounts, now_s: float) -> EpochCounts:
    """As before, with the epoch that was on its way done, and the next one begun."""
    since_s = now_s if epochs.closing_since_s is None else epochs.closing_since_s
    took_s = now_s - since_s
    durations = list(epochs.durations)
    durations[sum(bound < took_s for bound in EPOCH_DURATION_BOUNDS_S)] += 1
    return replace(
        epochs,
        began_s=now_s,
        closing_since_s=None,
        durations=tuple(durations),
        duration_s=epochs.duration_s + took_s,
    )
