"""Which calls of users' functions a process is making, for those who come after its death.

    DIR/running/00000001/               of the run of that generation
                         worker-0000-<step>   rows of the calls that a worker is making now
                         known.json     what its start has found of earlier runs

A row is written before its call begins and wiped when it has ended, in memory that the system keeps
when the process dies. Nothing is synced: if the machine dies as well, no call was the cause of it.
A worker that leaves in order takes its files with it, so what a start finds was there at a death. A
file without rows says that there was one, which is what steps with actors want to know at first.
"""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from engine.recovery._disk import Disk, Mapped, remove_tree, write_synced, writing
from engine.recovery._layout import StorePaths, make_folders

_ROW: Final = struct.Struct("<IHH")
"""The mark of a record, the deaths that it was suspected of, and a state."""
_RUNNING: Final = 1
_ALONE: Final = 2
_ROWS_MAX: Final = 1 << 16
_KNOWN: Final = "known.json"
_WORKER: Final = "worker-"
_STARTS_MAX: Final = 10
"""A record that didn't come again for so many starts is forgotten."""


class Suspect(NamedTuple):
    """What is known of a record whose call was being made when its process died."""

    deaths: int
    """How often that was so."""
    alone: bool
    """Whether, the last time, no other call was being made."""


def mark_of(encoded: bytes) -> int:
    """What a record is known by: two that differ seldom have the same."""
    return zlib.crc32(encoded)


class CallRows:
    """The rows of one step on one worker.

    Args:
        disk: Where.
        path: A file that isn't there yet.
        rows: How many there are to be; calls beyond that are made without.

    Raises:
        StoreWriteError: The disk refused.
    """

    def __init__(self, disk: Disk, path: Path, rows: int) -> None:
        self._disk = disk
        self._path = path
        rows = min(rows, _ROWS_MAX)
        with writing(path, "note which calls are made"):
            make_folders(disk, path.parent)
            self._mapped: Mapped = disk.map(path, rows * _ROW.size)
        self._free = list(range(0, rows * _ROW.size, _ROW.size))

    def begin(self, marks: Iterable[int], deaths: int, *, alone: bool) -> list[int]:
        """Write down that a call begins.

        Args:
            marks: Of its records.
            deaths: What they are suspected of.
            alone: Whether no other call of the step is made meanwhile.

        Returns:
            Its rows, for `end`.
        """
        free, buffer, state = self._free, self._mapped.buffer, _ALONE if alone else _RUNNING
        rows: list[int] = []
        for mark in marks:
            if not free:
                break
            row = free.pop()
            _ROW.pack_into(buffer, row, mark, min(deaths, 0xFFFF), state)
            rows.append(row)
        return rows

    def end(self, rows: list[int]) -> None:
        """The call has ended."""
        buffer = self._mapped.buffer
        for row in rows:
            _ROW.pack_into(buffer, row, 0, 0, 0)
        self._free += rows

    def close(self) -> None:
        """The process leaves in order, so nothing is to be suspected."""
        self._mapped.close()
        with suppress(FileNotFoundError):
            # A later run removes it too.
            self._disk.unlink(self._path)


def rows_path(root: Path, generation: int, worker: int, step_id: str) -> Path:
    """Where a worker of a run writes down the calls of a step."""
    name = f"{_WORKER}{worker:04d}-{_file_of(step_id)}"
    return _folder(root, generation) / name


def _folder(root: Path, generation: int) -> Path:
    return StorePaths(root).running / f"{generation:08d}"


def _file_of(step_id: str) -> str:
    return f"{zlib.crc32(step_id.encode()):08x}"


_Known = dict[str, dict[int, tuple[Suspect, int]]]
"""By step (`_file_of`) and the mark of the record: what is known, and at how many starts in a row
it wasn't found again."""


class Suspicions:
    """What a run knows of records that were being called when processes died.

    Each generation has a folder of its own, so that a paused process that wakes up, and is none any
    more, can't change what the present one knows.
    """

    def __init__(self, disk: Disk, folder: Path, known: _Known) -> None:
        self._disk = disk
        self._folder = folder
        self._known = known

    @staticmethod
    def open(disk: Disk, root: Path, generation: int) -> Suspicions:
        """Find out what those that have died were doing, and what was known before.

        It is written down again, and what was there is removed.
        """
        running = StorePaths(root).running
        there = disk.names(running) if disk.is_folder(running) else []
        older = [running / name for name in there if name < _folder(root, generation).name]
        known: _Known = {}
        found: _Known = {}
        for folder in older:
            # Another process may be at the same, and one of the two isn't in force any more.
            with suppress(FileNotFoundError):
                known = _read_known(disk, folder / _KNOWN) or known
                for name, suspects in _rows_in(disk, folder):
                    found.setdefault(name, {}).update((m, (s, 0)) for m, s in suspects.items())
        for name, aged in known.items():
            for mark, (suspect, age) in aged.items():
                if age < _STARTS_MAX:
                    found.setdefault(name, {}).setdefault(mark, (suspect, age + 1))
        suspicions = Suspicions(disk, _folder(root, generation), found)
        with suppress(FileNotFoundError):
            # What was found counts twice if this is cut short before it is removed: no harm.
            suspicions._write()
        for folder in older:
            try:
                remove_tree(disk, folder)
            except OSError as ex:
                # Another process removes it too, or is taken for dead and still writes there: then
                # a later start removes it.
                if ex.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                    raise
        return suspicions

    def by_step(self) -> dict[str, dict[int, Suspect]]:
        """The suspects, by step (`suspects_of`) and the mark of the record."""
        return {step: {m: s for m, (s, _) in marks.items()} for step, marks in self._known.items()}

    def absolve(self) -> None:
        """The run ends in order: records that have failed for their deaths may be tried again.

        Whoever starts it the next time may have mended what killed the process.
        """
        if not any(s.alone for marks in self._known.values() for s, _ in marks.values()):
            return
        for marks in self._known.values():
            for mark, (suspect, age) in marks.items():
                marks[mark] = suspect._replace(alone=False), age
        self._write()

    def _write(self) -> None:
        if self._known:
            text = {
                step: {str(mark): [*suspect, age] for mark, (suspect, age) in marks.items()}
                for step, marks in self._known.items()
            }
            with writing(self._folder, "note which calls were made at deaths"):
                make_folders(self._disk, self._folder)
                write_synced(self._disk, self._folder / _KNOWN, json.dumps(text).encode())


def suspects_of(by_step: Mapping[str, dict[int, Suspect]], step_id: str) -> dict[int, Suspect]:
    """Those of one step."""
    return dict(by_step.get(_file_of(step_id), {}))


def died_with(by_step: Mapping[str, dict[int, Suspect]], step_id: str) -> bool:
    """Whether a worker with a step was found to have died, whatever it was doing."""
    return _file_of(step_id) in by_step


def _rows_in(disk: Disk, folder: Path) -> Iterator[tuple[str, dict[int, Suspect]]]:
    """The calls that the workers of a run were making, by step."""
    by_worker: dict[str, list[tuple[str, list[tuple[int, int, int]]]]] = {}
    for name in disk.names(folder):
        if name.startswith(_WORKER):
            _, worker, step = name.split("-")
            data = disk.read(folder / name)
            whole = data[: len(data) - len(data) % _ROW.size]
            rows = [row for row in _ROW.iter_unpack(whole) if row[2]]
            by_worker.setdefault(worker, []).append((step, rows))
    for files in by_worker.values():
        calls = sum(len(rows) for _, rows in files)
        for step, rows in files:
            # A step makes no other call beside one that it makes alone, but other steps may.
            yield (
                step,
                {
                    mark: Suspect(deaths + 1, alone=state == _ALONE and calls == len(rows))
                    for mark, deaths, state in rows
                },
            )


def _read_known(disk: Disk, path: Path) -> _Known:
    """What was written down; nothing if a crash has left it in pieces: no harm comes of that."""
    with suppress(FileNotFoundError, ValueError, TypeError, AttributeError):
        return {
            step: {
                int(mark): (Suspect(int(deaths), bool(alone)), int(age))
                for mark, (deaths, alone, age) in marks.items()
            }
            for step, marks in json.loads(disk.read(path)).items()
        }
    return {}
