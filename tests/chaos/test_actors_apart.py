"""Tasks of actors and dedicated handlers under `kill -9`: each order is worked on once, by both."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.processes import ended, start
from tests.chaos.test_actors import kill_while_it_works, lines, run

ORDERS = 200
KILLS = 2

FLOW = """\
import os, random
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
import engine.operators as op
from engine.connectors.files import FileSink, FileSource
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Exponential, Retry, actor, dedicated, handles
from engine.operators.tasks import Retry as TaskRetry

HERE = Path(__file__).parent
SOON = Exponential(timedelta(milliseconds=1))


def priced(number):
    if random.random() < 0.005:
        os._exit(3)
    if random.random() < 0.05:
        raise ConnectionError
    return number, 3 * number


@dataclass(frozen=True)
class Priced:
    number: int
    price: int


class Desk(Actor):
    supervise = Retry(attempts=1000, backoff=SOON)

    @dataclass
    class State:
        open: list = field(default_factory=list)

    @handles(str)
    def order(self, ctx, number: str):
        self.state.open.append(int(number))
        ctx.task(
            priced,
            int(number),
            on_result=self.priced,
            executor="process",
            retry=TaskRetry(attempts=1000, deaths=1000, backoff=SOON),
        )
        if random.random() < 0.05:
            raise ConnectionError

    def priced(self, ctx, found: tuple):
        number, price = found
        self.state.open.remove(number)
        ctx.emit(("", f"priced {number} {price}"))
        ctx.tell(Clerk.ref(ctx.key), Priced(number, price))
        if random.random() < 0.05:
            raise ConnectionError


@dedicated()
class Clerk(Actor):
    supervise = Retry(attempts=1000, backoff=SOON)

    @dataclass
    class State:
        count: int = 0

    @handles(Priced)
    def file(self, ctx, msg: Priced):
        self.state.count += 1
        ctx.emit(("", f"filed {msg.number} {ctx.key} {self.state.count}"))
        if random.random() < 0.005:
            os._exit(3)
        if random.random() < 0.05:
            raise ConnectionError


flow = Dataflow("flow")
s = op.input("in", flow, FileSource(HERE / "in.txt", batch_size=20))
orders = op.key_on("key", s, lambda number: f"k{int(number) % 7}")
desks = actor("desks", orders, Desk, Clerk)
op.output("out", desks.out, FileSink(HERE / "out.txt"))
"""


@pytest.mark.parametrize("way", [("-w", "1"), ("-w", "3"), ("-p", "2")])
def test_kills_change_nothing_that_is_done_apart(tmp_path: Path, way: tuple[str, ...]):
    """Calls are made again; what comes of them counts once, and each actor has counted right."""
    tmp_path.joinpath("flows.py").write_text(FLOW, encoding="utf-8")
    numbers = "".join(f"{number}\n" for number in range(ORDERS))
    tmp_path.joinpath("in.txt").write_text(numbers, encoding="ascii")
    rng = random.Random(str(way))
    for left in range(KILLS, 0, -1):
        kill_while_it_works(tmp_path, way, rng, ORDERS // left // 2)
    process = run(tmp_path, way, 0.0)
    said = ended(process)
    assert process.returncode == 0, said
    rows = [line.split() for line in lines(tmp_path)]
    for what in ("priced", "filed"):
        assert Counter(int(row[1]) for row in rows if row[0] == what) == Counter(range(ORDERS))
    counts = Counter((row[2], int(row[3])) for row in rows if row[0] == "filed")
    sizes = Counter(f"k{number % 7}" for number in range(ORDERS))
    assert counts == Counter((key, n + 1) for key, size in sizes.items() for n in range(size))


NAPS = """\
import os, time
from pathlib import Path
import engine.operators as op
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, actor, dedicated, handles
from engine.testing import TestingSource

HERE = Path(__file__).parent


def nap(number):
    if os.environ["NAPS"] == "long":
        time.sleep(600)
    return number


class Desk(Actor):
    @handles(int)
    def order(self, ctx, number: int):
        ctx.task(nap, number, on_result=self.done, executor="process")
        ctx.tell(Clerk.ref(ctx.key), number)
        ctx.emit(("", f"asked {number}"))

    def done(self, ctx, number: int):
        ctx.emit(("", f"done {number}"))


@dedicated()
class Clerk(Actor):
    @handles(int)
    def file(self, ctx, number: int):
        ctx.emit(("", f"filed {nap(number)}"))


flow = Dataflow("flow")
s = op.input("in", flow, TestingSource([("a", 1), ("b", 2)]))
desks = actor("desks", s, Desk, Clerk)
op.output("out", desks.out, FileSink(HERE / "out.txt"))
"""


def test_a_drain_leaves_what_is_under_way_for_a_later_run(tmp_path: Path):
    """Which makes the calls again; nothing waits for ten minutes."""
    tmp_path.joinpath("flows.py").write_text(NAPS, encoding="utf-8")
    process = start(tmp_path, "-r", "store", "-s", "20ms", NAPS="long")
    until_s = time.monotonic() + 60
    while len(lines(tmp_path)) < 2 and process.poll() is None:
        assert time.monotonic() < until_s
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    assert process.returncode == 0, said
    process = start(tmp_path, "-r", "store", NAPS="short")
    said = ended(process)
    assert process.returncode == 0, said
    wanted = [f"{what} {number}" for what in ("asked", "done", "filed") for number in (1, 2)]
    assert sorted(lines(tmp_path)) == wanted
