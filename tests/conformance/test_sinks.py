"""Every sink under the suite of `sink_suite`. A new sink is one more line in `CASES`."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.connectors import Delivery, sqlite
from engine.connectors.files import DirSink, FileSink
from engine.connectors.sqlite import SqliteSink
from engine.connectors.stdio import StdOutSink
from engine.testing import TestingSink
from tests.conformance.reference_sinks import (
    AcknowledgedSink,
    LedgerSink,
    PlainSink,
    TruncatingSink,
)
from tests.conformance.sink_suite import SinkCase, SinkSuite
from tests.conformance.world import World

_EPOCHS: list[list[list[Any]]] = [
    [["a", "b"], ["c"]],
    [],
    [["ä\u2028b", ""], ["d", "a"]],
    [["last"]],
]
_KEYED = [[[(value, value) for value in batch] for batch in epoch] for epoch in _EPOCHS]
_SO_FAR = [
    ["a", "b", "c"],
    ["a", "b", "c"],
    ["a", "b", "c", "ä\u2028b", "", "d", "a"],
    ["a", "b", "c", "ä\u2028b", "", "d", "a", "last"],
]
_ROWS = [[[(value,) for value in batch] for batch in epoch] for epoch in _EPOCHS]
_ROWS_SO_FAR = [{"lines": [(value,) for value in values]} for values in _SO_FAR]


def _in_parts(part_of: Callable[[str], str]) -> list[dict[str, list[Any]]]:
    """What is written after each epoch, by the part that each value goes to."""
    result: list[dict[str, list[Any]]] = []
    for values in _SO_FAR:
        parts: dict[str, list[Any]] = {}
        for value in values:
            parts.setdefault(part_of(value), []).append(value)
        result.append(parts)
    return result


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\n")[:-1] if path.exists() else []


def _read_folder(world: World) -> dict[str, list[Any]]:
    return {path.name: _lines(path) for path in world.folder.iterdir()}


def _memory(*names: str) -> Callable[[World], dict[str, list[Any]]]:
    return lambda world: {name: world.memory.get(name, []) for name in names}


def _sqlite(delivery: Delivery) -> Callable[[World], SqliteSink]:
    def build(world: World) -> SqliteSink:
        path = world.folder / "database"
        if not path.exists():
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA synchronous = OFF")
                database.execute("CREATE TABLE lines (line)")
        return SqliteSink(path, table="lines", columns=["line"], delivery=delivery)

    return build


def _read_database(world: World) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(world.folder / "database")) as database:
        rows = database.execute("SELECT line FROM lines ORDER BY rowid").fetchall()
    return {"lines": rows}


def _adler_part(value: str) -> str:
    return ["one", "three", "two"][zlib.adler32(value.encode()) % 3]  # in sorted order


CASES = [
    SinkCase("plain", PlainSink, _memory("plain"), _EPOCHS, _in_parts(lambda _: "plain")),
    SinkCase(
        "plain partitioned",
        TruncatingSink,
        _memory("one", "two", "three"),
        _KEYED,
        _in_parts(_adler_part),
    ),
    SinkCase(
        "acknowledged",
        AcknowledgedSink,
        _memory("acknowledged"),
        _EPOCHS,
        _in_parts(lambda _: "acknowledged"),
    ),
    SinkCase("ledger", LedgerSink, _memory("ledger"), _EPOCHS, _in_parts(lambda _: "ledger")),
    SinkCase(
        "TestingSink",
        lambda world: TestingSink(world.memory.setdefault("testing", [])),
        _memory("testing"),
        _EPOCHS,
        _in_parts(lambda _: "testing"),
    ),
    SinkCase(
        "StdOutSink",
        lambda _: StdOutSink(),
        lambda world: {"stdout": world.stdout.getvalue().split("\n")[:-1]},
        _EPOCHS,
        _in_parts(lambda _: "stdout"),
    ),
    SinkCase(
        "FileSink",
        lambda world: FileSink(world.folder / "out"),
        _read_folder,
        _KEYED,
        _in_parts(lambda _: "out"),
    ),
    SinkCase(
        "DirSink",
        lambda world: DirSink(world.folder, 3, assign_file=len),
        _read_folder,
        _KEYED,
        _in_parts(lambda value: f"part_{len(value) % 3}"),
    ),
    SinkCase("SqliteSink", _sqlite("exactly-once"), _read_database, _ROWS, _ROWS_SO_FAR),
    SinkCase(
        "SqliteSink at least once", _sqlite("at-least-once"), _read_database, _ROWS, _ROWS_SO_FAR
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestSinks(SinkSuite):
    """Every sink of the engine, and plain ones such as a user writes."""

    @pytest.fixture(autouse=True)
    def no_syncing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """SQLite does not wait for the disk either, as nothing in this suite does."""
        monkeypatch.setattr(sqlite, "_SYNCHRONOUS", "OFF")
