"""Sources and sinks that follow a script and log every call, and a clock that waiting moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.connectors import (
    PENDING,
    DynamicSink,
    FixedPartitionedSink,
    FixedPartitionedSource,
    Pending,
    StatefulSinkPartition,
    StatefulSourcePartition,
    StatelessSinkPartition,
)
from engine.dataflow import Dataflow
from engine.runtime import Drain, RunOptions, run_flow

Log = list[Any]


class FakeTime:
    """A clock that stands still while the worker works and goes on while it waits."""

    def __init__(self) -> None:
        self.now_s = 1_000_000_000.0
        self.waits: list[float] = []

    def monotonic_s(self) -> float:
        return self.now_s

    def time_s(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    def wake(self) -> None:
        """Nothing waits for long."""

    def utc(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)


def run(
    flow: Dataflow,
    *,
    interval_s: float = 10.0,
    time: FakeTime | None = None,
    drain: Drain | None = None,
) -> FakeTime:
    """Run a flow in fake time, which is given back."""
    time = time or FakeTime()
    interval = timedelta(seconds=interval_s)
    run_flow(flow, RunOptions(interval, clock=time, waiter=time, drain=drain or Drain()))
    return time


class Wait:
    """In a script: nothing now, and ask again in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


Script = Iterable[Any]
"""Batches to give; `Wait`s; exceptions to raise; functions to call that give one of these."""


class ScriptedSource(FixedPartitionedSource[Any, int]):
    """Partitions that follow a script, then end. Their state is how far they are in it.

    Args:
        scripts: By partition.
        log: Gets a tuple for every call.
        time: For partitions that say when to wake them.
    """

    def __init__(self, scripts: dict[str, Script], log: Log, time: FakeTime | None = None) -> None:
        self.scripts = scripts
        self.log = log
        self.time = time

    def list_parts(self) -> list[str]:
        return list(self.scripts)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> ScriptedPart:
        self.log.append(("open", for_part))
        kind = ScriptedPart if self.time is None else PacedPart
        return kind(self, for_part)


class ScriptedPart(StatefulSourcePartition[Any, int]):
    def __init__(self, source: ScriptedSource, name: str) -> None:
        self.log = source.log
        self.name = name
        self.time = source.time
        self.awake: datetime | None = None
        self._script = iter(source.scripts[name])
        self._count = 0

    def next_batch(self) -> Iterable[Any]:
        entry = next(self._script, StopIteration)
        while callable(entry) and not isinstance(entry, type):
            entry = entry()
        if isinstance(entry, Wait):
            assert self.time is not None
            self.awake = self.time.utc() + timedelta(seconds=entry.seconds)
            entry = []
        else:
            self.awake = None
        if isinstance(entry, BaseException | type):
            self.log.append(("raise", self.name))
            raise entry
        self.log.append(("poll", self.name, entry))
        self._count += 1
        return entry

    def snapshot(self) -> int:
        self.log.append(("snapshot", self.name, self._count))
        return self._count

    def on_commit(self, state: int) -> None:
        self.log.append(("on_commit", self.name, state))

    def close(self) -> None:
        self.log.append(("close", self.name))


class PacedPart(ScriptedPart):
    """A partition that says when to wake it."""

    def next_awake(self) -> datetime | None:
        return self.awake


class LogSink(DynamicSink[Any]):
    """A sink that logs its calls, and is as often pending as it is told.

    Args:
        log: Gets a tuple for every call.
        name: What to call it in the log.
        pending: By method, how many times in each epoch it says `PENDING` first.
    """

    def __init__(self, log: Log, name: str = "sink", **pending: int) -> None:
        self.log = log
        self.name = name
        self.pending = pending
        self.fail: dict[str, BaseException] = {}

    def build(self, step_id: str, worker_index: int, worker_count: int) -> LogPart:
        self.log.append(("open", self.name))
        return LogPart(self)


class LogPart(StatelessSinkPartition[Any]):
    def __init__(self, sink: LogSink) -> None:
        self._sink = sink
        self._left = dict(sink.pending)

    def _say(self, method: str, *what: Any) -> Pending | None:
        if method in self._sink.fail:
            raise self._sink.fail[method]
        left = self._left.get(method, 0)
        if left:
            self._left[method] = left - 1
            self._sink.log.append((f"{method} pending", self._sink.name))
            return PENDING
        self._left[method] = self._sink.pending.get(method, 0)
        self._sink.log.append((method, self._sink.name, *what))
        return None

    def write_batch(self, items: list[Any]) -> None:
        self._say("write", *items)

    def flush(self) -> Pending | None:
        return self._say("flush")

    def prepare(self, epoch: int) -> list[bytes] | Pending:
        return self._say("prepare", epoch) or [b"row of %d" % epoch]

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        return self._say("publish", epoch, *rows)

    def close(self) -> None:
        self._say("close")


class PartitionedLogSink(FixedPartitionedSink[Any, int]):
    """Named partitions that log what they write and when they are opened and snapshotted."""

    def __init__(self, names: list[str], log: Log, part_fn: Callable[[Any], int] = int) -> None:
        self._names = names
        self._log = log
        self._part_fn = part_fn

    def list_parts(self) -> list[str]:
        return self._names

    def part_fn(self, item_key: Any) -> int:
        return self._part_fn(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
        self._log.append(("open", for_part))
        return _LogValues(for_part, self._log)


class _LogValues(StatefulSinkPartition[Any, int]):
    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log

    def write_batch(self, values: list[Any]) -> None:
        self._log.append(("write", self._name, *values))

    def snapshot(self) -> int:
        self._log.append(("snapshot", self._name))
        return 0
