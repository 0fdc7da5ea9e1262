"""Epochs made durable: what a dataflow needs to go on after a crash where it stopped.

The files, from the bottom: `_disk` and `_table` are ports, `store` is the table on RocksDB and
`_fakes` has both in memory, with crashes. `_codec` makes bytes of states. `_log` and `_log_reader`
are a worker's log, `_manifest` and `_chain` the files that commit epochs. `_worker_store` puts a
worker's parts together, `_store_folder` the whole store; `_backups` keeps older epochs. `_rescale`,
`_savepoint`, `_older_epochs`, `_restore`, `_verify` and `_admin` work on a store while no job runs;
``python -m engine.recovery`` is their command line.
"""

from engine.errors import (
    CorruptStoreError,
    DecodeError,
    EncodeError,
    FencedError,
    ForeignStoreError,
    InconsistentPartitionsError,
    MissingPartitionsError,
    NoPartitionsError,
    StoreError,
    StoreFormatError,
    StoreInUseError,
    StoreWriteError,
)
from engine.recovery._config import RecoveryConfig
from engine.recovery._init import init_db_dir

__all__ = [
    "CorruptStoreError",
    "DecodeError",
    "EncodeError",
    "FencedError",
    "ForeignStoreError",
    "InconsistentPartitionsError",
    "MissingPartitionsError",
    "NoPartitionsError",
    "RecoveryConfig",
    "StoreError",
    "StoreFormatError",
    "StoreInUseError",
    "StoreWriteError",
    "init_db_dir",
]
