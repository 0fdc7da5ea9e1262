"""Own connectors: a source that is polled, and a sink that writes batches into a database.

Shows the shortest way to each: `SimplePollingSource` needs one method, `DynamicSink` gives each
worker a partition with `write_batch`. The source keeps a position, so that, once recovery is there,
a restart goes on where the last durable epoch ended.

Run it from the top of the project. The table is printed from the database at the end; the second
line keeps the database in a file::

    python -m engine.run examples.own_connectors:flow
    python -m engine.run 'examples.own_connectors:squares_into("/tmp/squares.db")'
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import engine.operators as op
from engine.connectors import DynamicSink, SimplePollingSource, StatelessSinkPartition
from engine.dataflow import Dataflow

Square = tuple[int, int]


class Counter(SimplePollingSource[int, int]):
    """Counts up to a limit, one number each time it is polled.

    In its place could stand a question to a web service or to a device.

    Args:
        limit: The last number.
        interval: Time between two polls.
    """

    def __init__(self, limit: int, interval: timedelta) -> None:
        super().__init__(interval)
        self._limit = limit
        self._last = 0

    def next_item(self) -> int:
        """The next number."""
        if self._last == self._limit:
            raise StopIteration
        self._last += 1
        return self._last

    def snapshot(self) -> int:
        """Where to go on."""
        return self._last

    def resume(self, resume_state: int) -> None:
        """Go on there."""
        self._last = resume_state


class SquaresTable(DynamicSink[Square]):
    """Writes pairs of numbers into a table of an SQLite database.

    At-least-once: after a crash the last batches are written again. Here that changes nothing,
    because a number that is there already is replaced.

    Args:
        database: File of the database; ":memory:" keeps it in memory.
    """

    def __init__(self, database: str) -> None:
        self._database = database

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _SquaresWriter:
        """Open a connection for this worker."""
        del step_id, worker_index, worker_count  # All workers write to the same table.
        return _SquaresWriter(self._database)


class _SquaresWriter(StatelessSinkPartition[Square]):
    """What one worker writes with."""

    def __init__(self, database: str) -> None:
        self._connection = sqlite3.connect(database)
        self._connection.execute("CREATE TABLE IF NOT EXISTS squares (n INTEGER PRIMARY KEY, sq)")

    def write_batch(self, items: list[Square]) -> None:
        """Write a batch in one transaction."""
        with self._connection:
            self._connection.executemany("REPLACE INTO squares VALUES (?, ?)", items)

    def close(self) -> None:
        """Show what is in the table, and close it."""
        for number, square in self._connection.execute("SELECT n, sq FROM squares ORDER BY n"):
            print(number, square)
        self._connection.close()


def squares_into(database: str = ":memory:", limit: int = 5, every_s: float = 0.1) -> Dataflow:
    """Make a flow that writes numbers and their squares into a database.

    Args:
        database: File of the database; ":memory:" keeps it in memory.
        limit: How many numbers.
        every_s: Time between two numbers, in seconds.
    """
    flow = Dataflow("own_connectors")
    numbers = op.input("numbers", flow, Counter(limit, timedelta(seconds=every_s)))
    squares = op.map("square", numbers, lambda number: (number, number * number))
    op.output("table", squares, SquaresTable(database))
    return flow


flow = squares_into()
