"""Large results of subtasks, as files in memory that the processes of a host share.

A process writes one, the worker counts who needs it and removes it; what is mapped by then stays
mapped. Names begin with the worker that they belong to, and with the process that has made them. So
what a process leaves when it is killed is found, and so is what a worker leaves: at the next start
of a pool on this host.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, Final

from engine.operators.tasks._requests import ObjectRef, Pickled

LARGE_BYTES: Final = 1 << 20
"""Results that are larger are objects."""
_FOLDER: Final = Path("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())  # noqa: PTH112, S108 - shared memory, or what there is in place of it
_NAME: Final = "engine-task"
_START_FIELD: Final = 19
"""Of `/proc/PID/stat`, behind the name: when the process was started."""


class LostObjectError(Exception):
    """An object isn't there any more."""


class Objects:
    """The objects of one pool, to its worker."""

    def __init__(self) -> None:
        _sweep_dead()
        self.prefix = f"{_NAME}-{_owner(os.getpid())}-{os.urandom(4).hex()}"
        """What the names of all its objects begin with."""
        self._kept: set[str] = set()

    def keep(self, name: str) -> None:
        """The worker knows an object."""
        self._kept.add(name)

    def free(self, name: str) -> None:
        """Nobody needs an object any more."""
        self._kept.discard(name)
        _remove(_FOLDER / name)

    def sweep(self, pid: int) -> None:
        """Remove what a process has left that has died before it told of it."""
        for path in _FOLDER.glob(f"{self.prefix}-{pid}-*"):
            if path.name not in self._kept:
                _remove(path)

    def free_all(self) -> None:
        """Remove all that there is."""
        for path in _FOLDER.glob(f"{self.prefix}-*"):
            _remove(path)


class ObjectWriter:
    """Makes objects of results, in a process of the pool.

    Args:
        prefix: `Objects.prefix`.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}-{os.getpid()}"
        self._made = 0

    def written(self, value: Any) -> Pickled | ObjectRef[Any]:
        """A result as it travels.

        Raises:
            Exception: It can't be pickled.
        """
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
        parts = [memoryview(data), *(buffer.raw() for buffer in buffers)]
        if sum(part.nbytes for part in parts) > LARGE_BYTES:
            # If there is no room for it in shared memory, it goes as small ones do.
            with contextlib.suppress(OSError):
                return self._object(parts)
        return Pickled(pickle.dumps(value, pickle.HIGHEST_PROTOCOL) if buffers else data)

    def _object(self, parts: list[memoryview]) -> ObjectRef[Any]:
        self._made += 1
        name = f"{self._prefix}-{self._made}"
        path = _FOLDER / name
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        try:
            with open(fd, "wb", buffering=0) as file:  # noqa: PTH123 - of a number
                for part in parts:
                    while part:
                        part = part[file.write(part) :]  # noqa: PLW2901 - what is left of it
        except BaseException:
            _remove(path)
            raise
        return ObjectRef(name, tuple(part.nbytes for part in parts))


def read(result: Pickled | ObjectRef[Any]) -> Any:
    """The value of a result. One that is an object isn't copied before something changes it.

    Raises:
        LostObjectError: It isn't there any more.
    """
    if isinstance(result, Pickled):
        return pickle.loads(result.data)  # noqa: S301 - of our own process
    try:
        fd = os.open(_FOLDER / result.name, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise LostObjectError(result.name) from None
    try:
        status = os.fstat(fd)
        # All users may make files there: one that has taken a lost object's name isn't read.
        if status.st_uid != os.geteuid() or status.st_size != sum(result.sizes_bytes):
            raise LostObjectError(result.name)
        view = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(fd)
    parts: list[memoryview] = []
    for size in result.sizes_bytes:
        parts.append(view[:size])
        view = view[size:]
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - as above


def _remove(path: Path) -> None:
    # It may be gone, or another user's.
    with contextlib.suppress(OSError):
        path.unlink()


def _owner(pid: int) -> str:
    """A process as no other one is called, in names of objects."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_FIELD]
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - beside the text above
    except OSError:
        return f"{pid}.0.0"
    return f"{pid}.{started}.{namespace}"


def _sweep_dead() -> None:
    """Remove what workers have left that were killed: those of this user, and of this container."""
    mine = _owner(os.getpid()).rpartition(".")[2]
    for path in _FOLDER.glob(f"{_NAME}-*"):
        owner = path.name.removeprefix(f"{_NAME}-").partition("-")[0]
        pid, _, rest = owner.partition(".")
        if rest.endswith(f".{mine}") and pid.isdigit() and _owner(int(pid)) != owner:
            _remove(path)
