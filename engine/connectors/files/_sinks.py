"""`FileSink` and `DirSink`: values as lines of one file, or of several.

What is written goes to the operating system at once and to the disk at `flush`, which an epoch
waits for. The state is the length of the file: going back to it and cutting off the rest makes the
output exactly-once without a marker. In place of fencing, the file is locked for as long as it is
written: an earlier run that is still alive, and could wake up and write after the cut, keeps the
next one from starting.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from errno import EACCES, EAGAIN, EISDIR, ENOENT
from io import FileIO
from pathlib import Path

from engine.connectors._sink import Delivery, FixedPartitionedSink, StatefulSinkPartition
from engine.errors import ConnectorError

_LOCK_WAIT_S = 10.0
# A process that was killed lets go of its files one by one, and its successor may start meanwhile.

_LOCK_QUESTION_INTERVAL_S = 0.05


class FileSink(FixedPartitionedSink[str, int]):
    r"""Writes values as lines of a text file, in UTF-8.

    Takes `(key, value)` records and writes the values, which must be `str`; the keys are not
    written. One partition, so one worker writes; its state is the length of the file in bytes.

    Exactly-once with recovery: what was written after the last durable epoch is cut off at a
    restart. A reader who looks in between may have seen it. A run that starts afresh overwrites the
    file. A record is in the file as soon as its batch is written, and on the disk when its epoch is
    durable. Only one process can write a file at a time.

    Args:
        path: File to write. Its directory must exist.
        end: What to write after each value.

    A path that can't be written, a file that became shorter than what was written, or one that
    another process is writing, is an error when the partition is built.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "out.txt")
    >>> sink = FileSink(path)
    >>> [part_key] = sink.list_parts()
    >>> part = sink.build_part("flow.out", part_key, None)
    >>> part.write_batch(["one", "two"])
    >>> part.snapshot(), path.read_text()
    (8, 'one\ntwo\n')
    >>> part.close()
    """

    delivery: Delivery = "exactly-once"

    def __init__(self, path: Path | str, end: str = "\n") -> None:
        self._path = Path(path)
        self._end = end

    def list_parts(self) -> list[str]:
        """Name the file."""
        return [str(self._path)]

    def part_fn(self, item_key: str) -> int:
        """Give 0: there is one partition."""
        del item_key
        return 0

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSinkPartition[str, int]:
        """Open the file and cut it to its length in the last durable epoch.

        `for_part` is its path, or the one that an earlier run wrote.
        """
        del step_id
        return _FilePartition(Path(for_part), resume_state or 0, self._end)


def _default_name(index: int, count: int) -> str:
    del count
    return f"part_{index}"


class DirSink(FixedPartitionedSink[str, int]):
    r"""Writes values as lines of several text files in a directory, chosen by key.

    Each file is one partition, written as by `FileSink`; values of one key go to one file, in
    order. More files let more workers write.

    Args:
        dir_path: Directory to write into. It must exist.
        file_count: How many files.
        file_namer: Gives the name of a file from its index, from 0, and the count. By default
            "part_0", "part_1" and so on.
        assign_file: Gives the index of the file for a key; the remainder by `file_count` is taken.
            Must give the same in every process and in later runs. By default Adler-32 of the key.
        end: What to write after each value.

    Raises:
        ValueError: `file_count` is below 1, or `file_namer` gives a name twice.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> sink = DirSink(folder, 2, file_namer=lambda i, n: f"{i}-of-{n}.txt", assign_file=len)
    >>> names = sorted(sink.list_parts())
    >>> name = names[sink.part_fn("odd") % len(names)]
    >>> part = sink.build_part("flow.out", name, None)
    >>> part.write_batch(["some value"])
    >>> part.close()
    >>> (folder / "1-of-2.txt").read_text()
    'some value\n'
    """

    delivery: Delivery = "exactly-once"

    def __init__(
        self,
        dir_path: Path | str,
        file_count: int,
        file_namer: Callable[[int, int], str] = _default_name,
        assign_file: Callable[[str], int] | None = None,
        end: str = "\n",
    ) -> None:
        if file_count < 1:
            msg = f"file_count must be at least 1; got {file_count!r}"
            raise ValueError(msg)
        self._dir_path = Path(dir_path)
        self._names = [file_namer(index, file_count) for index in range(file_count)]
        if len(set(self._names)) < file_count:
            msg = f"file_namer must give each file its own name; got {self._names!r}"
            raise ValueError(msg)
        # The engine counts partitions in sorted order, in which "part_10" is before "part_2".
        place = {name: place for place, name in enumerate(sorted(self._names))}
        self._place_of_file = [place[name] for name in self._names]
        self._assign_file = assign_file
        self._end = end

    def list_parts(self) -> list[str]:
        """Name the files."""
        return list(self._names)

    def part_fn(self, item_key: str) -> int:
        """Give the place of the key's file among the sorted names."""
        assign_file = self._assign_file or super().part_fn
        return self._place_of_file[assign_file(item_key) % len(self._names)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSinkPartition[str, int]:
        """Open one of the files and cut it to its length in the last durable epoch.

        `for_part` is its name, or one that an earlier run wrote.
        """
        del step_id
        return _FilePartition(self._dir_path / for_part, resume_state or 0, self._end)


class _FilePartition(StatefulSinkPartition[str, int]):
    """A file that is written at its end, and was cut to a known length at the build."""

    def __init__(self, path: Path, offset: int, end: str) -> None:
        self._path = path
        self._end = end
        self._file = _open_cut(path, offset)
        self._offset = offset
        # Who made the file may have died before its name was on the disk, so this is for each run.
        self._is_name_synced = False
        # The cut too has to reach the disk before the next epoch is durable.
        self._is_synced = False

    def write_batch(self, values: list[str]) -> None:
        if not values:
            return
        try:
            data = (self._end.join(values) + self._end).encode()
        except TypeError:
            self._refuse_other_types(values)
            raise
        except UnicodeEncodeError as ex:
            msg = f"{self._path}: a value can't be written as UTF-8 text: {ex}"
            raise ValueError(msg) from ex
        self._write(data)

    def _refuse_other_types(self, values: Sequence[object]) -> None:
        for value in values:
            if not isinstance(value, str):
                msg = (
                    f"{self._path}: values to write must be `str`; got {value!r:.80} of type "
                    f"`{type(value).__name__}`. Turn values into text before the output, for "
                    "example with op.map_value(..., str)"
                )
                raise TypeError(msg)

    def _write(self, data: bytes) -> None:
        self._is_synced = False
        rest = memoryview(data)
        try:
            while rest:
                # One call may write less than it is given. Counted as it goes, so that the
                # offset never says more than the file holds.
                count = self._file.write(rest) or 0
                self._offset += count
                rest = rest[count:]
        except OSError as ex:
            raise _about(ex, self._path) from ex

    def flush(self) -> None:
        """Bring what was written to the disk."""
        if self._is_synced:
            return
        try:
            os.fsync(self._file.fileno())
            if not self._is_name_synced:
                _sync_directory(self._path.parent)
                self._is_name_synced = True
        except OSError as ex:
            raise _about(ex, self._path) from ex
        self._is_synced = True

    def snapshot(self) -> int:
        # Nothing to do after the flush that comes first in an epoch. A state must not speak of
        # bytes that a power cut may still take away.
        self.flush()
        return self._offset

    def close(self) -> None:
        self._file.close()


def _open_cut(path: Path, length: int) -> FileIO:
    """Open a file for writing at its end, locked and cut to `length`.

    Raises:
        OSError: The path can't be written to.
        ValueError: The file is shorter than `length`.
        ConnectorError: Another process is writing it.
    """
    if path.is_dir():
        raise IsADirectoryError(EISDIR, "Is a directory; DirSink writes into one", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "No such output directory; make it first", str(path.parent))
    is_new = not path.exists()
    if not is_new and not path.is_file():
        msg = f"{path}: not a regular file, so it can't be cut back to where an earlier run was"
        raise OSError(msg)
    if is_new:
        _check_length(path, 0, length)
    file = FileIO(path, "a")
    try:
        _lock(file, path)
        _check_length(path, file.seek(0, os.SEEK_END), length)
        file.truncate(length)
    except BaseException:
        file.close()
        raise
    return file


def _check_length(path: Path, size: int, length: int) -> None:
    if size < length:
        msg = (
            f"{path}: the last durable epoch had written {length} bytes, but now the file has only "
            f"{size}; it was cut, replaced or removed. Put it back, or start afresh with another "
            "recovery folder"
        )
        raise ValueError(msg)


def _lock(file: FileIO, path: Path) -> None:
    """Lock a file against other processes, until it is closed or this process dies.

    Waits for a moment for one that is dying.

    Raises:
        ConnectorError: Another process has it.
    """
    give_up_at = time.monotonic() + _LOCK_WAIT_S
    while not _is_locked_now(file):
        if time.monotonic() >= give_up_at:
            msg = (
                f"{path}: another process is writing this file, perhaps an earlier run that is "
                "paused or hangs; end it first"
            )
            raise ConnectorError(msg)
        time.sleep(_LOCK_QUESTION_INTERVAL_S)


def _is_locked_now(file: FileIO) -> bool:
    try:
        # Unlike `flock` this works on network file systems too, and children that were forked off
        # while the file was open don't keep the lock. It is between processes only: this one may
        # open the file again, and gives the lock up if it then closes it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as ex:
        # Any other error means a file system without locks, on which no lock can be had.
        return ex.errno not in {EACCES, EAGAIN}
    return True


def _sync_directory(path: Path) -> None:
    """Make the name of a new file as durable as what is in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _about(ex: OSError, path: Path) -> OSError:
    """The same error with the path in it, which calls on an open file don't tell."""
    return OSError(ex.errno, ex.strerror, str(path))
