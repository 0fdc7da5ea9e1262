"""Functions that tasks call. Processes import this module, so it imports little.

What must happen before something else is told by files, which all kinds of executors can see.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


class Async:
    """A plain function as one that is `async def`."""

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    async def __call__(self, record: Any) -> Any:
        await asyncio.sleep(0)
        return self.fn(record)


def for_executor(name: str, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function as an executor takes it."""
    return Async(fn) if name == "async" else fn


def doubled(record: int) -> int:
    return 2 * record


def all_doubled(records: list[int]) -> list[int]:
    return [2 * record for record in records]


def odd_fails(record: int) -> int:
    if record % 2:
        raise ValueError("odd", record)
    return record


class Calls:
    """Counts calls by record, in a folder that all processes see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, record: Any) -> int:
        """One more call; how many there were with it."""
        path = self._folder / f"calls-{record}"
        with path.open("a") as file:
            file.write(".")
        return path.stat().st_size

    def of(self, record: Any) -> int:
        path = self._folder / f"calls-{record}"
        return path.stat().st_size if path.exists() else 0

    @property
    def total(self) -> int:
        return sum(path.stat().st_size for path in self._folder.glob("calls-*"))


class FailsAtFirst:
    """Raises until it has been called so often with a record."""

    def __init__(self, folder: Path, failures: int, error: Exception) -> None:
        self._calls = Calls(folder)
        self._failures = failures
        self._error = error

    def __call__(self, record: Any) -> Any:
        if self._calls.add(record) <= self._failures:
            raise self._error
        return record


class FirstAfterLast:
    """The call with one record ends only once the call with another has begun."""

    def __init__(self, folder: Path, first: Any, last: Any) -> None:
        self._begun = folder / "begun"
        self._first, self._last = first, last

    def __call__(self, record: Any) -> Any:
        if record == self._last:
            self._begun.touch()
        while record == self._first and not self._begun.exists():
            time.sleep(0.001)
        return record


class FirstAfterLastAsync(FirstAfterLast):
    async def __call__(self, record: Any) -> Any:
        while record == self._first and not self._begun.exists():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.001)
        return super().__call__(record)


class Stuck:
    """Never ends at the first call of a record that says so, until a file is there."""

    def __init__(self, folder: Path, stuck: Any, times: int = 1) -> None:
        self._calls = Calls(folder)
        self.freed = folder / "freed"
        self._stuck, self._times = stuck, times

    def __call__(self, record: Any) -> Any:
        if record == self._stuck and self._calls.add(record) <= self._times:
            while not self.freed.exists():
                time.sleep(0.005)
        return record


class StuckAsync(Stuck):
    async def __call__(self, record: Any) -> Any:
        if record == self._stuck and self._calls.add(record) <= self._times:
            await asyncio.sleep(3600)
        return record


class KillsItsProcess:
    """The process that runs one record is killed, so many times."""

    def __init__(self, folder: Path, record: Any, times: int) -> None:
        self._calls = Calls(folder)
        self._record, self._times = record, times

    def __call__(self, record: Any) -> Any:
        if record == self._record and self._calls.add(record) <= self._times:
            os.kill(os.getpid(), signal.SIGKILL)
        return record


class Unsendable:
    """Can be made, but not pickled."""

    def __reduce__(self) -> str:
        raise RuntimeError("this stays here")


class UnsendableError(Exception):
    """Can't be pickled either."""

    def __reduce__(self) -> str:
        raise RuntimeError("this stays here")


def gives_unsendable(record: Any) -> Any:
    return Unsendable()


def raises_unsendable(record: Any) -> Any:
    raise UnsendableError(f"of {record}")


def takes_two(record: Any, other: Any) -> Any:
    return record, other


async def doubled_async(record: int) -> int:
    return 2 * record


def returns_awaitable(record: int) -> Awaitable[int]:
    return doubled_async(record)


def leaves(record: int) -> int:
    raise SystemExit(3)


def with_context(record: int, ctx: Any) -> tuple[int, str, str, int]:
    if record == 1 and ctx.attempt == 1:
        raise OSError
    return record, ctx.task_id, ctx.idempotency_key, ctx.attempt


async def with_context_async(record: int, ctx: Any) -> tuple[int, str, str, int]:
    return with_context(record, ctx)


def number_key(record: int) -> str:
    return f"number {record}"


class Holds:
    """Can be called, and holds something that may be hard to send."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __call__(self, record: Any) -> Any:
        return record


def generates(record: Any) -> Any:
    yield record


async def generates_async(record: Any) -> Any:
    yield record


def backwards(record: bytes) -> bytes:
    return record[::-1]


def greedy_at_one(record: int) -> int:
    if record == 1:
        limit = 256 << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return len(bytearray(1 << 30))
    return record


def dies_of_one(record: tuple[int, int]) -> int:
    number, how = record
    if number == 1 and how < 0:
        os.kill(os.getpid(), -how)
    if number == 1:
        os._exit(how)
    return number
