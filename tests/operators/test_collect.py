"""`collect`."""

from __future__ import annotations

from datetime import timedelta

import pytest

import engine.operators as op
from engine.operators._collect import _Collect, _CollectState
from tests.operators.flows import emitted, emitted_in_time, pause

FOREVER = timedelta.max


def test_a_full_list_is_emitted() -> None:
    """As soon as a list has `max_size` values it comes out; the rest at the end of input."""
    items = [("a", i) for i in range(5)]
    out = emitted(lambda s: op.collect("c", s, FOREVER, 2), items)
    assert out == [("a", [0, 1]), ("a", [2, 3]), ("a", [4])]


def test_a_batch_may_fill_several_lists() -> None:
    """The same lists come of one large batch, and nothing is left of a full one."""
    items = [("a", i) for i in range(4)]
    out = emitted(lambda s: op.collect("c", s, FOREVER, 2), items, batch_size=10)
    assert out == [("a", [0, 1]), ("a", [2, 3])]


def test_keys_have_lists_of_their_own() -> None:
    """Values of one key never meet those of another; the rest comes in key order."""
    items = [("b", 1), ("a", 2), ("b", 3)]
    assert emitted(lambda s: op.collect("c", s, FOREVER, 9), items) == [("a", [2]), ("b", [1, 3])]


def test_a_pause_ends_a_list() -> None:
    """A list comes out when nothing has come for the timeout."""
    items = [("a", 1), ("a", 2), pause(60), ("a", 3)]
    out = emitted_in_time(lambda s: op.collect("c", s, timedelta(seconds=10), 99), items)
    assert out == [("a", [1, 2]), ("a", [3])]


def test_each_value_starts_the_timeout_again() -> None:
    """The timeout is about inactivity, not about age."""
    items = [("a", 1), pause(6), ("a", 2), pause(6), ("a", 3), pause(60), ("a", 4)]
    out = emitted_in_time(lambda s: op.collect("c", s, timedelta(seconds=10), 99), items)
    assert out == [("a", [1, 2, 3]), ("a", [4])]


def test_a_full_list_takes_its_timeout_with_it() -> None:
    """No empty list comes out after a full one."""
    items = [("a", 1), ("a", 2), pause(60)]
    out = emitted_in_time(lambda s: op.collect("c", s, timedelta(seconds=10), 2), items)
    assert out == [("a", [1, 2])]


def test_a_list_that_goes_on_growing_is_no_snapshot() -> None:
    """What is saved doesn't change with later values, and can be gone on with."""
    logic = _Collect(timedelta(seconds=1), 9, None)
    logic.on_batch([1])
    saved = logic.snapshot()
    logic.on_batch([2])
    assert saved.values == [1]
    resumed = _Collect(timedelta(seconds=1), 9, saved)
    assert resumed.notify_at() == saved.due
    assert resumed.on_eof() == ([[1]], True)
    assert _Collect(FOREVER, 9, _CollectState(None, [1])).notify_at() is None


@pytest.mark.parametrize(
    ("timeout", "max_size", "error", "message"),
    [
        (5, 1, TypeError, "`timeout` of step 'flow.c' must be a `timedelta`; got 5"),
        (timedelta(1), "2", TypeError, "`max_size` of step 'flow.c' must be an `int`; got '2'"),
        (timedelta(-1), 1, ValueError, "must not be negative"),
        (timedelta(1), 0, ValueError, "must be at least 1; got 0"),
    ],
)
def test_limits_are_checked(
    timeout: object, max_size: object, error: type[Exception], message: str
) -> None:
    """Wrong limits are refused while the flow is built."""
    with pytest.raises(error, match=message):
        emitted(lambda s: op.collect("c", s, timeout, max_size), [])  # type: ignore[arg-type]
