"""The disk as a port: the few file operations that the store is built of.

The store's promises rest on what these do at a crash, so each is named after the system call and
nothing is hidden: a file's bytes are safe after `AppendFile.sync`, its name after `sync_folder` of
the folder it is in. `FakeDisk` in `_fakes` forgets what was not synced; `RealDisk` is Linux.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from engine.errors import StoreError, StoreInUseError, StoreWriteError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_LOCK_POLL_S = 0.02


class AppendFile(Protocol):
    """A file open for appending."""

    def write(self, data: bytes) -> None:
        """Append all of the bytes. They may be lost or torn at a crash."""
        ...

    def sync(self) -> None:
        """Make the file's bytes and its length safe (fdatasync)."""
        ...

    def close(self) -> None:
        """Let go of the file, without syncing."""
        ...


class Mapped(Protocol):
    """A file as memory. What is written is in the file at once, and stays if the process dies."""

    buffer: memoryview
    """All bytes of it."""

    def close(self) -> None:
        """Let go of it."""
        ...


class Lock(Protocol):
    """A lock that ends with the process that holds it."""

    def release(self) -> None:
        """Give it back."""
        ...


class Disk(Protocol):
    """File operations. All raise `OSError` as the system gives it."""

    def create(self, path: Path) -> AppendFile:
        """Make a file that isn't there yet, open for appending."""
        ...

    def map(self, path: Path, size: int) -> Mapped:
        """Make a file that isn't there yet, of so many zeros, as memory."""
        ...

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""
        ...

    def size(self, path: Path) -> int:
        """How many bytes a file has."""
        ...

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted."""
        ...

    def exists(self, path: Path) -> bool:
        """Whether there is a file or folder."""
        ...

    def is_folder(self, path: Path) -> bool:
        """Whether there is a folder."""
        ...

    def make_folder(self, path: Path) -> None:
        """Make a folder that only its owner may enter."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; `FileExistsError` if the name is taken."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder; `target` isn't there yet."""
        ...

    def unlink(self, path: Path) -> None:
        """Take a file's name away."""
        ...

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder safe (fsync)."""
        ...

    def lock(self, path: Path) -> Lock:
        """Lock a file, which is made if need be.

        Raises:
            StoreInUseError: Somebody else has it locked.
        """
        ...


def write_synced(disk: Disk, path: Path, data: bytes) -> None:
    """Make a file with these bytes, safe once its folder is synced; an older one is replaced."""
    if disk.exists(path):
        disk.unlink(path)
    file = disk.create(path)
    try:
        file.write(data)
        file.sync()
    finally:
        file.close()


def remove_tree(disk: Disk, path: Path) -> None:
    """Remove a file, or a folder and all that is in it, if it is there at all."""
    if not disk.exists(path):
        return
    if not disk.is_folder(path):
        disk.unlink(path)
        return
    for name in disk.names(path):
        remove_tree(disk, path / name)
    disk.remove_folder(path)


@contextmanager
def writing(path: Path, doing: str) -> Generator[None, None, None]:
    """Turn the disk's refusals into `StoreWriteError`; `doing` tells what could not be done.

    Raises:
        StoreWriteError: In place of any `OSError` but `FileExistsError`, which means something.
    """
    try:
        yield
    except (StoreError, FileExistsError):
        raise
    except OSError as ex:
        reason = ex.strerror or str(ex)
        msg = f"could not {doing}: {reason}; the last durable epoch is intact"
        if ex.errno == errno.ENOSPC:
            msg += "; make room and start again"
        raise StoreWriteError(path, msg) from ex


class RealDisk(Disk):
    """The disk of the machine the engine runs on.

    Args:
        lock_wait_s: How long to wait for a file that is locked: a process that was killed lets go
            of its locks, and its children of theirs, a moment later.
    """

    def __init__(self, lock_wait_s: float = 0.0) -> None:
        self._lock_wait_s = lock_wait_s

    def create(self, path: Path) -> AppendFile:
        """As in `Disk`."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return _RealFile(os.open(path, flags, FILE_MODE))

    def map(self, path: Path, size: int) -> Mapped:
        """As in `Disk`."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            # Room for all of it: where it is short, a write to memory would end the process.
            os.posix_fallocate(handle, 0, size)
            return _RealMap(mmap.mmap(handle, size))
        finally:
            os.close(handle)

    def read(self, path: Path) -> bytes:
        """As in `Disk`."""
        return path.read_bytes()

    def size(self, path: Path) -> int:
        """As in `Disk`."""
        return path.stat().st_size

    def names(self, folder: Path) -> list[str]:
        """As in `Disk`."""
        return sorted(path.name for path in folder.iterdir())

    def exists(self, path: Path) -> bool:
        """As in `Disk`."""
        return os.path.lexists(path)

    def is_folder(self, path: Path) -> bool:
        """As in `Disk`."""
        return path.is_dir()

    def make_folder(self, path: Path) -> None:
        """As in `Disk`."""
        path.mkdir(FOLDER_MODE)

    def link(self, source: Path, target: Path) -> None:
        """As in `Disk`."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """As in `Disk`."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """As in `Disk`."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """As in `Disk`."""
        path.rmdir()

    def sync_folder(self, folder: Path) -> None:
        """As in `Disk`."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def lock(self, path: Path) -> Lock:
        """As in `Disk`."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        give_up_at_s = time.monotonic() + self._lock_wait_s
        while not (locked := _locked(handle)) and time.monotonic() < give_up_at_s:
            time.sleep(_LOCK_POLL_S)
        if not locked:
            holder = _holder_of(handle)
            os.close(handle)
            who = "" if holder is None else f" (pid {holder})"
            msg = f"{path.parent}: another process{who} has this store open; stop it first"
            raise StoreInUseError(msg)
        return _RealLock(handle)


def _locked(handle: int) -> bool:
    """Lock a file if nobody has it locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder_of(handle: int) -> int | None:
    """The process that has a file locked, if the system tells. Not in every container it does."""
    status = os.fstat(handle)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            match line.split():
                case [_, "FLOCK", _, _, pid, its_file, *_] if its_file == file and int(pid) > 0:
                    return int(pid)
                case _:
                    pass
    return None


class _RealFile(AppendFile):
    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]

    def sync(self) -> None:
        os.fdatasync(self._handle)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class _RealMap(Mapped):
    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self.buffer = memoryview(mapped)

    def close(self) -> None:
        self.buffer.release()
        self._mapped.close()


class _RealLock(Lock):
    def __init__(self, handle: int) -> None:
        self._handle = handle

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
