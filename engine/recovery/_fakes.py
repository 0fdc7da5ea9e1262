"""A disk and a table in memory that lose at a crash what a real one may lose.

For the simulator and for property tests: count the operations of a run, then run again and crash
before each of them. What a crash leaves is drawn from a seed:

- bytes that were not synced: a prefix of them, with a hole of zeros now and then;
- names that were not synced: any of the changes to a folder, in order or not;
- table writes that were not flushed: a prefix of them.
"""

from __future__ import annotations

import errno
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from engine.errors import CorruptStoreError, StoreInUseError
from engine.recovery._disk import AppendFile, Disk, Lock, Mapped, writing
from engine.recovery._table import Row, Table, Tables


class SimulatedCrash(BaseException):
    """The process ends here. Not an `Exception`, so that no code can survive it."""


class _File:
    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.synced = data
        self.mapped: bytearray | None = None
        """What is in it if a process has it as memory."""

    @property
    def content(self) -> bytes:
        return self.data if self.mapped is None else bytes(self.mapped)

    def crash(self, rng: random.Random) -> None:
        self.data, self.mapped = self.content, None
        kept, rest = self.synced, self.data[len(self.synced) :]
        torn = bytearray(rest[: rng.choice((0, len(rest), rng.randint(0, len(rest))))])
        if torn and rng.random() < 0.3:
            start = rng.randrange(len(torn))
            end = rng.randint(start, len(torn))
            torn[start:end] = bytes(end - start)
        self.data = self.synced = kept + bytes(torn)


class _Folder:
    def __init__(self) -> None:
        self.entries: dict[str, _Node] = {}
        self.synced: dict[str, _Node] = {}
        self.pending: list[Callable[[dict[str, _Node]], None]] = []

    def change(self, how: Callable[[dict[str, _Node]], None]) -> None:
        how(self.entries)
        self.pending.append(how)

    def sync(self) -> None:
        self.synced = dict(self.entries)
        self.pending.clear()

    def crash(self, rng: random.Random) -> None:
        kept = self.pending[: rng.randint(0, len(self.pending))]
        if rng.random() < 0.4:
            kept = [how for how in self.pending if rng.random() < 0.5]
        for how in kept:
            how(self.synced)
        self.entries = dict(self.synced)
        self.pending.clear()
        for node in self.entries.values():
            node.crash(rng)


_Node: TypeAlias = _File | _Folder


class _Platter:
    """What all processes that see a disk share."""

    def __init__(self) -> None:
        self.root = _Folder()
        self.holders: dict[Path, FakeDisk] = {}
        """Who has a file locked."""
        self.processes = 0


class FakeDisk(Disk):
    """A disk in memory, as one process sees it. The root is there from the start.

    A process loses its locks to one that comes later (`shared`), as one does that is paused for so
    long that a server on the network takes it for dead.

    Args:
        locks: False lets several users in at a time, as a folder without locks does.
    """

    def __init__(self, *, locks: bool = True, platter: _Platter | None = None) -> None:
        self.ops = 0
        """How many operations that change something there have been."""
        self.trace: list[str] = []
        """What they were."""
        self.crash_at: int | None = None
        """Crash before the operation of this number, counted from 1."""
        self.failures: dict[int, int] = {}
        """Which operations fail, and with which `errno`."""
        self._platter = platter or _Platter()
        self._platter.processes += 1
        self._number = self._platter.processes
        self._root = self._platter.root
        self._crashed = False
        self._locks = locks
        self._tables: list[MemoryTable] = []
        self.before_op: Callable[[str, Path], None] | None = None
        """Called before each operation, with what and where: others may have their turn there."""

    def after_crash(self, seed: int, *, power: bool = True) -> FakeDisk:
        """The disk as the next process finds it; this one is dead from now on.

        Args:
            seed: Draws what is lost.
            power: False for a process that dies alone: nothing is lost then of what the system
                knows, only what tables have in memory.
        """
        rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.kill(rng)
        if power:
            self._root.crash(rng)
        return self.shared()

    def kill(self, rng: random.Random) -> None:
        """End the process that sees the disk so: it can do nothing any more."""
        self._crashed = False
        for table in self._tables:
            table.crash(rng)
        self._tables.clear()
        self._crashed = True

    def shared(self) -> FakeDisk:
        """The same disk as one more process sees it, which takes locks away from this one."""
        return FakeDisk(locks=self._locks, platter=self._platter)

    def synced(self, folder: Path) -> dict[str, bytes]:
        """The files of a folder that no crash can take away any more, by name."""
        entries = self._folder(folder).synced.items()
        return {name: node.synced for name, node in entries if isinstance(node, _File)}

    def keeps_locks_from(self, other: FakeDisk) -> bool:
        """Whether a process that holds a lock is alive, and not taken for dead by the other."""
        return not self._crashed and self._number >= other._number

    def create(self, path: Path) -> AppendFile:
        """As in `Disk`."""
        self.op("create", path)
        folder = self._folder(path.parent)
        if path.name in folder.entries:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        file = _File()
        folder.change(lambda entries: entries.update({path.name: file}))
        return _FakeFile(self, path, file)

    def map(self, path: Path, size: int) -> Mapped:
        """As in `Disk`."""
        self.create(path).close()
        self._file(path).mapped = mapped = bytearray(size)
        return _FakeMap(mapped)

    def read(self, path: Path) -> bytes:
        """As in `Disk`."""
        return self._file(path).content

    def size(self, path: Path) -> int:
        """As in `Disk`."""
        return len(self._file(path).content)

    def names(self, folder: Path) -> list[str]:
        """As in `Disk`."""
        return sorted(self._folder(folder).entries)

    def exists(self, path: Path) -> bool:
        """As in `Disk`."""
        return self._find(path) is not None

    def is_folder(self, path: Path) -> bool:
        """As in `Disk`."""
        return isinstance(self._find(path), _Folder)

    def make_folder(self, path: Path) -> None:
        """As in `Disk`."""
        self.op("mkdir", path)
        folder = self._folder(path.parent)
        if path.name in folder.entries:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        made = _Folder()
        folder.change(lambda entries: entries.update({path.name: made}))

    def link(self, source: Path, target: Path) -> None:
        """As in `Disk`."""
        self.op("link", target)
        file = self._file(source)
        folder = self._folder(target.parent)
        if target.name in folder.entries:
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        folder.change(lambda entries: entries.update({target.name: file}))

    def rename(self, source: Path, target: Path) -> None:
        """As in `Disk`; within one folder."""
        self.op("rename", target)
        folder, node = self._folder(source.parent), self._find(source)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))
        if source.parent != target.parent:
            raise NotImplementedError(source, target)
        there = folder.entries.get(target.name)
        if isinstance(there, _Folder) and there.entries:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(target))

        def how(entries: dict[str, _Node]) -> None:
            entries.pop(source.name, None)
            entries[target.name] = node

        folder.change(how)

    def unlink(self, path: Path) -> None:
        """As in `Disk`."""
        self._file(path)
        self._remove("unlink", path)

    def remove_folder(self, path: Path) -> None:
        """As in `Disk`."""
        if self._folder(path).entries:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        self._remove("rmdir", path)

    def _remove(self, what: str, path: Path) -> None:
        self.op(what, path)

        def how(entries: dict[str, _Node]) -> None:
            entries.pop(path.name, None)

        self._folder(path.parent).change(how)

    def sync_folder(self, folder: Path) -> None:
        """As in `Disk`."""
        self.op("fsync", folder)
        self._folder(folder).sync()

    def lock(self, path: Path) -> FakeLock:
        """As in `Disk`."""
        if self.before_op is not None:
            self.before_op("lock", path)
        if self._crashed:
            raise SimulatedCrash
        holders = self._platter.holders
        holder = holders.get(path) if self._locks else None
        if holder is not None and holder.keeps_locks_from(self):
            msg = f"{path.parent}: another process has this store open; stop it first"
            raise StoreInUseError(msg)
        holders[path] = self
        return FakeLock(holders, path, self)

    def op(self, what: str, path: Path) -> None:
        """Count an operation, and crash or fail if it is its turn."""
        if self.before_op is not None:
            self.before_op(what, path)
        if self._crashed:
            raise SimulatedCrash
        self.ops += 1
        self.trace.append(f"{what} {path.name}")
        if self.ops == self.crash_at:
            self._crashed = True
            raise SimulatedCrash
        if (failure := self.failures.get(self.ops)) is not None:
            raise OSError(failure, "simulated", str(path))

    def put_durable(self, path: Path, data: bytes) -> None:
        """Replace a file at once and safely, as a table does with its own files."""
        file, folder = _File(data), self._folder(path.parent)
        folder.entries[path.name] = folder.synced[path.name] = file

    def attach(self, table: MemoryTable) -> None:
        """Remember a table whose unflushed writes a crash may lose."""
        self._tables.append(table)

    def detach(self, table: MemoryTable) -> None:
        """Forget a table that is closed."""
        if table in self._tables:
            self._tables.remove(table)

    def _find(self, path: Path) -> _Node | None:
        if self._crashed:
            raise SimulatedCrash
        node: _Node = self._root
        for part in path.parts[1:] if path.is_absolute() else path.parts:
            if not isinstance(node, _Folder) or part not in node.entries:
                return None
            node = node.entries[part]
        return node

    def _folder(self, path: Path) -> _Folder:
        node = self._find(path)
        if not isinstance(node, _Folder):
            raise FileNotFoundError(errno.ENOENT, "No such folder", str(path))
        return node

    def _file(self, path: Path) -> _File:
        node = self._find(path)
        if not isinstance(node, _File):
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return node


class _FakeFile(AppendFile):
    def __init__(self, disk: FakeDisk, path: Path, file: _File) -> None:
        self._disk = disk
        self._path = path
        self._file = file

    def write(self, data: bytes) -> None:
        try:
            self._disk.op("write", self._path)
        except OSError:
            self._file.data += data[: len(data) // 2]
            raise
        except SimulatedCrash:
            # A crash amid a write may leave any part of it, as `_File.crash` will decide.
            self._file.data += data
            raise
        self._file.data += data

    def sync(self) -> None:
        self._disk.op("fdatasync", self._path)
        self._file.synced = self._file.data

    def close(self) -> None:
        """Nothing is held."""


class _FakeMap(Mapped):
    def __init__(self, data: bytearray) -> None:
        self.buffer = memoryview(data)

    def close(self) -> None:
        """Nothing is held."""


class FakeLock(Lock):
    """A lock on a `FakeDisk`."""

    def __init__(self, holders: dict[Path, FakeDisk], path: Path, holder: FakeDisk) -> None:
        self._holders = holders
        self._path = path
        self._holder = holder

    @property
    def held(self) -> bool:
        """Whether no later process has taken it away."""
        return self._holders.get(self._path) is self._holder

    def release(self) -> None:
        """As in `Lock`."""
        if self.held:
            del self._holders[self._path]


_Write: TypeAlias = Callable[[dict[bytes, bytes]], None]
_DATA = "DATA"


class MemoryTable(Table):
    """A table in memory, whose flushed rows are a file of a `FakeDisk`.

    Without its lock it writes nothing: two that write one table would ruin it, whatever they write.
    """

    def __init__(self, disk: FakeDisk, folder: Path, lock: FakeLock) -> None:
        self._disk = disk
        self._path = folder / _DATA
        self._lock = lock
        self._flushed: dict[bytes, bytes] = pickle.loads(disk.read(self._path))  # noqa: S301 - its own
        self._rows = dict(self._flushed)
        self._order: list[bytes] | None = None
        self._unflushed: list[_Write] = []
        self._flushing = 0
        disk.attach(self)

    def get(self, key: bytes) -> bytes | None:
        """As in `Table`."""
        return self._rows.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """As in `Table`."""
        return [self._rows.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes) -> Iterator[Row]:
        """As in `Table`."""
        if self._order is None:
            self._order = sorted(self._rows)
        rows = self._rows
        return iter([(key, rows[key]) for key in self._order if start <= key < stop])

    def estimated_rows(self) -> int:
        """As in `Table`."""
        return len(self._rows)

    def write(self, puts: Sequence[Row], deletes: Sequence[bytes]) -> None:
        """As in `Table`."""
        puts, deletes = list(puts), list(deletes)

        def how(rows: dict[bytes, bytes]) -> None:
            rows.update(puts)
            for key in deletes:
                rows.pop(key, None)

        self._change("table write", how)

    def delete_range(self, start: bytes, stop: bytes) -> None:
        """As in `Table`."""

        def how(rows: dict[bytes, bytes]) -> None:
            for key in [key for key in rows if start <= key < stop]:
                del rows[key]

        self._change("table delete_range", how)

    def _change(self, what: str, how: _Write) -> None:
        self._op(what)
        how(self._rows)
        self._unflushed.append(how)
        self._order = None

    def flush(self) -> None:
        """As in `Table`."""
        self.begin_flush()
        self.flush_done()

    def begin_flush(self) -> None:
        """As in `Table`. What is begun is done when `flush_done` asks, or not at a crash."""
        self._flushing = len(self._unflushed)

    def flush_done(self) -> bool:
        """As in `Table`."""
        self._op("table flush")
        self._persist(self._flushing)
        self._flushing = 0
        return True

    def _op(self, what: str) -> None:
        with writing(self._path.parent, what):
            self._disk.op(what, self._path.parent)
        if not self._lock.held:
            msg = f"{self._path.parent}: another process has taken its lock"
            raise StoreInUseError(msg)

    def _persist(self, writes: int) -> None:
        for how in self._unflushed[:writes]:
            how(self._flushed)
        del self._unflushed[:writes]
        with writing(self._path.parent, "write a table"):
            self._disk.put_durable(self._path, pickle.dumps(self._flushed))

    def checkpoint(self, folder: Path) -> None:
        """As in `Table`."""
        self.flush()
        self._disk.make_folder(folder)
        self._disk.put_durable(folder / _DATA, pickle.dumps(self._flushed))
        self._disk.sync_folder(folder)

    def close(self) -> None:
        """As in `Table`. What was not flushed is lost."""
        self._disk.detach(self)
        self._lock.release()

    def crash(self, rng: random.Random) -> None:
        """Keep a prefix of what was not flushed: a real table flushes when it likes."""
        if self._lock.held and self._disk.exists(self._path):
            self._persist(rng.choice((0, rng.randint(0, len(self._unflushed)))))


class MemoryTables(Tables):
    """Tables in memory, on a `FakeDisk`."""

    def __init__(self, disk: FakeDisk) -> None:
        self._disk = disk

    def create(self, folder: Path) -> Table:
        """As in `Tables`."""
        self._disk.make_folder(folder)
        self._disk.put_durable(folder / _DATA, pickle.dumps({}))
        self._disk.sync_folder(folder)
        return self.open(folder)

    def open(self, folder: Path, *, read_only: bool = False) -> Table:
        """As in `Tables`."""
        del read_only
        lock = self._disk.lock(folder / "LOCK")
        if not self._disk.exists(folder / _DATA):
            lock.release()
            raise CorruptStoreError(folder, "the table's data is missing")
        return MemoryTable(self._disk, folder, lock)
