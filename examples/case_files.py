"""Case files: payments come from Kafka, a model says which look wrong, each customer has a file.

Shows the three models of a flow in one graph, under one epoch:

- *operators* keep what is usual for each customer;
- *tasks* ask a model about each payment, several at a time, while the flow goes on;
- *actors* keep a file for each customer, and have cases numbered by the team of their city.

Kill it whenever you like and start it again: each payment is counted once, each case has one
number, and no number is missing, whatever was on its way. Run it from the top of the project; what
comes out is in ``cases.txt`` where you are::

    python -m engine.run examples.case_files:flow -r /tmp/case-state -s 200ms

While it runs, another terminal may ask for a file, if the command has ``--ask 8099`` too::

    curl localhost:8099/actors/cases/ann

The payments are made up, as messages of Kafka. With a broker they come from its topic ``payments``
instead (`KAFKA_BROKERS` names other brokers than ``localhost:9092``): run
``'examples.case_files:from_kafka()'``. The values are JSON, such as
``{"customer": "ann", "number": 1, "cents": 250, "city": "Oslo"}``.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import engine.operators as op
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import FileSink
from engine.connectors.kafka import KafkaSourceMessage, serde
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow, Stream
from engine.operators.actors import Actor, Asked, Context, handles, shared
from engine.operators.tasks import Exponential, Retry, task

BROKERS = os.environ.get("KAFKA_BROKERS", "localhost:9092").split(",")
WRONG = 0.9
"""From this score on a payment belongs into a case."""

Message = KafkaSourceMessage[bytes | None, bytes | None]


@dataclass(frozen=True)
class Payment:
    """What somebody has paid, as it stands in the JSON of a message."""

    customer: str
    number: int
    cents: int
    city: str


# What is usual for a customer: operators.

Habit = tuple[int, float]
"""How many payments there were, and their mean in cents."""


@dataclass(frozen=True)
class Compared:
    """A payment beside what was usual before it."""

    payment: Payment
    before: int
    usual_cents: float


def with_payment(habit: Habit | None, payment: Payment) -> tuple[Habit, Compared]:
    """One more payment of a customer."""
    count, mean = habit or (0, 0.0)
    after = count + 1, mean + (payment.cents - mean) / (count + 1)
    return after, Compared(payment, count, mean)


# Whether it looks wrong: a task.


@dataclass(frozen=True)
class Scored:
    """What the model says of a payment."""

    number: int
    city: str
    score: float


def score(item: tuple[str, Compared]) -> tuple[str, Scored]:
    """Ask the model. This one is a formula; one over the network takes its time."""
    customer, compared = item
    payment, times_usual = compared.payment, 0.0
    if compared.before >= 3:
        times_usual = compared.payment.cents / compared.usual_cents
    time.sleep(0.001)
    probability = 1 / (1 + math.exp(10 - 2 * times_usual))
    return customer, Scored(payment.number, payment.city, round(probability, 2))


# What is done about it: actors.


@dataclass(frozen=True)
class Open:
    """To a team: a customer needs a case."""

    customer: str
    city: str


class CaseFile(Actor):
    """All that is known of a customer."""

    @dataclass
    class State:
        """What it remembers."""

        payments: int = 0
        wrong: list[int] = field(default_factory=list[int])
        case: str = ""

    @handles(Scored)
    def scored(self, ctx: Context, msg: Scored) -> None:
        """Note a payment; the first one that looks wrong opens a case."""
        self.state.payments += 1
        if msg.score < WRONG:
            return
        self.state.wrong.append(msg.number)
        ctx.emit((ctx.key, f"{ctx.key}: payment {msg.number} looks wrong ({msg.score})"))
        if len(self.state.wrong) == 1:
            self.ask_team(ctx, Open(ctx.key, msg.city))

    def ask_team(self, ctx: Context, question: Open) -> None:
        """Have a team number the case. Asked once more, it gives the same number."""
        ctx.ask(
            Team.ref(question.city),
            question,
            on_reply=self.opened,
            on_timeout=self.ask_team,
            timeout=timedelta(minutes=1),
        )

    def opened(self, ctx: Context, case: str) -> None:
        """Note which case it is."""
        self.state.case = case
        ctx.emit((ctx.key, f"{ctx.key}: case {case}"))

    @shared
    def file(self, asked: Asked) -> dict[str, object]:
        """What is told to those who ask from outside."""
        return {"customer": asked.key, "file": self.state, "epoch": asked.epoch}


class Team(Actor):
    """Numbers the cases of a city."""

    @dataclass
    class State:
        """What it remembers."""

        numbers: dict[str, int] = field(default_factory=dict[str, int])

    @handles(Open)
    def open(self, ctx: Context, msg: Open) -> None:
        """Give a customer's case the next number, or the one that it has."""
        number = self.state.numbers.setdefault(msg.customer, len(self.state.numbers) + 1)
        ctx.reply(f"{ctx.key}-{number}")


# The graph, and where the payments come from.


def case_files(flow: Dataflow, messages: Stream[Message]) -> None:
    """Put the steps behind a stream of messages."""
    parsed = kop.deserialize_value("parse", messages, serde.JsonDeserializer(Payment))
    # A message without a value (Kafka's way to delete a key) is left out.
    payments = op.filter_map("payment", parsed.oks, lambda message: message.value)
    by_customer = op.key_on("customer", payments, lambda payment: payment.customer)
    compared = op.stateful_map("habit", by_customer, with_payment)
    retry = Retry(5, Exponential(timedelta(milliseconds=10)), on=(OSError,))
    scored = task("score", compared, score, executor="thread", order="key", retry=retry)
    cases = op.actor("cases", scored.ok, CaseFile, Team)
    op.output("out", cases.out, FileSink("cases.txt"))


def from_kafka(topic: str = "payments", brokers: Sequence[str] = BROKERS) -> Dataflow:
    """The flow, with payments of a topic."""
    flow = Dataflow("case_files")
    case_files(flow, kop.input("payments", flow, brokers=brokers, topics=[topic]).oks)
    return flow


CUSTOMERS = ("ann", "bob", "cid", "dan", "eve", "flo", "gus", "hal")
CITIES = ("Oslo", "Rome")


def made_payment(number: int) -> Payment:
    """A payment, always the same for a number; some are much too high."""
    chance = random.Random(number)  # noqa: S311 - nothing to be kept secret
    customer = chance.randrange(len(CUSTOMERS))
    cents = chance.randint(900, 1100) * (9 if chance.random() < 0.02 else 1)
    return Payment(CUSTOMERS[customer], number, cents, CITIES[customer % len(CITIES)])


class MadePayments(FixedPartitionedSource[Message, int]):
    """Stands in for a topic with two partitions, each of which has the payments of a city.

    Args:
        payments: How many there are.
        every: Time between ten of them.
    """

    def __init__(self, payments: int, every: timedelta) -> None:
        self._payments = payments
        self._every = every

    def list_parts(self) -> list[str]:
        """The partitions."""
        return [str(partition) for partition in range(len(CITIES))]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> MadePartition:
        """Open one of them."""
        del step_id
        return MadePartition(int(for_part), self._payments, self._every, resume_state or 0)


class MadePartition(StatefulSourcePartition[Message, int]):
    """One of them. Its position is the number of the next payment, as an offset of Kafka's is."""

    def __init__(self, partition: int, payments: int, every: timedelta, at: int) -> None:
        self._partition = partition
        self._payments = payments
        self._every = every
        self._at = at

    def next_batch(self) -> list[Message]:
        """Those of the next ten payments that are in this partition."""
        if self._at >= self._payments:
            raise StopIteration
        start, self._at = self._at, min(self._at + 10, self._payments)
        made = map(made_payment, range(start, self._at))
        return [self._message(p) for p in made if p.city == CITIES[self._partition]]

    def _message(self, payment: Payment) -> Message:
        value = json.dumps(payment.__dict__).encode()
        return KafkaSourceMessage(
            payment.customer.encode(),
            value,
            "payments",
            offset=payment.number,
            partition=self._partition,
        )

    def next_awake(self) -> datetime:
        """When the next ones come."""
        return datetime.now(UTC) + self._every

    def snapshot(self) -> int:
        """Where to go on after a crash."""
        return self._at


def made(payments: int, every_s: float) -> Dataflow:
    """The flow, with made-up payments."""
    flow = Dataflow("case_files")
    source = MadePayments(payments, timedelta(seconds=every_s))
    case_files(flow, op.input("payments", flow, source))
    return flow


flow = made(payments=2000, every_s=0.01)
