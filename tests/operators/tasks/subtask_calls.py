"""Functions with subtasks for the tests beside it; processes import this module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from engine.operators.tasks import TaskContext, TaskFuture

OBJECTS = Path("/dev/shm")
LARGE = 3_000_000
COUNT = 500


def count_up(path: Path) -> int:
    """How often it was called with this path, this time too."""
    with path.open("a") as file:
        file.write("x")
    return path.stat().st_size


def die_the_first_time(path: Path, number: int) -> int:
    """Kill its process, if it is the first call for this path."""
    if count_up(path) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def survive(folder: Path, count: int, ctx: TaskContext) -> int:
    futures = [ctx.submit(die_the_first_time, folder / str(n), n) for n in range(count)]
    return sum(ctx.gather(*futures))


def die_while_waiting(folder: Path, ctx: TaskContext) -> int:
    """A parent whose process dies, with its subtasks under way."""
    return ctx.submit(parent, folder, os.getpid()).result()


def parent(folder: Path, _above: int, ctx: TaskContext) -> int:
    return ctx.submit(kill_first, os.getpid(), folder / "kills").result()


def kill_first(pid: int, path: Path) -> int:
    """Kill the process of its parent, once."""
    calls = count_up(path)
    if calls == 1:
        os.kill(pid, signal.SIGKILL)
        time.sleep(60)
    return calls


def large(path: Path) -> bytes:
    count_up(path)
    return bytes(LARGE)


def length(data: bytes) -> int:
    return len(data)


def objects() -> list[Path]:
    """The large results of all pools on this machine whose worker has this process as a child."""
    mine = f"engine-task-{os.getppid()}."
    return [path for path in OBJECTS.glob("engine-task-*") if path.name.startswith(mine)]


def lose(folder: Path, ctx: TaskContext) -> tuple[int, int, int]:
    """A large result that somebody removes, for a subtask and for its parent."""
    data = ctx.submit(large, folder / "made")
    ctx.submit(length, data).result()
    for path in objects():
        path.unlink()
    below = ctx.submit(length, data).result()
    for path in objects():
        path.unlink()
    return below, len(data.result()), (folder / "made").stat().st_size


def free(folder: Path, ctx: TaskContext) -> list[int]:
    """How many large results there are: with a future, and when that is gone."""
    data: TaskFuture[bytes] | None = ctx.submit(large, folder / "made")
    assert data is not None
    ctx.submit(length, data).result()
    found = [len(objects())]
    data = None
    ctx.submit(len, "any request tells of it").result()
    until_s = time.monotonic() + 30
    while objects() and time.monotonic() < until_s:
        time.sleep(0.002)
    return [*found, len(objects())]


def leave_large(folder: Path, ctx: TaskContext) -> int:
    data = ctx.submit(large, folder / "made")
    ctx.submit(length, data).result()
    (folder / "there").touch()
    time.sleep(60)
    return 0


def pids(count: int, ctx: TaskContext) -> set[int]:
    return set(ctx.gather(*[ctx.submit(slow_pid) for _ in range(count)]))


def slow_pid() -> int:
    time.sleep(0.02)
    return os.getpid()


def unpicklable_argument(ctx: TaskContext) -> Any:
    return ctx.submit(length, open(os.devnull))  # noqa: PTH123 - what can't be sent


def unpicklable_result(ctx: TaskContext) -> Any:
    return ctx.submit(open, os.devnull).result()


def deep_future(ctx: TaskContext) -> Any:
    return ctx.submit(length, [[ctx.submit(os.getpid)]])


def with_closure(size: int, ctx: TaskContext) -> tuple[int, int]:
    """What a closure gives, submitted many times; and how many bytes went out for each."""
    data = os.urandom(size)

    def first(number: int) -> int:
        return data[number]

    before = sent_bytes()
    found = ctx.gather(*[ctx.submit(first, 0) for _ in range(COUNT)])
    return found.count(data[0]), (sent_bytes() - before) // COUNT


def sent_bytes() -> int:
    """What this process has written to its sockets and files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])
