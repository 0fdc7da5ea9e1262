"""Allowed lateness and triggers: what is emitted when, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators.windowing as win
from engine.recovery import RecoveryConfig
from tests.operators.timed import CRASH
from tests.operators.windowing.emitting_oracle import KeyModel, run_model
from tests.operators.windowing.oracle import (
    END,
    Aligned,
    Batch,
    EventTime,
    Sessions,
    StreamTime,
    SystemTime,
    us,
)
from tests.operators.windowing.runs import (
    START,
    Run,
    at,
    came,
    event_clock,
    second,
    session,
    sliding,
    tumbling,
)

SPANS = st.sampled_from([0, 2, 5, 30]).map(lambda s: timedelta(seconds=s))
TRIGGERS = st.none() | st.just(win.OnUpdate()) | st.builds(win.OnCount, st.integers(1, 3))
WINDOWERS = st.sampled_from([tumbling(10), sliding(10, 4), session(3), session(6)])
BATCHES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 4]),
        st.lists(
            st.tuples(st.sampled_from("aaab"), st.integers(0, 30)),
            min_size=1,
            max_size=7,
        ),
    ),
    min_size=1,
    max_size=7,
)


def folded(clock: Any, windower: Any, ordered: bool = True, **more: Any) -> Any:
    """A fold of values into a list."""
    return lambda s: win.fold_window(
        "w", s, clock, windower, list, lambda x, v: [*x, v], lambda x, y: x + y, ordered, **more
    )


def shape_of(windower: Any) -> Any:
    if isinstance(windower, win.SessionWindower):
        return Sessions(windower.gap)
    offset = getattr(windower, "offset", windower.length)
    return Aligned(windower.length, offset, windower.align_to)


@pytest.mark.parametrize("kind", ["key", "stream", "system"])
@settings(max_examples=60)
@given(
    wait=SPANS,
    lateness=st.none() | SPANS,
    trigger=TRIGGERS,
    windower=WINDOWERS,
    ordered=st.booleans(),
    drawn=BATCHES,
)
def test_what_is_emitted(
    kind: str, wait: Any, lateness: Any, trigger: Any, windower: Any, ordered: bool, drawn: Any
) -> None:
    """Results with their causes, and late values, are what the definition says."""
    now, batches = 0, []
    for gap, records in drawn:
        now += gap
        batches.append((now, records))
    clock: Any = win.SystemClock()
    model: Any = SystemTime()
    if kind == "key":
        clock, model = win.EventClock(second, wait), EventTime(second, wait)
    elif kind == "stream":
        never = timedelta(days=1000)
        clock = win.EventClock(second, wait, scope="stream", idle_after=never)
        model = StreamTime(second, wait, 1)
    model.by_stream = kind == "stream"
    build = folded(clock, windower, ordered, allowed_lateness=lateness, trigger=trigger)
    out = came(build, batches, kernels=True)
    whole = [Batch(us(at(s) - datetime(1970, 1, 1, tzinfo=UTC)), tuple(r)) for s, r in batches]
    for key in {key for _, records in batches for key, _ in records}:
        lateness_us = None if lateness is None else us(lateness)
        wanted = KeyModel(shape_of(windower), lateness_us, trigger, ordered)
        run_model([*whole, END], key, model, wanted)
        assert out[key].down == wanted.down
        assert out[key].late == wanted.late


def of_a(*values: float) -> list[Any]:
    return [("a", value) for value in values]


def test_late_values_change_a_result() -> None:
    """Until the lateness is over; behind that they are late."""
    build = folded(event_clock(), tumbling(10), allowed_lateness=timedelta(seconds=10))
    batches = [(0, of_a(1, 12, 2, 19, 3, 20, 4))]
    out = came(build, [(0, [each]) for each in batches[0][1]], kernels=True)["a"]
    assert out.down == [
        (0, win.Emission([1], "close")),
        (0, win.Emission([1, 2], "late")),
        (0, win.Emission([1, 2, 3], "late")),
        (1, win.Emission([12, 19], "close")),
        (2, win.Emission([20], "close")),
    ]
    assert out.late == [(0, 4)]


INTERVAL = win.OnInterval(timedelta(seconds=5))


def test_an_interval_begins_with_a_value() -> None:
    """The window emits so long after it by the wall clock; without a further one not again."""
    build = folded(event_clock(100), tumbling(1000), ordered=False, trigger=INTERVAL)
    batches = [(0, of_a(1)), (4, of_a(2)), (5, [("b", 1)]), (9, [("b", 1)]), (20, of_a(3))]
    batches += [(26, [("b", 1)])]
    out = came(build, batches, kernels=True)["a"]
    assert out.down == [
        (0, win.Emission([1, 2], "interval")),
        (0, win.Emission([1, 2, 3], "interval")),
        (0, win.Emission([1, 2, 3], "close")),
    ]


def test_an_interval_begins_anew_after_a_restart(tmp_path: Any) -> None:
    """What the window took before is emitted then, though nothing more comes."""
    store = RecoveryConfig(tmp_path / "store", create=True)
    build = folded(event_clock(100), tumbling(1000), ordered=False, trigger=INTERVAL)
    batches: list[Any] = [(0, of_a(1)), (1, [("b", 1)]), (1, CRASH), (2, [("b", 1)])]
    batches += [(n, [("b", 1)]) for n in range(3, 20)]
    run = Run(build, batches, kernels=True, recovery=store)
    assert run.run() == {}
    assert run.run()["a"].down == [
        (0, win.Emission([1], "interval")),
        (0, win.Emission([1], "close")),
    ]


def test_emissions_are_not_changed_later() -> None:
    """Also where the fold changes its state in place."""

    def append(state: list[Any], value: Any) -> list[Any]:
        state.append(value)
        return state

    def build(s: Any) -> Any:
        clock = event_clock(100)
        return win.fold_window(
            "w", s, clock, tumbling(10), list, append, append, False, trigger=win.OnUpdate()
        )

    out = came(build, [(0, of_a(1, 2))], kernels=True)["a"]
    assert [emission.value for _, emission in out.down] == [[1], [1, 2], [1, 2]]


def test_each_operator_says_why_it_emits() -> None:
    """All that become one value take the same options."""
    late, on = timedelta(seconds=10), win.OnCount(2)
    clock, tens = event_clock(), tumbling(10)
    operators: dict[str, Any] = {
        "reduce": lambda s: win.reduce_window("w", s, clock, tens, max, allowed_lateness=late),
        "max": lambda s: win.max_window("w", s, clock, tens, allowed_lateness=late),
        "min": lambda s: win.min_window("w", s, clock, tens, trigger=on, allowed_lateness=late),
        "collect": lambda s: win.collect_window("w", s, clock, tens, allowed_lateness=late),
    }
    batches = [(0, of_a(1)), (0, of_a(12)), (0, of_a(2))]
    found = {
        name: [(n, e.value, e.cause) for n, e in came(build, batches, kernels=True)["a"].down]
        for name, build in operators.items()
    }
    assert found == {
        "reduce": [(0, 1, "close"), (0, 2, "late"), (1, 12, "close")],
        "max": [(0, 1, "close"), (0, 2, "late"), (1, 12, "close")],
        "min": [(0, 1, "close"), (0, 1, "late"), (1, 12, "close")],
        "collect": [(0, [1], "close"), (0, [1, 2], "late"), (1, [12], "close")],
    }


@pytest.mark.parametrize("kind", ["key", "stream"])
@settings(max_examples=20)
@given(
    wait=SPANS,
    lateness=SPANS,
    trigger=TRIGGERS,
    windower=WINDOWERS,
    ordered=st.booleans(),
    drawn=st.lists(BATCHES.map(lambda batches: batches[0][1]), min_size=1, max_size=6),
    crashes=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_what_is_emitted_with_crashes(
    kind: str,
    wait: Any,
    lateness: Any,
    trigger: Any,
    windower: Any,
    ordered: bool,
    drawn: Any,
    crashes: list[bool],
) -> None:
    """The same, in order, as if the job had never been down."""
    # Where nothing is to do the clock moves a little; so no watermark lies near a window's end.
    wait += timedelta(seconds=0.25)
    clock: Any = win.EventClock(second, wait)
    model: Any = EventTime(second, wait)
    if kind == "stream":
        never = timedelta(days=1000)
        clock = win.EventClock(second, wait, scope="stream", idle_after=never)
        model = StreamTime(second, wait, 1)
    model.by_stream = kind == "stream"
    build = folded(clock, windower, ordered, allowed_lateness=lateness, trigger=trigger)
    batches: list[Any] = []
    for records, crash in zip(drawn, crashes, strict=False):
        batches.append((0, records))
        if crash:
            # What comes after a batch of itself is part of the epoch of the next one.
            batches += [(0, [("c", 0)]), (0, CRASH)]
    out: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        recovery = RecoveryConfig(Path(folder) / "store", create=True)
        run = Run(build, batches, kernels=True, recovery=recovery)
        for _ in range(1 + sum(crashes[: len(drawn)])):
            for key, each in run.run().items():
                before = out.setdefault(key, ([], []))
                before[0].extend(each.down)
                before[1].extend(each.late)
    us_of_start = us(START - datetime(1970, 1, 1, tzinfo=UTC))
    whole = [Batch(us_of_start, tuple(records)) for _, records in batches if records != CRASH]
    for key in {key for batch in whole for key, _ in batch.records}:
        wanted = KeyModel(shape_of(windower), us(lateness), trigger, ordered)
        run_model([*whole, END], key, model, wanted)
        assert out.get(key, ([], [])) == (wanted.down, wanted.late)
