"""Windows of any shape where the step goes on without the values that users' functions raise for.

A value goes into all its windows or into none. What these were before is noted for each value, and
an image taken of what they hold, unless it can't have changed (`engine.operators._images`). The
watermark isn't put back: by the time that a value is worked on others have been judged by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.operators._images import image_of, restored
from engine.operators._kernels import StepContext
from engine.operators._time_axis import EventTimes, TimeAxis
from engine.operators.windowing._shapes import OpenWindow, Sessions
from engine.operators.windowing._windowers import LATE_SESSION_ID
from engine.operators.windowing._windows_logic import (
    Emitter,
    WindowsEntry,
    WindowsLogic,
    WindowSpec,
)


@dataclass(frozen=True, slots=True)
class _Near:
    """A window that a value may go into, as it was before."""

    window: OpenWindow
    open_us: int
    close_us: int
    fired: bool
    fresh: int
    merged_ids: frozenset[int]
    image: Any
    """Of what it holds, in the form in which that is stored."""


@dataclass(frozen=True, slots=True)
class _Before:
    """What a key had before a value, and how much it had emitted."""

    windows: dict[int, OpenWindow]
    next_number: int
    near: list[_Near]
    emitted: int
    late: int
    meetings: int


class WindowsGoingOn(WindowsLogic):
    """As `WindowsLogic`, without the values that are raised for."""

    def __init__(
        self, step: StepContext, axis: TimeAxis, times: EventTimes | None, spec: WindowSpec
    ) -> None:
        super().__init__(step, axis, times, spec)
        assert step.failures is not None  # noqa: S101
        self._failures = step.failures
        self._check = spec.work.check

    def _insert_all(
        self, entry: WindowsEntry, ready: list[tuple[int, int, Any]], emit: Emitter
    ) -> None:
        meetings: list[tuple[OpenWindow, OpenWindow]] = []
        for at_us, met_us, value in ready:
            entry.taken += 1
            before = self._before(entry, at_us, emit, len(meetings))
            try:
                if self._check is not None:
                    self._check(value)
                if self._sessions is None:
                    self._insert(entry, at_us, met_us, value, emit)
                elif (session := self._session(entry, at_us, met_us, meetings)) is None:
                    self._refuse_one(emit.key, LATE_SESSION_ID, value)
                else:
                    self._add(entry, session, value, emit)
            except Exception as ex:
                if not self._left_out(ex, emit.key, value):
                    raise
                self._put_back(entry, before, emit)
                del meetings[before.meetings :]
        for into, other in meetings:
            self._merge(into, other, emit)

    def _left_out(self, ex: Exception, key: Any, value: Any) -> bool:
        port, waited = 0, self._spec.ordered
        if self._spec.sides:
            port, value = value
        return self._failures.take(ex, (key, value), port=port, waited=waited)

    def _before(self, entry: WindowsEntry, at_us: int, emit: Emitter, meetings: int) -> _Before:
        shape, windows = self._shape, entry.windows
        near: Iterable[OpenWindow]
        if isinstance(shape, Sessions):
            near = shape.near(windows.values(), at_us)
        else:
            near = [windows[number] for number in shape.numbers(at_us) if number in windows]
        noted = [
            _Near(
                *(window, window.open_us, window.close_us, window.fired, window.fresh),
                *(frozenset(window.merged_ids), self._image(window.acc)),
            )
            for window in near
        ]
        late = 0 if self._late is None else len(self._late)
        return _Before(dict(windows), entry.next_number, noted, len(emit.out), late, meetings)

    def _image(self, acc: Any) -> Any:
        work = self._work
        return None if work.all_or_nothing else image_of(work.to_stored(acc))

    def _put_back(self, entry: WindowsEntry, before: _Before, emit: Emitter) -> None:
        work = self._work
        entry.windows, entry.next_number = before.windows, before.next_number
        for near in before.near:
            window = near.window
            window.open_us, window.close_us = near.open_us, near.close_us
            window.fired, window.fresh = near.fired, near.fresh
            window.merged_ids = set(near.merged_ids)
            if not work.all_or_nothing:
                window.acc = work.from_stored(restored(near.image))
        del emit.out[before.emitted :]
        if self._late is not None:
            del self._late[before.late :]
