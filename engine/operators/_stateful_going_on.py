"""Steps that keep an object for each key, and go on without the values that it raises for.

That is all values which the object was given with one call, or where objects go value by value,
each value by itself. The key has what it had before then: an object made of the snapshot that the
one before gave, its timer, and with a time to live its age.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.operators._images import image_of, restored
from engine.operators._kernels import Failures, StepContext
from engine.operators._picking import Picker
from engine.operators._stateful_objects import (
    ExpiringObjects,
    RunningObjects,
    build_logic,
    keys_in_order,
)


class KeyFailures:
    """Takes the values that objects of the engine's own raise for, which know no key.

    Args:
        failures: Takes the records.
    """

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self.key: Any = None
        """The key whose object is called."""

    def take(self, ex: Exception, value: Any, *, waited: bool) -> bool:
        """As `Failures` says."""
        return self._failures.take(ex, (self.key, value), waited=waited)


class OwnObjectsGoingOn(RunningObjects):
    """Objects of the engine's own, which see themselves to the values that they raise for."""

    def __init__(
        self,
        builder: Callable[[Any], Any],
        step: StepContext,
        failures: Failures,
        of_key: KeyFailures,
    ) -> None:
        super().__init__(builder, step)
        self.picks = Picker(failures, [None]).pick
        self._of_key = of_key

    def _object(self, key: Any) -> Any:
        self._of_key.key = key
        return super()._object(key)

    def _notified(self, key: Any, due_s: float, now_s: float) -> Any:
        self._of_key.key = key
        return super()._notified(key, due_s, now_s)


@dataclass(frozen=True, slots=True)
class _Before:
    """What a key had before values came."""

    logic: Any
    """Its object; None for none."""
    image: Any
    """What that was."""
    stamp_us: int | None
    due_s: float | None


class ObjectsGoingOn(RunningObjects):
    """Objects of users."""

    def __init__(
        self, builder: Callable[[Any], Any], step: StepContext, failures: Failures, *, singly: bool
    ) -> None:
        super().__init__(builder, step)
        self._failures = failures
        self.picks = Picker(failures, [None]).pick
        self._singly = singly

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        by_key = self._by_key(batch)
        emitted: list[Any] = []
        for key in keys_in_order(by_key):
            self._give(key, by_key[key], emitted)
        return emitted

    def _give(self, key: Any, values: list[Any], emitted: list[Any]) -> None:
        """Give a key's values to its object."""
        for some in [[value] for value in values] if self._singly else [values]:
            logic = self._state.get(key)
            self._try(key, logic, self._before(key, logic), some, emitted)

    def _before(self, key: Any, logic: Any) -> _Before:
        image = None if logic is None else image_of(logic.snapshot())
        return _Before(logic, image, self._stamp_us(key), self.timers.due_s.get(key))

    def _stamp_us(self, key: Any) -> int | None:  # noqa: ARG002 - for those with a time to live
        return None

    def _try(
        self, key: Any, logic: Any, before: _Before, values: list[Any], emitted: list[Any]
    ) -> bool:
        """Give values to an object; if it raises they are left out, and the key has what it had.

        Returns:
            Whether it took them.
        """
        new: list[Any] = []
        try:
            if logic is None:
                logic = self._begin(key)
            # The object may change the list that it is given.
            self._after(key, logic, logic.on_batch(values.copy()), new)
        except Exception as ex:
            if not self._failures.take_all(ex, [(key, value) for value in values]):
                raise
            self._put_back(key, before)
            return False
        emitted += new
        return True

    def _put_back(self, key: Any, before: _Before) -> None:
        logic = before.logic
        if logic is not None:
            logic = build_logic(self._builder, restored(before.image), "on_batch")
        self._state.put_back(key, logic, before.stamp_us)
        self.timers.set(key, before.due_s)


class ExpiringObjectsGoingOn(ObjectsGoingOn, ExpiringObjects):
    """Objects of users that have a time to live."""

    def _stamp_us(self, key: Any) -> int | None:
        return self._ages.stamps.get(key)

    def _give(self, key: Any, values: list[Any], emitted: list[Any]) -> None:
        ages = self._ages
        timed = self._timed(key, values)
        begin = 0
        while begin < len(timed):
            at_us = timed[begin][0]
            if ages.event_time is None:
                # Time passes whatever becomes of the values: what is over stays dropped.
                logic = self._living(key, at_us, emitted)
                before = self._before(key, logic)
            else:
                before = self._before(key, ages.get(key))
                logic = self._living(key, at_us, emitted)
            end = self._end_of(key, timed, begin)
            part = timed[begin:end]
            taken = self._try(key, logic, before, [value for _, value in part], emitted)
            if taken and ages.event_time is not None:
                ages.saw(max(time_us for time_us, _ in part))
            begin = end

    def _timed(self, key: Any, values: list[Any]) -> list[tuple[int, Any]]:
        """A key's values with their times; one that has none is left out."""
        ages, timed = self._ages, list[tuple[int, Any]]()
        now_us = None if ages.event_time is not None else ages.now_us()
        for value in values:
            try:
                timed.append((ages.time_us(value) if now_us is None else now_us, value))
            except Exception as ex:
                if not self._failures.take(ex, (key, value)):
                    raise
        return timed

    def _end_of(self, key: Any, timed: list[tuple[int, Any]], begin: int) -> int:
        """Until where values go to an object with one call; the key is as old as they are now."""
        ages, end = self._ages, begin + 1
        stamp_us = timed[begin][0]
        if ages.event_time is not None:
            stamp_us = max(stamp_us, ages.stamps.get(key, stamp_us))
        last = end if self._singly else len(timed)
        while end < last and stamp_us > timed[end][0] - ages.after_us:
            stamp_us = max(stamp_us, timed[end][0])
            end += 1
        ages.stamps[key] = stamp_us
        return end
