"""Damage to the store of a real run: the next run names the damaged file, or does all of it right.

The table `DAMAGES` says for each kind of file and each kind of damage which, as a pattern. Beside
it there are whole folders that are gone, exchanged or taken from elsewhere.
`tests/recovery/test_damage.py` has the same and more for the store by itself.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine._cli.recovery_command import main as recovery
from tests.chaos.drill import assert_failed, assert_same, errors_of
from tests.chaos.scene import Scene

WORKER = "shards-0001/worker-0000"
TABLE = f"{WORKER}/table"
REAL_RUNS = 1
"""In how many of a file's damages there is time to start a real run too."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: the pattern of its name, and which of several."""

    pattern: str
    number: int = -1

    def of(self, store: Path) -> Path | None:
        """The file in a store."""
        files = sorted(store.glob(self.pattern))
        return files[self.number] if len(files) >= -self.number else None


KINDS = {
    "FORMAT": Kind("FORMAT"),
    "manifest": Kind("manifests/*.json"),
    "older manifest": Kind("manifests/*.json", -2),
    "log": Kind(f"{WORKER}/log/*.log"),
    # Of the run before the last, whose epochs are not in the table yet.
    "older log": Kind(f"{WORKER}/log/*.log", -2),
    "SST": Kind(f"{TABLE}/*.sst"),
    "MANIFEST": Kind(f"{TABLE}/MANIFEST-*"),
    "CURRENT": Kind(f"{TABLE}/CURRENT"),
    "IDENTITY": Kind(f"{TABLE}/IDENTITY"),
    "WAL": Kind(f"{TABLE}/*.log"),
    "OPTIONS": Kind(f"{TABLE}/OPTIONS-*"),
    "configuration": Kind(f"{TABLE}/rocksdict-config.json"),
}


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


CHANGES: Mapping[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "flipped": flip,
    "zeroed": lambda data: bytes(len(data)),
    "emptied": lambda _: b"",
    "garbage": lambda data: data + b"garbage" * 30,
}
HARMLESS = None
SEAL = "it does not match its checksum, or is cut off"
OTHER_NUMBER = "under another number"
HARMLESS_CHANGES = dict.fromkeys(("cut", "flipped", "zeroed", "emptied", "deleted", "garbage"))

DAMAGES: Mapping[str, Mapping[str, str | None]] = {
    "FORMAT": {
        **dict.fromkeys(CHANGES, f"FORMAT: the file is damaged: {SEAL}"),
        "deleted": "FORMAT: the file is missing, though the store's rest is there",
        "of another store": "is of store",
    },
    "manifest": {
        **dict.fromkeys(CHANGES, f".json: the manifest is damaged: {SEAL}"),
        # Back to the epoch before, of which nothing had been published: as if it had not been.
        "deleted": HARMLESS,
        "of another store": OTHER_NUMBER,
        "an older copy": OTHER_NUMBER,
    },
    # Only the newest counts.
    "older manifest": {**HARMLESS_CHANGES, "of another store": HARMLESS, "an older copy": HARMLESS},
    "log": {
        "cut": ".log: at offset .*: a record of",
        "flipped": ".log: at offset .*: a record does not match its checksum",
        "zeroed": ".log: at offset 0: no record begins here",
        "emptied": ".log: its first record is not that of a log file",
        # As a crash leaves it in the middle of an epoch that did not become durable.
        "garbage": HARMLESS,
        "deleted": "the log is older than the manifests, or was cut off",
        "of another store": ".log is the log of worker 0 of store",
        "an older copy": "under another name",
    },
    "older log": {
        "cut": ".log: cut off:",
        "flipped": ".log: at offset .*: a record does not match its checksum",
        "zeroed": ".log: at offset 0: no record begins here",
        "emptied": ".log: cut off: 0 bytes are left of",
        # Behind what the next file says belongs to it.
        "garbage": HARMLESS,
        "deleted": ".log: this file of the recovery log is missing",
        "of another store": ".log: (at offset|cut off)",
        "an older copy": ".log: (at offset|cut off)",
    },
    "SST": {
        "cut": ".sst. Expected",
        "flipped": "block checksum mismatch",
        "zeroed": "Bad table magic number",
        "emptied": ".sst. Expected",
        "garbage": ".sst. Size recorded in manifest",
        "deleted": ".sst: No such file or directory",
        "of another store": ".sst",
    },
    "MANIFEST": {
        "cut": "/table/MANIFEST-",
        "flipped": "/table/MANIFEST-",
        "zeroed": "/table/MANIFEST-",
        "emptied": "/table/MANIFEST-",
        # RocksDB stops at what is no record, and all records are before it.
        "garbage": HARMLESS,
        "deleted": "/table/MANIFEST-",
        # Which names files that aren't there, or are others.
        "of another store": "/table.*(No such file or directory|may be corrupted)",
    },
    "CURRENT": {
        "cut": "CURRENT file does not end with newline",
        "flipped": "CURRENT file corrupted",
        "zeroed": "CURRENT file does not end with newline",
        "emptied": "CURRENT file does not end with newline",
        "garbage": "CURRENT file does not end with newline",
        "deleted": "/table/CURRENT: No such file or directory",
        "of another store": "/table/MANIFEST-",
        "an older copy": "/table/MANIFEST-",
    },
    # RocksDB's own name for the table, its options and its log, none of which the store relies on.
    "IDENTITY": HARMLESS_CHANGES,
    "WAL": {"garbage": HARMLESS, "deleted": HARMLESS},
    "OPTIONS": HARMLESS_CHANGES,
    "configuration": HARMLESS_CHANGES,
}


def damage(scene: Scene, kind: str, how: str) -> None:
    """Do it; it must change something."""
    path = KINDS[kind].of(scene.drill.store)
    assert path is not None
    before = path.read_bytes()
    if how == "deleted":
        path.unlink()
        return
    if how in CHANGES:
        path.write_bytes(CHANGES[how](before))
    else:
        newest = KINDS[kind.removeprefix("older ")]
        source = newest.of(elsewhere(scene, how)) or newest.of(scene.older)
        assert source is not None
        shutil.copy(source, path)
    assert path.read_bytes() != before


def elsewhere(scene: Scene, how: str) -> Path:
    """The store that a file or folder is taken from."""
    return {"of another store": scene.other, "an older copy": scene.older}[how]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_to_a_file(
    kind: str,
    scene_of: Callable[[str], Scene],
    capsys: pytest.CaptureFixture[str],
    soak: bool,
) -> None:
    """`verify` names each, and so does a run, unless it can do without what is damaged."""
    names = list(DAMAGES[kind])
    real_runs = names if soak else random.Random(kind).sample(names, REAL_RUNS)
    scene = scene_of("worn")
    for how, named in DAMAGES[kind].items():
        scene.restore()
        damage(scene, kind, how)
        # That an older manifest is damaged is worth a word, though nobody needs it.
        if kind != "older manifest":
            check_verify(scene, named, capsys)
        if how in real_runs:
            check_run(scene, f"{kind} {how}", named, soak=soak)


def check_verify(scene: Scene, named: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """The command finds the damage and names it."""
    capsys.readouterr()
    code = recovery(["verify", str(scene.drill.store)])
    said = capsys.readouterr()
    assert code == (0 if named is None else 1), said
    assert re.search(named or "sound: ", said.out), said.out


def check_run(scene: Scene, what: str, named: str | None, *, soak: bool) -> None:
    """The run does everything right, or it says what is wrong and writes nothing."""
    before = scene.drill.output()
    done = scene.drill.run()
    sys.stdout.write(f"{what}: {errors_of(done.stderr) or 'harmless'}\n")
    if named is None:
        assert done.returncode == 0
        assert_same(scene.drill.output(), scene.whole)
        return
    assert_failed(done.returncode, done.stderr, str(scene.drill.store))
    assert re.search(named, done.stderr)
    # Damage within a table shows only when a key in it is asked for. What was written until then
    # is not durable, and the sound store cuts it off.
    if not what.startswith("SST"):
        assert scene.drill.output() == before
        if not soak:
            return
    shutil.rmtree(scene.drill.store)
    shutil.copytree(scene.saved / "store", scene.drill.store)
    scene.check()


MISSING, FOREIGN = "missing", "of store"
FOLDERS: Mapping[tuple[str, str], str] = {
    ("manifests", "deleted"): MISSING,
    ("manifests", "of another store"): FOREIGN,
    (
        "manifests",
        "an older copy",
    ): "the manifests are older|.log: this file of the recovery log is missing",
    ("shards-0001", "deleted"): MISSING,
    (WORKER, "deleted"): "worker-0000 is missing",
    (WORKER, "of another store"): "says that it is Identity",
    (WORKER, "an older copy"): "the log is older than the manifests, or was cut off",
    (f"{WORKER}/log", "deleted"): "log is missing",
    (f"{WORKER}/log", "of another store"): FOREIGN,
    (f"{WORKER}/log", "an older copy"): "the log is older than the manifests, or was cut off",
    (TABLE, "deleted"): "table is missing",
    (TABLE, "of another store"): "says that it is Identity",
}


@pytest.mark.parametrize(("folder", "how"), FOLDERS)
def test_damage_to_a_folder(
    folder: str,
    how: str,
    scene_of: Callable[[str], Scene],
    capsys: pytest.CaptureFixture[str],
    soak: bool,
) -> None:
    """One that is gone, older than the rest, or of another store, is named."""
    scene, named = scene_of("worn"), FOLDERS[folder, how]
    path = scene.drill.store / folder
    shutil.rmtree(path)
    if how != "deleted":
        shutil.copytree(elsewhere(scene, how) / folder, path)
    check_verify(scene, named, capsys)
    check_run(scene, f"{folder} {how}", named, soak=soak)


@pytest.mark.parametrize("kind", ["manifest", "log"])
def test_files_that_were_exchanged(
    kind: str, scene_of: Callable[[str], Scene], capsys: pytest.CaptureFixture[str], soak: bool
) -> None:
    """Each file knows which it is."""
    scene, named = scene_of("worn"), "under another n"
    one, two = KINDS[kind].of(scene.drill.store), KINDS[f"older {kind}"].of(scene.drill.store)
    assert one is not None
    assert two is not None
    one_was, two_was = one.read_bytes(), two.read_bytes()
    one.write_bytes(two_was)
    two.write_bytes(one_was)
    check_verify(scene, named, capsys)
    check_run(scene, f"{kind} exchanged", named, soak=soak)


AMONG_WORKERS: Mapping[str, tuple[str, str, str]] = {
    "workers exchanged": ("", "exchanged", "says that it is Identity"),
    "tables exchanged": ("/table", "exchanged", "says that it is Identity"),
    "worker deleted": ("", "deleted", "worker-0001 is missing"),
    "table deleted": ("/table", "deleted", "worker-0001/table is missing"),
    "log deleted": ("/log", "deleted", "worker-0001/log is missing"),
}


@pytest.mark.parametrize("what", AMONG_WORKERS)
def test_damage_among_workers(
    what: str, scene_of: Callable[[str], Scene], capsys: pytest.CaptureFixture[str], soak: bool
) -> None:
    """A worker's folder knows whose it is, and none can be done without."""
    part, how, named = AMONG_WORKERS[what]
    scene = scene_of("dealt")
    [shards] = [path.parent for path in scene.drill.store.glob("shards-*/worker-0001")]
    one, two = (Path(f"{shards}/worker-{number:04d}{part}") for number in (1, 2))
    if how == "deleted":
        shutil.rmtree(one)
    else:
        one.rename(shards / "aside")
        two.rename(one)
        (shards / "aside").rename(two)
    check_verify(scene, named, capsys)
    check_run(scene, what, named, soak=soak)
