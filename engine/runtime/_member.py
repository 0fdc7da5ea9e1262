"""A process that runs some of a job's workers for a leader in another process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from engine.connectors import AbortExecution
from engine.dataflow import Dataflow
from engine.errors import LinkError
from engine.runtime._build import WorkerSite
from engine.runtime._channel import CHANNEL_BATCHES_MAX
from engine.runtime._counts import Tally
from engine.runtime._crew import Crew, CrewEvent, Left
from engine.runtime._failure import explained, name_of
from engine.runtime._ids import WorkerIndex
from engine.runtime._mesh import MeshSeat
from engine.runtime._plan import Plan, plan
from engine.runtime._ports import NoNetwork, SystemClock
from engine.runtime._processes import BEAT_INTERVAL_S, Abort, Beat, Count, Failed, Membership

if TYPE_CHECKING:
    from engine.runtime._recovery import WorkerRecovery

_LEAVING_S = 5.0
"""How long workers may take to leave when their leader is gone."""


class Member:
    """The workers of one process of a job.

    Args:
        connection: To the leader.
        membership: What the leader said first.
        report: Makes a report for people of why a worker failed.
    """

    def __init__(
        self,
        connection: Connection[Any, Any],
        membership: Membership,
        report: Callable[[BaseException], str],
    ) -> None:
        self._connection = connection
        self._membership = membership
        self._report = report
        self._sending = threading.Lock()
        self._staying = set(membership.mine)

    def beat(self) -> None:
        """Say every second that this process is there, on a thread, until it ends."""
        threading.Thread(target=self._beat, name="engine-beat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            self._send(Beat())
            time.sleep(BEAT_INTERVAL_S)

    def _send(self, message: Any) -> None:
        """Tell the leader something; if it is gone, that is noticed elsewhere."""
        with contextlib.suppress(OSError), self._sending:
            self._connection.send(message)

    def run(self, flow: Dataflow) -> None:
        """Run the workers until they have left."""
        what = self._membership
        planned = plan(flow, what.workers)
        stores = self._open_stores(planned)
        try:
            crew = self._crew(planned, stores)
            crew.start()
            self._obey(crew)
            crew.join(_LEAVING_S)
        finally:
            for store in stores.values():
                store.close()

    def fail(self, error: BaseException) -> None:
        """Tell the leader that none of the workers could start."""
        for worker in self._membership.mine:
            self._hear(Left(worker, error))

    def _open_stores(self, planned: Plan) -> dict[WorkerIndex, WorkerRecovery]:
        what = self._membership
        if what.start is None or what.recovery is None:
            return {}
        from engine.runtime._real_store import real_world  # noqa: PLC0415
        from engine.runtime._recovery import WorkerRecovery  # noqa: PLC0415

        world = real_world(what.recovery)
        return {
            worker: WorkerRecovery.open(what.start, planned, worker, world) for worker in what.mine
        }

    def _crew(self, planned: Plan, stores: dict[WorkerIndex, WorkerRecovery]) -> Crew:
        what, clock = self._membership, SystemClock()
        bytes_max = None if what.recovery is None else what.recovery.state_memory
        sites = [
            WorkerSite(
                *(worker, what.workers, clock, NoNetwork(), CHANNEL_BATCHES_MAX, what.job),
                store=stores.get(worker),
                state_bytes_max=bytes_max,
                tally=Tally(clock.monotonic_s) if what.counting else None,
            )
            for worker in what.mine
        ]
        seats = [
            MeshSeat(
                {peer: socket.socket(fileno=fd) for peer, fd in what.links[worker].items()},
                what.job.generation,
            )
            for worker in what.mine
        ]
        return Crew(
            planned, what.deal, sites, self._hear, epoch_per_batch=what.epoch_per_batch, seats=seats
        )

    def _obey(self, crew: Crew) -> None:
        """Do what the leader says until it has nothing more to say."""
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                break
            if isinstance(message, Abort):
                crew.abort()
            elif isinstance(message, Count):
                crew.count()
            else:
                crew.command(message)
        if self._staying:
            # The leader is gone, and another one may be about to start.
            os._exit(1)

    def _hear(self, event: CrewEvent) -> None:
        """Pass on what happens to a worker."""
        message: Any = event
        if isinstance(event, Left):
            if event.error is not None:
                message = self._failed(event.worker, event.error)
            self._staying.discard(event.worker)
        self._send(message)

    def _failed(self, worker: WorkerIndex, error: BaseException) -> Failed:
        if isinstance(error, AbortExecution):
            return Failed(worker, "abort", "", "")
        if isinstance(error, LinkError):
            return Failed(worker, "link", str(error), "")
        if isinstance(error, Exception):
            error = explained(error)
        return Failed(worker, "error", name_of(error), self._report(error))
