"""How much of this machine its processes may use: processors and memory, less what limits take.

Control groups are those of Linux (version 2, and the two files of version 1 that containers have).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

_GROUPS = "/sys/fs/cgroup"
_UNLIMITED_BYTES = 1 << 60
"""What version 1 says if there is no limit is more than this."""

Read: TypeAlias = Callable[[str], str]
"""What a file holds; empty if there is none."""


class Machine(NamedTuple):
    """What there is."""

    cpu: float
    """Processors, or the share of their time that the control group has."""
    memory: int
    """Bytes; 0 if it isn't known."""


def this_machine() -> Machine:
    """The machine that this process is on, as far as it may use it."""
    return machine_of(_read, len(os.sched_getaffinity(0)))


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="ascii")
    return ""


def machine_of(read: Read, processors: int) -> Machine:
    """What files of the system say.

    Args:
        read: Reads them.
        processors: So many may this process run on.
    """
    groups = list(_groups(read))
    cpus = [float(processors), *(_cpu(read(f"{group}/cpu.max")) for group in groups)]
    quota, period = (read(f"{_GROUPS}/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    cpus.append(_cpu(f"{quota} {period}"))
    files = [f"{group}/memory.max" for group in groups]
    files.append(f"{_GROUPS}/memory/memory.limit_in_bytes")
    limits = [int(text) for file in files if (text := read(file).strip()).isdigit()]
    limits = [limit for limit in limits if limit < _UNLIMITED_BYTES]
    memory = [nbytes for nbytes in (*limits, _memory(read)) if nbytes > 0]
    return Machine(min(cpu for cpu in cpus if cpu > 0), min(memory, default=0))


def _groups(read: Read) -> list[str]:
    """The folders of this process's control group and of those that it is part of."""
    lines = [line for line in read("/proc/self/cgroup").splitlines() if line.startswith("0::")]
    path = lines[0].removeprefix("0::").strip("/") if lines else ""
    names = path.split("/") if path else []
    return ["/".join([_GROUPS, *names[:count]]) for count in range(len(names) + 1)]


def _cpu(text: str) -> float:
    """Of a quota and a period of time; 0 for no limit."""
    words = text.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return 0.0
    return int(words[0]) / int(words[1])


def _memory(read: Read) -> int:
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
