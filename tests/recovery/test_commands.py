"""`python -m engine.recovery`: what each command shows and does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine._cli.recovery_command import main
from engine.errors import NoPartitionsError, StoreError
from engine.recovery import init_db_dir
from engine.recovery._changes import KeptRows, KeyedChanges, PartitionChanges
from engine.recovery._disk import RealDisk
from engine.recovery._evolution import WantedStep, evolve
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._manifest import FORMAT, seal
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
    """Flow, epoch, when and by whom, sizes, and each step with its keys."""
    code, out, _ = run(capsys, "ls", root)
    lines = out.splitlines()
    assert code == 0
    assert lines[:4] == [
        "flow     flow",
        "store    t",
        "epoch    2",
        "written  2023-11-14 22:13:20 UTC, by generation 1",
    ]
    assert lines[6:] == [
        "",
        "step        kind      keys  partitions",
        "flow.count  stateful     3           -",
        "flow.in     input        -           1",
        "flow.out    output       -           -",
        "flow.timed  stateful     1           -",
    ]


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
    """As Python writes them; keys that are no texts are asked for as literals."""
    assert run(capsys, "show", root, COUNT, "b") == (0, "'b': (2, 2.0)\n", "")
    shown = (0, "('c', 1): {'n': [2]}\n", "")
    assert run(capsys, "show", root, COUNT, "('c', 1)", "--literal") == shown
    assert run(capsys, "show", root, COUNT, "--literal", "('c', 1)") == shown
    timed = "'t': b'x'  (timer due 2023-11-14 22:13:20 UTC)\n"
    assert run(capsys, "show", root, TIMED, "t") == (0, timed, "")
    assert run(capsys, "show", root, SOURCE) == (0, "partition 'part-0': 20\n", "")
    code, out, err = run(capsys, "show", root, COUNT, "--limit", 2)
    assert (code, out.count("\n")) == (0, 2)
    assert err == "only 2 states shown; --limit N shows more\n"
    assert run(capsys, "show", root, COUNT, "--limit", 3)[2] == ""


def test_what_show_cannot_find_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what there is, and how else to ask."""
    code, out, err = run(capsys, "show", root, COUNT, "z")
    assert (code, out) == (1, "")
    assert err.startswith(
        "error: step 'flow.count' has no state of key 'z'; keys that are no texts:"
    )
    code, _, err = run(capsys, "show", root, "flow.nope", "z")
    assert code == 1
    assert "the store has no step 'flow.nope'; it has: 'flow.count', 'flow.in'" in err
    for text in ("1.5", "True", "(", "[1]", "f()"):
        code, out, err = run(capsys, "show", root, COUNT, "--literal", text)
        assert (code, out, err.startswith(f"error: {text!r} is no key")) == (2, "", True), text


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
        "due": "2023-11-14 22:13:20 UTC",
        "key": "t",
        "state": {"repr": "b'x'"},
        "step": TIMED,
    }
    assert timed in lines
    assert len(lines) == 5
    _, out, _ = run(capsys, "export", root, SOURCE)
    assert len(out.splitlines()) == 1
    assert run(capsys, "export", root, SOURCE, "--no-pickle", COUNT)[1].count("\n") == 4
    assert run(capsys, "export", root, COUNT, "flow.nope")[:2] == (1, "")


def test_pickled_states_can_be_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading one runs code."""
    job = Job(RealDisk(), RocksTables(), tmp_path / "store", "t")
    job.store.append(Epoch(1), [KeyedChanges(COUNT, ["a"], [Path("own")])])
    job.store.prepare(Epoch(1))
    job.folder.commit(Epoch(1), {}, 0.0)
    job.store.commit(Epoch(1))
    job.close(apply=True)
    assert run(capsys, "show", tmp_path / "store", COUNT, "a")[1] == "'a': PosixPath('own')\n"
    code, _, err = run(capsys, "show", tmp_path / "store", COUNT, "a", "--no-pickle")
    assert code == 1
    assert "step 'flow.count', key 'a': the state can't be read: it is pickled" in err


def test_ls_reads_no_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it needs none of the flow's classes, and runs none of their code."""
    own = type("Gone", (), {"__module__": __name__})
    monkeypatch.setitem(globals(), "Gone", own)
    job = Job(RealDisk(), RocksTables(), tmp_path / "store", "t")
    for epoch in (1, 2, 3):
        values = {"a": own(), "b": own()} if epoch < 3 else {"c": own()}
        deleted = ["a"] if epoch == 3 else []
        job.store.append(Epoch(epoch), [PartitionChanges(SOURCE, values, deleted)])
        job.store.append(Epoch(epoch), [KeyedChanges(COUNT, ["a"], [own()])])
        job.store.prepare(Epoch(epoch))
        job.folder.commit(Epoch(epoch), {}, 0.0)
        job.store.commit(Epoch(epoch))
        if epoch == 1:
            job.store.apply_all()
    job.close(apply=False)
    monkeypatch.undo()
    code, out, _ = run(capsys, "ls", tmp_path / "store")
    assert code == 0
    assert "flow.count  stateful     1           -" in out
    assert "flow.in     input        -           2" in out
    code, _, err = run(capsys, "show", tmp_path / "store", COUNT)
    assert code == 1
    assert "hint:   run this where the flow's modules can be imported" in err


def reopen(root: Path, wanted: dict[str, WantedStep]) -> WorkerStore:
    folder = StoreFolder.open(RealDisk(), root, "again")
    old = folder.started()
    manifest = folder.start_generation(JOB, evolve(old.steps, old.next_step, wanted), 1, 0.0)
    return WorkerStore.open(WorkerSpot(RealDisk(), RocksTables(), root, WorkerIndex(0)), manifest)


def test_a_step_is_renamed_with_its_states(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those in the table and those in the log."""
    code, out, _ = run(capsys, "rename-step", root, COUNT, "flow.total")
    assert (code, out) == (0, "flow.count is flow.total now\n")
    for old, new, why in (
        ("flow.total", TIMED, "the store has a step 'flow.timed' already"),
        ("flow.none", "flow.x", "the store has no step 'flow.none'"),
        ("flow.total", "total", "no step of flow 'flow' has the id 'total'"),
        ("flow.total", "other.total", "no step of flow 'flow' has the id 'other.total'"),
        ("flow.total", "flow.", "no step of flow 'flow' has the id 'flow.'"),
        ("flow.total", "flow", "no step of flow 'flow' has the id 'flow'"),
    ):
        code, _, err = run(capsys, "rename-step", root, old, new)
        assert (code, why in err) == (1, True), err
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
        new = tmp_path / f"new{number}"
        code, out, _ = run(capsys, "restore", target, new, *choice, "--sinks", "continue")
        assert code == 0
        assert "holds epoch 2 of flow flow, as store " in out
        assert "flow.out goes on in its target" in out
        assert run(capsys, "show", new, COUNT, "a")[1] == "'a': 2\n"
        assert run(capsys, "verify", new)[0] == 0
        assert "took over  the sinks of store t" in run(capsys, "ls", new)[1]
    code, _, err = run(capsys, "restore", target, tmp_path / "none", "--epoch", 7)
    assert code == 1
    assert "there: epoch-2 (epoch 2), later (epoch 2)" in err
    assert run(capsys, "verify", root)[0] == 0
    code, out, _ = run(capsys, "ls", target)
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["savepoint", "epoch", "flow"],
        ["epoch-2", "2", "flow"],
        ["later", "2", "flow"],
    ]
    sound = "sound: savepoint epoch-2, epoch 2\nsound: savepoint later, epoch 2\n"
    assert run(capsys, "verify", target) == (0, sound, "")
    (target / "savepoints" / "later.json").write_text("{}")
    code, out, _ = run(capsys, "verify", target)
    assert code == 1
    assert "fault: savepoint later: " in out


def test_kept_rows_stop_a_drop(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless somebody knows that they are out."""
    job = Job(RealDisk(), RocksTables(), root, "u")
    job.store.append(Epoch(3), [KeptRows(SINK, "s", [b"row"])])
    job.store.prepare(Epoch(3))
    job.folder.commit(Epoch(3), {}, 0.0)
    job.close(apply=False)
    code, _, err = run(capsys, "drop-step", root, SINK)
    assert code == 1
    assert "'flow.out' has rows of epoch 3 that may not be out yet" in err
    assert run(capsys, "rename-step", root, SINK, "flow.other")[0] == 1
    assert run(capsys, "drop-step", root, SINK, "--sinks-settled")[0] == 0


def test_a_store_in_use_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By every command."""
    job = Job(RealDisk(), RocksTables(), root, "u")
    for argv in (
        ["ls", root],
        ["verify", root],
        ["show", root, COUNT],
        ["export", root],
        ["rename-step", root, COUNT, "flow.x"],
        ["drop-step", root, COUNT],
        ["savepoint", root, root.with_name("saved")],
    ):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (1, ""), argv
        assert err.startswith(f"error: {root}: another process ")
        assert "has this store open; stop it first\n  hint:   SIGTERM lets" in err
    assert not root.with_name("saved").exists()
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
    assert run(capsys, "init", tmp_path / "none", "1")[0] == 1
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
    """With exit code 2, and where to read on."""
    for argv in (
        [],
        ["what", "x", "y"],
        ["ls"],
        ["ls", "x", "y"],
        ["init", "x", "none"],
        ["init", "x", "0"],
        ["show", "x", "y", "--limit", "0"],
        ["show", "x", "y", "--limit", "many"],
        ["restore", "x", "y", "--epoch", "-1"],
        ["restore", "x", "y", "--epoch", "1", "--name", "a"],
        ["ls", "x", "--no-pickle"],
    ):
        code, out, err = run(capsys, *argv)
        assert (code, out, err.startswith("error: ")) == (2, "", True), argv
        assert "--help" in err or argv[0] == "init"
    for argv in ([], ["ls"], ["show"], ["restore"]):
        code, out, err = run(capsys, *argv, "--help")
        assert (code, out.startswith("usage: python -m engine.recovery"), err) == (0, True, "")


def test_a_folder_of_something_else_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the message says what was expected."""
    (tmp_path / "file").touch()
    for argv in (
        ["ls", tmp_path],
        ["verify", tmp_path],
        ["show", tmp_path, COUNT],
        ["drop-step", tmp_path, COUNT],
        ["savepoint", tmp_path, tmp_path / "saved"],
        ["ls", tmp_path / "none"],
        ["verify", tmp_path / "file"],
    ):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (1, ""), argv
        assert "no recovery store" in err
        assert "hint:   DIR is the folder that was given to `python -m engine.run`" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_store_of_a_newer_engine_is_left_alone(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command wants of it."""
    (root / "FORMAT").write_bytes(seal({"format": FORMAT + 1, "store_id": "t"}))
    for argv in (["ls", root], ["verify", root], ["drop-step", root, COUNT]):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (1, "")
        assert f"written in format {FORMAT + 1}; this engine knows formats up to {FORMAT}" in err
        assert "use the engine that wrote it" in err


def test_damage_is_told_by_every_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the file, and what to do."""
    (log,) = root.glob("shards-0001/worker-0000/log/*.log")
    data = bytearray(log.read_bytes())
    data[100] ^= 1
    log.write_bytes(data)
    before = sorted(root.rglob("*.json"))
    for argv in (["ls", root], ["show", root, COUNT], ["savepoint", root, root.with_name("s")]):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (1, "")
        assert f"error: {log}: at offset" in err
        assert "`python -m engine.recovery verify DIR` names all faults" in err
    assert run(capsys, "drop-step", root, SINK)[0] == 1
    assert sorted(root.rglob("*.json")) == before


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """This process may not enter a folder; root becomes somebody else for that."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
        return
    mode = folder.stat().st_mode
    folder.chmod(0)
    try:
        yield
    finally:
        folder.chmod(mode)


def test_a_store_of_somebody_else_is_not_entered(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the message says why."""
    run(capsys, "ls", root)
    for argv in (
        ["ls", root],
        ["verify", root],
        ["show", root, COUNT],
        ["rename-step", root, COUNT, "flow.x"],
        ["savepoint", root, root.with_name("saved")],
        ["restore", root, root.with_name("new")],
        ["init", root / "sub", "1"],
    ):
        with forbidden(root):
            code, out, err = run(capsys, *argv)
        assert (code, out) == (1, ""), argv
        assert err.startswith(f"error: {root}"), argv
        assert "Permission denied" in err, argv


def test_values_that_are_hard_to_write_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers too long for Python, NaN, what only looks like our own form, lone surrogates."""
    values = [2**20000, float("nan"), {"repr": "x"}, "\udcff", "two\nlines", {1: 2}, "é"]
    job = Job(RealDisk(), RocksTables(), tmp_path / "store", "t")
    keys = [2**20000, "\udcff", b"\xff", "two\nlines", -1, "", "é"]
    job.store.append(Epoch(1), [KeyedChanges(COUNT, keys, values)])
    job.store.prepare(Epoch(1))
    job.folder.commit(Epoch(1), {}, 0.0)
    job.close(apply=False)
    code, out, _ = run(capsys, "export", tmp_path / "store")
    assert code == 0
    found = {str(line["key"])[:9]: line["state"] for line in map(json.loads, out.splitlines())}
    assert found[""] == {"repr": "{1: 2}"}
    assert found["{'repr': "] is not None
    assert found["two\nlines"[:9]] == {"repr": "'\\udcff'"}
    assert found["-1"] == "two\nlines"
    assert found["é"] == "é"
    code, out, _ = run(capsys, "show", tmp_path / "store", COUNT)
    assert (code, len(out.splitlines())) == (0, 7)
    assert "b'\\xff': {'repr': 'x'}" in out
    assert "<int: Exceeds the limit" in out


def in_a_process(*argv: object, stdout: Any = subprocess.PIPE, **environ: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "engine.recovery", *map(str, argv)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environ},
        check=False,
    )


def test_output_suits_the_terminal(tmp_path: Path) -> None:
    """What its encoding lacks is escaped."""
    job = Job(RealDisk(), RocksTables(), tmp_path / "store", "t")
    job.store.append(Epoch(1), [KeyedChanges(COUNT, ["é"], ["ü"])])
    job.store.prepare(Epoch(1))
    job.folder.commit(Epoch(1), {}, 0.0)
    job.close(apply=False)
    shown = in_a_process("show", tmp_path / "store", COUNT, PYTHONIOENCODING="ascii")
    assert (shown.stdout, shown.stderr) == (b"'\\xe9': '\\xfc'\n", b"")
    exported = in_a_process("export", tmp_path / "store", PYTHONIOENCODING="ascii")
    assert json.loads(exported.stdout) == {"step": COUNT, "key": "é", "state": "ü"}


def test_output_that_cannot_be_written_is_told(root: Path) -> None:
    """A full disk is no fault of the store."""
    with Path("/dev/full").open("wb") as full:
        done = in_a_process("export", root, stdout=full)
    assert done.returncode == 1
    assert b"error: standard output can't be written: " in done.stderr


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
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 141
