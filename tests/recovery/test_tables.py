"""What every table must do, the real one and the one in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import CorruptStoreError, StoreInUseError
from engine.recovery._fakes import FakeDisk, MemoryTables
from engine.recovery._table import Table, Tables
from engine.recovery.store import RocksTables


@pytest.fixture(params=["memory", "rocks"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tables, Path]:
    if request.param == "rocks":
        return RocksTables(), tmp_path / "table"
    return MemoryTables(FakeDisk()), Path("/table")


def test_rows_are_read_as_they_were_written(make: tuple[Tables, Path]) -> None:
    """By keys, with None for those that aren't there, and in order of keys."""
    tables, folder = make
    table = tables.create(folder)
    table.write([(b"b", b"2"), (b"a", b""), (b"c\xff", b"3")], [])
    assert table.get_many([b"c\xff", b"x", b"a", b"b"]) == [b"3", None, b"", b"2"]
    assert list(table.scan(b"a", b"c\xff")) == [(b"a", b""), (b"b", b"2")]
    assert list(table.scan(b"", b"\xff")) == [(b"a", b""), (b"b", b"2"), (b"c\xff", b"3")]
    assert table.get_many([]) == []
    assert [table.get(key) for key in (b"a", b"b", b"x")] == [b"", b"2", None]
    table.close()


def test_rows_are_replaced_and_deleted(make: tuple[Tables, Path]) -> None:
    """One by one and by ranges."""
    tables, folder = make
    table = tables.create(folder)
    table.write([(b"%d" % i, b"x") for i in range(10)], [])
    table.write([(b"1", b"y")], [b"2", b"none"])
    table.delete_range(b"5", b"8")
    assert [key for key, _ in table.scan(b"", b"~")] == [b"0", b"1", b"3", b"4", b"8", b"9"]
    assert table.get_many([b"1", b"2", b"5", b"8"]) == [b"y", None, None, b"x"]
    table.close()


def test_a_scan_does_not_see_later_writes(make: tuple[Tables, Path]) -> None:
    """It shows the rows as they were at its beginning."""
    tables, folder = make
    table = tables.create(folder)
    table.write([(b"a", b"1"), (b"b", b"1")], [])
    scan = table.scan(b"", b"~")
    table.write([(b"c", b"1")], [b"b"])
    assert [key for key, _ in scan] == [b"a", b"b"]
    table.close()


@pytest.mark.parametrize("flush", [lambda t: t.flush(), lambda t: (t.begin_flush(), wait(t))])
def test_what_is_flushed_stays(make: tuple[Tables, Path], flush: Callable[[Table], None]) -> None:
    """At once, and in the background."""
    tables, folder = make
    table = tables.create(folder)
    table.write([(b"a", b"1")], [])
    flush(table)
    table.close()
    again = tables.open(folder)
    assert again.get_many([b"a"]) == [b"1"]
    again.close()


def wait(table: Table) -> None:
    while not table.flush_done():
        pass


def test_a_table_is_opened_once_at_a_time(make: tuple[Tables, Path]) -> None:
    """A second open says so; after a close it works."""
    tables, folder = make
    table = tables.create(folder)
    with pytest.raises(StoreInUseError, match="another process has this store open"):
        tables.open(folder)
    table.close()
    tables.open(folder).close()


def test_a_missing_table_is_not_made_up(make: tuple[Tables, Path]) -> None:
    """Opening never creates."""
    tables, folder = make
    with pytest.raises(CorruptStoreError):
        tables.open(folder)


def test_a_checkpoint_is_a_table(make: tuple[Tables, Path]) -> None:
    """With the rows as they were, whatever happens to the original."""
    tables, folder = make
    table = tables.create(folder)
    table.write([(b"a", b"1")], [])
    copy = folder.with_name("copy")
    table.checkpoint(copy)
    table.write([(b"a", b"2")], [])
    table.close()
    opened = tables.open(copy)
    assert opened.get_many([b"a"]) == [b"1"]
    opened.close()


def test_reading_only_leaves_room_for_a_later_open(make: tuple[Tables, Path]) -> None:
    """And shows what was flushed."""
    tables, folder = make
    table = tables.create(folder)
    table.write([(b"a", b"1")], [])
    table.flush()
    table.close()
    reader = tables.open(folder, read_only=True)
    assert reader.get_many([b"a"]) == [b"1"]
    reader.close()
    tables.open(folder).close()


def test_the_two_tables_agree(tmp_path: Path) -> None:
    """On random writes."""
    rng = random.Random(7)
    both = [
        RocksTables().create(tmp_path / "table"),
        MemoryTables(FakeDisk()).create(Path("/table")),
    ]
    for _ in range(300):
        keys = [rng.randbytes(rng.randint(1, 2)) for _ in range(6)]
        puts = [(key, rng.randbytes(3)) for key in set(keys[:4])]
        deletes = [key for key in set(keys[4:]) if key not in dict(puts)]
        low, high = sorted((rng.randbytes(1), rng.randbytes(1)))
        for table in both:
            table.write(puts, deletes)
        if len(puts) == 1:
            for table in both:
                table.delete_range(low, high)
        assert both[0].get_many(keys) == both[1].get_many(keys)
        assert list(both[0].scan(low, high)) == list(both[1].scan(low, high))
    for table in both:
        table.close()
