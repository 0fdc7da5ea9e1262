"""Messages that may end the worker's process: when they are written down, and when refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.operators.actors import Actor, Context, Resume, Retry, handles
from engine.recovery._fakes import FakeDisk
from engine.recovery._running_calls import (
    CallRows,
    Suspicions,
    died_with,
    rows_path,
    suspects_of,
)
from engine.runtime._actor_table import ActorTable
from engine.runtime._call_watch import CallWatch
from engine.runtime._turn_watch import EPOCHS, TurnWatch

STEP, ROOT = "f.act", Path("/store")


class DeathError(BaseException):
    """Stands for the end of the process: nobody catches it."""


@dataclass(frozen=True)
class Lethal:
    """Ends the process that handles it."""

    number: int = 0


class Mortal(Actor):
    """Emits numbers, and dies of what is lethal."""

    supervise = Resume()

    @handles(int)
    def say(self, ctx: Context, n: int) -> None:
        ctx.emit((ctx.key, n))

    @handles(str)
    def fail(self, _: Context, text: str) -> None:
        raise ValueError(text)

    @handles(Lethal)
    def die(self, _: Context, msg: Lethal) -> None:
        raise DeathError(msg)


class Runs:
    """Runs of a worker on one store, each with a table of its own."""

    def __init__(self, cls: type[Actor] = Mortal) -> None:
        self.disk, self.cls, self.generation = FakeDisk(), cls, 0

    def begin(self) -> ActorTable:
        """Start a run, which finds what the one before has left."""
        self.generation += 1
        found = Suspicions.open(self.disk, ROOT, self.generation).by_step()
        self.rows = CallRows(self.disk, rows_path(ROOT, self.generation, 0, STEP), 1)
        died = died_with(found, STEP)
        calls = CallWatch(self.rows, suspects_of(found, STEP), 3, after_death=died)
        table = ActorTable((self.cls,), STEP, lambda: 0.5)
        if died:
            table.watch_turns(TurnWatch(calls))
        return table

    def deaths(self, records: list[Any], most: int = 9) -> tuple[int, ActorTable]:
        """Run again and again until records were handled; gives how often the worker died."""
        for deaths in range(most):
            table = self.begin()
            try:
                handle(table, records)
            except DeathError:
                continue
            return deaths, table
        pytest.fail("it never comes past it")


def handle(table: ActorTable, records: list[Any]) -> list[Any]:
    """Give records to actors; gives what was emitted."""
    table.take(records, 0.0)
    while table.boxes.has_ready:
        table.run(0.0, 10)
    out = table.out.copy()
    table.out.clear()
    return out


def dead(table: ActorTable) -> list[Any]:
    return [(letter.message, letter.reason) for letter in table.boxes.dead]


WHY = "WorkerProcessError: the worker's process died {} while this message was handled"
RECORDS = [("a", 1), ("a", Lethal()), ("a", 2), ("b", 3)]


def test_a_message_that_ends_the_process_is_refused_in_the_end():
    """The first death has the next run look for it; three that were seen are enough."""
    deaths, table = Runs().deaths(RECORDS)
    assert deaths == 4
    assert dead(table) == [(Lethal(), WHY.format("3 times"))]


def test_what_comes_with_it_is_handled():
    """By the same actor and by others, once."""
    runs = Runs()
    for _ in range(4):
        with pytest.raises(DeathError):
            handle(runs.begin(), RECORDS)
    assert sorted(handle(runs.begin(), RECORDS)) == [("a", 1), ("a", 2), ("b", 3)]


def test_two_of_them_are_found_one_after_the_other():
    """Each by its own deaths."""
    records = [("a", Lethal(1)), ("a", 1), ("b", Lethal(2))]
    deaths, table = Runs().deaths(records)
    assert deaths == 7
    assert [message for message, _ in dead(table)] == [Lethal(1), Lethal(2)]


def test_a_class_may_bear_fewer_deaths():
    """And a message that has ended the process isn't tried again by this one."""
    careful = type("Careful", (Mortal,), {"supervise": Retry(attempts=9, deaths=1)})
    deaths, table = Runs(careful).deaths(RECORDS)
    assert deaths == 2
    assert dead(table) == [(Lethal(), WHY.format("once"))]


def test_a_message_that_was_handled_is_no_suspect():
    """Nor one whose handler raised: its process lived."""
    runs = Runs()
    with pytest.raises(DeathError):
        handle(runs.begin(), RECORDS)
    handle(runs.begin(), [("a", 1), ("a", "x")])
    # As if it were killed now, between two messages.
    found = Suspicions.open(runs.disk, ROOT, runs.generation + 1).by_step()
    assert died_with(found, STEP)
    assert suspects_of(found, STEP) == {}


def test_nothing_is_written_down_without_a_death():
    """The rows are there, to be found after one, and stay empty."""
    runs = Runs()
    table = runs.begin()
    handle(table, RECORDS[:1])
    with pytest.raises(DeathError):
        handle(table, RECORDS[1:])
    assert suspects_of(Suspicions.open(runs.disk, ROOT, 2).by_step(), STEP) == {}


def test_a_run_that_ends_in_order_has_nothing_looked_for():
    """Its rows are gone."""
    runs = Runs()
    runs.begin()
    runs.rows.close()
    assert not died_with(Suspicions.open(runs.disk, ROOT, 2).by_step(), STEP)


def test_after_some_epochs_nothing_is_written_down_any_more():
    """So a run pays for a death with its beginning alone."""
    runs = Runs()
    with pytest.raises(DeathError):
        handle(runs.begin(), RECORDS)
    table = runs.begin()
    for n in range(EPOCHS + 1):
        handle(table, [("a", n)])
        table.state.barrier()
    with pytest.raises(DeathError):
        handle(table, RECORDS)
    found = Suspicions.open(runs.disk, ROOT, runs.generation + 1).by_step()
    assert suspects_of(found, STEP) == {}


def test_a_run_that_has_refused_a_message_looks_out_for_it_to_its_end():
    """It may come again, and would take the process along again."""
    runs = Runs()
    _, table = runs.deaths(RECORDS)
    for _ in range(EPOCHS + 1):
        handle(table, [])
        table.state.barrier()
    handle(table, RECORDS)
    assert len(dead(table)) == 2


def test_messages_that_cannot_be_pickled_have_a_mark_too():
    """They only must be if they wait at a barrier."""

    @dataclass(frozen=True)
    class Local(Lethal):
        """Known to this function alone."""

    deaths, table = Runs().deaths([("a", Local()), ("a", 1)])
    assert deaths == 4
    assert dead(table) == [(Local(), WHY.format("3 times"))]
