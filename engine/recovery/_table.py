"""The table as a port: an ordered map of bytes to bytes that is durable in steps, not by record.

What is written becomes durable with a flush, all writes up to it or, after a crash, any earlier
prefix of them; the log (`_log`) brings back the rest. `RocksTable` in `store` is the real one,
`MemoryTable` in `_fakes` the simulator's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

Row: TypeAlias = tuple[bytes, bytes]
"""A row's key and value."""


class Table(Protocol):
    """An open table. Used by one thread. Damage is reported as `CorruptStoreError`."""

    def get(self, key: bytes) -> bytes | None:
        """The value of one key; None if there is no row."""
        ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of keys, in their order; None where there is no row."""
        ...

    def scan(self, start: bytes, stop: bytes) -> Iterator[Row]:
        """Rows with ``start <= key < stop`` in order of their keys, as they are at the call.

        Ends with an error, never early, if a row can't be read.
        """
        ...

    def estimated_rows(self) -> int:
        """About how many rows there are, without reading them."""
        ...

    def write(self, puts: Sequence[Row], deletes: Sequence[bytes]) -> None:
        """Put and delete rows, all of them or none; no key may be in both."""
        ...

    def delete_range(self, start: bytes, stop: bytes) -> None:
        """Delete all rows with ``start <= key < stop``."""
        ...

    def flush(self) -> None:
        """Make all that was written durable."""
        ...

    def begin_flush(self) -> None:
        """Begin to make durable what was written up to now, in the background."""
        ...

    def flush_done(self) -> bool:
        """Whether the flush begun last is done; raises what went wrong with it."""
        ...

    def checkpoint(self, folder: Path) -> None:
        """Make a copy of the table, as it is now, in a folder that isn't there yet."""
        ...

    def close(self) -> None:
        """Let go of the table."""
        ...


class Tables(Protocol):
    """Makes and opens tables, each in a folder of its own."""

    def create(self, folder: Path) -> Table:
        """Make an empty table in a folder that isn't there yet."""
        ...

    def open(self, folder: Path, *, read_only: bool = False) -> Table:
        """Open a table that is there; if only to read it, no file is changed.

        Raises:
            CorruptStoreError: It is damaged.
            StoreInUseError: Another process has it open.
        """
        ...
