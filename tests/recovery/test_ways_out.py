"""A store whose flow has changed is mended with commands, and then the flow goes on from it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine._cli.recovery_command import main
from engine.connectors.files import FileSink
from engine.connectors.sqlite import SqliteSink
from engine.dataflow import Dataflow
from engine.errors import InconsistentPartitionsError
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, TestingSource, run_main

Total = tuple[int, int]


@dataclass
class Place:
    """A store and where the flow writes to."""

    store: Path
    file: Path
    database: Path
    keep: timedelta | None = None
    """How long older epochs are kept."""

    def rows(self) -> list[int]:
        with closing(sqlite3.connect(self.database)) as database:
            return [row for (row,) in database.execute("SELECT total FROM totals ORDER BY rowid")]

    def markers(self) -> list[tuple[str, int]]:
        with closing(sqlite3.connect(self.database)) as database:
            return list(database.execute("SELECT step_id, epoch FROM engine_epochs ORDER BY 1"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "store", tmp_path / "out.txt", tmp_path / "out.db")
    with closing(sqlite3.connect(found.database)) as database:
        database.execute("CREATE TABLE totals (total INTEGER)")
    return found


def run(
    place: Place,
    amounts: Iterable[int],
    *,
    total: str = "total",
    table: str = "table",
    file: str = "file",
) -> list[int]:
    """Run a flow that adds up amounts and writes the totals to a list, a file and a table."""
    flow, out = Dataflow("flow"), list[Any]()
    pairs = op.input("in", flow, TestingSource(("k", amount) for amount in amounts))
    totals = op.stateful_map(total, pairs, lambda s, v: ((s or 0) + v, (s or 0) + v))
    op.output("list", op.key_rm("bare", totals), TestingSink(out))
    lines = op.map("text", totals, lambda pair: (pair[0], str(pair[1])))
    op.output(file, lines, FileSink(place.file))
    rows = op.map("row", totals, lambda pair: {"total": pair[1]})
    op.output(table, rows, SqliteSink(place.database, table="totals", columns=["total"]))
    config = RecoveryConfig(place.store, place.keep, create=True)
    # Each amount is an epoch of its own where older ones matter.
    interval = None if place.keep is None else timedelta(0)
    run_main(flow, recovery_config=config, epoch_interval=interval)
    return out


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command and gives its exit code, output and errors."""

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in argv])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_renamed_step_goes_on_with_its_state(place: Place, command: Any) -> None:
    """The start is refused, names the step, and works once the store knows the new name."""
    assert run(place, [1, 2]) == [1, 3]
    with pytest.raises(InconsistentPartitionsError, match="'flow.total'"):
        run(place, [1, 2, 3], total="sum")
    assert command("rename-step", place.store, "flow.total", "flow.sum")[:2] == (
        0,
        "flow.total is flow.sum now\n",
    )
    assert run(place, [1, 2, 3], total="sum") == [6]
    assert place.file.read_text() == "1\n3\n6\n"
    assert place.rows() == [1, 3, 6]


def test_a_dropped_step_starts_empty(place: Place, command: Any) -> None:
    """And so does one of the same id, while all else goes on."""
    run(place, [1, 2])
    assert command("drop-step", place.store, "flow.total")[:2] == (
        0,
        "flow.total is dropped: a step of this id starts empty\n",
    )
    assert run(place, [1, 2, 3]) == [3]
    assert command("drop-step", place.store, "flow.total")[0] == 0
    assert run(place, [1, 2, 3, 4], total="sum") == [4]
    assert command("ls", place.store)[1].count("flow.sum") == 1


def test_a_dropped_source_is_read_again(place: Place, command: Any) -> None:
    """From its beginning, into the state that is there."""
    run(place, [1, 2])
    _, out, _ = command("drop-step", place.store, "flow.in")
    assert "reads from its beginning" in out
    assert run(place, [1, 2]) == [4, 6]


def test_a_sink_with_a_position_can_be_renamed(place: Place, command: Any) -> None:
    """It goes on writing where it was."""
    run(place, [1, 2])
    assert command("rename-step", place.store, "flow.file", "flow.lines")[0] == 0
    run(place, [1, 2, 3], file="lines")
    assert place.file.read_text() == "1\n3\n6\n"


def test_a_sink_with_a_marker_is_dropped_in_place_of_renamed(place: Place, command: Any) -> None:
    """Once its last rows are known to be out; the new one begins with a marker of its own."""
    run(place, [1, 2])
    code, _, err = command("rename-step", place.store, "flow.table", "flow.db")
    assert (code, "`drop-step`" in err) == (1, True)
    code, _, err = command("drop-step", place.store, "flow.table")
    assert code == 1
    assert "rows of epoch 1 that may not be out yet" in err
    assert "hint:   if they are out, say so with --sinks-settled" in err
    assert command("drop-step", place.store, "flow.table", "--sinks-settled")[0] == 0
    assert run(place, [1, 2, 3], table="db") == [6]
    assert place.rows() == [1, 3, 6]
    assert place.markers() == [("flow.db", 2), ("flow.table", 1)]


def test_a_restored_job_goes_back_with_its_files(place: Place, command: Any) -> None:
    """Output, state and position are those of the savepoint, and it goes on from there."""
    run(place, [1, 2])
    saved, new = place.store.with_name("saved"), place.store.with_name("new")
    assert command("savepoint", place.store, saved)[0] == 0
    run(place, [1, 2, 3])
    code, _, err = command("restore", saved, new)
    assert code == 1
    assert "what becomes of the output of 'flow.file', 'flow.table'" in err
    assert "--sinks continue" in err
    assert not new.exists()
    choices = ("--sinks", "continue", "--sinks", "flow.table=new-target")
    code, out, _ = command("restore", saved, new, *choices)
    assert code == 0
    assert "flow.file goes on in its target; the first store must not run again" in out
    assert "flow.table begins anew: give it another target" in out
    other = Place(new, place.file, place.database)
    assert run(other, [1, 2, 30]) == [33]
    assert place.file.read_text() == "1\n3\n33\n"
    assert place.rows() == [1, 3, 6, 33]
    assert command("verify", new)[0] == 0


def test_new_targets_begin_anew(place: Place, command: Any, tmp_path: Path) -> None:
    """With what comes after the savepoint; the first job goes on with its own."""
    run(place, [1, 2])
    saved, new = tmp_path / "saved", tmp_path / "new"
    command("savepoint", place.store, saved)
    assert command("restore", saved, new, "--sinks", "new-target")[0] == 0
    fork = Place(new, tmp_path / "fork.txt", tmp_path / "fork.db")
    with closing(sqlite3.connect(fork.database)) as database:
        database.execute("CREATE TABLE totals (total INTEGER)")
    assert run(fork, [1, 2, 30]) == [33]
    assert run(place, [1, 2, 3]) == [6]
    assert (fork.file.read_text(), fork.rows()) == ("33\n", [33])
    assert (place.file.read_text(), place.rows()) == ("1\n3\n6\n", [1, 3, 6])


def test_a_job_that_takes_over_locks_the_first_one_out(place: Place, command: Any) -> None:
    """It reads the first one's marker, so no row is missing and none there twice."""
    run(place, [1, 2])
    saved, new = place.store.with_name("saved"), place.store.with_name("new")
    command("savepoint", place.store, saved)
    assert command("restore", saved, new, "--sinks", "continue")[0] == 0
    assert run(Place(new, place.file, place.database), [1, 2, 3]) == [6]
    assert place.rows() == [1, 3, 6]
    assert place.markers() == [("flow.table", 2)]
    with pytest.raises(Exception, match="another run of this job has taken over"):
        run(place, [1, 2, 4])
    assert place.rows() == [1, 3, 6]


def test_a_job_does_not_take_over_a_target_that_is_ahead(place: Place, command: Any) -> None:
    """It would write again what is there already."""
    run(place, [1, 2])
    saved, new = place.store.with_name("saved"), place.store.with_name("new")
    command("savepoint", place.store, saved)
    run(place, [1, 2, 3])
    run(place, [1, 2, 3, 4])
    command("restore", saved, new, "--sinks", "continue")
    with pytest.raises(Exception, match="epoch 3 is out, but the store is at epoch 1"):
        run(Place(new, place.file, place.database), [1, 2, 3])
    assert place.rows() == [1, 3, 6, 10]


def kept_epochs(command: Any, place: Place) -> tuple[int, int] | None:
    """The first and last epoch that `ls` says can be restored."""
    code, out, _ = command("ls", place.store)
    assert code == 0
    for line in out.splitlines():
        if "can be restored" in line:
            first, last = (int(word) for word in line.split() if word.isdigit())
            return first, last
    return None


def run_until_a_copy(place: Place) -> list[int]:
    """Run until an older epoch is kept; gives the amounts.

    The table is copied a little at a time between other work: it can't be said after which epoch.
    """
    given: list[int] = []

    def amounts() -> Iterator[int]:
        while len(given) < 3 or not any(place.store.rglob("backups/" + "[0-9]" * 12)):
            given.append(len(given) + 1)
            yield given[-1]

    run(place, amounts())
    return given


def test_a_job_goes_back_to_an_older_epoch(place: Place, command: Any, tmp_path: Path) -> None:
    """Any since the first copy; with its output, and on from there."""
    keeping = replace(place, keep=timedelta(hours=1))
    amounts = run_until_a_copy(keeping)
    kept = kept_epochs(command, place)
    assert kept is not None
    # One later than the copy, so that the log is needed. Five amounts are five epochs or more.
    back = kept[1] + 1
    amounts += range(len(amounts) + 1, len(amounts) + 6)
    run(keeping, amounts)
    last = int(command("ls", place.store)[1].splitlines()[2].split()[1])
    assert kept_epochs(command, place) == (kept[0], last)
    assert command("show", place.store, "flow.total")[1] == f"'k': {sum(amounts)}\n"
    new = tmp_path / "new"
    code, _, err = command("restore", place.store, new, "--epoch", back, "--sinks", "continue")
    assert code == 1
    assert f"'flow.table' can't go on from epoch {back}" in err
    choices = ("--sinks", "continue", "--sinks", "flow.table=new-target")
    assert command("restore", place.store, new, "--epoch", back, *choices)[0] == 0
    read = amounts[: int(command("show", new, "flow.in")[1].split()[-1])]
    assert len(amounts) - 5 <= len(read) < len(amounts)
    total = sum(read)
    assert command("show", new, "flow.total", "k")[1] == f"'k': {total}\n"
    assert run(replace(place, store=new), [*read, 100]) == [total + 100]
    assert place.file.read_text().splitlines()[-2:] == [str(total), str(total + 100)]
    code, _, err = command("restore", place.store, tmp_path / "none", "--epoch", last + 1)
    assert code == 1
    assert f"it has epochs {kept[0]} to {last}" in err


def test_without_an_interval_older_epochs_are_dropped(place: Place, command: Any) -> None:
    """The last one can still be restored."""
    amounts = run_until_a_copy(replace(place, keep=timedelta(hours=1)))
    run(place, [*amounts, 10])
    assert kept_epochs(command, place) is None
    new = place.store.with_name("new")
    assert command("restore", place.store, new, "--sinks", "continue")[0] == 0
    assert run(replace(place, store=new), [*amounts, 10, 100]) == [sum(amounts) + 110]
    assert place.rows() == [*accumulate(amounts), sum(amounts) + 10, sum(amounts) + 110]
