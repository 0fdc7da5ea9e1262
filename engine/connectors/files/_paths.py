"""Names of files as partitions: which file system a path is on, and its partition key.

The key of a file's partition is ``{file system}::{path}``. Workers that name the same key are
taken to see the same file, and one of them reads it; so the first part must differ between disks
that are not shared. Used by the file sources.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

GetFsId: TypeAlias = Callable[[Path], str]
"""Gives the name of the file system that a path is on."""

_SEPARATOR = "::"


def device_of(path: Path) -> str:
    """Name the file system of an existing path by its device number, in hexadecimal.

    Good on one host. A network file system has another number on each host, and a container's
    disk may get another one at each start: give a `get_fs_id` that returns a fixed name there.
    """
    return hex(path.stat().st_dev)


def part_key(fs_id: str, path: str) -> str:
    """The partition key of a file.

    Raises:
        ValueError: The file system's name contains the separator.
    """
    if _SEPARATOR in fs_id:
        msg = f"the file system id must not contain `{_SEPARATOR}`; get_fs_id gave {fs_id!r}"
        raise ValueError(msg)
    return f"{fs_id}{_SEPARATOR}{path}"


def path_in_key(key: str) -> str:
    """The path in a partition key.

    >>> path_in_key(part_key("0x2c", "data/a.txt"))
    'data/a.txt'
    """
    return key.partition(_SEPARATOR)[2]
