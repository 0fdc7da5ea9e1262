"""Two of the steps of a job with bad records: windows, and objects with a time to live.

Their functions change what they are given in place before they raise.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import engine.operators as op
import engine.operators.windowing as win
from engine.dataflow import Stream
from tests.sim.crash_job import KEYS, TTL_S, time_s

IsBad = Callable[[int], bool]
_START = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(value: int) -> datetime:
    return datetime.fromtimestamp(time_s(value), UTC)


class WindowsOfJob:
    """Windows that are drawn by a seed."""

    def __init__(self, rng: Random) -> None:
        self._ordered = rng.random() < 0.5
        self._scope: Any = rng.choice(("key", "stream"))
        self._wait = timedelta(seconds=rng.choice((0, 3, 10_000)))
        length, kind = timedelta(seconds=8), rng.choice(("tumbling", "sliding", "sessions"))
        self._windower: win.Windower[Any]
        self.times = 1
        """How many windows each value is in."""
        if kind == "tumbling":
            self._windower = win.TumblingWindower(length, _START)
        elif kind == "sliding":
            self._windower, self.times = win.SlidingWindower(2 * length, length, _START), 2
        else:
            self._windower = win.SessionWindower(length)
        self._share = rng.random() < 0.5

    def add(self, s: Stream[Any], is_bad: IsBad) -> Stream[Any]:
        """What comes out of the windows, and what is late for them, as lists of values.

        Some bad values have no time, the others can't be folded.
        """

        def time_or_raise(value: int) -> datetime:
            if value % 5 == 0 and is_bad(value):
                raise ValueError(value)
            return time_of(value)

        def fold(values: list[int], value: int) -> list[int]:
            values.append(value)
            if is_bad(value):
                raise ValueError(value)
            return values

        clock = win.EventClock(time_or_raise, self._wait, scope=self._scope)
        out = win.fold_window(
            *("window", s, clock, self._windower, list[int], fold, _joined, self._ordered),
            share_panes=self._share,
        )
        late = op.map_value("late-value", out.late, lambda pair: ("late", [pair[1]]))
        down = op.map_value("closed", out.down, lambda pair: ("window", pair[1]))
        return op.merge("windowed", down, late)


def _joined(one: list[int], other: list[int]) -> list[int]:
    return [*one, *other]


def recent_s(value: int) -> float:
    """When a value came, for objects with a time to live: one key is never silent for long."""
    return time_s(value) if value % KEYS else value


def _recent_time(value: int) -> datetime:
    return datetime.fromtimestamp(recent_s(value), UTC)


def counted(values: list[int]) -> list[tuple[int, int]]:
    """What comes out for the values of a key."""
    rows: list[tuple[int, int]] = []
    for value, before in zip(values, [None, *values], strict=False):
        silent = before is None or recent_s(value) - recent_s(before) >= TTL_S
        rows.append((1 if silent else rows[-1][0] + 1, value))
    return rows


def recent(s: Stream[Any], is_bad: IsBad) -> Stream[Any]:
    """Each value with how many there were, until their key has been silent for long."""

    class Recent(op.StatefulLogic[int, Any, list[int]]):
        def __init__(self, resume: list[int] | None) -> None:
            self._values = resume or []

        def on_item(self, value: int) -> tuple[list[Any], bool]:
            self._values.append(value)
            if is_bad(value):
                raise ValueError(value)
            return [("recent", (len(self._values), value))], self.RETAIN

        def snapshot(self) -> list[int]:
            return self._values

    # So late may a record be, as partitions are read side by side.
    ttl = op.TTL(timedelta(seconds=TTL_S), event_time=_recent_time, lateness=timedelta(days=1))
    return op.stateful("recent", s, Recent, ttl=ttl)
