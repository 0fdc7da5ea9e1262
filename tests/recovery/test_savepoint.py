"""A savepoint is the whole store at one epoch, and a restored store goes on from there."""

from __future__ import annotations

import random
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest

from engine.errors import (
    CorruptStoreError,
    InconsistentPartitionsError,
    NoPartitionsError,
    StoreError,
)
from engine.recovery._disk import Disk, RealDisk
from engine.recovery._fakes import FakeDisk, MemoryTables, SimulatedCrash
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import Manifest
from engine.recovery._restore import RestorePlan, restore
from engine.recovery._savepoint import (
    Savepoint,
    SavepointCopy,
    read_savepoint,
    save_worker,
    savepoint_names,
    write_savepoint,
)
from engine.recovery._table import Tables
from engine.recovery._verify import verify
from engine.recovery.store import RocksTables
from tests.recovery.job import Model
from tests.recovery.test_rescale import Gang, run


@pytest.fixture(params=["memory", "rocks"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, Tables, Path]:
    if request.param == "rocks":
        return RealDisk(), RocksTables(), tmp_path
    disk = FakeDisk()
    return disk, MemoryTables(disk), Path("/")


def save(gang: Gang, target: Path, name: str) -> None:
    workers = tuple(save_worker(gang.disk, store, target) for store in gang.stores)
    manifest = gang.folder.manifest
    assert manifest is not None
    write_savepoint(gang.disk, target, name, Savepoint(manifest, workers))


def put_back(disk: Disk, tables: Tables, root: Path, target: Path, name: str) -> Manifest:
    """Restore a savepoint as a store of the id "id"."""
    copy = SavepointCopy(disk, target, name)
    return restore(disk, tables, root, copy, RestorePlan("id", 0.0, "continue"))


def test_a_savepoint_is_restored_to_a_store_of_its_own(place: tuple[Disk, Tables, Path]) -> None:
    """With all state, a new id, and epochs that go on; the first store goes on too."""
    disk, tables, base = place
    rng, model = random.Random(3), Model()
    gang = Gang(disk, tables, base / "store", 2)
    run(rng, gang, model, 3)
    save(gang, base / "saved", "monday")
    at_save = deepcopy(model)
    run(rng, gang, model, 3)
    gang.check(model)
    gang.close()
    told: list[tuple[int, int]] = []
    plan = RestorePlan("new-id", 0.0, "continue", progress=lambda a, b: told.append((a, b)))
    manifest = restore(
        disk, tables, base / "copy", SavepointCopy(disk, base / "saved", "monday"), plan
    )
    assert told[-1][0] == told[-1][1] > 0
    assert (manifest.epoch, manifest.store_id) == (3, "new-id")
    assert verify(disk, tables, base / "copy").faults == []
    copy = Gang(disk, tables, base / "copy")
    copy.check(at_save)
    run(rng, copy, at_save, 3)
    copy.check(at_save)
    assert copy.stores[0].committed == 6
    copy.close()
    first = Gang(disk, tables, base / "store")
    first.check(model)
    first.close()


def test_a_restored_store_can_be_rescaled(place: tuple[Disk, Tables, Path]) -> None:
    """As any other."""
    disk, tables, base = place
    rng, model = random.Random(4), Model()
    gang = Gang(disk, tables, base / "store", 3)
    run(rng, gang, model, 3)
    save(gang, base / "saved", "s")
    gang.close()
    put_back(disk, tables, base / "copy", base / "saved", "s")
    copy = Gang(disk, tables, base / "copy")
    copy.rescale(2)
    copy.check(model)
    copy.close()


def test_savepoints_share_files(place: tuple[Disk, Tables, Path]) -> None:
    """A second one of the same state adds few."""
    disk, tables, base = place
    rng, model = random.Random(5), Model()
    gang = Gang(disk, tables, base / "store", 1)
    run(rng, gang, model, 3)
    save(gang, base / "saved", "a")
    once = set(disk.names(base / "saved" / "objects"))
    save(gang, base / "saved", "b")
    assert savepoint_names(disk, base / "saved") == ["a", "b"]
    more = set(disk.names(base / "saved" / "objects")) - once
    assert len(more) < len(once)
    with pytest.raises(StoreError, match="there is a savepoint 'b'"):
        save(gang, base / "saved", "b")
    gang.close()


def test_parts_of_two_stores_do_not_mix(place: tuple[Disk, Tables, Path]) -> None:
    """A restored store's worker is not the first store's."""
    disk, tables, base = place
    gang, model = Gang(disk, tables, base / "store", 1), Model()
    run(random.Random(6), gang, model, 2)
    save(gang, base / "saved", "a")
    gang.close()
    put_back(disk, tables, base / "copy", base / "saved", "a")
    one, two = (StorePaths(base / name).shards(1) / "worker-0000" for name in ("store", "copy"))
    disk.rename(one, one.with_name("aside"))
    disk.make_folder(one)
    for part in ("table", "log"):
        disk.make_folder(one / part)
    for name in disk.names(two / "table"):
        if not name.startswith(("LOG", "LOCK")):
            file = disk.create(one / "table" / name)
            file.write(disk.read(two / "table" / name))
            file.close()
    with pytest.raises(InconsistentPartitionsError, match="store_id='id'"):
        Gang(disk, tables, base / "store")


def saved() -> tuple[FakeDisk, Path, Model]:
    disk, model = FakeDisk(), Model()
    gang = Gang(disk, MemoryTables(disk), Path("/store"), 2)
    run(random.Random(7), gang, model, 3)
    save(gang, Path("/saved"), "a")
    return disk, Path("/saved"), model


def test_damage_to_a_savepoint_is_found_before_anything_is_made() -> None:
    """A flipped byte, a missing file, a damaged or missing description."""
    disk, target, _ = saved()
    objects = target / "objects"
    name = disk.names(objects)[0]
    data = disk.read(objects / name)
    disk.put_durable(objects / name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptStoreError, match="is damaged"):
        put_back(disk, MemoryTables(disk), Path("/copy"), target, "a")
    disk.unlink(objects / name)
    with pytest.raises(CorruptStoreError, match="is missing"):
        put_back(disk, MemoryTables(disk), Path("/copy"), target, "a")
    assert not disk.exists(Path("/copy"))
    text = disk.read(target / "savepoints" / "a.json")
    disk.put_durable(target / "savepoints" / "a.json", text.replace(b"DATA", b"DATE"))
    with pytest.raises(CorruptStoreError, match=r"a\.json: the savepoint is damaged"):
        read_savepoint(disk, target, "a")
    with pytest.raises(NoPartitionsError, match="there is no savepoint 'b' in /saved; there: a"):
        read_savepoint(disk, target, "b")
    with pytest.raises(StoreError, match="can't be the name"):
        read_savepoint(disk, target, "../a")


def test_a_savepoint_is_not_restored_over_something() -> None:
    """The folder must be empty."""
    disk, target, _ = saved()
    with pytest.raises(NoPartitionsError, match="is not empty"):
        put_back(disk, MemoryTables(disk), Path("/store"), target, "a")


def test_a_crash_leaves_no_half_savepoint() -> None:
    """Before each operation; it can be made again, and the store is as it was."""
    crashed, crash_at = True, 0
    while crashed:
        crash_at += 1
        rng, model = random.Random(8), Model()
        disk = FakeDisk()
        disk.make_folder(Path("/store"))
        disk.sync_folder(Path("/"))
        gang = Gang(disk, MemoryTables(disk), Path("/store"), 2)
        run(rng, gang, model, 3)
        disk.crash_at = disk.ops + crash_at
        crashed = True
        with suppress(SimulatedCrash):
            save(gang, Path("/saved"), "a")
            crashed = False
        disk = disk.after_crash(crash_at)
        gang = Gang(disk, MemoryTables(disk), Path("/store"))
        gang.check(model)
        if savepoint_names(disk, Path("/saved")):
            SavepointCopy(disk, Path("/saved"), "a").check()
        else:
            save(gang, Path("/saved"), "a")
        put_back(disk, MemoryTables(disk), Path("/copy"), Path("/saved"), "a")
        copy = Gang(disk, MemoryTables(disk), Path("/copy"))
        copy.check(model)
        copy.close()
        gang.close()
