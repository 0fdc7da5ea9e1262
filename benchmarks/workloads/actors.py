"""Step `actor` beside `stateful_map`, and messages between actors beside a queue by hand.

The first workload is the running mean of W3, each key's kept by an actor. In the others each of
1,000 actors hands a message on to the next one, again and again: as a number, and as a frozen
dataclass, which every hop makes anew. There is one worker, and nothing is saved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, load_engine
from benchmarks.feeds import Batch, Count, Digest
from benchmarks.workloads import running_mean
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._throughput import Emit, Graph, Loop, time_flow, time_loop
from engine.operators.actors import Actor, Context, Ref, actor, handles

STATEFUL_MAP = "engine-stateful-map"
ACTORS = 1000
NEXT = {f"k{i}": f"k{(i + 1) % ACTORS}" for i in range(ACTORS)}


class Mean(Actor):
    """The running mean of its key."""

    @dataclass
    class State:
        """How many values, and what they add up to."""

        count: int = 0
        total: float = 0.0

    @handles(float)
    def add(self, ctx: Context, value: float) -> None:
        state = self.state
        state.count += 1
        state.total += value
        ctx.emit((ctx.key, state.total / state.count))


@dataclass(frozen=True)
class Hop:
    """How far it has still to go."""

    left: int


class Ring(Actor):
    """Hands a message on until it has gone far enough."""

    @dataclass
    class State:
        """How many messages."""

        count: int = 0

    @handles(int)
    def number(self, ctx: Context, left: int) -> None:
        self.state.count += 1
        if left:
            ctx.tell(REFS[ctx.key], left - 1)
        else:
            ctx.emit((ctx.key, left))

    @handles(Hop)
    def hop(self, ctx: Context, msg: Hop) -> None:
        self.state.count += 1
        if msg.left:
            ctx.tell(Ring.ref(NEXT[ctx.key]), Hop(msg.left - 1))
        else:
            ctx.emit((ctx.key, msg.left))


REFS: dict[str, Ref] = {key: Ring.ref(to) for key, to in NEXT.items()}


def _ring_by_hand(emit: Emit, batches: Iterable[Batch]) -> None:
    counts = dict.fromkeys(NEXT, 0)
    queue: deque[tuple[str, Any]] = deque()
    ended: Batch = []
    for batch in batches:
        queue.extend(batch)
        while queue:
            key, message = queue.popleft()
            counts[key] += 1
            left = message.left if message.__class__ is Hop else message
            if not left:
                ended.append((key, left))
            elif message.__class__ is Hop:
                queue.append((NEXT[key], Hop(left - 1)))
            else:
                queue.append((NEXT[key], left - 1))
    emit(ended)


def _hops(of: Callable[[int], Any]) -> Callable[[int], list[list[Batch]]]:
    """Feeds by which so many messages are handled in all, about."""
    return lambda records: [[[(key, of(records // ACTORS)) for key in NEXT]]]


@dataclass(frozen=True, slots=True)
class Actors:
    """A step with actors, and what it is measured beside."""

    name: str
    title: str
    records: int
    records_quick: int
    feeds: Callable[[int], list[list[Batch]]]
    loop: Loop
    graphs: dict[str, Graph]
    """By contender."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "M messages/s", divisor=1e6, digits=3),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, STATEFUL_MAP, "engine"), (("engine", BARE_UDF), ("engine", STATEFUL_MAP))
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return (BARE_UDF, *self.graphs)

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        feeds = self.feeds(records)
        sink_class = Digest if check else Count
        with inputs_out_of_gc():
            if contender == BARE_UDF:
                sink, seconds = time_loop(self.loop, feeds, sink_class)
            else:
                graph = self.graphs[contender]
                sink, seconds = time_flow(load_engine("engine"), graph, feeds, sink_class)
        digest = sink.digest if isinstance(sink, Digest) else None
        return Outcome({"records_per_s": records / seconds}, sink.records, digest)


def _by_actors(cls: type[Actor]) -> Graph:
    return lambda _op, stream: actor("actors", stream, cls).out


_MEAN = running_mean.WORKLOADS[0]
_RING = {"engine": _by_actors(Ring)}
WORKLOADS = (
    Actors(
        *("actors-mean", "Running mean by actors, 1,000 keys", 1_000_000, 10_000),
        *(_MEAN.feeds, running_mean.loop_udf),
        {STATEFUL_MAP: running_mean.graph, "engine": _by_actors(Mean)},
    ),
    Actors(
        *("actors-tell", "Numbers from actor to actor", 1_000_000, 10_000),
        *(_hops(lambda hops: hops), _ring_by_hand, _RING),
    ),
    Actors(
        *("actors-tell-object", "Frozen dataclasses from actor to actor", 1_000_000, 10_000),
        *(_hops(Hop), _ring_by_hand, _RING),
    ),
)
