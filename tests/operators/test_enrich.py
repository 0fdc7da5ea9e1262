"""`enrich_cached` and `TTLCache`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import engine.operators as op
from engine.operators import TTLCache
from engine.testing import TimeTestingGetter
from tests.operators.flows import emitted

START = datetime(2024, 1, 1, tzinfo=UTC)


class Table:
    """A lookup that says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def get(self, key: object) -> str:
        self.asked.append(key)
        return f"{key} #{len(self.asked)}"


def test_a_value_is_good_until_its_time_is_over() -> None:
    """At exactly the time to live it is still good, after that it is looked up again."""
    table, clock = Table(), TimeTestingGetter(START)
    cache = TTLCache(table.get, clock.get, timedelta(seconds=10))
    assert cache.get("a") == "a #1"
    clock.advance(timedelta(seconds=10))
    assert cache.get("a") == "a #1"
    clock.advance(timedelta(microseconds=1))
    assert cache.get("a") == "a #2"


def test_a_removed_value_is_looked_up_again() -> None:
    """`remove` forgets one key, cached or not."""
    table = Table()
    cache = TTLCache(table.get, lambda: START, timedelta.max)
    cache.get("a")
    cache.remove("a")
    cache.remove("never cached")
    assert cache.get("a") == "a #2"


def test_none_is_a_value() -> None:
    """A lookup that finds None is not repeated."""
    asked: list[str] = []
    cache = TTLCache(asked.append, lambda: START, timedelta.max)
    assert cache.get("a") is None
    assert cache.get("a") is None
    assert asked == ["a"]


def test_a_failed_lookup_leaves_nothing() -> None:
    """What the getter raises comes through, and the next call tries again."""
    cache = TTLCache({}.__getitem__, lambda: START, timedelta.max)
    for _ in range(2):
        with pytest.raises(KeyError):
            cache.get("a")


def test_enriching_looks_up_once_per_key() -> None:
    """By default a value stays good for ever."""
    table = Table()
    out = emitted(
        lambda s: op.enrich_cached("e", s, table.get, lambda cache, x: (x, cache.get(x))),
        ["a", "b", "a"],
    )
    assert out == [("a", "a #1"), ("b", "b #2"), ("a", "a #1")]
    assert table.asked == ["a", "b"]


def test_the_time_is_taken_once_per_batch() -> None:
    """A value can't grow too old within a batch, and does so between batches."""
    table, times = Table(), iter([START + timedelta(hours=hour) for hour in range(9)])
    out = emitted(
        lambda s: op.enrich_cached(
            "e",
            s,
            table.get,
            lambda cache, x: cache.get(x),
            timedelta(minutes=1),
            lambda: next(times),
        ),
        ["a", "a", "a", "a"],
        batch_size=2,
    )
    assert out == ["a #1", "a #1", "a #2", "a #2"]


def test_a_full_cache_forgets_what_was_asked_for_the_longest_ago() -> None:
    """Being asked for keeps a value; being looked up again when too old does so as well."""
    table, clock = Table(), TimeTestingGetter(START)
    cache = TTLCache(table.get, clock.get, timedelta(seconds=10), 2)
    assert [cache.get(key) for key in "aba"] == ["a #1", "b #2", "a #1"]
    assert [cache.get(key) for key in "ca"] == ["c #3", "a #1"]
    clock.advance(timedelta(seconds=11))
    assert [cache.get(key) for key in "cdc"] == ["c #4", "d #5", "c #4"]
    assert table.asked == ["a", "b", "c", "c", "d"]


def test_a_value_that_is_looked_up_again_pushes_no_other_out() -> None:
    """It has had its place."""
    table, clock = Table(), TimeTestingGetter(START)
    cache = TTLCache(table.get, clock.get, timedelta(seconds=10), 2)
    cache.get("c")
    clock.advance(timedelta(seconds=6))
    assert [cache.get(key) for key in "ac"] == ["a #2", "c #1"]
    clock.advance(timedelta(seconds=6))
    assert [cache.get(key) for key in "ca"] == ["c #3", "a #2"]


@pytest.mark.parametrize(("max_size", "lookups"), [(1, 4), (2, 2), (None, 2)])
def test_a_bounded_cache_of_a_step(max_size: int | None, lookups: int) -> None:
    """It gives the same records, with more look-ups the smaller it is."""
    table = Table()
    emitted(
        lambda s: op.enrich_cached(
            "e", s, table.get, lambda cache, x: cache.get(x), max_size=max_size
        ),
        ["a", "b", "a", "b"],
    )
    assert len(table.asked) == lookups


@pytest.mark.parametrize(
    ("max_size", "error"), [("5", TypeError), (True, TypeError), (0, ValueError)]
)
def test_the_size_of_the_cache_is_checked(max_size: object, error: type[Exception]) -> None:
    """A wrong one is refused while the flow is built."""
    with pytest.raises(error, match="`max_size` of step 'flow.e' must be"):
        emitted(lambda s: op.enrich_cached("e", s, len, print, max_size=max_size), [])  # type: ignore[arg-type]
