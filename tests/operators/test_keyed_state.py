"""`KeyedState` against a dict: whatever is forgotten comes back, and what is gone stays gone."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from engine.operators._state import KeyedState, StateForm
from engine.operators._timers import Timers

KEYS = [f"k{i}" for i in range(8)]


class Shelf:
    """What was saved, as a store would have it: copies, so that later changes don't show."""

    def __init__(self) -> None:
        self.rows: dict[Any, Any] = {}
        self.loaded: list[Any] = []

    def load(self, key: Any) -> Any:
        return self.load_many([key])[0]

    def load_many(self, keys: list[Any]) -> list[Any]:
        self.loaded += keys
        return [copy.deepcopy(self.rows.get(key)) for key in keys]

    def is_empty(self) -> bool:
        return not self.rows

    def keys(self) -> list[Any]:
        return list(self.rows)

    def save(self, state: KeyedState) -> None:
        changes = state.barrier()
        assert not set(changes.keys) & set(changes.gone)
        self.rows.update(copy.deepcopy(dict(zip(changes.keys, changes.stored, strict=True))))
        for key in changes.gone:
            self.rows.pop(key, None)


def attached(shelf: Shelf) -> KeyedState:
    state = KeyedState()
    state.attach(shelf)
    return state


def act(state: KeyedState, model: dict[Any, Any], rng: random.Random) -> None:
    """One thing that a kernel does, with the same done to the model."""
    key, number = rng.choice(KEYS), rng.randint(0, 99)
    match rng.randrange(5):
        case 0:
            assert state.get(key) == model.get(key)
            state.put(key, [number])
            model[key] = [number]
        case 1:
            seen = state.get(key)
            assert seen == model.get(key)
            if seen is not None:
                seen.append(number)
                model[key].append(number)
        case 2:
            state.discard(key)
            model.pop(key, None)
        case 3:
            assert state.peek(key) == model.get(key)
        case _:
            state.prefetch([(k, 0) for k in rng.sample(KEYS, 4)])
            assert state.get(key) == model.get(key)


@pytest.mark.parametrize("seed", range(40))
def test_it_is_a_dict_over_barriers_rotations_and_restarts(seed: int):
    """Random use gives what a dict gives, and what is saved is what the dict holds."""
    rng, shelf, model = random.Random(seed), Shelf(), {}
    state = attached(shelf)
    for _ in range(300):
        act(state, model, rng)
        if rng.random() < 0.15:
            assert sorted(state.all_keys()) == sorted(model)
            shelf.save(state)
            assert shelf.rows == model
            if rng.random() < 0.5:
                state.rotate()
            if rng.random() < 0.2:
                state = attached(shelf)


def test_a_key_that_is_used_stays_in_memory():
    """Two rotations forget what wasn't touched between them, and that alone."""
    shelf = Shelf()
    state = attached(shelf)
    state.put("used", [1])
    state.put("idle", [2])
    for _ in range(3):
        assert state.get("used") is not None
        shelf.save(state)
        state.rotate()
    shelf.loaded.clear()
    assert state.get("used") == [1]
    assert shelf.loaded == []
    assert state.get("idle") == [2]
    assert shelf.loaded == ["idle"]


def test_nothing_is_looked_up_while_all_is_in_memory():
    """A new key costs no look-up in a store that had nothing, until something is forgotten."""
    shelf = Shelf()
    state = attached(shelf)
    for key in KEYS:
        state.prefetch([(key, 0)])
        assert state.get(key) is None
        state.put(key, 1)
    shelf.save(state)
    state.rotate()
    assert state.get("new") is None
    assert shelf.loaded == []
    shelf.save(state)
    state.rotate()
    assert state.get("new") is None
    assert shelf.loaded == ["new"]


def test_a_batch_is_looked_up_at_once():
    """And a key without state only once, though it comes again and again."""
    shelf = Shelf()
    shelf.rows = {"a": 1, "b": 2}
    state = attached(shelf)
    state.prefetch([("a", 0), ("new", 0), ("b", 0), ("a", 0)])
    assert sorted(shelf.loaded) == ["a", "b", "new"]
    assert [state.get(key) for key in ("a", "b", "new")] == [1, 2, None]
    assert len(shelf.loaded) == 3


@pytest.mark.parametrize("batch", [[1], [("a", 1, 2)], [([], 1)], ["ab", None]])
def test_what_is_no_pair_is_left_to_the_step(batch: list[Any]):
    """It is the step that knows how to say which record is wrong."""
    shelf = Shelf()
    shelf.rows = {"a": 1}
    attached(shelf).prefetch(batch)


def test_timers_of_forgotten_keys_are_left_to_the_store():
    """But for those that are due before the store is asked again."""
    state, shelf = KeyedState(), Shelf()
    form = StateForm()
    form.timers = Timers()
    state.form = form
    state.attach(shelf)
    form.timers.attach(lambda _until_s: [], 100.0)
    for key, due_s in (("soon", 110.0), ("late", 1000.0)):
        state.put(key, 1)
        form.timers.set(key, due_s)
    for _ in range(2):
        shelf.save(state)
        state.rotate()
    assert form.timers.due_s == {"soon": 110.0}


def test_what_was_not_there_may_be_there_later():
    """A look-up in vain is remembered no longer than until the next barrier."""
    shelf = Shelf()
    shelf.rows = {"a": 1}
    state = attached(shelf)
    state.prefetch([("new", 0)])
    assert state.get("new") is None
    state.put("new", [1])
    for _ in range(2):
        shelf.save(state)
        state.rotate()
    assert state.get("new") == [1]
