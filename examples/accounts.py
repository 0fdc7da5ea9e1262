"""Accounts that transfer money to each other: each one is an actor.

Shows messages between actors (`ctx.ask` with its answer), a transaction that is undone when a
handler raises, and dead letters.

Money is neither made nor lost. An answer that doesn't come in time says nothing about what was
done; so an account asks again then, with a number by which the other one knows what it has taken
already.

Run it from the top of the project::

    python -m engine.run examples.accounts:flow
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.actors import (
    Actor,
    Asked,
    Context,
    DeadMessage,
    Resume,
    handles,
    shared,
)
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


@dataclass(frozen=True)
class Credit:
    """From one account to another: money, and which of the giver's transfers it is."""

    number: int
    giver: str
    to: str
    amount: int


class Account(Actor):
    """An account, which never has less than nothing."""

    @dataclass
    class State:
        """What it remembers."""

        balance: int = 0
        given: int = 0
        """How many transfers it has begun."""
        taken: dict[str, int] = field(default_factory=dict[str, int])
        """By giver, the number of the last one that it has taken."""

    # A message that a handler raises for is a dead letter, and the account goes on.
    supervise = Resume()

    @handles(Deposit)
    def deposit(self, _ctx: Context, msg: Deposit) -> None:
        """Take money from outside."""
        self.state.balance += msg.amount

    @handles(Transfer)
    def transfer(self, ctx: Context, msg: Transfer) -> None:
        """Give money away. Whatever is done here is undone if it turns out to be too much."""
        self.state.balance -= msg.amount
        self.state.given += 1
        self.give(ctx, Credit(self.state.given, ctx.key, msg.to, msg.amount))
        if self.state.balance < 0:
            what = f"there is only {self.state.balance + msg.amount}"
            raise ValueError(what)

    def give(self, ctx: Context, credit: Credit) -> None:
        """Ask the other account to take it, and again if no answer comes."""
        ctx.ask(
            Account.ref(credit.to),
            credit,
            on_reply=self.given,
            on_timeout=self.give,
            timeout=timedelta(minutes=1),
        )

    @handles(Credit)
    def credit(self, ctx: Context, msg: Credit) -> None:
        """Take money, once: a giver's transfers come in order, so smaller numbers were taken."""
        if msg.number > self.state.taken.get(msg.giver, 0):
            self.state.taken[msg.giver] = msg.number
            self.state.balance += msg.amount
        ctx.reply(f"{ctx.key} has {self.state.balance}")

    def given(self, ctx: Context, answer: str) -> None:
        """Say how both are now."""
        ctx.emit(f"{ctx.key} has {self.state.balance}, {answer}")

    @shared
    def balance(self, asked: Asked) -> dict[str, object]:
        """What is told to those who ask from outside (``-r DIR --ask PORT``)."""
        return {"account": asked.key, "balance": self.state.balance}


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
