"""Reads a worker's recovery log back, and tells a torn end from damage.

The end of a log that a crash tore is normal. It is accepted if, and only if, every epoch that the
manifest names lies whole before it; anything else is an error that names file and offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from engine.errors import (
    CorruptStoreError,
    InconsistentPartitionsError,
    MissingPartitionsError,
    StoreError,
    StoreFormatError,
)
from engine.recovery._disk import Disk
from engine.recovery._ids import Epoch
from engine.recovery._records import (
    FORMAT,
    DamagedRecordError,
    LogIdentity,
    Prior,
    Record,
    RecordKind,
    SegmentName,
    checksum_of,
    decode_records,
    decode_segment_header,
    unpack,
)


@dataclass(frozen=True, slots=True)
class LogTarget:
    """Up to where a log is to be read, and from where it must be there."""

    committed: Epoch
    """The epoch that the manifest names."""
    applied: Epoch
    """The epoch up to which the table holds all changes."""
    base: Epoch
    """The epoch that the table was made with; the log has nothing of it."""


@dataclass(slots=True)
class LogContents:
    """What a log holds up to the committed epoch."""

    epochs: dict[Epoch, list[bytes]] = field(default_factory=dict[Epoch, list[bytes]])
    """Payloads of the epochs that are not applied yet, and of the committed one, in order."""
    chain: list[Prior] = field(default_factory=list[Prior])
    """The files, oldest first, each with its length up to the committed epoch."""
    leftovers: list[str] = field(default_factory=list[str])
    """Names of files that can be deleted: unfinished ones, those of epochs that did not become
    durable, and, if not everything was read, those that are not needed any more."""


def read_log(
    disk: Disk, folder: Path, identity: LogIdentity, target: LogTarget, *, everything: bool = False
) -> LogContents:
    """Read a log as far as a recovery needs it.

    Args:
        disk: Where.
        folder: The log's folder.
        identity: Whose log it must be.
        target: Up to where.
        everything: Read files too that are not needed any more, to check them.

    Raises:
        CorruptStoreError: It is damaged before the end of the committed epoch.
        InconsistentPartitionsError: It is of another age than the manifest or the table.
        MissingPartitionsError: There is none.
        StoreFormatError: A newer engine wrote it.
    """
    if target.applied > target.committed:
        msg = (
            f"{folder.parent}: the table holds epoch {target.applied}, but the newest manifest "
            f"names epoch {target.committed}: the manifests are older than this worker's store"
        )
        raise InconsistentPartitionsError(msg)
    segments = _chain(disk, folder, identity, target, everything=everything)
    contents = _contents(segments, target)
    if target.committed > target.base and target.committed not in contents.epochs:
        raise _too_short(folder, segments, target)
    _check_complete(folder, contents, target)
    _check_not_newer(folder, segments, target)
    used = {str(prior.name) for prior in contents.chain}
    contents.leftovers = [name for name in disk.names(folder) if name not in used]
    return contents


def _contents(segments: list[_Segment], target: LogTarget) -> LogContents:
    contents = LogContents()
    for segment in segments:
        end = _take(segment, target, contents.epochs)
        if end is not None:
            contents.chain.append(Prior(segment.name, end, segment.last_epoch(target.committed)))
        if target.committed in contents.epochs:
            return contents
    # Nothing was committed since the table was made, so the log begins anew.
    contents.chain.clear()
    return contents


@dataclass(frozen=True, slots=True)
class LoggedEpoch:
    """An epoch as the log has it."""

    epoch: Epoch
    payloads: list[bytes]


@dataclass(frozen=True, slots=True)
class LoggedNote:
    """What is stored from the end of an epoch on, where the log says that this has changed."""

    epoch: Epoch
    manifest: bytes


def read_epochs(
    disk: Disk, folder: Path, identity: LogIdentity, after: Epoch, through: Epoch
) -> Iterator[LoggedEpoch | LoggedNote]:
    """Read whole epochs, in order, and the notes between them; holds one file in memory.

    Args:
        disk: Where.
        folder: The log's folder.
        identity: Whose log it must be.
        after: The epoch before the first.
        through: The last one, which must be committed.

    Raises:
        StoreError: An epoch is missing or damaged. As `read_log`.
    """
    names = segments_in(disk, folder)
    prior = Prior(names[-1], -1, through) if names else None
    files: list[Prior] = []
    while prior is not None and (prior.last_epoch > after or not files):
        path = folder / str(prior.name)
        if not disk.exists(path):
            raise CorruptStoreError(path, "this file of the recovery log is missing")
        files.append(prior)
        prior = _read_segment(disk, path, prior, identity).prior
    expected = after
    for file in reversed(files):
        segment = _read_segment(disk, folder / str(file.name), file, identity)
        for found in _epochs_of(segment, after, through):
            if isinstance(found, LoggedEpoch):
                expected = Epoch(expected + 1)
                if found.epoch != expected:
                    raise CorruptStoreError(segment.path, f"it lacks epoch {expected}")
            yield found
    if expected != through:
        what = f"the recovery log ends with epoch {expected}, before epoch {through}"
        raise CorruptStoreError(folder, what)


def _epochs_of(
    segment: _Segment, after: Epoch, through: Epoch
) -> Iterator[LoggedEpoch | LoggedNote]:
    open_epochs: dict[Epoch, list[Record]] = {}
    for record in segment.records:
        if record.epoch > through:
            return
        if record.kind is RecordKind.CHANGES:
            open_epochs.setdefault(record.epoch, []).append(record)
        elif record.kind is RecordKind.PREPARED:
            changes = open_epochs.pop(record.epoch, [])
            _check_whole(segment, record, changes)
            if record.epoch > after:
                yield LoggedEpoch(record.epoch, [change.payload for change in changes])
        elif record.kind is RecordKind.COMMITTED and record.payload:
            yield LoggedNote(record.epoch, record.payload)


def segments_in(disk: Disk, folder: Path) -> list[SegmentName]:
    """The log files in a folder, oldest first, chained or not."""
    return sorted(filter(None, map(SegmentName.parse, disk.names(folder))))


@dataclass(slots=True)
class _Segment:
    name: SegmentName
    path: Path
    records: list[Record]
    prior: Prior | None
    damage: DamagedRecordError | None

    def last_epoch(self, through: Epoch) -> Epoch:
        """The last epoch prepared in this file or before it, at most `through`."""
        prepared = [r.epoch for r in self.records if r.kind is RecordKind.PREPARED]
        first = self.records[0].epoch
        return max([first, *(epoch for epoch in prepared if epoch <= through)])


def _chain(
    disk: Disk, folder: Path, identity: LogIdentity, target: LogTarget, *, everything: bool
) -> list[_Segment]:
    """The files from the oldest that is needed to the newest, each checked as far as it counts."""
    names = segments_in(disk, folder)
    if not names and target.committed > target.base:
        msg = f"{folder}: the recovery log is missing"
        raise MissingPartitionsError(msg)
    prior = Prior(names[-1], -1, target.committed) if names else None
    segments: list[_Segment] = []
    while prior is not None:
        path = folder / str(prior.name)
        needed = prior.last_epoch > target.applied or prior.last_epoch >= target.committed
        if not needed and not (everything and disk.exists(path)):
            break
        if not disk.exists(path):
            what = (
                "this file of the recovery log is missing, and the table holds epochs up to "
                f"{target.applied} only"
            )
            raise CorruptStoreError(path, what)
        segments.append(_read_segment(disk, path, prior, identity))
        prior = segments[-1].prior
    return segments[::-1]


def _read_segment(disk: Disk, path: Path, prior: Prior, identity: LogIdentity) -> _Segment:
    """Read a file; that it has a torn end is allowed to the newest alone, whose length is -1."""
    data = disk.read(path)
    newest = prior.length < 0
    if len(data) < prior.length:
        raise CorruptStoreError(path, f"cut off: {len(data)} bytes are left of {prior.length}")
    records, damage = _records(data if newest else data[: prior.length])
    if damage is not None and (not newest or not records):
        raise CorruptStoreError(path, str(damage))
    if not records or records[0].kind is not RecordKind.SEGMENT:
        raise CorruptStoreError(path, "its first record is not that of a log file")
    header = _read_header(path, records[0], prior.name, identity)
    return _Segment(prior.name, path, records, header, damage)


def _records(data: bytes) -> tuple[list[Record], DamagedRecordError | None]:
    """The sound records, and what stands in the way of reading on."""
    records: list[Record] = []
    try:
        for record in decode_records(data):
            records.append(record)  # noqa: PERF402 - those before the damage are wanted
    except DamagedRecordError as ex:
        return records, ex
    return records, None


def _read_header(
    path: Path, first: Record, name: SegmentName, identity: LogIdentity
) -> Prior | None:
    version, number, found, prior = decode_segment_header(first.payload)
    if version > FORMAT:
        msg = f"{path}: written in format {version}; this engine knows formats up to {FORMAT}"
        raise StoreFormatError(msg)
    if found != identity:
        msg = (
            f"{path} is the log of worker {found.worker} of store {found.store_id}, "
            f"not of worker {identity.worker} of store {identity.store_id}"
        )
        raise InconsistentPartitionsError(msg)
    if (first.generation, number) != (name.generation, name.number):
        its_name = SegmentName(first.generation, number)
        raise CorruptStoreError(path, f"it is the file {its_name} under another name")
    return prior


def _take(segment: _Segment, target: LogTarget, epochs: dict[Epoch, list[bytes]]) -> int | None:
    """Take the payloads of whole epochs from a file; gives the length of what counts of it.

    That is up to the end of the committed epoch, or all of it; None if nothing of it counts.
    """
    if segment.records[0].epoch > target.committed:
        return None
    open_epochs: dict[Epoch, list[Record]] = {}
    for record in segment.records:
        if record.kind is RecordKind.CHANGES:
            open_epochs.setdefault(record.epoch, []).append(record)
        elif record.kind is RecordKind.PREPARED and record.epoch <= target.committed:
            changes = open_epochs.pop(record.epoch, [])
            _check_whole(segment, record, changes)
            if record.epoch > target.applied or record.epoch == target.committed:
                epochs[record.epoch] = [change.payload for change in changes]
            if record.epoch == target.committed:
                return record.end
    return segment.records[-1].end


def _check_whole(segment: _Segment, prepared: Record, changes: list[Record]) -> None:
    """See that an epoch has the changes that were counted when it was prepared."""
    checksums = 0
    for change in changes:
        checksums = crc32(checksum_of(change).to_bytes(4, "big"), checksums)
    if (len(changes), checksums) != unpack(prepared.payload):
        msg = (
            f"at offset {prepared.offset}: epoch {prepared.epoch} lacks changes "
            "that were written before"
        )
        raise CorruptStoreError(segment.path, msg)


def _too_short(folder: Path, segments: list[_Segment], target: LogTarget) -> StoreError:
    """Why the committed epoch isn't in the log."""
    newest = segments[-1]
    if newest.damage is not None:
        return CorruptStoreError(newest.path, str(newest.damage))
    last = max(segment.last_epoch(target.committed) for segment in segments)
    msg = (
        f"{folder}: the recovery log ends with epoch {last}, but the newest manifest names epoch "
        f"{target.committed}: the log is older than the manifests, or was cut off"
    )
    return InconsistentPartitionsError(msg)


def _check_complete(folder: Path, contents: LogContents, target: LogTarget) -> None:
    """See that the log begins where the table ends."""
    for number in range(target.applied + 1, target.committed + 1):
        if Epoch(number) not in contents.epochs:
            msg = (
                f"{folder.parent}: the table holds epochs up to {target.applied}, and epoch "
                f"{number} is not in the recovery log any more: the table is older than the log"
            )
            raise InconsistentPartitionsError(msg)


def _check_not_newer(folder: Path, segments: list[_Segment], target: LogTarget) -> None:
    """See that the manifests are not older than what the log knows to be committed."""
    known = max(
        (r.epoch for s in segments for r in s.records if r.kind is RecordKind.COMMITTED),
        default=target.committed,
    )
    if known > target.committed:
        msg = (
            f"{folder.parent}: epoch {known} was committed, but the newest manifest names epoch "
            f"{target.committed}: the manifests are older than this worker's store"
        )
        raise InconsistentPartitionsError(msg)
