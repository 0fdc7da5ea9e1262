"""A job that is crashed, paused and rescaled, and what it must come to all the same.

Its targets lie outside of it and survive: files that a sink cuts back to its last position, and a
table with a marker per shard, which shows an epoch once it is committed. They refuse what no real
target could refuse, so that each promise of `engine.connectors` is checked when it is kept or
broken, and not only by what lies there in the end.
"""

from __future__ import annotations

import ast
import collections
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import engine.operators as op
from engine.clock import utc_now
from engine.connectors import (
    PENDING,
    DynamicSink,
    FixedPartitionedSink,
    FixedPartitionedSource,
    SinkSession,
    StatefulSinkPartition,
    StatefulSourcePartition,
    StatelessSinkPartition,
    UnavailableError,
)
from engine.dataflow import Dataflow
from engine.errors import FencedError
from tests.runtime.watermarked import NumberClock, watermarked

KEYS = 7
ITEMS = [(f"k{i % KEYS}", i) for i in range(24)]
LATER = "a0"
"""A partition that is not there at first. It is empty, but moves the others to other workers."""
_DEALT = {f"p{n}": [(key, i) for key, i in ITEMS if int(key[1:]) % 3 == n] for n in range(3)}
_IN_ORDER = {"p0": ITEMS, "p1": [], "p2": []}
TTL_S = 100.0


def time_s(value: int) -> float:
    """When a record happened: all of the first half long before the second."""
    return value if value < len(ITEMS) / 2 else 1000.0 + value


@dataclass
class Outside:
    """What lies outside of the job and is there whatever happens to it."""

    rng: Random
    extras: Collection[str]
    """Which of `EXTRAS` the job has."""
    durable_epoch: Callable[[], int]
    """The newest epoch that no crash can take away any more."""
    weather: Random | None = None
    """Draws when a source can't be reached, and when it gets its later partition."""
    grown: bool = False
    """The source has its later partition."""
    acknowledged: dict[str, int] = field(default_factory=dict)
    """By source partition, the position up to which it will not be asked again."""
    files: dict[str, File] = field(default_factory=lambda: collections.defaultdict(File))
    table: list[Any] = field(default_factory=list)
    shards: dict[tuple[str, str], Shard] = field(
        default_factory=lambda: collections.defaultdict(Shard)
    )
    """By step and shard."""

    @property
    def parts(self) -> dict[str, list[Any]]:
        """What each partition of the source has; a key is in one of them, so it has an order.

        Where event time counts all records have one, or it would depend on the schedule which of
        them come late.
        """
        return {**(_IN_ORDER if "recent" in self.extras else _DEALT), LATER: []}

    def reach(self, share: float) -> None:
        """One try to reach the source, which fails for this share of them."""
        if self.weather is not None and self.weather.random() < share:
            raise UnavailableError("not now")

    def lose_unsynced(self) -> None:
        """The power is cut."""
        for file in self.files.values():
            del file.records[self.rng.randint(file.synced, len(file.records)) :]


@dataclass
class File:
    """A file that one process at a time can write."""

    records: list[Any] = field(default_factory=list)
    synced: int = 0
    writer: CutPart | None = None


@dataclass
class Shard:
    """What the target of a marked sink knows of a shard."""

    generation: int = 0
    epoch: int = 0
    in_doubt: tuple[int, list[bytes]] | None = None
    """A transaction that was sent and not answered yet."""


class Numbers(FixedPartitionedSource[Any, int]):
    """Keys with numbers, in a few partitions that can't always be reached."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def list_parts(self) -> list[str]:
        weather = self._outside.weather
        if weather is not None and weather.random() < 0.3:
            self._outside.grown = True
        return [name for name in self._outside.parts if name != LATER or self._outside.grown]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> NumbersPart:
        at = resume_state or 0
        if at < self._outside.acknowledged.get(for_part, 0):
            raise LookupError("it asks for what it has let go")
        self._outside.reach(0.25)
        return NumbersPart(self._outside, for_part, at)


class NumbersPart(StatefulSourcePartition[Any, int]):
    def __init__(self, outside: Outside, name: str, at: int) -> None:
        self._outside = outside
        self._name = name
        self._at = at
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        records = self._outside.parts[self._name]
        if self._at >= len(records):
            raise StopIteration
        rng = self._outside.rng
        self._outside.reach(0.05)
        batch = records[self._at : self._at + rng.randint(0, 3)]
        self._at += len(batch)
        pause_s = rng.choice((0, 0, 0, 4))
        self._awake = utc_now() + timedelta(seconds=pause_s) if pause_s else None
        return batch

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._at

    def on_commit(self, state: int) -> None:
        acknowledged = self._outside.acknowledged
        acknowledged[self._name] = max(state, acknowledged.get(self._name, 0))


class CutSink(FixedPartitionedSink[Any, int]):
    """Files that are cut back to where the last committed epoch left them, and then locked."""

    delivery = "exactly-once"

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def list_parts(self) -> list[str]:
        return ["f0", "f1"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> CutPart:
        return CutPart(self._outside.rng, self._outside.files[for_part], resume_state or 0)


class CutPart(StatefulSinkPartition[Any, int]):
    def __init__(self, rng: Random, file: File, at: int) -> None:
        assert at <= file.synced, "the file has lost what a committed epoch wrote"
        del file.records[at:]
        file.synced = at
        file.writer = self
        self._rng = rng
        self._file = file

    def write_batch(self, values: list[Any]) -> None:
        self._own().records.extend(values)

    def flush(self) -> Any:
        if self._rng.random() < 0.1:
            return PENDING
        file = self._own()
        file.synced = len(file.records)
        return None

    def snapshot(self) -> int:
        return len(self._own().records)

    def _own(self) -> File:
        if self._file.writer is not self:
            raise FencedError("another process has the file open")
        return self._file


class MarkedSink(DynamicSink[Any]):
    """A table that gets the rows of an epoch together with the epoch's number."""

    delivery = "exactly-once"

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def build(self, step_id: str, worker_index: int, worker_count: int) -> MarkedPart:
        return MarkedPart(self._outside, self._outside.shards[step_id, f"worker-{worker_index}"])


class MarkedPart(StatelessSinkPartition[Any]):
    def __init__(self, outside: Outside, shard: Shard) -> None:
        self._outside = outside
        self._open: list[bytes] = []
        self._generation = 0
        self._shard = shard

    def begin(self, session: SinkSession) -> None:
        assert self._shard is self._outside.shards[session.step_id, session.shard]
        self._generation = session.generation
        if self._shard.generation > session.generation:
            raise FencedError("a newer generation has begun")
        self._shard.generation = session.generation
        if self._shard.in_doubt is not None:
            # Whatever an earlier run has sent is over now, one way or the other.
            if self._outside.rng.random() < 0.5:
                self._apply(*self._shard.in_doubt)
            self._shard.in_doubt = None

    def write_batch(self, items: list[Any]) -> None:
        self._open += [repr(item).encode() for item in items]

    def prepare(self, epoch: int) -> Any:
        if self._outside.rng.random() < 0.1:
            return PENDING
        rows, self._open = self._open, []
        return rows

    def publish(self, epoch: int, rows: list[bytes]) -> Any:
        shard = self._shard
        if shard.generation != self._generation:
            raise FencedError("a newer generation has begun")
        assert epoch <= self._outside.durable_epoch(), "published before it was committed"
        assert epoch > shard.epoch, "published twice"
        if self._outside.rng.random() < (0.3 if shard.in_doubt is None else 0.8):
            shard.in_doubt = epoch, rows
            return PENDING
        self._apply(epoch, rows)
        shard.in_doubt = None
        return None

    def _apply(self, epoch: int, rows: list[bytes]) -> None:
        self._outside.table += [ast.literal_eval(row.decode()) for row in rows]
        self._shard.epoch = epoch

    def published(self) -> int:
        return self._shard.epoch


EXTRAS = ("list", "collect", "join", "total", "recent")
"""Steps that a job may have besides the one that counts. There is "clock" too, which is never
drawn: it is for the seeds of a model of its own."""


def flow_of(outside: Outside) -> Dataflow:
    """Some of the kinds of keyed steps, into both kinds of sinks."""
    flow, extras = Dataflow("f"), outside.extras
    s = op.input("in", flow, Numbers(outside))
    counted = op.stateful_map("count", s, lambda n, v: ((n or 0) + 1, ((n or 0) + 1, v)))
    lines: list[Any] = [counted]
    rows: list[Any] = [counted]
    if "list" in extras:
        lines.append(op.stateful_map("list", s, _keep_some))
    if "collect" in extras:
        rows.append(op.collect("collect", s, timedelta(seconds=3), 4))
    if "join" in extras:
        twice = op.map_value("twice", s, lambda v: v * 2)
        lines.append(op.join("join", s, twice, emit_mode="running"))
    if "total" in extras:
        rows.append(op.count_final("total", s, lambda kv: kv[0]))
    if "recent" in extras:
        ttl = op.TTL(timedelta(seconds=TTL_S), event_time=_time, lateness=timedelta(0))
        rows.append(op.stateful_map("recent", s, _count_recent, ttl=ttl))
    if "clock" in extras:
        clock = NumberClock(idle_after_s=1e9)
        timed = watermarked("clock", s, clocks=(clock,))
        timed = op.filter("timed", timed, lambda kv: kv[1][0] == "record")
        rows.append(op.map_value("marked", timed, lambda v: {"at": v[1], "mark": v[2]}))
    shown = op.map("show", op.merge("lines", *lines), lambda kv: (kv[0], kv))
    op.output("files", shown, CutSink(outside))
    op.output("table", op.merge("rows", *rows), MarkedSink(outside))
    return flow


def _keep_some(seen: list[int] | None, value: int) -> tuple[list[int] | None, int]:
    """A list of values, forgotten now and then."""
    return [*(seen or []), value] if value % 3 else None, value


def _count_recent(n: int | None, _value: int) -> tuple[int, str]:
    return (n or 0) + 1, f"recent {(n or 0) + 1}"


def _time(value: int) -> datetime:
    return datetime.fromtimestamp(time_s(value), UTC)


def by_key(records: list[Any]) -> dict[str, list[Any]]:
    """Values of each key, in their order."""
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for key, value in records:
        found[key].append(value)
    return found


def states_after(outside: Outside, positions: dict[str, int]) -> dict[str, dict[str, Any]]:
    """What some of the steps must know when the sources have got so far.

    Of the step with a time to live it may know less: those whose time is over.
    """
    states: dict[str, dict[str, Any]] = {"count": {}, "list": {}, "recent": {}}
    last_s: dict[str, float] = {}
    for name, at in positions.items():
        for key, value in outside.parts[name][:at]:
            states["count"][key] = states["count"].get(key, 0) + 1
            states["list"][key], _ = _keep_some(states["list"].get(key), value)
            silent_s = time_s(value) - last_s.get(key, 0.0)
            known = states["recent"].get(key, 0) if silent_s < TTL_S else 0
            states["recent"][key] = known + 1
            last_s[key] = time_s(value)
    states["list"] = {key: seen for key, seen in states["list"].items() if seen is not None}
    return states


def living(outside: Outside, positions: dict[str, int]) -> set[str]:
    """The keys whose time is not over for any worker."""
    records = [record for name, at in positions.items() for record in outside.parts[name][:at]]
    latest_s = max((time_s(value) for _, value in records), default=0.0)
    return {key for key, value in records if time_s(value) + TTL_S > latest_s}


def check_output(outside: Outside) -> None:
    """Nothing is lost, nothing came twice, and each key's records came in their order."""
    table = by_key(outside.table)
    filed = by_key([record for file in outside.files.values() for record in file.records])
    for key, wanted in by_key(ITEMS).items():
        _check_table(table[key], wanted, outside.extras)
        _check_files(filed[key], wanted, outside.extras)


def _check_table(rows: list[Any], wanted: list[int], extras: Collection[str]) -> None:
    _same("count", [row for row in rows if isinstance(row, tuple)], [*enumerate(wanted, 1)])
    totals = [row for row in rows if isinstance(row, int)]
    _same("total", totals, [len(wanted)] if "total" in extras else [])
    collected = [value for row in rows if isinstance(row, list) for value in row]
    _same("collect", collected, wanted if "collect" in extras else [])
    recents = [row for row in rows if isinstance(row, str)]
    _same("recent", recents, _recents(wanted) if "recent" in extras else [])
    marked = [row for row in rows if isinstance(row, dict)]
    _same("clock", [row["at"] for row in marked], wanted if "clock" in extras else [])
    marks = [row["mark"] for row in marked]
    assert marks == sorted(marks), f"the watermark went back: {marks}"
    assert all(row["at"] >= row["mark"] for row in marked), f"records were late: {marked}"


def _recents(wanted: list[int]) -> list[str]:
    """The counts of each half of a key's records."""
    first = sum(time_s(value) < TTL_S for value in wanted)
    return [f"recent {n}" for half in (first, len(wanted) - first) for n in range(1, half + 1)]


def _check_files(records: list[Any], wanted: list[int], extras: Collection[str]) -> None:
    plain = [record for record in records if isinstance(record, int)]
    _same("list", plain, wanted if "list" in extras else [])
    numbered = list(enumerate(wanted, 1))
    pairs = [record for record in records if isinstance(record, tuple)]
    # A number with its value is never a value with the double of one, or of nothing.
    _same("count", [pair for pair in pairs if pair in numbered], numbered)
    joined = [pair for pair in pairs if pair not in numbered]
    if "join" in extras:
        _same("left of join", _steps(joined, 0), wanted)
        _same("right of join", _steps(joined, 1), [2 * value for value in wanted])
        _same("records of join", [len(joined)], [2 * len(wanted)])
    else:
        _same("join", joined, [])


def _same(what: str, found: list[Any], wanted: list[Any]) -> None:
    """What came out of a step for a key is what there should be, in its order."""
    assert found == wanted, f"{what} gave {found} in place of {wanted}"


def _steps(pairs: list[Any], side: int) -> list[Any]:
    """The values of one side, each once, as they came."""
    values = [pair[side] for pair in pairs if pair[side] is not None]
    return [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
