"""Exit codes of the command lines, and the one way in which they speak: on standard error."""

from __future__ import annotations

import sys
from enum import IntEnum


class Exit(IntEnum):
    """What a process says by its exit code. The codes above 128 are those that a shell expects."""

    DONE = 0
    """The input ended, or the run was drained after SIGTERM."""
    FAILED = 1
    """The run ended because of an error."""
    MISUSED = 2
    """The command line, the user's module or the graph is wrong; nothing was run."""
    INTERRUPTED = 130
    """Ctrl-C, whether the drain was over in time or not."""
    BROKEN_PIPE = 141
    """Nobody reads standard output any more."""
    TERMINATED = 143
    """SIGTERM, and the drain was not over in time."""


def say(text: str) -> None:
    """Write to standard error, because standard output belongs to the flow."""
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        return  # Python sets it to None where the process was started without one.
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError):
        return  # Nobody listens; the exit code says it all the same.
