"""`CSVSource` against `csv.DictReader`, and on files that are no CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.connectors import StatefulSourcePartition
from engine.connectors.files import CSVSource, _blocks

FIELDS = st.lists(
    st.sampled_from(["a", "é", "🐦", ",", ";", '"', "\n", "\r\n", "\r", " ", "\u2028"]), max_size=4
).map("".join)
ROWS = st.lists(st.lists(FIELDS, max_size=3), max_size=8)

Part: TypeAlias = StatefulSourcePartition[dict[str, str], int]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that every example overwrites."""
    return tmp_path_factory.mktemp("csv") / "input.csv"


@contextmanager
def opened(source: CSVSource, state: int | None = None) -> Iterator[Part]:
    """The only partition of a source, closed in the end."""
    [key] = source.list_parts()
    part = source.build_part("flow.in", key, state)
    try:
        yield part
    finally:
        part.close()


def batches(part: Part) -> Iterator[list[dict[str, str]]]:
    """The batches up to the end."""
    while True:
        try:
            batch = part.next_batch()
        except StopIteration:
            return
        yield list(batch)


def rows(source: CSVSource, state: int | None = None) -> list[dict[str, str]]:
    """All rows from a state on."""
    with opened(source, state) as part:
        return [row for batch in batches(part) for row in batch]


def python_rows(path: Path, **fmtparams: Any) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, **fmtparams))


def write(path: Path, table: list[list[str]], line_end: str = "\n") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=line_end).writerows(table)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 3), st.integers(1, 9))
def test_reads_and_resumes_as_python_reads(
    path: Path, table: list[list[str]], line_end: str, batch_size: int, block_size: int
) -> None:
    """The rows are `DictReader`'s, and each noted offset is at a row's end, never inside one."""
    write(path, [["x", "two\nlines"], *table], line_end)
    expected = python_rows(path)
    read: list[dict[str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "_BLOCK_BYTES", block_size)
        with opened(CSVSource(path, batch_size)) as part:
            for batch in batches(part):
                read += batch
                assert len(batch) == batch_size or len(read) == len(expected)
                assert rows(CSVSource(path), part.snapshot()) == expected[len(read) :]
            assert rows(CSVSource(path), part.snapshot()) == []
    assert read == expected


def test_passes_parameters_on(path: Path) -> None:
    """What `DictReader` takes is taken: format, names, and what to do with ragged rows."""
    path.write_text("1;'a;b'\n2\n3;c;d;e\n")
    params: dict[str, Any] = {
        "delimiter": ";",
        "quotechar": "'",
        "fieldnames": ["n", "s"],
        "restkey": "more",
        "restval": "none",
    }
    expected = python_rows(path, **params)
    assert expected[1:] == [{"n": "2", "s": "none"}, {"n": "3", "s": "c", "more": ["d", "e"]}]
    assert rows(CSVSource(path, **params)) == expected
    with opened(CSVSource(path, 1, **params)) as part:
        part.next_batch()
        assert rows(CSVSource(path, **params), part.snapshot()) == expected[1:]


def test_refuses_unknown_parameters(path: Path) -> None:
    """A mistaken parameter is an error where the source is made."""
    with pytest.raises(TypeError, match="delimeter"):
        CSVSource(path, delimeter=";")


def test_reads_rows_that_are_appended(path: Path) -> None:
    """A second run goes on after the first one's rows, with the columns of the first row."""
    path.write_text("id,name\n1,a")
    with opened(CSVSource(path)) as part:
        assert list(batches(part)) == [[{"id": "1", "name": "a"}]]
        state = part.snapshot()
    path.write_text("id,name\n1,a\n2,b\n")
    assert rows(CSVSource(path), state) == [{"id": "2", "name": "b"}]


def test_header_may_come_later(path: Path) -> None:
    """A file that was empty at first is read from its header on."""
    path.write_text("")
    with opened(CSVSource(path)) as part:
        assert list(batches(part)) == []
        state = part.snapshot()
    path.write_text("id\n1\n")
    assert rows(CSVSource(path), state) == [{"id": "1"}]


def test_drops_a_byte_order_mark(path: Path) -> None:
    """With "utf-8-sig" the first column has its plain name, after a restart too."""
    path.write_text("id\n1\n2\n", encoding="utf-8-sig")
    source = CSVSource(path, 1, encoding="utf-8-sig")
    assert rows(source) == [{"id": "1"}, {"id": "2"}]
    with opened(source) as part:
        part.next_batch()
        assert rows(source, part.snapshot()) == [{"id": "2"}]


def test_malformed_rows(path: Path) -> None:
    """A row that is no CSV is an error with file and offset, after the rows before it."""
    path.write_text('a\n1\n2\n"3"x\n4\n')
    with opened(CSVSource(path, strict=True)) as part:
        assert part.next_batch() == [{"a": "1"}, {"a": "2"}]
        for _ in range(2):
            with pytest.raises(ValueError, match=r"input.csv: malformed CSV .* byte offset 11"):
                part.next_batch()


def test_bad_bytes(path: Path) -> None:
    """Bytes that are no UTF-8 end the run after the rows before them, or pass if told to."""
    path.write_bytes(b"a\n1\n\xff\n3\n")
    with opened(CSVSource(path)) as part:
        assert part.next_batch() == [{"a": "1"}]
        assert part.snapshot() == 4
        for _ in range(2):
            with pytest.raises(ValueError, match=r"byte 0xff at byte offset 4 "):
                part.next_batch()
    assert rows(CSVSource(path, errors="replace"))[1] == {"a": "\ufffd"}


def test_missing_file(tmp_path: Path) -> None:
    """A missing file, or one that was cut, is an error at the start."""
    path = tmp_path / "missing.csv"
    with pytest.raises(FileNotFoundError, match="No such input file"):
        CSVSource(path).list_parts()
    path.write_text("a\n1\n")
    with pytest.raises(ValueError, match="now the file has only 4 bytes"):
        rows(CSVSource(path), 100)
    with pytest.raises(ValueError, match="step flow.in reads the file"):
        CSVSource(path).build_part("flow.in", "0x1::elsewhere", None)
