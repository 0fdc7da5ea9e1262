"""Coordinates workers that run elsewhere: carries what they and the coordinator say to each other.

The leader has a thread to itself. Workers are a crew in this process, or several in others; the
leader only hears of them, and tells all of them the same.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine.connectors import AbortExecution
from engine.errors import LinkError
from engine.runtime._coordinator import Coordinator
from engine.runtime._crew import Answered, Counted, CrewEvent, Left, Reported
from engine.runtime._discovery import Discovery
from engine.runtime._failure import name_of
from engine.runtime._ids import Epoch, WorkerIndex
from engine.runtime._messages import Command, Decision, LinkEpoch
from engine.runtime._ports import Clock, Waiter
from engine.runtime._questions import Desk, Question

if TYPE_CHECKING:
    from engine.runtime._monitor import Monitor

_LEAVING_S = 5.0
"""How long workers that were told to leave may take before they are left behind."""
_STOPPING_S = 0.5
"""How long after a second Ctrl-C."""
_ENDING_S = 1.0
"""How long they may take to end once they have left, or were left behind."""


@dataclass(slots=True)
class Drain:
    """A switch that a signal handler or another thread may set, waking the waiter after it."""

    requested: bool = False
    """True stops the sources and ends the run after one last epoch."""


class Linking(Protocol):
    """What makes an epoch's manifest durable."""

    def link(self, epoch: Epoch, marked: Mapping[str, Sequence[str]]) -> None:
        """Commit an epoch that all workers have prepared."""
        ...


class Led(Protocol):
    """The workers, as their leader sees them."""

    def start(self) -> None:
        """Start all workers."""
        ...

    def command(self, command: Command) -> None:
        """Tell all workers."""
        ...

    def count(self) -> None:
        """Have all workers say what they have counted; only if they count."""
        ...

    def ask(self, question: Question) -> None:
        """Have the worker that it is for answer a question; only if there is a store."""
        ...

    def abort(self) -> None:
        """Have all workers leave as soon as they can."""
        ...

    def join(self, timeout_s: float) -> None:
        """Wait until they have left, at most so long for each."""
        ...


class Leader:
    """Carries one run from its start to its end.

    Args:
        workers: How many workers there are.
        coordinator: Decides.
        clock: Tells the time.
        waiter: What the leader waits with; `hear` wakes it.
        drain: Set by others, who wake the waiter after it.
        recovery: Links epochs; None without a store.
    """

    def __init__(
        self,
        workers: int,
        coordinator: Coordinator,
        clock: Clock,
        waiter: Waiter,
        drain: Drain,
        recovery: Linking | None,
    ) -> None:
        self._staying = {WorkerIndex(i) for i in range(workers)}
        self._coordinator = coordinator
        self._clock = clock
        self._waiter = waiter
        self._drain = drain
        self._recovery = recovery
        self._events: deque[CrewEvent] = deque()
        self._error: BaseException | None = None
        self._leave_by_s = math.inf
        self._marked: dict[WorkerIndex, dict[str, list[str]]] = {}
        self._desk: Desk | None = None

    def hear(self, event: CrewEvent) -> None:
        """Take what happened to a worker; from any thread."""
        self._events.append(event)
        self._waiter.wake()

    def lead(
        self,
        workers: Led,
        monitor: Monitor | None = None,
        discovery: Discovery | None = None,
        desk: Desk | None = None,
    ) -> None:
        """Start the workers and coordinate them until all have left.

        Args:
            workers: Who they are.
            monitor: Is told what happens; with one the workers must be counting.
            discovery: Finds new partitions; None if nobody looks for them.
            desk: Where questions from outside come; None if nobody may ask.

        Raises:
            BaseException: What ended the first worker that was not told to leave. The others were
                told to, and what else went wrong is in its notes.
        """
        if monitor is not None:
            monitor.begin(len(self._staying))
        try:
            workers.start()
            if desk is not None:
                self._desk = desk
                desk.begin(len(self._staying))
            while self._staying and self._clock.monotonic_s() < self._leave_by_s:
                self._turn(workers, monitor, discovery)
        except BaseException as ex:
            workers.abort()
            # Who wants to stop at once waits for nobody for long.
            workers.join(_LEAVING_S if isinstance(ex, Exception) else _STOPPING_S)
            raise
        finally:
            if monitor is not None:
                monitor.end()
            if desk is not None:
                desk.end()
        workers.join(_ENDING_S)
        if self._error is not None:
            raise self._error

    def _turn(self, workers: Led, monitor: Monitor | None, discovery: Discovery | None) -> None:
        now_s = self._clock.monotonic_s()
        if monitor is not None and monitor.ask(now_s):
            workers.count()
        if self._desk is not None:
            self._desk.carry(workers.ask)
        decisions = self._wishes(discovery, now_s)
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Left):
                self._see_off(event, workers)
            elif isinstance(event, Reported):
                decisions += self._reported(event, now_s)
            else:
                self._told(event, monitor)
        for decision in decisions:
            decisions += self._carry_out(decision, workers)
        next_s = self._leave_by_s if self._error else self._coordinator.next_time_s()
        if monitor is not None:
            monitor.observe(self._coordinator, now_s)
            monitor.turned(now_s)
            next_s = min(next_s, monitor.next_count_s)
        if self._staying:
            self._waiter.wait(max(0.0, next_s - now_s))

    def _reported(self, event: Reported, now_s: float) -> list[Decision]:
        if self._error is not None:
            return []
        self._marked[event.worker] = event.marked or self._marked.get(event.worker, {})
        return self._coordinator.on_report(event.worker, event.report, now_s)

    def _told(self, event: Counted | Answered, monitor: Monitor | None) -> None:
        """A worker has said what it was asked for."""
        if isinstance(event, Counted):
            assert monitor is not None  # noqa: S101 - nobody counts unasked
            monitor.counted(event.snapshot)
        else:
            assert self._desk is not None  # noqa: S101 - as above
            self._desk.answered(event.answer)

    def _wishes(self, discovery: Discovery | None, now_s: float) -> list[Decision]:
        """What time, people and sources want of the coordinator."""
        decisions = [] if self._error else self._coordinator.on_time(now_s)
        if self._drain.requested:
            # It stays so: if this run is cut short, the next one drains.
            decisions += self._coordinator.drain(now_s)
        while discovery is not None and discovery.found:
            decisions += self._coordinator.add_parts(discovery.found.popleft(), now_s)
        return decisions

    def _carry_out(self, decision: Decision, workers: Led) -> list[Decision]:
        if not isinstance(decision, LinkEpoch):
            workers.command(decision)
            return []
        assert self._recovery is not None  # noqa: S101 - it decides so for durable runs alone
        marked: dict[str, list[str]] = {}
        for of_worker in self._marked.values():
            for step_id, shards in of_worker.items():
                marked.setdefault(step_id, []).extend(shards)
        self._recovery.link(decision.epoch, marked)
        return self._coordinator.on_linked(decision.epoch)

    def _see_off(self, left: Left, workers: Led) -> None:
        """A worker is gone: if it wasn't told to, all must go."""
        self._staying.discard(left.worker)
        if left.error is None:
            return
        if self._error is None:
            self._error = left.error
            self._leave_by_s = self._clock.monotonic_s() + _LEAVING_S
            workers.abort()
        elif isinstance(self._error, LinkError):
            # A lost connection is an echo of what happened at its other end.
            self._error = left.error
        elif not isinstance(self._error, AbortExecution):
            self._error.add_note(f"and then, on worker {left.worker}: {name_of(left.error)}")
