"""`CSVSource`: the rows of one CSV file, as dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, cast

from engine.connectors._source import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files._blocks import BlockReader, TextFormat
from engine.connectors.files._lines import check_is_part_of, checked_batch_size, file_part_key
from engine.connectors.files._paths import GetFsId, device_of


class CSVSource(FixedPartitionedSource[dict[str, str], int]):
    r"""Reads the rows of a CSV file as dictionaries, and ends with the file.

    One partition; its state is the byte offset of the next row, which is never inside a quoted
    field. The first row names the columns and is read at every start. Blank rows are passed over.
    In a row that is too short the missing columns are `restval`; what a row has too much is a list
    under the key `restkey`, as in `csv.DictReader`.

    Args:
        path: File to read. The partition is named by the path as it is given here.
        batch_size: Rows per batch.
        get_fs_id: As in `FileSource`.
        encoding: As in `FileSource`. Files from spreadsheets often want "utf-8-sig".
        errors: As in `FileSource`.
        **fmtparams: What `csv.DictReader` takes: `delimiter`, `quotechar`, `dialect` and the like,
            and `fieldnames` for a file without a first row that names the columns, `restkey`,
            `restval`.

    Raises:
        ValueError: `batch_size` is below 1, or the encoding is UTF-16 or the like.
        LookupError: There is no such `encoding` or `errors`.
        TypeError: `fmtparams` are not what the `csv` module takes.

    A missing or unreadable file is an error at the start of the run; so is, when it comes to it, a
    row that the `csv` module can't read. The rows before it go out first.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "birds.csv")
    >>> _ = path.write_text('name,seen\nwren,3\n"owl, barn",1\n')
    >>> source = CSVSource(path)
    >>> [part_key] = source.list_parts()
    >>> source.build_part("flow.in", part_key, None).next_batch()
    [{'name': 'wren', 'seen': '3'}, {'name': 'owl, barn', 'seen': '1'}]
    """

    def __init__(
        self,
        path: Path | str,
        batch_size: int = 1000,
        get_fs_id: GetFsId = device_of,
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
        **fmtparams: Any,
    ) -> None:
        self._path = Path(path)
        self._batch_size = checked_batch_size(batch_size)
        self._get_fs_id = get_fs_id
        self._format = TextFormat(encoding, errors)
        self._shape = _RowShape(fmtparams)
        # Mistaken parameters are an error here, where they stand in the user's module.
        self._shape.reader(iter(()))

    def list_parts(self) -> list[str]:
        """Name the file's partition."""
        return [file_part_key(self._path, self._get_fs_id)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSourcePartition[dict[str, str], int]:
        """Open the file at an offset."""
        check_is_part_of(self._path, step_id, for_part)
        return _CSVPartition(
            self._path, resume_state or 0, self._batch_size, self._format, self._shape
        )


class _Reader(Protocol):
    """A `csv.reader`, whose type has no public name."""

    @property
    def line_num(self) -> int:
        """How many lines it has taken."""
        ...

    def __iter__(self) -> Iterator[list[str]]:
        """Give the rows."""
        ...


class _RowShape:
    """How a row of fields becomes a dictionary, apart from the names that the file itself gives."""

    def __init__(self, fmtparams: dict[str, Any]) -> None:
        params = dict(fmtparams)
        names = params.pop("fieldnames", None)
        self.names: list[str] | None = None if names is None else list(names)
        self._rest_key: str | None = params.pop("restkey", None)
        self._rest_value: str | None = params.pop("restval", None)
        self._csv_params = params

    def reader(self, lines: Iterator[str]) -> _Reader:
        """A `csv.reader` over lines with their line ends."""
        import csv  # noqa: PLC0415 (only flows that read CSV pay for it)

        return csv.reader(lines, **self._csv_params)

    def records(self, names: list[str], rows: list[list[str]]) -> list[dict[str, str]]:
        width = len(names)
        return [
            # Naming `strict` would make each row a third dearer, and the width is checked here.
            dict(zip(names, row)) if len(row) == width else self._ragged(names, row)  # noqa: B905
            for row in rows
        ]

    def _ragged(self, names: list[str], row: list[str]) -> dict[str, str]:
        record: dict[Any, Any] = dict.fromkeys(names, self._rest_value)
        record.update(zip(names, row, strict=False))
        if len(row) > len(names):
            record[self._rest_key] = row[len(names) :]
        # As `csv.DictReader` has it, what is ragged is not of the type that the rest is.
        return cast("dict[str, str]", record)


class _Rows:
    """The rows of a file from an offset on, blank ones left out, and the offset after each."""

    def __init__(self, reader: BlockReader, shape: _RowShape) -> None:
        self._reader = reader
        self._block = reader.empty_block()
        self._lines_before = 0
        self._csv = shape.reader(chain.from_iterable(self._lines()))
        self._filled: Iterator[list[str]] = filter(None, self._csv)

    def _lines(self) -> Iterator[list[str]]:
        while (block := self._reader.next_block()) is not None:
            self._lines_before = self._csv.line_num
            self._block = block
            # With their line ends, as `csv` needs them inside quoted fields.
            yield block.lines_with_ends()

    def take_into(self, rows: list[list[str]], count: int) -> None:
        """Append up to `count` rows; those before an error too.

        Raises:
            ValueError: The file is not text in its encoding, or not CSV.
        """
        import csv  # noqa: PLC0415 (only flows that read CSV pay for it)

        try:
            rows.extend(islice(self._filled, count))
        except csv.Error as ex:
            msg = (
                f"{self._reader.path}: malformed CSV in the row that ends at or after byte offset "
                f"{self.offset()}: {ex}"
            )
            raise ValueError(msg) from ex

    def offset(self) -> int:
        """The byte offset after the last row that was taken."""
        return self._block.offset_after(self._csv.line_num - self._lines_before)


class _CSVPartition(StatefulSourcePartition[dict[str, str], int]):
    """The rows of one file, `batch_size` at a time."""

    def __init__(
        self,
        path: Path,
        offset: int,
        batch_size: int,
        text_format: TextFormat,
        shape: _RowShape,
    ) -> None:
        self._shape = shape
        self._batch_size = batch_size
        self._names = shape.names
        if offset and self._names is None:
            self._names = _read_names(path, text_format, shape)
        self._reader = BlockReader(path, offset, text_format)
        self._rows = _Rows(self._reader, shape)
        self._failure: ValueError | None = None
        self._ended = False

    def next_batch(self) -> list[dict[str, str]]:
        rows: list[list[str]] = []
        if self._failure is not None:
            raise self._failure
        try:
            self._take_into(rows)
        except ValueError as ex:
            self._failure = ex
            if not rows:
                raise
        if not rows:
            self._ended = True
            raise StopIteration
        return self._shape.records(cast("list[str]", self._names), rows)

    def _take_into(self, rows: list[list[str]]) -> None:
        if self._names is None:
            first: list[list[str]] = []
            self._rows.take_into(first, 1)
            if not first:
                return
            self._names = first[0]
        self._rows.take_into(rows, self._batch_size)

    def caught_up(self) -> bool:
        """Whether the end of the file has been seen."""
        return self._ended

    def snapshot(self) -> int:
        return self._rows.offset()

    def close(self) -> None:
        self._reader.close()


def _read_names(path: Path, text_format: TextFormat, shape: _RowShape) -> list[str] | None:
    """The first row of a file that is to be read from somewhere in the middle."""
    reader = BlockReader(path, 0, text_format)
    rows: list[list[str]] = []
    try:
        _Rows(reader, shape).take_into(rows, 1)
    finally:
        reader.close()
    return rows[0] if rows else None
