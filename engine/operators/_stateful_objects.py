"""Running steps that keep an object for each key: `stateful_batch`, and all that is made of it.

An object is made anew from its snapshot when its key is not in memory. With a time to live (`TTL`)
there are two kinds: by the wall clock all values of a batch have come at one time, by event time
each has a time of its own, and a silence may lie between two of them. Those that go on after errors
are in `_stateful_going_on`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, cast

from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.operators._kernels import KeyedLogic, StepContext
from engine.operators._keys import check_key, is_pair, refuse_unkeyed, sorted_keys
from engine.operators._shown import shown
from engine.operators._state import StateForm
from engine.operators._state_ttl import ExpiringState
from engine.operators._timers import Timers


class ValueByValue:
    """A base of objects that go through the values of a batch one by one.

    Where it makes a difference they are given one at a time.
    """

    __slots__ = ()


class RunningObjects(KeyedLogic):
    """All keys of one `stateful_batch` on one worker. The states are the users' objects."""

    def __init__(self, builder: Callable[[Any], Any], step: StepContext) -> None:
        self._builder = builder
        self._now_s = step.now_s
        self.timers: Timers = Timers()
        self._state = step.state
        self._state.form = _ObjectForm(builder, self.timers)

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        by_key, object_of = self._by_key(batch), self._object
        emitted: list[Any] = []
        for key in keys_in_order(by_key):
            logic = object_of(key)
            self._after(key, logic, logic.on_batch(by_key[key]), emitted)
        return emitted

    def _object(self, key: Any) -> Any:
        """The object of a key, which is about to be called."""
        logic = self._state.get(key)
        return self._begin(key) if logic is None else logic

    def _begin(self, key: Any) -> Any:
        """Make the object of a key that has none."""
        logic = build_logic(self._builder, None, "on_batch")
        self._state.put(key, logic)
        return logic

    def _by_key(self, batch: list[Any]) -> dict[Any, list[Any]]:
        """The values of a batch by key. An error report finds the `record` at fault by its name."""
        by_key: dict[Any, list[Any]] = {}
        get = by_key.get
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            kept = get(its_key)
            if kept is None:
                by_key[its_key] = [new]
            else:
                kept.append(new)
        return by_key

    def next_due_s(self) -> float | None:
        return self.timers.first_s()

    def on_notify(self) -> list[Any]:
        emitted: list[Any] = []
        now_s = self._now_s()
        for due_s, key in self.timers.pop_due(now_s):
            logic = self._notified(key, due_s, now_s)
            if logic is not None:
                self._after(key, logic, logic.on_notify(), emitted)
        return emitted

    def _notified(self, key: Any, due_s: float, now_s: float) -> Any:  # noqa: ARG002 - see below
        """The object of a key that is due; None if no notification of it is.

        With a time to live a stored key is due when that ends, too. So what an object that had to
        be read from the store says itself decides.
        """
        in_memory = self._state.knows(key)
        logic = self._state.get(key)
        if in_memory:
            return logic
        wanted_s = self.timers.due_s.get(key)
        return None if wanted_s is None or wanted_s > now_s else logic

    def on_eof(self) -> list[Any]:
        emitted: list[Any] = []
        for key in self._state.keys_at_end():
            logic = self._object(key)
            self._after(key, logic, logic.on_eof(), emitted)
        return emitted

    def _after(self, key: Any, logic: Any, result: Any, emitted: list[Any]) -> None:
        """Take up what an object returned: emits, discard flag, next notification."""
        emits, discard = checked_result(logic, result)
        for emit in emits:
            emitted.append((key, emit))  # noqa: PERF401 - mostly one or none: no comprehension
        if discard:
            self._state.discard(key)
            self.timers.set(key, None)
        else:
            due = logic.notify_at()
            if due is not None:
                self.timers.set(key, _due_s(logic, due))
            elif key in self.timers.due_s:
                self.timers.set(key, None)


class ExpiringObjects(RunningObjects):
    """As `RunningObjects`, where keys have a time to live."""

    def __init__(self, builder: Callable[[Any], Any], step: StepContext) -> None:
        super().__init__(builder, step)
        assert isinstance(step.state, ExpiringState)  # noqa: S101
        self._ages = step.state

    def _living(self, key: Any, at_us: int, emitted: list[Any]) -> Any:
        """The object that a record finds which comes for a key at a time; None for none.

        If its time is over it is dropped. A notification that was due before, and is late, comes
        first.
        """
        ages = self._ages
        logic = ages.get(key)
        if logic is None:
            return None
        stamp_us = ages.stamps.get(key, at_us)
        if stamp_us > at_us - ages.after_us:
            return logic
        due_s = self.timers.due_s.get(key)
        if ages.event_time is None and due_s is not None and not ages.dies_before(stamp_us, due_s):
            self._after(key, logic, logic.on_notify(), emitted)
        ages.discard(key)
        return None

    def _notified(self, key: Any, due_s: float, now_s: float) -> Any:
        ages = self._ages
        logic = super()._notified(key, due_s, now_s)
        stamp_us = ages.stamps.get(key)
        if stamp_us is None or stamp_us > ages.over_us():
            return logic
        # Of a key that was read from the store the timer is what its object wants.
        due_s = self.timers.due_s.get(key, due_s)
        if logic is None or ages.event_time is not None or ages.dies_before(stamp_us, due_s):
            ages.discard(key)
            return None
        return logic


class ObjectsByArrival(ExpiringObjects):
    """Ages count by the wall clock."""

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        by_key = self._by_key(batch)
        now_us = self._ages.now_us()
        emitted: list[Any] = []
        for key in keys_in_order(by_key):
            values = by_key[key]
            logic = self._living(key, now_us, emitted)
            if logic is None:
                logic = self._begin(key)
            self._ages.stamps[key] = now_us
            self._after(key, logic, logic.on_batch(values), emitted)
        return emitted


class ObjectsByEventTime(ExpiringObjects):
    """Ages count by the times that records carry."""

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        by_key = self._by_key(batch)
        emitted: list[Any] = []
        for key in keys_in_order(by_key):
            self._take(key, by_key[key], emitted)
        return emitted

    def _take(self, key: Any, values: list[Any], emitted: list[Any]) -> None:
        """Give a key's values to its object, and after a silence to a new one."""
        ages = self._ages
        times_us = [ages.event_us(value) for value in values]
        begin = 0
        while begin < len(values):
            at_us = times_us[begin]
            logic = self._living(key, at_us, emitted)
            if logic is None:
                logic = self._begin(key)
            end = begin + 1
            stamp_us = max(at_us, ages.stamps.get(key, at_us))
            # An object that goes value by value may begin anew between two of them.
            last = end if isinstance(cast("object", logic), ValueByValue) else len(values)
            while end < last:
                if stamp_us <= times_us[end] - ages.after_us:
                    break
                stamp_us = max(stamp_us, times_us[end])
                end += 1
            ages.stamps[key] = stamp_us
            self._after(key, logic, logic.on_batch(values[begin:end]), emitted)
            begin = end


class _ObjectForm(StateForm):
    """A key's object is stored as its snapshot, beside its timer."""

    def __init__(self, builder: Callable[[Any], Any], timers: Timers) -> None:
        self._builder = builder
        self.timers: Timers | None = timers

    def to_stored(self, state: Any) -> Any:
        return state.snapshot()

    def from_stored(self, key: Any, stored: Any) -> Any:
        logic = build_logic(self._builder, stored, "on_batch")
        due = logic.notify_at()
        assert self.timers is not None  # noqa: S101
        self.timers.set(key, None if due is None else _due_s(logic, due))
        return logic


def keys_in_order(by_key: dict[Any, list[Any]]) -> Iterable[Any]:
    return by_key if len(by_key) == 1 else sorted_keys(by_key)


def build_logic(builder: Callable[[Any], Any], resume: Any, method: str) -> Any:
    """Have a user's builder make the object for one key; `method` is one that it must have.

    Raises:
        UserCodeError: What it made has no such method.
    """
    logic = builder(resume)
    if getattr(logic, method, None) is None:
        wanted = "StatefulLogic" if method == "on_item" else "StatefulBatchLogic"
        msg = f"{f_repr(builder)} must return a `{wanted}`; got {shown(logic)}"
        raise UserCodeError(msg, function=builder, hint=f"make a subclass of `{wanted}`")
    return logic


def checked_result(logic: Any, result: Any) -> tuple[Sequence[Any], bool]:
    """What an ``on_*`` method of a user's object returned, refused if it isn't as it must be.

    Raises:
        UserCodeError: It isn't a sequence of values to emit with a `bool` that says to discard.
    """
    if (result.__class__ is not tuple or len(result) != 2) and not is_pair(result):
        raise _wrong(logic, "return `(values, discard)`", result, "`([...], self.RETAIN)`")
    values, discard = result
    if values.__class__ is not list and not _is_sequence(values):
        raise _wrong(logic, "return a sequence of values to emit", values, "a list")
    if discard is not False and discard is not True:
        flags = "`self.RETAIN` or `self.DISCARD`"
        raise _wrong(logic, "return a `bool` that says whether to discard", discard, flags)
    return values, discard


def _is_sequence(values: object) -> bool:
    return isinstance(values, Sequence)


def _due_s(logic: Any, due: Any) -> float:
    if not isinstance(due, datetime) or due.tzinfo is None:
        wanted = "return a `datetime` with a time zone, or None, from `notify_at`"
        raise _wrong(logic, wanted, due, "`datetime.now(timezone.utc)` plus the time to wait")
    return due.timestamp()


def _wrong(logic: Any, wanted: str, got: object, hint: str) -> UserCodeError:
    kind = logic.__class__
    msg = f"`{kind.__qualname__}` must {wanted}; got {shown(got)}"
    return UserCodeError(msg, function=kind, hint=f"return {hint}")
