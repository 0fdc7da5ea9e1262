"""`SqliteSink`: records as rows of a table in a SQLite database, exactly once.

It is also the reference for sinks that write exactly once to a target with transactions. The
general rules are in `docs/sinks.md`; here is how this sink keeps them:

- `write_batch` checks and encodes records; the database sees nothing of them yet;
- `prepare` gives the encoded rows to the engine, which keeps them together with the state;
- `publish` writes them in one transaction with the *marker*, a row of the table `engine_epochs`
  that says which epoch of this shard is out. Both are there, or neither is;
- `begin` claims the marker for this generation of the job. `publish` moves the marker only as
  long as the claim stands, so a run that has been overtaken changes nothing.

`_Marker` is the part to look at first.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from errno import ENOENT
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from engine.connectors._columns import Columns, Value
from engine.connectors._sink import (
    PENDING,
    Delivery,
    DynamicSink,
    Pending,
    SinkSession,
    StatelessSinkPartition,
)
from engine.errors import ConnectorError, FencedError

__all__ = ["SqliteSink"]

_ROWS_AT_ONCE = 2_000
# Some ten milliseconds of work, after which the operator thread gets its turn.

_SYNCHRONOUS = "EXTRA"
# A transaction that was reported as done must outlive a power cut in every journal mode: the next
# run has only the rows of the last epoch to repeat.


class SqliteSink(DynamicSink[Any]):
    """Writes each record as a row of a table in a SQLite database.

    A record is a mapping or a dataclass that has the columns by name (what else it has is left
    out), or a tuple or list with exactly their values in order, as a `(key, value)` record is.
    Values are `int` (64 bits; `bool` becomes 0 or 1), `float`, `str`, `bytes` or None.

    Exactly-once with recovery: the rows of an epoch become visible in one transaction when the
    epoch is durable. The database gets a table `engine_epochs` for this, with one small row per
    worker. With ``delivery="at-least-once"`` the rows are written just before the epoch is
    durable, so after a crash some may be written again; the engine keeps no copies of them.

    Workers and other programs may write to the same database. While one of them has it locked,
    the worker goes on with other work and asks again.

    Args:
        path: The database, which must exist and have the table.
        columns: Names of the columns that are written.
        table: The table to insert into. Either this or `statement` is given.
        statement: One INSERT, REPLACE, UPDATE or DELETE to run for each record instead, with a
            `?` for each of the columns, in their order.
        delivery: "exactly-once" or "at-least-once".
        busy_timeout: How long the database may stay locked before the run ends with an error.

    Raises:
        TypeError: `columns` is a text, or not exactly one of `table` and `statement` is given.
        ValueError: There are no columns, or `delivery` is neither of the two.

    What the database does not have or can't run (a table, a column, a wrong count of `?`) is an
    error when the partition is built. A row that it refuses (a key that is there already, say)
    ends the run when its epoch is published, and again at each start until it can be written: let
    the statement say what to do, as this one does.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "words.db")
    >>> database = sqlite3.connect(path)
    >>> _ = database.execute("CREATE TABLE totals (word TEXT PRIMARY KEY, count INTEGER)")
    >>> sink = SqliteSink(
    ...     path,
    ...     columns=["word", "count"],
    ...     statement="INSERT INTO totals VALUES (?, ?) "
    ...     "ON CONFLICT (word) DO UPDATE SET count = excluded.count",
    ... )

    What a run then does with it:

    >>> part = sink.build("flow.out", 0, 1)
    >>> part.begin(SinkSession("the store's id", 1, "flow.out", "worker-0"))
    >>> part.write_batch([("dog", 1), {"word": "cat", "count": 1}, ("dog", 2)])
    >>> part.publish(1, part.prepare(1))
    >>> part.published()
    1
    >>> part.close()
    >>> database.execute("SELECT * FROM totals").fetchall()
    [('dog', 2), ('cat', 1)]
    >>> database.close()
    """

    def __init__(
        self,
        path: Path | str,
        *,
        columns: Sequence[str],
        table: str | None = None,
        statement: str | None = None,
        delivery: Delivery = "exactly-once",
        busy_timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        if isinstance(columns, str):
            msg = f"columns must be a list of names; got the text {columns!r}"
            raise TypeError(msg)
        if not columns:
            msg = "columns must name at least one column"
            raise ValueError(msg)
        if delivery not in get_args(Delivery):
            msg = f"delivery must be 'exactly-once' or 'at-least-once'; got {delivery!r}"
            raise ValueError(msg)
        self.delivery = delivery
        self._path = Path(path)
        self._columns = tuple(columns)
        self._statement = _chosen_statement(table, statement, self._columns)
        self._busy_timeout_s = busy_timeout.total_seconds()

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[Any]:
        """Open the database and check that it can run the statement."""
        del step_id, worker_index, worker_count  # The session says whose marker it is.
        database = _Database(self._path, self._statement, self._busy_timeout_s)
        try:
            database.check(len(self._columns))
        except BaseException:
            database.close()
            raise
        kind = _ExactlyOncePart if self.delivery == "exactly-once" else _AtLeastOncePart
        return kind(database, Columns(self._columns))


class _ExactlyOncePart(StatelessSinkPartition[Any]):
    """Leaves the rows of an epoch to the engine, and publishes them together with the marker."""

    def __init__(self, database: _Database, columns: Columns) -> None:
        self._database = database
        self._columns = columns
        self._marker: _Marker | None = None
        self._unprepared: list[bytes] = []
        self._publishing: Iterator[None] | None = None

    def begin(self, session: SinkSession) -> None:
        """Claim the marker. From here on no earlier generation can publish."""
        self._marker = _Marker(self._database, session)
        self._marker.claim()
        self._database.wait_no_more()

    def published(self) -> int:
        return self._claimed().epoch

    def write_batch(self, items: list[Any]) -> None:
        # Checked and encoded at once, as long as the epoch can be given up: when it is durable, a
        # row that can't be written would stop every later run too. Besides, records may change.
        self._unprepared += map(self._columns.encoded, items)

    def prepare(self, epoch: int) -> list[bytes]:
        """Give the rows away, behind a first one that names the columns."""
        del epoch
        rows, self._unprepared = self._unprepared, []
        return [self._columns.header, *rows] if rows else []

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        # A generator pauses wherever the operator thread would have to wait, and each question
        # takes it up again. One that fails is forgotten: it must not pass for a finished one.
        steps = self._publishing or self._database.transaction(lambda: self._steps(epoch, rows))
        self._publishing = None
        for _ in steps:
            self._publishing = steps
            return PENDING
        self._claimed().epoch = epoch
        return None

    def _steps(self, epoch: int, rows: list[bytes]) -> Iterator[None]:
        if self._claimed().move_to(epoch):
            yield from self._database.write(self._columns.decoded(rows))

    def _claimed(self) -> _Marker:
        if self._marker is None:
            msg = "begin() must come before published() and publish()"
            raise ConnectorError(msg)
        return self._marker

    def close(self) -> None:
        self._database.close()


class _AtLeastOncePart(StatelessSinkPartition[Any]):
    """Writes the rows of an epoch at its flush, without a marker."""

    def __init__(self, database: _Database, columns: Columns) -> None:
        self._database = database
        self._columns = columns
        self._unwritten: list[list[Value]] = []
        self._writing: Iterator[None] | None = None
        database.wait_no_more()

    def write_batch(self, items: list[Any]) -> None:
        self._unwritten += map(self._columns.values, items)

    def flush(self) -> Pending | None:
        if self._writing is None and self._unwritten:
            rows, self._unwritten = self._unwritten, []
            self._writing = self._database.transaction(lambda: self._database.write(rows))
        steps, self._writing = self._writing or iter(()), None
        for _ in steps:
            self._writing = steps
            return PENDING
        return None

    def close(self) -> None:
        self._database.close()


class _Marker:
    """The row of `engine_epochs` that says how far a shard is out, and who may move it.

    Its key is that of the shard: (store id, step, shard).

    Attributes:
        epoch: The last epoch that is out, as was read or published; 0 before the first.
    """

    _CREATE = """
        CREATE TABLE IF NOT EXISTS engine_epochs (
            store_id TEXT NOT NULL,
            step_id TEXT NOT NULL,
            shard TEXT NOT NULL,
            generation INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            PRIMARY KEY (store_id, step_id, shard)
        ) WITHOUT ROWID
    """
    _CLAIM = """
        INSERT INTO engine_epochs (store_id, step_id, shard, generation, epoch)
        VALUES (?, ?, ?, ?, 0)
        ON CONFLICT (store_id, step_id, shard) DO UPDATE SET generation = excluded.generation
        WHERE generation <= excluded.generation
    """
    _MOVE = """
        UPDATE engine_epochs SET epoch = ?
        WHERE store_id = ? AND step_id = ? AND shard = ? AND generation = ? AND epoch < ?
    """
    _READ = """
        SELECT generation, epoch FROM engine_epochs
        WHERE store_id = ? AND step_id = ? AND shard = ?
    """

    def __init__(self, database: _Database, session: SinkSession) -> None:
        self._database = database
        self._session = session
        self._key = (session.store_id, session.step_id, session.shard)
        self.epoch = 0

    def claim(self) -> None:
        """Put our generation into the row, unless a higher one is there, and read the epoch.

        Waits while the database is locked.

        Raises:
            FencedError: A higher generation is there.
        """
        for _ in self._database.transaction(self._claim):
            pass  # Before the first record there is nothing else to do.

    def _claim(self) -> Iterable[None]:
        self._database.execute(self._CREATE)
        self._database.execute(self._CLAIM, (*self._key, self._session.generation))
        self.epoch = self._read_as_ours()
        return ()

    def move_to(self, epoch: int) -> bool:
        """Set the row to an epoch, in the transaction that writes its rows.

        Returns:
            Whether the row was behind. If it was not, the epoch is out already.

        Raises:
            FencedError: A higher generation has claimed the row.
        """
        values = (epoch, *self._key, self._session.generation, epoch)
        was_behind = self._database.execute(self._MOVE, values).rowcount == 1
        if not was_behind:
            self._read_as_ours()
        return was_behind

    def _read_as_ours(self) -> int:
        row = self._database.execute(self._READ, self._key).fetchone()
        if row is None:
            msg = f"{self._database}: the row of {self._key} is gone from engine_epochs"
            raise ConnectorError(msg)
        generation, epoch = row
        if generation > self._session.generation:
            msg = (
                f"{self._database}: another run of this job has taken over (generation "
                f"{generation}; this one is {self._session.generation}), so nothing was written"
            )
            raise FencedError(msg)
        return int(epoch)


class _Database:
    """One connection, the statement it runs for each row, and transactions that don't block."""

    def __init__(self, path: Path, statement: str, busy_timeout_s: float) -> None:
        if not path.is_file():
            # SQLite would make a new and empty one.
            why = "No such database; make it, and its table, first"
            raise FileNotFoundError(ENOENT, why, str(path))
        self._path = path
        self._statement = statement
        self._busy_timeout_s = busy_timeout_s
        self._row: list[Value] = []
        with self._errors():
            self._connection = sqlite3.connect(
                path,
                timeout=busy_timeout_s,
                # Transactions begin and end where this file says so.
                isolation_level=None,
            )

    def __str__(self) -> str:
        return str(self._path)

    def check(self, column_count: int) -> None:
        """Check that the statement runs with so many values, without running it.

        Raises:
            ConnectorError: It does not.
        """
        self.execute(f"PRAGMA synchronous = {_SYNCHRONOUS}")
        self.execute(f"EXPLAIN {self._statement}", [None] * column_count)
        with self._errors():
            self._connection.executemany(self._statement, [])

    def wait_no_more(self) -> None:
        """Never wait for a lock from now on: the operator thread has other work to do."""
        self.execute("PRAGMA busy_timeout = 0")

    def execute(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Cursor:
        """Run a statement of this file's own."""
        with self._errors():
            return self._connection.execute(sql, values)

    def transaction(self, work: Callable[[], Iterable[None]]) -> Iterator[None]:
        """Do all of the work or nothing of it; yields while the database is locked.

        Args:
            work: Does it, and yields where other things may go on.

        Raises:
            ConnectorError: The database can't do it, or stayed locked for too long.
        """
        # An immediate transaction takes the write lock at once: only this and the last statement
        # can find the database locked.
        yield from self._until_free("BEGIN IMMEDIATE")
        try:
            yield from work()
            yield from self._until_free("COMMIT")
        except Exception:
            # If not even this works, closing the connection does it.
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise

    def _until_free(self, sql: str) -> Iterator[None]:
        give_up_at = time.monotonic() + self._busy_timeout_s
        while not self._ran(sql):
            if time.monotonic() >= give_up_at:
                msg = (
                    f"{self}: the database has been locked by another program for "
                    f"{self._busy_timeout_s:g} s; end it, or set a longer busy_timeout"
                )
                raise ConnectorError(msg)
            yield

    def _ran(self, sql: str) -> bool:
        with self._errors():
            try:
                self._connection.execute(sql)
            except sqlite3.OperationalError as ex:
                # Besides SQLITE_BUSY itself there are codes with more detail in the upper bytes.
                if ex.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                    return False
                raise
        return True

    def write(self, rows: Iterable[list[Value]]) -> Iterator[None]:
        """Run the statement for each row; yields now and then.

        Raises:
            ConnectorError: The database refuses a row.
        """
        rows = iter(rows)
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            try:
                self._connection.executemany(self._statement, self._noting(some))
            except sqlite3.Error as ex:
                msg = (
                    f"{self}: {ex}, in the row {self._row!r:.200}; the table has to take it, or "
                    "the statement has to say what else to do, such as INSERT OR IGNORE"
                )
                raise ConnectorError(msg) from ex
            if len(some) == _ROWS_AT_ONCE:
                yield

    def _noting(self, rows: list[list[Value]]) -> Iterator[list[Value]]:
        for row in rows:
            self._row = row
            yield row

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as ex:
            msg = f"{self}: {ex}"
            raise ConnectorError(msg) from ex

    def close(self) -> None:
        """Close the connection, which takes an open transaction back. Idempotent."""
        self._connection.close()


def _chosen_statement(table: str | None, statement: str | None, columns: Sequence[str]) -> str:
    if (table is None) == (statement is None):
        msg = "give either table or statement"
        raise TypeError(msg)
    if statement is not None:
        return statement
    names = ", ".join(map(_quoted, columns))
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {_quoted(str(table))} ({names}) VALUES ({places})"  # noqa: S608 (quoted)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
