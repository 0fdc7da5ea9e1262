"""`table_join`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.recovery import RecoveryConfig
from engine.recovery._admin import StorePlace, states
from engine.recovery._disk import RealDisk
from engine.recovery.store import RocksTables
from tests.operators.flows import by_key, emitted
from tests.operators.timed import CRASH, EACH_BATCH, NEVER, Timeline, at, emitted_at

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
TTL_S = 10


def sides(s: Any) -> tuple[Any, Any]:
    """Two streams of one, so that it is certain which of their records comes first."""
    halves = op.branch("halves", s, lambda record: record[1][0] == "value")
    unlabelled = [
        op.map_value(name, half, lambda labelled: labelled[1])
        for name, half in (("values", halves.trues), ("rows", halves.falses))
    ]
    return unlabelled[0], unlabelled[1]


def joined(how: Any = "inner", ttl: Any = None, **options: Any) -> Any:
    return lambda s: op.table_join("join", *sides(s), how, ttl=ttl, **options)


def value(key: str, what: Any) -> Any:
    return key, ("value", what)


def row(key: str, what: Any) -> Any:
    return key, ("row", what)


@KERNELS
def test_a_value_comes_with_the_row_of_its_moment(kernels: bool) -> None:
    """Later rows change nothing of what was emitted; None deletes; rows alone emit nothing."""
    records = [value("a", 1), row("a", "x"), value("a", 2), row("a", "y"), value("a", 3)]
    records += [value("b", 4), row("a", None), value("a", 5), row("a", "z"), value("a", 6)]
    assert emitted(joined(), records, kernels=kernels) == [
        ("a", (2, "x")),
        ("a", (3, "y")),
        ("a", (6, "z")),
    ]
    everything = emitted(joined("left"), records, kernels=kernels)
    assert [v for _, v in everything if v[1] is None] == [(1, None), (4, None), (5, None)]


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.sampled_from("ab"),
        st.sampled_from(["value", "row"]),
        st.none() | st.integers(0, 3),
    )
)


@settings(max_examples=60, deadline=None)
@given(
    events=EVENTS,
    how=st.sampled_from(["inner", "left"]),
    ttl=st.booleans(),
    each=st.booleans(),
    kernels=st.booleans(),
)
def test_as_a_loop_by_hand_says(
    events: list[Any], how: str, ttl: bool, each: bool, kernels: bool
) -> None:
    """In both modes, with rows that die and without, whenever epochs end."""
    now, batches, expected = 0, [], []
    table: dict[str, Any] = {}
    last: dict[str, int] = {}
    for gap, key, side, what in events:
        now += gap
        batches.append((float(now), [(key, (side, what))]))
        if ttl and now - last.get(key, now) >= TTL_S:
            table.pop(key, None)
        last[key] = now
        if side == "row":
            table[key] = what
        elif table.get(key) is not None or how == "left":
            expected.append((key, (what, table.get(key))))
    build = joined(how, timedelta(seconds=TTL_S) if ttl else None)
    epochs = EACH_BATCH if each else NEVER
    assert emitted_at(build, batches, epochs=epochs, kernels=kernels) == expected


@KERNELS
def test_by_event_time_a_deletion_has_no_time(kernels: bool) -> None:
    """`event_time` is called with values and rows, never with None."""
    by_event = op.TTL(timedelta(seconds=TTL_S), event_time=at)
    records = [row("a", 100), value("a", 109), row("b", 100), row("b", None), value("b", 101)]
    records += [value("a", 118), value("a", 130)]
    out = emitted(joined("left", by_event), records, kernels=kernels)
    assert out == [("a", (109, 100)), ("b", (101, None)), ("a", (118, 100)), ("a", (130, None))]


@KERNELS
def test_the_table_outlives_a_crash(kernels: bool, tmp_path: Any) -> None:
    """Rows, changed rows and deleted rows."""
    batches: list[Any] = [(0.0, [row("a", 1), row("b", 2), row("c", 3)]), (1.0, CRASH)]
    batches += [(2.0, [value("a", 1), row("b", 4), row("c", None)]), (3.0, CRASH)]
    batches += [(4.0, [value(key, 2) for key in "abcd"])]
    config = RecoveryConfig(tmp_path / "store", create=True)
    line = Timeline(joined("left"), batches, epochs=EACH_BATCH, kernels=kernels, recovery=config)
    runs = [by_key(line.run()) for _ in range(3)]
    assert runs[:2] == [{}, {"a": [(1, 1)]}]
    assert runs[2] == {"a": [(2, 1)], "b": [(2, 4)], "c": [(2, None)], "d": [(2, None)]}
    place = StorePlace(RealDisk(), RocksTables(), tmp_path / "store", "token", 0.0)
    found = {r.key: r.state for r in states(place) if not r.of_partition}
    assert found == {"a": 1, "b": 4}


@KERNELS
def test_migrate_sees_a_row(kernels: bool, tmp_path: Any) -> None:
    """One of an older version is migrated when a value is joined with it."""
    batches: list[Any] = [(0.0, [row("a", 1)]), (1.0, CRASH), (2.0, [value("a", 5)])]
    config = RecoveryConfig(tmp_path / "store", create=True)
    options: dict[str, Any] = {"epochs": EACH_BATCH, "kernels": kernels, "recovery": config}
    assert Timeline(joined(), batches, **options).run() == []
    newer = joined(state_version=2, migrate=lambda version, found: (version, found))
    assert Timeline(newer, batches, **options).run() == [("a", (5, (1, 1)))]


def test_there_is_no_other_mode() -> None:
    """An unknown mode is refused while the flow is built."""
    with pytest.raises(
        ValueError, match="`how` of step 'flow.join' must be one of 'inner', 'left'"
    ):
        emitted(joined("outer"), [])
