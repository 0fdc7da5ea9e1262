"""What a pool's process runs, and the frames that go between it and the pool.

It is started as a file, before it knows where the engine is, and imports nothing but what Python
brings: its start is part of what a user waits for. The pool imports the frames from here.

Its main thread reads frames of calls, runs them one after the other, and sends frames of results.
A second thread waits for the pool to ask: then it sends the results that are ready and gives back
the calls that haven't begun, as the pool does when a call takes long. That thread also notices
that the pool is gone, which the main thread can't while it runs a call.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import mmap
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

READY, FAILED, DONE, GIVEN_BACK, ASKED = range(5)
"""What a frame of the process is about."""
CALLS, ANSWER = range(2)
"""What a frame of the pool is about."""
VALUE, EXCEPTION, REMOTE_EXCEPTION, UNREADABLE, UNWRITABLE = range(5)
"""What a result is: the last three are texts."""

GIVE_BACK = b"g"
"""What the pool asks on the second socket."""
SLOT_BYTES = mmap.PAGESIZE
NOTHING = -1
"""In the slot: no call."""

_FLUSH_S = 0.0005
"""Results are sent once the first of them is so old."""
_CHUNK = 1 << 16
_LENGTH_BYTES = 8
_PROTOCOL = pickle.HIGHEST_PROTOCOL
_PR_SET_PDEATHSIG = 1


def framed(message: Any) -> bytes:
    """A message as it is sent: its length, and the message pickled."""
    data = pickle.dumps(message, _PROTOCOL)
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


class Frames:
    """Cuts what comes out of a socket into messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def receive(self, flags: int = 0) -> list[Any]:
        """Receive once; whatever messages are complete by then.

        Raises:
            EOFError: The other end is closed.
            BlockingIOError: There is nothing, and the socket or the flags say not to wait.
        """
        chunk = self._sock.recv(_CHUNK, flags)
        if not chunk:
            raise EOFError
        buffer = self._buffer
        buffer += chunk
        messages: list[Any] = []
        start = 0
        while (begin := start + _LENGTH_BYTES) <= len(buffer):
            end = begin + int.from_bytes(buffer[start:begin], "little")
            if len(buffer) < end:
                break
            with memoryview(buffer) as view, view[begin:end] as message:
                messages.append(pickle.loads(message))  # noqa: S301 - from our own process
            start = end
        del buffer[:start]
        return messages


def main_of_this_process() -> tuple[str | None, str | None]:
    """Name and path of the module that this process was started with, as far as it has them.

    None of both if it is a part of the engine: there is nothing of the user's in it.
    """
    main = sys.modules["__main__"]
    name: str | None = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None and name.partition(".")[0] == "engine":
        return None, None
    path: str | None = getattr(main, "__file__", None)
    return name, None if path is None else os.path.abspath(path)  # noqa: PTH100 - no pathlib here


def is_loading() -> bool:
    """Whether this is a pool's process that loads the user's modules just now."""
    return getattr(sys.modules["__main__"], "loading", False) is True


loading = False
"""Read by `is_loading`, in the process whose main module this is."""


class _FileFinder:
    """Finds modules that were loaded from a file under a name that isn't the file's.

    No `importlib.abc.MetaPathFinder`, which takes longer to import than all else here.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        file = self._files.get(fullname)
        if file is None:
            return None
        loader = importlib.machinery.SourceFileLoader(fullname, file)
        spec = importlib.machinery.ModuleSpec(fullname, loader, origin=file)
        spec.has_location = True
        return spec


def _load(setup: dict[str, Any]) -> Any:
    sys.path[:] = setup["path"]
    sys.argv[:] = setup["argv"]
    sys.meta_path.append(_FileFinder(setup["files"]))
    global loading  # noqa: PLW0603 - says something of the process
    loading = True
    _load_main(*setup["main"])
    fn = pickle.loads(setup["function"])  # noqa: S301 - the user's own
    loading = False
    return fn


def _load_main(name: str | None, path: str | None) -> None:
    """Have the user's main module as `__main__`, without running what it does only as that."""
    if name is None and path is None:
        return
    import runpy  # noqa: PLC0415 - for flows that are scripts only
    from types import ModuleType  # noqa: PLC0415

    main = ModuleType("__mp_main__")
    if name is not None:
        if name.endswith(".__main__"):
            return  # A package's: it has no guard, and need have none.
        content = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
    else:
        assert path is not None  # noqa: S101 - one of both is there
        content = runpy.run_path(path, run_name="__mp_main__")
    main.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


class Child:
    """The process.

    Args:
        sock: Frames of calls come in, frames of results go out.
        control: The pool asks on it.
        slot: Memory that the pool reads: the call that runs, and when it began.
    """

    def __init__(self, sock: socket.socket, control: socket.socket, slot: mmap.mmap) -> None:
        self._sock = sock
        self._frames = Frames(sock)
        self._control = control
        self._call = memoryview(slot).cast("q")
        self._began = memoryview(slot).cast("d")
        self.functions: dict[bytes, bytes] = {}
        """Functions of subtasks, by the names that they travel under."""
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._results: deque[tuple[int, int, bytes]] = deque()
        self._busy_s = 0.0
        """How long the calls took whose results wait."""
        self._reading, self._sending = threading.Lock(), threading.Lock()
        self._idle = True

    def run(self) -> None:
        """Until the pool hangs up."""
        try:
            while not (setups := self._frames.receive()):
                pass
            try:
                fn = _load(setups[0])
                if setups[0]["graphs"]:
                    fn.work_in(self)
            except BaseException as ex:  # noqa: BLE001 - whatever the user's module raises
                self._sock.sendall(framed((FAILED, repr(ex), traceback.format_exc())))
                return
            threading.Thread(target=self._listen, daemon=True).start()
            self._sock.sendall(framed((READY,)))
            while True:
                with self._reading:
                    while not self._waiting:
                        self._take(self._frames.receive())
                    self._idle = False
                self._work(fn)
                self._idle = True
        except (EOFError, ConnectionError):
            return

    def _take(self, frames: list[Any]) -> list[Any]:
        """Take in what the pool has sent. Calls wait for their turn; gives the answers."""
        answers: list[Any] = []
        for kind, content, functions in frames:
            if kind == CALLS:
                self.functions.update(functions)
                self._waiting.extend(content)
            else:
                answers.append(content)
        return answers

    def ask(self, request: Any, functions: dict[bytes, bytes]) -> None:
        """Hand on what the call that runs asks of the worker.

        Args:
            request: What it asks.
            functions: Those that it names and that were not sent before.
        """
        with self._sending:
            self._sock.sendall(framed((ASKED, request, functions)))

    def wait(self, request: Any) -> Any:
        """Have the call that runs wait for an answer. What hasn't begun is for other processes."""
        since_s = time.monotonic()
        with self._reading:
            self._flush()
            self.ask(request, {})
            answers: list[Any] = []
            while not answers:
                self._send_back()
                answers = self._take(self._frames.receive())
        self._busy_s -= time.monotonic() - since_s
        return answers[0]

    def _work(self, fn: Callable[[Any], Any]) -> None:
        waiting, results, call, began = self._waiting, self._results, self._call, self._began
        now_s = time.monotonic
        flushed_s = ended_s = now_s()
        # The other thread may have taken them meanwhile.
        with contextlib.suppress(IndexError):
            while True:
                call_id, data = waiting.popleft()
                began[1] = ended_s
                call[0] = call_id
                result = _run(fn, data)
                call[0] = NOTHING
                del data
                results.append((call_id, *result))
                started_s, ended_s = ended_s, now_s()
                self._busy_s += ended_s - started_s
                if ended_s - flushed_s >= _FLUSH_S:
                    self._flush()
                    flushed_s = ended_s = now_s()
        self._flush()

    def _flush(self) -> None:
        with self._sending:
            ready: list[tuple[int, int, bytes]] = []
            with contextlib.suppress(IndexError):
                while True:
                    ready.append(self._results.popleft())
            if ready:
                busy_s, self._busy_s = self._busy_s, 0.0
                self._sock.sendall(framed((DONE, busy_s, ready)))

    def _listen(self) -> None:
        """Give back calls when asked to; leave when the pool is gone."""
        try:
            while self._control.recv(1):
                self._flush()
                self._give_back()
        except OSError:
            pass
        if not self._idle:
            os._exit(1)  # The call that runs is of no use to anybody.

    def _give_back(self) -> None:
        # If the main thread is reading, it has nothing.
        if self._reading.acquire(blocking=False):
            try:
                with contextlib.suppress(BlockingIOError, EOFError):
                    while True:
                        self._take(self._frames.receive(socket.MSG_DONTWAIT))
            finally:
                self._reading.release()
        self._send_back()

    def _send_back(self) -> None:
        back: list[int] = []
        with contextlib.suppress(IndexError):
            while True:
                back.append(self._waiting.pop()[0])
        with self._sending:
            self._sock.sendall(framed((GIVEN_BACK, back)))


def _run(fn: Callable[[Any], Any], data: bytes) -> tuple[int, bytes]:
    try:
        argument = pickle.loads(data)  # noqa: S301 - from the pool
    except BaseException as ex:  # noqa: BLE001 - of the user's own classes
        return UNREADABLE, _texts(ex)
    try:
        value = Context().run(fn, argument)
    except BaseException as ex:  # noqa: BLE001 - SystemExit too: the call ends, not the process
        return _exception(ex)
    try:
        return VALUE, pickle.dumps(value, _PROTOCOL)
    except BaseException as ex:  # noqa: BLE001 - of the user's own classes
        if type(value).__name__ == "coroutine":
            value.close()
        return UNWRITABLE, _texts(ex)


def _exception(ex: BaseException) -> tuple[int, bytes]:
    """An exception, if it can be pickled and what comes out again is one of the same type."""
    if ex.__traceback__ is not None:
        # Without the frame of `_run`. (`Context.run` has none.)
        ex.__traceback__ = ex.__traceback__.tb_next
    texts = _texts(ex)
    try:
        data = pickle.dumps(ex, _PROTOCOL)
        if type(pickle.loads(data)) is type(ex):  # noqa: S301 - written a line above
            return EXCEPTION, pickle.dumps((data, texts), _PROTOCOL)
    except BaseException:  # noqa: BLE001, S110 - of the user's own classes; it goes as a text
        pass
    return REMOTE_EXCEPTION, texts


def _texts(ex: BaseException) -> bytes:
    """Type, message and traceback of an exception, pickled."""
    kind = type(ex)
    name = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    try:
        text = str(ex)
    except Exception as of_str:  # noqa: BLE001 - the user's own
        text = f"(its text can't be had: {of_str!r})"
    return pickle.dumps((name, text, "".join(traceback.format_exception(ex))), _PROTOCOL)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _die_with(pool: int) -> None:
    """Be killed when the pool's process, or its thread, ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != pool:
        os._exit(1)


def main(sock: int, control: int, slot: int, pool: int) -> None:
    """Run calls until the pool hangs up.

    Args:
        sock: The number of an inherited socket.
        control: The number of another one.
        slot: The number of an inherited file to map.
        pool: Process id of the pool.
    """
    _die_with(pool)
    memory = mmap.mmap(slot, SLOT_BYTES)
    for fd in (sock, control):
        os.set_inheritable(fd, False)  # noqa: FBT003 - as it is called
    os.close(slot)
    Child(socket.socket(fileno=sock), socket.socket(fileno=control), memory).run()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
