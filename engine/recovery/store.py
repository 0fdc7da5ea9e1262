"""The table on RocksDB: the only module that knows rocksdict.

RocksDB's own write-ahead log is off, because ours (`_log`) is written before: what a crash loses of
the table is applied again from there. All rows are in one column family, so that one flush makes
rows durable together with the row that says how far the table has come.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import rocksdict

from engine.errors import CorruptStoreError, StoreError, StoreInUseError, StoreWriteError
from engine.recovery._table import Row, Table, Tables

__all__ = ["RocksTable", "RocksTables"]

_BLOCK_CACHE_BYTES = 32 << 20
_WRITE_BUFFER_BYTES = 32 << 20
_BLOOM_BITS_PER_KEY = 10
_LOG_FILES_KEPT = 2
_LEVELS = 7
_REFUSALS = (
    *("No space left", "Permission denied", "Read-only file system", "Disk quota exceeded"),
    *("Input/output error", "Too many open files"),
)
"""What RocksDB's errors say if the table isn't to blame."""


class RocksTables(Tables):
    """Makes and opens tables on RocksDB.

    Args:
        cache_bytes: For blocks of rows read lately, shared by all tables that this object opens.
        write_buffer_bytes: What a table holds in memory before it writes a file of its own accord.
    """

    def __init__(
        self,
        cache_bytes: int = _BLOCK_CACHE_BYTES,
        write_buffer_bytes: int = _WRITE_BUFFER_BYTES,
    ) -> None:
        self._cache = rocksdict.Cache(cache_bytes)
        self._write_buffer_bytes = write_buffer_bytes

    def create(self, folder: Path) -> Table:
        """As in `Tables`."""
        options = self._options()
        options.create_if_missing(True)  # noqa: FBT003 - rocksdict takes it by position only
        options.set_error_if_exists(True)
        with _translated(folder):
            database = rocksdict.Rdict(str(folder), options)
        folder.chmod(0o700)
        return RocksTable(folder, database)

    def open(self, folder: Path, *, read_only: bool = False) -> Table:
        """As in `Tables`."""
        options = self._options()
        # RocksDB would take a damaged folder for a new one.
        options.create_if_missing(False)  # noqa: FBT003 - rocksdict takes it by position only
        access = rocksdict.AccessType.read_write()
        if read_only:
            access = rocksdict.AccessType.read_only(error_if_log_file_exist=False)
        with _translated(folder):
            _forget_options(folder)
            database = rocksdict.Rdict(str(folder), options, access_type=access)
        return RocksTable(folder, database)

    def _options(self) -> rocksdict.Options:
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)  # noqa: FBT003 - by position only
        # Raw mode keeps rocksdict from unpickling whatever it finds in a value.
        options = rocksdict.Options(raw_mode=True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_size(self._write_buffer_bytes)
        # What was written lately is read most, and soon written again.
        lz4 = rocksdict.DBCompressionType.lz4()
        options.set_compression_per_level(
            [rocksdict.DBCompressionType.none()] * 2 + [lz4] * (_LEVELS - 2)
        )
        options.set_paranoid_checks(True)
        # One thread writes, so that the table need not guard against several.
        options.set_allow_concurrent_memtable_write(False)
        options.set_keep_log_file_num(_LOG_FILES_KEPT)
        return options


class RocksTable(Table):
    """An open table on RocksDB."""

    def __init__(self, folder: Path, database: rocksdict.Rdict) -> None:
        self._folder = folder
        self._database = database
        self._unlogged = rocksdict.WriteOptions()
        # An attribute, whatever rocksdict's stub says.
        untyped: Any = self._unlogged
        untyped.disable_wal = True
        self._flush: _Flush | None = None

    def get(self, key: bytes) -> bytes | None:
        """As in `Table`."""
        try:
            return cast("bytes | None", self._database.get(key))
        except Exception as ex:
            # rocksdict raises nothing more special.
            raise _translation(self._folder, ex) from ex

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """As in `Table`."""
        try:
            return cast("list[bytes | None]", self._database.get(list(keys)))
        except Exception as ex:
            # As above.
            raise _translation(self._folder, ex) from ex

    def scan(self, start: bytes, stop: bytes) -> Iterator[Row]:
        """As in `Table`."""
        # As raw bytes, whatever rocksdict's stub says.
        items = cast("Iterator[Row]", self._database.items(from_key=start))
        return self._rows(items, start, stop)

    def _rows(self, items: Iterator[Row], start: bytes, stop: bytes) -> Iterator[Row]:
        last = None
        for key, value in items:
            if key >= stop:
                return
            yield key, value
            last = key
        # `items` just ends where it can't read on; only a slower iterator tells why it does.
        iterator = self._database.iter()
        iterator.seek(start if last is None else last)
        if last is not None and iterator.valid():
            iterator.next()
        with _translated(self._folder):
            iterator.status()

    def estimated_rows(self) -> int:
        """As in `Table`."""
        return self._database.property_int_value("rocksdb.estimate-num-keys") or 0

    def write(self, puts: Sequence[Row], deletes: Sequence[bytes]) -> None:
        """As in `Table`."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in puts:
            put(key, value)
        for key in deletes:
            delete(key)
        with _translated(self._folder, "write to the table"):
            self._database.write(batch, self._unlogged)

    def delete_range(self, start: bytes, stop: bytes) -> None:
        """As in `Table`."""
        with _translated(self._folder, "delete from the table"):
            self._database.delete_range(start, stop, self._unlogged)

    def flush(self) -> None:
        """As in `Table`."""
        self._await_flush()
        with _translated(self._folder, "write the table's files"):
            self._database.flush(wait=True)

    def begin_flush(self) -> None:
        """As in `Table`. In a thread: RocksDB lets go of the interpreter meanwhile."""
        self._await_flush()
        self._flush = _Flush(self._database)
        self._flush.start()

    def flush_done(self) -> bool:
        """As in `Table`."""
        if self._flush is not None and self._flush.is_alive():
            return False
        self._await_flush()
        return True

    def _await_flush(self) -> None:
        flush, self._flush = self._flush, None
        if flush is None:
            return
        flush.join()
        if flush.error is not None:
            with _translated(self._folder, "write the table's files"):
                raise flush.error

    def checkpoint(self, folder: Path) -> None:
        """As in `Table`."""
        # With the rows still in memory RocksDB would flush them itself, and hold all threads.
        self.flush()
        with _translated(self._folder, f"link the table's files to {folder}"):
            rocksdict.Checkpoint(self._database).create_checkpoint(str(folder))

    def close(self) -> None:
        """As in `Table`."""
        flush, self._flush = self._flush, None
        if flush is not None:
            flush.join()
        with _translated(self._folder, "close the table"):
            self._database.close()


def _forget_options(folder: Path) -> None:
    """Delete the files in which RocksDB notes its options.

    We give all options at each open, and RocksDB writes such a file anew; but a damaged one that
    it finds ends the process with a segmentation fault (rocksdict 0.3.29).
    """
    for path in folder.glob("OPTIONS-*"):
        path.unlink()


class _Flush(threading.Thread):
    """A flush under way."""

    def __init__(self, database: rocksdict.Rdict) -> None:
        super().__init__(name="engine-table-flush", daemon=True)
        self.error: Exception | None = None
        self._database = database

    def run(self) -> None:
        try:
            self._database.flush(wait=True)
        except Exception as ex:  # noqa: BLE001 - rocksdict raises nothing more special; told later
            self.error = ex


@contextmanager
def _translated(folder: Path, doing: str = "") -> Generator[None, None, None]:
    """Raise in our own terms what RocksDB found."""
    try:
        yield
    except (CorruptStoreError, StoreInUseError, StoreWriteError):
        raise
    except Exception as ex:
        # rocksdict raises nothing more special.
        raise _translation(folder, ex, doing) from ex


def _translation(folder: Path, ex: Exception, doing: str = "") -> StoreError:
    """Say in our own terms what RocksDB found, which tells by its text alone.

    Args:
        folder: The table's.
        ex: What rocksdict raised.
        doing: What was to be written, if anything.
    """
    text = str(ex)
    if "lock hold by current process" in text or "While lock file" in text:
        msg = f"{folder}: another process has this store open; stop it first"
        return StoreInUseError(msg)
    refused = any(reason in text for reason in _REFUSALS)
    if refused or (doing and not text.startswith("Corruption")):
        doing = doing or "open or read the table"
        msg = f"could not {doing}: {text}; the last durable epoch is intact"
        return StoreWriteError(folder, msg)
    return CorruptStoreError(folder, f"the table is damaged: {text}")
