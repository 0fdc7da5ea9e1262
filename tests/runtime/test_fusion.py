"""Fused runs: the generated loop does what the steps do one by one, and knows whose line failed."""

from __future__ import annotations

import gc
import linecache
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Stream
from engine.errors import EngineRuntimeError, UserCodeError
from engine.runtime._fusion import FUSED_FILE_PREFIX
from engine.testing import run_main
from tests.runtime.graphs import counted, flow_of

Build = Callable[[str, Stream[Any]], Stream[Any]]
Oracle = Callable[[list[Any]], list[Any]]


def each(fn: Callable[[Any], Iterable[Any]]) -> Oracle:
    """The oracle of a step that turns each record into some others."""
    return lambda records: [out for record in records for out in fn(record)]


def numbered(records: list[Any]) -> list[Any]:
    """The oracle of the keyed step below."""
    counts: dict[Any, int] = {}
    made: list[Any] = []
    for key, value in records:
        counts[key] = counts.get(key, 0) + 1
        made.append((key, value + counts[key]))
    return made


STEPS: dict[str, tuple[Build, Oracle]] = {
    "map": (
        lambda i, s: op.map(i, s, lambda r: (r[0], r[1] + 1)),
        each(lambda r: [(r[0], r[1] + 1)]),
    ),
    "filter": (
        lambda i, s: op.filter(i, s, lambda r: r[1] % 3 != 0),
        each(lambda r: [r] if r[1] % 3 else []),
    ),
    "flat_map": (
        lambda i, s: op.flat_map(i, s, lambda r: (r, (r[0], r[1] * 2))[: r[1] % 3]),
        each(lambda r: (r, (r[0], r[1] * 2))[: r[1] % 3]),
    ),
    "filter_map": (
        lambda i, s: op.filter_map(i, s, lambda r: None if r[1] == 4 else r),
        each(lambda r: [] if r[1] == 4 else [r]),
    ),
    "map_value": (
        lambda i, s: op.map_value(i, s, lambda v: v * 3),
        each(lambda r: [(r[0], r[1] * 3)]),
    ),
    "filter_value": (
        lambda i, s: op.filter_value(i, s, lambda v: v % 5 != 0),
        each(lambda r: [r] if r[1] % 5 else []),
    ),
    "flat_map_value": (
        lambda i, s: op.flat_map_value(i, s, lambda v: iter([v, v + 1])),
        each(lambda r: [r, (r[0], r[1] + 1)]),
    ),
    "filter_map_value": (
        lambda i, s: op.filter_map_value(i, s, lambda v: None if v % 7 == 0 else v),
        each(lambda r: [r] if r[1] % 7 else []),
    ),
    "rekey": (
        lambda i, s: op.key_rm(f"{i}rm", op.key_on(i, s, lambda r: r[0] * 2)),
        each(lambda r: [r]),
    ),
    "key_on": (
        lambda i, s: op.map_value(f"{i}v", op.key_on(i, s, lambda r: r[0]), lambda r: r[1]),
        each(lambda r: [r]),
    ),
    "inspect": (lambda i, s: op.inspect(i, s, lambda _id, _r: None), each(lambda r: [r])),
    "inspect_debug": (
        lambda i, s: op.inspect_debug(i, s, lambda _id, _r, _e, _w: None),
        each(lambda r: [r]),
    ),
    "stateful_map": (
        lambda i, s: op.stateful_map(i, s, lambda n, v: ((n or 0) + 1, v + (n or 0) + 1)),
        numbered,
    ),
    "stateful_flat_map": (
        lambda i, s: op.stateful_flat_map(i, s, lambda n, v: ((n or 0) + 1, [v + (n or 0) + 1])),
        numbered,
    ),
}

PAIRS = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)), max_size=12)
# Beyond a dozen `flat_map`s a run is cut into several loops; their records must not explode.
CHAINS = st.lists(st.sampled_from(sorted(STEPS)), max_size=8)


@given(CHAINS, PAIRS, st.integers(1, 5))
def test_a_fused_run_does_what_its_steps_do(kinds: list[str], records: list[Any], batch_size: int):
    """Any chain of steps gives what plain Python gives, in the same order."""

    def build(stream: Stream[Any]) -> Stream[Any]:
        for i, kind in enumerate(kinds):
            stream = STEPS[kind][0](f"s{i}", stream)
        return stream

    flow, out = flow_of(records, build, batch_size=batch_size)
    run_main(flow)
    for kind in kinds:
        records = STEPS[kind][1](records)
    assert out == records


@pytest.mark.parametrize("kind", ["flat_map", "stateful_flat_map", "filter"])
def test_runs_longer_than_python_nests_loops(kind: str):
    """Fifty steps, each of which is a loop or a condition of its own, are no problem."""
    steps: dict[str, Build] = {
        "flat_map": lambda i, s: op.flat_map(i, s, lambda r: [r]),
        "stateful_flat_map": lambda i, s: op.stateful_flat_map(i, s, lambda n, v: (n, [v])),
        "filter": lambda i, s: op.filter(i, s, lambda _r: True),
    }

    def build(stream: Stream[Any]) -> Stream[Any]:
        for i in range(50):
            stream = steps[kind](f"s{i}", stream)
        return stream

    flow, out = flow_of([("a", 1), ("b", 2)], build)
    run_main(flow)
    assert out == [("a", 1), ("b", 2)]


def test_thirty_steps_lose_nothing():
    """However many steps lie between source and sink, the end waits for the last of them."""

    def build(stream: Stream[int]) -> Stream[int]:
        for i in range(30):
            stream = op.map(f"map{i}", stream, lambda x: x + 1)
            stream = op.flat_map_batch(f"batch{i}", stream, list) if i % 3 == 0 else stream
        return stream

    flow, out = flow_of(range(1000), build, batch_size=200)
    run_main(flow)
    assert out == list(range(30, 1030))


# Who failed, and on what


def boom(value: Any) -> Any:
    """Fail on the record (or value) 2."""
    if value in (2, ("k", 2)):
        raise ZeroDivisionError("on purpose")
    return value


def boom_keyed(_state: Any, value: Any) -> Any:
    return None, boom(value)


def boom_listed(value: Any) -> Any:
    """A generator that fails at its second item."""
    yield value
    yield boom(value)


def boom_inspector(*arguments: Any) -> None:
    boom(arguments[1])


def key_of(stream: Stream[Any]) -> Stream[Any]:
    """A key before each record; the pair stays in two variables."""
    return op.key_on("key", stream, lambda _x: "k")


PLAIN: dict[str, Build] = {
    "map": lambda i, s: op.map(i, s, boom),
    "filter": lambda i, s: op.filter(i, s, lambda x: bool(boom(x)) or True),
    "flat_map": lambda i, s: op.flat_map(i, s, lambda x: [boom(x)]),
    "flat_map of a generator": lambda i, s: op.flat_map(i, s, boom_listed),
    "filter_map": lambda i, s: op.filter_map(i, s, boom),
    "key_on": lambda i, s: op.key_on(i, s, lambda x: str(boom(x))),
    "inspect": lambda i, s: op.inspect(i, s, boom_inspector),
    "inspect_debug": lambda i, s: op.inspect_debug(i, s, boom_inspector),
    "count_final": lambda i, s: op.count_final(i, s, lambda x: str(boom(x))),
    "branch": lambda i, s: op.branch(i, s, lambda x: bool(boom(x)) or True).trues,
}
KEYED: dict[str, Build] = {
    "map_value": lambda i, s: op.map_value(i, s, boom),
    "filter_value": lambda i, s: op.filter_value(i, s, lambda x: bool(boom(x)) or True),
    "flat_map_value": lambda i, s: op.flat_map_value(i, s, boom_listed),
    "filter_map_value": lambda i, s: op.filter_map_value(i, s, boom),
    "stateful_map": lambda i, s: op.stateful_map(i, s, boom_keyed),
    "stateful_flat_map": lambda i, s: op.stateful_flat_map(
        i, s, lambda _n, v: (None, boom_listed(v))
    ),
    "fold_final": lambda i, s: op.fold_final(i, s, list, lambda _all, v: boom(v)),
    "reduce_final": lambda i, s: op.reduce_final(i, s, lambda _old, v: boom(v)),
}


def failure(build: Callable[[Stream[Any]], Stream[Any]], items: list[Any]) -> EngineRuntimeError:
    """The error of a run."""
    flow, _ = flow_of(items, build, batch_size=2)
    with pytest.raises(EngineRuntimeError) as caught:
        run_main(flow)
    return caught.value


@pytest.mark.parametrize("before", ["", "map"])
@pytest.mark.parametrize("after", ["", "map"])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_failing_step_is_named_with_its_record(kind: str, before: str, after: str):
    """Wherever it stands in its run: the step that failed, and the record it got."""

    def build(stream: Stream[Any]) -> Stream[Any]:
        stream = op.map("before", stream, lambda x: x) if before else stream
        stream = PLAIN[kind]("bad", stream)
        return op.map("after", stream, lambda x: x) if after else stream

    error = failure(build, [0, 1, 2, 3])
    assert (error.step_id, error.record, error.key) == ("flow.bad", 2, None)
    assert str(error) == "step 'flow.bad' failed on 2: ZeroDivisionError: on purpose"


@pytest.mark.parametrize("made", [True, False], ids=["pair in variables", "pair as a tuple"])
@pytest.mark.parametrize("kind", KEYED)
def test_a_failing_keyed_step_is_named_with_key_and_value(kind: str, made: bool):
    """Steps that work on values name the value, and the key beside it."""

    def build(stream: Stream[Any]) -> Stream[Any]:
        stream = key_of(stream) if made else op.map("key", stream, lambda x: ("k", x))
        return KEYED[kind]("bad", stream)

    error = failure(build, [0, 1, 2, 3])
    assert (error.step_id, error.record, error.key) == ("flow.bad", 2, "k")
    assert str(error) == "step 'flow.bad' failed for key 'k' on 2: ZeroDivisionError: on purpose"


@pytest.mark.parametrize("kind", ["map", "filter", "flat_map", "filter_map", "inspect"])
def test_a_plain_step_on_a_keyed_stream_names_the_pair(kind: str):
    """Such a step gets key and value as one record, even where no tuple was needed before."""
    error = failure(lambda s: PLAIN[kind]("bad", key_of(s)), [0, 1, 2, 3])
    assert (error.step_id, error.record) == ("flow.bad", ("k", 2))


WRONG: dict[str, tuple[Build, str]] = {
    "filter": (lambda i, s: op.filter(i, s, lambda _x: 1), r"must return a `bool`; .* returned 1 "),
    "branch": (
        lambda i, s: op.branch(i, s, lambda _x: None).trues,
        r"must return a `bool`; .* returned None ",
    ),
    "flat_map": (lambda i, s: op.flat_map(i, s, lambda _x: 5), "must be an iterable; got 5 "),
    "flatten": (op.flatten, "each record must be an iterable; got 2 "),
    "key_on": (lambda i, s: op.key_on(i, s, lambda _x: 1.5), "a key must be a `str`, .*; got 1.5 "),
    "key_rm": (op.key_rm, r"needs `\(key, value\)` 2-tuples from upstream; got 2 "),
    "map_value": (lambda i, s: op.map_value(i, s, str), r"2-tuples from upstream; got 2 "),
    "stateful_map": (counted, r"2-tuples from upstream; got 2 "),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_shape_is_refused_in_the_words_of_the_step(kind: str):
    """What a function gave back, or what came from upstream, is said with its type."""
    build, message = WRONG[kind]
    error = failure(lambda s: build("bad", s), [2])
    assert isinstance(error.__cause__, UserCodeError)
    with pytest.raises(UserCodeError, match=message):
        raise error.__cause__
    assert (error.step_id, error.record) == ("flow.bad", 2)


@pytest.mark.parametrize("bad", [(), ("k",), ("k", 1, 2), ["k", 1], None, "k1"])
@pytest.mark.parametrize("keyed", [counted, op.key_rm])
def test_what_is_no_pair_is_refused(bad: Any, keyed: Build):
    """Tuples of another length are found out by Python itself, and reported like the rest."""
    error = failure(lambda s: keyed("bad", s), [("k", 0), bad])
    assert isinstance(error.__cause__, UserCodeError)
    assert "2-tuples from upstream" in str(error)
    assert (error.step_id, error.record) == ("flow.bad", bad)


@pytest.mark.parametrize("bad", [None, 5, (), (1,), (1, 2, 3), [1, 2], "ab"])
def test_what_a_keyed_mapper_returns_must_be_a_pair(bad: Any):
    """Anything but a 2-tuple is refused, with what should have been returned."""
    error = failure(lambda s: op.stateful_map("bad", s, lambda _n, _v: bad), [("k", 1)])
    assert isinstance(error.__cause__, UserCodeError)
    assert error.__cause__.hint == "return `(state, value)`"
    assert (error.step_id, error.key, error.record) == ("flow.bad", "k", 1)


def test_a_value_error_of_the_users_stays_theirs():
    """One that only looks like a failed unpacking is not taken for one."""

    def mapper(_record: Any) -> Any:
        first, second = (1, 2, 3)  # noqa: F841

    error = failure(lambda s: op.map("bad", s, mapper), [1])
    assert str(error.__cause__) == "too many values to unpack (expected 2)"


@pytest.mark.parametrize("kind", ["map", "flat_map", "flat_map_batch", "stateful_map", "key_on"])
def test_stop_iteration_from_a_function_is_an_error(kind: str):
    """It must not pass for the end of the source above, or of a loop."""

    def stop(*_: Any) -> Any:
        raise StopIteration

    steps: dict[str, Build] = {
        "map": lambda i, s: op.map(i, s, stop),
        "flat_map": lambda i, s: op.flat_map(i, s, stop),
        "flat_map_batch": lambda i, s: op.flat_map_batch(i, s, stop),
        "stateful_map": lambda i, s: op.stateful_map(i, s, stop),
        "key_on": lambda i, s: op.key_on(i, s, stop),
    }
    error = failure(lambda s: steps[kind]("bad", s), [("k", 1), ("k", 2)])
    assert error.step_id == "flow.bad"
    assert isinstance(error.__cause__, StopIteration)


def test_step_ids_with_quotes_and_backslashes_are_only_text():
    """Ids stand in the generated code; none of them can change it."""
    seen: list[str] = []
    step_id = "quote ' \" \\ \n end"
    flow, _ = flow_of(
        [1], lambda s: op.inspect_debug(step_id, s, lambda name, *_: seen.append(name))
    )
    run_main(flow)
    assert seen == [f"flow.{step_id}"]


# What a loop leaves behind


def generated_files() -> set[str]:
    return {name for name in linecache.cache if name.startswith(FUSED_FILE_PREFIX)}


def test_tracebacks_show_the_generated_lines():
    """The text of a loop can be looked up as long as the error lives."""
    error = failure(lambda s: op.map("bad", s, boom), [2])
    gc.collect()
    assert "= mapper" in "".join(traceback.format_exception(error))


def test_runs_leave_no_generated_text_behind():
    """Any number of runs in one process doesn't add up."""
    gc.collect()
    before = generated_files()
    for _ in range(5):
        flow, _ = flow_of([1], lambda s: op.map("same", s, abs))
        run_main(flow)
    gc.collect()
    assert generated_files() <= before
