"""The recovery store as it really is: RocksDB, files, and what a user's choices mean for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from engine.recovery import RecoveryConfig
from engine.recovery._backups import BackupOptions
from engine.recovery._disk import RealDisk
from engine.recovery._letter_requests import has_requests
from engine.recovery._worker_store import StoreOptions, bounded
from engine.recovery.store import RocksTables
from engine.runtime._ports import (
    Clock,
    Entropy,
    SystemClock,
    SystemEntropy,
    SystemWaiter,
    Waiter,
    log,
)
from engine.runtime._store_start import StoreWorld

_LOCK_WAIT_S = 5.0
"""As long as a process may be silent before it is taken for dead."""

_SMALL_BUFFER_BYTES = 16 << 20
"""What a table holds back of its rows where memory is bounded."""


def real_world(
    config: RecoveryConfig,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    waiter: Waiter | None = None,
    tell: Callable[[str], None] = log,
) -> StoreWorld:
    """What a store is made of in a real run."""
    clock, bound = clock or SystemClock(), config.state_memory
    tables = RocksTables() if bound is None else RocksTables(write_buffer_bytes=_SMALL_BUFFER_BYTES)
    stores = StoreOptions() if bound is None else bounded(bound)
    backup = BackupOptions(config.backup_interval or timedelta(0), clock.time_s)
    return StoreWorld(
        *(
            RealDisk(_LOCK_WAIT_S),
            tables,
            clock,
            entropy or SystemEntropy(),
            waiter or SystemWaiter(),
            tell,
        ),
        options=replace(stores, backup=backup),
    )


def letters_asked_for(config: RecoveryConfig) -> bool:
    """Whether somebody has left requests about dead letters in the store, if there is one."""
    return has_requests(RealDisk(), Path(config.db_dir))
