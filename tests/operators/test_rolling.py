"""`rolling`."""

from __future__ import annotations

import math
import random
import statistics
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.recovery import RecoveryConfig
from engine.testing import TestingSource
from tests.operators.flows import by_key, emitted
from tests.operators.timed import CRASH, EACH_BATCH, NEVER, Timeline, at, emitted_at

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
EXPECTED: dict[Any, Any] = {
    "count": len,
    "sum": sum,
    "mean": statistics.mean,
    "min": min,
    "max": max,
    tuple: tuple,
}
AGGREGATES = st.sampled_from(list(EXPECTED))
EVENTS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from("aab"), st.integers(-9, 9), st.integers(-3, 20)),
    max_size=30,
)


def amount_of(value: tuple[int, int]) -> int:
    return value[1]


def time_of(value: tuple[int, int]) -> Any:
    return at(value[0])


def timed(events: list[Any], late_max: int) -> tuple[list[Any], list[Any]]:
    """Batches of one record with a time and an amount, and their records with when they came."""
    now, batches, records = 0, [], []
    for gap, key, amount, late in events:
        now += gap
        value = (now - min(late_max, max(0, late - 10)), amount)
        batches.append((float(now), [(key, value)]))
        records.append((now, key, value))
    return batches, records


@settings(max_examples=60, deadline=None)
@given(
    events=EVENTS,
    how=AGGREGATES,
    size=st.integers(1, 6),
    each=st.booleans(),
    kernels=st.booleans(),
)
def test_over_so_many_values(
    events: list[Any], how: Any, size: int, each: bool, kernels: bool
) -> None:
    """What the last values of the key come to, worked out from all of them each time."""
    batches, records = timed(events, 0)
    expected, kept = [], {}
    for _now, key, value in records:
        window = kept.setdefault(key, [])
        window.append(amount_of(value))
        expected.append((key, EXPECTED[how](window[-size:])))
    out = emitted_at(
        lambda s: op.rolling("roll", s, size, how, by=amount_of),
        batches,
        epochs=EACH_BATCH if each else NEVER,
        kernels=kernels,
    )
    assert out == expected


@settings(max_examples=80, deadline=None)
@given(
    events=EVENTS,
    how=AGGREGATES,
    size=st.integers(1, 9),
    event=st.booleans(),
    each=st.booleans(),
    kernels=st.booleans(),
)
def test_over_so_much_time(
    events: list[Any], how: Any, size: int, event: bool, each: bool, kernels: bool
) -> None:
    """By both clocks; a value that comes late counts with the latest one of its key."""
    batches, records = timed(events, size - 1)
    expected, kept = [], {}
    for now, key, value in records:
        window = kept.setdefault(key, [])
        time = max([value[0], *(t for t, _ in window)]) if event else now
        window.append((time, amount_of(value)))
        inside = [amount for t, amount in window if t > time - size]
        expected.append((key, EXPECTED[how](inside)))
    span = timedelta(seconds=size)
    options: dict[str, Any] = {"event_time": time_of} if event else {}
    out = emitted_at(
        lambda s: op.rolling("roll", s, span, how, by=amount_of, **options),
        batches,
        epochs=EACH_BATCH if each else NEVER,
        kernels=kernels,
    )
    assert out == expected


def test_sums_of_floats_do_not_drift() -> None:
    """A value that has left the window leaves nothing behind, were it never so large."""
    values = [("a", v) for v in (1.0, 1e16, math.inf, 2.0, 3.0, 4.0)]
    out = emitted(lambda s: op.rolling("roll", s, 2, "sum"), values)
    assert out[-2:] == [("a", 5.0), ("a", 7.0)]


@KERNELS
@pytest.mark.parametrize("size", [4, timedelta(seconds=4)], ids=["values", "time"])
@pytest.mark.parametrize("seed", range(2))
def test_crashes_change_nothing(kernels: bool, size: Any, seed: int, tmp_path: Any) -> None:
    """To the last bit: floats are added up in the same order as without them."""
    rng = random.Random(seed)
    batches: list[Any] = []
    for second in range(30):
        batches.append((float(second), [(rng.choice("ab"), rng.random()) for _ in range(3)]))
        if rng.random() < 0.3:
            batches.append((float(second), CRASH))
    whole = emitted_at(
        lambda s: op.rolling("roll", s, size, "sum"),
        [batch for batch in batches if batch[1] != CRASH],
        kernels=kernels,
    )
    line = Timeline(
        lambda s: op.rolling("roll", s, size, "sum"),
        batches,
        epochs=EACH_BATCH,
        kernels=kernels,
        recovery=RecoveryConfig(tmp_path / "store", create=True),
    )
    crashes = sum(batch[1] == CRASH for batch in batches)
    found = [record for _ in range(crashes + 1) for record in line.run()]
    assert crashes
    assert by_key(found) == by_key(whole)


@KERNELS
def test_a_ttl_bounds_windows_of_values(kernels: bool) -> None:
    """After a silence a key begins anew."""
    batches: list[Any] = [(0.0, [("a", 1)]), (9.0, [("a", 2)]), (19.0, [("a", 4)])]
    out = emitted_at(
        lambda s: op.rolling("roll", s, 5, "sum", ttl=timedelta(seconds=10)),
        batches,
        kernels=kernels,
    )
    assert out == [("a", 1), ("a", 3), ("a", 4)]


@KERNELS
def test_migrate_sees_a_list_of_values(kernels: bool, tmp_path: Any) -> None:
    """And must give one as long."""
    batches: list[Any] = [(0.0, [("a", n) for n in (1, 2, 3)]), (1.0, CRASH), (2.0, [("a", "4")])]
    config = RecoveryConfig(tmp_path / "store", create=True)
    options: dict[str, Any] = {"epochs": EACH_BATCH, "kernels": kernels, "recovery": config}

    def run(**changed: Any) -> list[Any]:
        return Timeline(
            lambda s: op.rolling("roll", s, 3, tuple, **changed), batches, **options
        ).run()

    assert run()[-1] == ("a", (1, 2, 3))
    with pytest.raises(EngineRuntimeError, match="`migrate` of `rolling` must return a list of 3"):
        run(state_version=2, migrate=lambda _version, _values: [])
    out = run(state_version=2, migrate=lambda _version, values: [str(value) for value in values])
    assert out == [("a", ("2", "3", "4"))]


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("5", "sum"), {}, TypeError, "`size` of step 'flow.roll' must be an `int` or a `timed"),
        ((True, "sum"), {}, TypeError, "`size` of step"),
        ((0, "sum"), {}, ValueError, "`size` of step 'flow.roll' must be at least 1; got 0"),
        ((-DAY, "sum"), {}, ValueError, "`size` of step 'flow.roll' must be more than 0"),
        ((3, "median"), {}, ValueError, "must be one of 'count', 'max', 'mean', 'min', 'sum'"),
        ((3, None), {}, TypeError, "`how` of step 'flow.roll' must be a function"),
        ((3, "sum"), {"event_time": len}, ValueError, "`event_time` .* is for a `size` in time"),
        ((DAY, "sum"), {"event_time": 5}, TypeError, "`event_time` .* must be a function"),
        ((DAY, "sum"), {"ttl": DAY}, ValueError, "`ttl` .* is for a number of values"),
    ],
)
def test_arguments_are_checked(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    """What makes no sense is refused while the flow is built."""
    s = op.input("in", Dataflow("flow"), TestingSource([("a", 1)]))
    with pytest.raises(error, match=message):
        op.rolling("roll", s, *arguments, **options)
