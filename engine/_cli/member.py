"""What a process runs that a leader has spawned: `python -m engine._cli.member SOCKET`.

Not for people. The socket is inherited, and the leader is at its other end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from engine._cli.exits import say
from engine._cli.imports import load_flow
from engine._cli.report import report
from engine.runtime._member import LeaderLostError, Member, beat
from engine.runtime._mesh import MeshSeat
from engine.runtime._processes import Spawned

_PR_SET_PDEATHSIG = 1


class _Leader:
    """The connection to the leader; any thread may send."""

    def __init__(self, fd: int) -> None:
        self._connection: Connection[Any, Any] = Connection(fd)
        self._sending = threading.Lock()
        self.recv = self._connection.recv

    def send(self, obj: Any, /) -> None:
        with self._sending:
            self._connection.send(obj)


def main() -> None:
    """Run workers until they have left."""
    _live_with_leader()
    leader = _Leader(int(sys.argv[1]))
    try:
        spawned: Spawned = leader.recv()
    except (EOFError, OSError):
        return  # It was stopped before it said anything.
    _keep_to_ourselves(int(sys.argv[1]), spawned)
    membership, flow = spawned.membership, None

    def report_of(error: BaseException) -> str:
        return report(error, flow=flow, verbose=spawned.launch.verbose)

    def seats() -> list[MeshSeat]:
        return [
            MeshSeat(
                {peer: socket.socket(fileno=fd) for peer, fd in spawned.links[worker].items()},
                membership.job.generation,
            )
            for worker in membership.mine
        ]

    beat(leader)
    member = Member(leader, membership, seats, report_of, lambda line: say(f"info: {line}"))
    try:
        flow = load_flow(spawned.launch.import_str)
        if not member.run(flow):
            os._exit(1)
    except LeaderLostError:
        # Another one may be about to start.
        os._exit(1)
    except BaseException as ex:  # noqa: BLE001 - whatever it is, the leader tells people
        member.fail(ex)


def _keep_to_ourselves(to_leader: int, spawned: Spawned) -> None:
    """Programs that the flow starts don't get our sockets."""
    for fd in (to_leader, *(fd for peers in spawned.links.values() for fd in peers.values())):
        os.set_inheritable(fd, False)  # noqa: FBT003 - as it is called


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Unlike `SIG_IGN`, this isn't inherited by processes that the flow starts."""


def _live_with_leader() -> None:
    """Leave signals to the leader, and die with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
