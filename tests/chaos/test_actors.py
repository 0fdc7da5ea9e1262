"""A bank of actors under `kill -9`: money is neither made nor lost, no transfer is made twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.processes import ended, start

TRANSFERS, ACCOUNTS = 3000, 20
KILLS = 3
WAYS = (("-w", "1"), ("-w", "3"), ("-p", "2"), ("-p", "3"))

FLOW = f"""\
import os, random, time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
import engine.operators as op
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Exponential, Retry, handles

HERE = Path(__file__).parent
PAUSE_S = float(os.environ["PAUSE_S"])
PARTS = 3


@dataclass(frozen=True)
class Transfer:
    number: int
    to: str
    amount: int


@dataclass(frozen=True)
class Credit:
    number: int
    amount: int


class Account(Actor):
    supervise = Retry(attempts=1000, backoff=Exponential(timedelta(milliseconds=1)))

    @dataclass
    class State:
        balance: int = 0
        pending: dict = field(default_factory=dict)

    @handles(Transfer)
    def transfer(self, ctx, msg: Transfer):
        self.state.balance -= msg.amount
        self.state.pending[msg.number] = msg.amount
        ctx.emit(("", f"debit {{msg.number}} {{ctx.key}} {{msg.amount}}"))
        ctx.ask(
            Account.ref(msg.to),
            Credit(msg.number, msg.amount),
            on_reply=self.paid,
            timeout=timedelta(days=1),
        )
        maybe_fail()

    @handles(Credit)
    def credit(self, ctx, msg: Credit):
        self.state.balance += msg.amount
        ctx.emit(("", f"credit {{msg.number}} {{ctx.key}} {{msg.amount}}"))
        ctx.reply(msg.number)
        maybe_fail()

    def paid(self, ctx, number: int):
        del self.state.pending[number]
        ctx.emit(("", f"paid {{number}} {{ctx.key}} {{self.state.balance}}"))
        maybe_fail()


def maybe_fail():
    if random.random() < 0.01:
        raise ConnectionError


def transfer(n):
    rng = random.Random(n)
    return f"k{{rng.randrange({ACCOUNTS})}}", Transfer(n, f"k{{rng.randrange({ACCOUNTS})}}", n % 50)


class Part(StatefulSourcePartition):
    def __init__(self, name, resume_state):
        self.name, self.at = int(name), resume_state or 0

    def next_batch(self):
        if self.at >= {TRANSFERS}:
            raise StopIteration
        time.sleep(PAUSE_S)
        self.at += 60
        return [transfer(n) for n in range(self.at - 60, self.at) if n % PARTS == self.name]

    def snapshot(self):
        return self.at


class Parts(FixedPartitionedSource):
    def list_parts(self):
        return [str(i) for i in range(PARTS)]

    def build_part(self, step_id, for_part, resume_state):
        return Part(for_part, resume_state)


flow = Dataflow("flow")
s = op.input("in", flow, Parts())
bank = op.actor("bank", s, Account)
op.output("out", bank.out, FileSink(HERE / "out.txt"))
"""


def lines(folder: Path) -> list[str]:
    """What was written up to now."""
    path = folder / "out.txt"
    return path.read_text(encoding="ascii").splitlines() if path.exists() else []


def run(folder: Path, way: tuple[str, ...], pause_s: float) -> subprocess.Popen[str]:
    """Start the bank, or have it go on."""
    return start(folder, "-r", "store", "-s", "20ms", *way, PAUSE_S=str(pause_s))


def kill_while_it_works(folder: Path, way: tuple[str, ...], rng: random.Random, more: int) -> None:
    """Start a run and kill it once it has written some more."""
    process = run(folder, way, 0.02)
    goal = len(lines(folder)) + rng.randrange(more)
    until_s = time.monotonic() + 60
    while len(lines(folder)) <= goal and process.poll() is None:
        assert time.monotonic() < until_s
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("way", WAYS)
def test_kills_of_the_job_change_nothing(tmp_path: Path, way: tuple[str, ...]):
    """Each transfer takes money once, gives it once, and is answered once."""
    tmp_path.joinpath("flows.py").write_text(FLOW, encoding="utf-8")
    rng = random.Random(str(way))
    for left in range(KILLS, 0, -1):
        kill_while_it_works(tmp_path, way, rng, TRANSFERS // left)
    process = run(tmp_path, way, 0.0)
    said = ended(process)
    assert process.returncode == 0, said
    rows = [line.split() for line in lines(tmp_path)]
    for what in ("debit", "credit", "paid"):
        numbers = Counter(int(row[1]) for row in rows if row[0] == what)
        assert numbers == Counter(range(TRANSFERS)), what
