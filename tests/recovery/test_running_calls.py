"""What a process was doing when it died is known at the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.recovery._disk import Disk, RealDisk, remove_tree
from engine.recovery._fakes import FakeDisk
from engine.recovery._layout import StorePaths
from engine.recovery._running_calls import (
    CallRows,
    Suspect,
    Suspicions,
    rows_path,
    suspects_of,
)


@pytest.fixture(params=["fake", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, Path]:
    """A disk and a folder on it."""
    return (FakeDisk(), Path("/store")) if request.param == "fake" else (RealDisk(), tmp_path)


class Runs:
    """Runs of a job, one after another."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk, self.root, self.generation = disk, root, 1

    def rows(self, worker: int = 0, step: str = "step", rows: int = 4) -> CallRows:
        """The rows of a step in the present run."""
        return CallRows(self.disk, rows_path(self.root, self.generation, worker, step), rows)

    def next(self) -> Suspicions:
        """What the next run finds."""
        self.generation += 1
        return Suspicions.open(self.disk, self.root, self.generation)

    def found(self, step: str = "step") -> dict[int, Suspect]:
        """What the next run finds of a step."""
        return suspects_of(self.next().by_step(), step)


@pytest.fixture
def runs(place: tuple[Disk, Path]) -> Runs:
    """Runs on a disk."""
    return Runs(*place)


def test_nothing_is_known_of_a_store_without_calls(runs: Runs):
    """Most flows have none, and leave nothing behind."""
    assert runs.next().by_step() == {}
    assert not runs.disk.exists(StorePaths(runs.root).running)


def test_calls_that_were_being_made_are_suspects(runs: Runs):
    """Those that had ended aren't, and what they were suspected of before counts."""
    rows = runs.rows()
    ended = rows.begin([1], 0, alone=False)
    rows.begin([2, 3], 1, alone=False)
    rows.end(ended)
    assert runs.found() == {2: Suspect(2, alone=False), 3: Suspect(2, alone=False)}


def test_a_start_that_found_them_knows_them_still(runs: Runs):
    """Whether or not the records come again soon; but not for ever."""
    runs.rows().begin([2], 0, alone=False)
    known = [runs.found() for _ in range(12)]
    assert known == [{2: Suspect(1, alone=False)}] * 11 + [{}]


def test_one_that_was_made_alone_is_told(runs: Runs):
    """All records of its list are."""
    runs.rows().begin([2, 3], 2, alone=True)
    assert runs.found() == {2: Suspect(3, alone=True), 3: Suspect(3, alone=True)}


def test_beside_a_call_of_another_step_it_was_not_alone(runs: Runs):
    """That one may have been the cause."""
    runs.rows().begin([2], 2, alone=True)
    runs.rows(step="other").begin([9], 0, alone=False)
    suspects = runs.next().by_step().values()
    assert [s.alone for marks in suspects for s in marks.values()] == [False, False]


def test_who_leaves_in_order_leaves_no_suspects(runs: Runs):
    """Of other workers, which didn't, there are some."""
    rows = runs.rows()
    rows.begin([2], 0, alone=False)
    runs.rows(worker=1).begin([3], 0, alone=False)
    rows.close()
    assert runs.found() == {3: Suspect(1, alone=False)}


def test_rows_end_and_begin_anew(runs: Runs):
    """There are as many calls as rows; what is beyond them isn't written down, and does no harm."""
    rows = runs.rows(rows=2)
    first = rows.begin([1], 0, alone=False)
    more = rows.begin([2, 3], 0, alone=False)
    assert len(more) == 1
    rows.end(first)
    rows.begin([4], 0, alone=False)
    assert set(runs.found()) == {2, 4}


def test_pieces_are_no_reason_to_refuse_a_start(runs: Runs):
    """A crash may leave half a row, or half of what was known: that much is forgotten."""
    disk = runs.disk
    runs.rows().begin([2], 0, alone=False)
    runs.found()
    known = rows_path(runs.root, runs.generation, 0, "step").parent / "known.json"
    text = disk.read(known)
    remove_tree(disk, known)
    disk.create(known).write(text[: len(text) // 2])
    disk.create(rows_path(runs.root, runs.generation, 0, "step")).write(b"\x01\x02\x03")
    assert runs.found() == {}


def test_a_run_that_ends_in_order_gives_a_record_another_chance(runs: Runs):
    """The cause may have been mended since it failed; but it is tried alone."""
    runs.rows().begin([2], 2, alone=True)
    assert suspects_of(runs.next().by_step(), "step") == {2: Suspect(3, alone=True)}
    runs.next().absolve()
    assert runs.found() == {2: Suspect(3, alone=False)}


def test_a_run_that_is_none_any_more_changes_nothing(runs: Runs):
    """Neither as it starts, nor as it ends."""
    late = runs.rows()
    late.begin([2], 0, alone=False)
    later = Runs(runs.disk, runs.root)
    later.generation = 7
    mine = later.rows()
    mine.begin([3], 0, alone=False)
    assert runs.found() == {2: Suspect(1, alone=False)}
    late.close()
    assert set(later.found()) == {2, 3}
