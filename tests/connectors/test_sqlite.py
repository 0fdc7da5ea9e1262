"""`SqliteSink`: what it writes and refuses, its transactions, locked databases, overtaken runs."""

from __future__ import annotations

import math
import os
import resource
import signal
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.connectors import PENDING, FencedError, SinkSession, sqlite
from engine.connectors.sqlite import SqliteSink
from engine.dataflow import Dataflow
from engine.errors import ConnectorError
from engine.testing import TestingSource, run_main
from tests.conformance.sink_suite import ask

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
EPOCHS = st.lists(st.lists(st.tuples(VALUES, VALUES), max_size=4), min_size=1, max_size=3)


@pytest.fixture(autouse=True)
def no_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut in these tests, so nothing has to wait for the disk."""
    monkeypatch.setattr(sqlite, "_SYNCHRONOUS", "OFF")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one table of two columns, which take what they are given."""
    return new_database(tmp_path)


def connected(path: Path) -> sqlite3.Connection:
    """Another program's connection."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def new_database(folder: Path, *statements: str) -> Path:
    path = folder / "some database.db"
    with closing(connected(path)) as database:
        for statement in statements or ("CREATE TABLE t (a, b)",):
            database.execute(statement)
    return path


def rows_in(path: Path, query: str = "SELECT a, b FROM t ORDER BY rowid") -> list[Any]:
    with closing(connected(path)) as database:
        return database.execute(query).fetchall()


def sink_of(path: Path, **options: Any) -> SqliteSink:
    """A sink for that table, unless the options say otherwise."""
    if "statement" not in options:
        options = {"table": "t", **options}
    return SqliteSink(path, **{"columns": ["a", "b"], **options})


def session(generation: int = 1) -> SinkSession:
    return SinkSession("store", generation, "flow.out", "worker-0")


@contextmanager
def opened(sink: SqliteSink, generation: int = 1) -> Iterator[Any]:
    """A partition that has begun, closed in the end."""
    with closing(sink.build("flow.out", 0, 1)) as part:
        part.begin(session(generation))
        yield part


def publish(part: Any, epoch: int, records: list[Any]) -> None:
    """Take an epoch through a partition, whichever delivery it has."""
    part.write_batch(records)
    assert ask(part.flush) is None
    rows = ask(lambda: part.prepare(epoch))
    assert ask(lambda: part.publish(epoch, rows)) is None


@dataclass
class Pair:
    """A record that has its values as attributes, and one too many."""

    b: str
    a: int
    c: float = 0.5


def test_takes_records_of_several_kinds(path: Path) -> None:
    """Tuples and lists go by position, mappings and dataclasses by name."""
    with opened(sink_of(path)) as part:
        publish(part, 1, [(1, "tuple"), [2, "list"], {"b": "dict", "a": 3, "c": 0}, Pair("own", 4)])
    assert rows_in(path) == [(1, "tuple"), (2, "list"), (3, "dict"), (4, "own")]


@settings(max_examples=50, deadline=None)
@given(EPOCHS)
def test_values_arrive_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, epochs: list[list[tuple[Any, Any]]]
) -> None:
    """Both deliveries write the same: each value with its type, in order."""
    expected = [row for rows in epochs for row in rows]
    for delivery in ("exactly-once", "at-least-once"):
        path = new_database(tmp_path_factory.mktemp("sink"))
        with opened(sink_of(path, delivery=delivery)) as part:
            for epoch, rows in enumerate(epochs, 1):
                publish(part, epoch, rows)
        written = rows_in(path)
        assert written == expected
        types = [type(value) for row in written for value in row]
        assert types == [type(value) for row in expected for value in row]


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_what_sqlite_has_no_form_for_takes_its_nearest(path: Path, delivery: str) -> None:
    """Truth becomes a number and not-a-number becomes NULL, as in SQLite itself."""
    with opened(sink_of(path, delivery=delivery)) as part:
        publish(part, 1, [(True, math.nan)])
    assert rows_in(path) == [(1, None)]


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
@pytest.mark.parametrize(
    ("record", "error", "says"),
    [
        (
            (1, datetime(2024, 1, 1, tzinfo=UTC)),
            TypeError,
            "column 'b'.*of type `datetime`.*op.map",
        ),
        ((Decimal(1), 1), TypeError, "column 'a'.*of type `Decimal`"),
        (("key", {"b": 1}), TypeError, "column 'b'.*of type `dict`"),
        ((1, 2**63), ValueError, "column 'b': 9223372036854775808 does not fit in 64 bits"),
        ((-(2**63) - 1, 1), ValueError, "column 'a'.*does not fit"),
        ((1, "\ud800"), ValueError, "column 'b'.*can't be written as UTF-8"),
        ((1,), ValueError, r"got 1 values for the columns \('a', 'b'\)"),
        ({"a": 1}, ValueError, "no value for each of the columns"),
        (
            TestingSource([]),
            TypeError,
            "mappings, dataclasses, tuples or lists; got .*TestingSource",
        ),
        ("ab", TypeError, "mappings, dataclasses, tuples or lists; got 'ab' of type `str`"),
    ],
    # The same in every process, for tests that run in several.
    ids=lambda part: "source" if isinstance(part, TestingSource) else str(part),
)
def test_refuses_what_a_table_cannot_hold(
    path: Path, delivery: str, record: Any, error: type[Exception], says: str
) -> None:
    """A value that can't be written is an error before its epoch is durable, and says where."""
    with opened(sink_of(path, delivery=delivery)) as part, pytest.raises(error, match=says):
        part.write_batch([record])
    assert rows_in(path) == []


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_records_may_change_afterwards(path: Path, delivery: str) -> None:
    """What is written is what a record was when the sink got it."""
    record = {"a": 1, "b": 2}
    with opened(sink_of(path, delivery=delivery)) as part:
        part.write_batch([record])
        record["a"] = 7
        publish(part, 1, [])
    assert rows_in(path) == [(1, 2)]


def test_runs_the_statement_it_is_given(tmp_path: Path) -> None:
    """An upsert writes over what earlier epochs wrote."""
    path = new_database(tmp_path, "CREATE TABLE t (a PRIMARY KEY, b)")
    upsert = "INSERT INTO t VALUES (?, ?) ON CONFLICT (a) DO UPDATE SET b = excluded.b"
    with opened(sink_of(path, statement=upsert)) as part:
        publish(part, 1, [("dog", 1), ("cat", 1)])
        publish(part, 2, [("dog", 2)])
    assert rows_in(path) == [("dog", 2), ("cat", 1)]


def test_names_may_be_odd(tmp_path: Path) -> None:
    """Names of tables and columns are quoted."""
    path = new_database(tmp_path, 'CREATE TABLE "a ""table""; --" ("select" INTEGER, "x y" TEXT)')
    odd = sink_of(path, table='a "table"; --', columns=["select", "x y"])
    with opened(odd) as part:
        publish(part, 1, [{"select": 1, "x y": "z"}])
    assert rows_in(path, 'SELECT * FROM "a ""table""; --"') == [(1, "z")]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"columns": "ab"}, TypeError, "must be a list of names; got the text 'ab'"),
        ({"columns": []}, ValueError, "at least one column"),
        ({"table": None}, TypeError, "either table or statement"),
        ({"statement": "INSERT INTO t VALUES (?, ?)", "table": "t"}, TypeError, "either table or"),
        ({"delivery": "exactly once"}, ValueError, "'exactly-once' or 'at-least-once'; got 'exac"),
    ],
)
def test_options_that_make_no_sense(
    path: Path, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Mistakes that need no database to be seen are errors where the sink is made."""
    with pytest.raises(error, match=says):
        sink_of(path, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"table": "u"}, "some database.db: no such table: u"),
        ({"columns": ["a", "c"]}, "some database.db: .*no column named c"),
        ({"statement": "INSERT INTO t VALUES (?)"}, "1 values.*2 columns|2 columns.*1 values"),
        ({"statement": "INSERT INTO t (a) VALUES (?)"}, "uses 1, and there are 2 supplied"),
        ({"statement": "SELECT ?, ?"}, "can only execute DML"),
        ({"statement": "DROP TABLE t"}, "uses 0, and there are 2 supplied"),
        ({"statement": "INSERT INTO t VALUES (?, ?); DROP TABLE t"}, "one statement at a time"),
        ({"statement": "INSERT IN t"}, "syntax error"),
    ],
)
def test_what_the_database_cannot_run(path: Path, options: dict[str, Any], says: str) -> None:
    """A statement that can't work is an error before the first record, and changes nothing."""
    with pytest.raises(ConnectorError, match=says):
        sink_of(path, **options).build("flow.out", 0, 1)
    assert rows_in(path) == []


def test_paths_that_are_no_database(tmp_path: Path) -> None:
    """A missing database is not made, and a file that is something else is left alone."""
    with pytest.raises(FileNotFoundError, match="No such database; make it.*missing.db"):
        sink_of(tmp_path / "missing.db").build("flow.out", 0, 1)
    assert not (tmp_path / "missing.db").exists()
    text = tmp_path / "text"
    text.write_text("no database, but long enough to be taken for one\n" * 100)
    with pytest.raises(ConnectorError, match="text: file is not a database"):
        sink_of(text).build("flow.out", 0, 1)


def test_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the shortcut of these tests a transaction that is done outlives a power cut."""
    monkeypatch.undo()
    with opened(sink_of(path)) as part:
        [level] = part._database.execute("PRAGMA synchronous").fetchone()
    assert level == 3  # EXTRA


def test_nothing_is_visible_before_publish(path: Path) -> None:
    """Exactly-once rows wait with the engine; at-least-once rows are there after the flush."""
    with opened(sink_of(path)) as part:
        part.write_batch([(1, 1)])
        part.flush()
        rows = part.prepare(1)
        assert rows_in(path) == []
        part.publish(1, rows)
        assert (part.published(), rows_in(path)) == (1, [(1, 1)])
    with opened(sink_of(path, delivery="at-least-once")) as part:
        part.write_batch([(2, 2)])
        part.flush()
        assert (part.prepare(1), part.published()) == ([], None)
    assert rows_in(path) == [(1, 1), (2, 2)]


def test_only_exactly_once_needs_the_marker_table(path: Path) -> None:
    """A database that is written at least once is not changed otherwise."""
    tables = "SELECT name FROM sqlite_schema"
    with opened(sink_of(path, delivery="at-least-once")):
        assert rows_in(path, tables) == [("t",)]
    with opened(sink_of(path)):
        assert rows_in(path, tables) == [("t",), ("engine_epochs",)]


def test_a_large_epoch_is_written_in_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator thread gets its turn in between, and others see all of it or nothing."""
    monkeypatch.setattr(sqlite, "_ROWS_AT_ONCE", 2)
    records = [(number, number) for number in range(5)]
    with opened(sink_of(path)) as part:
        part.write_batch(records)
        rows = part.prepare(1)
        assert [part.publish(1, rows) for _ in range(2)] == [PENDING] * 2
        assert rows_in(path) == []
        part.write_batch([("of the", "next epoch")])
        assert part.publish(1, rows) is None
    assert rows_in(path) == records


def test_an_epoch_that_is_out_is_not_written_again(path: Path) -> None:
    """A repeated publish does nothing, in the same run and in a later one."""
    with opened(sink_of(path)) as part:
        part.write_batch([(1, 1)])
        rows = part.prepare(1)
        for _ in range(2):
            assert ask(lambda: part.publish(1, rows)) is None
    with opened(sink_of(path), 2) as part:
        assert part.published() == 1
        assert ask(lambda: part.publish(1, rows)) is None
        assert part.published() == 1
    assert rows_in(path) == [(1, 1)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12))
def test_only_the_newest_generation_publishes(
    tmp_path_factory: pytest.TempPathFactory, turns: list[int]
) -> None:
    """Runs wake up in any order: 0 begins a new one, n lets the nth-last one publish an epoch."""
    path = new_database(tmp_path_factory.mktemp("sink"))
    parts: list[Any] = []
    epoch = 0
    try:
        for turn in [0, *turns]:
            if turn == 0:
                parts.append(sink_of(path).build("flow.out", 0, 1))
                parts[-1].begin(session(len(parts)))
                assert parts[-1].published() == epoch
            elif turn == 1:
                epoch += 1
                publish(parts[-1], epoch, [(epoch, None)])
            elif turn <= len(parts):
                with pytest.raises(FencedError, match="another run of this job has taken over"):
                    publish(parts[-turn], epoch + 1, [("of a run", "that was overtaken")])
        assert rows_in(path) == [(number, None) for number in range(1, epoch + 1)]
    finally:
        for part in parts:
            part.close()


def test_a_run_paused_in_the_middle_of_a_publish(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the database locked, so the next run fails to begin until that one is dead."""
    monkeypatch.setattr(sqlite, "_ROWS_AT_ONCE", 1)
    impatient = sink_of(path, busy_timeout=timedelta(0))
    with opened(impatient) as paused:
        paused.write_batch([(1, 1), (2, 2)])
        assert paused.publish(1, paused.prepare(1)) is PENDING
        with (
            closing(impatient.build("flow.out", 0, 1)) as part,
            pytest.raises(ConnectorError, match="locked by another program for 0 s"),
        ):
            part.begin(session(2))
    with opened(impatient, 2) as part:
        assert (part.published(), rows_in(path)) == (0, [])
        publish(part, 1, [(1, 1), (2, 2)])
    assert rows_in(path) == [(1, 1), (2, 2)]


def test_a_locked_database_is_asked_again(path: Path) -> None:
    """A writer keeps a publish from starting, a reader from ending; neither blocks the worker."""
    with opened(sink_of(path)) as part, closing(connected(path)) as other:
        part.write_batch([(1, 1)])
        rows = part.prepare(1)
        other.execute("BEGIN IMMEDIATE")
        assert part.publish(1, rows) is PENDING
        other.rollback()
        other.execute("BEGIN")
        other.execute("SELECT * FROM t").fetchall()
        assert part.publish(1, rows) is PENDING
        assert part.publish(1, rows) is PENDING
        other.rollback()
        assert part.publish(1, rows) is None
    assert rows_in(path) == [(1, 1)]


class _Recovering:
    """A connection to a database whose log another program is just recovering."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_recovering = True

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if self._is_recovering:
            self._is_recovering = False
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
            raise error
        return self._connection.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_all_kinds_of_busy_are_waited_for(path: Path) -> None:
    """SQLite has codes of its own for some reasons of being locked."""
    with opened(sink_of(path)) as part:
        part._database._connection = _Recovering(part._database._connection)
        assert part.publish(1, []) is PENDING
        assert part.publish(1, []) is None


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_database_that_stays_locked(
    path: Path, delivery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the timeout it is an error, nothing is written, and the lock is left."""
    now_s = 0.0
    monkeypatch.setattr(sqlite.time, "monotonic", lambda: now_s)
    with (
        closing(connected(path)) as other,
        opened(sink_of(path, delivery=delivery)) as part,
    ):
        part.write_batch([(1, 1)])
        rows = part.prepare(1)

        def hand_over() -> Any:
            return part.publish(1, rows) if rows else part.flush()

        other.execute("BEGIN")
        other.execute("SELECT * FROM t").fetchall()
        assert hand_over() is PENDING
        now_s = 29.0
        assert hand_over() is PENDING
        now_s = 31.0
        with pytest.raises(ConnectorError, match="locked by another program for 30 s"):
            hand_over()
        other.rollback()
        other.execute("INSERT INTO t VALUES ('from', 'outside')")
        other.commit()
    assert rows_in(path) == [("from", "outside")]


def test_a_row_that_the_table_refuses(tmp_path: Path) -> None:
    """None of its epoch is written, the error shows it, and a better statement mends it."""
    path = new_database(tmp_path, "CREATE TABLE t (a PRIMARY KEY, b)")
    with opened(sink_of(path)) as part:
        part.write_batch([(1, "first"), (2, "other"), (1, "second")])
        rows = part.prepare(1)
        for _ in range(2):
            with pytest.raises(ConnectorError, match=r"UNIQUE.*\[1, 'second'\].*INSERT OR IGNORE"):
                part.publish(1, rows)
        assert part.published() == 0
    assert rows_in(path) == []
    with opened(sink_of(path, statement="INSERT OR IGNORE INTO t VALUES (?, ?)"), 2) as part:
        assert (part.published(), part.publish(1, rows)) == (0, None)
    assert rows_in(path) == [(1, "first"), (2, "other")]


def test_a_refusal_at_the_very_end(tmp_path: Path) -> None:
    """A transaction that fails as it is committed is taken back as a whole, and leaves no lock."""
    path = new_database(
        tmp_path,
        "CREATE TABLE known (id PRIMARY KEY)",
        "CREATE TABLE t (a REFERENCES known (id) DEFERRABLE INITIALLY DEFERRED, b)",
    )
    with opened(sink_of(path)) as part:
        part._database.execute("PRAGMA foreign_keys = ON")
        part.write_batch([(1, 1)])
        rows = part.prepare(1)
        with pytest.raises(ConnectorError, match="FOREIGN KEY constraint failed"):
            part.publish(1, rows)
        with closing(connected(path)) as other:
            other.execute("INSERT INTO known VALUES (1)")
            other.commit()
        assert part.publish(1, rows) is None
    assert rows_in(path) == [(1, 1)]


def test_rows_that_were_kept_for_other_columns(path: Path) -> None:
    """Kept rows say what their values are, so that none gets into another column."""
    with opened(sink_of(path)) as part:
        part.write_batch([(1, 2)])
        rows = part.prepare(1)
    with opened(sink_of(path, columns=["b", "a"]), 2) as part:
        with pytest.raises(ConnectorError, match=r'\["a", "b"\]; they are now \["b", "a"\]'):
            part.publish(1, rows)
        assert part.published() == 0
    assert rows_in(path) == []


def test_a_marker_that_goes_missing(path: Path) -> None:
    """Where somebody deleted the marker under a running job, nothing more is written."""
    with opened(sink_of(path)) as part:
        publish(part, 1, [(1, 1)])
        with closing(connected(path)) as other:
            other.execute("DELETE FROM engine_epochs")
            other.commit()
        with pytest.raises(ConnectorError, match="'worker-0'.* is gone from engine_epochs"):
            publish(part, 2, [(2, 2)])
    assert rows_in(path) == [(1, 1)]


def test_publishing_needs_a_session(path: Path) -> None:
    """Without `begin` there is no marker to move, so nothing is written."""
    with closing(sink_of(path).build("flow.out", 0, 1)) as part:
        with pytest.raises(ConnectorError, match="begin"):
            part.publish(1, [])
        with pytest.raises(ConnectorError, match="begin"):
            part.published()


def test_workers_share_a_database(path: Path) -> None:
    """Each worker has a marker of its own and waits for the others' transactions."""
    sink = sink_of(path)
    with (
        closing(sink.build("flow.out", 0, 2)) as first,
        closing(sink.build("flow.out", 1, 2)) as second,
    ):
        for index, part in enumerate((first, second)):
            part.begin(SinkSession("store", 1, "flow.out", f"worker-{index}"))
        publish(first, 1, [(0, 1)])
        publish(second, 1, [(1, 1)])
        publish(second, 2, [(1, 2)])
    assert rows_in(path) == [(0, 1), (1, 1), (1, 2)]
    markers = rows_in(path, "SELECT shard, generation, epoch FROM engine_epochs ORDER BY shard")
    assert markers == [("worker-0", 1, 1), ("worker-1", 1, 2)]


def test_a_flow_writes_its_counts(path: Path) -> None:
    """At the end of a flow everything is in the table."""
    flow = Dataflow("flow")
    words = op.input("words", flow, TestingSource(["a", "b", "a"]))
    counts = op.count_final("count", words, lambda word: word)
    op.output("out", counts, sink_of(path, delivery="at-least-once"))
    run_main(flow)
    assert sorted(rows_in(path)) == [("a", 2), ("b", 1)]


LAST_EPOCH = 4


def rows_of(epoch: int) -> list[tuple[int, str]]:
    """Rows that fill some pages of a database."""
    return [(epoch * 100 + number, "x" * 3_000) for number in range(3)]


def write_all(path: Path, generation: int) -> None:
    """A run, which goes on after the last epoch that is out."""
    with opened(sink_of(path), generation) as part:
        for epoch in range(part.published() + 1, LAST_EPOCH + 1):
            publish(part, epoch, rows_of(epoch))


def die_at_statement(number: int) -> Callable[[], None]:
    """Makes the process kill itself as SQLite starts its nth statement."""

    def prepare() -> None:
        left = number
        connect = sqlite3.connect

        def count(sql: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def connect_traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_trace_callback(count)
            return connection

        sqlite3.connect = connect_traced  # type: ignore[assignment]

    return prepare


def die_at_byte(offset: int) -> Callable[[], None]:
    """Makes the system kill the process as it writes beyond an offset in a file."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (offset, offset))

    return prepare


def killed(prepare: Callable[[], None], work: Callable[[], None]) -> bool:
    """Do work in a child process; whether that died of it."""
    with warnings.catch_warnings():
        # The child takes none of the locks that a thread of some other test may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            prepare()
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def check_whole_epochs(path: Path) -> int:
    """Check that exactly the epochs up to the marker are there; gives the marker."""
    [(marker,)] = rows_in(path, "SELECT coalesce(max(epoch), 0) FROM engine_epochs") or [(0,)]
    expected = [row for epoch in range(1, marker + 1) for row in rows_of(epoch)]
    assert rows_in(path) == expected
    assert rows_in(path, "PRAGMA integrity_check") == [("ok",)]
    return int(marker)


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize(
    "die",
    [
        *(pytest.param(die_at_statement(n), id=f"statement {n}") for n in range(9, 24)),
        *(pytest.param(die_at_byte(n << 12), id=f"page {n}") for n in range(5, 15)),
    ],
)
def test_kill_in_the_middle_of_a_publish(
    tmp_path: Path, journal_mode: str, die: Callable[[], None]
) -> None:
    """Killed at any statement, or while pages are written, an epoch is out with its marker or not.

    The next run goes on from the marker, and in the end each row is there once.
    """
    path = new_database(tmp_path, f"PRAGMA journal_mode = {journal_mode}", "CREATE TABLE t (a, b)")
    write_one = sink_of(path)
    with opened(write_one) as part:
        publish(part, 1, rows_of(1))
    assert killed(die, lambda: write_all(path, 2))
    assert 1 <= check_whole_epochs(path) < LAST_EPOCH
    write_all(path, 3)
    assert check_whole_epochs(path) == LAST_EPOCH
