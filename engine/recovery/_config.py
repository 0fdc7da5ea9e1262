"""`RecoveryConfig`: where a run saves its epochs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RecoveryConfig:
    """Where a run saves its epochs, to be handed to `engine.testing.run_main`.

    Args:
        db_dir: The store's folder.
        backup_interval: How long older epochs are kept; not supported yet.
        create: Make a store if the folder is empty or isn't there. Without it a folder without a
            store is an error, so that a wrong path doesn't start a job from nothing.

    >>> RecoveryConfig("state", create=True).create
    True
    """

    db_dir: Path | str
    backup_interval: timedelta | None = None
    create: bool = False
