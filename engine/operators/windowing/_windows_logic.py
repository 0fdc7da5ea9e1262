"""Windows of any shape, key by key: the kernel that knows all that windows can do.

Values wait in a queue of their key until its watermark is past them, if they are to be worked on in
order of time; or, if nobody can tell the difference, until a window is about to close. Lateness
beyond the watermark, triggers, sessions and users' own window objects are all here. The most usual
windows, for which speed counts, have a kernel of their own (`_aligned_logic`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, cast

from engine.operators._event_time import MAX_US, span_us, utc_datetime
from engine.operators._kernels import StepContext
from engine.operators._time_axis import END_US, NEVER_US, EventTimes, TimeAxis
from engine.operators._timed import Entry, TimedLogic
from engine.operators._timers import Timers
from engine.operators.windowing._emitting import (
    Cause,
    Emission,
    OnCount,
    OnInterval,
    OnUpdate,
    Trigger,
)
from engine.operators.windowing._shapes import OpenWindow, Sessions, Shape
from engine.operators.windowing._windowers import LATE_SESSION_ID, WindowMetadata
from engine.operators.windowing._works import Work

_QUEUE_MAX: Final = 64
"""So many values of a key may wait for a window to close; then those are worked on that can be."""
_SECOND_US: Final = 1_000_000
_time_of = itemgetter(0)


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """What the windows of a step are to do."""

    shape: Shape
    work: Work
    ordered: bool
    lateness_us: int | None = None
    """How far behind the watermark a window still takes values; None if the clock's wait is all."""
    trigger: Trigger | None = None
    sides: int = 0
    """If the values of several inputs are joined, how many; a window gets `(input, value)` then."""

    @property
    def tells_causes(self) -> bool:
        """Whether a window may emit more than once, so that each emission says why."""
        return self.trigger is not None or self.lateness_us is not None


class WindowsEntry(Entry):
    """The windows of one key, and the values that wait."""

    __slots__ = ("limit", "next_number", "oldest_us", "queue", "shut", "taken", "windows")

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[tuple[int, int, Any]] = []
        """Values with their times, and, if they were late, the watermark that they met."""
        self.oldest_us = END_US
        """The earliest time in the queue, or one before it."""
        self.limit = _QUEUE_MAX
        self.windows: dict[int, OpenWindow] = {}
        self.next_number = 0
        """The id of the next session."""
        self.shut: tuple[int, ...] = ()
        """Windows that were closed before the watermark was past them, at an end of input."""
        self.taken = 0
        """How many values have gone into windows."""


class WindowsLogic(TimedLogic[WindowsEntry]):
    """All windows of a step on one worker."""

    def __init__(
        self, step: StepContext, axis: TimeAxis, times: EventTimes | None, spec: WindowSpec
    ) -> None:
        super().__init__(step, axis, [times] * max(1, spec.sides))
        self._spec = spec
        self._shape, self._work = spec.shape, spec.work
        self._sessions = spec.shape if isinstance(spec.shape, Sessions) else None
        self.keeps_late = spec.lateness_us is not None
        self.counts_up = self._sessions is not None
        # What was closed is known by its ids; a session that goes on is another one.
        self.seals_at_end = False
        # Whether values may wait for a window to close: nobody sees the difference.
        by_value = spec.tells_causes or spec.work.emits_values
        self._lazy = not by_value and spec.ordered
        self._late, self._meta = step.asides
        self._floor_number = 0
        self._now_s = step.now_s
        self._intervals = Timers()
        """When windows are to emit that have a trigger by time, by key and id; by the wall."""

    # Values

    def begin(self) -> WindowsEntry:
        entry = WindowsEntry()
        entry.next_number = self._floor_number
        return entry

    def take(self, key: Any, entry: WindowsEntry, port: int, at_us: int, value: Any) -> None:  # noqa: ARG002
        if self._spec.sides:
            value = (port, value)
        watermark_us = NEVER_US
        if self.keeps_late:
            met_us = self.watermark_us(entry)
            watermark_us = met_us if at_us < met_us else NEVER_US
        entry.queue.append((at_us, watermark_us, value))
        if at_us < entry.oldest_us:  # noqa: PLR1730 - a call less per record
            entry.oldest_us = at_us
        if at_us <= entry.sealed_us or entry.shut or len(entry.queue) >= entry.limit:
            entry.oldest_us = NEVER_US

    def refuse(self, key: Any, entry: WindowsEntry, port: int, at_us: int, value: Any) -> None:  # noqa: ARG002
        if self._late is None:
            return
        shape = self._shape
        ids = (LATE_SESSION_ID,) if isinstance(shape, Sessions) else shape.numbers(at_us)
        self._late.extend([(key, (number, value)) for number in ids])

    def settle(self, key: Any, entry: WindowsEntry, watermark_us: int, out: list[Any]) -> None:
        emit = Emitter(key, out, tells_causes=self._spec.tells_causes)
        ready = self._ready(entry, watermark_us)
        if ready:
            self._insert_all(entry, ready, emit)
        self._close(entry, watermark_us, emit)

    def _insert_all(
        self, entry: WindowsEntry, ready: list[tuple[int, int, Any]], emit: Emitter
    ) -> None:
        """Give values to their windows; then sessions merge."""
        if self._sessions is None:
            for at_us, met_us, value in ready:
                entry.taken += 1
                self._insert(entry, at_us, met_us, value, emit)
            return
        meetings: list[tuple[OpenWindow, OpenWindow]] = []
        for at_us, met_us, value in ready:
            entry.taken += 1
            session = self._session(entry, at_us, met_us, meetings)
            if session is None:
                self._refuse_one(emit.key, LATE_SESSION_ID, value)
            else:
                self._add(entry, session, value, emit)
        for into, other in meetings:
            self._merge(into, other, emit)

    def _ready(self, entry: WindowsEntry, watermark_us: int) -> list[tuple[int, int, Any]]:
        """Take the values out of the queue that may be worked on, in the order to do so."""
        queue = entry.queue
        if not self._spec.ordered:
            entry.queue, entry.oldest_us = [], END_US
            return queue
        queue.sort(key=_time_of)
        count = 0
        for at_us, _, _ in queue:
            if at_us > watermark_us:
                break
            count += 1
        ready, entry.queue = queue[:count], queue[count:]
        entry.oldest_us = entry.queue[0][0] if entry.queue else END_US
        entry.limit = _QUEUE_MAX + 2 * len(entry.queue)
        return ready

    def _insert(
        self, entry: WindowsEntry, at_us: int, met_us: int, value: Any, emit: Emitter
    ) -> None:
        """Give a value to the aligned windows that it falls into."""
        shape, late_us = self._shape, self._spec.lateness_us or 0
        assert not isinstance(shape, Sessions)  # noqa: S101
        for number in shape.numbers(at_us):
            window, close_us = entry.windows.get(number), shape.close_us(number)
            shut = window is None and self._is_shut(entry, number, close_us)
            if shut or close_us + late_us <= met_us:
                self._refuse_one(emit.key, number, value)
                continue
            if window is None:
                window = OpenWindow(number, shape.open_us(number), close_us, self._work.begin())
                entry.windows[number] = window
            self._add(entry, window, value, emit)

    def _session(
        self,
        entry: WindowsEntry,
        at_us: int,
        met_us: int,
        meetings: list[tuple[OpenWindow, OpenWindow]],
    ) -> OpenWindow | None:
        """The session that a value of that time goes into; None if it is late for any.

        Sessions that it brings together are noted in `meetings`.
        """
        shape, late_us = self._sessions, self._spec.lateness_us or 0
        assert shape is not None  # noqa: S101
        near = [
            window
            for window in shape.near(entry.windows.values(), at_us)
            # Those that it is too late for are about to be dropped.
            if met_us == NEVER_US or shape.closing_us(window) + late_us > met_us
        ]
        if not near:
            if at_us <= entry.sealed_us or shape.first_close_us(at_us) + late_us <= met_us:
                return None
            number = entry.next_number
            entry.next_number = number + 1
            entry.windows[number] = window = OpenWindow(number, at_us, at_us, self._work.begin())
            return window
        window, *others = near
        for other in others:
            del entry.windows[other.number]
            window.close_us = max(window.close_us, other.close_us)
            window.merged_ids |= {other.number, *other.merged_ids}
            meetings.append((window, other))
        window.open_us = min(window.open_us, at_us)
        window.close_us = max(window.close_us, at_us)
        if window.fired and shape.closing_us(window) > self.watermark_us(entry):
            # It will close again.
            window.fired = False
        return window

    def _is_shut(self, entry: WindowsEntry, number: int, close_us: int) -> bool:
        return close_us <= entry.sealed_us or number in entry.shut

    def _refuse_one(self, key: Any, number: int, value: Any) -> None:
        if self._late is not None:
            self._late.append((key, (number, value[1] if self._spec.sides else value)))

    def _add(self, entry: WindowsEntry, window: OpenWindow, value: Any, emit: Emitter) -> None:
        """Add a value to a window, and emit what that makes it emit."""
        work = self._work
        window.acc, emits = work.add(window.acc, value, entry.taken)
        if emits:
            emit.all(window.number, emits)
        if window.fired:
            emit.result(window, work, "late")
            return
        window.fresh += 1
        self._trigger(window, emit)

    def _trigger(self, window: OpenWindow, emit: Emitter) -> None:
        """A window has changed: emit what it holds, if it is time for that."""
        trigger = self._spec.trigger
        if isinstance(trigger, OnUpdate):
            emit.result(window, self._work, "update")
        elif isinstance(trigger, OnCount):
            if window.fresh >= trigger.count:
                emit.result(window, self._work, "count")
        elif trigger is not None and (emit.key, window.number) not in self._intervals.due_s:
            self._await_interval(emit.key, window, trigger)

    # Windows

    def _merge(self, into: OpenWindow, other: OpenWindow, emit: Emitter) -> None:
        """Two sessions are one."""
        into.acc, emits = self._work.merge(into.acc, other.acc)
        if emits:
            emit.all(into.number, emits)
        into.fresh += other.fresh
        if into.fired:
            emit.result(into, self._work, "late")
        else:
            self._trigger(into, emit)

    def _close(self, entry: WindowsEntry, watermark_us: int, emit: Emitter) -> None:
        """Close the windows whose time has come, in the order in which they were opened."""
        shape, late_us = self._shape, self._spec.lateness_us or 0
        reached_us = self.watermark_us(entry)
        if entry.shut and not isinstance(shape, Sessions):
            entry.shut = shape.not_over(entry.shut, reached_us - late_us)
        for number, window in list(entry.windows.items()):
            closing_us = shape.closing_us(window)
            if closing_us > watermark_us:
                continue
            if not window.fired:
                window.fired = True
                emit.closed(window, self._work)
                entry.closed_us = max(entry.closed_us, window.close_us)
                if self._sessions is None and (
                    window.close_us > reached_us or window.close_us == MAX_US
                ):
                    entry.shut = (*entry.shut, number)
                if self._meta is not None:
                    self._meta.append((emit.key, (number, _metadata(window))))
            if closing_us + late_us <= watermark_us:
                del entry.windows[number]

    def due_us(self, entry: WindowsEntry) -> int | None:
        shape, late_us = self._shape, self._spec.lateness_us or 0
        due_us = END_US
        if entry.queue:
            oldest_us = entry.oldest_us
            if oldest_us == NEVER_US or (not self._spec.ordered and not self._lazy):
                return NEVER_US
            due_us = shape.first_close_us(oldest_us) if self._lazy else oldest_us
        for window in entry.windows.values():
            closing_us = shape.closing_us(window)
            due_us = min(due_us, closing_us + late_us if window.fired else closing_us)
        return None if due_us == END_US else due_us

    def sealed_until_us(self, entry: WindowsEntry) -> int:
        shape = self._shape
        if isinstance(shape, Sessions):
            return NEVER_US
        return max(map(shape.close_us, entry.shut), default=NEVER_US)

    # Triggers by time

    def _await_interval(self, key: Any, window: OpenWindow, trigger: OnInterval) -> None:
        due_s = self._now_s() + span_us(trigger.interval) / _SECOND_US
        self._intervals.set((key, window.number), due_s)

    def _wake_at(self, key: Any, entry: WindowsEntry, due_us: int) -> None:
        trigger = self._spec.trigger
        if isinstance(trigger, OnInterval) and any(
            window.fresh and not window.fired for window in entry.windows.values()
        ):
            # So that a run that goes on after a crash finds the key, and lets it wait anew.
            span = 0 if self.axis.by_stream else span_us(trigger.interval)
            due_us = min(due_us, self.watermark_us(entry) + span)
        super()._wake_at(key, entry, due_us)

    def next_due_s(self) -> float | None:
        due_s, interval_s = super().next_due_s(), self._intervals.first_s()
        if due_s is None or interval_s is None:
            return interval_s if due_s is None else due_s
        return min(due_s, interval_s)

    def on_notify(self) -> list[Any]:
        out = super().on_notify()
        for _, (key, number) in self._intervals.pop_due(self._now_s()):
            entry = self._state.get(key)
            window = None if entry is None else entry.windows.get(number)
            if window is not None and window.fresh and not window.fired:
                Emitter(key, out, tells_causes=True).result(window, self._work, "interval")
        return out

    # State

    def kind(self) -> str:
        joined = f" that join {self._spec.sides} streams" if self._spec.sides else ""
        emitting = " that may emit more than once" if self._spec.tells_causes else ""
        return f"{self._shape.told()}{joined}{emitting}"

    def step_state(self) -> Any:
        return (*super().step_state(), self._floor_number)

    def resume_step(self, states: list[Any]) -> None:
        super().resume_step([state[:3] for state in states])
        self._floor_number = max(state[-1] for state in states)

    def to_stored(self, entry: WindowsEntry) -> Any:
        to_stored = self._work.to_stored
        windows = [
            (
                *(w.number, w.open_us, w.close_us, w.fired, w.fresh),
                *(sorted(w.merged_ids), to_stored(w.acc)),
            )
            for w in entry.windows.values()
        ]
        return entry.next_number, entry.taken, entry.shut, entry.queue, windows

    def from_stored(self, stored: Any) -> WindowsEntry:
        entry = WindowsEntry()
        entry.next_number, entry.taken, shut, entry.queue, windows = cast("tuple[Any, ...]", stored)
        entry.shut = tuple(shut)
        entry.oldest_us = min(map(_time_of, entry.queue), default=END_US)
        for number, open_us, close_us, fired, fresh, merged_ids, acc in windows:
            window = OpenWindow(number, open_us, close_us, self._work.from_stored(acc))
            window.fired, window.fresh, window.merged_ids = fired, fresh, set(merged_ids)
            entry.windows[number] = window
        return entry

    def loaded(self, key: Any, entry: WindowsEntry) -> None:
        super().loaded(key, entry)
        trigger = self._spec.trigger
        if isinstance(trigger, OnInterval):
            for window in entry.windows.values():
                awaited = (key, window.number) in self._intervals.due_s
                if window.fresh and not window.fired and not awaited:
                    self._await_interval(key, window, trigger)

    def forgotten(self, entry: WindowsEntry) -> None:
        self._floor_number = max(self._floor_number, entry.next_number)


class Emitter:
    """Takes what the windows of one key emit."""

    __slots__ = ("_tells_causes", "key", "out")

    def __init__(self, key: Any, out: list[Any], *, tells_causes: bool) -> None:
        self.key = key
        self.out = out
        self._tells_causes = tells_causes

    def all(self, number: int, emits: Iterable[Any]) -> None:
        """Values that a window emits by itself."""
        self.out.extend([(self.key, (number, emitted)) for emitted in emits])

    def result(self, window: OpenWindow, work: Work, cause: Cause) -> None:
        """What a window holds, before it closes or after that."""
        window.fresh = 0
        for result in work.results(window.acc):
            # What the window holds may change yet.
            self.out.append((self.key, (window.number, Emission(copy.copy(result), cause))))

    def closed(self, window: OpenWindow, work: Work) -> None:
        """What a window holds as it closes."""
        if self._tells_causes:
            self.result(window, work, "close")
        else:
            self.all(window.number, work.results(window.acc))


def _metadata(window: OpenWindow) -> WindowMetadata:
    opened, closed = utc_datetime(window.open_us), utc_datetime(window.close_us)
    return WindowMetadata(opened, closed, window.merged_ids)
