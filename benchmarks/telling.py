"""A source and a sink for runs of several processes, each of which tells what it has seen.

At its end a process prints a line of JSON: when it was asked for its first batch, when its last
record came out, how many did, and a digest of them if the run is checked. The workloads'
`_processes.py` reads these lines.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.feeds import Batch, BatchPart, Count, Digest

_first_s: list[float] = []


def note_start() -> None:
    """A batch is asked for in this process; only the first time counts."""
    if not _first_s:
        _first_s.append(time.monotonic())


class NotedPart(BatchPart):
    """Hands out batches, and notes when the first one was asked for."""

    def next_batch(self) -> Batch:
        note_start()
        return super().next_batch()


class Told(Count):
    """Counts what comes out of one of the processes, and tells at its end."""

    def __init__(self, *, check: bool = False) -> None:
        super().__init__()
        self._digest = Digest() if check else None
        self._last_s = 0.0

    def write_batch(self, items: Batch) -> None:
        super().write_batch(items)
        if self._digest is not None:
            self._digest.write_batch(items)
        self._last_s = time.monotonic()

    def close(self) -> None:
        digest = None if self._digest is None else self._digest.digest
        told = {"first_s": _first_s[0], "last_s": self._last_s, "records": self.records}
        sys.stdout.write(json.dumps({**told, "digest": digest}) + "\n")
        sys.stdout.flush()
