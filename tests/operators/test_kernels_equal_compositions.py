"""Every kernel against the composition it stands for, on random input.

The two must emit the same values per key in the same order, or fail for the same reason. Across
keys the order within a batch is not promised: compositions go by key, kernels by arrival.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.errors import EngineRuntimeError
from tests.operators.flows import by_key, emitted, root_cause
from tests.operators.timed import EACH_BATCH, NEVER, at, emitted_at


def parity(x: Any) -> Any:
    """A predicate that gives no `bool` now and then."""
    return x if x == 7 else x % 2 == 0


def divisors(x: int) -> Any:
    """Any number of items; now and then nothing to iterate over, or an error."""
    if x == 8:
        return x
    return [d for d in range(1, 5) if 12 // x % d == 0]


def some_key(x: Any) -> Any:
    """Keys of all kinds, also such as aren't allowed."""
    return ["a", 1, ("a", x % 2), b"a", 1.5 if x == 9 else "b"][x % 5]


def maybe_none(x: int) -> int | None:
    return None if x % 3 == 0 else x * 10


def transition(state: int | None, value: int) -> Any:
    if value == 9:
        return "no pair"
    total = (state or 0) + value
    return None if total % 4 == 0 else total, total


def spreading(state: int | None, value: int) -> Any:
    new_state, total = transition(state, value) if value != 9 else (None, 5)
    return new_state, total if value == 8 else range(total % 3)


def fold(total: int, value: int) -> int | None:
    return None if value == 5 else total * 3 + value


STATELESS: dict[str, Callable[..., Any]] = {
    "map": lambda s: op.map("s", s, lambda x: 12 // x),
    "filter": lambda s: op.filter("s", s, parity),
    "flat_map": lambda s: op.flat_map("s", s, divisors),
    "flatten": lambda s: op.flatten("s", op.map("m", s, lambda x: x if x == 9 else range(x % 3))),
    "filter_map": lambda s: op.filter_map("s", s, maybe_none),
    "key_on": lambda s: op.key_on("s", s, some_key),
    "enrich_cached": lambda s: op.enrich_cached(
        "s", s, lambda n: 12 // n, lambda cache, x: x + cache.get(x % 4)
    ),
    "inspect": lambda s: op.inspect("s", s, lambda _id, x: 12 // x),
    "count_final": lambda s: op.count_final("s", s, some_key),
}
KEYED: dict[str, Callable[..., Any]] = {
    "map_value": lambda s: op.map_value("s", s, lambda x: 12 // x),
    "filter_value": lambda s: op.filter_value("s", s, parity),
    "flat_map_value": lambda s: op.flat_map_value("s", s, divisors),
    "filter_map_value": lambda s: op.filter_map_value("s", s, maybe_none),
    "key_rm": lambda s: op.key_rm("s", s),
    "stateful_map": lambda s: op.stateful_map("s", s, transition),
    "stateful_flat_map": lambda s: op.stateful_flat_map("s", s, spreading),
    "fold_final": lambda s: op.fold_final("s", s, int, fold),
    "reduce_final": lambda s: op.reduce_final("s", s, max),
    "rolling": lambda s: op.rolling("s", s, 3, "mean", by=lambda x: 12 // x),
    "timeout": lambda s: op.timeout("s", s, timedelta(days=1)),
}
JOINS = {
    ("join", insert, emit): lambda *s, i=insert, e=emit: op.join(
        "s", *s, insert_mode=i, emit_mode=e
    )
    for insert in ("first", "last", "product")
    for emit in ("complete", "running", "final")
}

JOINS |= {
    ("table_join", how): lambda *s, how=how: op.table_join(
        "s", s[0], op.map_value("rows", s[-1], lambda x: None if x == 5 else x), how
    )
    for how in ("inner", "left")
}

ITEMS = st.lists(st.integers(0, 9) | st.integers(1, 6), max_size=12)
GOOD_KEYS = st.sampled_from(["a", "b", 1, 2, b"a", ("a", 1)])
PAIRS = st.lists(st.tuples(GOOD_KEYS, st.integers(0, 9) | st.integers(1, 6)), max_size=12)
ODD_PAIRS = PAIRS | st.lists(
    st.tuples(st.sampled_from(["a", None]), st.integers(1, 6)) | st.just(("a",)), max_size=6
)
BATCH_SIZES = st.integers(1, 5)


def outcome(build: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """What comes out, or which error ends the run."""
    try:
        return emitted(build, *inputs, **options)
    except EngineRuntimeError as ex:
        cause = root_cause(ex)
        return type(cause), str(cause)


def same(kernel: Any, composition: Any, *, keyed: bool) -> bool:
    """Whether two outcomes are equal as far as anything is promised."""
    if isinstance(kernel, tuple) or isinstance(composition, tuple):
        return kernel == composition
    return by_key(kernel) == by_key(composition) if keyed else kernel == composition


@pytest.mark.parametrize("name", STATELESS)
@settings(max_examples=25, deadline=None)
@given(items=ITEMS, batch_size=BATCH_SIZES)
def test_on_records(name: str, items: list[int], batch_size: int) -> None:
    """Operators on records emit the very same, errors included."""
    by_kernel = outcome(STATELESS[name], items, batch_size=batch_size)
    composed = outcome(STATELESS[name], items, batch_size=batch_size, kernels=False)
    assert same(by_kernel, composed, keyed=False)


@pytest.mark.parametrize("name", KEYED)
@settings(max_examples=25, deadline=None)
@given(items=PAIRS, batch_size=BATCH_SIZES)
def test_on_pairs(name: str, items: list[Any], batch_size: int) -> None:
    """Operators on keyed streams emit the same per key."""
    by_kernel = outcome(KEYED[name], items, batch_size=batch_size)
    composed = outcome(KEYED[name], items, batch_size=batch_size, kernels=False)
    if isinstance(by_kernel, tuple) or isinstance(composed, tuple):
        # Which of several faults in a batch is met first depends on the order of the keys.
        assert isinstance(by_kernel, tuple)
        assert isinstance(composed, tuple)
    else:
        assert same(by_kernel, composed, keyed=name != "key_rm")


@pytest.mark.parametrize("name", KEYED)
@settings(max_examples=15, deadline=None)
@given(items=ODD_PAIRS)
def test_on_what_is_no_pair(name: str, items: list[Any]) -> None:
    """They refuse the same records with the same words."""
    by_kernel = outcome(KEYED[name], items)
    composed = outcome(KEYED[name], items, kernels=False)
    assert same(by_kernel, composed, keyed=name != "key_rm")


@pytest.mark.parametrize("name", JOINS, ids=lambda name: "-".join(name[1:]))
@settings(max_examples=25, deadline=None)
@given(sides=st.lists(PAIRS, min_size=1, max_size=3), batch_size=BATCH_SIZES)
def test_joins(name: tuple[str, ...], sides: list[Any], batch_size: int) -> None:
    """Joins of one to three sides emit the same per key, in every mode."""
    by_kernel = outcome(JOINS[name], *sides, batch_size=batch_size)
    composed = outcome(JOINS[name], *sides, batch_size=batch_size, kernels=False)
    assert same(by_kernel, composed, keyed=True)


AGES: dict[str, Any] = {
    "arrival": timedelta(seconds=5),
    "event": op.TTL(
        timedelta(seconds=5), lambda value: at(value[0]), lateness=timedelta(seconds=9)
    ),
}


def timed_transition(state: int | None, value: tuple[int, int]) -> Any:
    return transition(state, value[1])


def timed_spreading(state: int | None, value: tuple[int, int]) -> Any:
    return spreading(state, value[1])


AGING: dict[str, Callable[..., Any]] = {
    "stateful_map": lambda s, ttl: op.stateful_map("s", s, timed_transition, ttl=ttl),
    "stateful_flat_map": lambda s, ttl: op.stateful_flat_map("s", s, timed_spreading, ttl=ttl),
    "fold_final": lambda s, ttl: op.fold_final("s", s, int, lambda n, v: fold(n, v[1]), ttl=ttl),
    "reduce_final": lambda s, ttl: op.reduce_final("s", s, max, ttl=ttl),
    "count_final": lambda s, ttl: op.count_final("s", op.key_rm("rm", s), lambda v: v[1], ttl=ttl),
    "rolling": lambda s, ttl: op.rolling("s", s, 3, tuple, by=lambda v: v[1], ttl=ttl),
    "table_join": lambda s, ttl: op.table_join(
        "s",
        op.filter_value("values", s, lambda v: v[1] % 2 == 0),
        op.map_value("rows", s, lambda v: None if v[1] == 5 else v),
        ttl=ttl,
    ),
    **{
        "-".join(name): lambda s, ttl, i=name[1], e=name[2]: op.join(
            "s",
            op.filter_value("left", s, lambda v: v[1] % 3 == 0),
            op.filter_value("right", s, lambda v: v[1] % 3 == 1),
            *([op.filter_value("third", s, lambda v: v[1] % 3 == 2)] if i == "product" else []),
            insert_mode=i,
            emit_mode=e,
            ttl=ttl,
        )
        for name in JOINS
        if name[0] == "join"
    },
}
GAPS = st.integers(0, 6)
TIMED_BATCHES = st.lists(
    st.tuples(
        GAPS,
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(-9, 3), st.integers(1, 8)),
            min_size=1,
            max_size=4,
        ),
    ),
    max_size=8,
)


def timed(batches: list[Any]) -> list[tuple[float, Any]]:
    """Batches one after the other, their records with event times about the wall clock's."""
    now, made = 0, []
    for gap, records in batches:
        now += gap
        made.append((float(now), [(key, (now + s, value)) for key, s, value in records]))
    return made


@pytest.mark.parametrize("ttl", AGES)
@pytest.mark.parametrize("name", AGING)
@settings(max_examples=25, deadline=None)
@given(batches=TIMED_BATCHES, each=st.booleans())
@example(batches=[(0, [("a", 0, 5), ("a", -5, 1), ("a", 0, 1)])], each=False)
def test_with_a_time_to_live(name: str, ttl: str, batches: list[Any], each: bool) -> None:
    """With states that die, by either clock, they emit the same per key."""
    build = AGING[name]
    epochs = EACH_BATCH if each else NEVER
    runs = [
        outcome_at(lambda s: build(s, AGES[ttl]), timed(batches), epochs=epochs, kernels=kernels)
        for kernels in (True, False)
    ]
    assert same(*runs, keyed=True)


def outcome_at(build: Callable[..., Any], batches: Any, **options: Any) -> Any:
    """As `outcome`, for batches that come at their times."""
    try:
        return emitted_at(build, batches, **options)
    except EngineRuntimeError as ex:
        return type(root_cause(ex)), str(root_cause(ex))


def test_every_kernel_is_compared() -> None:
    """An operator that gets a kernel later can't be forgotten here."""
    core = {"branch", "dead_letters", "flat_map_batch", "input", "inspect_debug", "merge", "output"}
    core |= {"redistribute", "stateful_batch", "task", "actor"}
    compositions = {"collect", "max_final", "min_final", "raises", "stateful"}
    compositions |= {"dedupe"}
    operators = {name for name in op.__all__ if inspect.isfunction(getattr(op, name))}
    compared = {*STATELESS, *KEYED, "join", "table_join"}
    assert operators - core - compositions == compared
    keyed = {n for n in compared if "ttl" in inspect.signature(getattr(op, n)).parameters}
    # What that one has is no state.
    assert {name.partition("-")[0] for name in AGING} == keyed - {"enrich_cached"}
