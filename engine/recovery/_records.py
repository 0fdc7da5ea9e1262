"""Records of the recovery log, as bytes: a header with a checksum, then a payload.

Pure. `_log` writes them and `_log_reader` reads them back.

    magic  kind  generation  epoch  length  crc32 of all else  | payload
      4     4        8         8       4            4          |
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, cast
from zlib import crc32

import msgpack as untyped_msgpack  # type: ignore[import-untyped]

from engine.recovery._ids import Epoch, Generation, WorkerIndex

_msgpack: Any = untyped_msgpack

FORMAT: Final = 1
_MAGIC: Final = b"ELG1"
_HEADER = struct.Struct(">4sIQQII")
_BODY_MAX: Final = 1 << 31


class RecordKind(IntEnum):
    """What a record is for."""

    SEGMENT = 1
    """The first of each file: whose log it is and which file it goes on from."""
    CHANGES = 2
    """Changes that belong to the record's epoch."""
    PREPARED = 3
    """All changes of the epoch have been written; synced together with them."""
    COMMITTED = 4
    """The epoch's manifest is known to be durable. Not synced: nothing depends on it."""


@dataclass(frozen=True, slots=True)
class Record:
    """A sound record, and where it lies in its file."""

    kind: RecordKind
    generation: Generation
    epoch: Epoch
    payload: bytes
    offset: int
    end: int


class DamagedRecordError(Exception):
    """The bytes at an offset are no sound record: cut off, or not what was written."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"at offset {offset}: {what}")
        self.offset = offset


def encode_record(
    kind: RecordKind, generation: Generation, epoch: Epoch, payload: bytes
) -> tuple[bytes, int]:
    """A record's bytes and its checksum."""
    head = _HEADER.pack(_MAGIC, kind, generation, epoch, len(payload), 0)[:-4]
    checksum = crc32(payload, crc32(head))
    return b"".join((head, checksum.to_bytes(4, "big"), payload)), checksum


def checksum_of(record: Record) -> int:
    """The checksum that `encode_record` gave for a record."""
    head = _HEADER.pack(
        _MAGIC, record.kind, record.generation, record.epoch, len(record.payload), 0
    )
    return crc32(record.payload, crc32(head[:-4]))


def decode_records(data: bytes, start: int = 0) -> Iterator[Record]:
    """All records of a file, checked.

    Raises:
        DamagedRecordError: At the first that isn't sound.
    """
    view, offset = memoryview(data), start
    while offset < len(data):
        record = _decode_one(view, offset)
        yield record
        offset = record.end


def _decode_one(view: memoryview, offset: int) -> Record:
    body = offset + _HEADER.size
    if body > len(view):
        raise DamagedRecordError(offset, f"a record is cut off after {len(view) - offset} bytes")
    magic, kind, generation, epoch, length, checksum = _HEADER.unpack_from(view, offset)
    if magic != _MAGIC or length > _BODY_MAX:
        raise DamagedRecordError(offset, "no record begins here")
    end = body + length
    if end > len(view):
        msg = f"a record of {length} bytes is cut off after {len(view) - body}"
        raise DamagedRecordError(offset, msg)
    payload = bytes(view[body:end])
    if crc32(payload, crc32(view[offset : body - 4])) != checksum:
        raise DamagedRecordError(offset, "a record does not match its checksum")
    return Record(RecordKind(kind), Generation(generation), Epoch(epoch), payload, offset, end)


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """A file of the log; later ones compare greater."""

    generation: Generation
    number: int

    def __str__(self) -> str:
        return f"{self.generation:08d}-{self.number:08d}.log"

    @staticmethod
    def parse(name: str) -> SegmentName | None:
        """The segment a file is, by its name; None if it is none."""
        match = re.fullmatch(r"(\d{8,})-(\d{8,})\.log", name)
        return match and SegmentName(Generation(int(match[1])), int(match[2]))


@dataclass(frozen=True, slots=True)
class Prior:
    """The file that a segment goes on from, and how much of that counts."""

    name: SegmentName
    length: int
    last_epoch: Epoch
    """The last epoch that is prepared within that length."""


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Whose log it is; what is written in one store is refused in another."""

    store_id: str
    worker: WorkerIndex


def encode_segment_header(number: int, identity: LogIdentity, prior: Prior | None) -> bytes:
    """The payload of a segment's first record."""
    before = prior and [prior.name.generation, prior.name.number, prior.length, prior.last_epoch]
    return pack([FORMAT, number, identity.store_id, identity.worker, before])


def decode_segment_header(payload: bytes) -> tuple[int, int, LogIdentity, Prior | None]:
    """Format, number, identity and prior segment of a segment's first record."""
    version, number, store_id, worker, before = unpack(payload)
    prior = None
    if before is not None:
        generation, prior_number, length, last_epoch = before
        prior = Prior(SegmentName(generation, prior_number), length, last_epoch)
    return version, number, LogIdentity(store_id, worker), prior


def pack(value: Any) -> bytes:
    """Plain msgpack."""
    return cast("bytes", _msgpack.packb(value, unicode_errors="surrogatepass"))


def pack_each(values: Iterable[Any]) -> bytes:
    """As `pack`, of a list of the values, which need not be there at once."""
    packed = [pack(value) for value in values]
    return b"".join((_msgpack.Packer().pack_array_header(len(packed)), *packed))


def unpack(data: bytes) -> Any:
    """The way back."""
    return _msgpack.unpackb(
        data, use_list=False, strict_map_key=False, unicode_errors="surrogatepass"
    )
