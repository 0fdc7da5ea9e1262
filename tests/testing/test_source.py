"""`TestingSource`: batches, sentinels, and where a run resumes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import clock_set_to
from engine.connectors import AbortExecution
from engine.testing import TestingSource, ffwd_iter

EOF, ABORT, PAUSE = TestingSource.EOF, TestingSource.ABORT, TestingSource.PAUSE
MINUTE = timedelta(minutes=1)


def opened(source: TestingSource[Any], state: int | None = None) -> Any:
    """Its one partition."""
    return source.build_part("flow.in", "iterable", state)


def drained(part: Any) -> list[list[Any]]:
    """All batches up to the end of input, less the empty ones."""
    batches: list[list[Any]] = []
    while True:
        try:
            batches.append(part.next_batch())
        except StopIteration:
            return [batch for batch in batches if batch]


def test_items_come_in_batches():
    """The last one may be smaller; the end is said again and again."""
    part = opened(TestingSource(range(5), batch_size=2))
    assert drained(part) == [[0, 1], [2, 3], [4]]
    assert drained(part) == []


def test_the_iterable_is_iterated_over_anew_by_each_run():
    """A source object may be used in several runs."""
    source = TestingSource([1, 2])
    assert drained(opened(source)) == drained(opened(source)) == [[1], [2]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_eof_ends_the_input_and_the_next_run_goes_on_behind_it(batch_size: int):
    """In as many runs as there are ends, whatever the size of batches."""
    source = TestingSource([1, 2, 3, EOF(), EOF(), 4, EOF()], batch_size)
    states, items = [0], []
    for _ in range(5):
        part = opened(source, states[-1])
        items.append([item for batch in drained(part) for item in batch])
        states.append(part.snapshot())
    assert items == [[1, 2, 3], [], [4], [], []]
    assert states == [0, 4, 5, 7, 7, 7]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_abort_fires_once_per_object(batch_size: int):
    """The run that resumes from before it passes it; items in front of it came first."""
    source = TestingSource([1, ABORT(), 2, ABORT(), 3], batch_size)
    part = opened(source)
    assert part.next_batch() == [1]
    state = part.snapshot()
    with pytest.raises(AbortExecution):
        part.next_batch()
    part = opened(source, state)
    assert part.next_batch() == [2]
    with pytest.raises(AbortExecution):
        part.next_batch()
    assert drained(opened(source, state)) in ([[2], [3]], [[2, 3]])


def test_pause_gives_nothing_for_a_while():
    """An empty batch, and a time to wake up; then the items go on."""
    now = datetime(2024, 1, 1, tzinfo=UTC)
    part = opened(TestingSource([1, PAUSE(MINUTE), 2], batch_size=5))
    with clock_set_to(lambda: now):
        assert (part.next_batch(), part.next_awake()) == ([1], None)
        assert (part.next_batch(), part.next_awake()) == ([], now + MINUTE)
        assert (part.next_batch(), part.next_awake()) == ([2], None)


def test_the_state_is_an_index_into_the_items():
    """Sentinels count like items, once they have been passed."""
    part = opened(TestingSource([1, PAUSE(MINUTE), 2, 3, PAUSE(MINUTE), 4], batch_size=2))
    states = [part.snapshot()]
    for _ in range(5):
        part.next_batch()
        states.append(part.snapshot())
    assert states == [0, 1, 2, 4, 5, 6]


SENTINELS: list[Callable[[], Any]] = [EOF, ABORT, lambda: PAUSE(MINUTE)]


@given(
    st.lists(st.sampled_from(["item", *SENTINELS]), max_size=15),
    st.integers(1, 4),
    st.lists(st.booleans(), max_size=40),
)
def test_no_item_is_lost_or_doubled_however_runs_end(
    kinds: list[Any], batch_size: int, crashes: list[bool]
):
    """Runs that end, abort or crash and resume from their last state give each item once."""
    items = [i if kind == "item" else kind() for i, kind in enumerate(kinds)]
    source = TestingSource(items, batch_size)
    state, committed = 0, []
    for crash in [*crashes, *[False] * (len(items) + 1)]:
        part = opened(source, state)
        try:
            while True:
                batch = part.next_batch()
                if crash:
                    break  # Before the batch was committed.
                committed += batch
                state = part.snapshot()
        except StopIteration:
            state = part.snapshot()
        except AbortExecution:
            pass
    assert committed == [i for i, kind in enumerate(kinds) if kind == "item"]


@pytest.mark.parametrize(("skip", "left"), [(0, [1, 2, 3]), (2, [3]), (3, []), (9, [])])
def test_ffwd_iter_skips_items(skip: int, left: list[int]):
    """As many as there are, at most."""
    assert list(ffwd_iter(iter([1, 2, 3]), skip)) == left
