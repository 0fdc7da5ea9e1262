"""Accounts that transfer money to each other: each one is an actor.

Shows messages between actors (`ctx.ask` with its answer), a transaction that is undone when a
handler raises, and dead letters.

Run it from the top of the project::

    python -m engine.run examples.accounts:flow
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Context, DeadMessage, Resume, handles
from engine.testing import TestingSource


@dataclass(frozen=True)
class Deposit:
    """Put money into the account."""

    amount: int


@dataclass(frozen=True)
class Transfer:
    """Give money to another account."""

    to: str
    amount: int


class Account(Actor):
    """An account, which never has less than nothing."""

    @dataclass
    class State:
        """What it remembers."""

        balance: int = 0

    # A message that a handler raises for is a dead letter, and the account goes on.
    supervise = Resume()

    @handles(Deposit)
    def deposit(self, ctx: Context, msg: Deposit) -> None:
        """Take money."""
        self.state.balance += msg.amount
        ctx.reply(f"{ctx.key} has {self.state.balance}")

    @handles(Transfer)
    def transfer(self, ctx: Context, msg: Transfer) -> None:
        """Give money away. Whatever is done here is undone if it turns out to be too much."""
        self.state.balance -= msg.amount
        ctx.ask(
            Account.ref(msg.to),
            Deposit(msg.amount),
            on_reply=self.given,
            timeout=timedelta(minutes=1),
        )
        if self.state.balance < 0:
            what = f"there is only {self.state.balance + msg.amount}"
            raise ValueError(what)

    def given(self, ctx: Context, answer: str) -> None:
        """Say how both are now."""
        ctx.emit(f"{ctx.key} has {self.state.balance}, {answer}")


def refused(letter: DeadMessage) -> str:
    """What to say of an order that an account has refused."""
    return f"{letter.ref.key} refuses {letter.message}: {letter.reason}"


ORDERS = [
    ("ann", Deposit(50)),
    ("ann", Transfer("bob", 20)),
    ("bob", Transfer("cid", 30)),
    ("ann", Transfer("cid", 30)),
]

flow = Dataflow("accounts")
orders = op.input("orders", flow, TestingSource(ORDERS))
accounts = op.actor("accounts", orders, Account)
lines = op.merge("lines", accounts.out, op.map("refused", accounts.dead_letters, refused))
op.output("out", lines, StdOutSink())
