"""The times of batches, and which of their records are late: for kernels that work on batches.

The times of a batch are asked for in one go, and stay the `datetime`s that they are: those are
compared in a tenth of the time that it takes to make numbers of them.

Where each key has a watermark of its own, times are shifted by the time that has passed on the axis
since the step began: so the watermark of a key is the greatest shifted time of its values, less the
wait, shifted back.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from engine.operators._event_time import EPOCH, UTC_MAX, UTC_MIN, utc_datetime
from engine.operators._kernels import StepContext
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._time_axis import END_US, NEVER_US, EventTimes, TimeAxis
from engine.operators._timed import Entry, TimedKeys

_zone_of = attrgetter("tzinfo")


class KeyEntry(Entry):
    """What is known of a key besides what its windows hold."""

    __slots__ = ("high", "open", "parts", "queue", "shut")

    def __init__(self) -> None:
        super().__init__()
        self.high = UTC_MIN
        """The greatest shifted time of its values."""
        self.open: tuple[int, ...] = ()
        """Its windows that hold something, in the order in which they were opened."""
        self.parts: tuple[int, ...] = ()
        """The panes that hold something of it, in order, where windows share them."""
        self.queue: list[Any] | tuple[()] = ()
        """Values that wait: a time, its value, the next time, and so on, as they came."""
        self.shut: tuple[int, ...] = ()
        """Windows that were closed before the watermark was past them, at an end of input."""


class BatchTimes(TimedKeys[KeyEntry]):
    """A keyed step with a clock that goes from batch to batch.

    Args:
        step: The step.
        axis: The time it goes by.
        times: How values say their time; None: when they come.
    """

    def __init__(self, step: StepContext, axis: TimeAxis, times: EventTimes | None) -> None:
        super().__init__(step, axis)
        self._event_times = times
        self._wait_us = 0 if times is None else times.wait_us
        self._wait = timedelta(microseconds=self._wait_us)
        axis.sample()
        self._began_us = axis.now_us if axis.by_key else 0
        self._high = UTC_MIN
        """The greatest shifted time of all keys."""
        self._next_us = END_US
        """When the first window closes of those that no key has closed, or some time before."""
        self._all_text = True

    def _times_of(self, batch: list[Any]) -> list[datetime]:
        """The times of a batch's records, all with `UTC` as their zone."""
        times = self._event_times
        if not self._all_text or set(map(type, batch)) != {tuple}:
            _check_keys(batch)
        if times is None:
            _check_records(batch)
            return [utc_datetime(self.axis.now_us)] * len(batch)
        getter = times.getter
        try:
            ats: list[Any] = [getter(value) for _, value in batch]
        except ValueError:
            _check_records(batch)
            raise
        try:
            zones: set[Any] = set(map(_zone_of, ats))
        except AttributeError:
            zones = set()
        if zones == {UTC}:
            return ats
        for place, (at, (_, value)) in enumerate(zip(ats, batch, strict=True)):
            ats[place] = utc_datetime(times.checked_us(at, value))
        return ats

    def _rise(
        self, batch: list[Any], ats: list[datetime], low: datetime, top: datetime, risen: list[Any]
    ) -> list[int]:
        """Note the greatest time of each key; gives the places of late records.

        Keys that have come so far that they have something to close are added to `risen`.
        """
        shift = timedelta(microseconds=self._shift_us())
        if low < UTC_MIN + shift:
            # The shifted time would be no `datetime`: it is in the year 1, as many moments after
            # its beginning as the step has run. Such keys may go a little ahead.
            low, top = UTC_MIN + shift, max(top, UTC_MIN + shift)
            ats = [max(at, low) for at in ats]
        self._high = max(self._high, top - shift)
        mark = utc_datetime(self._next_us + self._wait_us - self._shift_us())
        if self._high - (low - shift) > self._wait:
            return self._rise_or_refuse(batch, ats, shift, mark, risen)
        get, entry_of, rise = self._state.touched.get, self._entry_of, risen.append
        for (key, _), at in zip(batch, ats, strict=True):
            entry = get(key)
            if entry is None:
                entry = entry_of(key)
            shifted = at - shift
            if shifted > entry.high:
                entry.high = shifted
                if shifted >= mark:
                    rise(key)
        return []

    def _rise_or_refuse(
        self,
        batch: list[Any],
        ats: list[datetime],
        shift: timedelta,
        mark: datetime,
        risen: list[Any],
    ) -> list[int]:
        """As `_rise`, where some records may be late."""
        get, entry_of = self._state.touched.get, self._entry_of
        wait, late = self._wait, list[int]()
        for place, ((key, _), at) in enumerate(zip(batch, ats, strict=True)):
            entry = get(key)
            if entry is None:
                entry = entry_of(key)
            shifted = at - shift
            if shifted > entry.high:
                entry.high = shifted
                if shifted >= mark:
                    risen.append(key)
            elif entry.high - shifted > wait and at < UTC_MAX:
                late.append(place)
        return late

    def _shift_us(self) -> int:
        """By how much the axis has moved since the step began."""
        return self.axis.now_us - self._began_us

    def _late_of(self, ats: list[datetime], low: datetime) -> list[int]:
        """The places of late records where all keys have one watermark."""
        now = utc_datetime(self.axis.now_us)
        return [place for place, at in enumerate(ats) if at < now] if low < now else []

    def _reached_us(self) -> int:
        """The greatest watermark of all keys."""
        if not self.axis.by_key:
            return self.axis.now_us
        if self._high == UTC_MIN:
            return NEVER_US
        return us_of(self._high) + self._shift_us() - self._wait_us

    def _watermark_us(self, entry: KeyEntry) -> int:
        if self.axis.by_key:
            entry.offset_us = self._offset_us(entry)
        return self.axis.now_us + entry.offset_us

    def _offset_us(self, entry: KeyEntry) -> int:
        return max(NEVER_US, us_of(entry.high) - self._wait_us - self._began_us)

    def resume_step(self, states: list[Any]) -> None:
        super().resume_step(states)
        self._began_us = self.axis.now_us if self.axis.by_key else 0

    def begin(self) -> KeyEntry:
        return KeyEntry()

    def _entry_of(self, key: Any) -> KeyEntry:
        """The entry of a key, which is begun if there is none."""
        entry: KeyEntry | None = self._state.get(key)
        if entry is None:
            if key.__class__ is not str:
                check_key(key)
                self._all_text = False
            entry = self._begin(key)
        return entry


def _check_records(batch: list[Any]) -> None:
    # A function of its own: a report of what a getter raises would name the last record.
    for record in batch:
        refuse_unkeyed(record)


def _check_keys(batch: list[Any]) -> None:
    for record in batch:
        refuse_unkeyed(record)
        check_key(record[0])


def us_of(at: datetime) -> int:
    """The microseconds of a time that has been looked at before."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
