"""CSV report: what a shop took for each product, written to a file.

Shows CSV in, text out, exact sums per key (`fold_final`), and rows that can't be used going a way
of their own (`branch`) instead of ending the run.

Run it from the top of the project. It writes ``report.txt`` where you are; the second line writes
elsewhere::

    python -m engine.run examples.csv_report:flow
    python -m engine.run 'examples.csv_report:report("/tmp/report.txt")'
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path

import engine.operators as op
from engine.connectors.files import CSVSource, FileSink
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow

ORDERS = Path(__file__).parent / "shop" / "orders.csv"

Row = dict[str, str]


def report(to: str | Path = "report.txt", orders: str | Path = ORDERS) -> Dataflow:
    """Make a flow that writes a line for each product, in alphabetical order.

    Args:
        to: File to write. What was in it is lost.
        orders: CSV file with the columns ``product``, ``pieces`` and ``price``.
    """
    flow = Dataflow("csv_report")
    rows = op.input("orders", flow, CSVSource(orders))
    checked = op.branch("usable", rows, has_amount)

    amounts = op.map("amount", checked.trues, lambda row: (row["product"], amount_of(row)))
    totals = op.fold_final("total", amounts, Decimal, Decimal.__add__)
    # A file sink takes pairs of a key, which chooses the file where there are several, and text.
    lines = op.map("line", totals, lambda total: (total[0], f"{total[0]}\t{total[1]}"))
    op.output("report", lines, FileSink(to))

    complaints = op.map("complain", checked.falses, lambda row: f"can't use {row}")
    op.output("complaints", complaints, StdOutSink())
    return flow


def amount_of(row: Row) -> Decimal:
    """What an order comes to."""
    return int(row["pieces"]) * Decimal(row["price"])


def has_amount(row: Row) -> bool:
    """Whether a row's numbers are numbers."""
    try:
        amount_of(row)
    except (ValueError, InvalidOperation, TypeError):
        return False
    return True


flow = report()
