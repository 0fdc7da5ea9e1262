"""Requests about dead letters, as files in the store's folder: what the next start is to do.

`python -m engine.dlq` writes one file for each command; `engine.runtime._letter_orders` meets
them. A request that is met and still there does no harm: its letters are gone, and no other
letter ever has their ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from engine.errors import CorruptStoreError
from engine.recovery._disk import Disk, write_synced, writing

Action: TypeAlias = Literal["replay", "drop"]
_NAME = re.compile(r"LETTERS\.[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class LetterRequest:
    """What is to become of some letters."""

    action: Action
    letter_ids: tuple[str, ...]


def has_requests(disk: Disk, root: Path) -> bool:
    """Whether there are any; what is no folder has none."""
    return disk.is_folder(root) and any(map(_NAME.fullmatch, disk.names(root)))


def read_requests(disk: Disk, root: Path) -> dict[str, LetterRequest]:
    """All of them, by the names of their files; those that drop letters first.

    Raises:
        CorruptStoreError: A file holds something else.
    """
    found: dict[str, LetterRequest] = {}
    for name in filter(_NAME.fullmatch, disk.names(root)):
        try:
            action, letter_ids = json.loads(disk.read(root / name))
            found[name] = LetterRequest(action, tuple(letter_ids))
        except (ValueError, TypeError) as ex:
            msg = "no request about dead letters; delete the file, and ask again"
            raise CorruptStoreError(root / name, msg) from ex
    return dict(sorted(found.items(), key=lambda item: item[1].action))


def write_request(disk: Disk, root: Path, token: str, request: LetterRequest) -> None:
    """Leave a request, which is whole or not there.

    Args:
        disk: Where the store is.
        root: The store's folder.
        token: Random, in hex.
        request: The request.

    Raises:
        StoreWriteError: The disk refused.
    """
    name = f"LETTERS.{token}"
    with writing(root, "leave a request about dead letters"):
        write_synced(
            disk, root / f"{name}.tmp", json.dumps([request.action, request.letter_ids]).encode()
        )
        disk.rename(root / f"{name}.tmp", root / name)
        disk.sync_folder(root)


def remove_requests(disk: Disk, root: Path, names: Iterable[str]) -> None:
    """Take away requests that are met.

    Raises:
        StoreWriteError: The disk refused.
    """
    with writing(root, "take away a request about dead letters"):
        for name in names:
            disk.unlink(root / name)
