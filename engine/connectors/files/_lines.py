"""`FileSource` and `DirSource`: the lines of one file, and of the files in a directory."""

from __future__ import annotations

from errno import ENOENT, ENOTDIR
from pathlib import Path

from engine.connectors._source import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files._blocks import BlockReader, TextFormat, check_is_file
from engine.connectors.files._paths import GetFsId, device_of, part_key, path_in_key


class FileSource(FixedPartitionedSource[str, int]):
    r"""Reads a text file line by line, without the line ends, and ends with the file.

    One partition; its state is the byte offset of the next line. A line ends in LF, CRLF or CR; a
    last line needs no line end. Lines that are appended later are read by the next run with the
    same recovery store, which is why a line should be appended together with its end.

    Args:
        path: File to read. The partition is named by the path as it is given here.
        batch_size: Lines per batch.
        get_fs_id: Names the file system that the file is on, for runs on several hosts: those that
            see the same file must give the same name. By default the device number.
        encoding: Encoding of the file, one in which line ends are single bytes: UTF-8, ASCII, the
            ISO and Windows ones, but not UTF-16. "utf-8-sig" drops a byte order mark, which
            "utf-8" gives as the character U+FEFF of the first line.
        errors: What to do about bytes that are not in the encoding, a name that `bytes.decode`
            knows. "strict" ends the run with an error that names the file and the byte, after the
            lines before it.

    Raises:
        ValueError: `batch_size` is below 1, or the encoding is UTF-16 or the like.
        LookupError: There is no such `encoding` or `errors`.

    A missing or unreadable file, or one that became shorter than what was read of it, is an error
    at the start of the run.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "poem.txt")
    >>> _ = path.write_text("So much depends\nupon\n")
    >>> source = FileSource(path)
    >>> [part_key] = source.list_parts()
    >>> part = source.build_part("flow.in", part_key, None)
    >>> part.next_batch(), part.snapshot()
    (['So much depends', 'upon'], 21)
    """

    def __init__(
        self,
        path: Path | str,
        batch_size: int = 1000,
        get_fs_id: GetFsId = device_of,
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        self._path = Path(path)
        self._batch_size = checked_batch_size(batch_size)
        self._get_fs_id = get_fs_id
        self._format = TextFormat(encoding, errors)

    def list_parts(self) -> list[str]:
        """Name the file's partition."""
        return [file_part_key(self._path, self._get_fs_id)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSourcePartition[str, int]:
        """Open the file at an offset."""
        check_is_part_of(self._path, step_id, for_part)
        return _LinesPartition(self._path, resume_state or 0, self._batch_size, self._format)


class DirSource(FixedPartitionedSource[str, int]):
    r"""Reads the text files of a directory line by line, and ends with the last of them.

    One partition per file, read side by side, each as by `FileSource`. The files are looked up at
    the start of a run; one that appears later is read by the next run.

    Args:
        dir_path: Directory to read.
        glob_pat: Which files, as in `pathlib.Path.glob`; "**/*" goes into subdirectories.
        batch_size: Lines per batch.
        get_fs_id: As in `FileSource`. It is given the directory.
        encoding: As in `FileSource`.
        errors: As in `FileSource`.

    Raises:
        ValueError: `batch_size` is below 1, or the encoding is UTF-16 or the like.
        LookupError: There is no such `encoding` or `errors`.

    A missing directory is an error at the start of the run; an empty one is not.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.log").write_text("one\n")
    >>> _ = (folder / "b.log").write_text("two\nthree\n")
    >>> source = DirSource(folder, "*.log", get_fs_id=lambda _folder: "shared")
    >>> source.list_parts()
    ['shared::a.log', 'shared::b.log']
    >>> source.build_part("flow.in", "shared::b.log", None).next_batch()
    ['two', 'three']
    """

    def __init__(
        self,
        dir_path: Path | str,
        glob_pat: str = "*",
        batch_size: int = 1000,
        get_fs_id: GetFsId = device_of,
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        self._dir_path = Path(dir_path)
        self._glob_pat = glob_pat
        self._batch_size = checked_batch_size(batch_size)
        self._get_fs_id = get_fs_id
        self._format = TextFormat(encoding, errors)

    def list_parts(self) -> list[str]:
        """Name a partition for each file there is now."""
        folder = self._dir_path
        if not folder.exists():
            why = "No such input directory (a relative path starts where the run was started)"
            raise FileNotFoundError(ENOENT, why, str(folder))
        if not folder.is_dir():
            why = "Is not a directory; FileSource reads a single file"
            raise NotADirectoryError(ENOTDIR, why, str(folder))
        fs_id = self._get_fs_id(folder)
        files = sorted(path for path in folder.glob(self._glob_pat) if path.is_file())
        return [part_key(fs_id, str(path.relative_to(folder))) for path in files]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSourcePartition[str, int]:
        """Open one of the files at an offset."""
        del step_id  # The error of a missing file names the file, and the runtime the step.
        path = self._dir_path / path_in_key(for_part)
        return _LinesPartition(path, resume_state or 0, self._batch_size, self._format)


class _LinesPartition(StatefulSourcePartition[str, int]):
    """The lines of one file, `batch_size` at a time."""

    def __init__(self, path: Path, offset: int, batch_size: int, text_format: TextFormat) -> None:
        self._reader = BlockReader(path, offset, text_format)
        self._batch_size = batch_size
        self._block = self._reader.empty_block()
        self._lines: list[str] = []
        self._taken = 0
        self._ended = False

    def next_batch(self) -> list[str]:
        batch = self._take(self._batch_size)
        while len(batch) < self._batch_size and self._next_block(has_lines=bool(batch)):
            batch += self._take(self._batch_size - len(batch))
        if not batch:
            raise StopIteration
        return batch

    def _take(self, count: int) -> list[str]:
        lines = self._lines[self._taken : self._taken + count]
        self._taken += len(lines)
        return lines

    def _next_block(self, *, has_lines: bool) -> bool:
        """Go on to the next block; False at the end of the file, or if it fails with lines left."""
        try:
            block = self._reader.next_block()
        except ValueError:
            # The reader fails again in the next call: the lines before the bad one go out first.
            if has_lines:
                return False
            raise
        if block is None:
            self._ended = True
            return False
        self._block = block
        self._lines = block.lines()
        self._taken = 0
        return True

    def caught_up(self) -> bool:
        """Whether the end of the file has been seen."""
        return self._ended

    def snapshot(self) -> int:
        return self._block.offset_after(self._taken)

    def close(self) -> None:
        self._reader.close()


def checked_batch_size(batch_size: int) -> int:
    """Give `batch_size` back.

    Raises:
        ValueError: It is below 1.
    """
    if batch_size < 1:
        msg = f"batch_size must be at least 1; got {batch_size!r}"
        raise ValueError(msg)
    return batch_size


def file_part_key(path: Path, get_fs_id: GetFsId) -> str:
    """The partition key of a file that must exist."""
    check_is_file(path)
    return part_key(get_fs_id(path), str(path))


def check_is_part_of(path: Path, step_id: str, for_part: str) -> None:
    """Check that a partition key is that of `path`.

    Raises:
        ValueError: It is that of another file.
    """
    if path_in_key(for_part) != str(path):
        msg = f"step {step_id} reads the file {path}, not the partition {for_part!r}"
        raise ValueError(msg)
