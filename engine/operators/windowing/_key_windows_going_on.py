"""The windows of one key where the step goes on without the values that users' functions raise for.

Clock, windower and the objects of windows are users' own here. Before each value that they are
asked about their snapshots are taken; if one of them raises they are all made anew from these.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from engine.operators._images import image_of, restored
from engine.operators._stateful_going_on import KeyFailures
from engine.operators.windowing._key_windows import KeyState, KeyWindows, Tagged, WindowStep

_NEW: Final = object()
"""Stands for a window that wasn't open before a value came."""


class KeyWindowsGoingOn(KeyWindows):
    """As `KeyWindows`, without the values that are raised for.

    Each value goes into all its windows or none.

    Args:
        step: What the user said.
        began_at: When this run began, by the wall clock.
        failures: Takes the values.
        resume: What was saved of the key, or None.
    """

    __slots__ = ("_failures", "_images", "_met")

    def __init__(
        self,
        step: WindowStep,
        began_at: datetime,
        failures: KeyFailures,
        resume: KeyState | None,
    ) -> None:
        super().__init__(step, began_at, resume)
        self._failures = failures
        self._images: dict[int, Any] = {}
        """What windows held before the value in hand went into them."""
        self._met: list[tuple[int, int]] = []
        """Windows that have become one, and are to be merged."""

    def _judge(self, value: Any, out: list[Tagged]) -> None:
        clock, watermark, count = image_of(self._clock.snapshot()), self._watermark, len(out)
        try:
            super()._judge(value, out)
        except Exception as ex:
            if not self._failures.take(ex, value, waited=False):
                raise
            del out[count:]
            self._watermark = watermark
            self._clock = self._step.clock.build(restored(clock))
            self._clock.before_batch()

    def _insert(self, at: datetime, value: Any, out: list[Tagged]) -> None:
        # Snapshots need not have what a windower has not been asked yet.
        self._met += self._windower.merged()
        windower, count = image_of(self._windower.snapshot()), len(out)
        self._images.clear()
        try:
            super()._insert(at, value, out)
        except Exception as ex:
            # One that is worked on in order of time may have waited, for all that is known here.
            if not self._failures.take(ex, value, waited=self._step.ordered):
                raise
            del out[count:]
            self._windower = self._step.windower.build(restored(windower))
            for window_id, image in self._images.items():
                if image is _NEW:
                    self._logics.pop(window_id, None)
                else:
                    self._logics[window_id] = self._built(restored(image))

    def _merged(self) -> list[tuple[int, int]]:
        met, self._met = [*self._met, *self._windower.merged()], []
        return met

    def _give(self, window_id: int, place: int, value: Any, out: list[Tagged]) -> None:
        logic = self._logics.get(window_id)
        self._images[window_id] = _NEW if logic is None else image_of(logic.snapshot())
        super()._give(window_id, place, value, out)
