"""Join orders: each order next to its payment, and at the end the orders that nobody paid.

Shows two sources joined on a key (`join`) in its two most useful ways: a pair as soon as both sides
are there, and at the end of input whatever was there.

Run it from the top of the project::

    python -m engine.run examples.join_orders:flow
"""

from __future__ import annotations

from pathlib import Path

import engine.operators as op
from engine.connectors.files import CSVSource
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow

SHOP = Path(__file__).parent / "shop"

Row = dict[str, str]


def paid(item: tuple[str, tuple[Row, Row]]) -> str:
    """What to say of an order and its payment."""
    number, (order, payment) = item
    return f"order {number} of {order['customer']}: paid by {payment['paid_by']}"


def unpaid(item: tuple[str, tuple[Row | None, Row | None]]) -> str | None:
    """What to say of an order without payment; nothing if it has one."""
    number, (order, payment) = item
    if order is None or payment is not None:
        return None
    return f"order {number} of {order['customer']}: not paid"


flow = Dataflow("join_orders")
order_rows = op.input("orders", flow, CSVSource(SHOP / "orders.csv"))
payment_rows = op.input("payments", flow, CSVSource(SHOP / "payments.csv"))
orders = op.key_on("by_number", order_rows, lambda row: row["order"])
payments = op.key_on("by_order", payment_rows, lambda row: row["order"])

# "complete" is the default: emit when all sides have a value, then forget the key.
pairs = op.join("pairs", orders, payments)
# "final": emit once, at the end of input, with None for what never came.
leftovers = op.join("leftovers", orders, payments, emit_mode="final")

lines = op.merge("lines", op.map("paid", pairs, paid), op.filter_map("unpaid", leftovers, unpaid))
op.output("out", lines, StdOutSink())
