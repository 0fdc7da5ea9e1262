"""The ports through which the runtime touches the world, so that a simulator can stand in for it.

The worker, the coordinator and everything below them get these handed in; only the driver binds
them to the real clock and to real waiting. `engine.testing.sim` binds them to seeded fakes.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from typing import Any, Protocol

from engine.runtime._ids import EdgeId, WorkerIndex


class Clock(Protocol):
    """Two clocks: one for intervals, one for dates."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def time_s(self) -> float:
        """Seconds since 1970 UTC; may be set by an administrator."""
        ...


class Network(Protocol):
    """Carries items between workers: in order per edge, sender and receiver; never blocks."""

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        """Put an item (a batch, barrier, watermark or end) under way to another worker's channel.

        Returns:
            How many bytes it has become; 0 if it is handed over as it is.
        """
        ...

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        """Tell the sender that the receiver has taken one batch out of their channel."""
        ...


class Stream(Protocol):
    """A connected stream socket, as far as anybody here uses one."""

    def fileno(self) -> int:
        """Its number."""
        ...

    def settimeout(self, value: float | None, /) -> None:
        """As of a socket."""
        ...

    def recv(self, bufsize: int, /) -> bytes:
        """As of a socket."""
        ...

    def sendmsg(self, buffers: list[Any], /) -> int:
        """As of a socket."""
        ...

    def shutdown(self, how: int, /) -> None:
        """As of a socket."""
        ...

    def close(self) -> None:
        """As of a socket."""
        ...


class Waiter(Protocol):
    """How a driver with nothing to do lets time pass."""

    def wait(self, seconds: float) -> None:
        """Return after that time, or sooner if woken; `math.inf` means until woken."""
        ...

    def wake(self) -> None:
        """End the present wait, or the next one if there is none; from any thread."""
        ...


class Entropy(Protocol):
    """Where names come from that nobody else has."""

    def token(self) -> str:
        """A text that was never given before, anywhere; safe in file names."""
        ...


def log(line: str) -> None:
    """Tell people something that they may want to know, by the logger ``engine``."""
    # Here, because most runs have nothing to tell, and it takes a while to load.
    import logging  # noqa: PLC0415

    logging.getLogger("engine").info(line)


class SystemEntropy:
    """The operating system's."""

    chance = staticmethod(random.random)
    """A number from 0 to 1."""

    def token(self) -> str:
        """128 random bits in hex."""
        return os.urandom(16).hex()


class SystemClock:
    """The clocks of this machine."""

    monotonic_s = staticmethod(time.monotonic)
    time_s = staticmethod(time.time)


class SystemWaiter:
    """Sleeps on this thread until woken by another thread or a signal handler.

    It is a bare lock because a signal handler may interrupt `wait` anywhere: the lock inside an
    `Event` could then be held by the very code that the handler interrupts, for ever.
    """

    _LONGEST_S = 3600.0

    def __init__(self) -> None:
        self._woken = threading.Lock()
        self._woken.acquire()

    def wait(self, seconds: float) -> None:
        """As in `Waiter`. Short waits sleep, which takes half the CPU time of a timed lock."""
        if seconds >= 0.002:
            self._woken.acquire(timeout=min(seconds, self._LONGEST_S))
        elif not self._woken.acquire(blocking=False):
            time.sleep(seconds)

    def wake(self) -> None:
        """End the present wait, or the next one if there is none."""
        with contextlib.suppress(RuntimeError):  # It was released already, and not waited for yet.
            self._woken.release()


class NoNetwork:
    """The network of a worker that is alone: sending through it is a bug."""

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        """Refuse."""
        raise AssertionError(edge, sender, receiver, item)

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        """Refuse."""
        raise AssertionError(edge, sender, receiver)
