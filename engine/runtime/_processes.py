"""Workers in processes of this machine, as their leader sees them: spawned, told, heard, ended.

Each process gets a socket to its leader and one to each worker of other processes, made before it
starts and inherited: nobody else can connect, so nobody has to prove anything. A process that ends
without a word is noticed by the end of its socket, and one whose leader is gone leaves by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.connectors import AbortExecution
from engine.errors import LinkError, WorkerDiedError
from engine.recovery import RecoveryConfig
from engine.runtime._build import Deal
from engine.runtime._crew import CrewEvent, Left, Reported
from engine.runtime._ids import WorkerIndex
from engine.runtime._launch import Layout, ReportedError
from engine.runtime._messages import Command
from engine.runtime._sink_node import Job

if TYPE_CHECKING:
    from engine.runtime._recovery import RunStart

MEMBER_MODULE = "engine._cli.member"
"""What the processes run; its only argument is the number of the socket to the leader."""


@dataclass(frozen=True, slots=True)
class Abort:
    """To a process: its workers are to leave as soon as they can."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a process: a worker has left because of an error, of which this is the report."""

    worker: WorkerIndex
    kind: str
    """"abort", "link", or "error"."""
    text: str
    report: str


@dataclass(frozen=True, slots=True)
class Membership:
    """To a process, first of all: what it is to be."""

    import_str: str
    verbose: bool
    workers: int
    """How many the job has."""
    mine: list[WorkerIndex]
    """Those that run in this process."""
    links: dict[WorkerIndex, dict[WorkerIndex, int]]
    """For each of mine, by peer, the number of an inherited socket."""
    job: Job
    deal: Deal
    epoch_per_batch: bool
    recovery: RecoveryConfig | None
    start: RunStart | None
    """With recovery: what the workers go on from."""


MakeMember: TypeAlias = Callable[
    [list[WorkerIndex], dict[WorkerIndex, dict[WorkerIndex, int]]], Membership
]
"""Makes what a process is told first, of its workers and the numbers of their sockets."""


class Processes:
    """The processes of a run.

    Args:
        layout: How many, and which workers run in them.
        member: Makes what each is told first.
        hear: Takes what happens to workers, from threads that listen.
    """

    def __init__(
        self,
        layout: Layout,
        member: Callable[
            [list[WorkerIndex], dict[WorkerIndex, dict[WorkerIndex, int]]], Membership
        ],
        hear: Callable[[CrewEvent], None],
    ) -> None:
        self._layout = layout
        self._member = member
        self._hear = hear
        self._processes: list[_Process] = []

    def start(self) -> None:
        """Start all of them."""
        ends = self._connect()
        try:
            for number in range(self._layout.processes):
                mine = self._layout.workers_of(number)
                links = {worker: ends.pop(worker) for worker in mine}
                self._processes.append(_Process(mine, links, self._member, self._hear))
        finally:
            for sockets in ends.values():
                _close_all(sockets.values())

    def _connect(self) -> dict[WorkerIndex, dict[WorkerIndex, socket.socket]]:
        """A pair of sockets for each two workers of different processes."""
        by_process = [self._layout.workers_of(n) for n in range(self._layout.processes)]
        ends: dict[WorkerIndex, dict[WorkerIndex, socket.socket]] = {
            worker: {} for workers in by_process for worker in workers
        }
        for these, those in itertools.combinations(by_process, 2):
            for one, other in itertools.product(these, those):
                ends[one][other], ends[other][one] = socket.socketpair()
        return ends

    def command(self, command: Command) -> None:
        """As in `Led`."""
        for process in self._processes:
            process.send(command)

    def abort(self) -> None:
        """As in `Led`."""
        for process in self._processes:
            process.send(Abort())

    def join(self, timeout_s: float) -> None:
        """As in `Led`. Processes that take longer are killed."""
        for process in self._processes:
            process.end(timeout_s)


class _Process:
    """One process."""

    def __init__(
        self,
        workers: Sequence[WorkerIndex],
        links: dict[WorkerIndex, dict[WorkerIndex, socket.socket]],
        member: Callable[
            [list[WorkerIndex], dict[WorkerIndex, dict[WorkerIndex, int]]], Membership
        ],
        hear: Callable[[CrewEvent], None],
    ) -> None:
        self._staying = set(workers)
        self._hear = hear
        ours, theirs = socket.socketpair()
        sockets = [theirs, *(sock for peers in links.values() for sock in peers.values())]
        numbers = {
            worker: {peer: sock.fileno() for peer, sock in peers.items()}
            for worker, peers in links.items()
        }
        command = [sys.executable, "-m", MEMBER_MODULE, str(theirs.fileno())]
        try:
            # In a session of its own: Ctrl-C is for the leader, who tells the others.
            self._popen = subprocess.Popen(  # noqa: S603 - this interpreter, our module
                command, pass_fds=[sock.fileno() for sock in sockets], start_new_session=True
            )
        finally:
            _close_all(sockets)
        self._socket = ours
        self._connection = Connection(os.dup(ours.fileno()))
        self._sending = threading.Lock()
        self.send(member(list(workers), numbers))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, message: Any) -> None:
        """Tell the process something; nothing if it is gone, which its listener notices."""
        with contextlib.suppress(OSError), self._sending:
            self._connection.send(message)

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self._staying:
                self._take(self._connection.recv())
        if self._staying:
            self._popen.wait()
        for worker in sorted(self._staying):
            self._hear(Left(worker, self._death(worker)))

    def _take(self, message: Any) -> None:
        if isinstance(message, Reported):
            self._hear(message)
            return
        assert isinstance(message, Left | Failed), message  # noqa: S101
        self._staying.discard(message.worker)
        if isinstance(message, Failed):
            message = Left(message.worker, _error_of(message))
        self._hear(message)

    def _death(self, worker: WorkerIndex) -> WorkerDiedError:
        code = self._popen.returncode
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"killed by {signal.Signals(-code).name}"
        return WorkerDiedError(
            f"the process of worker {worker} (process id {self._popen.pid}) died: {how}"
        )

    def end(self, timeout_s: float) -> None:
        """See to it that the process ends."""
        if self._staying:
            self._listener.join(timeout_s)
        # To a process whose workers have left this says that it may go.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._listener.join()
        self._connection.close()
        self._socket.close()


def _error_of(failed: Failed) -> BaseException:
    if failed.kind == "abort":
        return AbortExecution()
    if failed.kind == "link":
        return LinkError(failed.text)
    return ReportedError(failed.text, failed.report)


def _close_all(sockets: Any) -> None:
    for sock in sockets:
        sock.close()
