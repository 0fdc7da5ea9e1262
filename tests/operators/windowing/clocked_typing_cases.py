"""What type checkers make of joins in time. Checked by `tests/operators/test_typing.py`, never run.

See `tests/operators/typing_cases.py` on how to read it.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
# ruff: noqa: PGH003 - the codes differ between checkers

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_type

import engine.operators.windowing as win
from engine.dataflow import KeyedStream, Stream

MINUTE = timedelta(minutes=1)


@dataclass
class Trade:
    at: datetime
    amount: int


@dataclass
class Quote:
    at: datetime
    price: float


def when(value: Trade | Quote) -> datetime:
    return value.at


def traded_at(trade: Trade) -> datetime:
    return trade.at


def quoted_at(quote: Quote) -> datetime:
    return quote.at


BOTH = win.EventClock(when, MINUTE)
EACH = (win.EventClock(traded_at, MINUTE), win.EventClock(quoted_at, MINUTE))


def intervals(trades: KeyedStream[Trade], quotes: KeyedStream[Quote]) -> None:
    inner = win.interval_join("a", BOTH, trades, quotes, MINUTE, MINUTE)
    assert_type(inner.down, Stream[tuple[str, tuple[Trade, Quote]]])
    assert_type(inner.late, Stream[tuple[str, Trade | Quote]])
    left = win.interval_join("b", EACH, trades, quotes, MINUTE, MINUTE, how="left")
    assert_type(left.down, Stream[tuple[str, tuple[Trade, Quote | None]]])
    right = win.interval_join("c", BOTH, trades, quotes, MINUTE, MINUTE, how="right")
    assert_type(right.down, Stream[tuple[str, tuple[Trade | None, Quote]]])
    outer = win.interval_join("d", win.SystemClock(), trades, quotes, MINUTE, MINUTE, how="outer")
    assert_type(outer.down, Stream[tuple[str, tuple[Trade | None, Quote | None]]])
    win.interval_join("e", BOTH, trades, quotes, MINUTE, MINUTE, how="full")  # type: ignore
    win.interval_join("f", BOTH, trades, quotes, 1, MINUTE)  # type: ignore


def as_of(trades: KeyedStream[Trade], quotes: KeyedStream[Quote]) -> None:
    left = win.as_of_join("a", BOTH, trades, quotes)
    assert_type(left, win.JoinOut[str, tuple[Trade, Quote | None], Trade | Quote])
    inner = win.as_of_join("b", EACH, trades, quotes, tolerance=MINUTE, how="inner")
    assert_type(inner.down, Stream[tuple[str, tuple[Trade, Quote]]])
    win.as_of_join("c", BOTH, trades, quotes, how="outer")  # type: ignore


def order(trades: KeyedStream[Trade], quotes: KeyedStream[Quote]) -> None:
    assert_type(win.order_by_time("a", trades, BOTH), win.OrderOut[str, Trade])
    assert_type(win.order_by_time("b", trades, win.SystemClock()).late, Stream[tuple[str, Trade]])
    win.order_by_time("c", quotes, EACH[0])  # type: ignore
    win.order_by_time("d", trades, EACH)  # type: ignore
