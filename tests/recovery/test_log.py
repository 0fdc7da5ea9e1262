"""The recovery log: what is prepared is read back, and nothing else."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from engine.errors import (
    CorruptStoreError,
    FencedError,
    InconsistentPartitionsError,
    InternalError,
    MissingPartitionsError,
    StoreFormatError,
    StoreWriteError,
)
from engine.recovery import _log, _records
from engine.recovery._disk import RealDisk
from engine.recovery._fakes import FakeDisk, SimulatedCrash
from engine.recovery._ids import Epoch, Generation, WorkerIndex
from engine.recovery._log import LogWriter
from engine.recovery._log_reader import LogContents, LogTarget, read_log
from engine.recovery._records import LogIdentity

FOLDER = Path("/log")
ME = LogIdentity("store", WorkerIndex(0))


def a_disk() -> FakeDisk:
    disk = FakeDisk()
    disk.make_folder(FOLDER)
    disk.sync_folder(Path("/"))
    return disk


def writer(disk, generation=1, contents=None, last=0, folder=FOLDER) -> LogWriter:
    older = contents.chain if contents else []
    return LogWriter(disk, folder, ME, Generation(generation), older, Epoch(last))


def read(disk, committed, applied=0, base=0, folder=FOLDER, **kw) -> LogContents:
    return read_log(
        disk, folder, ME, LogTarget(Epoch(committed), Epoch(applied), Epoch(base)), **kw
    )


def write_epochs(log: LogWriter, first: int, last: int) -> None:
    for epoch in range(first, last + 1):
        log.append(Epoch(epoch), b"a%d" % epoch)
        log.append(Epoch(epoch), b"b%d" % epoch)
        log.prepare(Epoch(epoch))


def test_prepared_epochs_are_read_back_in_order() -> None:
    """Up to the committed one, from the one after the applied one."""
    disk = a_disk()
    write_epochs(writer(disk), 1, 4)
    assert read(disk, 3, 1).epochs == {2: [b"a2", b"b2"], 3: [b"a3", b"b3"]}
    assert read(disk, 4, 4).epochs == {4: [b"a4", b"b4"]}
    assert read(disk, 0).epochs == {}


def test_changes_of_the_next_epoch_may_come_before_an_epoch_is_prepared() -> None:
    """They belong to their own epoch, and to their own generation."""
    disk = a_disk()
    log = writer(disk)
    log.append(Epoch(1), b"one")
    log.append(Epoch(2), b"two")
    log.prepare(Epoch(1))
    contents = read(disk, 1)
    assert contents.epochs == {1: [b"one"]}
    again = writer(disk, 2, contents, 1)
    again.append(Epoch(2), b"two again")
    again.prepare(Epoch(2))
    assert read(disk, 2).epochs == {1: [b"one"], 2: [b"two again"]}


def test_what_a_fenced_generation_writes_later_does_not_count() -> None:
    """Its file counts up to where the next generation went on from."""
    disk = a_disk()
    old = writer(disk)
    write_epochs(old, 1, 2)
    new = writer(disk, 2, read(disk, 1), 1)
    write_epochs(old, 3, 3)
    new.append(Epoch(2), b"new")
    new.prepare(Epoch(2))
    assert read(disk, 2).epochs[Epoch(2)] == [b"new"]


def test_a_generation_can_be_started_once() -> None:
    """A second process of the same generation is fenced."""
    disk = a_disk()
    writer(disk)
    with pytest.raises(FencedError, match="is there already"):
        writer(disk)


def test_a_long_file_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """And files are collected once their epochs are applied."""
    monkeypatch.setattr(_log, "SEGMENT_BYTES_MAX", 300)
    disk = a_disk()
    log = writer(disk)
    write_epochs(log, 1, 9)
    names = disk.names(FOLDER)
    assert len(names) > 2
    assert [*read(disk, 9).epochs] == [*range(1, 10)]
    log.collect(Epoch(8))
    assert len(disk.names(FOLDER)) < len(names)
    assert read(disk, 9, 8).epochs == {9: [b"a9", b"b9"]}
    with pytest.raises((InconsistentPartitionsError, CorruptStoreError)):
        read(disk, 9, 0)


def test_epochs_only_go_up() -> None:
    """A second prepare of an epoch is the engine's own mistake."""
    log = writer(a_disk())
    write_epochs(log, 1, 1)
    with pytest.raises(InternalError):
        log.prepare(Epoch(1))


@pytest.mark.parametrize("seed", range(40))
def test_crashes_lose_only_what_was_not_prepared(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crash before every operation, also during recovery, several generations in a row."""
    monkeypatch.setattr(_log, "SEGMENT_BYTES_MAX", 300)
    rng = random.Random(seed)
    disk, committed, generation, expected = a_disk(), 0, 0, {}
    for _ in range(12):
        disk.crash_at = disk.ops + rng.randint(1, 25)
        generation += 1
        try:
            contents = read(disk, committed)
            assert contents.epochs == expected
            log = writer(disk, generation, contents, committed)
            for name in contents.leftovers:
                disk.unlink(FOLDER / name)
            early: list[bytes] = []
            while True:
                epoch = Epoch(committed + 1)
                payloads = [rng.randbytes(rng.randint(0, 40)) for _ in range(rng.randint(0, 3))]
                for payload in payloads:
                    log.append(epoch, payload)
                payloads, early = early + payloads, []
                if rng.random() < 0.3:
                    early = [b"early"]
                    log.append(Epoch(epoch + 1), b"early")
                log.prepare(epoch)
                if rng.random() < 0.8:
                    committed, expected[epoch] = epoch, payloads
                    log.note_committed(epoch)
                else:
                    break
        except SimulatedCrash:
            pass
        disk = disk.after_crash(rng.randrange(1 << 30))
    assert committed or generation == 12


def damaged(disk: FakeDisk, number: int, change) -> None:
    name = [n for n in disk.names(FOLDER) if n.endswith(".log")][number]
    disk.put_durable(FOLDER / name, change(disk.read(FOLDER / name)))


@pytest.mark.parametrize("offset", [5, 20, 40, 60, 100, 150])
def test_a_flipped_byte_before_the_committed_epochs_end_is_named(offset: int) -> None:
    """With file and offset."""
    disk = a_disk()
    write_epochs(writer(disk), 1, 3)
    damaged(disk, 0, lambda d: d[:offset] + bytes([d[offset] ^ 1]) + d[offset + 1 :])
    with pytest.raises(CorruptStoreError, match=r"00000001-00000001.log: at offset \d+"):
        read(disk, 3, 2)


def test_every_flip_and_every_cut_is_found_or_does_not_matter() -> None:
    """Whatever single byte is damaged, the epochs read are right, or it is an error."""
    disk = a_disk()
    write_epochs(writer(disk), 1, 2)
    (name,) = disk.names(FOLDER)
    data, expected = disk.read(FOLDER / name), read(disk, 1).epochs
    for offset in range(len(data)):
        for change in (
            data[:offset],
            data[:offset] + bytes([data[offset] ^ 64]) + data[offset + 1 :],
        ):
            disk.put_durable(FOLDER / name, change)
            with suppress(CorruptStoreError, InconsistentPartitionsError):
                assert read(disk, 1).epochs == expected


def test_a_log_that_ends_too_early_is_an_error() -> None:
    """An older copy, cut at a record, none at all, and one of the files gone."""
    disk = a_disk()
    log = writer(disk)
    write_epochs(log, 1, 1)
    older = disk.read(FOLDER / disk.names(FOLDER)[0])
    write_epochs(log, 2, 2)
    newer = disk.read(FOLDER / disk.names(FOLDER)[0])
    damaged(disk, 0, lambda d: older)
    with pytest.raises(InconsistentPartitionsError, match="ends with epoch 1"):
        read(disk, 2)
    damaged(disk, 0, lambda d: newer)
    writer(disk, 2, read(disk, 2), 2)
    disk.unlink(FOLDER / disk.names(FOLDER)[0])
    with pytest.raises(CorruptStoreError, match="missing"):
        read(disk, 2)
    disk.unlink(FOLDER / disk.names(FOLDER)[0])
    with pytest.raises(MissingPartitionsError):
        read(disk, 2)


def without(data: bytes, gone) -> bytes:
    """A file of the log without some records, each of the rest sound."""
    records = list(_records.decode_records(data))
    return b"".join(data[r.offset : r.end] for r in records if not gone(r))


def test_records_missing_from_the_middle_are_noticed() -> None:
    """A change of an epoch, and an epoch with all its changes."""
    disk = a_disk()
    write_epochs(writer(disk), 1, 4)
    (name,) = disk.names(FOLDER)
    whole = disk.read(FOLDER / name)
    disk.put_durable(FOLDER / name, without(whole, lambda r: r.payload == b"a2"))
    with pytest.raises(CorruptStoreError, match="epoch 2 lacks changes"):
        read(disk, 4)
    disk.put_durable(FOLDER / name, without(whole, lambda r: r.epoch == 2))
    with pytest.raises(InconsistentPartitionsError, match="epoch 2 is not in the recovery log"):
        read(disk, 4)
    assert [*read(disk, 4, 2).epochs] == [3, 4]


def test_an_older_file_that_is_cut_off_is_an_error() -> None:
    """The next file says how long it must be."""
    disk = a_disk()
    write_epochs(writer(disk), 1, 2)
    writer(disk, 2, read(disk, 2), 2)
    damaged(disk, 0, lambda d: d[:-1])
    with pytest.raises(CorruptStoreError, match="cut off"):
        read(disk, 2)


def test_ages_that_do_not_fit_are_an_error() -> None:
    """Table or log newer than the manifest, table older than the log."""
    disk = a_disk()
    log = writer(disk)
    write_epochs(log, 1, 2)
    with pytest.raises(InconsistentPartitionsError, match="manifests are older"):
        read(disk, 1, 2)
    log.note_committed(Epoch(2))
    write_epochs(log, 3, 3)
    with pytest.raises(InconsistentPartitionsError, match="epoch 2 was committed"):
        read(disk, 1, 0)


def test_anothers_log_and_a_newer_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By worker, store and format."""
    disk = a_disk()
    write_epochs(writer(disk), 1, 1)
    for other in (LogIdentity("other", WorkerIndex(0)), LogIdentity("store", WorkerIndex(1))):
        with pytest.raises(InconsistentPartitionsError, match="is the log of worker 0"):
            read_log(disk, FOLDER, other, LogTarget(Epoch(1), Epoch(0), Epoch(0)))
    fresh = a_disk()
    monkeypatch.setattr(_records, "FORMAT", 2)
    writer(fresh)
    with pytest.raises(StoreFormatError, match="format 2"):
        read(fresh, 0)


@pytest.mark.parametrize("error", [5, 28])
def test_an_error_of_the_disk_is_told(error: int) -> None:
    """EIO and ENOSPC, at each write and sync; what was prepared before stays."""
    for op in range(1, 12):
        disk = a_disk()
        log = writer(disk)
        write_epochs(log, 1, 1)
        disk.failures = {disk.ops + op: error}
        if op <= 8:
            with pytest.raises(StoreWriteError, match="/log: .*the last durable epoch is intact"):
                write_epochs(log, 2, 3)
            assert read(disk.after_crash(op), 1).epochs == {1: [b"a1", b"b1"]}


@pytest.mark.parametrize("op", range(1, 5))
def test_nothing_is_prepared_after_a_failed_write(op: int) -> None:
    """Half a record may be in the way, and a second sync may lie."""
    disk = a_disk()
    log = writer(disk)
    write_epochs(log, 1, 1)
    disk.failures = {disk.ops + op: 5}
    with pytest.raises(StoreWriteError):
        write_epochs(log, 2, 2)
    for again in (lambda: log.prepare(Epoch(2)), lambda: log.append(Epoch(2), b"x")):
        with pytest.raises(StoreWriteError, match="a write before it has failed"):
            again()
    assert read(disk.after_crash(op), 1).epochs == {1: [b"a1", b"b1"]}


def test_a_real_file(tmp_path: Path) -> None:
    """The same on a real disk."""
    disk = RealDisk()
    log = writer(disk, folder=tmp_path)
    write_epochs(log, 1, 3)
    log.close()
    assert read(disk, 3, folder=tmp_path).epochs[Epoch(2)] == [b"a2", b"b2"]
