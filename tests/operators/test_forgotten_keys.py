"""Kernels with state of their own form over a memory that forgets: they emit the same."""

from __future__ import annotations

import random
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators._kernels import KeyedLogic, StepContext
from engine.operators._state import KeyedState
from engine.testing import TestingSource
from tests.operators.test_keyed_state import Shelf

KEYS = [f"k{i}" for i in range(8)]


def logic_of(name: str, state: KeyedState) -> KeyedLogic:
    """A running step without a runtime around it."""
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([("a", 1)]))
    if name == "table_join":
        op.table_join("s", s, op.map("rows", s, lambda record: record), "left")
    elif name == "rolling":
        op.rolling("s", s, 3, tuple)
    else:
        op.timeout("s", s, timedelta(days=1))
    step = flow.substeps[-1]
    assert step.kernel is not None
    kernel: Any = step.kernel(step, 1)
    context = StepContext("s", 0, 1, SimpleNamespace(epoch=1), lambda: 0.0, state)
    logic: KeyedLogic = kernel.start(context)
    return logic


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["table_join", "rolling"])
def test_what_was_forgotten_is_found_again(name: str, seed: int) -> None:
    """Whether it is in the older half of memory or in the store, looked up in batches or not."""
    rng, shelf = random.Random(seed), Shelf()
    state, whole = KeyedState(), KeyedState()
    state.attach(shelf)
    forgetful, remembering = logic_of(name, state), logic_of(name, whole)
    for number in range(200):
        match rng.randrange(8):
            case 0:
                shelf.save(state)
            case 1:
                shelf.save(state)
                state.rotate()
            case _:
                port = rng.randrange(2) if name == "table_join" else 0
                value = None if port == 1 and rng.random() < 0.3 else number
                batch = [(rng.choice(KEYS), value)]
                if rng.random() < 0.5:
                    state.prefetch(batch)
                assert forgetful.on_batch(port, batch) == remembering.on_batch(port, batch)
        assert sorted(state.all_keys()) == sorted(whole.all_keys())
    for key in KEYS:
        form = whole.form
        assert form.to_stored(state.peek(key)) == form.to_stored(whole.peek(key))


def test_a_key_that_comes_back_to_memory_has_its_timer() -> None:
    """Also if that is due later than timers are looked for."""
    shelf, state = Shelf(), KeyedState()
    state.attach(shelf)
    first = logic_of("timeout", state)
    first.on_batch(0, [("a", 1)])
    shelf.save(state)
    state = KeyedState()
    state.attach(shelf)
    later = logic_of("timeout", state)
    assert later.next_due_s() is None
    later.on_batch(0, [("a", 2)])
    assert later.next_due_s() == timedelta(days=1).total_seconds()


def test_a_row_that_is_only_read_is_not_saved_again() -> None:
    """Values are joined with rows in memory at no cost for the epoch."""
    shelf, state = Shelf(), KeyedState()
    state.attach(shelf)
    logic = logic_of("table_join", state)
    logic.on_batch(1, [("a", 1)])
    shelf.save(state)
    assert logic.on_batch(0, [("a", 2)]) == [("a", (2, 1))]
    assert state.barrier().keys == []
