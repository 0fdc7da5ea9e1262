"""Reads what one worker's store holds: the table, and over it what the log has that it hasn't.

`WorkerStore` is such a view that can be written to. `view` opens one for a command that only looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from engine.errors import InternalError
from engine.recovery._blame import decode_error
from engine.recovery._changes import StoredState, decode_state
from engine.recovery._codec import Codec
from engine.recovery._ids import Epoch, StepNumber
from engine.recovery._manifest import Manifest
from engine.recovery._overlay import MISSING, Missing, Overlay, find
from engine.recovery._rows import (
    MARKED,
    PARTITION,
    STATE,
    TIMER,
    after_prefix,
    decode_timer_key,
    encode_due,
    key_of_state,
    name_of_partition,
    split_partition_value,
    split_state_value,
    state_key,
    state_keys,
    step_prefix,
)
from engine.recovery._table import Table

KeptByStep: TypeAlias = dict[StepNumber, dict[str, list[bytes]]]
"""Rows that shards of sinks kept for an epoch, by step and shard."""


class StoredPartition(NamedTuple):
    """The state of a partition, as it was last appended."""

    value: Any
    epoch: Epoch
    """The epoch it was appended in: of two workers' rows of one partition the newer one counts."""


class StateView:
    """What a worker's store holds.

    Args:
        manifest: The newest.
        table: Open, at least to read it.
        overlay: The changes that are not in the table yet.
        kept: The rows that sinks kept for the manifest's epoch.
        codec: For states.
    """

    def __init__(
        self, manifest: Manifest, table: Table, overlay: Overlay, kept: KeptByStep, codec: Codec
    ) -> None:
        self.manifest = manifest
        """What it was opened with."""
        self._table = table
        self._overlay = overlay
        self._kept = kept
        self._codec = codec

    def get_row(self, step_id: str, key: Any) -> StoredState | Missing:
        """The state of one key; `MISSING` if it has none. As `get_rows`, and faster for one."""
        step = self._number(step_id)
        chunk = find(self._overlay.indexes(STATE, step, [key]), key)
        if isinstance(chunk, Missing):
            value = self._table.get(state_key(step, key))
            return MISSING if value is None else self._state(value, step_id, key)
        return MISSING if chunk is None else chunk.state(self._codec, step_id, key)

    def get_rows(self, step_id: str, keys: Sequence[Any]) -> list[StoredState | Missing]:
        """The states of keys, in their order; `MISSING` for a key that has none.

        Each is a new object, as it was when it was appended.

        Raises:
            DecodeError: The class of a state is gone, or pickle isn't allowed.
            CorruptStoreError: A row can't be read.
        """
        return self._find(step_id, keys, MISSING, 0, lambda _, row: row)

    def get_many(self, step_id: str, keys: Sequence[Any]) -> list[Any]:
        """As `get_rows`, of each state the value alone."""
        return self._find(step_id, keys, MISSING, 0, lambda _, row: row.value)

    def load(
        self,
        step_id: str,
        keys: Sequence[Any],
        version: int,
        of_row: Callable[[Any, StoredState], Any],
    ) -> list[Any]:
        """The states of keys, in their order; None for a key that has none.

        Each is a new object, as it was when it was appended. Errors as `get_rows`.

        Args:
            step_id: Whose.
            keys: Each once.
            version: States of this version are given as they are.
            of_row: Gives others, by their key.
        """
        return self._find(step_id, keys, None, version, of_row)

    def _find(
        self,
        step_id: str,
        keys: Sequence[Any],
        missing: Missing | None,
        version: int,
        of_row: Callable[[Any, StoredState], Any],
    ) -> list[Any]:
        step = self._number(step_id)
        found: list[Any] = [missing] * len(keys)
        asked = self._find_changed(step_id, keys, found, version, of_row)
        if not asked:
            return found
        values = self._table.get_many(state_keys(step, [keys[i] for i in asked]))
        decode, plain = self._codec.decode_row, version == 1
        for i, value in zip(asked, values, strict=True):
            if value is None:
                continue
            if plain and value[0] not in MARKED:
                try:
                    found[i] = decode(value)
                except Exception as ex:
                    # A user's class may raise anything when it is decoded.
                    raise decode_error(value, ex, step_id, keys[i]) from ex
                continue
            row = self._state(value, step_id, keys[i])
            found[i] = row.value if row.version == version else of_row(keys[i], row)
        return found

    def _find_changed(
        self,
        step_id: str,
        keys: Sequence[Any],
        found: list[Any],
        version: int,
        of_row: Callable[[Any, StoredState], Any],
    ) -> Sequence[int]:
        """Fill in what the overlay knows; gives the positions that it doesn't know."""
        indexes = self._overlay.indexes(STATE, self._number(step_id), keys)
        if not indexes:
            return range(len(keys))
        unknown: list[int] = []
        for i, key in enumerate(keys):
            for index in indexes:
                chunk = index.get(key, MISSING)
                if chunk is not MISSING:
                    break
            else:
                unknown.append(i)
                continue
            if chunk is not None:
                value = chunk.value(self._codec, step_id, key)
                found[i] = (
                    value
                    if chunk.version == version
                    else of_row(key, StoredState(value, chunk.due_us(key), chunk.version))
                )
        return unknown

    def _state(self, value: bytes, step_id: str, key: object) -> StoredState:
        if value[0] not in MARKED:
            return StoredState(decode_state(self._codec, value, step_id, key), None, 1)
        row, due_us, version = split_state_value(value)
        return StoredState(decode_state(self._codec, row, step_id, key), due_us, version)

    def scan_step(self, step_id: str) -> Iterator[tuple[Any, StoredState]]:
        """All keys of a step and their states, in no order. Not to be mixed with writing.

        Errors as `get_rows`.
        """
        step = self._number(step_id)
        changed = dict(self._overlay.newest(STATE, step))
        prefix = step_prefix(STATE, step)
        for table_key, value in self._table.scan(prefix, after_prefix(prefix)):
            key = key_of_state(table_key)
            if key not in changed:
                yield key, self._state(value, step_id, key)
        for key, chunk in changed.items():
            if chunk is not None:
                yield key, chunk.state(self._codec, step_id, key)

    def has_states(self, step_id: str) -> bool:
        """Whether any key of a step may have a state; quickly found out."""
        step = self._number(step_id)
        if self._overlay.mentions(STATE, step):
            return True
        prefix = step_prefix(STATE, step)
        return next(self._table.scan(prefix, after_prefix(prefix)), None) is not None

    def row_count(self, step_id: str) -> int:
        """How many keys of a step have a state. Reads them all."""
        step = self._number(step_id)
        changed = dict(self._overlay.newest(STATE, step))
        prefix = step_prefix(STATE, step)
        stored = self._table.scan(prefix, after_prefix(prefix))
        if not changed:
            return sum(1 for _ in stored)
        untouched = sum(key_of_state(key) not in changed for key, _ in stored)
        return untouched + sum(chunk is not None for chunk in changed.values())

    def scan_timers(
        self, step_id: str, until_us: int, after_us: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Timers that are due at `until_us` or before, with their keys, in no order.

        Args:
            step_id: Whose.
            until_us: In microseconds since 1970 UTC.
            after_us: Leave out those that are due then or before: a scan that begins where the
                last one ended need not step over what was deleted since.
        """
        step = self._number(step_id)
        changed = dict(self._overlay.newest(STATE, step))
        prefix = step_prefix(TIMER, step)
        start = prefix if after_us is None else prefix + encode_due(after_us + 1)
        for table_key, _ in self._table.scan(start, prefix + encode_due(until_us + 1)):
            _, due_us, state_key = decode_timer_key(table_key)
            key = key_of_state(state_key)
            if key not in changed:
                yield due_us, key
        for key, chunk in changed.items():
            due = None if chunk is None else chunk.due_us(key)
            if due is not None and due <= until_us and (after_us is None or due > after_us):
                yield due, key

    def partitions(self, step_id: str) -> dict[str, StoredPartition]:
        """All partitions of a step that this worker has states of. Errors as `get_rows`."""
        step = self._number(step_id)
        prefix = step_prefix(PARTITION, step)
        found: dict[str, StoredPartition] = {}
        for table_key, value in self._table.scan(prefix, after_prefix(prefix)):
            row, epoch = split_partition_value(value)
            name = name_of_partition(table_key)
            found[name] = StoredPartition(decode_state(self._codec, row, step_id, name), epoch)
        for name, chunk in self._overlay.newest(PARTITION, step):
            if chunk is None:
                found.pop(name, None)
            else:
                state = chunk.state(self._codec, step_id, name)
                found[name] = StoredPartition(state.value, chunk.epoch)
        return found

    def partition_names(self, step_id: str) -> set[str]:
        """The partitions of a step that this worker has states of, which are not read."""
        step = self._number(step_id)
        prefix = step_prefix(PARTITION, step)
        names = {
            name_of_partition(key) for key, _ in self._table.scan(prefix, after_prefix(prefix))
        }
        changed = dict(self._overlay.newest(PARTITION, step))
        deleted = {name for name, chunk in changed.items() if chunk is None}
        return (names | changed.keys()) - deleted

    def kept_rows(self, step_id: str) -> dict[str, list[bytes]]:
        """The rows that each shard of a sink kept for the epoch it was opened with.

        Until the next epoch is committed; a worker that goes on has them from its sink.
        """
        return self._kept.get(self._number(step_id), {})

    def _number(self, step_id: str) -> StepNumber:
        entry = self.manifest.steps.get(step_id)
        if entry is None:
            msg = f"step {step_id!r} is not in the manifest"
            raise InternalError(msg)
        return entry.number
