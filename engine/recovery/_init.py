"""`init_db_dir`: make an empty store by hand, as programs written for Bytewax do."""

from __future__ import annotations

import secrets
from pathlib import Path

from engine.errors import NoPartitionsError, StoreError
from engine.recovery._disk import RealDisk
from engine.recovery._layout import create_store, is_store


def new_token() -> str:
    """Something that no other store and no other process has."""
    return secrets.token_hex(16)


def init_db_dir(db_dir: Path | str, count: int) -> None:
    """Make a folder that is there and empty a recovery store.

    There is no need to: `RecoveryConfig` with ``create=True``, and ``-r`` on the command line,
    make the store themselves.

    Args:
        db_dir: The folder.
        count: At least 1, and otherwise of no importance: a store has a part for each worker, and
            changes with their number.

    Raises:
        FileNotFoundError: The folder isn't there.
        StoreError: It is a store already.
        NoPartitionsError: It holds something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     init_db_dir(folder, 1)
    """
    if count < 1:
        msg = f"count must be at least 1; got {count}"
        raise ValueError(msg)
    root, disk = Path(db_dir), RealDisk()
    if not disk.is_folder(root):
        msg = f"there is no folder {root}"
        raise NoPartitionsError(msg)
    if is_store(disk, root):
        msg = f"{root} is a recovery store already"
        raise StoreError(msg)
    create_store(disk, root, new_token())
