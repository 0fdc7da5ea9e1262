"""The event loop of a worker, on a thread of its own, and the watch over it.

The loop's selector notes when it waits and how often it has waited. So the watch sees from outside
that the loop has been in one turn for too long, and the frames of its thread say where: the
outermost one below asyncio is the function that blocks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from engine.runtime.executors._daemons import DaemonThreads

BLOCKED_S = 1.0
"""So long may a turn of the loop take."""
_LOOK_S = 0.25
_ASYNCIO = os.path.dirname(asyncio.__file__)  # noqa: PTH120 - compared with names in code objects
_OURS = os.path.dirname(__file__)  # noqa: PTH120


class _WatchedSelector(selectors.DefaultSelector):
    """A selector that says when it waits."""

    turns = 0
    waits = False

    def select(self, timeout: float | None = None) -> Any:
        """As in `selectors`."""
        self.waits = True
        try:
            return super().select(timeout)
        finally:
            self.turns += 1
            self.waits = False


class EventLoopThread:
    """An event loop that runs until it is closed.

    Args:
        tell: Takes a line for people, from another thread.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._selector = _WatchedSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self.loop.set_default_executor(DaemonThreads())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-event-loop", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="engine-event-loop-watch", daemon=True).start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._over.is_set():
            try:
                self.loop.run_forever()
            except BaseException as ex:  # noqa: BLE001 - SystemExit of a callback ends the loop
                self._tell(f"a callback on the event loop raised {ex!r}")
        with contextlib.suppress(Exception):
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def close(self, timeout_s: float) -> list[str]:
        """Stop it. What it returns says by which function it is blocked, if it is."""
        self._over.set()
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return []
        where = self._where() or "something"
        return [f"the event loop, which is blocked by {where}"]

    def _watch(self) -> None:
        """Tell of each turn that takes too long, once."""
        turn, since_s, told = -1, 0.0, False
        while not self._over.wait(_LOOK_S):
            now_s = time.monotonic()
            if self._selector.waits or self._selector.turns != turn:
                turn, since_s, told = self._selector.turns, now_s, False
                continue
            if not told and now_s - since_s >= BLOCKED_S:
                where = self._where()
                if where is not None and self._selector.turns == turn:
                    told = True
                    self._tell(
                        f"the event loop of async tasks is blocked for {now_s - since_s:.1f} s by "
                        f"{where}; await there, or use executor='thread'"
                    )

    def _where(self) -> str | None:
        """The function that the loop is in, and the line that it has come to."""
        frames: dict[int, FrameType] = getattr(sys, "_current_frames")()  # noqa: B009 - made for this
        frame = frames.get(self._thread.ident or 0)
        innermost, function = frame, None
        while frame is not None and frame.f_code is not EventLoopThread._run.__code__:
            if not frame.f_code.co_filename.startswith((_ASYNCIO, _OURS)):
                function = frame
            elif function is not None:
                break
            frame = frame.f_back
        if innermost is None or function is None:
            return None
        name, code = function.f_code.co_qualname, function.f_code
        text = f"{name} ({_place(code, code.co_firstlineno)})"
        if innermost is not function:
            inner = innermost.f_code
            return f"{text}, in {inner.co_qualname} ({_place_of(innermost)})"
        return f"{text}, at line {innermost.f_lineno}"


def _place_of(frame: FrameType) -> str:
    return _place(frame.f_code, frame.f_lineno)


def _place(code: CodeType, line: int) -> str:
    return f"{code.co_filename}:{line}"
