"""Reading a text file in large blocks of whole lines, with exact byte offsets.

One read, one decoding and one splitting per block of some thousand lines is what makes the file
sources as fast as Python's own line loop. `FileSource`, `DirSource` and `CSVSource` read through
`BlockReader`; each splits the text of a block in its own way.

A line ends in LF, CR or CRLF, as in Python's universal newlines. Only the bytes are searched for
line ends, so the encoding must be one in which these are single bytes that mean nothing else.
"""

from __future__ import annotations

import codecs
import os
import stat
from errno import EISDIR, ENOENT
from io import FileIO, StringIO
from itertools import accumulate
from pathlib import Path

_BLOCK_BYTES = 64 * 1024
# Larger blocks are slower: their lines don't fit in the processor's cache any more.

_LINE_ENDS = (b"\n", b"\r")


class TextFormat:
    """How bytes become text: an encoding, and what to do with bytes that are not in it.

    Raises:
        LookupError: Python knows no such encoding or error handler.
        ValueError: Lines can't be found in this encoding before decoding it (UTF-16, UTF-32).
    """

    __slots__ = ("encoding", "errors", "first_encoding")

    def __init__(self, encoding: str, errors: str) -> None:
        codecs.lookup_error(errors)
        name = codecs.lookup(encoding).name
        self.errors = errors
        self.first_encoding = name
        # Only the start of a file has a byte order mark; later it would be a character.
        self.encoding = "utf-8" if name == "utf-8-sig" else name
        if "\n\r".encode(self.encoding) != b"\n\r":
            msg = (
                f"the encoding {encoding!r} does not write line ends as single bytes, so a file "
                "can't be cut into lines before it is decoded; convert the file to UTF-8"
            )
            raise ValueError(msg)


class Block:
    """Some whole lines of a file.

    Args:
        start: Offset in the file.
        raw: The bytes.
        text: `raw` decoded, if all of it can be; None to decode line by line as `text_format` says.
        text_format: How to decode.
    """

    __slots__ = ("_ends", "_format", "_raw", "_start", "_text")

    def __init__(self, start: int, raw: bytes, text: str | None, text_format: TextFormat) -> None:
        self._start = start
        self._raw = raw
        self._text = text
        self._format = text_format
        self._ends: list[int] | None = None

    def lines(self) -> list[str]:
        """The lines without their line ends."""
        text = self._text
        if text is None:
            return self._decoded(self._body().splitlines())
        # Not `str.splitlines`, which knows more line ends than a text file does.
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        return lines

    def lines_with_ends(self) -> list[str]:
        """The lines with the line ends that they have in the file."""
        if self._text is None:
            return self._decoded(self._body().splitlines(keepends=True))
        return StringIO(self._text, newline="").readlines()

    def _decoded(self, lines: list[bytes]) -> list[str]:
        # Where bytes are dropped, CR and LF may come together in the text that were two line ends
        # in the file. Cut before decoding, the lines are those that the offsets count.
        encoding, errors = self._format.encoding, self._format.errors
        return [line.decode(encoding, errors) for line in lines]

    def _body(self) -> bytes:
        is_marked = self._start == 0 and self._format.encoding != self._format.first_encoding
        return self._raw.removeprefix(codecs.BOM_UTF8) if is_marked else self._raw

    def offset_after(self, lines: int) -> int:
        """The offset in the file after the first `lines` lines of this block."""
        if lines == 0:
            return self._start
        if self._ends is None:
            # Found only when somebody asks, once per epoch: most blocks never pay for it.
            sizes = map(len, self._raw.splitlines(keepends=True))
            self._ends = list(accumulate(sizes, initial=self._start))
        return self._ends[lines]


class BlockReader:
    """Reads blocks of a file one after the other, from an offset at which a line starts.

    The file is open only from the first read until its end is reached, so that a folder of
    thousands of small files doesn't need as many file handles.

    Args:
        path: A regular file.
        offset: Where to start: 0, or where an earlier reader had come to.
        text_format: How to decode.

    Raises:
        OSError: The file is missing, not readable or not a regular file.
        ValueError: The file is now shorter than `offset`.
    """

    def __init__(self, path: Path, offset: int, text_format: TextFormat) -> None:
        check_is_file(path)
        self.path = path
        self._format = text_format
        self._offset = _start_offset(path, offset)
        self._carry = b""
        self._file: FileIO | None = None
        self._ended = False
        self._failure: ValueError | None = None

    def empty_block(self) -> Block:
        """A block of no lines, where the next one starts."""
        return Block(self._offset, b"", "", self._format)

    def next_block(self) -> Block | None:
        """Give the next block; None at the end of the file, and from then on.

        Raises:
            ValueError: The next line is not text in the encoding. The lines before it have been
                given. Later calls raise it again.
        """
        if self._failure is not None:
            raise self._failure
        start = self._offset
        raw = self._read_lines()
        if not raw:
            return None
        self._offset += len(raw)
        try:
            return Block(start, raw, self._decode(start, raw), self._format)
        except UnicodeDecodeError as ex:
            if self._format.errors == "strict":
                return self._before_bad_line(start, raw, ex)
            return Block(start, raw, None, self._format)

    def _decode(self, start: int, raw: bytes) -> str:
        return raw.decode(self._format.encoding if start else self._format.first_encoding)

    def _before_bad_line(self, start: int, raw: bytes, ex: UnicodeDecodeError) -> Block:
        # A decoder that drops a byte order mark counts without it.
        bad = len(raw) - len(ex.object) + ex.start
        msg = (
            f"{self.path}: not {self._format.first_encoding} text: byte 0x{raw[bad]:02x} at byte "
            f"offset {start + bad} ({ex.reason}); name the file's real encoding with encoding=..., "
            "or let bad bytes pass with errors='replace' or errors='ignore'"
        )
        self._failure = ValueError(msg)
        self.close()
        good = raw[: max(raw.rfind(end, 0, bad) for end in _LINE_ENDS) + 1]
        if not good:
            raise self._failure from ex
        return Block(start, good, self._decode(start, good), self._format)

    def _read_lines(self) -> bytes:
        """The next bytes up to a line end; at the end of the file what is left, or nothing."""
        data = self._carry
        while not self._ended:
            # Each read is as long as what is there, so that a very long line costs linear time.
            more = self._open_file().read(max(_BLOCK_BYTES, len(data)))
            if not more:
                self._ended = True
                self.close()
                break
            data = data + more if data else more
            cut = _after_last_line(data)
            if cut:
                self._carry = data[cut:]
                return data[:cut]
        self._carry = b""
        return data

    def _open_file(self) -> FileIO:
        if self._file is None:
            self._file = FileIO(self.path)
            self._file.seek(self._offset)
        return self._file

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def check_is_file(path: Path) -> None:
    """Check that `path` is a file that can be read from any offset.

    Raises:
        OSError: It is not; the message says what to do.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        why = "No such input file (a relative path starts where the run was started)"
        raise FileNotFoundError(ENOENT, why, str(path)) from None
    if stat.S_ISDIR(mode):
        why = "Is a directory; DirSource reads the files of a directory"
        raise IsADirectoryError(EISDIR, why, str(path))
    if not stat.S_ISREG(mode):
        msg = f"{path}: not a regular file, so it can't be read again from a position"
        raise OSError(msg)


def _start_offset(path: Path, offset: int) -> int:
    """Check `offset` against the file, and pass over a line end that came after it was noted."""
    # Opened for a fresh start too, so that a file without permission fails at the build.
    with FileIO(path) as file:
        size = file.seek(0, os.SEEK_END)
        if offset > size:
            msg = (
                f"{path}: the last run had read up to byte {offset}, but now the file has only "
                f"{size} bytes; it was cut or replaced. Put the old file back, or start afresh "
                "with another recovery folder"
            )
            raise ValueError(msg)
        if offset == 0:
            return 0
        file.seek(offset - 1)
        return offset + _dangling_line_end(file.read(3))


def _dangling_line_end(around: bytes) -> int:
    """How many bytes to pass over so that a line which has been read is not ended again.

    The last line of a file may lack its line end when it is read, and get it before the next run.

    Args:
        around: The byte before the offset and up to two after it.
    """
    before, after = around[:1], around[1:]
    if before == b"\n":
        return 0
    if before == b"\r":
        return 1 if after[:1] == b"\n" else 0
    if after == b"\r\n":
        return 2
    return 1 if after[:1] in _LINE_ENDS else 0


def _after_last_line(data: bytes) -> int:
    """The end of the last line that is complete; 0 if none is. CRLF is never cut in two."""
    cut = data.rfind(b"\n") + 1
    if b"\r" in data:
        # A CR at the very end may be the first half of a CRLF.
        cut = max(cut, data.rfind(b"\r", 0, -1) + 1)
    return cut
