"""The store on a real disk, with RocksDB: whatever ends the process, the next one resumes."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import StoreInUseError, StoreWriteError
from engine.recovery._apply import ApplyOptions
from engine.recovery._changes import KeyedChanges
from engine.recovery._disk import RealDisk
from engine.recovery._ids import Epoch
from engine.recovery._worker_store import StoreOptions
from engine.recovery.store import RocksTables
from tests.recovery.job import COUNT, SINK, Job, Model, check, check_clean, run_epochs

CHILD = """
import pickle, random, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.recovery.child import live
live(Path({folder!r}), Path({journal!r}), {seed})
"""
REPOSITORY = str(Path(__file__).parents[2])


def start(folder: Path, journal: Path, seed: int) -> subprocess.Popen[bytes]:
    code = CHILD.format(root=REPOSITORY, folder=str(folder), journal=str(journal), seed=seed)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )


def open_job(folder: Path, token: str, **kw) -> Job:
    return Job(RealDisk(), RocksTables(), folder, token, **kw)


def test_lives_that_end_in_order(tmp_path: Path) -> None:
    """With and without applying before the end."""
    rng = random.Random(3)
    history = {0: Model()}
    for life in range(6):
        job = open_job(tmp_path / "store", f"life{life}")
        check(job.store, history[job.manifest.epoch])
        run_epochs(job, rng, history, 5)
        if life % 3 == 2:
            check_clean(job.store, history[job.store.committed])
        job.close(apply=life % 2 == 0)
    assert job.store.committed == 30


@pytest.mark.parametrize("seed", range(3))
def test_kill_9(tmp_path: Path, seed: int, soak: bool) -> None:
    """A child is killed at random moments, over and over; each life checks what it finds."""
    rng = random.Random(seed)
    folder, journal = tmp_path / "store", tmp_path / "journal"
    kills = 40 if soak else 4
    for life in range(kills):
        child = start(folder, journal, rng.randrange(1 << 30))
        assert child.stdout is not None
        ready = child.stdout.readline()
        if not ready:
            break
        # Real time on purpose: the moment of the kill is what varies.
        time.sleep(rng.random() * 0.4)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert ready == b"ready\n", (life, ready)
    else:
        job = open_job(folder, "last")
        assert job.manifest.generation == kills + 1
        history = pickle.loads(journal.read_bytes())
        check_clean(job.store, history[job.manifest.epoch])
        assert job.store.kept_rows(SINK) == history[job.manifest.epoch].kept
        job.close(apply=True)
        return
    pytest.fail(f"life {life} did not resume; it exited with {child.wait()}")


def test_a_large_epoch_is_applied_and_survives(tmp_path: Path) -> None:
    """Many chunks, a background flush, and the log collected after it."""
    options = StoreOptions(apply=ApplyOptions(merge_bytes=1, flush_bytes=1 << 20))
    job = open_job(tmp_path / "store", "one", options=options)
    keys = [f"key-{i}" for i in range(30_000)]
    for epoch in (1, 2, 3):
        values = [(epoch, i, "x" * 20) for i in range(len(keys))]
        job.store.append(Epoch(epoch), [KeyedChanges(COUNT, keys, values)])
        job.store.prepare(Epoch(epoch))
        job.folder.commit(Epoch(epoch), {}, 0.0)
        job.store.commit(Epoch(epoch))
        while job.store.apply_slice():
            pass
    job.close(apply=False)
    again = open_job(tmp_path / "store", "two")
    assert again.store.get_many(COUNT, keys[::1000]) == [
        (3, i, "x" * 20) for i in range(0, 30_000, 1000)
    ]
    assert again.store.row_count(COUNT) == 30_000
    again.close(apply=True)


@pytest.mark.parametrize("name", ["FORMAT", "000000000001.json", "00000001-00000001.log"])
def test_a_file_without_permission_is_told(tmp_path: Path, name: str) -> None:
    """By an error of ours that names the folder and the reason."""

    class Strict(RealDisk):
        def read(self, path: Path) -> bytes:
            if path.name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return super().read(path)

    open_job(tmp_path / "store", "one").close(apply=False)
    with pytest.raises(StoreWriteError, match=f"{tmp_path}.*: could not .*: Permission denied"):
        Job(Strict(), RocksTables(), tmp_path / "store", "two")
    open_job(tmp_path / "store", "three").close(apply=False)


def test_folders_and_files_are_private(tmp_path: Path) -> None:
    """Nobody but the owner may enter any folder of the store."""
    job = open_job(tmp_path / "store", "one")
    job.close(apply=True)
    folders = [tmp_path / "store", *(p for p in (tmp_path / "store").rglob("*") if p.is_dir())]
    assert len(folders) >= 5
    assert {oct(p.stat().st_mode & 0o777) for p in folders} == {"0o700"}


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    """A process that is ending holds it for a moment more; one that stays is named."""
    held = RealDisk().lock(tmp_path / "LOCK")
    with pytest.raises(StoreInUseError, match=f"another process \\(pid {os.getpid()}\\) has"):
        RealDisk(0.05).lock(tmp_path / "LOCK")
    timer = threading.Timer(0.1, held.release)
    timer.start()
    RealDisk(30.0).lock(tmp_path / "LOCK").release()
    timer.join()
