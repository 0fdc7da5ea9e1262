"""The kernel of `interval_join`: values of two sides of a key that lie near each other in time.

Each side of a key is a list of rows in the order of their times. A new value looks at that part of
the other side's list which it can meet, and goes into its own. Rows go from the front, once the
watermark says that whatever could meet them would be late.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from engine.operators._kernels import StepContext
from engine.operators._time_axis import END_US, NEVER_US, EventTimes, TimeAxis
from engine.operators._timed import Entry, TimedLogic
from engine.operators.windowing._clocked import ClockedKernel, insert, time_of
from engine.operators.windowing._engine_clocks import times_of_batch

IntervalJoinHow: TypeAlias = Literal["inner", "left", "right", "outer"]
"""Which values of an interval join come out that meet none of the other side."""

_PRESERVED: dict[IntervalJoinHow, tuple[bool, bool]] = {
    "inner": (False, False),
    "left": (True, False),
    "right": (False, True),
    "outer": (True, True),
}


_FEW: Final = 16
"""So many rows are looked at one by one."""
_MANY: Final = 1000
"""Of so many rows a few don't go from the front: all others would have to move up for them."""


@dataclass(frozen=True, slots=True)
class IntervalSpec:
    """Who meets whom: a value on the left those on the right of a span around its time."""

    before_us: int
    after_us: int
    how: IntervalJoinHow

    @property
    def reach_us(self) -> tuple[int, int]:
        """By side, how long after a value one may come that meets it."""
        return self.after_us, self.before_us

    @property
    def preserved(self) -> tuple[bool, bool]:
        """By side, whether values come out that meet none."""
        return _PRESERVED[self.how]


@dataclass(frozen=True, slots=True)
class IntervalJoinKernel(ClockedKernel):
    """An interval join; one where all that comes out are pairs has a faster loop."""

    spec: IntervalSpec

    def logic(
        self, step: StepContext, axis: TimeAxis, times: list[EventTimes | None]
    ) -> IntervalJoin:
        """Begin with no keys in memory."""
        kind = InnerIntervalJoin if self.spec.how == "inner" else IntervalJoin
        return kind(step, axis, times, self.spec)


class Meetings(Entry):
    """The values of a key that may still meet others."""

    __slots__ = ("left", "pairs", "right")

    def __init__(self) -> None:
        super().__init__()
        self.left: Any = None
        """Rows `(time, value, whether it has met another)`, in the order of their times.

        `InnerIntervalJoin` keeps one row by itself, without a list: of many keys these would be so
        much work for the garbage collector that it took a third of the time.
        """
        self.right: Any = None
        self.pairs: list[tuple[Any, Any]] | None = None
        """What has met, and wasn't emitted yet."""

    def add(self, port: int, row: Any) -> None:
        """Put a row where it belongs."""
        rows = self.left if port == 0 else self.right
        if rows is not None:
            insert(rows, row[0], row)
        elif port == 0:
            self.left = [row]
        else:
            self.right = [row]


class IntervalJoin(TimedLogic[Meetings]):
    """An interval join of any kind."""

    # What an end of input emitted is gone; the rest may meet what comes after it.
    seals_at_end = False

    def __init__(
        self,
        step: StepContext,
        axis: TimeAxis,
        times: list[EventTimes | None],
        spec: IntervalSpec,
    ) -> None:
        super().__init__(step, axis, times)
        self._reach_us = spec.reach_us
        self._preserved = spec.preserved
        (self._late,) = step.asides

    def begin(self) -> Meetings:
        return Meetings()

    def take(self, key: Any, entry: Meetings, port: int, at_us: int, value: Any) -> None:  # noqa: ARG002
        other = entry.right if port == 0 else entry.left
        row = [at_us, value, False]
        if other:
            if entry.pairs is None:
                entry.pairs = []
            first_us, last_us = at_us - self._reach_us[1 - port], at_us + self._reach_us[port]
            for met in _between(other, first_us, last_us):
                row[2] = met[2] = True
                entry.pairs.append((value, met[1]) if port == 0 else (met[1], value))
        entry.add(port, row)

    def refuse(self, key: Any, entry: Meetings, port: int, at_us: int, value: Any) -> None:  # noqa: ARG002
        if self._late is not None:
            self._late.append((key, value))

    def settle(self, key: Any, entry: Meetings, watermark_us: int, out: list[Any]) -> None:
        if entry.pairs:
            out.extend([(key, pair) for pair in entry.pairs])
            entry.pairs.clear()
        left_us, right_us = self._reach_us
        gone: list[tuple[int, Any]] = []
        if watermark_us == END_US:
            entry.left = self._flushed(entry.left, 0, gone)
            entry.right = self._flushed(entry.right, 1, gone)
        else:
            self._expire(entry.left, 0, watermark_us - left_us, gone)
            self._expire(entry.right, 1, watermark_us - right_us, gone)
        # In the order in which the watermark passes what could meet them.
        gone.sort(key=time_of)
        out.extend([(key, alone) for _, alone in gone])

    def _flushed(
        self, rows: list[Any] | None, port: int, gone: list[tuple[int, Any]]
    ) -> list[Any] | None:
        """Emit what has met none; gives what stays."""
        if not rows or not self._preserved[port]:
            return rows
        gone.extend(self._alone(rows, port))
        return [row for row in rows if row[2]]

    def _expire(
        self, rows: list[Any] | None, port: int, until_us: int, gone: list[tuple[int, Any]]
    ) -> None:
        """Drop rows of before a time, and emit those that have met none."""
        if not rows or rows[0][0] >= until_us:
            return
        count = bisect_left(rows, until_us, key=time_of)
        if self._preserved[port]:
            gone.extend(self._alone(rows[:count], port))
        del rows[:count]

    def _alone(self, rows: list[Any], port: int) -> list[tuple[int, Any]]:
        """What comes out of rows that have met none, each with the time until which it waits."""
        reach_us = self._reach_us[port]
        return [
            (at_us + reach_us, (value, None) if port == 0 else (None, value))
            for at_us, value, met in rows
            if not met
        ]

    def due_us(self, entry: Meetings) -> int | None:
        if entry.pairs:
            return NEVER_US
        left_us, right_us = self._reach_us
        due_us = entry.left[0][0] + left_us if entry.left else END_US
        if entry.right and entry.right[0][0] + right_us < due_us:
            due_us = entry.right[0][0] + right_us
        # What comes right then isn't late.
        return None if due_us == END_US else due_us + 1

    def to_stored(self, entry: Meetings) -> Any:
        return [entry.left or [], entry.right or []]

    def from_stored(self, stored: Any) -> Meetings:
        entry = Meetings()
        entry.left, entry.right = ([list(row) for row in rows] for rows in stored)
        return entry


class InnerIntervalJoin(IntervalJoin):
    """An interval join that emits pairs only: at once, so that no key has to be settled in time.

    Rows that have expired go when the next value of their key comes. If none does, a timer rings
    when all of the key's rows have.
    """

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: C901, PLR0912 - one pass
        axis, state, reading = self.axis, self._state, self._times[port]
        axis.sample()
        now_us, by_key, is_left = axis.now_us, axis.by_key, port == 0
        wait_us = 0 if reading is None else reading.wait_us
        times_us = times_of_batch(batch, reading, now_us)
        reach_us, other_reach_us = self._reach_us[port], self._reach_us[1 - port]
        touched, rest_pop, miss = state.touched, state.rest.pop, state.miss
        known = touched.get
        out: list[Any] = []
        for (its_key, new), at_us in zip(batch, times_us, strict=True):
            entry = known(its_key)
            if entry is None:
                entry = rest_pop(its_key, None) or miss(its_key) or self._begin(its_key)
                touched[its_key] = entry
            own, other = (entry.left, entry.right) if is_left else (entry.right, entry.left)
            watermark_us = entry.offset_us + now_us
            if by_key and at_us - wait_us > watermark_us:
                watermark_us = at_us - wait_us
                entry.offset_us = watermark_us - now_us
            elif at_us < watermark_us:
                self.refuse(its_key, entry, port, at_us, new)
                if not own and not other:
                    self._put_away(its_key, entry)
                continue
            if not own and not other:
                self._idle.pop(its_key, None)
                self._wake_at(its_key, entry, at_us + reach_us + 1)
            row = (at_us, new, True)
            if own:
                if own.__class__ is tuple:
                    own = _unfolded(entry, port)
                if own[0][0] < watermark_us - reach_us:
                    _drop(own, watermark_us - reach_us)
                insert(own, at_us, row)
            elif is_left:
                entry.left = row
            else:
                entry.right = row
            if other:
                if other.__class__ is tuple:
                    other = [other]
                elif other[0][0] < watermark_us - other_reach_us:
                    _drop(other, watermark_us - other_reach_us)
                first_us, last_us = at_us - other_reach_us, at_us + reach_us
                for met in other if len(other) <= _FEW else _between(other, first_us, last_us):
                    if first_us <= met[0] <= last_us:
                        pair = (new, met[1]) if is_left else (met[1], new)
                        out.append((its_key, pair))
        self.batch_latest_us = max(times_us, default=None)
        return out

    def on_eof(self) -> list[Any]:
        # Nobody comes out alone, and the rest waits for values of a later run.
        return []

    def due_us(self, entry: Meetings) -> int | None:
        # When all of it has expired: what comes before sees to the rest.
        sides = enumerate((_unfolded(entry, 0), _unfolded(entry, 1)))
        last_us = [rows[-1][0] + self._reach_us[port] for port, rows in sides if rows]
        return max(last_us) + 1 if last_us else None

    def to_stored(self, entry: Meetings) -> Any:
        return [_unfolded(entry, 0) or [], _unfolded(entry, 1) or []]


def _unfolded(entry: Meetings, port: int) -> Any:
    """The rows of one side as a list."""
    rows = entry.left if port == 0 else entry.right
    if rows.__class__ is not tuple:
        return rows
    if port == 0:
        entry.left = [rows]
        return entry.left
    entry.right = [rows]
    return entry.right


def _drop(rows: list[Any], until_us: int) -> None:
    """Drop the rows of before a time."""
    if len(rows) < _MANY or rows[len(rows) // 8][0] < until_us:
        del rows[: bisect_left(rows, until_us, key=time_of)]


def _between(rows: list[Any], first_us: int, last_us: int) -> list[Any]:
    """The rows of between two times, these included."""
    first = bisect_left(rows, first_us, key=time_of)
    return rows[first : bisect_right(rows, last_us, first, key=time_of)]
