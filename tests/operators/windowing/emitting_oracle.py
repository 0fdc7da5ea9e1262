"""What windows emit that do so more than once, from the definition; see `oracle` for the rest.

Windows here hold lists of numbers. Times are microseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import engine.operators.windowing as win
from tests.operators.windowing.oracle import (
    END,
    LATEST_US,
    Aligned,
    Batch,
    ClockModel,
    Sessions,
    us,
)


@dataclass
class Window:
    """What a window of a key has taken."""

    first_us: int
    last_us: int
    """Of a session; of others the end."""
    values: list[Any] = field(default_factory=list)
    closed: bool = False
    fresh: int = 0


@dataclass
class KeyModel:
    """The windows of one key, with what they emit."""

    shape: Aligned | Sessions
    lateness_us: int | None
    trigger: Any
    ordered: bool
    down: list[tuple[int, Any]] = field(default_factory=list)
    late: list[tuple[int, Any]] = field(default_factory=list)
    windows: dict[int, Window] = field(default_factory=dict)
    waiting: list[tuple[int, float, Any]] = field(default_factory=list)
    opened: int = 0

    def arrive(self, at_us: int, watermark: float, value: Any) -> None:
        if at_us < watermark and self.lateness_us is None:
            self.late += [(n, value) for n in self.shape.late_ids(at_us)]
        else:
            self.waiting.append((at_us, watermark if at_us < watermark else -math.inf, value))

    def advance(self, watermark: float) -> None:
        ready = [each for each in self.waiting if not self.ordered or each[0] <= watermark]
        self.waiting = [each for each in self.waiting if each not in ready]
        if self.ordered:
            ready.sort(key=lambda each: each[0])
        merges: list[tuple[int, Window, Window]] = []
        for at_us, met, value in ready:
            if isinstance(self.shape, Sessions):
                self.into_session(at_us, met, value, watermark, merges)
            else:
                self.into_aligned(at_us, met, value)
        for n, window, other in merges:
            window.values = window.values + other.values
            window.fresh += other.fresh
            self.changed(n, window)
        for n, window in list(self.windows.items()):
            if not window.closed and self.closing(window) <= watermark:
                window.closed = True
                self.emit(n, window, "close")
            if self.closing(window) + (self.lateness_us or 0) <= watermark:
                del self.windows[n]

    def into_aligned(self, at_us: int, met: float, value: Any) -> None:
        assert isinstance(self.shape, Aligned)
        for n in self.shape.late_ids(at_us):
            begin, end = self.shape.span(n)
            if min(end, LATEST_US) + (self.lateness_us or 0) <= met:
                self.late.append((n, value))
            else:
                self.add(n, self.windows.setdefault(n, Window(begin, end)), value)

    def into_session(
        self, at_us: int, met: float, value: Any, watermark: float, merges: Any
    ) -> None:
        assert isinstance(self.shape, Sessions)
        gap_us, late_us = us(self.shape.gap), self.lateness_us or 0
        near = [
            n
            for n, window in self.windows.items()
            if window.first_us - gap_us <= at_us <= window.last_us + gap_us
            if self.closing(window) + late_us > met
        ]
        if not near:
            if at_us + gap_us + 1 + late_us <= met:
                self.late.append((-1, value))
                return
            near = [self.opened]
            self.windows[self.opened] = Window(at_us, at_us)
            self.opened += 1
        n, *others = sorted(near, key=lambda n: self.windows[n].first_us)
        window = self.windows[n]
        for other in others:
            merges.append((n, window, self.windows.pop(other)))
            window.last_us = max(window.last_us, merges[-1][2].last_us)
        window.first_us = min(window.first_us, at_us)
        window.last_us = max(window.last_us, at_us)
        if self.closing(window) > watermark:
            window.closed = False
        self.add(n, window, value)

    def closing(self, window: Window) -> int:
        """The first watermark that closes it."""
        after_us = us(self.shape.gap) + 1 if isinstance(self.shape, Sessions) else 0
        return min(window.last_us + after_us, LATEST_US)

    def add(self, n: int, window: Window, value: Any) -> None:
        window.values = [*window.values, value]
        window.fresh += 1
        self.changed(n, window)

    def changed(self, n: int, window: Window) -> None:
        if window.closed:
            self.emit(n, window, "late")
        elif isinstance(self.trigger, win.OnUpdate):
            self.emit(n, window, "update")
        elif isinstance(self.trigger, win.OnCount) and window.fresh >= self.trigger.count:
            self.emit(n, window, "count")

    def emit(self, n: int, window: Window, cause: Any) -> None:
        window.fresh = 0
        if self.trigger is None and self.lateness_us is None:
            self.down.append((n, window.values))
        else:
            self.down.append((n, win.Emission(window.values, cause)))


def run_model(batches: list[Batch], key: Any, clock: ClockModel, model: KeyModel) -> None:
    """Let a key see all batches, and the end of input."""
    known = False
    for b, batch in enumerate(batches):
        if batch is END:
            model.advance(math.inf)
            continue
        for i, (its_key, value) in enumerate(batch.records):
            if its_key == key:
                known = True
                at_us, watermark = clock.judged(batches, b, i)
                model.arrive(at_us, watermark, value)
        if known:
            if clock.by_stream:
                # The watermark that a batch makes comes behind it.
                model.advance(clock.reached(batches, b - 1, key))
            model.advance(clock.reached(batches, b, key))
