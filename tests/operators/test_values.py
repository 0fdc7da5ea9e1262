"""Operators on the values of keyed streams, and those that give and take keys."""

from __future__ import annotations

from typing import NamedTuple

import pytest

import engine.operators as op
from engine.errors import EngineRuntimeError, UserCodeError
from tests.operators.flows import emitted

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
PAIRS = [("a", 1), ("b", 2), ("a", 3)]


class Pair(NamedTuple):
    key: str
    value: int


VALUE_CASES = {
    "map_value": (lambda s: op.map_value("s", s, str), [("a", "1"), ("b", "2"), ("a", "3")]),
    "flat_map_value": (
        lambda s: op.flat_map_value("s", s, lambda x: "xyz"[x:]),
        [("a", "y"), ("a", "z"), ("b", "z")],
    ),
    "filter_value": (lambda s: op.filter_value("s", s, lambda x: x != 2), [("a", 1), ("a", 3)]),
    "filter_map_value": (
        lambda s: op.filter_map_value("s", s, {1: 0, 2: "two"}.get),
        [("a", 0), ("b", "two")],
    ),
    "key_rm": (lambda s: op.key_rm("s", s), [1, 2, 3]),
}


@KERNELS
@pytest.mark.parametrize("name", VALUE_CASES)
def test_the_value_changes_and_the_key_stays(name: str, kernels: bool) -> None:
    """Each operator works on the value, in order."""
    build, expected = VALUE_CASES[name]
    assert emitted(build, PAIRS, kernels=kernels) == expected


@KERNELS
def test_key_on(kernels: bool) -> None:
    """The record stays whole, behind its key."""
    assert emitted(lambda s: op.key_on("k", s, len), ["ab", ""], kernels=kernels) == [
        (2, "ab"),
        (0, ""),
    ]


@KERNELS
@pytest.mark.parametrize("key", ["a", b"a", 1, ("a", 1), (), ("a", (b"b", 2))])
def test_allowed_keys(key: object, kernels: bool) -> None:
    """Text is the rule; bytes, whole numbers and tuples of these work."""
    assert emitted(lambda s: op.key_on("k", s, lambda _x: key), [1], kernels=kernels) == [(key, 1)]


@KERNELS
@pytest.mark.parametrize("key", [None, 1.0, True, ["a"], ("a", None), frozenset("a")])
def test_other_keys_are_refused(key: object, kernels: bool) -> None:
    """What can't be a key is refused where it is made, with its type and a way out."""
    with pytest.raises(EngineRuntimeError, match=r"flow\.k") as caught:
        emitted(lambda s: op.key_on("k", s, lambda _x: key), [1], kernels=kernels)
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert "a key must be a `str`, `bytes`, `int` or a tuple of these" in str(error)
    assert f"of type `{type(key).__name__}`" in str(error)
    assert "str(" in error.hint


class Keep(op.StatefulBatchLogic):
    def __init__(self, resume: object) -> None: ...

    def on_batch(self, values):
        return values, self.RETAIN

    def snapshot(self): ...


class KeepOne(op.StatefulLogic):
    def __init__(self, resume: object) -> None: ...

    def on_item(self, value):
        return [value], self.RETAIN

    def snapshot(self): ...


KEYED_OPERATORS = {
    "map_value": lambda s: op.map_value("s", s, str),
    "flat_map_value": lambda s: op.flat_map_value("s", s, lambda x: [x]),
    "filter_value": lambda s: op.filter_value("s", s, lambda _x: True),
    "filter_map_value": lambda s: op.filter_map_value("s", s, str),
    "key_rm": lambda s: op.key_rm("s", s),
    "stateful_batch": lambda s: op.stateful_batch("s", s, Keep),
    "stateful": lambda s: op.stateful("s", s, KeepOne),
    "stateful_map": lambda s: op.stateful_map("s", s, lambda state, v: (state, v)),
    "stateful_flat_map": lambda s: op.stateful_flat_map("s", s, lambda state, v: (state, [v])),
    "fold_final": lambda s: op.fold_final("s", s, list, lambda kept, v: [*kept, v]),
    "reduce_final": lambda s: op.reduce_final("s", s, max),
    "max_final": lambda s: op.max_final("s", s),
    "min_final": lambda s: op.min_final("s", s),
    "join": lambda s: op.join("s", s),
}


@KERNELS
@pytest.mark.parametrize("name", KEYED_OPERATORS)
@pytest.mark.parametrize("bad", [["a", 1], ("a", 1, 2), "ab", None], ids=str)
def test_keyed_operators_need_pairs(name: str, bad: object, kernels: bool) -> None:
    """A list, a 3-tuple, a text of two letters are no `(key, value)`; the way out is said."""
    with pytest.raises(EngineRuntimeError, match=r"flow\.s") as caught:
        emitted(KEYED_OPERATORS[name], [bad], kernels=kernels)
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert "2-tuples from upstream" in str(error)
    assert repr(bad) in str(error)
    assert "op.key_on" in error.hint


@KERNELS
@pytest.mark.parametrize("name", KEYED_OPERATORS)
def test_named_tuples_are_pairs(name: str, kernels: bool) -> None:
    """A subclass of `tuple` with two items is a pair."""
    assert emitted(KEYED_OPERATORS[name], [Pair("a", 1)], kernels=kernels)


STATEFUL = [name for name in KEYED_OPERATORS if not name.endswith("value") and name != "key_rm"]


@KERNELS
@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("key", [None, 1.5, True, ["a"]], ids=str)
def test_stateful_operators_check_keys(name: str, key: object, kernels: bool) -> None:
    """A key that didn't come from `key_on` is checked before it gets a state."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(KEYED_OPERATORS[name], [(key, 1)], kernels=kernels)
    assert "a key must be" in str(caught.value.__cause__)


@KERNELS
def test_a_value_predicate_must_give_a_bool(kernels: bool) -> None:
    """`filter_value` names the user's own function, also from within its composition."""

    def predicate(_value: int) -> None: ...

    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: op.filter_value("f", s, predicate), [("a", 1)], kernels=kernels)
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert error.function is predicate


@KERNELS
def test_a_flat_value_mapper_must_give_an_iterable(kernels: bool) -> None:
    """`flat_map_value` names the user's own function as well."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: op.flat_map_value("f", s, abs), [("a", 1)], kernels=kernels)
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert error.function is abs
