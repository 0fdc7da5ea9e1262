"""`StdOutSink`: records on standard output, for looking at a dataflow."""

from __future__ import annotations

import sys
from typing import Any

from engine.connectors._sink import DynamicSink, StatelessSinkPartition

__all__ = ["StdOutSink"]


class StdOutSink(DynamicSink[Any]):
    r"""Writes each item as text on a line of its own to standard output.

    Each worker writes its own items, at once and a batch in one piece. At-least-once: what was
    written after the last durable epoch is written again after a crash.

    >>> sink = StdOutSink()
    >>> sink.build("flow.out", 0, 1).write_batch(["one", 2, ("three", 4.0)])
    one
    2
    ('three', 4.0)
    """

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[Any]:
        """Give this worker's writer.

        Raises:
            OSError: The process was started without a standard output.
        """
        del step_id, worker_index, worker_count  # All write to the same place.
        if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
            # Python sets it to None then.
            msg = "standard output is closed; leave it open (it may be /dev/null), or use a file"
            raise OSError(msg)
        return _StdOutPartition()


class _StdOutPartition(StatelessSinkPartition[Any]):
    """Writes to whatever `sys.stdout` is at the time."""

    def write_batch(self, items: list[Any]) -> None:
        if items:
            # One write, so that the lines of several workers rarely get mixed up.
            sys.stdout.write("\n".join(map(str, items)) + "\n")
            sys.stdout.flush()
