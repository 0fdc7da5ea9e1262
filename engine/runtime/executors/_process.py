"""One process of a pool, as the pool sees it: what it was given, what it says, how it ends."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from typing import Any

from engine.operators.tasks import Call
from engine.runtime.executors import _child
from engine.runtime.executors._child import (
    ANSWER,
    CALLS,
    GIVE_BACK,
    NOTHING,
    SLOT_BYTES,
    Frames,
    framed,
)

_NUMBER_BYTES = 8
ASK_AFTER_S = 0.02
"""A process that has said nothing for so long is asked for what it has."""
DEATH_S = 1.0
"""So long the death of a process that was killed may take, on a machine that is busy."""
_LAST_BREATH_S = 0.2
"""From closing its socket until a process has ended, if that was its end."""


class PoolProcess:
    """A process that is given calls.

    Args:
        setup: What it needs to find the function.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self.under_way: dict[int, Call] = {}
        """The calls that it was given and hasn't told the end of, in order."""
        self.unwanted: set[int] = set()
        """Those among them that were given up."""
        self.ready = False
        self.hung_up = False
        """It has closed its end, as a process does that dies."""
        self.ended_by_pool = False
        self.asked = False
        """It was asked for what it has, and has not answered."""
        self.stuck = False
        """It has given calls back, as one takes long: it gets none until that has ended."""
        self.waits = False
        """The call that it runs waits for subtasks: others work in its place."""
        self._functions: set[bytes] = set()
        """Functions of subtasks that it was sent."""
        self.heard_s = time.monotonic()
        self._out: deque[memoryview] = deque()
        self._control, self.sock, self._popen, self._slot = _spawned()
        self._memory = memoryview(self._slot)
        self._call, self._began = self._memory.cast("q"), self._memory.cast("d")
        self._frames = Frames(self.sock)
        self._send(framed(setup))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def running(self) -> int:
        """The call that it runs, or ran when it died; -1 for none."""
        return self._call[0]

    @property
    def began_s(self) -> float:
        """When that call began, as of `time.monotonic`, which all processes share."""
        return self._began[1]

    @property
    def is_open(self) -> bool:
        """Whether it takes calls."""
        return self.ready and not (self.stuck or self.asked or self.waits or self.ended_by_pool)

    @property
    def has_more_to_send(self) -> bool:
        """Whether its socket was full."""
        return bool(self._out)

    def give(self, calls: list[tuple[Call, bytes]], functions: dict[bytes, bytes]) -> None:
        """Give it calls, with their arguments pickled, and the functions of subtasks by name."""
        if not self.under_way:
            self.heard_s = time.monotonic()
        self.under_way.update((call.call_id, call) for call, _ in calls)
        content = [(call.call_id, data) for call, data in calls]
        new = {name: functions[name] for name in functions.keys() - self._functions}
        self._functions.update(new)
        self._send(framed((CALLS, content, new)))

    def answer(self, content: Any) -> None:
        """Let its call go on, which waits."""
        self.waits = False
        self.heard_s = time.monotonic()
        self._send(framed((ANSWER, content, {})))

    def _send(self, data: bytes) -> None:
        self._out.append(memoryview(data))
        self.send_more()

    def send_more(self) -> None:
        """As much as its socket takes."""
        try:
            while self._out:
                sent = self.sock.send(self._out[0])
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                else:
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            # It is dying. Its calls are under way, and are settled when that is sure.
            self._out.clear()

    def receive(self) -> list[Any] | None:
        """What it has said; None if it has said nothing."""
        try:
            return self._frames.receive()
        except BlockingIOError:
            return None
        except (EOFError, OSError):
            self.hung_up = True
            return None

    def ask_due_s(self) -> float | None:
        """When it should be asked for what it has: while it is busy, and others could have that."""
        if self.asked or self.ended_by_pool or not self.ready:
            return None
        if len(self.under_way) < 2 and not self.unwanted:
            return None
        return self.heard_s + ASK_AFTER_S

    def ask(self) -> None:
        """Ask for the results that it has, and for the calls that it hasn't begun."""
        self.asked = True
        with contextlib.suppress(OSError):
            self._control.send(GIVE_BACK)

    def is_dead(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()

    def end(self) -> int | None:
        """See that it ends, as it seems to have done already; its exit code."""
        if (exit_code := self.wait(_LAST_BREATH_S)) is not None:
            return exit_code
        self.kill()
        return self.wait(DEATH_S)

    def hang_up(self) -> None:
        """Have it leave: at once if it is idle, else as soon as its second thread gets a turn."""
        for sock in (self._control, self.sock):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it doesn't end in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(max(0.01, timeout_s))
        return None

    def close(self) -> None:
        """Let go of what belongs to it."""
        self._control.close()
        self.sock.close()
        for view in (self._call, self._began, self._memory):
            view.release()
        self._slot.close()


def _spawned() -> tuple[socket.socket, socket.socket, subprocess.Popen[bytes], mmap.mmap]:
    control, their_control = socket.socketpair()
    sock, their_sock = socket.socketpair()
    with tempfile.TemporaryFile() as file:
        file.truncate(SLOT_BYTES)
        slot = mmap.mmap(file.fileno(), SLOT_BYTES)
        slot[:_NUMBER_BYTES] = NOTHING.to_bytes(_NUMBER_BYTES, sys.byteorder, signed=True)
        theirs = (their_sock.fileno(), their_control.fileno(), file.fileno())
        # There is no public way to have a child run with the flags of this interpreter.
        module: Any = subprocess
        flags: list[str] = module._args_from_interpreter_flags()  # noqa: SLF001 - see above
        # -P: the folder of that file is no place to look for modules.
        command: list[str] = [
            sys.executable,
            *flags,
            "-P",
            _child.__file__,
            *map(str, (*theirs, os.getpid())),
        ]
        try:
            # In a session of its own: Ctrl-C is for the engine, which tells it.
            popen = subprocess.Popen(  # noqa: S603 - this interpreter, our module
                command, pass_fds=theirs, stdin=subprocess.DEVNULL, start_new_session=True
            )
        except BaseException:
            for end in (control, sock):
                end.close()
            raise
        finally:
            their_control.close()
            their_sock.close()
    for end in (control, sock):
        end.settimeout(0)
    return control, sock, popen, slot
