"""`python -m engine.dlq`: what each command shows and asks for, and what the next start does."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
import engine.operators.windowing as win
from engine._cli.dlq_command import main
from engine.dataflow import Dataflow
from engine.errors import CorruptStoreError, FlowError, InconsistentPartitionsError
from engine.recovery import RecoveryConfig
from engine.recovery._disk import RealDisk
from engine.recovery._letter_requests import has_requests
from engine.runtime import RunOptions, run_flow
from engine.testing import TestingSink, TestingSource, run_main


class OddError(Exception):
    """One that can't be pickled, nor shown."""

    def __str__(self) -> str:
        raise RuntimeError

    def __reduce__(self) -> Any:
        raise TypeError


class Unpicklable:
    def __repr__(self) -> str:
        return "an unpicklable"

    def __reduce__(self) -> Any:
        raise TypeError


class Unshowable(Unpicklable):
    def __repr__(self) -> str:
        raise RuntimeError


@dataclass
class Job:
    """A flow that divides six by each record, which may be run again and again."""

    root: Path
    records: list[Any] = field(default_factory=lambda: [3, 0, "x", 2])
    out: list[Any] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    divide: Callable[[Any], Any] = field(default=lambda n: 6 // n)
    step: str = "divide"

    def run(self, workers: int = 1) -> None:
        flow = Dataflow("flow", on_error="dead_letter")
        stream = op.input("in", flow, TestingSource(self.records))
        stream = op.map(self.step, stream, self.divide)
        op.output("out", stream, TestingSink(self.out))
        recovery = RecoveryConfig(self.root, create=True)
        tell = self.told.append
        run_flow(
            flow,
            RunOptions(timedelta(0), workers=workers, recovery=recovery, tell=tell),
        )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """One that has run to its end, with two dead letters in its store."""
    job = Job(tmp_path / "store")
    job.run()
    assert job.out == [2, 3]
    job.told.clear()
    return job


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def letters(capsys: pytest.CaptureFixture[str], job: Job) -> list[dict[str, Any]]:
    code, said, _ = run(capsys, "ls", job.root, "--json")
    assert code == 0
    return [json.loads(line) for line in said.splitlines()]


def test_ls_counts_by_step_and_error(job: Job, capsys: pytest.CaptureFixture[str]):
    """And by what is asked for."""
    code, said, _ = run(capsys, "ls", job.root)
    lines = [line.split() for line in said.splitlines()]
    assert code == 0
    assert lines[0][:3] == ["letters", "step", "error"]
    assert lines[1][:3] == ["1", "flow.divide", "builtins.TypeError"]
    assert lines[2][:3] == ["1", "flow.divide", "builtins.ZeroDivisionError"]
    assert said.splitlines()[3:] == ["2 dead letters"]
    _, said, _ = run(capsys, "ls", job.root, "--error", "TypeError", "--each")
    assert "flow.divide  'x'  TypeError: unsupported" in said
    assert len(said.splitlines()) == 1


def test_show_tells_all_of_one(job: Job, capsys: pytest.CaptureFixture[str]):
    """With the traceback, from the user's own function on."""
    first, _ = letters(capsys, job)
    code, said, _ = run(capsys, "show", job.root, first["letter_id"])
    assert code == 0
    assert "record:          0\n" in said
    assert "source:          flow.in/iterable\n" in said
    assert "position:        2\n" in said
    assert "  ZeroDivisionError: integer division or modulo by zero\n" in said
    assert "divide: Callable" in said
    code, said, _ = run(capsys, "show", job.root, "--json", first["letter_id"])
    assert json.loads(said) == first


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_put_back_goes_through_its_step_once(
    job: Job, workers: int, capsys: pytest.CaptureFixture[str]
):
    """What works now comes out; what fails again is a letter anew; all others stay as they were."""
    code, said, _ = run(capsys, "replay", job.root, "--all")
    assert (code, said) == (0, "2 dead letters will be put back at the next start\n")
    _, said, _ = run(capsys, "ls", job.root)
    assert "2 of them will be put back at the next start" in said
    before = {letter["letter_id"] for letter in letters(capsys, job)}
    job.divide = lambda n: "infinite" if n == 0 else 6 // n
    job.run(workers)
    assert job.out == [2, 3, "infinite"]
    assert "of the dead letters in the store 2 are put back, and 0 forgotten" in job.told
    (left,) = letters(capsys, job)
    assert (left["record"], left["asked"], left["source"]) == ("'x'", None, None)
    assert left["letter_id"] not in before
    job.run()
    assert job.out == [2, 3, "infinite"]
    assert not has_requests(RealDisk(), job.root)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_record_of_a_join_comes_back_by_its_own_input(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """And so into a window's step, which has a clock for each of its inputs."""
    cured, out = False, list[Any]()
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def time_of(value: tuple[str, int]) -> datetime:
        if value[1] == 2 and not cured:
            raise ValueError(value)
        return start + timedelta(seconds=value[1])

    def run_join() -> None:
        flow = Dataflow("flow", on_error="dead_letter")
        clock = win.EventClock(time_of, timedelta(seconds=60))
        sides = [
            op.input(name, flow, TestingSource([("k", (name, 1)), ("k", (name, 2))]))
            for name in ("left", "right")
        ]
        second = timedelta(seconds=0)
        joined = win.interval_join("j", clock, *sides, second, second)
        op.output("out", joined.down, TestingSink(out))
        recovery = RecoveryConfig(tmp_path / "store", create=True)
        run_flow(flow, RunOptions(timedelta(0), workers=workers, recovery=recovery))

    run_join()
    assert out == [("k", (("left", 1), ("right", 1)))]
    said = run(capsys, "ls", tmp_path / "store", "--json")[1]
    ports = {json.loads(line)["record"]: json.loads(line)["port"] for line in said.splitlines()}
    assert ports == {"('k', ('left', 2))": 0, "('k', ('right', 2))": 1}
    run(capsys, "replay", tmp_path / "store", "--all")
    cured = True
    out.clear()
    run_join()
    assert out == [("k", (("left", 2), ("right", 2)))]
    assert run(capsys, "ls", tmp_path / "store")[1] == "0 dead letters\n"


def test_what_is_dropped_is_gone_with_the_next_start(job: Job, capsys: pytest.CaptureFixture[str]):
    """Even if it is to be put back as well; until then it is there."""
    first, second = letters(capsys, job)
    run(capsys, "replay", job.root, "--all")
    code, said, _ = run(
        capsys, "drop", job.root, "--all", "--step", "flow.divide", "--error", "ZeroDivisionError"
    )
    assert (code, said) == (0, "1 dead letter will be forgotten at the next start\n")
    asked = [letter["asked"] for letter in letters(capsys, job)]
    assert asked == ["drop", "replay"]
    assert [first["record"], second["record"]] == ["0", "'x'"]
    job.divide = str
    job.run()
    assert job.out == [2, 3, "x"]
    assert letters(capsys, job) == []
    assert run(capsys, "ls", job.root)[1] == "0 dead letters\n"


def test_a_letter_that_cannot_be_put_back_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Its record was no value that can be saved: of that the text is kept, and said so."""
    job = Job(tmp_path / "store", [Unpicklable(), Unshowable()])

    def fail(_record: Any) -> Any:
        raise OddError

    job.divide = fail
    job.run()
    odd, odder = letters(capsys, job)
    assert (odd["record"], odd["can_be_replayed"]) == ("an unpicklable", False)
    assert odder["record"] == "<Unshowable, whose repr raises RuntimeError>"
    assert "OddError" in odd["traceback"]
    assert "its __str__ raises RuntimeError" in odd["message"]
    run(capsys, "replay", job.root, "--all")
    job.run()
    assert len(letters(capsys, job)) == 2
    assert sum("can't be put back, and stays: its record could not be" in t for t in job.told) == 2


def test_a_letter_of_a_step_that_is_gone_stays(job: Job, capsys: pytest.CaptureFixture[str]):
    """It can be put back when there is a step of that name again."""
    run(capsys, "replay", job.root, "--all")
    job.step, job.divide = "another", str
    job.run()
    assert "the flow has no step 'flow.divide' with dead letters any more" in job.told[0]
    assert len(letters(capsys, job)) == 2
    job.step = "divide"
    job.run()
    assert job.out == [2, 3, "0", "x"]


def test_a_flow_that_keeps_no_letters_any_more_does_not_lose_them(job: Job):
    """It is told that the store has some, as with any step that is gone."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource(job.records)), TestingSink([]))
    with pytest.raises(InconsistentPartitionsError, match="'flow.dead_letters'"):
        run_flow(flow, RunOptions(recovery=RecoveryConfig(job.root)))


def test_letters_need_somewhere_to_go():
    """A flow that neither takes them nor has a store is refused, by the names of the steps."""
    flow = Dataflow("flow", on_error="dead_letter")
    stream = op.map("divide", op.input("in", flow, TestingSource([1])), str)
    op.output("out", stream, TestingSink([]))
    with pytest.raises(
        FlowError, match=r"of 'flow.divide' have nowhere to go: .*`op.dead_letters`"
    ):
        run_main(flow)


def test_a_step_may_not_have_the_name_of_the_keeper(tmp_path: Path):
    """Its states would be one's own and the letters in one."""
    flow = Dataflow("flow", on_error="dead_letter")
    stream = op.map("dead_letters", op.input("in", flow, TestingSource([1])), str)
    op.output("out", stream, TestingSink([]))
    with pytest.raises(FlowError, match=r"'flow.dead_letters' is what keeps the dead letters"):
        run_flow(flow, RunOptions(recovery=RecoveryConfig(tmp_path / "s", create=True)))


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["ls", "nowhere"], 1, "no recovery store"),
        (["show", "DIR", "9-9-9-9"], 1, "the store has no dead letter 9-9-9-9"),
        (["replay", "DIR", "9-9-9-9"], 1, "the store has no dead letter 9-9-9-9"),
        (["drop", "DIR"], 2, "takes either ids of letters or --all"),
        (["drop", "DIR", "1-0-0-1", "--all"], 2, "takes either ids of letters or --all"),
        (["forget", "DIR"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_said(
    job: Job, argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    """On standard error, with the exit code that fits; nothing is asked for then."""
    given, _, said = run(capsys, *(job.root if arg == "DIR" else arg for arg in argv))
    assert given == code
    assert words in said
    assert not has_requests(RealDisk(), job.root)


def test_a_damaged_request_is_named(job: Job, capsys: pytest.CaptureFixture[str]):
    """Both to who looks and to who starts."""
    (job.root / "LETTERS.00ff").write_text("not JSON")
    code, _, said = run(capsys, "ls", job.root)
    assert code == 1
    assert "LETTERS.00ff: no request about dead letters" in said
    with pytest.raises(CorruptStoreError, match="LETTERS"):
        job.run()


def test_letters_are_read_without_running_what_they_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """To look at a store of somebody else's is safe: records are shown as they were shown then."""
    job = Job(tmp_path / "store", [{"a": {1, 2}}, Path("x")])
    job.run()
    unpickled: list[Any] = []
    real, pickle.loads = pickle.loads, lambda *a, **k: unpickled.append(a)  # type: ignore[assignment]
    try:
        assert [letter["record"] for letter in letters(capsys, job)] == [
            "{'a': {1, 2}}",
            "PosixPath('x')",
        ]
    finally:
        pickle.loads = real
    assert unpickled == []


def test_the_command_line_runs(job: Job):
    """As a module, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "engine.dlq", "ls", str(job.root)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "2 dead letters" in done.stdout
