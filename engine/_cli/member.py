"""What a process runs that a leader has spawned: `python -m engine._cli.member SOCKET`.

Not for people. The socket is inherited, and the leader is at its other end.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from engine._cli.imports import load_flow
from engine._cli.report import report
from engine.runtime._member import Member
from engine.runtime._processes import Membership

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run workers until they have left."""
    _live_with_leader()
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    membership: Membership = connection.recv()
    flow = None

    def report_of(error: BaseException) -> str:
        return report(error, flow=flow, verbose=membership.verbose)

    member = Member(connection, membership, report_of)
    member.beat()
    try:
        flow = load_flow(membership.import_str)
        member.run(flow)
    except BaseException as ex:  # noqa: BLE001 - whatever it is, the leader tells people
        member.fail(ex)


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
