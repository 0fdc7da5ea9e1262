"""The windows of one key at work: clock, windower, logics, and the values that wait.

`window` composes its step of `stateful_batch` and this object. It works with any clock, windower
and logic. What it emits is tagged by the stream that it is for.

Of a batch first all values are judged: those that are late are given back, the others queue. Then
values whose time has come go into their windows, then windows merge, then windows close.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, cast

from engine.clock import utc_now
from engine.errors import UserCodeError
from engine.operators._event_time import UTC_MIN
from engine.operators._shown import shown
from engine.operators._stateful_batch import StatefulBatchLogic
from engine.operators._timed import OWN, other_kind
from engine.operators.windowing._clocks import Clock
from engine.operators.windowing._logic import (
    WindowLogic,
    built_logic,
    checked_emits,
    number_value,
)
from engine.operators.windowing._windowers import Windower

DOWN: Final = 0
LATE: Final = 1
META: Final = 2

Tagged: TypeAlias = tuple[int, tuple[int, Any]]
"""The stream that something is for, and what is emitted: a window id with a value or metadata."""

REMEMBERED_FOR: Final = timedelta(hours=1)
"""How long a key without open windows keeps its clock, so that no closed window opens again."""

_PAUSE: Final = timedelta(seconds=1)
"""How long to wait where a clock gave a time at which its watermark had not come after all."""


@dataclass(frozen=True, slots=True)
class WindowStep:
    """What the user said about the step."""

    clock: Clock[Any, Any]
    windower: Windower[Any]
    builder: Callable[[Any], WindowLogic[Any, Any, Any]]
    ordered: bool


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is saved of a key."""

    clock: Any
    windower: Any
    logics: tuple[tuple[int, Any], ...]
    """Open windows: id and snapshot, in the order in which they were opened."""
    waiting: tuple[tuple[datetime, int, Any], ...]
    """Values whose time has not come, as a heap: time, number, value. Numbers differ."""
    closed: tuple[tuple[int, datetime], ...]
    """Windows that closed before the watermark had reached their ends, with these."""
    watermark: datetime
    numbered: int
    touched_at: datetime
    began_at: datetime
    """When the run began in which it was saved."""


class KeyWindows(StatefulBatchLogic[Any, Tagged, KeyState]):
    """All windows of one key.

    Args:
        step: What the user said.
        began_at: When this run began, by the wall clock.
        resume: What was saved of the key, or None.
    """

    __slots__ = (
        "_began_at",
        "_clock",
        "_closed",
        "_logics",
        "_notified_at",
        "_numbered",
        "_step",
        "_touched_at",
        "_waiting",
        "_watermark",
        "_windower",
    )

    def __init__(self, step: WindowStep, began_at: datetime, resume: KeyState | None) -> None:
        self._step = step
        self._began_at = began_at
        self._notified_at: datetime | None = None
        self._logics: dict[int, Any] = {}
        if resume is None:
            self._clock = step.clock.build(None)
            self._windower = step.windower.build(None)
            self._waiting: list[tuple[datetime, int, Any]] = []
            self._closed: dict[int, datetime] = {}
            self._watermark, self._numbered, self._touched_at = UTC_MIN, 0, began_at
            return
        if not isinstance(resume, KeyState):
            # Of the kernel that the engine's own clocks and windowers have.
            raise other_kind(None, "the engine's clocks and windowers", OWN)
        self._clock = step.clock.build(resume.clock)
        if resume.began_at != began_at:
            self._clock.after_outage()
        self._windower = step.windower.build(resume.windower)
        for number, saved in resume.logics:
            self._logics[number] = self._built(saved)
        self._waiting = list(resume.waiting)
        self._closed = dict(resume.closed)
        self._watermark, self._numbered = resume.watermark, resume.numbered
        # While the job was down no value could come.
        self._touched_at = max(resume.touched_at, began_at)

    def on_batch(self, values: list[Any]) -> tuple[Sequence[Tagged], bool]:
        out: list[Tagged] = []
        self._clock.before_batch()
        for value in values:
            self._judge(value, out)
        self._touched_at = utc_now()
        self._advance(self._watermark, out)
        return out, self.RETAIN

    def _judge(self, value: Any, out: list[Tagged]) -> None:
        """Ask the clock about a value, which is late or queues."""
        at, watermark = self._judged(self._clock.on_item(value))
        self._watermark = max(self._watermark, watermark)
        if at < self._watermark:
            out.extend((LATE, (n, value)) for n in self._windower.late_for(at))
            return
        if self._closed:
            refused = [n for n in self._windower.late_for(at) if n in self._closed]
            out.extend((LATE, (n, value)) for n in refused)
        heapq.heappush(self._waiting, (at, self._next_number(), value))

    def on_notify(self) -> tuple[Sequence[Tagged], bool]:
        out: list[Tagged] = []
        self._watermark = max(self._watermark, self._aware(self._clock.on_notify(), "on_notify"))
        self._advance(self._watermark, out)
        now = self._notified_at = utc_now()
        if out:
            self._touched_at = now
        return out, self._is_idle() and self._forgotten_at() <= now

    def on_eof(self) -> tuple[Sequence[Tagged], bool]:
        out: list[Tagged] = []
        # How far time has got is not changed by the end: the next run goes on from there.
        self._advance(max(self._watermark, self._aware(self._clock.on_eof(), "on_eof")), out)
        return out, self.RETAIN

    def notify_at(self) -> datetime | None:
        if self._is_idle():
            return self._forgotten_at()
        wanted = [self._windower.notify_at()]
        if self._waiting:
            wanted.append(self._waiting[0][0])
        first = min((at for at in wanted if at is not None), default=None)
        due = None if first is None else self._clock.to_system_utc(first)
        if due is None or self._notified_at is None or due > self._notified_at:
            return due
        return self._notified_at + _PAUSE

    def snapshot(self) -> KeyState:
        return KeyState(
            self._clock.snapshot(),
            self._windower.snapshot(),
            tuple((number, logic.snapshot()) for number, logic in self._logics.items()),
            tuple(self._waiting),
            tuple(self._closed.items()),
            self._watermark,
            self._numbered,
            self._touched_at,
            self._began_at,
        )

    def _is_idle(self) -> bool:
        return not self._logics and not self._waiting and self._windower.is_empty()

    def _forgotten_at(self) -> datetime:
        """When an idle key goes: not while windows that an end of input closed could open again."""
        at = self._touched_at + REMEMBERED_FOR
        passed = self._clock.to_system_utc(max(self._closed.values())) if self._closed else None
        return at if passed is None else max(at, passed)

    def _advance(self, watermark: datetime, out: list[Tagged]) -> None:
        """Do all that is due at a watermark."""
        for at, value in self._due(watermark):
            self._insert(at, value, out)
        self._merge(out)
        self._close(watermark, out)

    def _due(self, watermark: datetime) -> list[tuple[datetime, Any]]:
        """Take the values that go into their windows now, in the order in which they go."""
        waiting = self._waiting
        if not self._step.ordered:
            as_they_came = [(at, value) for at, _, value in sorted(waiting, key=_number)]
            waiting.clear()
            return as_they_came
        due: list[tuple[datetime, Any]] = []
        while waiting and waiting[0][0] <= watermark:
            at, _, value = heapq.heappop(waiting)
            due.append((at, value))
        return due

    def _insert(self, at: datetime, value: Any, out: list[Tagged]) -> None:
        place = self._next_number()
        for window_id in self._windower.open_for(at):
            # The value came out as late for those that are closed.
            if window_id not in self._closed:
                self._give(window_id, place, value, out)

    def _give(self, window_id: int, place: int, value: Any, out: list[Tagged]) -> None:
        """Give a value to a window."""
        logic = self._logics.get(window_id)
        if logic is None:
            logic = self._logics[window_id] = self._built(None)
        number_value(logic, place)
        self._emit(window_id, logic, "on_value", logic.on_value(value), out)

    def _next_number(self) -> int:
        self._numbered += 1
        return self._numbered

    def _merge(self, out: list[Tagged]) -> None:
        for original_id, target_id in self._merged():
            original = self._logics.pop(original_id)
            target = self._logics.get(target_id)
            if target is None:
                target = self._logics[target_id] = self._built(None)
            self._emit(target_id, target, "on_merge", target.on_merge(original), out)

    def _merged(self) -> Iterable[tuple[int, int]]:
        """The windows that have become one since this was last asked."""
        return self._windower.merged()

    def _close(self, watermark: datetime, out: list[Tagged]) -> None:
        reached = self._watermark
        for window_id, metadata in self._windower.close_for(watermark):
            if window_id in self._closed:
                continue  # Opened by values that were late for it.
            logic = self._logics.pop(window_id, None)
            if logic is not None:
                self._emit(window_id, logic, "on_close", logic.on_close(), out)
            out.append((META, (window_id, metadata)))
            if metadata.close_time >= reached:
                self._closed[window_id] = metadata.close_time
        # Of earlier windows values are late in any case.
        for window_id in [n for n, close_time in self._closed.items() if close_time < reached]:
            del self._closed[window_id]

    def _built(self, resume: Any) -> Any:
        return built_logic(self._step.builder, resume)

    def _emit(
        self, window_id: int, logic: Any, method: str, emitted: Any, out: list[Tagged]
    ) -> None:
        emits = checked_emits(logic, method, emitted)
        out.extend((DOWN, (window_id, value)) for value in emits)

    def _judged(self, judged: Any) -> tuple[datetime, datetime]:
        if not isinstance(judged, tuple) or len(cast("tuple[Any, ...]", judged)) != 2:
            kind = type(self._clock)
            msg = f"`{kind.__qualname__}.on_item` must return `(time, watermark)`; got "
            hint = "return the value's time and the watermark, both with a time zone"
            raise UserCodeError(msg + shown(cast("object", judged)), function=kind, hint=hint)
        at, watermark = cast("tuple[Any, Any]", judged)
        return self._aware(at, "on_item"), self._aware(watermark, "on_item")

    def _aware(self, at: Any, method: str) -> datetime:
        if not isinstance(at, datetime) or at.tzinfo is None:
            kind = type(self._clock)
            msg = (
                f"`{kind.__qualname__}.{method}` must give times with a time zone; got {shown(at)}"
            )
            raise UserCodeError(msg, function=kind, hint="for example `UTC_MIN`")
        return at


def _number(waiting: tuple[datetime, int, Any]) -> int:
    return waiting[1]
