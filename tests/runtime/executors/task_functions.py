"""What the tests in this folder have executors run; processes import this module."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from tests.conformance.executor_functions import note


class PickyError(Exception):
    """Can be pickled, and not be read back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class LockedError(Exception):
    """Holds what can't be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class Unreadable:
    """Can be written, and not be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ("unreadable",)


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)


class DeadlyToRead:
    """Kills the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (7,)


def add_one(number: int) -> int:
    return number + 1


def raise_chained(text: str) -> NoReturn:
    try:
        raise KeyError(text)
    except KeyError as ex:
        error = ValueError("outer")
        error.add_note("a note")
        raise error from ex


def raise_picky(_: Any) -> NoReturn:
    raise PickyError(1, 2)


def raise_locked(_: Any) -> NoReturn:
    raise LockedError


def raise_local(_: Any) -> NoReturn:
    class LocalError(Exception):
        pass

    raise LocalError("here")


def give_lock(_: Any) -> Any:
    return threading.Lock()


def give_unreadable(_: Any) -> Any:
    return Unreadable()


def take(_: Any) -> str:
    return "taken"


def die(how: int) -> NoReturn:
    """Exit with a code, or of a signal."""
    if how < 0:
        os.kill(os.getpid(), -how)
        signal.pause()
    os._exit(how)


def die_or_work(job: tuple[Path, int, bool]) -> int:
    """Note that it ran; poison kills the process."""
    path, number, poison = job
    note(path, number)
    if poison:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def crash(_: Any) -> None:
    """A fault in somebody's C code."""
    ctypes.string_at(0)


def use_memory(_: Any) -> int:
    """More than the process may have."""
    import resource  # noqa: PLC0415 - here only

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return len(bytearray(1 << 31))


def modules(_: Any) -> list[str]:
    return sorted(sys.modules)


def pid_and_wait(job: tuple[Path, Path]) -> int:
    begun, until = job
    note(begun, os.getpid())
    while not until.exists():
        time.sleep(0.001)
    return os.getpid()


def wait_long_or_not(until: Path | None) -> int:
    """Long if there is something to wait for."""
    while until is not None and not until.exists():
        time.sleep(0.001)
    return os.getpid()


def hold_interpreter(begun: Path) -> None:
    """In C code that lets nobody else run."""
    note(begun, os.getpid())
    ctypes.PyDLL(None).sleep(3600)


def leave_child(begun: Path) -> None:
    """Dies, and leaves a process that keeps its sockets open."""
    if (child := os.fork()) == 0:
        time.sleep(60)
        os._exit(0)
    note(begun, child)
    os._exit(3)


def speak_and_leave(job: tuple[Path, str]) -> bytes:
    """Give much, or die with a child that keeps the sockets open; and note it."""
    path, what = job
    if what == "leave":
        leave_child(path)
    if what == "much":
        note(path, what)
        time.sleep(0.002)  # Results of calls that take less are sent together.
    return bytes(70_000 if what == "much" else 0)


async def block(seconds: float) -> float:
    _inner(seconds)
    return seconds


def _inner(seconds: float) -> None:
    time.sleep(seconds)


async def many_ways(_: Any) -> list[Any]:
    """What asyncio gives to a task that is a real one."""
    task = asyncio.current_task()
    assert task is not None
    timed_out = False
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)
    except TimeoutError:
        timed_out = True
    async with asyncio.TaskGroup() as group:
        parts = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
    in_thread = await asyncio.to_thread(threading.get_ident)
    return [timed_out, [part.result() for part in parts], in_thread != threading.get_ident()]


async def failing_group(_: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        group.create_task(_fail())


async def _fail() -> NoReturn:
    raise OSError("gone")


async def leave_by_callback(_: Any) -> str:
    """A callback of the user's own raises what ends a loop."""
    asyncio.get_running_loop().call_soon(sys.exit, 4)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return "stayed"


async def heed_nothing(begun: Path) -> None:
    """Can't be cancelled: it runs until another file is there."""
    note(begun, "x")
    while not begun.with_name("stop").exists():
        try:
            await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            note(begun, "cancelled")


async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def with_anyio(_: Any) -> list[int]:
    import anyio  # noqa: PLC0415 - not everybody has it

    got: list[int] = []

    async def one(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(one, number)
    with anyio.move_on_after(0.001):
        await anyio.sleep(60)
    return sorted(got)


def unlike_its_name(number: int) -> int:
    return number


unlike = unlike_its_name
