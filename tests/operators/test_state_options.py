"""Versions of state: where the runtime finds them, and what `migrate` functions see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.recovery import RecoveryConfig
from engine.runtime import plan
from engine.runtime._plan import is_keyed
from engine.testing import TestingSink, TestingSource
from tests.operators.timed import CRASH, EACH_BATCH, Timeline, at

TTL = op.TTL(timedelta(days=1), event_time=lambda _value: at(0))


class Total(op.StatefulBatchLogic):
    """Sums values up."""

    def __init__(self, resume: int | None) -> None:
        self.total = resume or 0

    def on_batch(self, values: list[int]) -> tuple[list[int], bool]:
        self.total += sum(values)
        return [self.total], self.RETAIN

    def snapshot(self) -> int:
        return self.total


class TotalOne(op.StatefulLogic):
    """As `Total`, value by value."""

    def __init__(self, resume: int | None) -> None:
        self.total = resume or 0

    def on_item(self, value: int) -> tuple[list[int], bool]:
        self.total += value
        return [self.total], self.RETAIN

    def snapshot(self) -> int:
        return self.total


def add(total: int | None, value: int) -> tuple[int, int]:
    return (total or 0) + value, (total or 0) + value


def add_many(total: int | None, value: int) -> tuple[int, list[int]]:
    return (total or 0) + value, [(total or 0) + value]


Build = Callable[..., Any]
SUMS: dict[str, Build] = {
    "stateful_map": lambda s, **o: op.stateful_map("s", s, add, **o),
    "stateful_flat_map": lambda s, **o: op.stateful_flat_map("s", s, add_many, **o),
    "stateful_batch": lambda s, **o: op.stateful_batch("s", s, Total, **o),
    "stateful": lambda s, **o: op.stateful("s", s, TotalOne, **o),
    "fold_final": lambda s, **o: op.fold_final("s", s, int, lambda x, y: x + y, **o),
    "reduce_final": lambda s, **o: op.reduce_final("s", s, lambda x, y: x + y, **o),
    "max_final": lambda s, **o: op.max_final("s", s, **o),
    "min_final": lambda s, **o: op.min_final("s", s, **o),
    "count_final": lambda s, **o: op.count_final("s", s, lambda kv: kv[0], **o),
}
OTHERS: dict[str, Build] = {
    "join": lambda s, **o: op.join("s", s, s, **o),
    "running join": lambda s, **o: op.join("s", s, s, s, emit_mode="running", **o),
}
LISTS: dict[str, Build] = {
    "collect": lambda s, **o: op.collect("s", s, timedelta(days=9), 3, **o),
}
ALL = {**SUMS, **OTHERS, **LISTS}


def options_of(build: Build, workers: int, *, kernels: bool, **options: Any) -> list[StateOptions]:
    """What the planner finds on the keyed steps of a flow."""
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([]))
    op.output("out", build(s, **options), TestingSink([]))
    planned = plan(flow, workers, kernels=kernels)
    return [step.kernel.state_options for step in planned.steps if is_keyed(step.kernel)]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
@pytest.mark.parametrize("name", ALL)
def test_kernels_have_what_the_user_said(name: str, kernels: bool, workers: int) -> None:
    """The runtime finds version, function and time to live on the one keyed step of each."""
    [default] = options_of(ALL[name], workers, kernels=kernels)
    assert default == DEFAULT_STATE
    given = {"state_version": 3, "migrate": lambda _version, state: state}
    if name not in LISTS:
        given["ttl"] = TTL.after
    [options] = options_of(ALL[name], workers, kernels=kernels, **given)
    assert options.version == 3
    assert options.migrate is not None
    assert options.ttl == (None if name in LISTS else op.TTL(TTL.after))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"state_version": "2"}, TypeError, "`state_version` of step 'flow.s' must be an `int`"),
        ({"state_version": True}, TypeError, "`state_version` of step 'flow.s' must be an `int`"),
        ({"state_version": 0}, ValueError, "`state_version` of step 'flow.s' must be between 1"),
        ({"state_version": 65_536}, ValueError, "`state_version` of step 'flow.s' must be between"),
        ({"migrate": "f"}, TypeError, "`migrate` of step 'flow.s' must be a function; got 'f'"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, options: Any, error: Any, words: str) -> None:
    """While the flow is built; the error names the argument and the step."""
    with pytest.raises(error) as caught:
        options_of(ALL[name], 1, kernels=True, **options)
    assert words in str(caught.value)


@pytest.fixture
def config(tmp_path: Path) -> RecoveryConfig:
    return RecoveryConfig(tmp_path / "store", create=True)


FIRST: list[Any] = [(0.0, [("a", 1)]), (1.0, [("a", 2)]), (2.0, CRASH)]
SECOND: list[Any] = [*FIRST, (3.0, [("a", 4)])]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
@pytest.mark.parametrize("ttl", [None, TTL], ids=["for ever", "ttl"])
@pytest.mark.parametrize("name", SUMS)
def test_migrate_sees_the_state_alone(
    name: str, ttl: Any, kernels: bool, config: RecoveryConfig
) -> None:
    """As the user's functions have it, without the stamp that is stored with it."""
    seen: list[Any] = []

    def migrate(version: int, state: int) -> int:
        seen.append((version, state))
        return state + 100

    settings: dict[str, Any] = {"epochs": EACH_BATCH, "kernels": kernels, "recovery": config}
    Timeline(lambda s: SUMS[name](s, ttl=ttl), FIRST, **settings).run()
    changed = {"state_version": 4, "migrate": migrate, "ttl": ttl}
    out = Timeline(lambda s: SUMS[name](s, **changed), SECOND, **settings).run()
    state = {"max_final": 2, "min_final": 1, "count_final": 2}.get(name, 3)
    assert seen == [(1, state)]
    grown = {"max_final": 102, "min_final": 4, "count_final": 103}.get(name, 107)
    assert out == [("a", grown)]


def test_a_migrated_state_keeps_its_age(config: RecoveryConfig) -> None:
    """The stamp that was stored with it is stored with what became of it."""
    ttl = timedelta(seconds=10)
    batches = [*SECOND, (4.0, CRASH), (12.9, [("a", 8)]), (13.0, CRASH)]
    batches += [(22.9, [("a", 16)])]

    def run(version: int) -> list[Any]:
        def migrate(_version: int, state: int) -> int:
            return state + 100

        def build(s: Any) -> Any:
            return op.stateful_map("s", s, add, ttl=ttl, state_version=version, migrate=migrate)

        return Timeline(build, batches, epochs=EACH_BATCH, recovery=config).run()

    assert run(1) == [("a", 1), ("a", 3)]
    assert run(2) == [("a", 107)]
    assert run(3) == [("a", 215)]
    assert run(4) == [("a", 16)]


@dataclass
class Row:
    value: int


def wrapped(_version: int, by_side: list[list[int]]) -> list[list[Row]]:
    return [[Row(value) for value in values] for values in by_side]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
@pytest.mark.parametrize("mode", ["last", "product"])
@pytest.mark.parametrize("ttl", [None, TTL], ids=["for ever", "ttl"])
def test_migrate_of_a_join_sees_values_by_side(
    mode: Any, kernels: bool, ttl: Any, config: RecoveryConfig
) -> None:
    """Whatever the form that they are stored in."""

    def run(**options: Any) -> list[Any]:
        def build(s: Any) -> Any:
            sides = op.branch("sides", s, lambda record: record[1] < 4)
            return op.join("s", sides.trues, sides.falses, insert_mode=mode, ttl=ttl, **options)

        settings: dict[str, Any] = {"kernels": kernels, "recovery": config}
        return Timeline(build, SECOND, epochs=EACH_BATCH, **settings).run()

    assert run() == []
    out = run(state_version=2, migrate=wrapped)
    assert out == [("a", (Row(n), 4)) for n in ((2,) if mode == "last" else (1, 2))]


@pytest.mark.parametrize("result", [None, [], [[], []], [[1]], (["x"], []), [1, 2], "xy"])
def test_migrate_of_a_join_must_keep_the_sides(result: Any, config: RecoveryConfig) -> None:
    """What is no list of lists, one per side, or holds no value, ends the run."""

    def run(**options: Any) -> list[Any]:
        def build(s: Any) -> Any:
            no_keys = op.filter_value("none", s, lambda _v: False)
            return op.join("s", s, no_keys, **options)

        return Timeline(build, SECOND, epochs=EACH_BATCH, recovery=config).run()

    run()
    with pytest.raises(EngineRuntimeError, match="`migrate` of a join must return a list of 2"):
        run(state_version=2, migrate=lambda _version, _state: result)


def test_migrate_of_collect_sees_the_values(config: RecoveryConfig) -> None:
    """And not when their list is due; what is no list ends the run."""

    def run(**options: Any) -> list[Any]:
        return Timeline(
            lambda s: LISTS["collect"](s, **options), SECOND, epochs=EACH_BATCH, recovery=config
        ).run()

    run()
    with pytest.raises(EngineRuntimeError, match="`migrate` of `collect` must return a list"):
        run(state_version=2, migrate=lambda _version, _values: 7)
    changed = run(state_version=2, migrate=lambda version, values: [(version, v) for v in values])
    assert changed == [("a", [(1, 1), (1, 2), 4])]
