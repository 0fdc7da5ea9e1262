"""Tumbling and sliding windows whose values become one: the kernel for which speed counts.

It works on batches (`_batch_times`). Windows are dicts by key (`Pane`): a value costs one look-up.

Two things it does later than a watermark would allow, when nobody can tell the difference: values
that are taken in order of time wait in a queue of their key until a window of theirs is to close,
or the queues get long; and keys are only looked at for windows to close when the greatest watermark
of all keys has reached the end of one. Nothing else is left out: where the clock gives each key a
watermark of its own, its windows close when that reaches them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

from engine.operators._event_time import MAX_US, UTC_MIN, utc_datetime
from engine.operators._kernels import StepContext
from engine.operators._keys import sorted_keys
from engine.operators._time_axis import END_US, NEVER_US, EventTimes, TimeAxis
from engine.operators._timed import IDLE_US
from engine.operators.windowing._accumulators import (
    REFUSED,
    Accumulators,
    OwnPanes,
    SharedPanes,
)
from engine.operators.windowing._batch_times import BatchTimes, KeyEntry, us_of
from engine.operators.windowing._panes import NO_ACC, Pane, PanedState
from engine.operators.windowing._shapes import Aligned
from engine.operators.windowing._windowers import WindowMetadata
from engine.operators.windowing._works import Folding

_SECOND_US: Final = 1_000_000
_QUEUED_MIN: Final = 1 << 14
_QUEUED_MAX: Final = 1 << 18
"""So many values may wait in all queues until those are worked off, depending on how many keys."""
_QUEUED_EACH: Final = 32


class AlignedLogic(BatchTimes):
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
        super().__init__(step, axis, times)
        # What was closed is known by its ids.
        self.seals_at_end = False
        self._shape, self._folding, self._ordered = shape, folding, ordered
        state = step.state
        assert isinstance(state, PanedState)  # noqa: S101
        whole = folding.whole
        self._accs: Accumulators = (
            OwnPanes(state, shape, folding)
            if whole is None
            else SharedPanes(state, shape, folding, whole)
        )
        self._panes = state.panes
        state.due_us = self._axis_due_us
        state.on_forget = self._leave
        self._late, self._meta = step.asides
        self._low = self._end = UTC_MIN
        self._in_stretch: list[Pane] = []
        """The panes of the times between these two, which are tried first."""
        self._before = self._low, self._end, self._in_stretch
        """The same of the times that were worked on before."""
        self._live: dict[Any, KeyEntry] = {}
        """Keys that have something open, or values that wait."""
        self._behind: dict[Any, tuple[KeyEntry, int, datetime]] = {}
        """Those of which other keys have closed windows that they still have open, with which
        watermark the first of these closes, or a lower one, and their `high` when that was noted.
        """
        self._top_us = NEVER_US
        """The greatest watermark of all keys, as it was when keys were looked at last."""
        self._queued = 0
        self._queued_max = _QUEUED_MIN

    def kind(self) -> str:
        return f"{self._shape.told()} that fold{self._accs.told}"

    def step_state(self) -> Any:
        arrivals = self._folding.arrivals
        state = super().step_state()
        return state if arrivals is None else (*state, arrivals.last)

    def resume_step(self, states: list[Any]) -> None:
        super().resume_step([state[:3] for state in states])
        arrivals = self._folding.arrivals
        if arrivals is not None:
            arrivals.last = max(last for *_, last in states)

    # Batches

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        axis = self.axis
        axis.sample()
        ats = self._times_of(batch)
        low, top = min(ats), max(ats)
        self.batch_latest_us = us_of(top)
        risen: list[Any] = []
        late = self._rise(batch, ats, low, top, risen) if axis.by_key else self._late_of(ats, low)
        if late:
            batch, ats = self._without(batch, ats, late)
        old: set[Any] = set()
        if ats:
            old = self._old_of(batch, ats)
            if self._ordered:
                self._enqueue(batch, ats)
            elif self._low <= low and top < self._end:
                self._fold(self._in_stretch, batch)
            else:
                self._fold_each(batch, ats)
        if self._behind:
            self._look_behind(batch, old)
        old.update(risen)
        out: list[Any] = []
        self._advance(old, out)
        return out

    def _without(
        self, batch: list[Any], ats: list[datetime], late: list[int]
    ) -> tuple[list[Any], list[datetime]]:
        """Give late records back; gives the others."""
        places = set(late)
        for place in late:
            key, value = batch[place]
            self._refuse(key, value, self._shape.numbers(us_of(ats[place])))
        kept = [place for place in range(len(batch)) if place not in places]
        return [batch[place] for place in kept], [ats[place] for place in kept]

    def _refuse(self, key: Any, value: Any, numbers: Iterable[int]) -> None:
        if self._late is not None:
            self._late.extend([(key, (number, value)) for number in numbers])

    # Values

    def _old_of(self, batch: list[Any], ats: list[datetime]) -> set[Any]:
        """The keys of values that fall into windows which other keys have closed.

        Notes when the first of the other windows closes.
        """
        low_us = us_of(min(ats))
        bound_us = self._shape.last_close_us(self._reached_us())
        old: set[Any] = set()
        if low_us < bound_us:
            bound = utc_datetime(bound_us)
            old = {key for (key, _), at in zip(batch, ats, strict=True) if at < bound}
            low_us = bound_us
        self._next_us = min(self._next_us, self._shape.first_close_us(low_us))
        return old

    def _look_behind(self, batch: list[Any], old: set[Any]) -> None:
        """Add the keys of a batch that were behind, and have come to the end of a window."""
        behind = self._behind
        for key in behind.keys() & {key for key, _ in batch}:
            entry, due_us, high = behind[key]
            if entry.high is high:
                # What has passed on the axis since then is seen to by the timer.
                continue
            if self._watermark_us(entry) >= due_us:
                old.add(key)
            else:
                behind[key] = entry, due_us, entry.high
                self._wake_at(key, entry, due_us)

    def _enqueue(self, batch: list[Any], ats: list[datetime]) -> None:
        """Let values wait."""
        get, entry_of, live = self._state.touched.get, self._entry_of, self._live
        for (key, value), at in zip(batch, ats, strict=True):
            entry = get(key)
            if entry is None:
                entry = entry_of(key)
            queue = entry.queue
            if not queue:
                queue = entry.queue = list[Any]()
                live[key] = entry
            queue.append(at)
            queue.append(value)
        self._queued += len(batch)

    def _drain(self, key: Any, entry: KeyEntry, until_us: int) -> None:
        """Give the values of a key up to a time, that one included, to their windows in order."""
        queue = entry.queue
        if len(queue) == 2:
            # As most are where there are very many keys.
            at, value = queue
            if us_of(at) <= until_us:
                entry.queue = ()
                if not self._low <= at < self._end:
                    self._go_to(at)
                self._fold(self._in_stretch, [(key, value)])
            return
        ats: Sequence[datetime] = queue[0::2]
        values: Sequence[Any] = queue[1::2]
        order = sorted(range(len(ats)), key=ats.__getitem__)
        ats = [ats[place] for place in order]
        values = [values[place] for place in order]
        count = bisect_right(ats, utc_datetime(until_us))
        begin = 0
        while begin < count:
            at = ats[begin]
            if not self._low <= at < self._end:
                self._go_back_to(at)
            end = max(begin + 1, bisect_left(ats, self._end, begin, count))
            self._fold_some(self._in_stretch, key, values[begin:end])
            begin = end
        if count == len(ats):
            entry.queue = ()
            return
        rest: list[Any] = [None] * (2 * (len(ats) - count))
        entry.queue = rest
        rest[0::2] = ats[count:]
        rest[1::2] = values[count:]

    def _fold_some(self, panes: list[Pane], key: Any, values: Sequence[Any]) -> None:
        """Give values of one key to some windows, to all of them each."""
        first, folder = self._folding.first, self._folding.folder
        for pane in panes:
            acc = pane.touched.get(key, NO_ACC)
            if acc is NO_ACC:
                acc = self._opened(pane, key)
            if acc is REFUSED:
                for value in values:
                    self._take_apart(pane, key, value)
                continue
            rest = iter(values)
            if acc is NO_ACC:
                acc = first(next(rest))
            for value in rest:
                acc = folder(acc, value)
            pane.touched[key] = acc

    def _fold(self, panes: list[Pane], records: list[tuple[Any, Any]]) -> None:
        """Give records to some windows, to all of them each."""
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
                    if acc is REFUSED:
                        self._take_apart(pane, key, value)
                        continue
                touched[key] = folder(acc, value)

    def _fold_each(self, batch: list[tuple[Any, Any]], ats: list[datetime]) -> None:
        """Give records to their windows, which differ from record to record."""
        first, folder = self._folding.first, self._folding.folder
        low, end, panes = self._low, self._end, self._in_stretch
        before = self._before
        for (key, value), at in zip(batch, ats, strict=True):
            if not low <= at < end:
                # Records that are out of order go to and fro between two stretches of time.
                last, before = before, (low, end, panes)
                if last[0] <= at < last[1]:
                    low, end, panes = last
                else:
                    self._go_to(at)
                    low, end, panes = self._low, self._end, self._in_stretch
            for pane in panes:
                touched = pane.touched
                acc = touched.get(key, NO_ACC)
                if acc is NO_ACC:
                    acc = self._opened(pane, key)
                if acc is NO_ACC:
                    touched[key] = first(value)
                elif acc is REFUSED:
                    self._take_apart(pane, key, value)
                else:
                    touched[key] = folder(acc, value)
        self._low, self._end, self._in_stretch = low, end, panes
        self._before = before

    def _go_back_to(self, at: datetime) -> None:
        """As `_go_to`, where keys one after the other go from one stretch to the next."""
        last, self._before = self._before, (self._low, self._end, self._in_stretch)
        if last[0] <= at < last[1]:
            self._low, self._end, self._in_stretch = last
        else:
            self._go_to(at)

    def _go_to(self, at: datetime) -> None:
        """Find the panes of a time, which are tried first from now on."""
        at_us, shape = us_of(at), self._shape
        stretch = shape.stretch(at_us)
        self._low = utc_datetime(shape.stretch_us(stretch))
        self._end = utc_datetime(shape.stretch_us(stretch + 1))
        self._in_stretch = self._accs.panes_at(at_us)

    def _opened(self, pane: Pane, key: Any) -> Any:
        """What a pane holds of a key that it wasn't found to hold anything of.

        `NO_ACC` if it is new to the pane, which is open for it from now on.
        """
        acc = pane.rest.pop(key, NO_ACC)
        if acc is not NO_ACC:
            return acc
        entry = self._entry_of(key)
        acc = self._accs.opened(pane, key, entry)
        if acc is NO_ACC:
            self._live[key] = entry
        return acc

    def _take_apart(self, pane: Pane, key: Any, value: Any) -> None:
        """Take in a value that not all windows of a pane take."""
        entry = self._entry_of(key)
        refusing, own, acc = self._accs.apart(pane, key, entry)
        self._refuse(key, value, refusing)
        if own is not None:
            folding = self._folding
            new = folding.first(value) if acc is NO_ACC else folding.folder(acc, value)
            own.touched[key] = new
        if entry.open:
            self._live[key] = entry

    # Closing

    def _advance(self, keys: set[Any], out: list[Any]) -> None:
        """Do what the watermarks allow; some keys have to be looked at in any case."""
        reached_us = self._top_us = self._reached_us()
        if self._queued > self._queued_max:
            self._drain_all()
        closing = reached_us >= self._next_us
        if closing:
            keys.update(self._reaching())
            self._next_us = END_US
        first_s = self.timers.first_s()
        if first_s is not None and first_s * _SECOND_US <= self.axis.now_us:
            keys.update([key for key, _ in self._woken()])
        for key in sorted_keys(keys):
            entry = self._state.get(key)
            if entry is not None:
                self._settle(key, entry, out)
        if closing:
            self._drop_panes(reached_us)

    def _reaching(self) -> list[Any]:
        """The keys that may have come to the end of a window, now that some key has.

        The others are behind from now on.
        """
        live, first_us = self._live, self._next_us
        if not self.axis.by_key:
            return list(live)
        mark = utc_datetime(first_us + self._wait_us - self._shift_us())
        reaching: list[Any] = []
        slow: dict[Any, KeyEntry] = {}
        for key, entry in live.items():
            if entry.high >= mark:
                reaching.append(key)
            else:
                slow[key] = entry
        for key, entry in slow.items():
            del live[key]
            entry.offset_us = self._offset_us(entry)
            self._behind[key] = entry, first_us, entry.high
            self._wake_at(key, entry, first_us)
        return reaching

    def _drop_panes(self, reached_us: int) -> None:
        """Forget windows that hold nothing any more."""
        panes = self._panes
        for number in [n for n, pane in panes.items() if pane.close_us <= reached_us]:
            if not panes[number].touched and not panes[number].rest:
                del panes[number]
        self._low = self._end = UTC_MIN
        self._before = self._low, self._end, self._in_stretch

    def _drain_all(self) -> None:
        """Work off the queues as far as the watermarks allow."""
        left = 0
        behind = [(key, entry) for key, (entry, *_) in self._behind.items()]
        for key, entry in [*self._live.items(), *behind]:
            if entry.queue:
                self._drain(key, entry, self._watermark_us(entry))
                left += len(entry.queue) // 2
                if self._state.tracked:
                    self._state.get(key)
        self._queued = left
        each = _QUEUED_EACH * len(self._live)
        self._queued_max = 2 * left + min(max(_QUEUED_MIN, each), _QUEUED_MAX)

    def _settle(self, key: Any, entry: KeyEntry, out: list[Any]) -> None:
        watermark_us = self._watermark_us(entry)
        if self._is_due(entry, watermark_us):
            self.settle(key, entry, watermark_us, out)
        due_us = self._due_after_us(entry, watermark_us)
        if due_us is not None and due_us <= self._top_us:
            self._live.pop(key, None)
            self._behind[key] = entry, due_us, entry.high
            self._wake_at(key, entry, due_us)
            return
        if self._behind.pop(key, None) is not None:
            # Or it would go off when the key is idle, which would be forgotten for it.
            self.timers.set(key, None)
        if due_us is None:
            self._live.pop(key, None)
            self._put_away(key, entry)
            return
        self._live[key] = entry
        self._next_us = min(self._next_us, due_us)
        if self._idle:
            self._idle.pop(key, None)

    def _put_away(self, key: Any, entry: KeyEntry) -> None:
        if not self.axis.by_key:
            super()._put_away(key, entry)
        elif key not in self._idle:
            self._remember(key)

    def settle(self, key: Any, entry: KeyEntry, watermark_us: int, out: list[Any]) -> None:
        if entry.queue:
            # What is behind the ends of the windows that close may wait for the next ones, unless
            # it may be late for some of those.
            until_us = watermark_us
            refuses = entry.shut or entry.sealed_us > NEVER_US
            if watermark_us < MAX_US and not refuses:
                until_us = self._shape.last_close_us(watermark_us) - 1
            self._drain(key, entry, until_us)
        # At the end of input windows close that the watermark isn't past.
        reached_us = self._watermark_us(entry) if watermark_us == END_US else watermark_us
        if entry.shut:
            entry.shut = self._shape.not_over(entry.shut, reached_us)
        last, opened, shape = self._shape.last_closed(watermark_us), entry.open, self._shape
        entry.open = tuple([number for number in opened if number > last])
        if len(entry.open) == len(opened):
            return
        closing = [number for number in opened if number <= last]
        for number, acc in zip(closing, self._accs.close(key, entry, closing), strict=True):
            out.append((key, (number, acc)))
            close_us = shape.close_us(number)
            entry.closed_us = max(entry.closed_us, close_us)
            if close_us > reached_us or close_us == MAX_US:
                entry.shut = (*entry.shut, number)
            if self._meta is not None:
                times = utc_datetime(shape.open_us(number)), utc_datetime(close_us)
                self._meta.append((key, (number, WindowMetadata(*times))))

    def _is_due(self, entry: KeyEntry, watermark_us: int) -> bool:
        """Whether a watermark closes a window of a key."""
        opened = entry.open
        if opened and self._shape.close_us(opened[0]) <= watermark_us:
            return True
        due_us = self.due_us(entry)
        return due_us is not None and due_us <= watermark_us

    def _due_after_us(self, entry: KeyEntry, watermark_us: int) -> int | None:
        """As `due_us`, of a key that isn't due with a watermark any more."""
        opened, shape = entry.open, self._shape
        if opened:
            # Mostly it is the next window of all that closes, and then none can close before.
            first_us = shape.close_us(opened[0])
            if first_us <= shape.first_close_us(watermark_us):
                return first_us
        return self.due_us(entry)

    def due_us(self, entry: KeyEntry) -> int | None:
        shape, queue = self._shape, entry.queue
        due_us = shape.close_us(min(entry.open)) if entry.open else END_US
        if queue:
            first = queue[0] if len(queue) == 2 else min(queue[0::2])
            due_us = min(due_us, shape.first_close_us(us_of(first)))
        return None if due_us == END_US else due_us

    # Time

    def next_due_s(self) -> float | None:
        axis = self.axis
        if axis.by_stream:
            return None
        due_s = self.timers.first_s()
        due_us = END_US if due_s is None else round(due_s * _SECOND_US)
        if self._next_us < END_US:
            due_us = min(due_us, axis.now_us + max(0, self._next_us - self._reached_us()))
        return None if due_us >= END_US else axis.wall_s(due_us)

    def on_notify(self) -> list[Any]:
        self.axis.wake()
        out: list[Any] = []
        self._advance(set(), out)
        return out

    def on_watermark(self, at_us: int) -> list[Any]:
        self.axis.advance(at_us)
        out: list[Any] = []
        self._advance(set(), out)
        return out

    def on_eof(self) -> list[Any]:
        out = super().on_eof()
        self._live.clear()
        self._behind.clear()
        self._drop_panes(END_US)
        self._next_us = END_US
        return out

    def sealed_until_us(self, entry: KeyEntry) -> int:
        return max(map(self._shape.close_us, entry.shut), default=NEVER_US)

    # State

    def _axis_due_us(self, entry: KeyEntry) -> int | None:
        """When a key is to be looked at next, on the axis, for the index of the store."""
        due_us = self.due_us(entry)
        if due_us is not None:
            return due_us - (self._offset_us(entry) if self.axis.by_key else 0)
        return self.axis.now_us + IDLE_US if self.axis.by_key else self.sealed_until_us(entry)

    def to_stored(self, entry: KeyEntry) -> Any:
        if self.axis.by_key:
            entry.offset_us = self._offset_us(entry)
        state = entry.open, entry.queue, entry.shut
        return (*state, entry.parts) if entry.parts else state

    def from_stored(self, stored: Any) -> KeyEntry:
        entry = KeyEntry()
        opened, queue, shut, *parts = cast("tuple[Any, ...]", stored)
        entry.open, entry.queue, entry.shut = tuple(opened), queue or (), tuple(shut)
        entry.parts = tuple(parts[0]) if parts else ()
        return entry

    def _leave(self, entries: Mapping[Any, KeyEntry]) -> None:
        """Keys leave memory; the store has them, and says when they are due."""
        for key, entry in entries.items():
            self._live.pop(key, None)
            self._behind.pop(key, None)
            due_us = self._axis_due_us(entry)
            if due_us is not None:
                self.timers.set(key, due_us / _SECOND_US)
        # Those that are due before the store is asked again have to be kept here.
        self.timers.forget(entries)

    def loaded(self, key: Any, entry: KeyEntry) -> None:
        if self.axis.by_key and entry.offset_us != NEVER_US:
            entry.high = utc_datetime(entry.offset_us + self._wait_us + self._began_us)
            self._high = max(self._high, entry.high)
        due_us = self.due_us(entry)
        if due_us is not None:
            self._live[key] = entry
            self._next_us = min(self._next_us, due_us)
