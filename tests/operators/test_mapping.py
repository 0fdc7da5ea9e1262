"""`map`, `filter`, `flat_map` and their kin, and the errors about what users' functions return."""

from __future__ import annotations

import pytest

import engine.operators as op
from engine.errors import EngineRuntimeError, UserCodeError
from tests.operators.flows import emitted, root_cause

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])


@KERNELS
def test_map(kernels: bool) -> None:
    """Each record becomes one, in order; None is a record like any other."""
    assert emitted(lambda s: op.map("m", s, [10, None].__getitem__), [0, 1], kernels=kernels) == [
        10,
        None,
    ]


@KERNELS
def test_flat_map(kernels: bool) -> None:
    """Each record becomes any number, from any iterable, in order."""
    out = emitted(lambda s: op.flat_map("m", s, range), [2, 0, 3], batch_size=3, kernels=kernels)
    assert out == [0, 1, 0, 1, 2]


@KERNELS
def test_flat_map_takes_generators(kernels: bool) -> None:
    """A generator function is a fine mapper."""

    def twice(x: int):
        yield x
        yield x

    assert emitted(lambda s: op.flat_map("m", s, twice), [1, 2], kernels=kernels) == [1, 1, 2, 2]


@KERNELS
def test_flatten(kernels: bool) -> None:
    """The items of each record come out; text is an iterable of letters."""
    items = [[1, 2], (), "ab", {3: 4}]
    assert emitted(lambda s: op.flatten("f", s), items, kernels=kernels) == [1, 2, "a", "b", 3]


@KERNELS
def test_filter(kernels: bool) -> None:
    """Records for which the predicate is True stay, in order."""
    out = emitted(lambda s: op.filter("f", s, lambda x: x > 1), [3, 1, 2], kernels=kernels)
    assert out == [3, 2]


@KERNELS
def test_filter_map(kernels: bool) -> None:
    """None is dropped, other false values are not."""
    out = emitted(lambda s: op.filter_map("f", s, {1: 0, 2: None}.get), [1, 2, 3], kernels=kernels)
    assert out == [0]


def test_flat_map_batch_gets_lists() -> None:
    """The mapper sees batches as lists that are never empty, and may return any iterable."""
    seen: list[object] = []

    def mapper(batch: list[int]):
        seen.append((type(batch), len(batch) > 0))
        return (x for x in batch if x != 2)

    assert emitted(lambda s: op.flat_map_batch("b", s, mapper), [1, 2, 3], batch_size=2) == [1, 3]
    assert set(seen) == {(list, True)}


def test_flat_map_batch_may_change_its_list() -> None:
    """A mapper that sorts or empties its batch in place spoils nobody else's."""

    def take_all(batch: list[int]) -> list[int]:
        taken = sorted(batch)
        batch.clear()
        return taken

    def both(s):
        return op.merge("m", op.flat_map_batch("sorted", s, take_all), op.map("kept", s, str))

    out = emitted(both, [3, 1, 2], batch_size=3)
    assert out == [1, 2, 3, "3", "1", "2"]


def test_batches_become_no_smaller() -> None:
    """Steps before hand on what a source gave as one batch."""
    sizes = emitted(
        lambda s: op.flat_map_batch("n", op.map("m", s, str), lambda b: [len(b)]),
        range(10),
        batch_size=4,
    )
    assert sizes == [4, 4, 2]


@KERNELS
@pytest.mark.parametrize("bad", [1, None, "yes", []])
def test_a_predicate_must_give_a_bool(bad: object, kernels: bool) -> None:
    """`filter` refuses what is only like a bool, and names function, result and type."""

    def predicate(_x: int) -> object:
        return bad

    with pytest.raises(EngineRuntimeError, match=r"flow\.f") as caught:
        emitted(lambda s: op.filter("f", s, predicate), [1], kernels=kernels)
    error = root_cause(caught.value)
    assert isinstance(error, UserCodeError)
    assert error.function is predicate
    assert "must return a `bool`" in str(error)
    assert f"returned {bad!r} of type `{type(bad).__name__}`" in str(error)
    assert "bool()" in error.hint


@KERNELS
def test_flat_map_needs_an_iterable(kernels: bool) -> None:
    """`flat_map` refuses what can't be iterated over."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: op.flat_map("f", s, abs), [1], kernels=kernels)
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert "<builtins.abs> returns must be an iterable; got 1 of type `int`" in str(error)


@KERNELS
def test_flatten_needs_iterables(kernels: bool) -> None:
    """`flatten` refuses records that can't be iterated over."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: op.flatten("f", s), [[1], 2], kernels=kernels)
    assert "each record must be an iterable; got 2 of type `int`" in str(caught.value.__cause__)


def test_flat_map_batch_needs_an_iterable() -> None:
    """`flat_map_batch` refuses what can't be iterated over."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: op.flat_map_batch("f", s, len), [1])
    cause = caught.value.__cause__
    assert isinstance(cause, UserCodeError)
    assert "must be an iterable; got 1 of type `int`" in str(cause)


@KERNELS
def test_what_a_users_function_raises_is_the_root_cause(kernels: bool) -> None:
    """The chain of causes ends in the very exception that the user's function raised."""
    error = LookupError("mine")

    def fail(_x: int) -> int:
        raise error

    with pytest.raises(EngineRuntimeError, match="flow.m") as caught:
        emitted(lambda s: op.map("m", s, fail), [1], kernels=kernels)
    assert root_cause(caught.value) is error
