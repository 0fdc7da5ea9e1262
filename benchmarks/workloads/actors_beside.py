"""Actors beside those of other libraries: messages between two, very many actors, and asks.

The others run by themselves (`benchmarks/actor_peers.py`), the engine in a flow of one worker, or
of two that ask each other. Slow contenders are given less to do, `SHARES`; figures are per second,
or of one ask. Nothing is saved.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import actor_peers
from benchmarks.contenders import BARE_UDF, PYKKA, RAY, THESPIAN, load_engine
from benchmarks.feeds import Batch, Count, split
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._processes import run_module
from benchmarks.workloads._throughput import Emit, time_flow, time_loop
from engine.operators.actors import Actor, Context, actor, handles

SHARES = {
    "actors-pair": {PYKKA: 10, THESPIAN: 10, RAY: 200},
    "actors-many": {PYKKA: 500, THESPIAN: 50, RAY: 50_000},
}
"""Of the records, one of so many."""
PEERS = (PYKKA, THESPIAN, RAY)
OTHER = {"a": "b", "b": "a"}
BATCH_SIZE = 1000


class Member(Actor):
    """One of a pair; or one of very many."""

    @dataclass
    class State:
        """How many messages."""

        count: int = 0

    @handles(int)
    def hop(self, ctx: Context, left: int) -> None:
        self.state.count += 1
        if left:
            ctx.tell(REFS[ctx.key], left - 1)
        else:
            ctx.emit((ctx.key, left))


REFS = {key: Member.ref(other) for key, other in OTHER.items()}


def _pair_by_hand(emit: Emit, batches: Iterable[Batch]) -> None:
    counts = dict.fromkeys(OTHER, 0)
    for batch in batches:
        queue = deque(batch)
        while queue:
            key, left = queue.popleft()
            counts[key] += 1
            if left:
                queue.append((OTHER[key], left - 1))
            else:
                emit([(key, left)])


def _many_by_hand(emit: Emit, batches: Iterable[Batch]) -> None:
    members: dict[str, Any] = {}
    for batch in batches:
        for key, _ in batch:
            member = members.get(key)
            if member is None:
                member = members[key] = Member.State()
            member.count += 1
        emit(batch)


def _pair(records: int) -> tuple[int, list[Batch]]:
    hops = max(1, records // actor_peers.MESSAGES)
    return hops, [[("a", hops)] * actor_peers.MESSAGES]


def _many(records: int) -> tuple[int, list[Batch]]:
    return records, split([(f"key{number}", 0) for number in range(records)], BATCH_SIZE)


@dataclass(frozen=True, slots=True)
class Beside:
    """Messages by the engine, by hand and by other libraries."""

    name: str
    title: str
    records: int
    records_quick: int
    make: Callable[[int], tuple[int, list[Batch]]]
    """What a peer is given, and what the engine is, for so many messages."""
    loop: Callable[..., None]
    peers: Mapping[str, Callable[[int], float]]

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "1,000 messages/s", divisor=1e3, digits=1),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, "engine", *PEERS),
        (("engine", BARE_UDF), *(("engine", peer) for peer in PEERS)),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return (BARE_UDF, "engine", *self.peers)

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        records //= SHARES[self.name].get(contender, 1)
        size, feed = self.make(max(1, records))
        expected = sum(map(len, feed))
        with inputs_out_of_gc():
            if contender == BARE_UDF:
                sink, seconds = time_loop(self.loop, [feed], Count)
            elif contender in self.peers:
                # It waits for all that it has begun.
                sink, seconds = Count(), self.peers[contender](size)
                sink.records = expected
            else:
                sink, seconds = time_flow(load_engine(contender), self._graph, [feed], Count)
        if sink.records != expected:
            msg = f"{contender}: {sink.records} of {expected} records came out"
            raise RuntimeError(msg)
        return Outcome({"records_per_s": records / seconds}, 1, 1 if check else None)

    def _graph(self, _op: Any, stream: Any) -> Any:
        return actor("members", stream, Member).out


# Asks


def _echo(connection: Any) -> None:
    while (asked := connection.recv()) is not None:
        connection.send(asked)


def _asks_by_hand(asks: int) -> list[int]:
    """Two processes that send each other pickles."""
    mine, its = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_echo, args=(its,))
    process.start()

    def ask(number: int) -> None:
        mine.send(number)
        mine.recv()

    try:
        return actor_peers.timed(ask, asks)
    finally:
        mine.send(None)
        process.join()


_RUN_BY: dict[str, list[str]] = {"engine": [], "engine-w2": ["-w", "2"], "engine-p2": ["-p", "2"]}
"""On one worker, on two that are threads, and on two that are processes."""


def _asks_by_flow(options: list[str], asks: int) -> list[int]:
    with tempfile.TemporaryDirectory(prefix="asks-") as folder:
        path = Path(folder, "took.json")
        flow = f"benchmarks.asking:flow_of({asks}, {str(path)!r})"
        run_module(["engine.run", flow, *options])
        took_ns: list[int] = json.loads(path.read_text(encoding="utf-8"))
    return took_ns


@dataclass(frozen=True, slots=True)
class Asks:
    """One actor asks another one, of its own worker or of another one, again and again."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("p50_ms", "ms, p50", digits=3),
        Metric("p99_ms", "ms, p99", digits=3),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, *_RUN_BY, *PEERS),
        (("engine", PYKKA), ("engine-p2", BARE_UDF), ("engine-p2", THESPIAN), ("engine-p2", RAY)),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        if contender == BARE_UDF:
            took_ns = _asks_by_hand(records)
        elif contender in PEERS:
            took_ns = actor_peers.ASKS[contender](records)
        else:
            took_ns = _asks_by_flow(_RUN_BY[contender], records)
        ordered = sorted(took_ns)
        figures = {
            "p50_ms": ordered[len(ordered) // 2] / 1e6,
            "p99_ms": ordered[len(ordered) * 99 // 100] / 1e6,
        }
        return Outcome(figures, len(ordered), len(ordered) if check else None)


WORKLOADS = (
    Beside(
        *("actors-pair", "Numbers between two actors, 100 at a time", 2_000_000, 10_000),
        *(_pair, _pair_by_hand, actor_peers.PAIRS),
    ),
    Beside(
        *("actors-many", "Actors made and messaged once", 1_000_000, 10_000),
        *(_many, _many_by_hand, actor_peers.MANY),
    ),
    Asks("actors-ask", "An ask and its answer, one at a time", 5_000, 300),
)
