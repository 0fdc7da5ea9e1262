"""The real command on a disk that fails: `python -m tests.chaos.faulty STORE FAULT JOURNAL ...`.

Runs `engine.run` with the operating system's file calls replaced by ones that count and, at a
chosen one, kill the process or raise an error. It works wherever Python does, but sees only the
calls that Python code makes: those of RocksDB and SQLite are the business of strace
(`test_system_calls`).

STORE is `usual`, or `eager` as in the module of that name. FAULT is `none`, `kill:N` (at the N-th
call; of a write only the first half is done), `commit:N` (a kill after the N-th manifest got its
name), or `ERROR:N` with the name of an error, such as `ENOSPC:3`, for the N-th call and all later
ones of its kind, as a full or broken disk would have it. Counted are calls on files in the folder
that DRILL_FOLDER names. The journal gets a line for each of them.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("open", "write", "fsync", "fdatasync", "link", "rename", "unlink", "mkdir", "rmdir")


class FaultyDisk:
    """Stands between Python code and the operating system's file calls."""

    def __init__(self, fault: str, journal: str, folder: str) -> None:
        self._fault, _, number = fault.partition(":")
        self._number = int(number or 0)
        self._folder = str(Path(folder).resolve())
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._write = os.write
        self._count = 0
        self._commits = 0
        self._failing = ""

    def install(self) -> None:
        """Take the place of the calls."""
        for name in CALLS:
            setattr(os, name, self._replacement(name, getattr(os, name)))

    def _replacement(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(subject: Any, *args: Any, **kwargs: Any) -> Any:
            path = self._path(subject)
            if self._is_ours(name, path, args):
                self._count += 1
                self._write(self._journal, f"{name} {path}\n".encode())
                if self._count == self._number and self._fault != "commit":
                    self._fail(name, subject, args)
                if name == self._failing:
                    error = getattr(errno, self._fault)
                    raise OSError(error, os.strerror(error))
            result = real(subject, *args, **kwargs)
            if name == "link" and "/manifests/" in path:
                self._commits += 1
                if self._fault == "commit" and self._commits == self._number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    def _path(self, subject: Any) -> str:
        if isinstance(subject, int):
            return str(Path(f"/proc/self/fd/{subject}").readlink())
        return str(Path(subject).resolve())

    def _is_ours(self, name: str, path: str, args: tuple[Any, ...]) -> bool:
        changes = name != "open" or args[0] & os.O_CREAT
        return bool(changes) and path.startswith(self._folder)

    def _fail(self, name: str, subject: Any, args: tuple[Any, ...]) -> None:
        if self._fault != "kill":
            self._failing = name
            return
        if name == "write":
            self._write(subject, args[0][: len(args[0]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def main(argv: list[str]) -> int:
    store, fault, journal, *arguments = argv
    FaultyDisk(fault, journal, os.environ["DRILL_FOLDER"]).install()
    # What a connector or the store had taken from `os` by name before would escape.
    from tests.chaos.eager import main as run  # noqa: PLC0415
    from tests.chaos.eager import shrink  # noqa: PLC0415

    if store == "eager":
        shrink()
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
