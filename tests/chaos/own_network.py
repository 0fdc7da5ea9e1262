"""Runs a cluster in a network namespace of its own, whose only link goes down for a while.

``python -m tests.chaos.own_network FOLDER SEED``: a process by itself, because a process that has
gone to another namespace can't come back.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import socket
import struct
import sys
import time
from pathlib import Path

from tests.chaos.cluster import Cluster
from tests.chaos.test_processes import Job

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def enter() -> None:
    """Leave for a network of our own.

    Raises:
        OSError: This system doesn't let us.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    set_link(up=True)


def set_link(*, up: bool) -> None:
    """Take the link up or down."""
    with socket.socket() as sock:
        answer = fcntl.ioctl(sock, _GET_FLAGS, struct.pack("16sh22x", b"lo", 0))
        [flags] = struct.unpack_from("h", answer, 16)
        flags = flags | _UP if up else flags & ~_UP
        fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sh22x", b"lo", flags))


def main() -> None:
    folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    enter()
    job = Job(folder)
    cluster = Cluster(job, 2, "-r", "store", "-s", "50ms", PAUSE_S="0.008")
    try:
        cluster.wait_for_output()
        time.sleep(rng.uniform(0.0, 0.5))
        set_link(up=False)
        time.sleep(rng.uniform(6.0, 8.0))
        set_link(up=True)
        assert cluster.wait(tending=True) == [0, 0], cluster.all_said()
        assert "going on from the last epoch" in cluster.said(0), cluster.all_said()
        assert cluster.restarts == 0, cluster.all_said()
        job.check()
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
