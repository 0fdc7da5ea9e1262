"""What a worker writes to its store for an epoch, and how it is written to the log.

Three kinds of changes: states of keys, positions and states of partitions, and rows that a sink
keeps until they may be published. All are encoded when they are given, so the objects may be
changed at once afterwards. States go in chunks of a few hundred rows, keys in one column and values
in another: encoding a column costs a fraction of encoding rows, and a chunk is split into rows only
when it is applied to the table, in a time that a worker can spare between two batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final, NamedTuple, TypeAlias

from engine.errors import EncodeError
from engine.recovery._blame import decode_error, encode_error
from engine.recovery._codec import Codec
from engine.recovery._ids import Epoch, StepNumber
from engine.recovery._records import pack_each, unpack
from engine.recovery._rows import (
    PARTITION,
    STATE,
    pack_keys,
    partition_keys,
    partition_value,
    state_keys,
    state_value,
    unpack_keys,
)

CHUNK_ROWS: Final = 256
"""So few that applying a chunk takes about a millisecond; more would not be cheaper to encode."""
_KEPT: Final = b"k"


@dataclass(frozen=True, slots=True)
class KeyedChanges:
    """New states of keys of a step, each key at most once, in `keys` or in `deleted`."""

    step_id: str
    keys: Sequence[Any] = ()
    values: Sequence[Any] = ()
    """Their states, in the same order."""
    dues_us: Sequence[int | None] | None = None
    """When their timers are due, in microseconds since 1970 UTC; None if there are no timers."""
    deleted: Sequence[Any] = ()
    """Keys that have no state any more."""
    version: int = 1
    """The version of the states."""


@dataclass(frozen=True, slots=True)
class PartitionChanges:
    """New states of partitions of a source or sink."""

    step_id: str
    values: Mapping[str, Any]
    deleted: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows that a shard of a sink publishes once the epoch is durable, after those given before."""

    step_id: str
    shard: str
    rows: Sequence[bytes]


Changes: TypeAlias = KeyedChanges | PartitionChanges | KeptRows


class StoredState(NamedTuple):
    """The state of a key, as it was last appended."""

    value: Any
    due_us: int | None
    """When its timer is due, in microseconds since 1970 UTC."""
    version: int
    """The version of the state."""


_NOTHING: Final[dict[Any, Any]] = {}


class Kept(NamedTuple):
    """Kept rows as they are in the log."""

    step: StepNumber
    shard: str
    rows: Sequence[bytes]


class Chunk:
    """Some hundred changes of one kind and step: states of keys, or of partitions.

    It holds them as the bytes that are in the log: most are written to the table some seconds later
    and looked at by nobody before, and thousands of objects would make work for the garbage
    collector.

    Attributes:
        kind: `STATE` or `PARTITION`.
    """

    __slots__ = (
        *("_column", "_deleted", "_due_by_key", "_dues", "_keys", "_states"),
        *("epoch", "kind", "step", "version"),
    )

    def __init__(self, part: Sequence[Any], epoch: Epoch) -> None:
        self.kind: bytes
        self.step: StepNumber
        self.version: int
        self._keys: bytes
        self._column: bytes
        self._dues: Sequence[int | None] | None
        self._deleted: bytes
        self.kind, self.step, self.version, self._keys, self._column, self._dues, self._deleted = (
            part
        )
        self.epoch = epoch
        self._states: dict[Any, Any] = _NOTHING
        self._due_by_key: dict[Any, int | None] | None = None

    @property
    def keys(self) -> Sequence[Any]:
        """The keys that have new states; of partitions their names. Unpacked each time."""
        return unpack_keys(self._keys)

    @property
    def deleted(self) -> Sequence[Any]:
        """The keys that have no state any more. Unpacked each time."""
        return unpack_keys(self._deleted)

    def part(self) -> tuple[Any, ...]:
        """The chunk as a part of a log record."""
        return (
            *(self.kind, self.step, self.version),
            *(self._keys, self._column, self._dues, self._deleted),
        )

    @property
    def has_timers(self) -> bool:
        """Whether its step has any."""
        return self._dues is not None

    def value(self, codec: Codec, step_id: str, key: Any) -> Any:
        """The state of one key, an object that nobody else has. Errors as `table_values`."""
        if key not in self._states:
            # All at once, to be given away one by one, each once.
            self._states = dict(zip(self.keys, self._decoded(codec, step_id, key), strict=True))
        return self._states.pop(key)

    def state(self, codec: Codec, step_id: str, key: Any) -> StoredState:
        """As `value`, with what is stored beside it."""
        return StoredState(self.value(codec, step_id, key), self.due_us(key), self.version)

    def _decoded(self, codec: Codec, step_id: str, wanted: Any = None) -> list[Any]:
        """The states; an error names the key that is `wanted`, if it is known."""
        try:
            return codec.decode_column(self._column)
        except Exception as ex:
            # A user's class may raise anything when it is decoded.
            raise decode_error(self._column, ex, step_id, wanted) from ex

    def _encoded(self, codec: Codec, step_id: str, chosen: Sequence[bool] | None) -> list[bytes]:
        """The encoded states of all keys, or of those that are chosen."""
        if chosen is not None:
            return codec.encode_rows([*compress(self._decoded(codec, step_id), chosen)])
        try:
            return codec.column_rows(self._column)
        except Exception as ex:
            # As above.
            raise decode_error(self._column, ex, step_id, None) from ex

    def due_us(self, key: Any) -> int | None:
        """When the timer of a key is due."""
        if self._dues is None:
            return None
        if self._due_by_key is None:
            self._due_by_key = dict(zip(self.keys, self._dues, strict=True))
        return self._due_by_key[key]

    def table_keys(self, keys: Sequence[Any]) -> list[bytes]:
        """The keys of rows in the table."""
        if self.kind == STATE:
            return state_keys(self.step, keys)
        return partition_keys(self.step, keys)

    def table_values(
        self, codec: Codec, step_id: str, chosen: Sequence[bool] | None = None
    ) -> tuple[list[bytes], Sequence[int | None]]:
        """The values of rows in the table, and when their timers are due.

        Args:
            codec: For the states.
            step_id: Of the step, for errors.
            chosen: For each of the chunk's keys whether its row is wanted; None for all.

        Raises:
            DecodeError: A class is gone, or pickle isn't allowed.
        """
        rows, dues = self._encoded(codec, step_id, chosen), self._dues
        if self.kind == PARTITION:
            return [partition_value(row, self.epoch) for row in rows], [None] * len(rows)
        if dues is None and self.version == 1:
            return rows, [None] * len(rows)
        if dues is None:
            due_of_keys: Sequence[int | None] = [None] * len(rows)
        else:
            due_of_keys = dues if chosen is None else [*compress(dues, chosen)]
        values = [
            state_value(row, due, self.version) for row, due in zip(rows, due_of_keys, strict=True)
        ]
        return values, due_of_keys


def encode_changes(
    changes: Changes, step: StepNumber, epoch: Epoch, codec: Codec
) -> Iterator[Chunk | Kept]:
    """Changes as they are written to the log.

    Raises:
        EncodeError: A state can't be encoded.
        InternalError: One of the keys is no key.
    """
    if isinstance(changes, KeptRows):
        yield Kept(step, changes.shard, list(changes.rows))
        return
    if isinstance(changes, PartitionChanges):
        names = list(changes.values)
        column = _column(codec, changes.step_id, names, list(changes.values.values()))
        part = PARTITION, step, 1, pack_keys(names), column, None, pack_keys(list(changes.deleted))
        yield Chunk(part, epoch)
        return
    keys, values, dues = changes.keys, changes.values, changes.dues_us
    for start in range(0, max(len(keys), len(changes.deleted)), CHUNK_ROWS):
        some = slice(start, start + CHUNK_ROWS)
        column = _column(codec, changes.step_id, keys[some], list(values[some]))
        some_dues = None if dues is None else list(dues[some])
        packed = pack_keys(keys[some]), column, some_dues, pack_keys(changes.deleted[some])
        yield Chunk((STATE, step, changes.version, *packed), epoch)


def _column(codec: Codec, step_id: str, keys: Sequence[Any], values: list[Any]) -> bytes:
    try:
        return codec.encode_column(values)
    except Exception as ex:
        # A user's class may raise anything when it is encoded.
        for key, value in zip(keys, values, strict=True):
            error = encode_error(codec.encode_row, value, step_id, key)
            if error is not None:
                raise error from ex
        msg = f"step {step_id!r}: states can't be written: {type(ex).__name__}: {ex}"
        raise EncodeError(msg, step_id=step_id, key=None, where="state") from ex


def encode_parts(written: Iterable[Chunk | Kept]) -> bytes:
    """The payload of a log record."""
    # One by one: the garbage collector looks at many tuples that are there at once.
    return pack_each((_KEPT, *w) if isinstance(w, Kept) else w.part() for w in written)


def decode_parts(payload: bytes, epoch: Epoch) -> Iterator[Chunk | Kept]:
    """What the payload of a log record holds."""
    for part in unpack(payload):
        yield Kept(*part[1:]) if part[0] == _KEPT else Chunk(part, epoch)


def decode_state(codec: Codec, row: bytes, step_id: str, key: object) -> Any:
    """The state in a row.

    Raises:
        DecodeError: A class is gone, or pickle isn't allowed.
    """
    try:
        return codec.decode_row(row)
    except Exception as ex:
        # A user's class may raise anything when it is decoded.
        raise decode_error(row, ex, step_id, key) from ex
