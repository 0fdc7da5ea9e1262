"""`FileSink` and `DirSink`: bytes on the disk, before and after crashes, and paths they refuse."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.connectors import StatefulSinkPartition
from engine.connectors.files import DirSink, FileSink, _sinks
from engine.errors import ConnectorError

BATCHES = st.lists(st.lists(st.text("aé\u2028🐦 ", max_size=4), min_size=1, max_size=3), max_size=5)

Part: TypeAlias = StatefulSinkPartition[str, int]


@contextmanager
def opened(sink: FileSink, state: int | None = None) -> Iterator[Part]:
    """The only partition of a sink, closed in the end."""
    [key] = sink.list_parts()
    part = sink.build_part("flow.out", key, state)
    try:
        yield part
    finally:
        part.close()


@settings(max_examples=60, deadline=None)
@given(BATCHES, BATCHES, BATCHES, st.binary(max_size=4), st.sampled_from(["\n", "\r\n", "", "é"]))
def test_cuts_off_what_was_not_durable(
    tmp_path_factory: pytest.TempPathFactory,
    kept: list[list[str]],
    lost: list[list[str]],
    later: list[list[str]],
    torn: bytes,
    end: str,
) -> None:
    """After a crash, with half a write at the end, the bytes are those of a run without one."""
    path = tmp_path_factory.mktemp("sink") / "out"
    with opened(FileSink(path, end)) as part:
        for batch in kept:
            part.write_batch(batch)
        state = part.snapshot()
        for batch in lost:
            part.write_batch(batch)
    with path.open("ab") as file:
        file.write(torn)
    with opened(FileSink(path, end), state) as part:
        assert part.snapshot() == state
        for batch in later:
            part.write_batch(batch)
        assert part.snapshot() == path.stat().st_size
    expected = "".join(value + end for batch in kept + later for value in batch)
    assert path.read_bytes() == expected.encode()


def test_is_visible_at_once(tmp_path: Path) -> None:
    """A batch is in the file when `write_batch` returns."""
    path = tmp_path / "out"
    with opened(FileSink(path)) as part:
        part.write_batch(["a", "ä"])
        assert path.read_bytes() == b"a\n\xc3\xa4\n"


def test_overwrites_at_a_fresh_start(tmp_path: Path) -> None:
    """Without a state, what an earlier run left is not part of the output."""
    path = tmp_path / "out"
    path.write_text("old, and longer than the new")
    with opened(FileSink(path)) as part:
        part.write_batch(["new"])
    assert path.read_text() == "new\n"


def test_what_never_was_in_a_durable_epoch_is_gone_before_the_first_record(tmp_path: Path) -> None:
    """A part that gets no record this time must not keep those of a run that never committed."""
    sink = DirSink(tmp_path, 2)
    for name in sink.list_parts():
        with closing(sink.build_part("flow.out", name, None)) as part:
            part.write_batch(["not durable"])
    for name, state in {"part_0": None, "part_1": 4}.items():
        sink.build_part("flow.out", name, state).close()
    assert [(tmp_path / name).read_text() for name in ("part_0", "part_1")] == ["", "not "]


class _Disk:
    """Counts what is brought to the disk: files and directories."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def fsync(self, handle: int) -> None:
        self.synced.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> _Disk:
    """A disk that only counts."""
    disk = _Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    return disk


def test_syncs_once_per_epoch(tmp_path: Path, disk: _Disk) -> None:
    """Batches don't wait for the disk; a flush does, and a new file's name is made durable too."""
    with opened(FileSink(tmp_path / "out")) as part:
        part.write_batch(["a"])
        part.write_batch(["b"])
        assert disk.synced == []
        part.flush()
        part.snapshot()
        assert disk.synced == ["file", "directory"]
        part.flush()
        assert disk.synced == ["file", "directory"]
        part.write_batch(["c"])
        part.snapshot()
        assert disk.synced == ["file", "directory", "file"]


def test_syncs_a_cut(tmp_path: Path, disk: _Disk) -> None:
    """A file that was only cut has to reach the disk before the next epoch is durable too.

    So has its name: the run that made the file may have died before it synced the directory.
    """
    path = tmp_path / "out"
    path.write_bytes(b"a\nb\n")
    with opened(FileSink(path), 2) as part:
        part.flush()
    assert disk.synced == ["file", "directory"]


class _FakeTime:
    """A clock for the wait for a lock, on which something happens at a time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events: dict[float, Callable[[], object]] = {}

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        for time_s in [time_s for time_s in self.events if time_s <= self.now_s]:
            self.events.pop(time_s)()


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> _FakeTime:
    """The time in which file sinks wait."""
    fake_time = _FakeTime()
    monkeypatch.setattr(_sinks, "time", fake_time)
    return fake_time


@contextmanager
def other_writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has a file sink's partition open, until its standard input ends."""
    code = (
        "import sys; from engine.connectors.files import FileSink; "
        "part = FileSink(sys.argv[1]).build_part('flow.out', sys.argv[1], None); "
        "part.write_batch(['of the other']); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield child


def test_an_earlier_run_that_still_lives_keeps_the_next_from_starting(
    tmp_path: Path, fake_time: _FakeTime
) -> None:
    """It could write after the cut, so its file is left alone; after its death all is well."""
    path = tmp_path / "out"
    with other_writer(path) as other:
        with pytest.raises(ConnectorError, match="out: another process is writing this file"):
            FileSink(path).build_part("flow.out", str(path), 3)
        assert 5 < fake_time.now_s < 60
        assert path.read_text() == "of the other\n"
        other.kill()
    with opened(FileSink(path), 3) as part:
        part.write_batch(["new"])
    assert path.read_text() == "of new\n"


def test_an_earlier_run_that_is_dying_is_waited_for(tmp_path: Path, fake_time: _FakeTime) -> None:
    """A process that was killed may hold its files a little longer than what replaced it likes."""
    path = tmp_path / "out"
    with other_writer(path) as other:

        def die() -> None:
            other.kill()
            other.wait()

        fake_time.events[1.0] = die
        with opened(FileSink(path)) as part:
            part.write_batch(["new"])
        assert 1 <= fake_time.now_s < 2
    assert path.read_text() == "new\n"


def test_file_systems_without_locks_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock can be had, none is demanded."""

    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with opened(FileSink(tmp_path / "out")) as part:
        part.write_batch(["a"])


def test_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at the flush names the file, and the state is not given out."""

    def fail(handle: int) -> None:
        del handle
        raise OSError(errno.EIO, "Input/output error")

    with opened(FileSink(tmp_path / "out")) as part:
        part.write_batch(["a"])
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output error: .*out"):
            part.flush()
        with pytest.raises(OSError, match="Input/output error: .*out"):
            part.snapshot()


class _NearlyFull:
    """A file on a disk that takes three bytes at a time, and seven in all."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: memoryview) -> int:
        count = min(3, len(data), 7 - len(self.data))
        if count == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data += data[:count]
        return count


def test_short_writes_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that take less than they are given go on; the offset is never beyond the file."""
    with opened(FileSink(tmp_path / "out")) as part:
        nearly_full: Any = _NearlyFull()
        monkeypatch.setattr(part, "_file", nearly_full)
        monkeypatch.setattr(part, "flush", lambda: None)
        part.write_batch(["abcd"])
        assert (nearly_full.data, part.snapshot()) == (b"abcd\n", 5)
        with pytest.raises(OSError, match="No space left on device: .*out"):
            part.write_batch(["efgh"])
        assert (nearly_full.data, part.snapshot()) == (b"abcd\nef", 7)
        monkeypatch.undo()


@pytest.mark.parametrize(("value", "type_name"), [(1, "int"), (b"b", "bytes"), (None, "NoneType")])
def test_refuses_what_is_not_text(tmp_path: Path, value: Any, type_name: str) -> None:
    """A value that isn't `str` is an error with its type and what to do; nothing is written."""
    path = tmp_path / "out"
    with opened(FileSink(path)) as part:
        with pytest.raises(TypeError, match=f"of type `{type_name}`.*map_value"):
            part.write_batch(["fine", value])
        assert path.read_bytes() == b""


def test_refuses_text_that_is_not_unicode(tmp_path: Path) -> None:
    """A lone surrogate can't be written; nothing of the batch is."""
    path = tmp_path / "out"
    with opened(FileSink(path)) as part:
        with pytest.raises(ValueError, match="out: a value can't be written as UTF-8"):
            part.write_batch(["fine", "\ud800"])
        assert path.read_bytes() == b""


def test_output_that_was_cut_or_removed(tmp_path: Path) -> None:
    """A file shorter than its state can't be resumed: it would get a hole."""
    path = tmp_path / "out"
    with pytest.raises(ValueError, match=r"had written 5 bytes, but now the file has only 0"):
        FileSink(path).build_part("flow.out", str(path), 5)
    assert not path.exists()
    path.write_bytes(b"a\n")
    with pytest.raises(ValueError, match=r"had written 5 bytes, but now the file has only 2"):
        FileSink(path).build_part("flow.out", str(path), 5)
    assert path.read_bytes() == b"a\n"


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    """A directory, a missing directory and a pipe are errors when the partition is built."""
    missing = tmp_path / "missing" / "out"
    with pytest.raises(FileNotFoundError, match="No such output directory; make it first"):
        FileSink(missing).build_part("flow.out", str(missing), None)
    with pytest.raises(FileNotFoundError, match="No such output directory; make it first"):
        DirSink(tmp_path / "missing", 1).build_part("flow.out", "part_0", None)
    with pytest.raises(IsADirectoryError, match="DirSink writes into one"):
        FileSink(tmp_path).build_part("flow.out", str(tmp_path), None)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        FileSink(pipe).build_part("flow.out", str(pipe), None)


def test_files_of_the_run_before(tmp_path: Path) -> None:
    """A file that was renamed in the flow, or is one too many now, is cut where it was."""
    former = tmp_path / "former"
    former.write_bytes(b"kept\nnot\n")
    FileSink(tmp_path / "out").build_part("flow.out", str(former), 5).close()
    assert former.read_bytes() == b"kept\n"
    third = tmp_path / "part_2"
    third.write_bytes(b"kept\nnot\n")
    DirSink(tmp_path, 2).build_part("flow.out", "part_2", 5).close()
    assert third.read_bytes() == b"kept\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["former", "part_2"]


def test_assigned_file_is_the_one_named(tmp_path: Path) -> None:
    """Index i goes to the file that was named for i, also with ten files and more."""
    sink = DirSink(tmp_path, 12, assign_file=int)
    names = sorted(sink.list_parts())
    chosen = [names[sink.part_fn(str(key)) % len(names)] for key in range(14)]
    assert chosen == [f"part_{key % 12}" for key in range(14)]


def test_directory_sink_wants_names_for_all(tmp_path: Path) -> None:
    """No files, or two of one name, are errors where the sink is made."""
    with pytest.raises(ValueError, match="file_count must be at least 1"):
        DirSink(tmp_path, 0)
    with pytest.raises(ValueError, match="each file its own name"):
        DirSink(tmp_path, 2, file_namer=lambda index, count: f"of-{count}")


def test_delivery_is_said(tmp_path: Path) -> None:
    """Files are exactly-once, as they are cut back."""
    assert FileSink(tmp_path / "out").delivery == "exactly-once"
    assert DirSink(tmp_path, 1).delivery == "exactly-once"
