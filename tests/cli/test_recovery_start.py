"""`python -m engine.run ... -r DIR` on a store that it can't go on with: what it says of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import run
from engine.recovery._manifest import seal, unseal
from engine.runtime import Plan, RunOptions, plan
from engine.runtime._recovery import JobStore
from engine.testing.sim import SimOptions
from engine.testing.sim._gang import Gang
from tests.cli.project import Outcome, Project

FLOW = """\
import threading
import shapes

def make(step="sum", flow_id="shop", source="in.txt", mapper="add"):
    flow = Dataflow(flow_id)
    s = op.input("in", flow, FileSource(source, batch_size=1))
    s = op.key_on("key", s, lambda line: line[0])
    s = op.stateful_map(step, s, globals()[mapper])
    op.output("out", op.map_value("show", s, str), FileSink("out.txt"))
    return flow

def add(total, line):
    total = (total or 0) + int(line[1:])
    return total, total

def keep_lock(state, line):
    return {"seen": [line, threading.Lock()]}, 0

def keep_shape(shape, line):
    shape = shape or shapes.Shape()
    shape.lines.append(line)
    return shape, len(shape.lines)

def overtake(total, line):
    from engine.recovery._chain import ManifestChain
    from engine.recovery._disk import RealDisk
    chain = ManifestChain(RealDisk(), Path("store/manifests"), "other")
    newest = chain.newest()
    chain.link(newest.after_start(0.0))
    return add(total, line)
"""
SHAPES = "class Shape:\n    def __init__(self):\n        self.lines = []\n"
INFO = "info: sink 'shop.out' is exactly-once\n"


class Shop:
    """A project with a flow that has run on a store once."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.store = project.folder / "store"
        self.write("flows.py", "from pathlib import Path\n" + FLOW)
        self.write("shapes.py", SHAPES)
        self.lines = 0
        assert self.run() == Outcome(0, "", INFO)

    def write(self, name: str, text: str) -> None:
        """Write a module, to be imported anew."""
        sys.modules.pop(name.removesuffix(".py"), None)
        self.project.write(name, text)

    def run(self, arguments: str = "", *options: str) -> Outcome:
        """Run the flow on one more line of input."""
        self.lines += 1
        # The folder is the current one. Its full path is not for everybody to go.
        Path("in.txt").write_text("a1\n" * self.lines, encoding="utf-8")
        return self.project.call(run.main, f"flows:make({arguments})", "-r", "store", *options)

    def refused(self, arguments: str = "") -> str:
        """Run what must end with an error block, before or after the store was claimed."""
        outcome = self.run(arguments)
        assert outcome.code == 1, outcome
        said = outcome.err.removeprefix(INFO)
        assert said.startswith("error: ")
        assert "Traceback" not in said
        assert "engine/" not in said.replace("engine/connectors", "")
        return said

    def left_alone(self, arguments: str = "") -> str:
        """As `refused`, with every byte of the store as it was."""
        before = files(self.store)
        said = self.refused(arguments)
        assert files(self.store) == before
        assert INFO not in said
        return said

    def goes_on(self) -> None:
        """What was refused is read by the next run, and nothing was lost."""
        lines = self.lines + 1
        assert self.run() == Outcome(0, "", INFO)
        written = (self.project.folder / "out.txt").read_text(encoding="utf-8").split()
        assert written == [str(total) for total in range(1, lines + 1)]


def files(folder: Path) -> dict[str, bytes]:
    """All files in a folder."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def shop(project: Project) -> Shop:
    """A project with a store."""
    return Shop(project)


def test_each_sink_says_what_it_promises(shop: Shop):
    """On standard error, in a line; without recovery there is nothing to promise."""
    assert shop.run().err == INFO
    outcome = shop.project.call(run.main, "flows:make()")
    assert outcome == Outcome(0, "", "")


def test_a_store_of_two_workers(shop: Shop):
    """Its rows are dealt anew on real files, which is told; nothing is lost by it."""
    shutil.rmtree(shop.store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.runtime._run._run", run_two_workers)
        patch.setattr("engine.runtime._run.plan", lambda flow, _, **options: plan(flow, 2))
        assert shop.run().code == 0
    assert len(list((shop.store / "shards-0001").iterdir())) == 2
    outcome = shop.run()
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        "info: settling 1 shard of sinks of the run before",
        "info: re-sharding the store from 2 to 1 worker",
        "info: re-sharded the store: 3 rows",
        INFO.rstrip(),
    ]
    assert [path.name for path in shop.store.glob("shards-*")] == ["shards-0003"]
    shop.goes_on()


def run_two_workers(planned: Plan, _deal: object, options: RunOptions, recovery: JobStore) -> None:
    """In place of one worker."""
    gang = Gang(planned, 1, SimOptions(workers=2), recovery=recovery)
    gang.run()
    assert [worker.close() for worker in gang.workers] == [[], []]


def test_the_store_of_another_flow(shop: Shop):
    """Is left alone."""
    said = shop.left_alone('flow_id="other"')
    assert "store is the store of flow 'shop', not of 'other'" in said
    shop.goes_on()


def test_a_step_that_is_gone(shop: Shop):
    """The block has the commands that help, each on a line of its own."""
    said = shop.left_alone('step="total"')
    assert "'shop.sum' (`stateful_map`)" in said
    lines = [line.strip() for line in said.splitlines()]
    assert "python -m engine.recovery rename-step store shop.sum shop.total" in lines
    assert "python -m engine.recovery drop-step store shop.sum" in lines
    shop.goes_on()


def test_a_newer_format(shop: Shop):
    """Of the store, or of a manifest alone."""
    newest = max((shop.store / "manifests").iterdir())
    for path in (shop.store / "FORMAT", newest):
        old = path.read_bytes()
        path.write_bytes(seal({**unseal(old), "format": 2}))
        said = shop.left_alone()
        assert f"{path.name}: written in format 2; this engine knows formats up to 1" in said
        path.write_bytes(old)
    shop.goes_on()


def test_a_store_in_use(shop: Shop):
    """The message names the process that has it."""
    with holding(shop.store / "LOCK") as pid:
        said = shop.left_alone()
    assert "store: another process" in said
    assert "has this store open; stop it first" in said
    if Path("/proc/locks").exists():
        assert f"(pid {pid})" in said
    shop.goes_on()


@contextmanager
def holding(path: Path) -> Iterator[int]:
    """Another process that has a file locked."""
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1])\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def test_no_permission(shop: Shop):
    """To a store that is somebody else's, and to make one."""
    with as_nobody(shop.project.folder):
        said = shop.refused()
        assert "Permission denied" in said
        assert "store" in said
        outcome = shop.project.call(run.main, "flows:make()", "-r", "new")
    assert outcome.code == 1
    assert outcome.err.startswith("error: new: could not make a recovery store: Permission denied")
    shop.goes_on()


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Be somebody who may look at a project and nothing more."""
    if os.geteuid() != 0:
        for path in (folder, *folder.iterdir()):
            path.chmod(path.stat().st_mode & ~0o222)
        (folder / "store").chmod(0)
        try:
            yield
        finally:
            for path in (folder, *folder.iterdir()):
                path.chmod(0o700)
        return
    folder.chmod(0o755)
    (folder / "in.txt").chmod(0o666)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "part", ["manifests", "shards-0001/worker-0000", "shards-0001/worker-0000/table"]
)
def test_a_part_that_is_missing(part: str, shop: Shop):
    """Is named; put back, the store goes on."""
    path, aside = shop.store / part, shop.project.folder / "aside"
    path.rename(aside)
    said = shop.left_alone()
    assert f"store/{part} is missing" in said
    aside.rename(path)
    shop.goes_on()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("shards-0001/worker-0000", "the newest manifest"),
        ("manifests", "the manifests are"),
    ],
)
def test_a_part_of_another_age(part: str, said: str, shop: Shop):
    """A worker's store from a backup, or manifests from one; the whole store goes on."""
    path, aside, older = shop.store / part, shop.project.folder / "aside", shop.store / "older"
    shutil.copytree(path, older)
    older = older.rename(shop.project.folder / "older")
    for _ in range(3):
        assert shop.run().code == 0
    path.rename(aside)
    older.rename(path)
    assert said in shop.refused()
    shutil.rmtree(path)
    aside.rename(path)
    shop.goes_on()


def test_a_state_that_can_not_be_written(shop: Shop):
    """Step, key and the part at fault are named; the epoch is not committed."""
    said = shop.refused('step="sum", mapper="keep_lock"')
    assert "step 'shop.sum', key 'a': the state can't be written" in said
    assert "state['seen'][1] is a `_thread.lock`" in said
    shop.goes_on()


def test_a_state_whose_class_has_moved(shop: Shop):
    """Step, key and class are named, and what to do; once it is there, the run goes on."""
    shutil.rmtree(shop.store)
    assert shop.run('mapper="keep_shape"').code == 0
    shop.write("shapes.py", "class Figure:\n    pass\n")
    sys.modules.pop("flows")
    said = shop.refused('mapper="keep_shape"')
    assert said.startswith("error: step 'shop.sum' failed: step 'shop.sum', key 'a': the state")
    assert "the class `shapes.Shape` can't be imported any more" in said
    assert "by an alias where it used to be" in said
    shop.write("shapes.py", SHAPES)
    sys.modules.pop("flows")
    assert shop.run('mapper="keep_shape"').code == 0


def test_a_folder_that_is_something_else(shop: Shop):
    """It is not touched, nor is a file."""
    other = shop.project.folder / "other"
    other.mkdir()
    (other / "file").touch()
    for name, said in [("other", "other is not empty and is no recovery store (it holds file)")]:
        outcome = shop.project.call(run.main, "flows:make()", "-r", name)
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: {said}")
    assert [path.name for path in other.iterdir()] == ["file"]
    outcome = shop.project.call(run.main, "flows:make()", "-r", "in.txt")
    assert outcome.err.startswith("error: in.txt is a file; a recovery store is a folder")


def test_a_source_partition_that_is_gone(shop: Shop):
    """The file was renamed: its position would be lost."""
    (shop.project.folder / "other.txt").write_text("a1\n", encoding="utf-8")
    said = shop.refused('source="other.txt"')
    assert "source 'shop.in' has no partition" in said
    assert "python -m engine.recovery drop-step store shop.in" in said
    shop.goes_on()


def test_a_source_that_can_not_say_what_it_has(shop: Shop):
    """Stops the run before the store is even claimed."""
    said = shop.left_alone('source="nowhere.txt"')
    assert "step 'shop.in' failed while listing its partitions: FileNotFoundError" in said
    shop.goes_on()


def test_a_run_that_was_overtaken(shop: Shop):
    """It ends at its next epoch, and the newer run is not disturbed."""
    said = shop.refused('mapper="overtake"')
    assert "a newer generation of this job has taken over, so this one must stop" in said
    shop.goes_on()


def test_a_promise_that_takes_recovery_is_not_made_without_it(project: Project):
    """Who asks a sink for exactly once and saves nothing is told what will happen."""
    project.write(
        "flows.py",
        """
        import sqlite3

        import engine.operators as op
        from engine.connectors.sqlite import SqliteSink
        from engine.dataflow import Dataflow
        from engine.testing import TestingSource

        sqlite3.connect("out.db").execute("CREATE TABLE IF NOT EXISTS t (c)")
        flow = Dataflow("shop")
        rows = op.input("in", flow, TestingSource([("a",)]))
        op.output("out", rows, SqliteSink("out.db", table="t", columns=["c"]))
        """,
    )
    outcome = project.call(run.main, "flows:flow")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == (
        "info: sink 'shop.out' is exactly-once only with recovery (-r DIR): without it the next "
        "run writes everything again\n"
    )
