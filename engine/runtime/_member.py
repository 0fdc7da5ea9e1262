"""The workers that one process runs for a leader in another process, or on another thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from engine.connectors import AbortExecution
from engine.dataflow import Dataflow
from engine.errors import LinkError
from engine.runtime._build import WorkerSite
from engine.runtime._channel import CHANNEL_BATCHES_MAX
from engine.runtime._counts import Tally
from engine.runtime._crew import Crew, CrewEvent, Left, Seat
from engine.runtime._failure import explained, name_of
from engine.runtime._ids import WorkerIndex
from engine.runtime._membership import (
    BEAT_INTERVAL_S,
    Abort,
    Beat,
    Count,
    Dismiss,
    Failed,
    Membership,
    UnmetError,
)
from engine.runtime._outage import Patience
from engine.runtime._plan import Plan, plan
from engine.runtime._ports import NoNetwork, SystemClock
from engine.runtime._questions import Question
from engine.runtime._task_site import RealExecutors

if TYPE_CHECKING:
    from engine.runtime._recovery import WorkerRecovery

_LEAVING_S = 5.0
"""How long workers may take to leave once they were told to."""


class ToLeader(Protocol):
    """A connection to the leader. Any thread may send, one receives."""

    def send(self, obj: Any, /) -> None:
        """Tell it something; an `OSError` if it is gone."""
        ...

    def recv(self) -> Any:
        """What it says next; an `OSError` or `EOFError` if it is gone, or silent for too long."""
        ...


class LeaderLostError(Exception):
    """The leader is gone while workers were at work; they have been told to leave."""


def beat(leader: ToLeader) -> None:
    """Tell the leader every second that this process is there, on a thread, while it hears it."""

    def tell() -> None:
        with contextlib.suppress(OSError):
            while True:
                leader.send(Beat())
                time.sleep(BEAT_INTERVAL_S)

    threading.Thread(target=tell, name="engine-beat", daemon=True).start()


class Member:
    """The workers of this process in one run.

    Args:
        leader: The connection to the leader.
        membership: What it said first.
        seats: Connects each of the workers to those of other processes.
        report: Makes a report for people of why a worker failed.
        tell: Takes lines for people.
    """

    def __init__(
        self,
        leader: ToLeader,
        membership: Membership,
        seats: Callable[[], Sequence[Seat]],
        report: Callable[[BaseException], str],
        tell: Callable[[str], None],
    ) -> None:
        self._leader = leader
        self._membership = membership
        self._seats = seats
        self._report = report
        self._tell = tell
        self._staying = set(membership.mine)
        self._crew: Crew | None = None
        self._unlinked: str | None = None

    def run(self, flow: Dataflow) -> bool:
        """Run the workers until they have left.

        Returns:
            Whether they all have. One that has not hangs in the flow's own code, and this process
            can't be used again.

        Raises:
            LeaderLostError: The leader is gone.
        """
        what = self._membership
        replaying = what.start is not None and what.start.replaying
        planned = plan(flow, what.workers, replaying=replaying)
        with contextlib.ExitStack() as stack:
            seats = self._seats()
            for seat in seats:
                stack.callback(seat.close)
            stores = self._open_stores(planned, stack)
            self._crew = crew = self._make_crew(planned, seats, stores)
            crew.start()
            if self._unlinked is not None:
                crew.abort()
            lost = self._obey(crew)
            crew.abort()
            crew.join(_LEAVING_S)
            if crew.working:
                # What it uses must not be closed.
                stack.pop_all()
                return False
        if lost is not None:
            raise lost
        return True

    def fail(self, error: BaseException) -> None:
        """Tell the leader that none of the workers could start."""
        for worker in sorted(self._staying):
            self._hear(Left(worker, error))

    def unlink(self, why: str) -> None:
        """End this process's part because another process can't be reached; from any thread."""
        self._unlinked = why
        if self._crew is not None:
            self._crew.abort()

    def _open_stores(
        self, planned: Plan, stack: contextlib.ExitStack
    ) -> dict[WorkerIndex, WorkerRecovery]:
        what = self._membership
        if what.start is None or what.recovery is None:
            return {}
        from engine.runtime._real_store import real_world  # noqa: PLC0415
        from engine.runtime._recovery import WorkerRecovery  # noqa: PLC0415

        world = real_world(what.recovery)
        stores: dict[WorkerIndex, WorkerRecovery] = {}
        for worker in what.mine:
            stores[worker] = store = WorkerRecovery.open(what.start, planned, worker, world)
            stack.callback(store.close)
        return stores

    def _make_crew(
        self, planned: Plan, seats: Sequence[Seat], stores: dict[WorkerIndex, WorkerRecovery]
    ) -> Crew:
        what = self._membership
        bytes_max = None if what.recovery is None else what.recovery.state_memory
        clock = SystemClock()
        first = WorkerSite(
            *(WorkerIndex(0), what.workers, clock, NoNetwork(), CHANNEL_BATCHES_MAX, what.job),
            state_bytes_max=bytes_max,
            patience=Patience(what.source_timeout_s, self._tell),
            offers=what.offers,
        )
        sites = [
            replace(
                first,
                index=worker,
                store=stores.get(worker),
                tally=Tally(clock.monotonic_s) if what.counting else None,
                executors=RealExecutors(self._tell),
            )
            for worker in what.mine
        ]
        return Crew(
            planned, what.deal, sites, self._hear, epoch_per_batch=what.epoch_per_batch, seats=seats
        )

    def _obey(self, crew: Crew) -> LeaderLostError | None:
        """Do what the leader says until it has nothing more to say, or is gone too early."""
        try:
            while not isinstance(message := self._leader.recv(), Dismiss):
                if isinstance(message, Abort):
                    crew.abort()
                elif isinstance(message, Count):
                    crew.count()
                elif isinstance(message, Question):
                    crew.ask(message)
                elif not isinstance(message, Beat):
                    crew.command(message)
        except (EOFError, OSError) as ex:
            if self._staying:
                return LeaderLostError(str(ex) or "it has closed the connection")
        return None

    def _hear(self, event: CrewEvent) -> None:
        """Pass on what happens to a worker; if the leader is gone, that is noticed elsewhere."""
        message: Any = event
        if isinstance(event, Left):
            error = event.error
            if self._unlinked is not None and (error is None or isinstance(error, LinkError)):
                error = LinkError(self._unlinked)
            if error is not None:
                message = self._failed(event.worker, error)
            self._staying.discard(event.worker)
        with contextlib.suppress(OSError):
            self._leader.send(message)

    def _failed(self, worker: WorkerIndex, error: BaseException) -> Failed:
        if isinstance(error, AbortExecution):
            return Failed(worker, "abort", "", "")
        if isinstance(error, LinkError):
            kind = "unmet" if isinstance(error, UnmetError) else "link"
            return Failed(worker, kind, str(error), "")
        if isinstance(error, Exception):
            error = explained(error)
        return Failed(worker, "error", name_of(error), self._report(error))
