"""The chain of manifests and the folder of a store: one writer, no gaps, nothing made up."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from engine.errors import (
    CorruptStoreError,
    FencedError,
    ForeignStoreError,
    InconsistentPartitionsError,
    InternalError,
    MissingPartitionsError,
    NoPartitionsError,
    StoreFormatError,
    StoreInUseError,
)
from engine.recovery._chain import ManifestChain
from engine.recovery._evolution import WantedStep, evolve
from engine.recovery._fakes import FakeDisk, SimulatedCrash
from engine.recovery._ids import Epoch, Generation, StepNumber
from engine.recovery._layout import create_store, read_store_id
from engine.recovery._manifest import (
    Manifest,
    ManifestTextError,
    StepEntry,
    decode_manifest,
    encode_manifest,
)
from engine.recovery._store_folder import JobIdentity, StoreFolder

ROOT = Path("/store")
JOB = JobIdentity("flow", "abc")
NO_STEPS = evolve({}, 1, {})
FIRST = Manifest(
    seq=1,
    kind="generation",
    generation=Generation(1),
    epoch=Epoch(0),
    store_id="id",
    flow_id="flow",
    fingerprint="abc",
    workers=2,
    shards=1,
    shards_epoch=Epoch(0),
    steps={"flow.a": StepEntry(StepNumber(1), "stateful", 3)},
    next_step=2,
    dropped=(7,),
    published={"flow.out": {"s\ud800": 4}},
    time_s=1.5,
)


def a_chain() -> tuple[FakeDisk, ManifestChain]:
    disk = FakeDisk()
    disk.make_folder(ROOT)
    return disk, ManifestChain(disk, ROOT, "me")


def test_a_manifest_comes_back_as_it_was() -> None:
    """All fields of it."""
    assert decode_manifest(encode_manifest(FIRST)) == FIRST


def test_every_damage_to_a_manifest_is_found() -> None:
    """Every cut and every flipped byte."""
    data = encode_manifest(FIRST)
    for offset in range(len(data)):
        for change in (
            data[:offset],
            data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :],
        ):
            with pytest.raises(ManifestTextError):
                decode_manifest(change)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", -1), ("epoch", "1"), ("epoch", True), ("kind", "x"), ("steps", 3), ("extra", 1)],
)
def test_fields_that_make_no_sense_are_refused(field: str, value: object) -> None:
    """Though the checksum is right."""
    body = json.loads(encode_manifest(FIRST)[:-15])
    body[field] = value
    text = json.dumps(body).encode()
    with pytest.raises(ManifestTextError):
        decode_manifest(text + b"crc32 %08x\n" % crc32(text))


def test_links_are_read_back_and_old_ones_collected() -> None:
    """The newest counts."""
    disk, chain = a_chain()
    assert chain.newest() is None
    second = FIRST.after_epoch(Epoch(1), {}, 2.0)
    third = second.after_start(3.0, workers=5)
    for manifest in (FIRST, second, third):
        chain.link(manifest)
    assert chain.newest() == third
    assert (third.generation, third.epoch, third.workers, third.kind) == (2, 1, 5, "generation")
    chain.collect(before=3)
    assert disk.names(ROOT) == ["000000000003.json"]


def test_the_second_of_two_writers_is_fenced() -> None:
    """Its link is not there."""
    disk, chain = a_chain()
    other = ManifestChain(disk, ROOT, "other")
    chain.link(FIRST)
    chain.link(FIRST.after_start(0.0))
    with pytest.raises(FencedError, match="newer generation"):
        other.link(FIRST.after_epoch(Epoch(1), {}, 0.0))
    assert chain.numbers() == [1, 2]
    assert all(name.endswith(".json") for name in disk.names(ROOT))


def test_a_writer_whose_number_was_collected_is_fenced() -> None:
    """The number is free again, but there are higher ones."""
    disk, chain = a_chain()
    for seq in range(1, 9):
        chain.link(replace(FIRST, seq=seq))
    chain.collect(before=7)
    with pytest.raises(FencedError):
        ManifestChain(disk, ROOT, "other").link(replace(FIRST, seq=3))
    assert chain.numbers() == [7, 8]


def test_a_manifest_under_another_number_is_damage() -> None:
    """An old copy, for example."""
    disk, chain = a_chain()
    chain.link(FIRST)
    disk.link(chain.path(1), chain.path(2))
    with pytest.raises(CorruptStoreError, match="under another number"):
        chain.newest()


def test_a_newer_format_is_left_alone() -> None:
    """It may mean anything."""
    disk, chain = a_chain()
    body = json.loads(encode_manifest(FIRST)[:-15]) | {"format": 2, "what": "else"}
    text = json.dumps(body).encode()
    disk.put_durable(chain.path(1), text + b"crc32 %08x\n" % crc32(text))
    with pytest.raises(StoreFormatError, match="format 2"):
        chain.newest()


@pytest.mark.parametrize("seed", range(50))
def test_a_link_is_there_or_not(seed: int) -> None:
    """Whatever operation the crash comes before; what was acknowledged is always there."""
    rng = random.Random(seed)
    disk, _ = a_chain()
    disk.sync_folder(Path("/"))
    linked = 0
    for life in range(5):
        chain = ManifestChain(disk, ROOT, f"life{life}")
        newest = chain.newest()
        assert (newest.seq if newest else 0) in (linked, linked + 1)
        linked = newest.seq if newest else 0
        disk.crash_at = disk.ops + rng.randint(1, 20)
        try:
            while True:
                chain.link(replace(FIRST, seq=linked + 1))
                linked += 1
                chain.collect(before=linked)
        except SimulatedCrash:
            disk = disk.after_crash(rng.randrange(1 << 30))


@pytest.mark.parametrize("seed", range(20))
def test_making_a_store_survives_crashes(seed: int) -> None:
    """Before each operation; made again it is whole."""
    for crash_at in range(1, 12):
        disk = FakeDisk()
        disk.crash_at = crash_at
        with contextlib.suppress(SimulatedCrash):
            create_store(disk, Path("/deep/store"), "one")
        disk = disk.after_crash(seed)
        folder = StoreFolder.open(disk, Path("/deep/store"), "two", create=True)
        assert folder.manifest is None
        assert folder.store_id in ("one", "two")
        folder.start_generation(JOB, NO_STEPS, 1, 0.0)


def test_a_folder_without_a_store_is_told() -> None:
    """Missing, empty, a file, or with something else in it."""
    disk = FakeDisk()
    with pytest.raises(NoPartitionsError, match="no recovery store"):
        read_store_id(disk, ROOT)
    disk.make_folder(ROOT)
    with pytest.raises(NoPartitionsError, match="no recovery store"):
        StoreFolder.open(disk, ROOT, "t")
    disk.create(ROOT / "thesis.doc")
    for create in (False, True):
        with pytest.raises(NoPartitionsError, match=r"is not empty .*thesis.doc"):
            StoreFolder.open(disk, ROOT, "t", create=create)
    assert disk.names(ROOT) == ["thesis.doc"]
    with pytest.raises(NoPartitionsError, match="is a file"):
        StoreFolder.open(disk, ROOT / "thesis.doc", "t", create=True)


def a_store(epochs: int = 2) -> FakeDisk:
    disk = FakeDisk()
    folder = StoreFolder.open(disk, ROOT, "token", create=True)
    folder.start_generation(JOB, NO_STEPS, 1, 0.0)
    disk.make_folder(ROOT / "shards-0001")
    for epoch in range(1, epochs + 1):
        folder.commit(Epoch(epoch), {}, 0.0)
    folder.close()
    return disk


def test_missing_and_damaged_parts_are_told() -> None:
    """FORMAT, the folder of manifests, all manifests, another store's FORMAT."""
    disk = a_store()
    other = a_store()
    text = disk.read(ROOT / "FORMAT")
    disk.unlink(ROOT / "FORMAT")
    for create in (False, True):
        with pytest.raises(CorruptStoreError, match="FORMAT: the file is missing"):
            StoreFolder.open(disk, ROOT, "t", create=create)
    disk.put_durable(ROOT / "FORMAT", text[:-3])
    with pytest.raises(CorruptStoreError, match="FORMAT: the file is damaged"):
        StoreFolder.open(disk, ROOT, "t", create=True)
    create_store(other, Path("/other"), "another")
    disk.put_durable(ROOT / "FORMAT", other.read(Path("/other/FORMAT")))
    with pytest.raises(InconsistentPartitionsError, match="is of store another"):
        StoreFolder.open(disk, ROOT, "t")
    disk.put_durable(ROOT / "FORMAT", text)
    for name in disk.names(ROOT / "manifests"):
        disk.unlink(ROOT / "manifests" / name)
    with pytest.raises(MissingPartitionsError, match="manifests is empty"):
        StoreFolder.open(disk, ROOT, "t")
    disk.remove_folder(ROOT / "manifests")
    with pytest.raises(MissingPartitionsError, match="manifests is missing"):
        StoreFolder.open(disk, ROOT, "t", create=True)


def test_a_store_is_opened_by_one_process() -> None:
    """And by the next one when it is closed."""
    disk = a_store()
    first = StoreFolder.open(disk, ROOT, "one")
    with pytest.raises(StoreInUseError):
        StoreFolder.open(disk, ROOT, "two")
    first.close()
    StoreFolder.open(disk, ROOT, "two").close()


def test_a_generation_fences_those_before() -> None:
    """Where locks don't keep them out, the chain does."""
    disk = FakeDisk(locks=False)
    old = StoreFolder.open(disk, ROOT, "old", create=True)
    old.start_generation(JOB, NO_STEPS, 1, 0.0)
    old.commit(Epoch(1), {}, 0.0)
    new = StoreFolder.open(disk, ROOT, "new")
    assert new.start_generation(JOB, NO_STEPS, 1, 0.0).generation == 2
    with pytest.raises(FencedError):
        old.commit(Epoch(2), {}, 0.0)
    for epoch in range(2, 12):
        new.commit(Epoch(epoch), {}, 0.0)
    with pytest.raises(FencedError):
        old.commit(Epoch(2), {}, 0.0)
    new.refresh()
    assert new.manifest is not None
    assert (new.manifest.epoch, new.manifest.generation) == (11, 2)


def test_another_flow_is_refused() -> None:
    """And another number of workers, and an epoch out of turn."""
    folder = StoreFolder.open(a_store(), ROOT, "t")
    with pytest.raises(ForeignStoreError, match="flow 'flow', not of 'other'"):
        folder.start_generation(JobIdentity("other", "abc"), NO_STEPS, 1, 0.0)
    with pytest.raises(InconsistentPartitionsError, match="rescale"):
        folder.start_generation(JOB, NO_STEPS, 2, 0.0)
    with pytest.raises(InternalError):
        folder.commit(Epoch(9), {}, 0.0)


def test_leftovers_of_dead_processes_are_removed() -> None:
    """Unfinished manifests, and shards that are not in force; not those of a newer generation."""
    disk = a_store()
    old = StoreFolder.open(disk, ROOT, "old")
    old.start_generation(JOB, NO_STEPS, 1, 0.0)
    old.close()
    disk.make_folder(ROOT / "shards-0003")
    disk.create(ROOT / "manifests" / "dead.tmp")
    disk.make_folder(ROOT / "shards-0002")
    disk.make_folder(ROOT / "shards-0002" / "worker-0000.tmp")
    disk.create(ROOT / "shards-0002" / "worker-0000.tmp" / "x")
    folder = StoreFolder.open(disk, ROOT, "t")
    folder.remove_leftovers()
    assert disk.names(ROOT) == ["FORMAT", "manifests", "shards-0001", "shards-0003"]
    assert "dead.tmp" not in disk.names(ROOT / "manifests")


def test_steps_that_come_go_and_change() -> None:
    """New ones get new numbers; gone and changed ones are named and kept."""
    first = evolve({}, 1, {"a": WantedStep("stateful"), "b": WantedStep("sink")})
    assert first.new == ("a", "b")
    second = evolve(
        first.steps, first.next_step, {"a": WantedStep("stateful", 2), "c": WantedStep("source")}
    )
    assert (second.new, second.gone, second.changed, second.migrated) == (
        ("c",),
        ("b",),
        (),
        ("a",),
    )
    assert {step: entry.number for step, entry in second.steps.items()} == {"a": 1, "b": 2, "c": 3}
    third = evolve(second.steps, second.next_step, {"b": WantedStep("source")})
    assert third.changed == ("b",)
