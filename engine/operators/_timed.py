"""Keyed steps that go by the time of events: what windows and joins in time have in common.

`TimedKeys` wakes a key when its watermark has reached what it waits for, and remembers keys that
have nothing open so long that nothing which was closed opens again. `TimedLogic` takes values in:
reads their times, tells those that are late, keeps a watermark for each key (or the step's). What a
step does with its values is up to the subclass.

A key's values of a batch are all judged and taken in (`TimedLogic.take`) before the key is settled
(`TimedKeys.settle`): emits what its watermark allows. Keys are settled in key order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

from engine.errors import StoreError
from engine.operators._event_time import MAX_US
from engine.operators._kernels import KeyedLogic, StepContext
from engine.operators._keys import check_key, refuse_unkeyed, sorted_keys
from engine.operators._state import StateForm
from engine.operators._time_axis import END_US, NEVER_US, EventTimes, TimeAxis
from engine.operators._timers import Scan, Timers

IDLE_MAX: Final = 50_000
"""How many keys with nothing open are remembered, on each worker; of more the longest idle go."""
IDLE_US: Final = 3_600_000_000
"""How long they are, on the axis: an hour."""
_SECOND_US: Final = 1_000_000


class Entry:
    """What a step knows of one key. Subclasses add what is open."""

    __slots__ = ("closed_us", "offset_us", "sealed_us")

    def __init__(self) -> None:
        self.offset_us = NEVER_US
        """See `engine.operators._time_axis`."""
        self.sealed_us = NEVER_US
        """What ended by then was closed before its time: at an end of input, or in a life of the
        key that was forgotten."""
        self.closed_us = NEVER_US
        """What was closed ended by then."""


EntryT = TypeVar("EntryT", bound=Entry)


class AxisTimers(Timers):
    """Timers on an axis: its present is another than the wall clock's."""

    def __init__(self, axis: TimeAxis) -> None:
        super().__init__()
        self._axis = axis

    def attach(self, scan: Scan, now_s: float) -> None:  # noqa: ARG002 - as in the base class
        """From now on look for timers in the store as well."""
        self._axis.sample()
        super().attach(scan, self._axis.now_us / _SECOND_US)


class TimedKeys(KeyedLogic, Generic[EntryT]):
    """The keys of a step with a clock, on one worker: when each is settled, and forgotten.

    Args:
        step: The step.
        axis: The time it goes by.
    """

    seals_at_end = True
    """Whether what an end of input closed stays closed in a run that goes on."""
    counts_up = False
    """Whether a forgotten key loses more than its clock, so that it shouldn't be at once."""

    def __init__(self, step: StepContext, axis: TimeAxis) -> None:
        self.axis = axis
        self.step_id = step.step_id
        self.timers: Timers = AxisTimers(axis)
        """When to settle a key next, on the axis, in seconds. May be too early, never too late."""
        self.floor_us = NEVER_US
        """What was closed for keys that are forgotten ended by then."""
        self._state = step.state
        self._state.form = EntryForm(self)
        self._idle: OrderedDict[Any, None] = OrderedDict()
        """Keys that are remembered, those that have been idle longest first."""

    @property
    def _remembers(self) -> bool:
        return self.axis.by_key or self.counts_up

    # For the subclass

    @abstractmethod
    def begin(self) -> EntryT:
        """The entry of a key that is new."""

    @abstractmethod
    def settle(self, key: Any, entry: EntryT, watermark_us: int, out: list[Any]) -> None:
        """Do what a watermark allows; `END_US` once all input has ended."""

    @abstractmethod
    def due_us(self, entry: EntryT) -> int | None:
        """The watermark from which there is something to settle; None if nothing is open.

        `END_US` if something is open, and no watermark alone changes that.
        """

    @abstractmethod
    def to_stored(self, entry: EntryT) -> Any:
        """What to store of an entry, besides what `Entry` has."""

    @abstractmethod
    def from_stored(self, stored: Any) -> EntryT:
        """The entry that `to_stored` made `stored` of."""

    def seal(self, entry: EntryT) -> None:
        """All that was open of a key has been closed at an end of input."""
        if self.seals_at_end:
            entry.sealed_us = entry.closed_us

    def sealed_until_us(self, entry: EntryT) -> int:
        """Until that watermark a key with nothing open has to be remembered."""
        return entry.sealed_us

    def forgotten(self, entry: EntryT) -> None:
        """A key that has nothing open is about to be forgotten."""

    def loaded(self, key: Any, entry: EntryT) -> None:
        """An entry has come back from the store."""
        due_us = self.due_us(entry)
        if due_us is not None and due_us != END_US:
            self.timers.set(key, (due_us - entry.offset_us) / _SECOND_US)

    # What the runtime calls

    def kind(self) -> str:
        """What the state of keys is the state of: with another kind nothing could be made of it."""
        return type(self).__name__

    def _full_kind(self) -> str:
        return f"{self.kind()}, with {self.axis.told}"

    def step_state(self) -> Any:
        return self._full_kind(), self.axis.now_us, self.floor_us

    def resume_step(self, states: list[Any]) -> None:
        for kind, *_ in states:
            if kind != self._full_kind():
                raise other_kind(self.step_id, kind, self._full_kind())
        self.axis.resume(max(now_us for _, now_us, _ in states))
        self.floor_us = max(floor_us for _, _, floor_us in states)

    def next_due_s(self) -> float | None:
        first_s = self.timers.first_s()
        if first_s is None or self.axis.by_stream:
            return None
        return self.axis.wall_s(round(first_s * _SECOND_US))

    def on_notify(self) -> list[Any]:
        self.axis.wake()
        return self._settle_due()

    def on_watermark(self, at_us: int) -> list[Any]:
        """The watermark of the stream has risen to that; gives what the step emits."""
        self.axis.advance(at_us)
        return self._settle_due()

    def resume_watermark(self, at_us: int) -> None:
        """The watermark of the stream was this when it was saved."""
        self.axis.resume(at_us)

    def on_eof(self) -> list[Any]:
        out: list[Any] = []
        for key in self._state.keys_at_end():
            entry = self._state.get(key)
            if entry is None:
                # Forgotten since, when one before it became idle and there were too many.
                continue
            self.settle(key, entry, END_US, out)
            self.seal(entry)
            if self.due_us(entry) is None:
                self._put_away(key, entry)
        return out

    # Keys

    def watermark_us(self, entry: Entry) -> int:
        """The watermark of a key."""
        return self.axis.now_us + entry.offset_us

    def _begin(self, key: Any) -> EntryT:
        entry = self.begin()
        if not self.axis.by_key:
            entry.offset_us = 0
        entry.sealed_us = entry.closed_us = self.floor_us
        self._state.put(key, entry)
        return entry

    def _settle_due(self) -> list[Any]:
        out: list[Any] = []
        woken = dict(self._woken())
        for key in sorted_keys(woken):
            self._settle(key, woken[key], out)
        return out

    def _woken(self) -> Iterator[tuple[Any, EntryT]]:
        """The keys whose time has come on the axis. Those that are idle are forgotten, or wait."""
        axis = self.axis
        for _, key in self.timers.pop_due(axis.now_us / _SECOND_US):
            entry = self._state.get(key)
            if entry is None:
                continue
            if self.due_us(entry) is not None:
                yield key, entry
            elif self._remembers or self._is_over(entry):
                self._forget(key, entry)
            else:
                self._put_away(key, entry)

    def _settle(self, key: Any, entry: EntryT, out: list[Any]) -> None:
        """Settle a key, and see to it that it is settled again in time."""
        watermark_us = self.axis.now_us + entry.offset_us
        due_us = self.due_us(entry)
        if due_us is not None and due_us <= watermark_us:
            self.settle(key, entry, watermark_us, out)
            due_us = self.due_us(entry)
        if due_us is None:
            self._put_away(key, entry)
            return
        if self._idle:
            self._idle.pop(key, None)
        self._wake_at(key, entry, due_us)

    def _wake_at(self, key: Any, entry: EntryT, due_us: int) -> None:
        """See to it that a key is settled once its watermark has come to that, or before."""
        if due_us == END_US:
            self.timers.set(key, None)
            return
        due_s = (due_us - entry.offset_us) / _SECOND_US
        set_s = self.timers.due_s.get(key)
        if set_s is None or due_s < set_s:
            self.timers.set(key, due_s)

    def _put_away(self, key: Any, entry: EntryT) -> None:
        """Nothing of a key is open: remember it only as long as is needed."""
        axis = self.axis
        if not self._remembers:
            if self._is_over(entry):
                self._forget(key, entry)
            else:
                self.timers.set(key, self.sealed_until_us(entry) / _SECOND_US)
            return
        if key in self._idle:
            return
        self.timers.set(key, (axis.now_us + IDLE_US) / _SECOND_US)
        self._remember(key)

    def _is_over(self, entry: EntryT) -> bool:
        """Whether the watermark is past all that was closed before its time."""
        until_us = self.sealed_until_us(entry)
        return until_us <= self.axis.now_us and until_us < MAX_US

    def _remember(self, key: Any) -> None:
        """Forget the key that has been idle longest, if there are too many of them."""
        self._idle[key] = None
        if len(self._idle) > IDLE_MAX:
            first = next(iter(self._idle))
            oldest = self._state.get(first)
            if oldest is None or self.due_us(oldest) is not None:
                del self._idle[first]
            else:
                self._forget(first, oldest)

    def _forget(self, key: Any, entry: EntryT) -> None:
        self._idle.pop(key, None)
        if self._remembers:
            self.floor_us = max(self.floor_us, entry.closed_us)
            self.forgotten(entry)
        self.timers.set(key, None)
        self._state.discard(key)


class TimedLogic(TimedKeys[EntryT]):
    """A keyed step with a clock that goes from value to value.

    Args:
        step: The step.
        axis: The time it goes by.
        times: For each input, how its values say their time; None: when they come.
    """

    keeps_late = False
    """Whether values behind the watermark are taken in all the same."""

    def __init__(
        self, step: StepContext, axis: TimeAxis, times: Sequence[EventTimes | None]
    ) -> None:
        super().__init__(step, axis)
        self._times = times

    @abstractmethod
    def take(self, key: Any, entry: EntryT, port: int, at_us: int, value: Any) -> None:
        """Take in a value that isn't late."""

    def refuse(self, key: Any, entry: EntryT, port: int, at_us: int, value: Any) -> None:
        """A value is late."""

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        axis, times, get = self.axis, self._times[port], self._state.get
        take, late_too = self.take, self.keeps_late
        axis.sample()
        now_us, by_key = axis.now_us, axis.by_key
        latest_us = NEVER_US
        touched: dict[Any, EntryT] = {}
        known = touched.get
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            entry = known(its_key)
            if entry is None:
                entry = touched[its_key] = get(its_key) or self._begin(its_key)
            at_us = now_us if times is None else times.at_us(new)
            latest_us = max(latest_us, at_us)
            if by_key and times is not None:
                offset_us = at_us - times.wait_us - now_us
                if offset_us > entry.offset_us:  # noqa: PLR1730 - a call less per record
                    entry.offset_us = offset_us
            # No watermark passes the end of time.
            if late_too or at_us >= entry.offset_us + now_us or at_us == MAX_US:
                take(its_key, entry, port, at_us, new)
            else:
                self.refuse(its_key, entry, port, at_us, new)
        self.batch_latest_us = None if latest_us == NEVER_US else latest_us
        out: list[Any] = []
        for key in touched if len(touched) == 1 else sorted_keys(touched):
            self._settle(key, touched[key], out)
        return out


OWN: Final = "a clock or a windower of your own"


def other_kind(step_id: str | None, was: str, now: str) -> StoreError:
    """The error for a step that can't go on from what is saved of it: that is of something else."""
    msg = (
        f"what is saved of it is of {was}, and the step is now of {now}. Make it again what it "
        "was, or give it another name and forget what is saved: "
        f"`python -m engine.recovery drop-step DIR {step_id or 'STEP'}`"
    )
    return StoreError(msg if step_id is None else f"step {step_id!r}: {msg}")


class EntryForm(StateForm):
    """An entry is stored as a tuple of plain values."""

    def __init__(self, logic: TimedKeys[Any]) -> None:
        self._logic = logic
        self.timers: Timers | None = logic.timers

    def to_stored(self, state: Any) -> Any:
        entry: Entry = state
        # First, as this may bring the offset up to date.
        rest = self._logic.to_stored(entry)
        return entry.offset_us, entry.sealed_us, entry.closed_us, rest

    def from_stored(self, key: Any, stored: Any) -> Any:
        logic = self._logic
        if stored.__class__ is not tuple:
            raise other_kind(logic.step_id, OWN, logic.kind())
        offset_us, sealed_us, closed_us, rest = stored
        entry = logic.from_stored(rest)
        entry.offset_us = offset_us if logic.axis.by_key else 0
        entry.sealed_us, entry.closed_us = sealed_us, closed_us
        logic.loaded(key, entry)
        return entry
