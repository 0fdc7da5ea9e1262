"""Late orders: what each shop sells per minute, told at once and corrected later.

Shows windows by the time of events with one watermark for the stream (`scope="stream"`): the tills
of two towns are read at different speeds, and neither makes the other's orders late. A minute's sum
comes when the minute is over (`close`); orders that come up to a minute later correct it (`late`);
those that come later still are listed.

Run it from the top of the project (with several workers an order may come in time that came late)::

    python -m engine.run examples.late_orders:flow
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import engine.operators as op
import engine.operators.windowing as win
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.testing import TestingSource

OPENED = datetime(2024, 6, 1, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Order:
    """What a till says of an order."""

    shop: str
    at: datetime
    euros: int


def order(shop: str, seconds: int, euros: int) -> Order:
    """An order so many seconds after the shops opened."""
    return Order(shop, OPENED + timedelta(seconds=seconds), euros)


OSLO = [order("Oslo", s, e) for s, e in [(5, 10), (40, 20), (70, 5), (55, 7), (190, 1), (30, 99)]]
ROME = [order("Rome", s, e) for s, e in [(10, 4), (50, 6), (80, 3), (200, 2)]]


def placed_at(order: Order) -> datetime:
    """When it happened."""
    return order.at


def line_of(item: tuple[str, tuple[int, win.Emission[int]]]) -> str:
    """What a shop sold in a minute, as a line of text."""
    shop, (minute, sold) = item
    return f"{shop}, minute {minute}: {sold.value} ({sold.cause})"


def late_line_of(item: tuple[str, tuple[int, Order]]) -> str:
    """An order that came too late to be counted, as a line of text."""
    shop, (minute, order) = item
    return f"{shop}, minute {minute}: too late for {order.euros}"


flow = Dataflow("late_orders")
oslo = op.input("oslo", flow, TestingSource(OSLO, batch_size=1))
rome = op.input("rome", flow, TestingSource(ROME, batch_size=1))
by_shop = op.key_on("shop", op.merge("merge", oslo, rome), lambda order: order.shop)

clock = win.EventClock(placed_at, timedelta(0), scope="stream")
minutes = win.TumblingWindower(timedelta(minutes=1), OPENED)
sold = win.fold_window(
    "sold",
    by_shop,
    clock,
    minutes,
    builder=int,
    folder=lambda euros, order: euros + order.euros,
    merger=lambda euros, more: euros + more,
    allowed_lateness=timedelta(minutes=1),
)

op.output("out", op.map("line", sold.down, line_of), StdOutSink())
op.output("late", op.map("late_line", sold.late, late_line_of), StdOutSink())
