"""Runs that save their epochs, and runs that go on where those stopped."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.connectors.files import FileSink
from engine.connectors.sqlite import SqliteSink
from engine.dataflow import Dataflow
from engine.errors import (
    EngineRuntimeError,
    ForeignStoreError,
    InconsistentPartitionsError,
    NoPartitionsError,
    StoreError,
)
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, TestingSource, run_main

EACH_BATCH = timedelta(0)


def running_sum(items: list[Any], out: list[Any], *, step: str = "sum") -> Dataflow:
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource(items))
    s = op.stateful_map(step, s, lambda total, v: ((total or 0) + v, (total or 0) + v))
    op.output("out", s, TestingSink(out))
    return flow


@pytest.fixture
def config(tmp_path: Path) -> RecoveryConfig:
    return RecoveryConfig(tmp_path / "store", create=True)


def test_a_run_goes_on_where_the_input_ended(config: RecoveryConfig):
    """With its state, and behind the last item; a third run has nothing left to do."""
    out: list[Any] = []
    flow = running_sum([("a", 1), TestingSource.EOF(), ("a", 2)], out)
    run_main(flow, recovery_config=config)
    assert out == [("a", 1)]
    run_main(flow, recovery_config=config)
    assert out == [("a", 1), ("a", 3)]
    run_main(flow, recovery_config=config)
    assert out == [("a", 1), ("a", 3)]


def test_an_abort_loses_the_open_epoch_alone(config: RecoveryConfig):
    """What came since the last commit is read again."""
    out: list[Any] = []
    flow = running_sum([("a", 1), ("a", 2), TestingSource.ABORT(), ("a", 4)], out)
    run_main(flow, epoch_interval=timedelta(hours=1), recovery_config=config)
    assert out == [("a", 1), ("a", 3)]
    out.clear()
    run_main(flow, recovery_config=config)
    assert out == [("a", 1), ("a", 3), ("a", 7)]


def test_with_an_epoch_per_batch_an_abort_loses_nothing(config: RecoveryConfig):
    """Each batch was committed before the next was asked for."""
    out: list[Any] = []
    flow = running_sum([("a", 1), ("a", 2), TestingSource.ABORT(), ("a", 4)], out)
    run_main(flow, epoch_interval=EACH_BATCH, recovery_config=config)
    run_main(flow, epoch_interval=EACH_BATCH, recovery_config=config)
    assert out == [("a", 1), ("a", 3), ("a", 7)]


def test_an_error_is_mended_and_the_run_goes_on(config: RecoveryConfig):
    """The record that failed is read again by the next run."""
    out: list[Any] = []
    broken = running_sum([("a", 1), ("a", "x"), ("a", 2)], out)
    with pytest.raises(EngineRuntimeError):
        run_main(broken, epoch_interval=EACH_BATCH, recovery_config=config)
    run_main(running_sum([("a", 1), ("a", 10), ("a", 2)], out), recovery_config=config)
    assert out == [("a", 1), ("a", 11), ("a", 13)]


def test_discarded_state_is_gone(config: RecoveryConfig):
    """A key that was dropped begins anew in the next run."""
    out: list[Any] = []
    flow = Dataflow("flow")
    items = [("a", 1), ("a", -1), TestingSource.EOF(), ("a", 5)]
    s = op.input("in", flow, TestingSource(items))
    s = op.stateful_map("keep", s, lambda seen, v: ((seen or []) + [v] if v > 0 else None, seen))
    op.output("out", s, TestingSink(out))
    run_main(flow, recovery_config=config)
    run_main(flow, recovery_config=config)
    assert out == [("a", None), ("a", [1]), ("a", None)]


def test_a_file_is_cut_back_to_the_last_epoch(config: RecoveryConfig, tmp_path: Path):
    """Lines of an epoch that was not committed are not in the file twice."""
    flow = Dataflow("flow")
    items = ["1", "2", TestingSource.ABORT(), "3"]
    s = op.key_on("key", op.input("in", flow, TestingSource(items)), lambda _: "all")
    op.output("out", s, FileSink(tmp_path / "out.txt"))
    run_main(flow, epoch_interval=timedelta(hours=1), recovery_config=config)
    run_main(flow, recovery_config=config)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "1\n2\n3\n"


def test_another_flow_is_refused(config: RecoveryConfig):
    """One folder, one flow."""
    run_main(running_sum([("a", 1)], []), recovery_config=config)
    other = Dataflow("other")
    op.output("out", op.input("in", other, TestingSource([1])), TestingSink([]))
    with pytest.raises(ForeignStoreError, match="'other'"):
        run_main(other, recovery_config=config)


def test_state_whose_step_is_gone_stops_the_start(config: RecoveryConfig):
    """It would be lost without a word; the old name makes the store usable again."""
    out: list[Any] = []
    run_main(running_sum([("a", 1), TestingSource.EOF(), ("a", 2)], []), recovery_config=config)
    with pytest.raises(InconsistentPartitionsError, match=r"flow\.sum"):
        run_main(running_sum([("a", 1), ("a", 2)], out, step="renamed"), recovery_config=config)
    run_main(running_sum([("a", 1), TestingSource.EOF(), ("a", 2)], out), recovery_config=config)
    assert out == [("a", 3)]


def test_a_new_stateful_step_starts_empty(config: RecoveryConfig):
    """The other steps keep what they have."""
    run_main(running_sum([("a", 1), TestingSource.EOF(), ("a", 2)], []), recovery_config=config)
    out: list[Any] = []
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([("a", 1), TestingSource.EOF(), ("a", 2)]))
    s = op.stateful_map("sum", s, lambda total, v: ((total or 0) + v, (total or 0) + v))
    s = op.stateful_map("count", s, lambda n, v: ((n or 0) + 1, (v, (n or 0) + 1)))
    op.output("out", s, TestingSink(out))
    run_main(flow, recovery_config=config)
    assert out == [("a", (3, 1))]


def test_a_folder_without_a_store_is_refused_unless_one_may_be_made(tmp_path: Path):
    """A wrong path must not start a job from nothing."""
    with pytest.raises(NoPartitionsError):
        run_main(running_sum([], []), recovery_config=RecoveryConfig(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        run_main(running_sum([], []), recovery_config=RecoveryConfig(tmp_path, create=True))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def marked_flow(folder: Path, items: list[Any]) -> Dataflow:
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource(items))
    op.output("out", s, SqliteSink(folder / "out.db", table="t", columns=["n"]))
    return flow


def make_table(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "out.db")) as database:
        database.execute("CREATE TABLE t (n INTEGER)")


def test_a_target_that_lost_its_marker_is_not_written_again(config: RecoveryConfig, tmp_path: Path):
    """Its rows may be there or not: nobody knows, so nothing is published by guessing."""
    make_table(tmp_path)
    items = [{"n": 1}, {"n": 2}, TestingSource.EOF(), {"n": 3}]
    run_main(marked_flow(tmp_path, items), epoch_interval=EACH_BATCH, recovery_config=config)
    (tmp_path / "out.db").unlink()
    make_table(tmp_path)
    with pytest.raises(EngineRuntimeError, match="lost its marker"):
        run_main(marked_flow(tmp_path, items), recovery_config=config)


def test_an_older_copy_of_the_store_is_noticed(config: RecoveryConfig, tmp_path: Path):
    """The target is ahead of it: what it would publish is out already."""
    make_table(tmp_path)
    items = [{"n": 1}, TestingSource.EOF(), {"n": 2}, TestingSource.EOF(), {"n": 3}]
    run_main(marked_flow(tmp_path, items), epoch_interval=EACH_BATCH, recovery_config=config)
    shutil.copytree(config.db_dir, tmp_path / "copy")
    run_main(marked_flow(tmp_path, items), epoch_interval=EACH_BATCH, recovery_config=config)
    older = RecoveryConfig(tmp_path / "copy")
    with pytest.raises(EngineRuntimeError, match="an older copy"):
        run_main(marked_flow(tmp_path, items), recovery_config=older)


def test_a_negative_backup_interval_is_refused(tmp_path: Path):
    """Before anything is made of it."""
    with pytest.raises(ValueError, match="backup_interval must not be negative"):
        RecoveryConfig(tmp_path, -timedelta(hours=1))
