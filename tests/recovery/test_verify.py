"""`verify` finds rows that the engine can't have written, and names them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import StoreInUseError
from engine.recovery._chain import ManifestChain
from engine.recovery._codec import Codec
from engine.recovery._fakes import FakeDisk, MemoryTables
from engine.recovery._ids import Epoch
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import encode_manifest
from engine.recovery._rows import (
    APPLIED_KEY,
    PARTITION,
    STATE,
    TIMER,
    state_value,
    step_prefix,
    timer_key,
)
from engine.recovery._table import Row
from engine.recovery._verify import verify
from engine.recovery._worker_files import encode_applied, read_meta
from tests.recovery.job import TIMED, Job, Model, run_epochs

ROOT = Path("/store")
TABLE = ROOT / "shards-0001" / "worker-0000" / "table"


def a_store() -> tuple[FakeDisk, int]:
    disk = FakeDisk()
    job = Job(disk, MemoryTables(disk), ROOT, "t")
    run_epochs(job, random.Random(4), {0: Model()}, 6)
    job.close(apply=True)
    return disk, job.manifest.steps[TIMED].number


def change(disk: FakeDisk, puts: list[Row], deletes: list[bytes]) -> None:
    table = MemoryTables(disk).open(TABLE)
    table.write(puts, deletes)
    table.flush()
    table.close()


def rows(disk: FakeDisk, prefix: bytes) -> list[Row]:
    table = MemoryTables(disk).open(TABLE)
    found = list(table.scan(prefix, prefix + b"\xff" * 20))
    table.close()
    return found


def faults(disk: FakeDisk) -> str:
    return "\n".join(map(str, verify(disk, MemoryTables(disk), ROOT).faults))


def test_a_sound_store_has_no_faults() -> None:
    """And may be opened afterwards."""
    disk, _ = a_store()
    assert faults(disk) == ""
    Job(disk, MemoryTables(disk), ROOT, "again").close(apply=False)


def test_timers_that_do_not_fit_their_states_are_found() -> None:
    """A missing one, one too many, and one in place of another."""
    disk, step = a_store()
    index = rows(disk, step_prefix(TIMER, step))
    state = rows(disk, step_prefix(STATE, step))[0][0]
    change(disk, [], [index[0][0]])
    assert "is missing from the index" in faults(disk)
    assert f"{len(index)} keys with timers, but {len(index) - 1} timers" in faults(disk)
    change(disk, [(timer_key(state, 123_456), b"")], [])
    assert "is missing from the index" in faults(disk)
    assert "keys with timers, but" not in faults(disk)
    change(disk, [index[0]], [])
    assert f"{len(index)} keys with timers, but {len(index) + 1} timers" in faults(disk)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        (STATE + b"\0\1\0" + b"sa", Codec().encode_row(1), "is not of key group 0"),
        (STATE + b"\0\1\x48" + b"?a", Codec().encode_row(1), "no key is encoded as"),
        (STATE + b"\0\x99\0" + b"sa", Codec().encode_row(1), "step number 153 is unknown"),
        (b"x\0\1", b"", "rows of kind b'x' are unknown"),
        (PARTITION + b"\0\3p", b"short", "makes no sense"),
        (PARTITION + b"\0\3p", bytes(8) + b"?", "no row begins with"),
        (PARTITION + b"\0\3p", bytes(8) + b"p\x80\x05\xff", "makes no sense"),
        (b"midentity", b"", "what the table says it is makes no sense"),
    ],
)
def test_rows_that_make_no_sense_are_named(key: bytes, value: bytes, what: str) -> None:
    """With the row and what is wrong with it."""
    disk, _ = a_store()
    change(disk, [(key, value)], [])
    assert what in faults(disk)


def test_a_state_that_is_cut_off_is_found() -> None:
    """Though RocksDB's own checksum may be right."""
    disk, step = a_store()
    key, _ = rows(disk, step_prefix(STATE, step))[0]
    change(disk, [(key, state_value(b"m\x93\x01", None, 1))], [])
    assert "makes no sense" in faults(disk)


def test_a_table_of_another_graph_is_found() -> None:
    """If the same generation of the job has used it."""
    disk, _ = a_store()
    table = MemoryTables(disk).open(TABLE)
    _, applied = read_meta(TABLE, table)
    table.close()
    change(disk, [(APPLIED_KEY, encode_applied(replace(applied, fingerprint="other")))], [])
    assert "another graph" in faults(disk)


def test_a_store_in_use_is_not_checked() -> None:
    """What a living process has open is on the move."""
    disk = FakeDisk()
    Job(disk, MemoryTables(disk), ROOT, "t")
    with pytest.raises(StoreInUseError):
        verify(disk, MemoryTables(disk), ROOT)


def test_a_store_that_was_never_started_is_sound() -> None:
    """There is nothing in it yet."""
    disk = FakeDisk()
    job = Job(disk, MemoryTables(disk), ROOT, "t")
    job.close(apply=False)
    report = verify(disk, MemoryTables(disk), ROOT)
    assert report.sound
    assert report.rows == {}


def test_the_link_of_a_fenced_process_is_no_fault() -> None:
    """A crash may bring back what it has linked in a left place, and taken away again."""
    assert faults_with_a_link_before_the_last(generations_back=2) == ""


def test_a_chain_that_goes_back_is_a_fault() -> None:
    """What the last generation was built on can't have a later epoch."""
    found = faults_with_a_link_before_the_last(generations_back=1)
    assert "it goes back behind manifest" in found


def faults_with_a_link_before_the_last(generations_back: int) -> str:
    """The faults of a store where, in place of the last link but one, there is that of an epoch."""
    disk, _ = a_store()
    for _ in range(2):
        Job(disk, MemoryTables(disk), ROOT, "t").close(apply=False)
    chain = ManifestChain(disk, StorePaths(ROOT).manifests, "t")
    newest = chain.newest()
    assert newest is not None
    assert newest.kind == "generation"
    seq = newest.seq - 1
    generation = newest.generation - generations_back
    epoch = replace(
        newest, kind="epoch", seq=seq, generation=generation, epoch=Epoch(newest.epoch + 1)
    )
    disk.unlink(chain.path(seq))
    file = disk.create(chain.path(seq))
    file.write(encode_manifest(epoch))
    file.sync()
    return faults(disk)
