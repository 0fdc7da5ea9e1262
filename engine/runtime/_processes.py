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
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from engine.errors import WorkerDiedError
from engine.runtime._crew import Answered, Counted, CrewEvent, Left, Reported
from engine.runtime._ids import WorkerIndex
from engine.runtime._launch import Launch
from engine.runtime._membership import (
    BEAT_INTERVAL_S,
    SILENT_S_MAX,
    Abort,
    Beat,
    Count,
    Dismiss,
    Failed,
    Membership,
)
from engine.runtime._messages import Command
from engine.runtime._questions import Question

_STARTING_S = 25.0
"""A process may be silent for so much longer while it starts Python and loads the engine."""
MEMBER_MODULE = "engine._cli.member"
"""What the processes run; its only argument is the number of the socket to the leader."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """To a process, first of all: what it is."""

    launch: Launch
    links: dict[WorkerIndex, dict[WorkerIndex, int]]
    """For each of its workers, by peer, the number of an inherited socket."""
    membership: Membership


MakeMember: TypeAlias = Callable[[list[WorkerIndex]], Membership]
"""Makes what a process is told of a run, of the numbers of its workers."""


class Processes:
    """The processes of a run.

    Args:
        launch: How many, which workers run in them, and what they are to run.
        member: Makes what each is told first.
        hear: Takes what happens to workers, from threads that listen.
    """

    def __init__(
        self,
        launch: Launch,
        member: MakeMember,
        hear: Callable[[CrewEvent], None],
    ) -> None:
        self._launch = launch
        self._layout = launch.layout
        self._member = member
        self._hear = hear
        self._processes: list[_Process] = []
        self._over = threading.Event()

    def start(self) -> None:
        """Start all of them."""
        ends = self._connect()
        try:
            for number in range(self._layout.processes):
                mine = self._layout.workers_of(number)
                links = {worker: ends.pop(worker) for worker in mine}
                process = _Process(self._launch, links, self._member(mine), self._hear)
                self._processes.append(process)
        finally:
            for sockets in ends.values():
                _close_all(sockets.values())
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def _watch(self) -> None:
        """Kill processes that have been silent for too long, until the run is over."""
        checked_s = time.monotonic()
        while not self._over.wait(BEAT_INTERVAL_S):
            now_s, late_s = time.monotonic(), time.monotonic() - checked_s - BEAT_INTERVAL_S
            checked_s = now_s
            for process in self._processes:
                if late_s > BEAT_INTERVAL_S:
                    # It was us who stood still, and what they said meanwhile is yet to be heard.
                    process.heard_s = max(now_s, process.heard_s)
                elif process.watched and now_s - process.heard_s > SILENT_S_MAX:
                    process.give_up()

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

    def count(self) -> None:
        """As in `Led`."""
        for process in self._processes:
            process.send(Count())

    def ask(self, question: Question) -> None:
        """As in `Led`."""
        for process in self._processes:
            if question.worker in process.workers:
                process.send(question)

    def abort(self) -> None:
        """As in `Led`."""
        for process in self._processes:
            process.send(Abort())

    def join(self, timeout_s: float) -> None:
        """As in `Led`. Processes that take longer are killed."""
        self._over.set()
        for process in self._processes:
            process.end(timeout_s)


class _Process:
    """One process."""

    def __init__(
        self,
        launch: Launch,
        links: dict[WorkerIndex, dict[WorkerIndex, socket.socket]],
        membership: Membership,
        hear: Callable[[CrewEvent], None],
    ) -> None:
        self.workers = frozenset(membership.mine)
        """Which of them run in it."""
        self._staying = set(membership.mine)
        self._hear = hear
        self.heard_s = time.monotonic() + _STARTING_S
        """When it has last said something, or may be expected to have."""
        self._silent = False
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
        self._connection: Connection[Any, Any] = Connection(os.dup(ours.fileno()))
        self._sending = threading.Lock()
        self.send(Spawned(launch, numbers, membership))
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

    def give_up(self) -> None:
        """Take it for dead: it may be stopped, or hold the interpreter in some call."""
        self._silent = True
        self._popen.kill()
        self._hang_up()

    @property
    def watched(self) -> bool:
        """Whether it should be heard from: it has workers that have not left."""
        return bool(self._staying)

    def _hang_up(self) -> None:
        """End the connection on our side: a child of its own may still hold the other end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _take(self, message: Any) -> None:
        self.heard_s = time.monotonic()
        if isinstance(message, Beat):
            return
        if isinstance(message, Reported | Counted | Answered):
            self._hear(message)
            return
        assert isinstance(message, Left | Failed), message  # noqa: S101
        self._staying.discard(message.worker)
        if isinstance(message, Failed):
            message = Left(message.worker, message.error())
        self._hear(message)

    def _death(self, worker: WorkerIndex) -> WorkerDiedError:
        code = self._popen.returncode
        how = f"exit code {code}"
        if self._silent:
            how = f"no sign of life for {SILENT_S_MAX:g} s, so it was killed"
        elif code < 0:
            with contextlib.suppress(ValueError):
                how = f"killed by {signal.Signals(-code).name}"
        return WorkerDiedError(
            f"the process of worker {worker} (process id {self._popen.pid}) died: {how}"
        )

    def end(self, timeout_s: float) -> None:
        """See to it that the process ends."""
        if self._staying:
            self._listener.join(timeout_s)
        self.send(Dismiss())
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._hang_up()
        self._listener.join()
        self._connection.close()
        self._socket.close()


def _close_all(sockets: Any) -> None:
    for sock in sockets:
        sock.close()
