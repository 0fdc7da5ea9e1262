"""`python -m engine.recovery`: what each command shows and does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine._cli.recovery_command import main
from engine.errors import NoPartitionsError, StoreError
from engine.recovery import init_db_dir
from engine.recovery._changes import KeptRows, KeyedChanges, PartitionChanges
from engine.recovery._disk import RealDisk
from engine.recovery._evolution import WantedStep, evolve
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._overlay import MISSING
from engine.recovery._rows import PARTITION, STATE, TIMER, step_prefix
from engine.recovery._store_folder import StoreFolder
from engine.recovery._worker_store import WorkerSpot, WorkerStore
from engine.recovery.store import RocksTables
from tests.recovery.job import COUNT, JOB, SINK, SOURCE, TIMED, WANTED, Job


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that was killed after two epochs, the second of them in the log alone."""
    job = Job(RealDisk(), RocksTables(), tmp_path / "store", "t")
    for epoch in (1, 2):
        job.store.append(
            Epoch(epoch),
            [
                KeyedChanges(COUNT, ["a", "b", ("c", 1)], [epoch, (epoch, 2.0), {"n": [epoch]}]),
                KeyedChanges(TIMED, ["t"], [b"x"], [1_700_000_000_000_000]),
                PartitionChanges(SOURCE, {"part-0": epoch * 10}),
            ],
        )
        job.store.prepare(Epoch(epoch))
        job.folder.commit(Epoch(epoch), {SINK: {"s": 1}}, 1_700_000_000.0)
        job.store.commit(Epoch(epoch))
        if epoch == 1:
            job.store.apply_all()
    job.close(apply=False)
    return tmp_path / "store"


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_ls_shows_what_there_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flow, epochs, steps with their keys, and when."""
    code, out, _ = run(capsys, "ls", root)
    assert code == 0
    assert "flow 'flow', store t" in out
    assert "epoch 2, generation 1, workers 1, written 2023-11-14T22:13:20+00:00" in out
    assert "step flow.count: stateful, 3 keys" in out
    assert "step flow.in: source, 0 keys, 1 partitions" in out


def test_verify_says_sound_or_names_faults(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And exits with 0 or 1."""
    assert run(capsys, "verify", root) == (0, "sound: epoch 2, 4 keys\n", "")
    (log,) = root.glob("shards-0001/worker-0000/log/*.log")
    data = bytearray(log.read_bytes())
    data[100] ^= 1
    log.write_bytes(data)
    code, out, _ = run(capsys, "verify", root)
    assert code == 1
    assert f"fault: {log}: at offset" in out


def test_show_shows_one_key_or_all(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Python writes it; keys that are no texts as literals."""
    assert run(capsys, "show", root, COUNT, "b") == (0, "(2, 2.0)\n", "")
    assert run(capsys, "show", root, COUNT, "('c', 1)", "--literal") == (0, "{'n': [2]}\n", "")
    code, out, _ = run(capsys, "show", root, TIMED, "t")
    assert out == "b'x'\ntimer due at 2023-11-14T22:13:20+00:00\n"
    code, _, err = run(capsys, "show", root, COUNT, "z")
    assert (code, err) == (1, "step 'flow.count' has no state of key 'z'\n")
    code, out, _ = run(capsys, "show", root, COUNT, "--limit", 2)
    assert out.count("\n") == 3
    assert "only 2 are shown" in out
    code, _, err = run(capsys, "show", root, "flow.nope", "z")
    assert code == 1
    assert "the store has no step 'flow.nope'; it has: 'flow.count', 'flow.in'" in err
    code, _, err = run(capsys, "show", root, COUNT, "1.5", "--literal")
    assert code == 2


def test_export_writes_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exact where JSON can be; by `repr` where not."""
    code, out, _ = run(capsys, "export", root)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {"step": COUNT, "key": "a", "state": 2} in lines
    assert {"step": COUNT, "key": "b", "state": {"repr": "(2, 2.0)"}} in lines
    assert {"step": COUNT, "key": {"repr": "('c', 1)"}, "state": {"n": [2]}} in lines
    assert {"step": SOURCE, "partition": "part-0", "state": 20} in lines
    timed = {
        "due": "2023-11-14T22:13:20+00:00",
        "key": "t",
        "state": {"repr": "b'x'"},
        "step": TIMED,
    }
    assert timed in lines
    assert len(lines) == 5
    _, out, _ = run(capsys, "export", root, SOURCE)
    assert len(out.splitlines()) == 1


def test_pickled_states_can_be_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading one runs code."""
    job = Job(RealDisk(), RocksTables(), tmp_path / "store", "t")
    job.store.append(Epoch(1), [KeyedChanges(COUNT, ["a"], [Path("own")])])
    job.store.prepare(Epoch(1))
    job.folder.commit(Epoch(1), {}, 0.0)
    job.store.commit(Epoch(1))
    job.close(apply=True)
    assert run(capsys, "show", tmp_path / "store", COUNT, "a")[1] == "PosixPath('own')\n"
    code, _, err = run(capsys, "show", tmp_path / "store", COUNT, "a", "--no-pickle")
    assert code == 1
    assert "step 'flow.count', key 'a': the state can't be read: it is pickled" in err


def reopen(root: Path, wanted: dict[str, WantedStep]) -> WorkerStore:
    folder = StoreFolder.open(RealDisk(), root, "again")
    old = folder.started()
    manifest = folder.start_generation(JOB, evolve(old.steps, old.next_step, wanted), 1, 0.0)
    return WorkerStore.open(WorkerSpot(RealDisk(), RocksTables(), root, WorkerIndex(0)), manifest)


def test_a_step_is_renamed_with_its_states(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those in the table and those in the log."""
    code, out, _ = run(capsys, "rename-step", root, COUNT, "flow.total")
    assert (code, out) == (0, "step flow.count is flow.total now\n")
    assert run(capsys, "rename-step", root, "flow.total", TIMED)[0] == 1
    assert run(capsys, "rename-step", root, "flow.none", "flow.x")[0] == 1
    wanted = {**WANTED, "flow.total": WANTED[COUNT]}
    del wanted[COUNT]
    store = reopen(root, wanted)
    assert store.get_many("flow.total", ["a", "b"]) == [2, (2, 2.0)]
    store.close()


def test_a_dropped_step_leaves_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither states nor timers nor partitions; a step of the same id starts empty."""
    for step_id in (TIMED, SOURCE, SINK):
        assert run(capsys, "drop-step", root, step_id)[0] == 0
    store = reopen(root, WANTED)
    assert store.get_many(TIMED, ["t"]) == [MISSING]
    assert store.get_many(COUNT, ["a"]) == [2]
    assert store.partitions(SOURCE) == {}
    store.apply_all()
    for number in store.manifest.dropped:
        for kind in (STATE, TIMER, PARTITION):
            prefix = step_prefix(kind, number)
            assert list(store._table.scan(prefix, prefix + b"\xff" * 20)) == []
    store.close()
    assert len(store.manifest.dropped) == 3


def test_a_savepoint_is_made_and_restored(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, by epoch, or the highest one."""
    target = tmp_path / "saved"
    assert run(capsys, "savepoint", root, target)[0] == 0
    assert run(capsys, "savepoint", root, target, "--name", "later")[0] == 0
    assert run(capsys, "savepoint", root, target, "--name", "later")[0] == 1
    for number, choice in enumerate([[], ["--epoch", 2], ["--name", "later"]]):
        code, out, _ = run(capsys, "restore", target, tmp_path / f"new{number}", *choice)
        assert code == 0
        assert "holds epoch 2 of flow 'flow'" in out
        assert run(capsys, "show", tmp_path / f"new{number}", COUNT, "a")[1] == "2\n"
        assert run(capsys, "verify", tmp_path / f"new{number}")[0] == 0
    code, _, err = run(capsys, "restore", target, tmp_path / "none", "--epoch", 7)
    assert code == 1
    assert "there: epoch-2 (epoch 2), later (epoch 2)" in err
    assert run(capsys, "verify", root)[0] == 0


def test_kept_rows_stop_a_savepoint(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless somebody knows that they are out."""
    job = Job(RealDisk(), RocksTables(), root, "u")
    job.store.append(Epoch(3), [KeptRows(SINK, "s", [b"row"])])
    job.store.prepare(Epoch(3))
    job.folder.commit(Epoch(3), {}, 0.0)
    job.close(apply=False)
    code, _, err = run(capsys, "savepoint", root, tmp_path / "saved")
    assert code == 1
    assert "'flow.out' has rows of epoch 3 that may not be out yet" in err
    assert run(capsys, "savepoint", root, tmp_path / "saved", "--sinks-settled")[0] == 0


def test_a_store_in_use_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By every command."""
    job = Job(RealDisk(), RocksTables(), root, "u")
    for argv in (["ls", root], ["verify", root], ["drop-step", root, COUNT], ["export", root]):
        code, _, err = run(capsys, *argv)
        assert code == 1
        assert "another process has this store open" in err
    job.close(apply=False)


def test_a_folder_is_made_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the form that Bytewax's users know, and by a function."""
    assert run(capsys, tmp_path, "4") == (0, "", "")
    code, _, err = run(capsys, tmp_path, "4")
    assert code == 1
    assert "is a recovery store already" in err
    code, _, err = run(capsys, "ls", tmp_path)
    assert (code, "no flow has run on the store" in err) == (1, True)
    assert run(capsys, "verify", tmp_path)[:2] == (0, "sound: epoch 0, 0 keys\n")
    Job(RealDisk(), RocksTables(), tmp_path, "t").close(apply=True)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        init_db_dir(tmp_path / "none", 1)
    with pytest.raises(ValueError, match="at least 1"):
        init_db_dir(tmp_path, 0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(NoPartitionsError, match="is not empty"):
        init_db_dir(str(tmp_path / "other"), 1)
    with pytest.raises(StoreError):
        init_db_dir(tmp_path, 1)


def test_mistakes_of_the_command_line_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2; a folder without a store with 1."""
    for argv in ([], ["what", "x", "y"], ["ls"], ["init", "x", "none"]):
        code, _, err = run(capsys, *argv)
        assert (code, err.startswith("error: ")) == (2, True), argv
    code, _, err = run(capsys, "ls", "/nowhere")
    assert (code, "there is no recovery store in /nowhere" in err) == (1, True)
    code, out, _ = run(capsys, "--help")
    assert (code, "rename-step" in out) == (0, True)


def test_a_reader_that_goes_away_is_no_error(root: Path) -> None:
    """As `head` does."""
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.recovery", "export", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read()
    child.stderr.close()
    child.wait()
