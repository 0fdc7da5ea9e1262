"""State larger than memory: what is forgotten is read back, and the run gives the same."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators._state import KeyedState
from engine.recovery import RecoveryConfig
from engine.runtime._memory import StateMemory, deep_bytes
from engine.testing import TestingSink, TestingSource, run_main

RECORDS = [(f"key{i * 7919 % 5000}", i) for i in range(20_000)]
BYTES_MAX = 400_000
"""For some hundred keys of the 5,000."""


def flow_of(out: list[Any]) -> Dataflow:
    """Keyed steps of each kind, after another and beside each other."""
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource(RECORDS, batch_size=500))
    counted = op.stateful_map("count", s, lambda n, v: ((n or 0) + 1, v + (n or 0)))
    summed = op.stateful_map("sum", counted, lambda t, v: ((t or 0) + v,) * 2)
    paired = op.collect("pairs", summed, timedelta(days=1), 2)
    joined = op.join("join", counted, summed, emit_mode="running")
    total = op.fold_final("total", s, list, lambda seen, v: [*seen, v])
    op.output("out", op.merge("all", paired, joined, total), TestingSink(out))
    return flow


@pytest.fixture
def rotations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys were in the younger half of a step's memory, at each rotation."""
    counts: list[int] = []
    rotate = KeyedState.rotate

    def counted(self: KeyedState) -> None:
        counts.append(self.count)
        rotate(self)

    monkeypatch.setattr(KeyedState, "rotate", counted)
    return counts


def test_a_bounded_run_gives_what_an_unbounded_one_gives(tmp_path: Path, rotations: list[int]):
    """Over many rotations, with epochs that come of themselves only."""
    bounded: list[Any] = []
    config = RecoveryConfig(tmp_path / "store", create=True, state_memory=BYTES_MAX)
    run_main(flow_of(bounded), epoch_interval=timedelta(hours=1), recovery_config=config)
    unbounded: list[Any] = []
    run_main(flow_of(unbounded))
    assert sorted(map(repr, bounded)) == sorted(map(repr, unbounded))
    assert len(rotations) > 20
    assert max(rotations) < 1500


def test_a_later_run_finds_what_was_forgotten(tmp_path: Path):
    """Each key goes on with its count, in memory or not."""
    counts: dict[str, int] = {}
    for _ in range(2):
        out: list[Any] = []
        flow = Dataflow("f")
        source = TestingSource(RECORDS, batch_size=500)
        s = op.input("in", flow, Restarting(source))
        s = op.stateful_map("count", s, lambda n, _: ((n or 0) + 1, (n or 0) + 1))
        op.output("out", s, TestingSink(out))
        config = RecoveryConfig(tmp_path / "store", create=True, state_memory=BYTES_MAX)
        run_main(flow, epoch_interval=timedelta(hours=1), recovery_config=config)
        counts.update(out)
    assert set(counts.values()) == {8}


class Restarting(TestingSource):
    """Begins anew with each run."""

    def __init__(self, source: TestingSource) -> None:
        self._source = source

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Any:
        return self._source.build_part(step_id, for_part, None)

    def list_parts(self) -> list[str]:
        return self._source.list_parts()


def test_the_bound_is_for_all_steps_together():
    """Two steps that each take a quarter fill half of it, which is when room is made."""
    states = [KeyedState(), KeyedState()]
    memory = StateMemory(states, 1_000_000)
    for i in range(500):
        states[0].put(i, i)
    assert not memory.full()
    one = deep_bytes((0, 0)) + 220
    for i in range(500_000 // one):
        states[1].put(i, i)
    assert memory.full()


def test_what_a_state_takes_is_counted_with_all_that_it_holds():
    """Each object once, however often it is referred to; classes and functions not at all."""
    text = "x" * 1000
    assert 1000 < deep_bytes([text, text]) < 1500
    assert deep_bytes({"a": [text + "y", {"b": text}]}) > 2000
    assert deep_bytes(deep_bytes) == 0
    assert deep_bytes([str(i) for i in range(100_000)]) > 5_000_000
