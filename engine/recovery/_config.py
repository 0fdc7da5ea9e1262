"""`RecoveryConfig`: where a run saves its epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RecoveryConfig:
    """Where a run saves its epochs, to be handed to `engine.testing.run_main`.

    Args:
        db_dir: The store's folder.
        backup_interval: How long older epochs are kept, so that a store can be made of one of them
            (``python -m engine.recovery restore``). A run without it drops those that are there.
        create: Make a store if the folder is empty or isn't there. Without it a folder without a
            store is an error, so that a wrong path doesn't start a job from nothing.
        state_memory: How many bytes of memory the states of each worker may take. What is used
            least stays in the store alone and is read when it is needed. All states stay in memory
            if None.

    Raises:
        ValueError: `backup_interval` is negative.

    >>> RecoveryConfig("state", create=True).create
    True
    """

    db_dir: Path | str
    backup_interval: timedelta | None = None
    create: bool = field(default=False, kw_only=True)
    state_memory: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.backup_interval is not None and self.backup_interval < timedelta(0):
            msg = f"backup_interval must not be negative; got {self.backup_interval}"
            raise ValueError(msg)
