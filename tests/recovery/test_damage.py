"""Damage to real files is detected and named; nothing is made up, and the store stays as it is."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.errors import (
    CorruptStoreError,
    InconsistentPartitionsError,
    MissingPartitionsError,
    NoPartitionsError,
    StoreError,
)
from engine.recovery import _log
from engine.recovery._apply import ApplyOptions
from engine.recovery._changes import KeyedChanges, PartitionChanges
from engine.recovery._disk import RealDisk
from engine.recovery._ids import Epoch
from engine.recovery._overlay import MISSING
from engine.recovery._verify import verify
from engine.recovery._worker_store import StoreOptions
from engine.recovery.store import RocksTables
from tests.recovery.job import COUNT, SINK, SOURCE, TIMED, Job, Model, check

OPTIONS = StoreOptions(apply=ApplyOptions(merge_bytes=1, flush_bytes=1 << 30))
KEYS = [f"key-{i}" for i in range(700)]


@dataclass
class Made:
    """A store that was killed, copies of it from before, and what it must hold."""

    root: Path
    older: Path
    """The store two epochs before."""
    other: Path
    """The store of another job."""
    model: Model


def open_job(root: Path, token: str = "t") -> Job:
    return Job(RealDisk(), RocksTables(), root, token, OPTIONS)


def epochs(job: Job, model: Model, first: int, last: int, *, apply: bool) -> None:
    for epoch in range(first, last + 1):
        rng = random.Random(epoch)
        values = [(epoch, rng.random()) for _ in KEYS]
        dues = [epoch * 1000 + i for i in range(len(KEYS))]
        gone = [f"key-{epoch}"]
        kept = [key for key in KEYS if key not in gone]
        job.store.append(
            Epoch(epoch),
            [
                KeyedChanges(COUNT, kept, values[: len(kept)], deleted=gone),
                KeyedChanges(TIMED, kept, values[: len(kept)], dues[: len(kept)], deleted=gone),
                PartitionChanges(SOURCE, {"p": epoch}),
                PartitionChanges(SINK, {"s": str(epoch)}),
            ],
        )
        job.store.prepare(Epoch(epoch))
        job.folder.commit(Epoch(epoch), {}, 0.0)
        job.store.commit(Epoch(epoch))
        model.states[COUNT] = {k: (v, None) for k, v in zip(kept, values, strict=False)}
        model.states[TIMED] = {k: (v, d) for k, v, d in zip(kept, values, dues, strict=False)}
        model.parts = {SOURCE: {"p": epoch}, SINK: {"s": str(epoch)}}
        if apply:
            job.store.apply_all()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    # Each epoch gets a file of the log of its own, so that those of applied ones are gone.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(_log, "SEGMENT_BYTES_MAX", 1)
    root, older, other = folder / "store", folder / "older", folder / "other"
    model, others = Model(), Model()
    job = open_job(root)
    epochs(job, model, 1, 2, apply=True)
    job.close(apply=True)
    shutil.copytree(root, older)
    job = open_job(root, "u")
    epochs(job, model, 3, 4, apply=True)
    epochs(job, model, 5, 6, apply=False)
    job.close(apply=False)
    job = open_job(other, "another")
    epochs(job, others, 1, 4, apply=True)
    job.close(apply=True)
    monkeypatch.undo()
    return Made(root, older, other, model)


@pytest.fixture
def root(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.root, tmp_path / "store"))


def read_all(root: Path, model: Model) -> None:
    """Open the store and compare all of it."""
    job = open_job(root, "reader")
    try:
        check(job.store, model)
        assert job.store.get_many(COUNT, KEYS) == [
            model.states[COUNT].get(key, (MISSING,))[0] for key in KEYS
        ]
    finally:
        job.close(apply=False)


def contents(root: Path) -> dict[str, bytes]:
    """All files but locks, and what RocksDB notes about its work and its options."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not path.name.startswith(("LOG", "LOCK", "OPTIONS"))
        and path.name != "rocksdict-config.json"
    }


WORKER = "shards-0001/worker-0000"
TABLE = f"{WORKER}/table"


def file(root: Path, pattern: str, number: int = -1) -> Path:
    return sorted(root.glob(pattern))[number]


def flip(path: Path, where: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, where: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * where)])


def exchange(one: Path, two: Path) -> None:
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


def replace_tree(path: Path, source: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(source, path)


MANIFEST, LOG, SST = "manifests/*.json", f"{WORKER}/log/*.log", f"{TABLE}/*.sst"
Damage = Callable[[Path, Made], object]
DAMAGES: dict[str, tuple[Damage, type[StoreError], str]] = {
    "manifest cut": (lambda r, m: cut(file(r, MANIFEST)), CorruptStoreError, "manifests/"),
    "manifest flipped": (lambda r, m: flip(file(r, MANIFEST)), CorruptStoreError, "manifests/"),
    "manifest empty": (lambda r, m: cut(file(r, MANIFEST), 0), CorruptStoreError, "manifests/"),
    "newest manifest deleted": (
        lambda r, m: file(r, MANIFEST).unlink(),
        InconsistentPartitionsError,
        "manifests are older",
    ),
    "all manifests deleted": (
        lambda r, m: [p.unlink() for p in r.glob(MANIFEST)],
        MissingPartitionsError,
        "manifests",
    ),
    "manifests folder deleted": (
        lambda r, m: shutil.rmtree(r / "manifests"),
        MissingPartitionsError,
        "manifests is missing",
    ),
    "manifests exchanged": (
        lambda r, m: exchange(file(r, MANIFEST), file(r, MANIFEST, -2)),
        CorruptStoreError,
        "under another number",
    ),
    "manifest is an older copy": (
        lambda r, m: shutil.copy(file(r, MANIFEST, -2), file(r, MANIFEST)),
        CorruptStoreError,
        "under another number",
    ),
    "manifest of another store": (
        lambda r, m: [
            p.unlink()
            or shutil.copytree(m.other / "manifests", r / "manifests", dirs_exist_ok=True)
            for p in r.glob(MANIFEST)
        ],
        InconsistentPartitionsError,
        "is of store another",
    ),
    "manifests are older": (
        lambda r, m: replace_tree(r / "manifests", m.older / "manifests"),
        InconsistentPartitionsError,
        "manifests are older",
    ),
    "log cut": (lambda r, m: cut(file(r, LOG)), CorruptStoreError, ".log: at offset"),
    "log flipped": (lambda r, m: flip(file(r, LOG)), CorruptStoreError, ".log: at offset"),
    "log empty": (lambda r, m: cut(file(r, LOG), 0), CorruptStoreError, ".log"),
    "newest file of the log deleted": (
        lambda r, m: file(r, LOG).unlink(),
        InconsistentPartitionsError,
        "log ends with epoch 5",
    ),
    "file of the log deleted": (
        lambda r, m: file(r, LOG, -2).unlink(),
        CorruptStoreError,
        ".log: this file of the recovery log is missing",
    ),
    "files of the log exchanged": (
        lambda r, m: exchange(file(r, LOG), file(r, LOG, -2)),
        CorruptStoreError,
        "under another name",
    ),
    "all files of the log deleted": (
        lambda r, m: [p.unlink() for p in r.glob(LOG)],
        MissingPartitionsError,
        "log is missing",
    ),
    "log folder deleted": (
        lambda r, m: shutil.rmtree(r / WORKER / "log"),
        MissingPartitionsError,
        "log is missing",
    ),
    "log is an older copy": (
        lambda r, m: replace_tree(r / WORKER / "log", m.older / WORKER / "log"),
        InconsistentPartitionsError,
        "log ends with epoch 2",
    ),
    "log of another store": (
        lambda r, m: replace_tree(r / WORKER / "log", m.other / WORKER / "log"),
        InconsistentPartitionsError,
        "of store another",
    ),
    "SST cut": (lambda r, m: cut(file(r, SST)), CorruptStoreError, "table"),
    "SST flipped": (lambda r, m: flip(file(r, SST, 0), 0.1), CorruptStoreError, "table"),
    "SST deleted": (lambda r, m: file(r, SST, 0).unlink(), CorruptStoreError, "table"),
    "SSTs exchanged": (
        lambda r, m: exchange(file(r, SST, 0), file(r, SST)),
        CorruptStoreError,
        "table",
    ),
    "SST of another store": (
        lambda r, m: shutil.copy(file(m.other, SST), file(r, SST)),
        CorruptStoreError,
        "table",
    ),
    "RocksDB MANIFEST cut": (
        lambda r, m: cut(file(r, f"{TABLE}/MANIFEST-*")),
        CorruptStoreError,
        "table",
    ),
    "RocksDB MANIFEST flipped": (
        lambda r, m: flip(file(r, f"{TABLE}/MANIFEST-*")),
        CorruptStoreError,
        "table",
    ),
    "RocksDB MANIFEST deleted": (
        lambda r, m: file(r, f"{TABLE}/MANIFEST-*").unlink(),
        CorruptStoreError,
        "table",
    ),
    "CURRENT deleted": (
        lambda r, m: (r / TABLE / "CURRENT").unlink(),
        CorruptStoreError,
        "CURRENT",
    ),
    "CURRENT empty": (lambda r, m: cut(r / TABLE / "CURRENT", 0), CorruptStoreError, "CURRENT"),
    "CURRENT flipped": (lambda r, m: flip(r / TABLE / "CURRENT"), CorruptStoreError, "table"),
    "CURRENT is an older copy": (
        lambda r, m: shutil.copy(m.older / TABLE / "CURRENT", r / TABLE / "CURRENT"),
        CorruptStoreError,
        "table",
    ),
    "FORMAT cut": (lambda r, m: cut(r / "FORMAT"), CorruptStoreError, "FORMAT"),
    "FORMAT flipped": (lambda r, m: flip(r / "FORMAT"), CorruptStoreError, "FORMAT"),
    "FORMAT deleted": (lambda r, m: (r / "FORMAT").unlink(), CorruptStoreError, "FORMAT"),
    "FORMAT of another store": (
        lambda r, m: shutil.copy(m.other / "FORMAT", r / "FORMAT"),
        InconsistentPartitionsError,
        "FORMAT",
    ),
    "table deleted": (
        lambda r, m: shutil.rmtree(r / TABLE),
        MissingPartitionsError,
        "table is missing",
    ),
    "table is an older copy": (
        lambda r, m: replace_tree(r / TABLE, m.older / TABLE),
        CorruptStoreError,
        "the table holds epochs up to 2 only",
    ),
    "table of another store": (
        lambda r, m: replace_tree(r / TABLE, m.other / TABLE),
        InconsistentPartitionsError,
        "store_id='another'",
    ),
    "worker deleted": (
        lambda r, m: shutil.rmtree(r / WORKER),
        MissingPartitionsError,
        "worker-0000 is missing",
    ),
    "shards deleted": (
        lambda r, m: shutil.rmtree(r / "shards-0001"),
        MissingPartitionsError,
        "worker-0000 is missing",
    ),
}


def test_an_undamaged_store_is_sound_and_read(made: Made, root: Path) -> None:
    """And verifying changes nothing."""
    before = contents(root)
    report = verify(RealDisk(), RocksTables(), root)
    assert report.faults == []
    assert report.manifest is not None
    assert report.manifest.epoch == 6
    assert report.rows == {(COUNT, 1): len(KEYS) - 1, (TIMED, 1): len(KEYS) - 1}
    assert contents(root) == before
    read_all(root, made.model)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_detected_named_and_left_as_it_is(name: str, made: Made, root: Path) -> None:
    """By `verify`, and by opening and reading the store."""
    damage, error, named = DAMAGES[name]
    damage(root, made)
    before = contents(root)
    report = verify(RealDisk(), RocksTables(), root)
    assert not report.sound
    assert any(named in str(fault) for fault in report.faults) or error is MissingPartitionsError
    with pytest.raises(error) as caught:
        read_all(root, made.model)
    assert named in str(caught.value)
    unchanged = {path: data for path, data in contents(root).items() if path in before}
    # A start may have added manifests and log files; what was there is still there.
    kept = {path for path in before if not path.startswith("manifests/")}
    if not name.startswith("SST"):
        assert {path: unchanged.get(path) for path in kept} == {path: before[path] for path in kept}


def test_a_damaged_options_file_does_no_harm(made: Made, root: Path) -> None:
    """RocksDB would end the process with a segmentation fault."""
    for path in (root / TABLE).glob("OPTIONS-*"):
        text = path.read_text()
        path.write_text(text.replace("BlockBasedTable", "BlockBasedT\0ble"))
    read_all(root, made.model)


def test_a_folder_without_any_store_is_no_store(root: Path) -> None:
    """All of it deleted."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(NoPartitionsError):
        verify(RealDisk(), RocksTables(), root)


def files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith(("LOG", "LOCK")):
            yield path


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_damaged_nothing_wrong_is_read(
    made: Made, tmp_path: Path, seed: int, soak: bool
) -> None:
    """Random flips, cuts and zeros in each file: an error, or all that is read is right."""
    rng = random.Random(seed)
    errors = 0
    for number in range(100 if soak else 4):
        for path in list(files(made.root)):
            root = Path(shutil.copytree(made.root, tmp_path / "store"))
            target = root / path.relative_to(made.root)
            data = bytearray(target.read_bytes())
            if data:
                start = rng.randrange(len(data))
                how = rng.randrange(3)
                if how == 0:
                    data[start] ^= 1 << rng.randrange(8)
                elif how == 1:
                    del data[start:]
                else:
                    data[start : start + 64] = bytes(len(data[start : start + 64]))
            target.write_bytes(data)
            try:
                read_all(root, made.model)
            except StoreError:
                errors += 1
            except AssertionError:
                pytest.fail(
                    f"{target.relative_to(root)} damaged (seed {seed}, {number}): wrong state"
                )
            shutil.rmtree(root)
    assert errors > 0
