"""States of actors that were saved by an earlier form of their class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.operators.actors import Actor, Context, handles
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, TestingSource, run_main


class Counting(Actor):
    """Emits its whole state at each message, after the field `total` has grown."""

    @handles(int)
    def add(self, ctx: Context, n: int) -> None:
        self.state.total += n
        ctx.emit(dict(vars(self.state)))


class Old(Counting):
    @dataclass
    class State:
        total: int = 0
        unit: str = "m"


class Added(Counting):
    @dataclass
    class State:
        total: int = 0
        unit: str = "m"
        seen: list[int] = field(default_factory=list[int])


class Removed(Counting):
    @dataclass
    class State:
        total: int = 0


class Renamed(Counting):
    version = 2

    @dataclass
    class State:
        total: int = 0
        measure: str = ""

    @staticmethod
    def migrate(version: int, fields: dict[str, Any]) -> dict[str, Any]:
        assert version == 1
        return {"total": fields["total"], "measure": fields["unit"]}


def run(folder: Path, cls: type[Actor], **changes: Any) -> list[Any]:
    """Have an actor of a class, by the name that all of them have, get a message."""
    cls = type("Counter", (cls,), changes)
    flow, out = Dataflow("f"), []
    # Each run takes one message, behind those of the runs before.
    source = TestingSource([("a", 2), TestingSource.EOF()] * 9)
    acted = op.actor("act", op.input("in", flow, source), cls)
    op.output("out", acted.out, TestingSink(out))
    run_main(flow, recovery_config=RecoveryConfig(folder, create=True))
    return out


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with an actor of the class `Old`."""
    assert run(tmp_path, Old) == [{"total": 2, "unit": "m"}]
    return tmp_path


def refusal(folder: Path, cls: type[Actor], **changes: Any) -> str:
    """What is said of a run that can't read the actor."""
    with pytest.raises(EngineRuntimeError) as failed:
        run(folder, cls, **changes)
    return str(failed.value)


def fail_to_migrate(version: int, _: dict[str, Any]) -> dict[str, Any]:
    raise KeyError(version)


def test_a_field_that_was_added_has_its_default(store: Path):
    """Nothing has to be said for it."""
    assert run(store, Added) == [{"total": 4, "unit": "m", "seen": []}]


def test_a_field_that_was_removed_is_not_lost_by_oversight(store: Path):
    """The run ends, with the field and what to do; the old class still reads the state."""
    said = refusal(store, Removed)
    assert "'unit' in the state of Counter.ref('a')" in said
    assert "`migrate`" in said
    assert run(store, Old) == [{"total": 4, "unit": "m"}]


def test_a_field_that_migrate_takes_out_is_gone(store: Path):
    """What `migrate` returns is the state."""
    without = staticmethod(lambda _, fields: {"total": fields["total"]})
    assert run(store, Removed, version=2, migrate=without) == [{"total": 4}]


def test_a_field_goes_by_another_name(store: Path):
    """And what is saved then is of the new version, which `migrate` isn't asked about."""
    assert run(store, Renamed) == [{"total": 4, "measure": "m"}]
    assert run(store, Renamed) == [{"total": 6, "measure": "m"}]


def test_a_newer_version_is_refused(store: Path):
    """By name; the newer class goes on with it."""
    run(store, Renamed)
    said = refusal(store, Old)
    assert "the stored state of Counter.ref('a') is of version 2" in said
    assert "a newer flow has saved it" in said
    assert run(store, Renamed) == [{"total": 6, "measure": "m"}]


def test_an_older_version_without_migrate_is_refused(store: Path):
    """Bytes that happen to fit may mean something else."""
    assert "nothing says how the old one becomes a new one" in refusal(store, Old, version=2)


@pytest.mark.parametrize(
    ("migrate", "said"),
    [
        (fail_to_migrate, "raised KeyError: 1"),
        (lambda _version, _fields: None, "returned None, which is no dict of fields"),
        (lambda _, fields: {**fields, "more": 1}, "'more' in the state of"),
    ],
)
def test_a_migrate_that_fails_ends_the_run(store: Path, migrate: Any, said: str):
    """With the function, or with what is wrong with what it gave."""
    assert said in refusal(store, Old, version=2, migrate=staticmethod(migrate))


def test_attributes_that_are_no_fields_are_not_saved(tmp_path: Path):
    """Only the fields of `State` are; else a later run would refuse them as unknown."""

    class Careless(Old):
        @handles(int)
        def add(self, ctx: Context, n: int) -> None:
            self.state.total += n
            self.state.other = 1
            ctx.emit(dict(vars(self.state)))

    assert run(tmp_path, Careless) == [{"total": 2, "unit": "m", "other": 1}]
    assert run(tmp_path, Old) == [{"total": 4, "unit": "m"}]


@pytest.mark.parametrize(
    ("version", "error"),
    [("2", TypeError), (True, TypeError), (0, ValueError), (1 << 16, ValueError)],
)
def test_a_version_must_be_a_small_number(version: Any, error: type[Exception]):
    """Said when the class is made."""
    with pytest.raises(error, match=r"`Wrong.version` must be"):
        type("Wrong", (Old,), {"version": version})
