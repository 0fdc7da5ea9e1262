"""Functions given to operators are checked while the flow is built; keys and their order."""

from __future__ import annotations

import functools
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import UserCodeError
from engine.operators._keys import check_key, key_order, sorted_keys
from engine.operators._shown import shortened
from engine.testing import TestingSource

# For each operator that takes functions: how to call it with one of them replaced.
TAKES = {
    ("flat_map_batch", "mapper"): lambda s, fn: op.flat_map_batch("s", s, fn),
    ("map", "mapper"): lambda s, fn: op.map("s", s, fn),
    ("flat_map", "mapper"): lambda s, fn: op.flat_map("s", s, fn),
    ("filter", "predicate"): lambda s, fn: op.filter("s", s, fn),
    ("filter_map", "mapper"): lambda s, fn: op.filter_map("s", s, fn),
    ("map_value", "mapper"): lambda s, fn: op.map_value("s", s, fn),
    ("flat_map_value", "mapper"): lambda s, fn: op.flat_map_value("s", s, fn),
    ("filter_value", "predicate"): lambda s, fn: op.filter_value("s", s, fn),
    ("filter_map_value", "mapper"): lambda s, fn: op.filter_map_value("s", s, fn),
    ("key_on", "key"): lambda s, fn: op.key_on("s", s, fn),
    ("branch", "predicate"): lambda s, fn: op.branch("s", s, fn),
    ("inspect", "inspector"): lambda s, fn: op.inspect("s", s, fn),
    ("inspect_debug", "inspector"): lambda s, fn: op.inspect_debug("s", s, fn),
    ("enrich_cached", "getter"): lambda s, fn: op.enrich_cached("s", s, fn, print),
    ("enrich_cached", "mapper"): lambda s, fn: op.enrich_cached("s", s, print, fn),
    ("dedupe", "key"): lambda s, fn: op.dedupe("s", s, fn, timedelta(1)),
    ("rolling", "by"): lambda s, fn: op.rolling("s", s, 2, "sum", by=fn),
    ("stateful_batch", "builder"): lambda s, fn: op.stateful_batch("s", s, fn),
    ("stateful", "builder"): lambda s, fn: op.stateful("s", s, fn),
    ("stateful_map", "mapper"): lambda s, fn: op.stateful_map("s", s, fn),
    ("stateful_flat_map", "mapper"): lambda s, fn: op.stateful_flat_map("s", s, fn),
    ("fold_final", "builder"): lambda s, fn: op.fold_final("s", s, fn, print),
    ("fold_final", "folder"): lambda s, fn: op.fold_final("s", s, list, fn),
    ("reduce_final", "reducer"): lambda s, fn: op.reduce_final("s", s, fn),
    ("count_final", "key"): lambda s, fn: op.count_final("s", s, fn),
    ("max_final", "by"): lambda s, fn: op.max_final("s", s, fn),
    ("min_final", "by"): lambda s, fn: op.min_final("s", s, fn),
}
EACH_FUNCTION = pytest.mark.parametrize(("name", "parameter"), TAKES)


async def coroutine(*_args: object) -> None: ...


async def generator(*_args: object):
    yield None


class AsyncCallable:
    async def __call__(self, *_args: object) -> None: ...

    async def method(self, *_args: object) -> None: ...


@EACH_FUNCTION
@pytest.mark.parametrize("bad", [None, 5, "text", [print]])
def test_what_is_not_a_function_is_refused(name: str, parameter: str, bad: object) -> None:
    """The error names parameter, step, value and type."""
    s = op.input("in", Dataflow("flow"), TestingSource([]))
    with pytest.raises(TypeError) as caught:
        TAKES[name, parameter](s, bad)
    assert str(caught.value) == (
        f"`{parameter}` of step 'flow.s' must be a function; "
        f"got {bad!r} of type `{type(bad).__name__}`"
    )


@EACH_FUNCTION
@pytest.mark.parametrize(
    "bad",
    [
        coroutine,
        generator,
        functools.partial(coroutine, 1),
        functools.partial(functools.partial(generator), 1),
        AsyncCallable(),
        AsyncCallable().method,
        functools.partial(AsyncCallable(), 1),
    ],
    ids=[
        "async def",
        "async generator",
        "partial",
        "partial of partial",
        "object",
        "method",
        "partial of object",
    ],
)
def test_async_functions_are_refused(name: str, parameter: str, bad: object) -> None:
    """Nobody would await them here, so the error names the operator that does."""
    s = op.input("in", Dataflow("flow"), TestingSource([]))
    with pytest.raises(
        TypeError, match=f"`{parameter}` of step 'flow.s' is an `async def`.*`task`"
    ):
        TAKES[name, parameter](s, bad)


@EACH_FUNCTION
def test_all_kinds_of_callables_are_taken(name: str, parameter: str) -> None:
    """Built-ins, classes, partials and methods are functions."""
    for i, good in enumerate([len, dict, functools.partial(max, key=len), "".join]):
        s = op.input("in", Dataflow(f"flow_{i}"), TestingSource([]))
        TAKES[name, parameter](s, good)


def test_every_parameter_for_a_function_is_in_the_table() -> None:
    """An operator that comes later can't be forgotten in these tests."""
    import inspect  # noqa: PLC0415

    functions = {"mapper", "predicate", "key", "inspector", "getter", "builder", "folder"}
    functions |= {"reducer", "by"}
    for name in op.__all__:
        operator = getattr(op, name)
        if inspect.isfunction(operator):
            taken = functions & set(inspect.signature(operator).parameters)
            assert {(name, parameter) for parameter in taken} <= set(TAKES)


KEYS = st.recursive(
    st.one_of(st.text(), st.binary(), st.integers()),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(KEYS)
def test_all_allowed_keys_pass(key: object) -> None:
    """Text, bytes, whole numbers and tuples of these, nested as they may be."""
    check_key(key)


@settings(max_examples=50, deadline=None)
@given(st.lists(KEYS, max_size=8))
def test_keys_of_all_types_have_one_order(keys: list[object]) -> None:
    """The order doesn't depend on how keys come, and agrees with plain comparison."""
    once = sorted(keys, key=key_order)
    assert sorted(keys[1:] + keys[:1], key=key_order) == once
    assert sorted_keys(keys) == once


def test_a_long_key_is_shortened_in_the_error() -> None:
    """An error stays readable whatever the key."""
    with pytest.raises(UserCodeError) as caught:
        check_key([0] * 10_000)
    assert len(str(caught.value)) < 300


def test_a_repr_that_raises_does_not_hide_the_error() -> None:
    """What can't be shown is said to be so."""

    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    assert shortened(Broken()) == "<Broken whose repr raises ValueError>"
    assert shortened(timedelta(0)) == "datetime.timedelta(0)"
