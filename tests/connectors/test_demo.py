"""`RandomMetricSource`: how much it gives, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from engine.connectors.demo import RandomMetricSource

START = datetime(2024, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_values_are_an_interval_apart() -> None:
    """The first value is due at once, each other one interval after the one before."""
    source = RandomMetricSource("cpu", SECOND, 2, lambda: 7.5, now_getter=lambda: START)
    part = source.build_part("flow.in", "cpu", None)
    assert part.next_awake() == START
    assert part.next_batch() == [("cpu", 7.5)]
    assert part.next_awake() == START + SECOND
    assert part.next_batch() == [("cpu", 7.5)]
    with pytest.raises(StopIteration):
        part.next_batch()


def test_default_values_are_whole_numbers_up_to_ten() -> None:
    """Without `next_random` values are from 0 to 10."""
    part = RandomMetricSource("cpu", timedelta(0)).build_part("flow.in", "cpu", None)
    values = [value for _ in range(100) for _, value in part.next_batch()]
    assert set(values) <= set(range(11))


def test_outage_is_not_made_up_for() -> None:
    """After a restart the next value is due when it was to be, or now if that is past."""
    late = RandomMetricSource("cpu", SECOND, now_getter=lambda: START + 60 * SECOND)
    assert late.build_part("flow.in", "cpu", (START, 3)).next_awake() == START + 60 * SECOND
    quick = RandomMetricSource("cpu", SECOND, now_getter=lambda: START)
    assert quick.build_part("flow.in", "cpu", (START + SECOND, 3)).next_awake() == START + SECOND


def test_refuses_a_negative_interval() -> None:
    """Time does not run backwards."""
    with pytest.raises(ValueError, match="must not be negative"):
        RandomMetricSource("cpu", -SECOND)
