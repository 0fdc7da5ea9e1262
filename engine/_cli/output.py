"""Standard output: its last words, and what to do where it can't be written any more."""

from __future__ import annotations

import os
import select
import sys

from engine._cli.exits import Exit, say


def nobody_reads(root: BaseException) -> bool:
    """Whether an error came from the reader of our standard output being gone, as `head` goes.

    A broken pipe may also be a network connection of the user's, so the pipe itself is asked.
    """
    if not isinstance(root, BrokenPipeError):
        return False
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError, AttributeError):
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


def finished(code: int, text: str = "") -> int:
    """Write a last text and all that is still in Python's buffer; gives the exit code.

    Python would write it out at exit too, but then it's too late to say that it failed. What
    can't be written is dropped, so that nothing tries again.

    Args:
        code: The exit code if all goes well, or has failed before.
        text: What to write.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        return code  # The process was started without one.
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as ex:
        _drop_output()
        if code:
            return code  # Something else was said already, perhaps for the same reason.
        if isinstance(ex, BrokenPipeError):
            return Exit.BROKEN_PIPE
        say(f"error: standard output can't be written: {ex}")
        return Exit.FAILED
    return code


def _drop_output() -> None:
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    except (OSError, ValueError):
        return  # There is no such descriptor, so nothing will be written at exit either.
