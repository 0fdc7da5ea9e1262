"""Writes a worker's recovery log: changes as they come, and with one sync that an epoch is whole.

A log is a chain of files, each naming the one before it and how many bytes of that count. So what
a dead or paused older generation wrote after those bytes is no part of the log, without anything
having to be cut off: a recovery starts a new file (`start_segment`) that goes on from the last
committed epoch.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from engine.errors import FencedError, InternalError, StoreWriteError
from engine.recovery._disk import AppendFile, Disk, writing
from engine.recovery._ids import Epoch, Generation
from engine.recovery._records import (
    LogIdentity,
    Prior,
    RecordKind,
    SegmentName,
    encode_record,
    encode_segment_header,
    pack,
)

SEGMENT_BYTES_MAX = 64 << 20
"""A segment that is longer is followed by a new one after its epoch."""

TEMPORARY = ".tmp"


class LogWriter:
    """Appends to a log. After an error of the disk it only refuses.

    Args:
        disk: Where.
        folder: The log's folder.
        identity: Whose log it is.
        generation: Of the job; part of each record.
        older: The files it goes on from, oldest first; none for an empty log.
        last_epoch: The last epoch before.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        identity: LogIdentity,
        generation: Generation,
        older: list[Prior],
        last_epoch: Epoch,
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._identity = identity
        self._generation = generation
        self._number = 1
        self._broken = False
        self._older = list(older)
        self._last_epoch = last_epoch
        self._open_epochs: dict[Epoch, tuple[int, int]] = {}
        self.keep_from: SegmentName | None = None
        """This file and later ones are not deleted: older epochs are restored from them."""
        self._file, self._length = self._start_segment()
        self.bytes_written = 0
        """Bytes of records since the start."""

    @property
    def segment(self) -> SegmentName:
        """The file that is written to."""
        return SegmentName(self._generation, self._number)

    @property
    def files(self) -> int:
        """How many files the log has."""
        return len(self._older) + 1

    @property
    def oldest(self) -> SegmentName:
        """The first file that a recovery may need."""
        return self._older[0].name if self._older else self.segment

    def first_after(self, epoch: Epoch) -> SegmentName:
        """The first file with changes of later epochs."""
        later = (prior.name for prior in self._older if prior.last_epoch > epoch)
        return next(later, self.segment)

    def append(self, epoch: Epoch, payload: bytes) -> None:
        """Write changes of an epoch, safe once that is prepared."""
        if self._length > SEGMENT_BYTES_MAX and not self._open_epochs:
            self._roll()
        count, checksums = self._open_epochs.get(epoch, (0, 0))
        checksum = self._write(RecordKind.CHANGES, epoch, payload)
        chained = crc32(checksum.to_bytes(4, "big"), checksums)
        self._open_epochs[epoch] = count + 1, chained

    def prepare(self, epoch: Epoch) -> None:
        """Note that the epoch's changes are complete, and sync."""
        if epoch <= self._last_epoch:
            msg = f"epoch {epoch} is prepared after epoch {self._last_epoch}"
            raise InternalError(msg)
        counted = self._open_epochs.pop(epoch, (0, 0))
        self._write(RecordKind.PREPARED, epoch, pack(counted))
        self._sync(f"sync the recovery log of epoch {epoch}")
        self._last_epoch = epoch

    def note_committed(self, epoch: Epoch, manifest: bytes = b"") -> None:
        """Note that the epoch's manifest is durable, without a sync.

        Args:
            epoch: The epoch.
            manifest: What is stored from now on, if that has changed and has to be known later.
        """
        self._write(RecordKind.COMMITTED, epoch, manifest)

    def collect(self, through: Epoch) -> None:
        """Delete files all of whose epochs are at most `through`; never the one written to."""
        while self._older and self._older[0].last_epoch <= through:
            name = self._older.pop(0).name
            if self.keep_from is not None and name >= self.keep_from:
                continue
            path = self._folder / str(name)
            with writing(path, "delete a file of the recovery log"):
                self._disk.unlink(path)

    def close(self) -> None:
        """Let go of the file, without a sync."""
        self._file.close()

    def _write(self, kind: RecordKind, epoch: Epoch, payload: bytes) -> int:
        record, checksum = encode_record(kind, self._generation, epoch, payload)
        with self._all_or_broken(f"write the recovery log of epoch {epoch}"):
            self._file.write(record)
        self._length += len(record)
        self.bytes_written += len(record)
        return checksum

    def _sync(self, doing: str) -> None:
        with self._all_or_broken(doing):
            self._file.sync()

    @contextmanager
    def _all_or_broken(self, doing: str) -> Generator[None, None, None]:
        """Refuse everything once something has failed.

        Half a record may be at the end of the file then, behind which nothing can be read; and a
        second sync may succeed though the system has thrown away what the first one could not
        write.
        """
        if self._broken:
            raise StoreWriteError(self._folder, f"could not {doing}: a write before it has failed")
        self._broken = True
        with writing(self._folder, doing):
            yield
        self._broken = False

    def _roll(self) -> None:
        """Go on in a new file."""
        self._sync("sync the recovery log")
        self._file.close()
        self._older.append(Prior(self.segment, self._length, self._last_epoch))
        self._number += 1
        self._file, self._length = self._start_segment()

    def _start_segment(self) -> tuple[AppendFile, int]:
        """Make the file of `self.segment`, whole or not at all."""
        disk, path = self._disk, self._folder / str(self.segment)
        prior = self._older[-1] if self._older else None
        temporary = path.with_name(path.name + TEMPORARY)
        header, _ = encode_record(
            RecordKind.SEGMENT,
            self._generation,
            self._last_epoch,
            encode_segment_header(self._number, self._identity, prior),
        )
        with writing(self._folder, "start a file of the recovery log"):
            if disk.exists(temporary):
                disk.unlink(temporary)
            file = disk.create(temporary)
            try:
                file.write(header)
                file.sync()
                disk.link(temporary, path)
                disk.unlink(temporary)
                disk.sync_folder(self._folder)
            except FileExistsError:
                file.close()
                msg = f"{path} is there already: another process runs this generation of the job"
                raise FencedError(msg) from None
            except BaseException:
                file.close()
                raise
        return file, len(header)
