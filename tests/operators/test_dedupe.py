"""`dedupe`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Dataflow
from engine.testing import TestingSource
from tests.operators.flows import emitted, emitted_by_all
from tests.operators.timed import EACH_BATCH, NEVER, at, emitted_at

TTL_S = 10
TTL = timedelta(seconds=TTL_S)


def id_of(record: tuple[str, int]) -> str:
    return record[0]


def by_arrival(s: Any) -> Any:
    return op.dedupe("once", s, id_of, TTL)


def by_event(s: Any) -> Any:
    # Records may come half a minute late; what comes later still may find its key forgotten.
    ttl = op.TTL(TTL, event_time=lambda record: at(record[1]), lateness=timedelta(seconds=30))
    return op.dedupe("once", s, id_of, ttl)


def test_the_first_of_each_key_passes_as_it_is() -> None:
    """Records come out without a key, in their order; later ones of a key don't."""
    records = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)]
    for batch_size in (1, 9):
        out = emitted(by_arrival, records, batch_size=batch_size)
        assert out == [("a", 1), ("b", 2), ("c", 4)]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
def test_a_dropped_record_starts_the_time_again(kernels: bool) -> None:
    """A key passes once more when it has been silent for the time to live, and not before."""
    times = [0.0, 9.9, 19.8, 29.7, 39.7]
    batches = [(s, [("a", s)]) for s in times]
    assert emitted_at(by_arrival, batches, kernels=kernels) == [("a", 0.0), ("a", 39.7)]


def test_by_event_time_earlier_ones_are_dropped() -> None:
    """However much earlier than the one that passed."""
    records = [("a", s) for s in (100, 50, 109, 80, 119)]
    assert emitted_at(by_event, [(0.0, records)]) == [("a", 100), ("a", 119)]


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab"), st.integers(-15, 15))),
    each=st.booleans(),
    event=st.booleans(),
)
@example(gaps=[(0, "a", 0), (5, "b", 15), (0, "a", 0)], each=True, event=True)
def test_as_a_loop_by_hand_says(gaps: list[Any], each: bool, event: bool) -> None:
    """By both clocks, whenever epochs end."""
    now, batches, expected = 0, [], []
    last: dict[str, int] = {}
    for gap, key, off in gaps:
        now += gap
        record = (key, now + off)
        batches.append((float(now), [record]))
        time = record[1] if event else now
        if key not in last or time - last[key] >= TTL_S:
            expected.append(record)
        last[key] = max(last.get(key, time), time)
    build, epochs = by_event if event else by_arrival, EACH_BATCH if each else NEVER
    assert emitted_at(build, batches, epochs=epochs) == expected


@pytest.mark.parametrize("seed", range(3))
def test_several_workers(seed: int) -> None:
    """One of each key passes, whichever worker it came to."""
    records = [(f"k{i % 7}", i) for i in range(50)]
    out = emitted_by_all(by_arrival, records, workers=3, seed=seed)
    assert sorted(id_of(record) for record in out) == [f"k{i}" for i in range(7)]


@pytest.mark.parametrize("ttl", [None, 5])
def test_there_must_be_a_time_to_live(ttl: Any) -> None:
    """Without one the state would grow for ever."""
    s = op.input("in", Dataflow("flow"), TestingSource([]))
    with pytest.raises(TypeError, match=r"`ttl` of step 'flow.once' must be a `timedelta` or an"):
        op.dedupe("once", s, id_of, ttl)
