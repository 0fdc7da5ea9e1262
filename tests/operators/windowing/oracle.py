"""What comes out of windows, computed from their definition with the whole input at hand.

It shares nothing with the engine. Times are microseconds since 1970 UTC. What a watermark is, is
said by a `ClockModel` that sees all batches; which windows there are by a `WindowerModel`. From
these `events` makes the list of what happens to a key, in order, and the functions below it say
what an operator makes of such a list.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
LATEST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def us(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def since_epoch(at: datetime) -> int:
    """The microseconds of a time; such as lie outside of what UTC can say are at its ends."""
    return min(max(us(at - EPOCH), EARLIEST_US), LATEST_US)


def shown(at_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=min(max(at_us, EARLIEST_US), LATEST_US))


@dataclass(frozen=True)
class Batch:
    """Records that came together, at a time by the wall clock."""

    now_us: int
    records: tuple[tuple[Any, Any], ...]


END = Batch(0, ())
"""In place of a batch: all input has ended; what stands behind it comes in a later run."""


class ClockModel(Protocol):
    """Times and watermarks. A watermark beyond all times is infinity, one before is minus that."""

    def judged(self, batches: list[Batch], b: int, i: int) -> tuple[int, float]:
        """The time of record `i` of batch `b`, and the watermark it is held against."""
        ...

    def reached(self, batches: list[Batch], b: int, key: Any) -> float:
        """The watermark of a key after batch `b`, at its time."""
        ...


class EventTime:
    """The event clock with a watermark per key.

    After any value it is the largest of (time - wait + wall time since that value came) over this
    value and all before it.
    """

    def __init__(self, time_of: Callable[[Any], datetime], wait: timedelta) -> None:
        self.time_of = time_of
        self.wait_us = us(wait)

    def judged(self, batches: list[Batch], b: int, i: int) -> tuple[int, float]:
        key, value = batches[b].records[i]
        seen = [*batches[:b], Batch(batches[b].now_us, batches[b].records[: i + 1])]
        return since_epoch(self.time_of(value)), self._watermark(seen, key)

    def reached(self, batches: list[Batch], b: int, key: Any) -> float:
        return self._watermark(batches[: b + 1], key)

    def _watermark(self, seen: list[Batch], key: Any) -> float:
        now_us = seen[-1].now_us
        watermark = max(
            (
                since_epoch(self.time_of(value)) - self.wait_us + now_us - batch.now_us
                for batch in seen
                for its_key, value in batch.records
                if its_key == key
            ),
            default=-math.inf,
        )
        return min(watermark, LATEST_US)


class StreamTime:
    """The event clock with one watermark for the stream, of which each side is a partition.

    It is the largest time of each side's values less the wait, and the least of these; a batch is
    held against the one before it.
    """

    def __init__(self, time_of: Callable[[Any], datetime], wait: timedelta, sides: int) -> None:
        self.time_of, self.wait_us, self.sides = time_of, us(wait), sides

    def judged(self, batches: list[Batch], b: int, i: int) -> tuple[int, float]:
        value = batches[b].records[i][1]
        return since_epoch(self.time_of(value)), self.reached(batches, b - 1, None)

    def reached(self, batches: list[Batch], b: int, key: Any) -> float:
        values = [value for batch in batches[: b + 1] for _, value in batch.records]
        return min(
            max(
                (
                    since_epoch(self.time_of(value)) - self.wait_us
                    for value in values
                    if self.sides == 1 or value.side == side
                ),
                default=-math.inf,
            )
            for side in range(self.sides)
        )


class SystemTime:
    """The system clock: all is as the wall clock says when the batch comes."""

    def judged(self, batches: list[Batch], b: int, i: int) -> tuple[int, float]:
        return batches[b].now_us, batches[b].now_us

    def reached(self, batches: list[Batch], b: int, key: Any) -> float:
        return batches[b].now_us


class WindowerModel(Protocol):
    """The windows of one key."""

    def late_ids(self, at_us: int) -> list[int]: ...

    def take(self, at_us: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids a value goes into, and the merges, `(original, target)`, that it makes."""
        ...

    def due(self, watermark: float) -> list[tuple[int, Metadata]]:
        """What is open and closes at a watermark, in the order in which it was opened."""
        ...


Metadata = tuple[datetime, datetime, frozenset[int]]


@dataclass
class Aligned:
    """Windows of a length that begin at equal distances from a start."""

    length: timedelta
    offset: timedelta
    align_to: datetime
    open: list[int] = field(default_factory=list)

    def late_ids(self, at_us: int) -> list[int]:
        """All windows that contain the time: from the last that begins before it, downwards."""
        number = math.floor((at_us - us(self.align_to - EPOCH)) / us(self.offset)) + 2
        while self.span(number)[0] > at_us:
            number -= 1
        containing = itertools.takewhile(
            lambda n: at_us < self.span(n)[1], itertools.count(number, -1)
        )
        return sorted(containing)

    def span(self, number: int) -> tuple[int, int]:
        begin = us(self.align_to - EPOCH) + number * us(self.offset)
        return begin, begin + us(self.length)

    def take(self, at_us: int) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self.late_ids(at_us)
        self.open += [n for n in ids if n not in self.open]
        return ids, []

    def due(self, watermark: float) -> list[tuple[int, Metadata]]:
        due = [n for n in self.open if min(self.span(n)[1], LATEST_US) <= watermark]
        self.open = [n for n in self.open if n not in due]
        return [(n, (shown(self.span(n)[0]), shown(self.span(n)[1]), frozenset())) for n in due]


@dataclass
class Sessions:
    """Values that are no further than a gap from some other one."""

    gap: timedelta
    times: dict[int, list[int]] = field(default_factory=dict)
    merged: dict[int, set[int]] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=itertools.count)

    def late_ids(self, at_us: int) -> list[int]:
        return [-1]

    def take(self, at_us: int) -> tuple[list[int], list[tuple[int, int]]]:
        near = [
            n
            for n, times in self.times.items()
            if any(abs(t - at_us) <= us(self.gap) for t in times)
        ]
        if not near:
            near = [next(self.ids)]
            self.times[near[0]], self.merged[near[0]] = [], set()
        target, *others = sorted(near, key=lambda n: min(self.times[n], default=0))
        self.times[target].append(at_us)
        for original in others:
            self.times[target] += self.times.pop(original)
            self.merged[target] |= {original} | self.merged.pop(original)
        return [target], [(original, target) for original in others]

    def due(self, watermark: float) -> list[tuple[int, Metadata]]:
        due = [
            n
            for n, times in self.times.items()
            if max(times) + us(self.gap) < watermark or watermark >= LATEST_US
        ]
        metadata = []
        for n in due:
            times = self.times.pop(n)
            span = shown(min(times)), shown(max(times))
            metadata.append((n, (*span, frozenset(self.merged.pop(n)))))
        return metadata


@dataclass(frozen=True)
class Event:
    """Something that happens to a window of a key."""

    kind: str
    """`late`, `value`, `merge` or `close`."""
    window_id: int
    detail: Any
    """The value; the id of the window merged away; the metadata."""


def events(
    batches: list[Batch], key: Any, clock: ClockModel, windows: WindowerModel, *, ordered: bool
) -> list[Event]:
    """All that happens to a key, in order. Timers go off at the times of batches."""
    happened: list[Event] = []
    waiting: list[tuple[int, Any]] = []
    closed: set[int] = set()
    known = False
    for b, batch in enumerate(batches):
        at_end = batch is END
        if not at_end and any(its_key == key for its_key, _ in batch.records):
            known = True
            happened += _arrive(batches, b, key, clock, windows, waiting, closed)
        if known:
            reached = math.inf if at_end else clock.reached(batches, b, key)
            happened += _advance(reached, waiting, windows, closed, ordered=ordered)
    return happened


def _arrive(
    batches: list[Batch],
    b: int,
    key: Any,
    clock: ClockModel,
    windows: Any,
    waiting: Any,
    closed: Any,
) -> Iterator[Event]:
    for i, (its_key, value) in enumerate(batches[b].records):
        if its_key != key:
            continue
        at_us, watermark = clock.judged(batches, b, i)
        is_late = at_us < watermark
        for n in windows.late_ids(at_us):
            if is_late or n in closed:
                yield Event("late", n, value)
        if not is_late:
            waiting.append((at_us, value))


def _advance(
    reached: float, waiting: Any, windows: Any, closed: Any, *, ordered: bool
) -> Iterator[Event]:
    ready = [each for each in waiting if not ordered or each[0] <= reached]
    waiting[:] = [each for each in waiting if ordered and each[0] > reached]
    if ordered:
        ready.sort(key=lambda each: each[0])
    merges = []
    for at_us, value in ready:
        ids, merged = windows.take(at_us)
        merges += merged
        yield from (Event("value", n, value) for n in ids if n not in closed)
    for original, target in merges:
        yield Event("merge", target, original)
    for n, metadata in windows.due(reached):
        if n not in closed:
            closed.add(n)
            yield Event("close", n, metadata)


@dataclass
class Expected:
    """What comes out for a key, in order: pairs of window id and value."""

    down: list[tuple[int, Any]] = field(default_factory=list)
    late: list[tuple[int, Any]] = field(default_factory=list)
    meta: list[tuple[int, Metadata]] = field(default_factory=list)


def expected(happened: Iterable[Event], make: Callable[[], Any]) -> Expected:
    """What comes out, where each window has an object with `value`, `merge` and `close`.

    The objects say what they emit; `value` is told the number of the value in the order in which
    values go into windows.
    """
    out = Expected()
    made: dict[int, Any] = {}
    for number, event in enumerate(happened):
        n = event.window_id
        if event.kind == "late":
            out.late.append((n, event.detail))
            continue
        model = made.setdefault(n, make())
        if event.kind == "value":
            emitted = model.value(number, event.detail)
        elif event.kind == "merge":
            emitted = model.merge(made.pop(event.detail))
        else:
            emitted = made.pop(n).close()
            out.meta.append((n, event.detail))
        out.down += [(n, each) for each in emitted]
    return out


class FoldModel:
    """A fold with a merger."""

    def __init__(self, state: Any, folder: Any, merger: Any) -> None:
        self.state, self.folder, self.merger = state, folder, merger

    def value(self, number: int, value: Any) -> list[Any]:
        self.state = self.folder(self.state, value)
        return []

    def merge(self, other: FoldModel) -> list[Any]:
        self.state = self.merger(self.state, other.state)
        return []

    def close(self) -> list[Any]:
        return [self.state]


class AllModel:
    """Something that is made of all values of a window at its end, in the order they went in."""

    def __init__(self, finish: Callable[[list[Any]], Any]) -> None:
        self.values: list[tuple[int, Any]] = []
        self.finish = finish

    def value(self, number: int, value: Any) -> list[Any]:
        self.values.append((number, value))
        return []

    def merge(self, other: AllModel) -> list[Any]:
        self.values += other.values
        return []

    def close(self) -> list[Any]:
        self.values.sort(key=lambda each: each[0])
        return [self.finish([value for _, value in self.values])]


class JoinModel:
    """A join: all values of each side since the window last was complete."""

    def __init__(self, sides: int, side_of: Any, insert: str, emit: str) -> None:
        self.sides, self.side_of, self.insert, self.emit = sides, side_of, insert, emit
        self.values: list[tuple[int, Any]] = []

    def value(self, number: int, value: Any) -> list[Any]:
        self.values.append((number, value))
        return self._changed()

    def merge(self, other: JoinModel) -> list[Any]:
        self.values = sorted(self.values + other.values, key=lambda each: each[0])
        return self._changed()

    def close(self) -> list[Any]:
        return self._rows() if self.emit == "final" else []

    def _kept(self, side: int) -> list[Any]:
        values = [value for _, value in self.values if self.side_of(value) == side]
        return {"first": values[:1], "last": values[-1:], "product": values}[self.insert]

    def _rows(self) -> list[Any]:
        return list(itertools.product(*[self._kept(side) or [None] for side in range(self.sides)]))

    def _changed(self) -> list[Any]:
        if self.emit == "running":
            return self._rows()
        if self.emit == "complete" and all(self._kept(side) for side in range(self.sides)):
            rows = self._rows()
            self.values.clear()
            return rows
        return []
