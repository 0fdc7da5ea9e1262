"""A flow that has changed, on the store that it had before."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import DynamicSource, StatelessSourcePartition
from engine.connectors.files import FileSink
from engine.connectors.sqlite import SqliteSink
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError, InconsistentPartitionsError, UserCodeError
from engine.recovery import RecoveryConfig
from engine.recovery._admin import StorePlace, drop_step, read_key, rename_step
from engine.recovery._disk import RealDisk
from engine.recovery.store import RocksTables
from engine.runtime import RunOptions, run_flow
from engine.testing import TestingSink, TestingSource, run_main
from tests.runtime.test_recovery import make_table

ITEMS = [("a", 1), ("b", 5), TestingSource.EOF(), ("a", 2), TestingSource.EOF(), ("b", 1)]
Build = Callable[[Any], Any]


def add(total: int | None, value: int) -> tuple[int, int]:
    return (total or 0) + value, (total or 0) + value


def sums(stream: Any) -> Any:
    return op.stateful_map("sum", stream, add)


class Job:
    """A store, and flows that run on it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.out: list[Any] = []
        self.told: list[str] = []

    def run(self, build: Build, sink: Any = None) -> list[Any]:
        """Run the next part of the input through some steps; gives what comes out."""
        flow = Dataflow("flow")
        stream = build(op.input("in", flow, TestingSource(ITEMS)))
        op.output("out", stream, sink or TestingSink(self.out))
        return self.run_flow(flow)

    def run_flow(self, flow: Dataflow) -> list[Any]:
        self.out.clear()
        self.told.clear()
        options = RunOptions(
            timedelta(0), recovery=RecoveryConfig(self.folder, create=True), tell=self.told.append
        )
        run_flow(flow, options)
        return self.out

    def files(self) -> dict[str, bytes]:
        """All files of the store."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in paths}

    def refused(self, run: Callable[[], Any]) -> str:
        """Run what the store must not be claimed for; gives what was said."""
        before = self.files()
        with pytest.raises(InconsistentPartitionsError) as caught:
            run()
        assert self.files() == before
        return str(caught.value)

    def place(self) -> StorePlace:
        return StorePlace(RealDisk(), RocksTables(), self.folder, "token", time.time())

    def do(self, command: str) -> None:
        """Do what the message says."""
        python, _, module, *words = shlex.split(command)
        assert (python, module) == ("python", "engine.recovery")
        match words:
            case ["rename-step", folder, old, new]:
                rename_step(self.place(), old, new)
            case ["drop-step", folder, step_id]:
                drop_step(self.place(), step_id)
        assert Path(folder) == self.folder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A store with sums in it."""
    job = Job(tmp_path)
    assert job.run(sums) == [("a", 1), ("b", 5)]
    return job


def renamed(stream: Any) -> Any:
    return op.stateful_map("total", stream, add)


def test_a_renamed_step_stops_the_start_with_the_ways_out(job: Job):
    """The first of which brings its state to its new name."""
    said = job.refused(lambda: job.run(renamed))
    [what, rename, drop] = said.splitlines()
    assert f"{job.folder} has saved state of steps" in what
    assert "'flow.sum' (`stateful_map`)" in what
    assert rename == f"python -m engine.recovery rename-step {job.folder} flow.sum flow.total"
    assert drop == f"python -m engine.recovery drop-step {job.folder} flow.sum"
    job.do(rename)
    assert job.run(renamed) == [("a", 3)]


def test_a_dropped_step_is_forgotten(job: Job):
    """The other way out."""
    job.do(job.refused(lambda: job.run(renamed)).splitlines()[-1])
    assert job.run(renamed) == [("a", 2)]
    assert job.run(renamed) == [("b", 1)]


def test_all_steps_are_named(job: Job):
    """Where the new name isn't plain, it's left to be filled in."""

    def two(stream: Any) -> Any:
        return op.stateful_map("two", op.stateful_map("one", stream, add), add)

    said = job.refused(lambda: job.run(two))
    assert f"rename-step {job.folder} flow.sum NEW" in said
    job.do(f"python -m engine.recovery rename-step {job.folder} flow.sum flow.one")
    job.run(two)
    said = job.refused(lambda: job.run(lambda s: s))
    assert "'flow.one' (`stateful_map`), 'flow.two' (`stateful_map`)" in said
    assert said.count("rename-step") == said.count("drop-step") == 2


def test_a_step_of_another_kind_stops_the_start(job: Job):
    """Its state is not what the new operator has. Another name, or dropping it, helps."""

    def flat(stream: Any) -> Any:
        return op.stateful_flat_map("sum", stream, lambda s, v: (s, [v]))

    said = job.refused(lambda: job.run(flat))
    assert "'flow.sum' (`stateful_map`, in the flow `stateful_flat_map`)" in said
    job.do(said.splitlines()[-1])
    assert job.run(flat) == [("a", 2)]


def test_a_new_stateful_step_is_told(job: Job):
    """In a line, when there is a past that it has no part in; the others go on."""
    assert job.told == ["sink 'flow.out' is at-least-once"]

    def counted(stream: Any) -> Any:
        return op.stateful_map("count", sums(stream), lambda n, v: ((n or 0) + 1, (n or 0, v)))

    assert job.run(counted) == [("a", (0, 3))]
    assert job.told[0] == "step 'flow.count' is new and starts without state"
    job.run(counted)
    assert job.told == ["sink 'flow.out' is at-least-once"]


def test_from_python_the_same_lines_are_logged(job: Job, caplog: pytest.LogCaptureFixture):
    """By the logger `engine`, which says nothing unless it is asked to."""
    with caplog.at_level("INFO", "engine"):
        flow = Dataflow("flow")
        op.output("out", sums(op.input("in", flow, TestingSource(ITEMS))), TestingSink(job.out))
        run_main(flow, recovery_config=RecoveryConfig(job.folder))
    assert caplog.messages == ["sink 'flow.out' is at-least-once"]


def test_stateless_changes_pass_in_silence(job: Job, capsys: pytest.CaptureFixture[str]):
    """Steps that keep nothing come and go; so do sinks and sources without partitions."""
    flow = Dataflow("flow")
    stream = op.input("in", flow, TestingSource(ITEMS))
    stream = op.map_value(
        "double", op.filter("some", sums(stream), lambda _: True), lambda v: 2 * v
    )
    op.output("print", stream, StdOutSink())
    op.output("again", op.input("nothing", flow, Nothing()), StdOutSink())
    job.run_flow(flow)
    assert capsys.readouterr().out == "('a', 6)\n"
    assert job.run(sums) == [("b", 6)]


class Nothing(DynamicSource[Any]):
    """A source without partitions."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Any:
        return NothingPart()


class NothingPart(StatelessSourcePartition[Any]):
    def next_batch(self) -> Any:
        raise StopIteration


def test_a_sink_with_a_past_is_missed(job: Job, tmp_path: Path):
    """One with a marker, and one with a position."""
    make_table(tmp_path)
    marked = SqliteSink(tmp_path / "out.db", table="t", columns=["n"])
    flow = Dataflow("flow")
    stream = op.input("in", flow, TestingSource(ITEMS))
    op.output("out", sums(stream), TestingSink(job.out))
    op.output("table", op.map("row", stream, lambda kv: {"n": kv[1]}), marked)
    op.output("file", op.map_value("text", stream, str), FileSink(tmp_path / "out.txt"))
    job.run_flow(flow)
    said = job.refused(lambda: job.run(sums))
    assert "'flow.file' (`output`), 'flow.table' (`output`)" in said

    def as_print() -> None:
        flow = Dataflow("flow")
        stream = sums(op.input("in", flow, TestingSource(ITEMS)))
        for name in ("out", "table", "file"):
            op.output(name, stream, StdOutSink())
        job.run_flow(flow)

    said = job.refused(as_print)
    assert "'flow.file' (`output`, in the flow `output without partitions`)" in said


def fail(record: Any) -> Any:
    raise ValueError(record)


def test_a_change_that_failed_at_once_can_be_taken_back(job: Job):
    """A step that was new, and saved nothing, is not missed; nor is a new version of states."""

    def changed(stream: Any) -> Any:
        return op.stateful_map("new", op.map("fail", sums(stream), fail), add)

    with pytest.raises(EngineRuntimeError, match="ValueError"):
        job.run(changed)
    with pytest.raises(EngineRuntimeError, match="ValueError"):
        job.run(lambda s: op.collect("new", op.map("fail", sums(s), fail), timedelta(1), 1))
    with pytest.raises(EngineRuntimeError, match="ValueError"):
        job.run(lambda s: versioned(2, lambda _, state: state)(op.map("fail", s, fail)))
    assert job.run(sums) == [("a", 3)]


# Versions of states


def versioned(version: int, migrate: Any = None) -> Build:
    """Sums whose state is a number in version 1, a list in 2 and a text in 3."""

    def step(state: Any, value: int) -> Any:
        if version == 1:
            return add(state, value)
        if version == 2:
            state = [*(state or []), value]
            return state, list(state)
        state = f"{state or ''}+{value}"
        return state, state

    options = {"state_version": version, "migrate": migrate}
    return lambda stream: op.stateful_map("sum", stream, step, **options)


def to_newest(version: int, state: Any) -> str:
    return str(state) if version == 1 else "+".join(map(str, state))


def test_states_of_several_versions_are_migrated_as_they_are_read(job: Job):
    """A key that no record came for keeps its old version in the store, for any newer flow."""
    assert job.run(versioned(2, lambda _, total: [total])) == [("a", [1, 2])]
    assert [read_key(job.place(), "flow.sum", key).version for key in "ab"] == [2, 1]
    seen: list[Any] = []

    def migrate(version: int, state: Any) -> Any:
        seen.append((version, state))
        return to_newest(version, state)

    assert job.run(versioned(3, migrate)) == [("b", "5+1")]
    assert seen == [(1, 5)]
    records = [read_key(job.place(), "flow.sum", key) for key in "ab"]
    assert [(r.state, r.version) for r in records if r] == [([1, 2], 2), ("5+1", 3)]


def test_old_states_need_a_function_to_migrate_them(job: Job):
    """Without one the start stops; so it does where the states are newer than the flow."""
    said = job.refused(lambda: job.run(versioned(2)))
    assert "states of step 'flow.sum' in version 1; in this flow they are of version 2" in said
    assert "`migrate`" in said
    job.run(versioned(2, lambda _, total: [total]))
    said = job.refused(lambda: job.run(versioned(1)))
    assert "in version 2; in this flow they are of version 1, and they were saved by" in said


def test_the_function_must_stay_while_old_states_are_left(job: Job):
    """The run ends at the first one, and goes on once the function is back."""
    job.run(versioned(2, lambda _, total: [total]))
    with pytest.raises(EngineRuntimeError, match="key 'b'(.|\n)*version 1(.|\n)*`migrate`"):
        job.run(versioned(2))
    assert job.run(versioned(2, lambda _, total: [total])) == [("b", [5, 1])]


@pytest.mark.parametrize(
    ("migrate", "said"),
    [(lambda _, total: total[0], "raised TypeError"), (lambda _, total: None, "returned None")],
)
def test_a_function_that_fails_is_blamed(migrate: Any, said: str, job: Job):
    """With step, key and versions; nothing is lost by it."""
    with pytest.raises(EngineRuntimeError) as caught:
        job.run(versioned(2, migrate))
    cause = caught.value.__cause__
    assert isinstance(cause, UserCodeError)
    assert said in str(cause)
    assert "step 'flow.sum', key 'a': the stored state is of version 1" in str(cause)
    assert "of version 2" in str(cause)
    assert caught.value.step_id == "flow.sum"
    assert job.run(sums) == [("a", 3)]


def test_a_file_sink_with_another_path_leaves_the_former_file_as_it_was_at_the_last_epoch(job: Job):
    """What a crash left behind that epoch is cut off; the new file gets what comes then."""
    folder = job.folder.parent

    def to_file(name: str) -> None:
        job.run(lambda s: op.map_value("text", sums(s), str), FileSink(folder / name))

    drop_step(job.place(), "flow.out")
    to_file("former")
    assert (folder / "former").read_text() == "3\n"
    with (folder / "former").open("a") as file:
        file.write("not of an epoch")
    to_file("new")
    assert (folder / "former").read_text() == "3\n"
    assert (folder / "new").read_text() == "6\n"
