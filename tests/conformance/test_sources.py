"""Every source under the suite of `source_suite`. A new source is one more line in `CASES`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.connectors import (
    DynamicSource,
    FixedPartitionedSource,
    Lag,
    SimplePollingSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
    batch,
)
from engine.connectors.demo import RandomMetricSource
from engine.connectors.files import CSVSource, DirSource, FileSource
from engine.testing import TestingSource
from tests.conformance.source_suite import SourceCase, SourceSuite
from tests.conformance.world import World


def _file(world: World, name: str, text: bytes) -> Path:
    path = world.folder / name
    path.write_bytes(text)
    return path


def _folder(world: World) -> Path:
    for name, text in (("b.txt", b"3\n4\n5"), ("a.txt", b"1\n2\n"), ("c.txt", b"")):
        _file(world, name, text)
    return world.folder


class _PlainPart(StatefulSourcePartition[int, int]):
    """As a Bytewax user writes it: nothing but what must be there."""

    def __init__(self, start: int) -> None:
        self._next = start

    def next_batch(self) -> list[int]:
        if self._next == 5:
            raise StopIteration
        self._next += 1
        return [self._next - 1]

    def snapshot(self) -> int:
        return self._next


class _LaggingPart(_PlainPart):
    def lag(self) -> Lag:
        return Lag(5 - self._next, 2.0 if self._next < 5 else 0.0)


class _PlainSource(FixedPartitionedSource[int, int]):
    def list_parts(self) -> list[str]:
        return ["only"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _PlainPart:
        del step_id, for_part
        return _PlainPart(resume_state or 0)


class _LaggingSource(_PlainSource):
    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _LaggingPart:
        del step_id, for_part
        return _LaggingPart(resume_state or 0)


class _BatchesPart(StatelessSourcePartition[int]):
    def __init__(self) -> None:
        self._batches = batch(range(5), 2)

    def next_batch(self) -> list[int]:
        return next(self._batches)


class _BatchesSource(DynamicSource[int]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> _BatchesPart:
        del step_id, worker_index, worker_count
        return _BatchesPart()


class _Polled(SimplePollingSource[int, int]):
    """Counts to four, with a retry before 2 and an empty poll before 3."""

    def __init__(self, world: World) -> None:
        super().__init__(timedelta(seconds=1), now_getter=world.clock)
        self._last = 0
        self._asked = 0

    def next_item(self) -> int:
        if self._last == 4:
            raise StopIteration
        if self._last == 1 and self._asked == 0:
            self._asked = 1
            raise self.Retry(timedelta(milliseconds=10))
        self._last += 1
        return self._last

    def snapshot(self) -> int:
        return self._last

    def resume(self, resume_state: int) -> None:
        self._last = resume_state


_ODD_LINES = "eins\r\nzwei\rdrei\n\nfünf\u2028still five\n\n\nlast 🐦".encode()
_ODD_LINES_READ = ["eins", "zwei", "drei", "", "fünf\u2028still five", "", "", "last 🐦"]
_CSV = b'id,note\r\n1,"two\r\nlines"\r\n\r\n2,"a ""quote"""\r\n3,\xc3\xbc\r\n'
_CSV_READ = [
    {"id": "1", "note": "two\r\nlines"},
    {"id": "2", "note": 'a "quote"'},
    {"id": "3", "note": "ü"},
]


def _metric(world: World) -> RandomMetricSource:
    second = timedelta(seconds=1)
    return RandomMetricSource("m", second, 4, lambda: 0.5, now_getter=world.clock)


CASES = [
    SourceCase("plain", lambda world: _PlainSource(), [[0, 1, 2, 3, 4]]),
    SourceCase("lagging", lambda world: _LaggingSource(), [[0, 1, 2, 3, 4]]),
    SourceCase("plain dynamic", lambda world: _BatchesSource(), [[0, 1, 2, 3, 4]]),
    SourceCase("polling", _Polled, [[1, 2, 3, 4]]),
    SourceCase("TestingSource", lambda world: TestingSource(range(5), 2), [[0, 1, 2, 3, 4]]),
    SourceCase("RandomMetricSource", _metric, [[("m", 0.5)] * 4]),
    SourceCase("FileSource", lambda w: FileSource(_file(w, "f", _ODD_LINES)), [_ODD_LINES_READ]),
    SourceCase(
        "FileSource line by line",
        lambda w: FileSource(_file(w, "f", _ODD_LINES), batch_size=1),
        [_ODD_LINES_READ],
    ),
    SourceCase("FileSource of nothing", lambda w: FileSource(_file(w, "f", b"")), [[]]),
    SourceCase(
        "FileSource with a byte order mark",
        lambda w: FileSource(_file(w, "f", b"\xef\xbb\xbfa\nb\n"), 1, encoding="utf-8-sig"),
        [["a", "b"]],
    ),
    SourceCase(
        "DirSource",
        lambda world: DirSource(_folder(world), "*.txt", batch_size=2),
        [["1", "2"], ["3", "4", "5"], []],
    ),
    SourceCase("CSVSource", lambda w: CSVSource(_file(w, "f", _CSV)), [_CSV_READ]),
    SourceCase(
        "CSVSource row by row", lambda w: CSVSource(_file(w, "f", _CSV), batch_size=1), [_CSV_READ]
    ),
    SourceCase("CSVSource of a header", lambda w: CSVSource(_file(w, "f", b"a,b\n")), [[]]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestSources(SourceSuite):
    """Every source of the engine, and plain ones such as a user writes."""
