"""What the executors' tests have them run; processes import this module."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")


class OddError(Exception):
    """Of the user's own."""


class AbruptError(BaseException):
    """Not even an `Exception`."""


def double(number: int) -> int:
    return number * 2


def raise_it(exception: BaseException) -> NoReturn:
    raise exception


def hold(paths: tuple[Path, Path]) -> str:
    """Note the start in one file, and run until another file is there."""
    begun, until = paths
    note(begun, os.getpid())
    while not until.exists():
        time.sleep(0.002)
    return until.name


def note_start(job: tuple[Path, int]) -> int:
    note(*job)
    return job[1]


def note(path: Path, what: object) -> None:
    with path.open("a") as file:
        file.write(f"{what}\n")


def see(name: str) -> str:
    before = SEEN.get()
    SEEN.set(name)
    return before


def reverse(data: bytes) -> bytes:
    return data[::-1]


def give_coroutine(number: int) -> Any:
    return adouble(number)


def kill_if_odd(number: int) -> int:
    """A poison: the process dies of odd numbers."""
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


async def adouble(number: int) -> int:
    return number * 2


async def araise_it(exception: BaseException) -> NoReturn:
    raise exception


async def ahold(paths: tuple[Path, Path]) -> str:
    begun, until = paths
    note(begun, os.getpid())
    while not until.exists():  # noqa: ASYNC110 - a file tells threads and processes alike
        await asyncio.sleep(0.002)
    return until.name


async def anote_start(job: tuple[Path, int]) -> int:
    return note_start(job)


async def asee(name: str) -> str:
    return see(name)


async def areverse(data: bytes) -> bytes:
    return reverse(data)
