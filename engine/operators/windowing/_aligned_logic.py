"""Tumbling and sliding windows whose values become one: the kernel for which speed counts.

It works on batches, not on keys. The times of a batch are asked for in one go; they stay the
`datetime`s that they are, which are compared in a fraction of the time that it takes to convert
them. Values that may be worked on go into their window (`Pane`) in one loop with one look-up each.
In order of time: values wait in slots, short stretches of time that all keys share, and a slot is
sorted and worked on once the watermark is past it.

What only this kernel knows is when nobody can tell the difference: a value may go into its window
earlier or later than its watermark says, as long as the window has all of its values, in their
order, when it closes. Nothing else is left out: a key has its own watermark where the clock says
so, and its windows close when that reaches them.

In a batch times are shifted by the time that has passed on the axis since the step began: so the
watermark of a key is the greatest shifted time of its values, less the wait, shifted back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from math import gcd
from operator import attrgetter
from typing import Any, Final, cast

from engine.errors import InternalError
from engine.operators._event_time import (
    UTC_MAX,
    UTC_MIN,
    event_us,
    span_us,
    utc_datetime,
)
from engine.operators._kernels import StepContext
from engine.operators._keys import check_key, refuse_unkeyed, sorted_keys
from engine.operators._time_axis import END_US, NEVER_US, EventTimes, TimeAxis
from engine.operators._timed import IDLE_MAX, IDLE_US, Entry, EntryForm, TimedLogic
from engine.operators.windowing._panes import NO_ACC, Pane, PanedState
from engine.operators.windowing._shapes import Aligned
from engine.operators.windowing._windowers import WindowMetadata
from engine.operators.windowing._works import Folding

_SLOTS: Final = 8
"""Into how many slots a stretch of time is cut that all goes into the same windows."""
_NO_SHIFT: Final = timedelta(0)
_FAR: Final = timedelta(days=365_000)
_SAFE_MIN: Final = UTC_MIN + _FAR
_SAFE_MAX: Final = UTC_MAX - _FAR
"""Between these a shift and a wait can be taken from a time and it is still a `datetime`."""
_REFUSED: Final = object()
_SWEEP_MIN: Final = 4096
_zone_of = attrgetter("tzinfo")


class KeyEntry(Entry):
    """What is known of a key besides what its windows hold."""

    __slots__ = ("held", "high", "open", "waiting")

    def __init__(self) -> None:
        super().__init__()
        self.high = UTC_MIN
        """The greatest shifted time of its values."""
        self.open: list[int] = []
        """Its windows that hold something, in the order in which they were opened."""
        self.held: list[tuple[datetime, Any]] = []
        """Values from slots that were worked on before its own watermark was past them."""
        self.waiting: list[tuple[int, Any]] = []
        """Values that wait, with their times; made for a barrier alone."""


class Slot:
    """A stretch of time in which values wait."""

    __slots__ = ("ats", "end", "records", "saved")

    def __init__(self, end: datetime) -> None:
        self.end = end
        self.ats: list[datetime] = []
        self.records: list[tuple[Any, Any]] = []
        self.saved = 0
        """How many of the records the store has."""


class AlignedLogic(TimedLogic[KeyEntry]):
    """The windows of a step on one worker.

    Args:
        step: The step; its state is a `PanedState`.
        axis: The time it goes by.
        times: How values say their time; None: when they come.
        shape: The windows.
        folding: What they do.
        ordered: Whether values are worked on in the order of their times.
    """

    def __init__(
        self,
        step: StepContext,
        axis: TimeAxis,
        times: EventTimes | None,
        shape: Aligned,
        folding: Folding,
        *,
        ordered: bool,
    ) -> None:
        super().__init__(step, axis, [times])
        self._event_times = times
        self._shape, self._folding, self._ordered = shape, folding, ordered
        self._stretch_us = gcd(shape.length_us, shape.offset_us)
        slots = _SLOTS if ordered else 1
        self._slot_us = -(-self._stretch_us // slots)
        wait_us = 0 if times is None else times.wait_us
        self._wait_us = wait_us
        self._wait = timedelta(microseconds=wait_us)
        state = step.state
        assert isinstance(state, PanedState)  # noqa: S101
        self._paned = state
        self._panes = state.panes
        self._late, self._meta = step.asides
        axis.sample()
        self._began_us = 0 if axis.by_stream else axis.now_us
        self._high = UTC_MIN
        self._slots: dict[tuple[int, int], Slot] = {}
        # The slot, or the stretch, that the last record was in.
        self._low = self._end = UTC_MIN
        self._slot = Slot(UTC_MIN)
        self._in_stretch: list[Pane] = []
        self._next_us = END_US
        """When the first window closes of those that have not been looked at for it yet."""
        self._flush_us = END_US
        """The watermark with which to work off the first slot, at the latest."""
        self._holding: set[Any] = set()
        """Keys with values that are held back."""
        self._behind: set[Any] = set()
        """Keys that have opened a window which others have closed."""
        self._armed: set[Any] = set()
        """Keys whose watermark is behind one at which another key's window has closed."""
        self._all_text = True
        self._sweep_at = _SWEEP_MIN
        state.form = _KeyForm(self)
        state.before_barrier = self._before_barrier
        state.due_us = self._stored_due_us
        state.pinned = self._waiting_keys

    # Batches

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        axis = self.axis
        axis.sample()
        ats = self._times_of(batch)
        low, top = min(ats), max(ats)
        self.batch_latest_us = _us(top)
        risen: list[Any] = []
        if axis.by_key:
            shift = timedelta(microseconds=axis.now_us - self._began_us)
            late = self._rise(batch, ats, shift, low, top, risen)
        else:
            now = utc_datetime(axis.now_us)
            late = [i for i, at in enumerate(ats) if at < now] if low < now else []
        if late:
            batch, ats = self._without(batch, ats, late)
        if ats:
            if self._ordered:
                self._place(batch, ats, low, top)
            elif self._low <= low and top < self._end:
                self._fold(self._in_stretch, batch)
            else:
                self._fold_each(batch, ats)
        out: list[Any] = []
        self._advance(risen, out)
        return out

    def _times_of(self, batch: list[Any]) -> list[datetime]:
        """The times of a batch's records, all with `UTC` as their zone."""
        times = self._event_times
        if set(map(type, batch)) != {tuple}:
            for record in batch:
                refuse_unkeyed(record)
        if not self._all_text:
            for record in batch:
                check_key(record[0])
        if times is None:
            if any(len(record) != 2 for record in batch):
                for record in batch:
                    refuse_unkeyed(record)
            return [utc_datetime(self.axis.now_us)] * len(batch)
        getter = times.getter
        try:
            ats = [getter(value) for _, value in batch]
        except ValueError:
            for record in batch:
                refuse_unkeyed(record)
            raise
        try:
            if set(map(_zone_of, ats)) == {UTC}:
                return ats
        except AttributeError:
            pass
        return [
            utc_datetime(event_us(at, getter, "ts_getter"))
            for at, (_, value) in zip(ats, batch, strict=True)
        ]

    def _rise(
        self,
        batch: list[Any],
        ats: list[datetime],
        shift: timedelta,
        low: datetime,
        top: datetime,
        risen: list[Any],
    ) -> list[int]:
        """Note the highest time of each key; gives the places of late records.

        Keys that may have something to close are added to `risen`.
        """
        if low < _SAFE_MIN or top > _SAFE_MAX:
            ats = [min(max(at, _SAFE_MIN), _SAFE_MAX) for at in ats]
            low, top = min(ats), max(ats)
        entry_of = self._entry_of
        self._high = max(self._high, top - shift)
        mark = UTC_MIN if self._armed else self._mark(shift)
        get, rise = self._state.touched.get, risen.append
        if self._high - (low - shift) > self._wait:
            return self._rise_or_refuse(batch, ats, shift, mark, risen)
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
        wait, entry_of, late = self._wait, self._entry_of, list[int]()
        get = self._state.touched.get
        for place, ((key, _), at) in enumerate(zip(batch, ats, strict=True)):
            entry = get(key)
            if entry is None:
                entry = entry_of(key)
            shifted = at - shift
            if shifted > entry.high:
                entry.high = shifted
                if shifted >= mark:
                    risen.append(key)
            elif entry.high - shifted > wait:
                late.append(place)
        return late

    def _mark(self, shift: timedelta) -> datetime:
        """The shifted time from which a value lets its key close something."""
        return utc_datetime(self._next_us + self._wait_us - span_us(shift))

    def _without(
        self, batch: list[Any], ats: list[datetime], late: Iterable[int]
    ) -> tuple[list[Any], list[datetime]]:
        """Give late records back; gives the others."""
        places = set(late)
        for place in late:
            key, value = batch[place]
            self._refuse(key, value, self._shape.numbers(_us(ats[place])))
        kept = [place for place in range(len(batch)) if place not in places]
        return [batch[place] for place in kept], [ats[place] for place in kept]

    def _refuse(self, key: Any, value: Any, numbers: Iterable[int]) -> None:
        if self._late is not None:
            self._late.extend([(key, (number, value)) for number in numbers])

    # Waiting

    def _place(self, batch: list[Any], ats: list[datetime], low: datetime, top: datetime) -> None:
        """Put records into the slots in which they wait."""
        if self._low <= low and top < self._end:
            self._slot.records.extend(batch)
            self._slot.ats.extend(ats)
            return
        low, end, slot = self._low, self._end, self._slot
        for record, at in zip(batch, ats, strict=True):
            if not low <= at < end:
                slot = self._slot_of(at)
                low, end = self._low, self._end
            slot.records.append(record)
            slot.ats.append(at)

    def _slot_of(self, at: datetime) -> Slot:
        """The slot of a time, which becomes the one that is tried first."""
        at_us = _us(at)
        stretch, within_us = divmod(at_us - self._shape.align_us, self._stretch_us)
        number = within_us // self._slot_us
        begin_us = self._shape.align_us + stretch * self._stretch_us
        end_us = min(begin_us + (number + 1) * self._slot_us, begin_us + self._stretch_us)
        # The last moment of all is in a slot of its own, whose end is out of reach.
        self._low, self._end = utc_datetime(begin_us + number * self._slot_us), utc_datetime(end_us)
        slot = self._slots.get((stretch, number))
        if slot is None:
            slot = self._slots[stretch, number] = Slot(self._end)
            self._next_us = min(self._next_us, self._shape.first_close_us(at_us))
            self._flush_us = min(self._flush_us, end_us + self._slot_us)
        self._slot = slot
        return slot

    def _flush(self, until_us: int) -> None:
        """Work off the slots that end by then."""
        slots, until = self._slots, utc_datetime(until_us)
        for number in sorted(slots):
            if slots[number].end > until:
                break
            slot = slots.pop(number)
            if slot is self._slot:
                self._forget_place()
            self._work_off(slot, everything=until_us == END_US)
        first = min((slot.end for slot in slots.values()), default=None)
        self._flush_us = END_US if first is None else _us(first) + self._slot_us

    def _work_off(self, slot: Slot, *, everything: bool) -> None:
        """Give the values of a slot to their windows, in the order of their times."""
        ats, records = slot.ats, slot.records
        if slot.saved:
            for key, _ in records[: slot.saved]:
                self._state.get(key)
        order = sorted(range(len(ats)), key=ats.__getitem__)
        records = [records[place] for place in order]
        if not everything:
            held = self._held_back(slot, records)
            if held:
                ats = [ats[place] for place in order]
                records = self._hold(records, ats, held)
        if records:
            self._fold(self._panes_of(_us(slot.ats[0])), records)

    def _held_back(self, slot: Slot, records: list[Any]) -> set[Any]:
        """The keys of a slot of which values may have to wait on."""
        keys = {key for key, _ in records}
        held = keys & self._holding if self._holding else set[Any]()
        if self.axis.by_key:
            least = utc_datetime(_us(slot.end) + self._wait_us - self._shift_us())
            entry_of = self._entry_of
            held.update([key for key in keys if entry_of(key).high < least])
        return held

    def _hold(
        self, records: list[Any], ats: list[datetime], held: set[Any]
    ) -> list[tuple[Any, Any]]:
        """Hold back what the watermarks of those keys are not past; gives the other records."""
        ready: list[tuple[Any, Any]] = []
        entry_of, by_key = self._entry_of, self.axis.by_key
        ahead = timedelta(microseconds=min(self._wait_us, span_us(_FAR)) - self._shift_us())
        for record, at in zip(records, ats, strict=True):
            key = record[0]
            if key in held:
                entry = entry_of(key)
                if entry.held or (by_key and at > entry.high - ahead):
                    entry.held.append((at, record[1]))
                    self._holding.add(key)
                    continue
            ready.append(record)
        return ready

    def _shift_us(self) -> int:
        """By how much the axis has moved since the step began."""
        return self.axis.now_us - self._began_us if self.axis.by_key else 0

    def _forget_place(self) -> None:
        """What the last record went into is not there any more."""
        self._low = self._end = UTC_MIN

    # Windows

    def _panes_of(self, at_us: int) -> list[Pane]:
        """The windows that a time falls into; made if need be."""
        return [self._pane(number) for number in self._shape.numbers(at_us)]

    def _pane(self, number: int) -> Pane:
        pane = self._panes.get(number)
        if pane is None:
            shape = self._shape
            close_us = shape.close_us(number)
            pane = self._panes[number] = Pane(number, shape.open_us(number), close_us)
            self._next_us = min(self._next_us, close_us)
        return pane

    def _fold(self, panes: list[Pane], records: list[tuple[Any, Any]]) -> None:
        """Give values to some windows, to all of them each."""
        first, folder = self._folding.first, self._folding.folder
        for pane in panes:
            touched = pane.touched
            get = touched.get
            for key, value in records:
                acc = get(key, NO_ACC)
                if acc is NO_ACC:
                    acc = self._opened(pane, key)
                    if acc is NO_ACC:
                        touched[key] = first(value)
                        continue
                    if acc is _REFUSED:
                        self._refuse(key, value, (pane.number,))
                        continue
                touched[key] = folder(acc, value)

    def _fold_each(self, batch: list[tuple[Any, Any]], ats: list[datetime]) -> None:
        """Give values to their windows, which differ from record to record."""
        low, end, panes = self._low, self._end, self._in_stretch
        for record, at in zip(batch, ats, strict=True):
            if not low <= at < end:
                at_us, shape = _us(at), self._shape
                panes = self._panes_of(at_us)
                begin_us = at_us - (at_us - shape.align_us) % self._stretch_us
                low, end = utc_datetime(begin_us), utc_datetime(begin_us + self._stretch_us)
            self._fold(panes, [record])
        self._low, self._end, self._in_stretch = low, end, panes

    def _opened(self, pane: Pane, key: Any) -> Any:
        """What a window holds of a key that it wasn't found to hold anything of.

        `NO_ACC` if it is new to the window, which is open for it from now on.
        """
        acc = pane.rest.pop(key, NO_ACC)
        if acc is not NO_ACC:
            return acc
        entry = self._entry_of(key)
        if pane.number in entry.open:
            return self._loaded(pane, key)
        if pane.close_us <= entry.sealed_us:
            return _REFUSED
        entry.open.append(pane.number)
        if pane.armed:
            self._behind.add(key)
        return NO_ACC

    def _loaded(self, pane: Pane, key: Any) -> Any:
        acc = self._paned.load_part(key, pane.number)
        if acc is NO_ACC:
            msg = f"window {pane.number} of key {key!r} is open, and there is no state of it"
            raise InternalError(msg)
        pane.saved.add(key)
        return acc

    # Closing

    def _advance(self, risen: list[Any], out: list[Any]) -> None:
        """Do what the watermarks allow, those of `risen` keys having risen."""
        reached_us = self._reached_us()
        closing = reached_us >= self._next_us
        if closing or reached_us >= self._flush_us:
            until_us = reached_us - self._slot_us
            self._flush(max(until_us, self._shape.last_close_us(reached_us)))
        if not self.axis.by_key:
            if closing or self._is_due(reached_us):
                self._close_all(reached_us, out)
            return
        keys = {*risen, *self._behind}
        self._behind.clear()
        if closing:
            panes = [pane for pane in self._panes.values() if pane.close_us <= reached_us]
            for pane in panes:
                if not pane.armed:
                    pane.armed = True
                    keys.update(pane.keys())
            keys |= self._holding
        for key in sorted_keys(keys):
            self._settle(key, self._state.get(key), out)
        if closing:
            self._drop_panes(reached_us)
        if len(self._state.touched) + len(self._state.rest) > self._sweep_at:
            self._sweep()

    def _reached_us(self) -> int:
        """The greatest watermark of all keys."""
        axis = self.axis
        if not axis.by_key:
            return axis.now_us
        if self._high == UTC_MIN:
            return NEVER_US
        return _us(self._high) + self._shift_us() - self._wait_us

    def _is_due(self, reached_us: int) -> bool:
        """Whether there are keys of the store to close something of."""
        first_s = self.timers.first_s()
        return first_s is not None and first_s * 1e6 <= reached_us

    def _close_all(self, reached_us: int, out: list[Any]) -> None:
        """Close what one watermark of all keys closes."""
        keys: set[Any] = set()
        for _, key in self.timers.pop_due(reached_us / 1e6):
            entry = self._state.get(key)
            if entry is not None:
                keys.add(key)
        for pane in self._panes.values():
            if pane.close_us <= reached_us:
                keys.update(pane.keys())
        for key in sorted_keys(keys):
            self._settle(key, self._state.get(key), out)
        self._drop_panes(reached_us)

    def _drop_panes(self, reached_us: int) -> None:
        """Forget windows that hold nothing any more, and find the next one to close."""
        panes = self._panes
        for number in [n for n, pane in panes.items() if pane.close_us <= reached_us]:
            if not panes[number].touched and not panes[number].rest:
                del panes[number]
        self._forget_place()
        later = [pane.close_us for pane in panes.values() if pane.close_us > reached_us]
        first_close_us = self._shape.first_close_us
        later += [first_close_us(_us(slot.ats[0])) for slot in self._slots.values()]
        self._next_us = min(later, default=END_US)

    def _settle(self, key: Any, entry: KeyEntry, out: list[Any]) -> None:
        if self.axis.by_key:
            entry.offset_us = self._offset_us(entry)
        super()._settle(key, entry, out)
        if self.axis.by_key:
            due_us = self.due_us(entry)
            if due_us is not None and due_us <= self._reached_us():
                self._armed.add(key)
            else:
                self._armed.discard(key)

    def settle(self, key: Any, entry: KeyEntry, watermark_us: int, out: list[Any]) -> None:
        if entry.held:
            self._release(key, entry, watermark_us)
        still_open: list[int] = []
        for number in entry.open:
            pane = self._pane(number)
            if pane.close_us > watermark_us:
                still_open.append(number)
                continue
            acc = pane.take(key)
            if acc is NO_ACC:
                acc = self._loaded(pane, key)
            self._paned.drop_part(pane, key)
            out.append((key, (number, acc)))
            entry.closed_us = max(entry.closed_us, pane.close_us)
            if self._meta is not None:
                times = utc_datetime(pane.open_us), utc_datetime(pane.close_us)
                self._meta.append((key, (number, WindowMetadata(*times))))
        entry.open = still_open

    def _release(self, key: Any, entry: KeyEntry, watermark_us: int) -> None:
        """Give values that are held back to their windows, as far as the watermark allows."""
        until = utc_datetime(watermark_us)
        held = sorted(entry.held, key=lambda one: one[0])
        entry.held = [one for one in held if one[0] > until]
        for at, value in held[: len(held) - len(entry.held)]:
            self._fold(self._panes_of(_us(at)), [(key, value)])
        if not entry.held:
            self._holding.discard(key)

    def due_us(self, entry: KeyEntry) -> int | None:
        shape = self._shape
        due_us = min(map(shape.close_us, entry.open), default=END_US)
        if entry.held:
            due_us = min(due_us, shape.first_close_us(_us(min(at for at, _ in entry.held))))
        return None if due_us == END_US else due_us

    def _offset_us(self, entry: KeyEntry) -> int:
        if entry.high == UTC_MIN:
            return NEVER_US
        return _us(entry.high) - self._wait_us - self._began_us

    def _put_away(self, key: Any, entry: KeyEntry) -> None:
        if self.axis.by_key:
            # It may have values that wait: `_sweep` looks for those that have none.
            self.timers.set(key, None)
        else:
            super()._put_away(key, entry)

    def _forget(self, key: Any, entry: KeyEntry) -> None:
        if key not in self._waiting_keys():
            super()._forget(key, entry)

    def _sweep(self) -> None:
        """Forget the keys that have been idle longest, if there are too many."""
        waiting, state = self._waiting_keys(), self._state
        idle = [
            (entry.closed_us, key)
            for states in (state.touched, state.rest)
            for key, entry in states.items()
            if not entry.open and not entry.held and key not in waiting
        ]
        idle.sort(key=lambda one: one[0])
        for _, key in idle[: max(0, len(idle) - IDLE_MAX)]:
            super()._forget(key, state.get(key))
        self._sweep_at = max(_SWEEP_MIN, 2 * (len(state.touched) + len(state.rest)))

    # Time

    def next_due_s(self) -> float | None:
        axis = self.axis
        if axis.by_stream:
            return None
        due_s = self.timers.first_s()
        due_us = END_US if due_s is None else round(due_s * 1e6)
        if self._next_us < END_US:
            due_us = min(due_us, axis.now_us + max(0, self._next_us - self._reached_us()))
        return None if due_us == END_US else axis.wall_s(due_us)

    def on_notify(self) -> list[Any]:
        self.axis.sample()
        out: list[Any] = []
        self._advance([], out)
        return [*out, *self._settle_due()] if self.axis.by_key else out

    def on_watermark(self, at_us: int) -> list[Any]:
        self.axis.advance(at_us)
        out: list[Any] = []
        self._advance([], out)
        return out

    def on_eof(self) -> list[Any]:
        keys = self._state.keys_at_end()
        for key in keys:
            entry = self._state.get(key)
            if entry.held:
                self._release(key, entry, END_US)
        self._flush(END_US)
        out = super().on_eof()
        self._drop_panes(END_US)
        self._armed.clear()
        return out

    # State

    def begin(self) -> KeyEntry:
        return KeyEntry()

    def before_storing(self, entry: KeyEntry) -> None:
        """An entry is about to be stored."""
        if self.axis.by_key:
            entry.offset_us = self._offset_us(entry)

    def after_loading(self, key: Any, entry: KeyEntry) -> None:
        """An entry was read from the store."""
        if self.axis.by_key and entry.offset_us != NEVER_US:
            entry.high = utc_datetime(entry.offset_us + self._wait_us + self._began_us)
        if entry.held:
            self._holding.add(key)

    def _entry_of(self, key: Any) -> KeyEntry:
        """The entry of a key, which is begun if there is none."""
        entry: KeyEntry | None = self._state.get(key)
        if entry is None:
            if key.__class__ is not str:
                check_key(key)
                self._all_text = False
            entry = self._begin(key)
        return entry

    def take(self, key: Any, entry: KeyEntry, port: int, at_us: int, value: Any) -> None:
        raise NotImplementedError

    def _waiting_keys(self) -> set[Any]:
        return {key for slot in self._slots.values() for key, _ in slot.records}

    def _before_barrier(self) -> None:
        """See to it that all keys are saved whose values have begun to wait."""
        state = self._paned
        if not state.tracked:
            return
        gone = state.gone()
        for slot in self._slots.values():
            for key, _ in slot.records[slot.saved :]:
                self._entry_of(key)
            if gone:
                for key, _ in slot.records[: slot.saved]:
                    if key in gone:
                        self._entry_of(key)
            slot.saved = len(slot.records)
        changed: dict[Any, KeyEntry] = state.touched
        for entry in changed.values():
            entry.waiting = [(_us(at), value) for at, value in entry.held]
        for number in sorted(self._slots):
            slot = self._slots[number]
            for (key, value), at in zip(slot.records, slot.ats, strict=True):
                if key in changed:
                    changed[key].waiting.append((_us(at), value))

    def _stored_due_us(self, entry: KeyEntry) -> int | None:
        """When a key is due, on the axis, by what is stored of it."""
        due_us = self.due_us(entry)
        if entry.waiting:
            first_us = self._shape.first_close_us(min(at_us for at_us, _ in entry.waiting))
            due_us = first_us if due_us is None else min(due_us, first_us)
        if not self.axis.by_key:
            return entry.sealed_us if due_us is None else due_us
        if due_us is None:
            return self.axis.now_us + IDLE_US
        return due_us - self._offset_us(entry)

    def to_stored(self, entry: KeyEntry) -> Any:
        return entry.open, entry.waiting

    def from_stored(self, stored: Any) -> KeyEntry:
        entry = KeyEntry()
        entry.open, waiting = cast("tuple[list[int], list[tuple[int, Any]]]", stored)
        entry.held = [(utc_datetime(at_us), value) for at_us, value in waiting]
        return entry


class _KeyForm(EntryForm):
    """An entry is stored with the values of its key that wait."""

    def __init__(self, logic: AlignedLogic) -> None:
        super().__init__(logic)
        self._aligned = logic

    def to_stored(self, state: Any) -> Any:
        entry: KeyEntry = state
        self._aligned.before_storing(entry)
        return super().to_stored(entry)

    def from_stored(self, key: Any, stored: Any) -> Any:
        entry: KeyEntry = super().from_stored(key, stored)
        self._aligned.after_loading(key, entry)
        return entry


def _us(at: datetime) -> int:
    """The microseconds of a time that has been looked at before."""
    return event_us(at, _us, "ts_getter")
