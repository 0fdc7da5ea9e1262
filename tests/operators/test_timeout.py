"""`timeout`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Dataflow
from engine.recovery import RecoveryConfig
from engine.testing import TestingSource
from tests.operators.flows import by_key
from tests.operators.timed import CRASH, EACH_BATCH, NEVER, Timeline, emitted_at

AFTER_S = 10
KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])


def silent(s: Any, **options: Any) -> Any:
    return op.timeout("silent", s, timedelta(seconds=AFTER_S), **options)


@KERNELS
def test_the_last_value_is_emitted_once_per_silence(kernels: bool) -> None:
    """When the time is over, not earlier, and again only after another value."""
    batches: list[Any] = [(0.0, [("a", 1)]), (6.0, [("a", 2)]), (15.9, []), (16.0, [("b", 3)])]
    batches += [(40.0, []), (50.0, [("a", 4)]), (60.0, [])]
    out = emitted_at(silent, batches, kernels=kernels)
    assert out == [("a", 2), ("b", 3), ("a", 4)]


@KERNELS
def test_a_timer_that_is_late_misses_nothing(kernels: bool) -> None:
    """A value that comes after the silence, but before anybody noticed it, doesn't hide it."""
    batches: list[Any] = [(0.0, [("a", 1)]), (10.0, [("a", 2)]), (19.0, [("a", 3)])]
    assert emitted_at(silent, batches, kernels=kernels) == [("a", 1)]


@KERNELS
def test_the_end_of_input_is_no_silence(kernels: bool) -> None:
    """Nothing is emitted then; a later run goes on from there."""
    assert emitted_at(silent, [(0.0, [("a", 1)])], kernels=kernels) == []


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.tuples(st.integers(0, 14), st.text("abc", max_size=3))),
    each=st.booleans(),
    kernels=st.booleans(),
)
def test_as_a_loop_by_hand_says(gaps: list[Any], each: bool, kernels: bool) -> None:
    """Each key's last value before each silence, in their order."""
    now, number, batches = 0, 0, []
    expected: dict[str, list[int]] = {}
    last: dict[str, tuple[int, int]] = {}
    for gap, keys in [*gaps, (AFTER_S, "")]:
        now += gap
        for key, (came, value) in list(last.items()):
            if now - came >= AFTER_S:
                expected.setdefault(key, []).append(value)
                del last[key]
        records = []
        for key in keys:
            number += 1
            records.append((key, number))
            last[key] = now, number
        batches.append((float(now), records))
    out = emitted_at(silent, batches, epochs=EACH_BATCH if each else NEVER, kernels=kernels)
    assert by_key(out) == expected


@KERNELS
def test_a_silence_over_a_crash(kernels: bool, tmp_path: Any) -> None:
    """Timers outlive a crash, as set anew by later values; overdue ones come at once."""
    batches: list[Any] = [(0.0, [("a", 1), ("b", 1)]), (5.0, [("b", 2)]), (6.0, CRASH)]
    batches += [(10.0, []), (11.0, [("c", 1)]), (12.0, CRASH)]
    batches += [(30.0, [("b", 3)]), (31.0, [("d", 1)]), (39.0, CRASH), (39.5, [])]
    line = Timeline(
        silent,
        batches,
        epochs=EACH_BATCH,
        kernels=kernels,
        recovery=RecoveryConfig(tmp_path / "store", create=True),
    )
    runs = [sorted(line.run()) for _ in range(4)]
    assert runs == [[], [("a", 1)], [("b", 2), ("c", 1)], []]


@KERNELS
def test_migrate_sees_the_value(kernels: bool, tmp_path: Any) -> None:
    """And not when it came."""
    batches: list[Any] = [(0.0, [("a", 1)]), (1.0, CRASH), (20.0, [])]
    config = RecoveryConfig(tmp_path / "store", create=True)
    settings_: dict[str, Any] = {"epochs": EACH_BATCH, "kernels": kernels, "recovery": config}
    assert Timeline(silent, batches, **settings_).run() == []

    def changed(s: Any) -> Any:
        return silent(s, state_version=2, migrate=lambda version, value: (version, value))

    assert Timeline(changed, batches, **settings_).run() == [("a", (1, 1))]


@pytest.mark.parametrize(
    ("after", "error", "message"),
    [
        (5, TypeError, "`after` of step 'flow.silent' must be a `timedelta`; got 5"),
        (timedelta(0), ValueError, "must be more than 0"),
    ],
)
def test_the_time_is_checked(after: Any, error: type[Exception], message: str) -> None:
    """Wrong times are refused while the flow is built."""
    s = op.input("in", Dataflow("flow"), TestingSource([("a", 1)]))
    with pytest.raises(error, match=message):
        op.timeout("silent", s, after)


@KERNELS
def test_for_ever_is_a_time(kernels: bool) -> None:
    """The longest `timedelta` doesn't overflow."""
    batches: list[Any] = [(0.0, [("a", 1)]), (1e5, [("a", 2)])]
    build = lambda s: op.timeout("silent", s, timedelta.max)  # noqa: E731 - only used here
    assert emitted_at(build, batches, kernels=kernels) == []
