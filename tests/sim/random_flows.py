"""Random flows with what must come out of them, worked out by plain Python over whole lists.

A flow is drawn as a list of `Node`s, from which both the engine's graph and the oracle are made.
A record is ``(key, (origin, number))``. Records of one key and one origin have an order that no
schedule may change; so an origin gets a new name wherever streams are parted or put together.
Streams that `redistribute` has put out of order are only compared as multisets.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import engine.operators as op
from engine.connectors import Sink
from engine.dataflow import Dataflow, Stream
from engine.testing import TestingSink, TestingSource

Record = tuple[Any, tuple[str, int]]
Records = list[Record]

KEYS: tuple[Any, ...] = ("a", "b", "c", 1, "1", b"b", ("a", 1))


@dataclass(frozen=True)
class Node:
    """One step: how to add it to a flow, and what it makes of all of its input at once."""

    kind: str
    ups: tuple[int, ...]
    build: Callable[..., Stream[Any]]
    oracle: Callable[..., Records]
    ordered: bool


@dataclass
class RandomFlow:
    """A drawn flow. Node 0 to `len(inputs) - 1` are its inputs; leaves have outputs."""

    inputs: list[Records]
    nodes: list[Node]
    leaves: list[int]

    def describe(self) -> str:
        """The graph in one line, for messages."""
        return " ".join(f"{i}={n.kind}{list(n.ups)}" for i, n in enumerate(self.nodes))

    def build(
        self, sources: Sequence[Any], sink_of: Callable[[int], tuple[Sink[Any], bool]]
    ) -> Dataflow:
        """The flow, reading these sources; `sink_of` gives a leaf's sink and if it takes pairs."""
        flow = Dataflow("random")
        streams: list[Stream[Any]] = []
        for i, node in enumerate(self.nodes):
            if node.kind == "input":
                streams.append(op.input(f"n{i}", flow, sources[i]))
            else:
                streams.append(node.build(f"n{i}", *(streams[up] for up in node.ups)))
        for leaf in self.leaves:
            sink, takes_pairs = sink_of(leaf)
            stream = streams[leaf]
            if takes_pairs:
                stream = op.map(f"pair{leaf}", stream, lambda record: (str(record[0]), record))
            op.output(f"out{leaf}", stream, sink)
        return flow

    def expected(self, inputs: Sequence[Records]) -> dict[int, Records]:
        """What each leaf gives for these inputs, to their end."""
        made: list[Records] = []
        for i, node in enumerate(self.nodes):
            if node.kind == "input":
                made.append(list(inputs[i]))
            else:
                made.append(node.oracle(*(made[up] for up in node.ups)))
        return {leaf: made[leaf] for leaf in self.leaves}

    def check(self, leaf: int, got: Records, inputs: Sequence[Records] | None = None) -> None:
        """Nothing lost, nothing twice, order kept where there is one."""
        want = self.expected(self.inputs if inputs is None else inputs)[leaf]
        lost, extra = Counter(want) - Counter(got), Counter(got) - Counter(want)
        assert not lost + extra, f"leaf {leaf}: lost {lost}, extra {extra}; {self.describe()}"
        if self.nodes[leaf].ordered:
            assert by_origin(got) == by_origin(want), f"leaf {leaf} out of order; {self.describe()}"


@dataclass
class ListRun:
    """A random flow with testing sources and a list per leaf."""

    drawn: RandomFlow
    rng: random.Random
    got: dict[int, Records] = field(default_factory=dict)

    def flow(self) -> Dataflow:
        """A new flow, and empty lists for it."""
        self.got = {leaf: [] for leaf in self.drawn.leaves}
        sources = [testing_source(self.rng, records) for records in self.drawn.inputs]
        return self.drawn.build(sources, lambda leaf: (TestingSink(self.got[leaf]), False))

    def check(self) -> None:
        """All leaves are as they must be."""
        for leaf, got in self.got.items():
            self.drawn.check(leaf, got)


def by_origin(records: Records) -> dict[Any, list[int]]:
    """The numbers of each key and origin, in order."""
    found: dict[Any, list[int]] = {}
    for key, (origin, number) in records:
        found.setdefault((key, type(key), origin), []).append(number)
    return found


def testing_source(rng: random.Random, records: Records) -> TestingSource[Any]:
    """The records with pauses and repeated ends among them, in batches of some size."""
    items: list[Any] = []
    for record in records:
        if rng.random() < 0.1:
            items.append(TestingSource.PAUSE(timedelta(seconds=rng.choice([0, 1, 7, 30]))))
        items.append(record)
    items.append(TestingSource.EOF())
    items.append(("after the end", ("never", 0)))
    return TestingSource(items, batch_size=rng.choice([1, 2, 5]))


def draw(seed: int, *, streaming: bool = False) -> RandomFlow:
    """Draw a flow. `streaming` leaves out steps that hold records back until the end."""
    rng = random.Random(seed)
    inputs = [
        [(rng.choice(KEYS), (f"in{i}", n)) for n in range(rng.randrange(25))]
        for i in range(rng.choice([1, 1, 2, 3]))
    ]
    nodes = [Node("input", (), _no_build, _no_oracle, ordered=True) for _ in inputs]
    kinds = list(STREAMING if streaming else STREAMING | HOLDING)
    for _ in range(rng.randrange(2, 9)):
        kind = rng.choice(kinds)
        maker = STREAMING.get(kind) or HOLDING[kind]
        nodes.extend(maker(rng, nodes))
    used = {up for node in nodes for up in node.ups}
    leaves = [i for i in range(len(nodes)) if i not in used or rng.random() < 0.1]
    return RandomFlow(inputs, nodes, leaves)


def _no_build(*_: Any) -> Stream[Any]:
    raise AssertionError


def _no_oracle(*_: Any) -> Records:
    raise AssertionError


def _pick(rng: random.Random, nodes: list[Node]) -> int:
    """One of the nodes, late ones rather than early ones."""
    return max(rng.randrange(len(nodes)), rng.randrange(len(nodes)))


def _per_record(
    kind: str, up: int, nodes: list[Node], fn: Callable[[Record], Records], build: Any
) -> Node:
    return Node(kind, (up,), build, lambda rs: [o for r in rs for o in fn(r)], nodes[up].ordered)


def _retagged(tag: str) -> Callable[[Record], Record]:
    return lambda record: (record[0], (f"{record[1][0]}.{tag}", record[1][1]))


def _map(rng: random.Random, nodes: list[Node]) -> list[Node]:
    up, add = _pick(rng, nodes), rng.randrange(100)

    def fn(record: Record) -> Record:
        return record[0], (record[1][0], record[1][1] * 3 + add)

    return [_per_record("map", up, nodes, lambda r: [fn(r)], lambda i, s: op.map(i, s, fn))]


def _filter(rng: random.Random, nodes: list[Node]) -> list[Node]:
    up, rest = _pick(rng, nodes), rng.randrange(4)

    def keep(record: Record) -> bool:
        return record[1][1] % 4 != rest

    return [
        _per_record(
            "filter",
            up,
            nodes,
            lambda r: [r] if keep(r) else [],
            lambda i, s: op.filter(i, s, keep),
        )
    ]


def _flat_map(rng: random.Random, nodes: list[Node]) -> list[Node]:
    up = _pick(rng, nodes)

    def fn(record: Record) -> Records:
        key, (origin, number) = record
        return [(key, (origin, number * 2 + n)) for n in range(number % 3)]

    return [_per_record("flat_map", up, nodes, fn, lambda i, s: op.flat_map(i, s, fn))]


def _batches(rng: random.Random, nodes: list[Node]) -> list[Node]:
    up = _pick(rng, nodes)
    return [
        _per_record("batches", up, nodes, lambda r: [r], lambda i, s: op.flat_map_batch(i, s, iter))
    ]


def _rekey(rng: random.Random, nodes: list[Node]) -> list[Node]:
    up = _pick(rng, nodes)

    def fn(record: Record) -> Record:
        key, (origin, number) = record
        new_key = zlib.crc32(repr(key).encode()) % 3
        return new_key, (f"{origin}/{key!r}", number)

    return [_per_record("rekey", up, nodes, lambda r: [fn(r)], lambda i, s: op.map(i, s, fn))]


def _branch(rng: random.Random, nodes: list[Node]) -> list[Node]:
    up = _pick(rng, nodes)
    made: list[Node] = []
    for side in (True, False):

        def holds(record: Record, side: bool = side) -> bool:
            return (record[1][1] % 2 == 0) is side

        def build(i: str, s: Stream[Any], side: bool = side) -> Stream[Any]:
            out = op.branch(i, s, lambda record: record[1][1] % 2 == 0)
            return op.map(f"{i}tag", out.trues if side else out.falses, _retagged(str(side)))

        def fn(record: Record, side: bool = side, holds: Any = holds) -> Records:
            return [_retagged(str(side))(record)] if holds(record) else []

        made.append(_per_record("branch", up, nodes, fn, build))
    return made


def _merge(rng: random.Random, nodes: list[Node]) -> list[Node]:
    ups = tuple(_pick(rng, nodes) for _ in range(rng.choice([2, 2, 3])))

    def build(i: str, *streams: Stream[Any]) -> Stream[Any]:
        tagged = [op.map(f"{i}tag{n}", s, _retagged(str(n))) for n, s in enumerate(streams)]
        return op.merge(i, *tagged)

    def oracle(*sides: Records) -> Records:
        return [_retagged(str(n))(record) for n, side in enumerate(sides) for record in side]

    return [Node("merge", ups, build, oracle, all(nodes[up].ordered for up in ups))]


def _redistribute(rng: random.Random, nodes: list[Node]) -> list[Node]:
    up = _pick(rng, nodes)
    return [Node("redistribute", (up,), op.redistribute, list, ordered=False)]


def _stateful_map(rng: random.Random, nodes: list[Node]) -> list[Node]:
    """Count the records of each key to three, by origin where there is an order."""
    up = _pick(rng, nodes)
    by_origin_too = nodes[up].ordered

    def mapper(
        state: dict[str, int] | None, value: tuple[str, int]
    ) -> tuple[dict[str, int] | None, tuple[str, int]]:
        origin, number = value if by_origin_too else ("all", 0)
        counts = dict(state or {})
        count = counts.pop(origin, 0) + 1
        if count < 3:
            counts[origin] = count
        return counts or None, (origin, number * 4 + count)

    def oracle(records: Records) -> Records:
        states: dict[Any, Any] = {}
        made: Records = []
        for key, value in records:
            states[_typed(key)], out = mapper(states.get(_typed(key)), value)
            made.append((key, out))
        return made

    def build(step_id: str, up: Stream[Any]) -> Stream[Any]:
        return op.stateful_map(step_id, up, mapper)

    return [Node("stateful_map", (up,), build, oracle, ordered=True)]


def _fold_final(rng: random.Random, nodes: list[Node]) -> list[Node]:
    """All values of a key, as one number."""
    up = _pick(rng, nodes)
    ordered = nodes[up].ordered

    def build(step_id: str, up: Stream[Any]) -> Stream[Any]:
        return op.map_value(f"{step_id}sum", _folded(step_id, up), lambda all_: _sum(all_, ordered))

    def oracle(records: Records) -> Records:
        return [(key, _sum(values, ordered)) for key, values in _grouped(records)]

    return [Node("fold_final", (up,), build, oracle, ordered=True)]


def _join(rng: random.Random, nodes: list[Node]) -> list[Node]:
    """The folds of two streams."""
    ups = (_pick(rng, nodes), _pick(rng, nodes))
    ordered = [nodes[up].ordered for up in ups]
    final = rng.random() < 0.5

    def both(values: tuple[Any, Any]) -> tuple[str, int]:
        sums = [None if v is None else _sum(v, o) for v, o in zip(values, ordered, strict=True)]
        return "join", zlib.crc32(repr(sums).encode())

    def build(step_id: str, left: Stream[Any], right: Stream[Any]) -> Stream[Any]:
        joined = op.join(
            step_id,
            _folded(f"{step_id}left", left),
            _folded(f"{step_id}right", right),
            emit_mode="final" if final else "complete",
        )
        return op.map_value(f"{step_id}sum", joined, both)

    def oracle(left: Records, right: Records) -> Records:
        sides = [{_typed(k): (k, vs) for k, vs in _grouped(side)} for side in (left, right)]
        keys = sides[0].keys() | sides[1].keys() if final else sides[0].keys() & sides[1].keys()
        made: Records = []
        for typed in keys:
            key = next(side[typed][0] for side in sides if typed in side)
            values = tuple(side[typed][1] if typed in side else None for side in sides)
            made.append((key, both(values)))
        return made

    return [Node("join", ups, build, oracle, ordered=True)]


def _collect(rng: random.Random, nodes: list[Node]) -> list[Node]:
    """Lists of values, taken apart again."""
    up = _pick(rng, nodes)
    timeout, size = timedelta(seconds=rng.choice([0, 2, 20])), rng.choice([1, 2, 5])

    def spread(values: list[Any]) -> list[Any]:
        assert 1 <= len(values) <= size
        return values

    def build(step_id: str, up: Stream[Any]) -> Stream[Any]:
        return op.flat_map_value(f"{step_id}spread", op.collect(step_id, up, timeout, size), spread)

    return [Node("collect", (up,), build, list, nodes[up].ordered)]


def _folded(step_id: str, up: Stream[Any]) -> Stream[Any]:
    return op.fold_final(step_id, up, list, lambda values, value: [*values, value])


def _grouped(records: Records) -> list[tuple[Any, list[Any]]]:
    groups: dict[Any, tuple[Any, list[Any]]] = {}
    for key, value in records:
        groups.setdefault(_typed(key), (key, []))[1].append(value)
    return list(groups.values())


def _typed(key: Any) -> Any:
    return type(key), key


def _sum(values: list[tuple[str, int]], ordered: bool) -> tuple[str, int]:
    """One number for values that are only in order by origin, or in no order at all."""
    seen = sorted(values, key=lambda value: value[0]) if ordered else sorted(values)
    return "fold", zlib.crc32(repr(seen).encode())


STREAMING: dict[str, Callable[[random.Random, list[Node]], list[Node]]] = {
    "map": _map,
    "filter": _filter,
    "flat_map": _flat_map,
    "batches": _batches,
    "rekey": _rekey,
    "branch": _branch,
    "merge": _merge,
    "redistribute": _redistribute,
    "stateful_map": _stateful_map,
}
HOLDING: dict[str, Callable[[random.Random, list[Node]], list[Node]]] = {
    "fold_final": _fold_final,
    "join": _join,
    "collect": _collect,
}
"""Steps that emit later than at once, some of them at the end of input only."""
