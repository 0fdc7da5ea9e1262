"""The watch over a worker with actors: tells which handler doesn't return.

Handlers are called on the worker's thread, so one that blocks holds up all that is on the worker,
and every epoch. The worker keeps no notes for this. The watch looks from a thread of its own at
the frames of the worker's: a handler is what the table of actors has called, and if it is the same
frame as a while ago, it is the same call.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType, FunctionType
from typing import Any

from engine.operators.actors import _handling
from engine.operators.actors._actor_op import ActorKernel
from engine.runtime._actor_table import ActorTable
from engine.runtime._plan import Plan

BLOCKED_S = 5.0
"""So long may a handler take; then it is told of, and again whenever it has taken twice as long."""
_CALLING = frozenset(
    function.__code__
    for function in (*vars(ActorTable).values(), *vars(_handling).values())
    if isinstance(function, FunctionType)
)
"""What stands between a worker and the handlers that it calls."""


@contextlib.contextmanager
def watching_handlers(planned: Plan, tell: Callable[[str], None]) -> Generator[None]:
    """Tell of handlers that block the worker on this thread, if it has actors.

    Args:
        planned: What the worker runs.
        tell: Takes a line for people, on another thread.
    """
    if not any(isinstance(step.kernel, ActorKernel) for step in planned.steps):
        yield
        return
    over, worker = threading.Event(), threading.get_ident()
    watch = threading.Thread(
        target=_watch, args=(worker, over, tell), name="engine-actors-watch", daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(worker: int, over: threading.Event, tell: Callable[[str], None]) -> None:
    handler: FrameType | None = None
    since_s = tell_at_s = 0.0
    while not over.wait(BLOCKED_S / 10):
        now_s, found = time.monotonic(), _handler_of(worker)
        if found is not handler:
            handler, since_s, tell_at_s = found, now_s, now_s + BLOCKED_S
        elif handler is not None and now_s >= tell_at_s:
            tell_at_s = now_s + (now_s - since_s)
            tell(_said(handler, now_s - since_s))


def _handler_of(worker: int) -> FrameType | None:
    """The handler that a thread is in."""
    frames: dict[int, FrameType] = getattr(sys, "_current_frames")()  # noqa: B009 - made for this
    frame, inner = frames.get(worker), None
    while frame is not None:
        if frame.f_code in _CALLING:
            return inner
        frame, inner = frame.f_back, frame
    return None


def _said(handler: FrameType, passed_s: float) -> str:
    """Who handles what where."""
    code, caller = handler.f_code, handler.f_back
    place = f"{code.co_qualname} ({code.co_filename}:{handler.f_lineno})"
    who = ""
    while caller is not None and caller.f_code in _CALLING:
        table: Any = caller.f_locals.get("self")
        if isinstance(table, ActorTable):
            who = f"step {table.step_id!r}: {table.at_work!r}"
        caller = caller.f_back
    names = code.co_varnames[2 : code.co_argcount]
    message = handler.f_locals.get(names[0]) if names else None
    return (
        f"{who} has been at a message of type `{type(message).__qualname__}` for {passed_s:.1f} s, "
        f"in {place}; nothing else goes on on its worker meanwhile, and no epoch ends. Have long "
        "calls made by a task"
    )
