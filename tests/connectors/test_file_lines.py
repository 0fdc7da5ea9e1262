"""`FileSource` and `DirSource` against Python's own text files, and on files they can't read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.connectors import StatefulSourcePartition
from engine.connectors.files import DirSource, FileSource, _blocks

LINE_PIECES = st.sampled_from(
    ["\n", "\r\n", "\r", "\n\n", "a", "bc", "é", "日本", "🐦", "\u2028", "\x0b"]
)
TEXTS = st.lists(LINE_PIECES, max_size=30).map("".join)
BYTES = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"\xc3\xa9", b"\xc3", b"\xff", b"\xe2\x82"]),
    max_size=20,
).map(b"".join)
BLOCK_SIZES = st.integers(1, 9)

Part: TypeAlias = StatefulSourcePartition[str, int]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that every example overwrites."""
    return tmp_path_factory.mktemp("lines") / "input.txt"


@contextmanager
def blocks_of(size: int) -> Iterator[None]:
    """Read in blocks that are small enough for their edges to matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "_BLOCK_BYTES", size)
        yield


@contextmanager
def opened(source: FileSource, state: int | None = None) -> Iterator[Part]:
    """The only partition of a source, closed in the end."""
    [key] = source.list_parts()
    part = source.build_part("flow.in", key, state)
    try:
        yield part
    finally:
        part.close()


def batches(part: Part) -> Iterator[list[str]]:
    """The batches up to the end."""
    while True:
        try:
            batch = part.next_batch()
        except StopIteration:
            return
        yield list(batch)


def lines(source: FileSource, state: int | None = None) -> list[str]:
    """All lines from a state on."""
    with opened(source, state) as part:
        return [line for batch in batches(part) for line in batch]


def python_lines(path: Path, encoding: str = "utf-8", errors: str = "strict") -> list[str]:
    with path.open(encoding=encoding, errors=errors) as file:
        return [line.removesuffix("\n") for line in file]


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 5), BLOCK_SIZES)
@example("a\r\nb", 1, 2)
@example("\r\r\n\r", 1, 1)
def test_reads_the_lines_that_python_reads(
    path: Path, text: str, batch_size: int, block_size: int
) -> None:
    """Whatever the line ends, blocks and batches, the lines are those of a text file."""
    path.write_bytes(text.encode())
    with blocks_of(block_size), opened(FileSource(path, batch_size)) as part:
        read = list(batches(part))
    assert [line for batch in read for line in batch] == python_lines(path)
    assert all(len(batch) == batch_size for batch in read[:-1])


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 3), BLOCK_SIZES)
def test_resumes_at_exact_offsets(path: Path, text: str, batch_size: int, block_size: int) -> None:
    """From each offset that was noted the remaining lines come, and no part of another."""
    path.write_bytes(text.encode())
    expected = python_lines(path)
    states, counts = [0], [0]
    with blocks_of(block_size), opened(FileSource(path, batch_size)) as part:
        for batch in batches(part):
            states.append(part.snapshot())
            counts.append(counts[-1] + len(batch))
        states.append(part.snapshot())
        counts.append(counts[-1])
        for state, count in zip(states, counts, strict=True):
            assert lines(FileSource(path), state) == expected[count:]
    assert states[-1] == len(text.encode())


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
def test_goes_on_where_a_file_has_grown(path: Path, first: str, second: str) -> None:
    """A second run reads what was appended; a late line end does not end the last line again."""
    path.write_bytes(first.encode())
    with opened(FileSource(path)) as part:
        read_first = [line for batch in batches(part) for line in batch]
        state = part.snapshot()
    path.write_bytes((first + second).encode())
    read_second = lines(FileSource(path), state)
    assert read_first + read_second == _lines_of_two_runs(path, first, second)


def _lines_of_two_runs(path: Path, first: str, second: str) -> list[str]:
    """What two runs should give: the lines of both, of which the last of the first is cut."""
    if first and not first.endswith(("\n", "\r")):
        for line_end in ("\r\n", "\n", "\r"):
            if second.startswith(line_end):
                second = second.removeprefix(line_end)
                break
    elif first.endswith("\r"):
        second = second.removeprefix("\n")
    result: list[str] = []
    for text in (first, second):
        path.write_bytes(text.encode())
        result += python_lines(path)
    return result


@settings(max_examples=100, deadline=None)
@example(b"\r\xc3\n", "ignore", 9)
@given(BYTES, st.sampled_from(["replace", "ignore", "backslashreplace"]), BLOCK_SIZES)
def test_lets_bad_bytes_pass_line_by_line(
    path: Path, data: bytes, errors: str, block_size: int
) -> None:
    """With a decode policy, each line becomes what Python decodes it to."""
    path.write_bytes(data)
    expected = [line.decode(errors=errors) for line in data.splitlines()]
    with blocks_of(block_size), opened(FileSource(path, 1, errors=errors)) as part:
        count = 0
        for batch in batches(part):
            assert batch == [expected[count]]
            count += 1
            assert lines(FileSource(path, errors=errors), part.snapshot()) == expected[count:]
    assert count == len(expected)


@settings(max_examples=100, deadline=None)
@given(BYTES.filter(lambda data: b"\xff" in data), st.integers(1, 4), BLOCK_SIZES)
def test_names_the_first_bad_byte(
    path: Path, data: bytes, batch_size: int, block_size: int
) -> None:
    """By default bad bytes end the run, after the lines before them, with file and offset."""
    path.write_bytes(data)
    with pytest.raises(UnicodeDecodeError) as python_error:
        data.decode()
    bad = python_error.value.start
    source, before = FileSource(path, batch_size), list[str]()
    with blocks_of(block_size), opened(source) as part:
        with pytest.raises(ValueError, match=f"byte offset {bad} ") as error:
            before.extend(line for batch in batches(part) for line in batch)
        with pytest.raises(ValueError, match=f"byte offset {bad} "):
            part.next_batch()
    assert str(path) in str(error.value)
    good = data[:bad]
    path.write_bytes(good[: max(good.rfind(b"\n"), good.rfind(b"\r")) + 1])
    assert before == python_lines(path)


def test_counts_a_byte_order_mark(path: Path) -> None:
    """The offset of a bad byte is that in the file, also behind a byte order mark."""
    path.write_bytes(b"\xef\xbb\xbfok\n\xff\n")
    with opened(FileSource(path, encoding="utf-8-sig")) as part:
        assert part.next_batch() == ["ok"]
        with pytest.raises(ValueError, match="byte 0xff at byte offset 6 "):
            part.next_batch()


def test_keeps_a_byte_order_mark_unless_told(path: Path) -> None:
    """Plain UTF-8 gives the mark as a character, "utf-8-sig" drops it, at the start only."""
    path.write_bytes("\ufeffa\n\ufeffb\n".encode())
    assert lines(FileSource(path)) == ["\ufeffa", "\ufeffb"]
    assert lines(FileSource(path, encoding="utf-8-sig")) == ["a", "\ufeffb"]
    with blocks_of(6):
        assert lines(FileSource(path, encoding="utf-8-sig")) == ["a", "\ufeffb"]
    path.write_bytes(b"\xef\xbb\xbfa\xff\nb")
    assert lines(FileSource(path, encoding="utf-8-sig", errors="ignore")) == ["a", "b"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "shift_jis", "utf_8"])
def test_reads_other_encodings(path: Path, encoding: str) -> None:
    """Any encoding with single-byte line ends is read as Python reads it."""
    text = "plain\r\nソ表\n\u00fc\nend"
    path.write_bytes(text.encode(encoding, "replace"))
    assert lines(FileSource(path, encoding=encoding)) == python_lines(path, encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037"])
def test_refuses_encodings_without_line_ends(path: Path, encoding: str) -> None:
    """An encoding that lines can't be found in is refused at once, with what to do."""
    with pytest.raises(ValueError, match=r"convert the file to UTF-8"):
        FileSource(path, encoding=encoding)


def test_refuses_what_python_does_not_know(path: Path) -> None:
    """Unknown encodings, policies and codecs that are not for text are refused at once."""
    with pytest.raises(LookupError, match="utf-9"):
        FileSource(path, encoding="utf-9")
    with pytest.raises(LookupError, match="shrug"):
        FileSource(path, errors="shrug")
    with pytest.raises(LookupError, match="rot-?13"):
        FileSource(path, encoding="rot13")


@pytest.mark.parametrize("batch_size", [0, -1])
def test_refuses_empty_batches(path: Path, batch_size: int) -> None:
    """A batch of no lines would never end."""
    with pytest.raises(ValueError, match="at least 1"):
        FileSource(path, batch_size)
    with pytest.raises(ValueError, match="at least 1"):
        DirSource(path, batch_size=batch_size)


def test_reads_a_line_larger_than_any_block(path: Path) -> None:
    """A line of a few megabytes comes in one piece, and its neighbours too."""
    long = "é" * 1_500_000
    path.write_text(f"before\n{long}\nafter\n", encoding="utf-8")
    with opened(FileSource(path, 2)) as part:
        assert part.next_batch() == ["before", long]
        assert lines(FileSource(path), part.snapshot()) == ["after"]


def test_names_partitions_by_file_system_and_path(path: Path) -> None:
    """The key is the file system's name and the path as it was given."""
    path.write_bytes(b"")
    assert FileSource(path, get_fs_id=lambda p: f"<{p.name}>").list_parts() == [
        f"<input.txt>::{path}"
    ]
    assert FileSource(str(path)).list_parts() == [f"{hex(path.stat().st_dev)}::{path}"]


def test_refuses_a_file_system_name_with_the_separator(path: Path) -> None:
    """A name with "::" in it could not be told from the path."""
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="must not contain `::`"):
        FileSource(path, get_fs_id=lambda _: "a::b").list_parts()


def test_refuses_a_partition_of_another_file(path: Path) -> None:
    """A key that isn't the file's own is refused, with the step."""
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="step flow.in reads the file"):
        FileSource(path).build_part("flow.in", "0x1::elsewhere", None)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is an error at the start that names the path."""
    missing = tmp_path / "missing.txt"
    with pytest.raises(FileNotFoundError, match="No such input file") as error:
        FileSource(missing).list_parts()
    assert error.value.filename == str(missing)


def test_file_that_vanishes_before_it_is_opened(tmp_path: Path) -> None:
    """A file that is gone when its partition is built is the same error."""
    (tmp_path / "a").write_bytes(b"")
    source = DirSource(tmp_path)
    [key] = source.list_parts()
    (tmp_path / "a").unlink()
    with pytest.raises(FileNotFoundError, match="No such input file"):
        source.build_part("flow.in", key, None)


def test_directory_in_place_of_a_file(tmp_path: Path) -> None:
    """A directory is an error that names the source for directories."""
    with pytest.raises(IsADirectoryError, match="DirSource reads the files of a directory"):
        FileSource(tmp_path).list_parts()


def test_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    """A named pipe, which nobody can rewind, is refused without waiting for a writer."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        FileSource(pipe).list_parts()


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is an error at the build, before any record."""
    path = tmp_path / "secret.txt"
    path.write_bytes(b"a\n")
    source = FileSource(path)
    [key] = source.list_parts()
    monkeypatch.setattr(_blocks, "FileIO", _refused)
    with pytest.raises(PermissionError, match="secret"):
        source.build_part("flow.in", key, None)


def _refused(path: Path) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_file_that_was_cut(tmp_path: Path) -> None:
    """A file that is shorter than what was read of it is an error with both figures."""
    path = tmp_path / "cut.txt"
    path.write_bytes(b"a\n")
    with pytest.raises(ValueError, match=r"cut.txt.* byte 5, but now the file has only 2 bytes"):
        lines(FileSource(path), 5)


def test_file_that_grows_after_its_end(path: Path) -> None:
    """The end of a file is for good in one run, whatever is appended then."""
    path.write_bytes(b"a\n")
    with opened(FileSource(path)) as part:
        assert list(batches(part)) == [["a"]]
        path.write_bytes(b"a\nb\n")
        assert list(batches(part)) == []
        assert lines(FileSource(path), part.snapshot()) == ["b"]


def test_small_files_are_not_held_open(tmp_path: Path) -> None:
    """More files than there are handles can be read side by side."""
    for number in range(50):
        (tmp_path / f"{number:02}").write_bytes(b"a\n")
    source = DirSource(tmp_path)
    lowest_free = _lowest_free_handle()
    parts = [source.build_part("flow.in", key, None) for key in source.list_parts()]
    assert [part.next_batch() for part in parts] == [["a"]] * 50
    assert _lowest_free_handle() == lowest_free


def _lowest_free_handle() -> int:
    handle = os.open(os.devnull, os.O_RDONLY)
    os.close(handle)
    return handle


def test_directory_parts(tmp_path: Path) -> None:
    """Files are found by pattern, in sorted order, named relative to the directory."""
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "c.csv", "sub/d.txt"):
        (tmp_path / name).write_text(name)
    parts = DirSource(tmp_path, "**/*.txt", get_fs_id=lambda _: "fs").list_parts()
    assert parts == ["fs::a.txt", "fs::b.txt", "fs::sub/d.txt"]
    assert DirSource(tmp_path, "*.nothing").list_parts() == []


def test_missing_directory(tmp_path: Path) -> None:
    """A missing directory, and a file in its place, are errors at the start."""
    with pytest.raises(FileNotFoundError, match="No such input directory"):
        DirSource(tmp_path / "missing").list_parts()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="FileSource reads a single file"):
        DirSource(tmp_path / "file").list_parts()
