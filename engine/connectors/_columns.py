"""Records as the values of a table's columns, and these as bytes that can be kept: for SQL sinks.

`engine.connectors.sqlite` writes through it.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeAlias, cast

from engine.errors import ConnectorError

Value: TypeAlias = int | float | str | bytes | None
"""What SQLite can store."""


class Columns:
    """Turns records into the values of the columns, and these into bytes and back.

    As bytes they are JSON, in which numbers and text stay what they are.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._encode = json.JSONEncoder(default=_bytes_to_json).encode
        self._decode = json.JSONDecoder(object_hook=_bytes_from_json).decode
        self.header = self._encode(names).encode()

    def encoded(self, record: Any) -> bytes:
        """Give the values of a record as bytes; raises what `values` does."""
        return self._encode(self.values(record)).encode()

    def decoded(self, rows: list[bytes]) -> Iterator[list[Value]]:
        """Give the values back, of rows that begin with the header.

        Raises:
            ConnectorError: They are those of other columns.
        """
        if rows and rows[0] != self.header:
            msg = (
                f"the last run kept rows with the columns {rows[0].decode()}; they are now "
                f"{self.header.decode()}. Set them back for one run, so that these get written"
            )
            raise ConnectorError(msg)
        return (self._decode(row.decode()) for row in rows[1:])

    def values(self, record: Any) -> list[Value]:
        """Give the values of a record in the order of the columns.

        Raises:
            TypeError: The record, or a value, is of a type that has no place in a table.
            ValueError: A column is missing, or a value is beyond what SQLite can store.
        """
        values = self._picked(record)
        for name, value in zip(self._names, values, strict=True):
            _check(name, value)
        return values

    def _picked(self, record: Any) -> list[Any]:
        if isinstance(record, tuple | list):
            values = list(cast("Sequence[Any]", record))
            if len(values) != len(self._names):
                msg = f"got {len(values)} values for the columns {self._names}: {record!r:.200}"
                raise ValueError(msg)
            return values
        try:
            if isinstance(record, Mapping):
                return [record[name] for name in self._names]
            if is_dataclass(record):
                return [getattr(record, name) for name in self._names]
        except (KeyError, AttributeError) as ex:
            msg = f"no value for each of the columns {self._names} in {record!r:.200}"
            raise ValueError(msg) from ex
        msg = (
            "records to write must be mappings, dataclasses, tuples or lists; got "
            f"{record!r:.200} of type `{type(record).__name__}`"
        )
        raise TypeError(msg)


def _check(column: str, value: object) -> None:
    if value is None or isinstance(value, float | bytes):
        return
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            msg = f"column {column!r}: {value} does not fit in 64 bits"
            raise ValueError(msg)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as ex:
            msg = f"column {column!r}: {value!r:.80} can't be written as UTF-8 text: {ex}"
            raise ValueError(msg) from ex
    else:
        msg = (
            f"column {column!r}: SQLite stores int, float, str, bytes and None; got {value!r:.80} "
            f"of type `{type(value).__name__}`. Turn it into one of these before the output, for "
            "example with op.map"
        )
        raise TypeError(msg)


def _bytes_to_json(value: bytes) -> dict[str, str]:
    return {"base64": b64encode(value).decode()}


def _bytes_from_json(value: dict[str, str]) -> bytes:
    return b64decode(value["base64"])
