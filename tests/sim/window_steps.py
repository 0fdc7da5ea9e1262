"""Steps with windows, joins in time and their like, and what each must give, computed by hand.

Nothing is ever late: event time goes much faster than the wall clock, and clocks wait long enough
for what is out of order. So what a step gives for a key is certain, whenever its windows close.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import engine.operators as op
import engine.operators.windowing as win
from engine.dataflow import Stream

START = datetime(2024, 1, 1, tzinfo=UTC)
STEP_S = 20
"""Between two records of a partition, on average."""
DISORDER_S = 30
STEPS_MAX = 3
WAIT = timedelta(seconds=200)
"""What a clock waits: the disorder, and all the wall time that a job of the simulator takes."""
WAIT_FOR_SIDES = timedelta(seconds=1500)
"""The same where two sides have one clock, of which one may be far ahead."""

Row = tuple[Any, ...]
Times = dict[int, datetime]
"""When each value happened."""


def us(at: datetime) -> int:
    """Since the start, in microseconds."""
    return (at - START) // timedelta(microseconds=1)


@dataclass
class Window:
    """A window of one key, and its values in the order in which they count."""

    number: int
    open_us: int
    close_us: int
    values: list[int] = field(default_factory=list[int])
    merged: set[int] = field(default_factory=set[int])
    entered: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """The values, each with the id of the window that it went into, which may have merged since."""


@dataclass(frozen=True)
class Windows:
    """Which windows there are: the engine's windower, and the same by hand."""

    windower: win.Windower[Any]
    sessions: bool = False

    def of(self, values: Sequence[int], times: Times) -> list[Window]:
        """The windows of a key whose values are taken in this order, in order of their ids."""
        found = self._sessions(values, times) if self.sessions else self._aligned(values, times)
        return [found[number] for number in sorted(found)]

    def _aligned(self, values: Sequence[int], times: Times) -> dict[int, Window]:
        windower: Any = self.windower
        length = windower.length
        offset = windower.offset if isinstance(windower, win.SlidingWindower) else length
        found: dict[int, Window] = {}
        for value in values:
            since = times[value] - windower.align_to
            number = since // offset
            while number * offset + length > since:
                first = windower.align_to + number * offset
                window = found.setdefault(number, Window(number, us(first), us(first + length)))
                window.values.append(value)
                window.entered.append((window.number, value))
                number -= 1
        return found

    def _sessions(self, values: Sequence[int], times: Times) -> dict[int, Window]:
        gap_us = self.windower.gap // timedelta(microseconds=1)  # type: ignore[attr-defined] # it is a session windower
        found: dict[int, Window] = {}
        opened = 0
        for value in values:
            at_us = us(times[value])
            near = [w for w in found.values() if w.open_us - gap_us <= at_us <= w.close_us + gap_us]
            if not near:
                entered = [(opened, value)]
                found[opened] = Window(opened, at_us, at_us, [value], entered=entered)
                opened += 1
                continue
            into, *others = sorted(near, key=lambda window: window.open_us)
            for other in others:
                del found[other.number]
                into.values += other.values
                into.entered += other.entered
                into.close_us = max(into.close_us, other.close_us)
                into.merged |= {other.number, *other.merged}
            into.values.append(value)
            into.entered.append((into.number, value))
            into.open_us, into.close_us = min(into.open_us, at_us), max(into.close_us, at_us)
        return found


class Step:
    """One step of the job. What comes out are rows `(what, ...)` by key.

    Args:
        step_id: Its name.
        rng: Draws how it is set.
        times: When values happened.
    """

    in_order = False
    """Whether what it gives for a key has a certain order."""
    scope: Any = "key"
    """That of its clock. Where it is "stream", the wall clock closes nothing."""

    def __init__(self, step_id: str, rng: Random, times: Times) -> None:
        self.step_id = step_id
        self.times = times
        self.draw(rng)

    def draw(self, rng: Random) -> None:
        """Draw how it is set."""
        self.scope = rng.choice(("key", "key", "stream"))

    def clock(self, wait: timedelta) -> win.EventClock[Any]:
        """A clock that waits so long."""
        never = timedelta(days=99)
        return win.EventClock(self.time_of, wait, scope=self.scope, idle_after=never)

    def add(self, s: Stream[Any]) -> list[Stream[Any]]:
        """Add it to a flow."""
        raise NotImplementedError

    def wanted(self, values: list[int]) -> list[Row]:
        """All that it gives for a key that has these values, as they come."""
        raise NotImplementedError

    def by_time(self, values: Iterable[int]) -> list[int]:
        return sorted(values, key=self.times.__getitem__)

    def time_of(self, value: Any) -> datetime:
        """The getter of clocks."""
        return self.times[abs(value)]

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.step_id}"


class WindowStep(Step):
    """One of the operators with windows, of one stream."""

    def draw(self, rng: Random) -> None:
        super().draw(rng)
        self._how = rng.choice(sorted(_WINDOWED))
        self._windows = draw_windows(rng)
        # The others don't say.
        self._ordered = self._how in ("fold", "collect", "window") and rng.random() < 0.6
        # The order in which a user's own object gets values is that of the batches they come in.
        self.in_order = self._ordered
        self._emits = self._draw_emits(rng)
        aligned = not self._windows.sessions and self._how in ("fold", "reduce", "count")
        self.paned = aligned and not self._emits
        # Not drawn, so that seeds mean the jobs that they meant before.
        self._shares = self.times[1].second % 3 > 0

    def _draw_emits(self, rng: Random) -> dict[str, Any]:
        """Options of the operators that fold: emissions besides those at the close."""
        if self._how == "window" or rng.random() < 0.6:
            return {}
        if self._windows.sessions and not self._ordered:
            # When sessions become one depends on what comes in one batch, and so does what counts.
            return {"allowed_lateness": WAIT}
        return rng.choice(
            (
                {"allowed_lateness": WAIT},
                {"trigger": win.OnUpdate()},
                {"trigger": win.OnCount(2)},
                {"trigger": win.OnCount(3), "allowed_lateness": WAIT},
            )
        )

    def __str__(self) -> str:
        told = f"ordered={self._ordered}, share_panes={self._shares}, scope={self.scope}"
        return f"{self._how}({self._windows.windower}, {told}, {self._emits})"

    def add(self, s: Stream[Any]) -> list[Stream[Any]]:
        clock = self.clock(WAIT)
        out = _WINDOWED[self._how](self, s, clock)
        return [
            op.map_value(f"{self.step_id}-down", out.down, self._down),
            op.map_value(f"{self.step_id}-late", out.late, lambda pair: ("late", *pair)),
            op.map_value(f"{self.step_id}-meta", out.meta, _meta),
        ]

    def fold(self, s: Stream[Any], clock: Any) -> win.WindowOut[Any, Any]:
        windower, ordered = self._windows.windower, self._ordered
        out: Any = win.fold_window(
            *(self.step_id, s, clock, windower, list, _with_one, _extended, ordered),
            share_panes=self._shares,
            **self._emits,
        )
        return out

    def reduce(self, s: Stream[Any], clock: Any) -> win.WindowOut[Any, Any]:
        # A list with the value in place of the value, so that all of them are seen in the end.
        lists = op.map_value(f"{self.step_id}-listed", s, lambda v: [v])
        clock = replace(clock, ts_getter=lambda values: self.time_of(values[-1]))
        windower = self._windows.windower
        out: Any = win.reduce_window(
            *(self.step_id, lists, clock, windower, _joined),
            share_panes=self._shares,
            **self._emits,
        )
        return out

    def count(self, s: Stream[Any], clock: Any) -> win.WindowOut[Any, Any]:
        clock, windower = (
            replace(clock, ts_getter=lambda pair: self.time_of(pair[1])),
            self._windows.windower,
        )
        out: Any = win.count_window(
            self.step_id, s, clock, windower, lambda pair: pair[0], **self._emits
        )
        return out

    def collect(self, s: Stream[Any], clock: Any) -> win.WindowOut[Any, Any]:
        windower, ordered = self._windows.windower, self._ordered
        out: Any = win.collect_window(
            self.step_id, s, clock, windower, list, ordered, **self._emits
        )
        return out

    def window(self, s: Stream[Any], clock: Any) -> win.WindowOut[Any, Any]:
        windower, ordered = self._windows.windower, self._ordered
        return win.window(self.step_id, s, clock, windower, Telling, ordered)

    def _down(self, pair: tuple[int, Any]) -> Row:
        number, given = pair
        if isinstance(given, win.Emission):
            if given.cause != "close":
                return "more", number, given.cause
            given = given.value
        if isinstance(given, list) and not self._ordered and self._how != "collect":
            # Where sessions become one, values of the same batch come before those of the other.
            given = sorted(given)
        return "down", number, given

    def wanted(self, values: list[int]) -> list[Row]:
        taken = self.by_time(values) if self._ordered else values
        rows: list[Row] = []
        for window in self._windows.of(taken, self.times):
            merged = sorted(window.merged)
            given: Any = window.values
            if self._how == "count":
                given = len(given)
            elif not self._ordered:
                given = sorted(given, key=values.index if self._how == "collect" else None)
            if self._how == "window":
                rows += [("down", number, [value]) for number, value in window.entered]
            trigger = self._emits.get("trigger")
            if isinstance(trigger, win.OnUpdate):
                rows += [("more", window.number, "update")] * len(window.values)
            elif trigger is not None:
                times = len(window.values) // trigger.count
                rows += [("more", window.number, "count")] * times
            rows.append(("down", window.number, given))
            rows.append(("meta", window.number, window.open_us, window.close_us, merged))
        return rows


class Telling(win.WindowLogic[int, list[int], list[int]]):
    """Gives each value in a list as it comes, and all of them at the end."""

    def __init__(self, resume: list[int] | None) -> None:
        self._values = [*(resume or ())]

    def on_value(self, value: int) -> list[list[int]]:
        self._values.append(value)
        return [[value]]

    def on_merge(self, original: Telling) -> list[list[int]]:
        self._values += original._values
        return []

    def on_close(self) -> list[list[int]]:
        return [self._values]

    def snapshot(self) -> list[int]:
        return [*self._values]


_WINDOWED: dict[str, Callable[[Any, Stream[Any], Any], win.WindowOut[Any, Any]]] = {
    "fold": WindowStep.fold,
    "reduce": WindowStep.reduce,
    "count": WindowStep.count,
    "collect": WindowStep.collect,
    "window": WindowStep.window,
}


class JoinStep(Step):
    """Something that joins two sides; on the right each value is its opposite."""

    def draw(self, rng: Random) -> None:
        super().draw(rng)
        self._how = rng.choice(("join_window", "interval_join", "as_of_join"))
        self._windows = draw_windows(rng)
        self._span = timedelta(seconds=rng.choice((30, 100, 400)))
        self.in_order = self._how == "as_of_join"
        self.times = {**self.times}
        for value in list(self.times):
            # Never at the same time as one on the left.
            self.times[-value] = self.times[value] + timedelta(
                seconds=rng.randint(-80, 80), microseconds=1
            )

    def __str__(self) -> str:
        return f"{self._how}({self._windows.windower}, {self._span}, scope={self.scope})"

    def time_of(self, value: Any) -> datetime:
        return self.times[value]

    def add(self, s: Stream[Any]) -> list[Stream[Any]]:
        clock = self.clock(WAIT_FOR_SIDES)
        left = op.filter_value(f"{self.step_id}-left", s, _is_left)
        right = op.filter_value(f"{self.step_id}-right", s, _is_right)
        right = op.map_value(f"{self.step_id}-opposite", right, lambda value: -value)
        step_id, span = self.step_id, self._span
        out: Any
        if self._how == "join_window":
            windower = self._windows.windower
            out = win.join_window(step_id, clock, windower, left, right, insert_mode="product")
        elif self._how == "interval_join":
            out = win.interval_join(step_id, clock, left, right, span, span / 2, how="outer")
        else:
            out = win.as_of_join(step_id, clock, left, right, tolerance=span)
        shown = op.map_value(f"{step_id}-down", out.down, self._down)
        return [shown, op.map_value(f"{step_id}-late", out.late, lambda late: ("late", late))]

    def _down(self, given: Any) -> Row:
        return ("down", *given)

    def wanted(self, values: list[int]) -> list[Row]:
        left = [value for value in values if _is_left(value)]
        right = [-value for value in values if _is_right(value)]
        pairs = getattr(self, f"_{self._how}")(left, right)
        return [("down", *pair) for pair in pairs]

    def _join_window(self, left: list[int], right: list[int]) -> list[Row]:
        rows: list[Row] = []
        for window in self._windows.of(self.by_time([*left, *right]), self.times):
            lefts = [value for value in window.values if value in left] or [None]
            rights = [value for value in window.values if value in right] or [None]
            rows += [(window.number, (one, other)) for one in lefts for other in rights]
        return rows

    def _interval_join(self, left: list[int], right: list[int]) -> list[Row]:
        times, span = self.times, self._span
        pairs: list[Row] = [
            (one, other)
            for one in left
            for other in right
            if -span <= times[other] - times[one] <= span / 2
        ]
        met = {value for pair in pairs for value in pair}
        pairs += [(one, None) for one in left if one not in met]
        return [*pairs, *((None, other) for other in right if other not in met)]

    def _as_of_join(self, left: list[int], right: list[int]) -> list[Row]:
        times, rows = self.times, list[Row]()
        for one in self.by_time(left):
            first = times[one] - self._span
            near = [other for other in self.by_time(right) if first <= times[other] <= times[one]]
            rows.append((one, near[-1] if near else None))
        return rows


class OrderStep(Step):
    """Values in the order of their times."""

    in_order = True

    def add(self, s: Stream[Any]) -> list[Stream[Any]]:
        out = win.order_by_time(self.step_id, s, self.clock(WAIT))
        shown = op.map_value(f"{self.step_id}-down", out.down, lambda value: ("down", value))
        return [shown, op.map_value(f"{self.step_id}-late", out.late, lambda late: ("late", late))]

    def wanted(self, values: list[int]) -> list[Row]:
        return [("down", value) for value in self.by_time(values)]


class RollingStep(Step):
    """An aggregate over the last values."""

    in_order = True

    def draw(self, rng: Random) -> None:
        self._size = rng.choice((1, 3, 5))
        self._how = rng.choice(("sum", "max", "min", "count"))

    def add(self, s: Stream[Any]) -> list[Stream[Any]]:
        rolled = op.rolling(self.step_id, s, self._size, self._how)  # type: ignore[call-overload] # one of them
        return [op.map_value(f"{self.step_id}-down", rolled, lambda value: ("down", value))]

    def wanted(self, values: list[int]) -> list[Row]:
        of = {"sum": sum, "max": max, "min": min, "count": len}[self._how]
        ends = range(1, len(values) + 1)
        return [("down", of(values[max(0, end - self._size) : end])) for end in ends]  # type: ignore[operator] # they take lists


class DedupeStep(Step):
    """The first of several records that are the same."""

    def draw(self, rng: Random) -> None:
        self._each = rng.choice((2, 3))

    def add(self, s: Stream[Any]) -> list[Stream[Any]]:
        each = self._each
        first = op.dedupe(
            self.step_id, s, lambda pair: (pair[0], pair[1] % each), timedelta(days=9)
        )
        return [op.map_value(f"{self.step_id}-down", first, lambda value: ("down", value))]

    def wanted(self, values: list[int]) -> list[Row]:
        first: dict[int, int] = {}
        for value in values:
            first.setdefault(value % self._each, value)
        return [("down", value) for value in first.values()]


class TableStep(Step):
    """Values with the row that a table has; what it has at that moment is checked apart."""

    in_order = True

    def add(self, s: Stream[Any]) -> list[Stream[Any]]:
        left = op.filter_value(f"{self.step_id}-left", s, _is_left)
        right = op.filter_value(f"{self.step_id}-right", s, _is_right)
        joined = op.table_join(self.step_id, left, right, "left")
        counted = op.stateful_map(f"{self.step_id}-forward", joined, _row_or_back)
        return [op.map_value(f"{self.step_id}-down", counted, lambda value: ("down", value))]

    def wanted(self, values: list[int]) -> list[Row]:
        return [("down", value) for value in values if _is_left(value)]


def _row_or_back(last: int | None, pair: tuple[int, int | None]) -> tuple[int, int | str]:
    """The value, unless the table has an older row than it had before."""
    value, row = pair
    return row or 0, value if (row or 0) >= (last or 0) else f"{value} met {row} after {last}"


def _is_left(value: int) -> bool:
    return value % 5 < 3


def _is_right(value: int) -> bool:
    return value % 5 >= 2


def _with_one(all_: list[int], value: int) -> list[int]:
    return [*all_, value]


def _extended(one: list[int], other: list[int]) -> list[int]:
    # In place, so that it shows if what windows share is given as the first.
    one += other
    return one


def _joined(one: list[int], other: list[int]) -> list[int]:
    return [*one, *other]


def _meta(pair: tuple[int, win.WindowMetadata]) -> Row:
    number, meta = pair
    return "meta", number, us(meta.open_time), us(meta.close_time), sorted(meta.merged_ids)


def draw_windows(rng: Random) -> Windows:
    """Windows of any kind, some of them empty, some with gaps between."""
    kind = rng.choice(("tumbling", "sliding", "sliding", "session"))
    if kind == "session":
        gap = timedelta(seconds=rng.choice((0, 40, 140)))
        return Windows(win.SessionWindower(gap), sessions=True)
    align_to = START + timedelta(seconds=rng.randint(-2000, 2000))
    length = timedelta(seconds=rng.choice((60, 200, 500)))
    if kind == "tumbling":
        return Windows(win.TumblingWindower(length, align_to))
    offset = timedelta(seconds=rng.choice((40, 60, 140)))
    return Windows(win.SlidingWindower(length, min(offset, length), align_to))


_KINDS: tuple[type[Step], ...] = (
    *(WindowStep, WindowStep, WindowStep, WindowStep, JoinStep, JoinStep),
    *(OrderStep, RollingStep, DedupeStep, TableStep),
)


def draw_steps(rng: Random, times: Times) -> list[Step]:
    """Some steps of any kind."""
    kinds = [rng.choice(_KINDS) for _ in range(rng.randint(1, STEPS_MAX))]
    return [kind(f"step{n}", rng, times) for n, kind in enumerate(kinds)]
