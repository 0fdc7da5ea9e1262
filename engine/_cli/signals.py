"""SIGINT and SIGTERM: ask a run to drain, and end it if it does not.

A guard thread decides. It reads the signals from a pipe, so it hears of them even while the main
thread is inside a call that no signal interrupts; it asks for the drain, speaks to the user and
watches the time. The signal handler runs on the main thread, between two instructions of the
user's own code, and does nothing but raise `StopNow` once the guard has told it to. Where that
does not help, the guard ends the process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

from engine._cli.exits import Exit

_GRACE_S = 1.0
"""How long a run that was told to stop at once may take to close its sources and sinks."""
_OVER = 0
"""What is written into the pipe when the run is over; no signal has this number."""


class StopNow(KeyboardInterrupt):
    """Ends a run at once, whatever code its thread is in: nobody takes it for an error of that."""


class StopSignals:
    """What the signals that came while `watching` led to.

    The first signal asks for a drain. Another Ctrl-C, or the end of the time for it, stops the
    run. Another SIGTERM changes nothing, because supervisors often send one to a whole process
    group and one more to the process.

    Args:
        drain: Asks the run to drain; called on the guard thread.
        timeout_s: How long a drain may take.
    """

    def __init__(self, drain: Callable[[], None], timeout_s: float) -> None:
        self.first: int | None = None
        """The signal that came first, if one did."""
        self.overdue = False
        """Whether the drain took too long."""
        self._drain = drain
        self._timeout_s = timeout_s
        self._main = threading.get_ident()
        self._process = os.getpid()
        self._told_to_stop = False
        self._raised = False
        self._reader, self._writer = -1, -1
        self._stderr = _stderr_fd()

    @property
    def drained_code(self) -> Exit:
        """How a process exits whose run came to an orderly end."""
        return Exit.INTERRUPTED if self.first == signal.SIGINT else Exit.DONE

    @property
    def stopped_code(self) -> Exit:
        """How a process exits whose run was stopped."""
        return Exit.TERMINATED if self.first == signal.SIGTERM else Exit.INTERRUPTED

    @contextlib.contextmanager
    def watching(self) -> Generator[None]:
        """Handle signals while inside; to be entered on the main thread.

        Raises:
            StopNow: In whatever code is running on the main thread.
        """
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        guard = threading.Thread(target=self._guard, name="engine-signals", daemon=True)
        guard.start()
        # SIGINT also where it is ignored, as in a script's background jobs: who sends it means it.
        previous = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        os.register_at_fork(after_in_child=lambda: self._forget(previous))
        try:
            yield
        finally:
            _restore(previous, previous_fd)
            os.write(self._writer, bytes([_OVER]))
            guard.join()
            os.close(self._reader)
            os.close(self._writer)
            self._process = -1

    def _forget(self, previous: dict[signal.Signals, Any]) -> None:
        """In a process that the user's code forked: its signals are not those of the run."""
        if self._process == os.getppid():
            _restore(previous, -1)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._told_to_stop and (not self._raised or number == signal.SIGINT):
            self._raised = True
            raise StopNow

    def _guard(self) -> None:
        """The guard thread, from the first signal to the end of the run."""
        self.first = self._next((signal.SIGINT, signal.SIGTERM), None)
        if self.first is None:
            return
        if self.first == signal.SIGINT:
            self._tell("KeyboardInterrupt: draining, once more to stop now")
        else:
            self._tell("SIGTERM: draining")
        self._drain()
        try:
            again = self._next((signal.SIGINT,), self._timeout_s)
        except TimeoutError:
            self.overdue = True
        else:
            if again is None:
                return
            self._tell("KeyboardInterrupt: stopping now")
        self._told_to_stop = True
        # To this thread, not to the process, so that whatever it waits in is interrupted.
        signal.pthread_kill(self._main, signal.SIGTERM)
        try:
            self._next((), _GRACE_S)
        except TimeoutError:
            self._tell("error: the flow's own code would not stop, so its process was ended")
            os._exit(self.stopped_code)

    def _tell(self, text: str) -> None:
        """Write to standard error past Python's buffer, which the main thread may be holding."""
        if self._stderr is not None:
            with contextlib.suppress(OSError):
                os.write(self._stderr, f"{text}\n".encode())

    def _next(self, awaited: tuple[int, ...], timeout_s: float | None) -> int | None:
        """Wait for one of these signals; None means that the run is over.

        Raises:
            TimeoutError: Neither came in time.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            if not select.select([self._reader], [], [], left_s)[0]:
                raise TimeoutError
            number = os.read(self._reader, 1)[0]
            if number == _OVER:
                return None
            if number in awaited:
                return number


def _restore(handlers: dict[signal.Signals, Any], wakeup_fd: int) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # None is one that wasn't set from Python, and can't be set back.
            signal.signal(number, handler)
    signal.set_wakeup_fd(wakeup_fd)


def _stderr_fd() -> int | None:
    """Standard error, if there is one; its number may belong to a file of the flow otherwise."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None
