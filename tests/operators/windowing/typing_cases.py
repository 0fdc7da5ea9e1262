"""What type checkers make of windows. Checked by `tests/operators/test_typing.py`, never run.

See `tests/operators/typing_cases.py` on how to read it.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
# ruff: noqa: PGH003 - the codes differ between checkers

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import engine.operators.windowing as win
from engine.dataflow import KeyedStream, Stream

START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass
class Order:
    user: str
    amount: float
    at: datetime


def placed_at(order: Order) -> datetime:
    return order.at


def paid_at(pair: tuple[str, int]) -> datetime:
    return START + timedelta(seconds=pair[1])


CLOCK = win.EventClock(placed_at, MINUTE)
TUMBLING = win.TumblingWindower(MINUTE, START)


class Largest(win.WindowLogic[Order, str, float]):
    def __init__(self, resume: float | None) -> None:
        self.largest = resume or 0.0

    def on_value(self, value: Order) -> Iterable[str]:
        self.largest = max(self.largest, value.amount)
        return ()

    def on_merge(self, original: Largest) -> Iterable[str]:
        self.largest = max(self.largest, original.largest)
        return []

    def on_close(self) -> Iterable[str]:
        yield str(self.largest)

    def snapshot(self) -> float:
        return self.largest


class Minutely(win.ClockLogic[Order, None]):
    def on_item(self, value: Order) -> tuple[datetime, datetime]:
        return value.at, value.at

    def on_notify(self) -> datetime:
        return win.UTC_MIN

    def on_eof(self) -> datetime:
        return win.UTC_MAX

    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        return None

    def snapshot(self) -> None:
        return None


class MinutelyClock(win.Clock[Order, None]):
    def build(self, resume_state: None) -> Minutely:
        return Minutely()


def clocks_and_windowers() -> None:
    assert_type(CLOCK, win.EventClock[Order])
    win.EventClock(placed_at, MINUTE, lambda: START, lambda at: None, scope="stream")
    win.EventClock(placed_at, MINUTE, idle_after=MINUTE)
    win.EventClock(placed_at, 60)  # type: ignore
    win.EventClock(placed_at, MINUTE, scope="table")  # type: ignore
    win.SlidingWindower(MINUTE, MINUTE, START)
    win.SlidingWindower(MINUTE, START)  # type: ignore
    win.SessionWindower(5)  # type: ignore


def general(s: KeyedStream[Order], by_number: Stream[tuple[int, Order]]) -> None:
    out = win.window("w", s, CLOCK, TUMBLING, Largest)
    assert_type(out, win.WindowOut[Order, str])
    assert_type(out.down, Stream[tuple[Any, tuple[int, str]]])
    assert_type(out.late, Stream[tuple[Any, tuple[int, Order]]])
    assert_type(out.meta, Stream[tuple[Any, tuple[int, win.WindowMetadata]]])
    win.window("by_number", by_number, win.SystemClock(), win.SessionWindower(MINUTE), Largest)
    win.window("own", s, MinutelyClock(), TUMBLING, Largest, False)
    win.window("pairs", s, win.EventClock(paid_at, MINUTE), TUMBLING, Largest)  # type: ignore
    win.window("no_logic", s, CLOCK, TUMBLING, Order)  # type: ignore


def add(total: float, order: Order) -> float:
    return total + order.amount


def both(one: float, other: float) -> float:
    return one + other


def later(one: Order, other: Order) -> Order:
    return other


def folds(s: KeyedStream[Order], names: KeyedStream[str], orders: Stream[Order]) -> None:
    folded = win.fold_window("f", s, CLOCK, TUMBLING, float, add, both)
    assert_type(folded, win.WindowOut[Order, float])
    win.fold_window("unordered", s, CLOCK, TUMBLING, float, add, both, False)
    assert_type(win.reduce_window("r", s, CLOCK, TUMBLING, later), win.WindowOut[Order, Order])
    told = win.fold_window("t", s, CLOCK, TUMBLING, float, add, both, allowed_lateness=MINUTE)
    assert_type(told, win.WindowOut[Order, win.Emission[float]])
    each = win.reduce_window("e", s, CLOCK, TUMBLING, later, trigger=win.OnUpdate())
    assert_type(each, win.WindowOut[Order, win.Emission[Order]])
    assert_type(
        win.count_window("c", orders, CLOCK, TUMBLING, lambda order: order.user),
        win.WindowOut[Order, int],
    )
    biggest = win.max_window("max", s, CLOCK, TUMBLING, lambda order: order.amount)
    assert_type(biggest, win.WindowOut[Order, Order])
    assert_type(win.min_window("min", names, win.SystemClock(), TUMBLING), win.WindowOut[str, str])
    win.min_window("no_order", s, CLOCK, TUMBLING)  # type: ignore
    win.fold_window("no_merger", s, CLOCK, TUMBLING, float, add)  # type: ignore


def collections(s: KeyedStream[Order], pairs: KeyedStream[tuple[str, int]]) -> None:
    assert_type(win.collect_window("l", s, CLOCK, TUMBLING), win.WindowOut[Order, list[Order]])
    assert_type(win.collect_window("s", s, CLOCK, TUMBLING, set), win.WindowOut[Order, set[Order]])
    clock = win.EventClock(paid_at, MINUTE)
    assert_type(
        win.collect_window("d", pairs, clock, TUMBLING, into=dict, ordered=False),
        win.WindowOut[tuple[str, int], dict[str, int]],
    )
    win.collect_window("no_pairs", s, CLOCK, TUMBLING, dict)  # type: ignore


def joins(a: KeyedStream[int], b: KeyedStream[str], c: KeyedStream[bytes]) -> None:
    clock = win.SystemClock()
    assert_type(win.join_window("j1", clock, TUMBLING, a), win.WindowOut[int, tuple[int | None]])
    assert_type(
        win.join_window("j2", clock, TUMBLING, a, b),
        win.WindowOut[int | str, tuple[int | None, str | None]],
    )
    assert_type(
        win.join_window("j3", clock, TUMBLING, a, b, c, emit_mode="complete"),
        win.WindowOut[int | str | bytes, tuple[int, str, bytes]],
    )
    many = win.join_window("many", clock, TUMBLING, *[a, a], emit_mode="running")
    assert_type(many, win.WindowOut[Any, tuple[Any, ...]])
    win.join_window("mode", clock, TUMBLING, a, b, emit_mode="sometimes")  # type: ignore
