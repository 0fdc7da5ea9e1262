"""State by key of one step on one worker: what is in memory, what is stored, what has changed.

A keyed kernel works on two dicts: `KeyedState.touched`, the states of the keys that the open epoch
has worked on, and `rest`, those of other keys in memory. A state is in one of them. A kernel looks
into `touched`; only at a key's first record of an epoch it takes the state out of `rest`, or else
asks `KeyedState.miss`, which looks further, in the older half of memory and in the store. What it
makes of it goes to `touched`. So what a barrier has to save is that dict, and then it is put back
into `rest`.

Without recovery nothing is ever saved, all states are in `touched`, and `rest` stays empty.

Memory is bounded in two halves. `rotate`, after a barrier, when all is saved, turns what is in
memory into the older half and forgets the older half before it: a key that is used comes back to
the younger half by its next look-up, and one that isn't goes with the rotation after the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from engine._stamps import STAMPED_LEN, unstamped
from engine.operators._keys import sorted_keys
from engine.operators._timers import Timers


class StateForm:
    """How the state of a step in memory becomes what is stored, and back. As it is, by default."""

    timers: Timers | None = None
    """The timers that are saved with the states."""

    def to_stored(self, state: Any) -> Any:
        """What to store. It must not change afterwards, or be encoded before it does."""
        return state

    def from_stored(self, key: Any, stored: Any) -> Any:  # noqa: ARG002 - for those who override it
        """The state that `to_stored` made `stored` of."""
        return stored


class Stored(Protocol):
    """What a store has of one step, all that was saved up to now."""

    def load(self, key: Any) -> Any:
        """What was stored for a key, or None."""
        ...

    def load_many(self, keys: list[Any]) -> list[Any]:
        """As `load`, for many keys, in their order."""
        ...

    def is_empty(self) -> bool:
        """Whether nothing was stored yet."""
        ...

    def keys(self) -> Iterable[Any]:
        """All keys, in no order."""
        ...


@dataclass(frozen=True, slots=True)
class StateChanges:
    """What an epoch did to a step's state."""

    keys: list[Any]
    stored: list[Any]
    """What to store for each of `keys`."""
    due_s: list[float | None] | None
    """The timer of each of `keys`, in seconds since 1970 UTC; None for a step without timers."""
    gone: list[Any]
    """Keys whose state was discarded."""


class KeyedState:
    """State by key. A key without state has no entry; None is never a state.

    >>> state = KeyedState()
    >>> state.put("a", 1)
    >>> state.get("a")
    1
    """

    def __init__(self) -> None:
        self.touched: dict[Any, Any] = {}
        """States of the keys that the open epoch has touched; all of them without recovery."""
        self.rest: dict[Any, Any] = {}
        """States of other keys in memory."""
        self.form = StateForm()
        self._older: dict[Any, Any] = {}
        self._gone: set[Any] = set()
        self._stored: Stored | None = None
        self._all_here = True
        self._absent: set[Any] = set()
        """Keys that the last `prefetch` found nothing for; asking again would be in vain."""

    def attach(self, stored: Stored) -> None:
        """From now on note what is touched, and look up in a store what isn't in memory."""
        self._stored = stored
        self._all_here = stored.is_empty()

    @property
    def tracked(self) -> bool:
        """Whether it is noted what an epoch touches: states may be outside of `touched` then."""
        return self._stored is not None

    @property
    def count(self) -> int:
        """How many keys the younger half of memory has entries of, discarded ones among them."""
        return len(self.touched) + len(self.rest) + len(self._gone)

    @property
    def in_memory(self) -> int:
        """How many keys have their state in memory, in either half."""
        return sum(len(states) for states in self._memory())

    def young(self) -> Iterator[tuple[Any, Any]]:
        """The entries of the younger half of memory, those with states that came last first."""
        return chain(reversed(self.touched.items()), reversed(self.rest.items()))

    def knows(self, key: Any) -> bool:
        """Whether memory decides about a key: it has its state, or knows that it is gone."""
        return key in self.touched or key in self.rest or key in self._older or key in self._gone

    def _memory(self) -> tuple[dict[Any, Any], ...]:
        """Where a state may be in memory; it is in one of them."""
        return self.touched, self.rest, self._older

    def miss(self, key: Any) -> Any:
        """The state of a key that is in neither `touched` nor `rest`; None if it has none.

        As with one that was taken out of `rest`, whoever asks must put it into `touched` or discard
        the key.
        """
        state = self._older.pop(key, None)
        return self._load(key) if state is None else state

    def prefetch(self, batch: list[Any]) -> None:
        """Bring the states of all keys of a batch of ``(key, value)`` to memory, in one go.

        What is no such record is passed over: whoever takes the batch finds out and says so.
        """
        if self._all_here or self._stored is None:
            return
        touched, rest, older, gone = self.touched, self.rest, self._older, self._gone
        try:
            keys = {key for key, _ in batch if key not in touched and key not in rest}
        except (TypeError, ValueError):
            return
        self._absent.clear()
        unknown: list[Any] = []
        for key in keys:
            state = older.pop(key, None)
            if state is not None:
                rest[key] = state
            elif key not in gone:
                unknown.append(key)
        if unknown:
            self._load_many(unknown, self._stored)

    def _load_many(self, keys: list[Any], stored: Stored) -> None:
        rest, absent, revived = self.rest, self._absent, self._revived
        plain = type(self) is KeyedState and type(self.form) is StateForm
        for key, found in zip(keys, stored.load_many(keys), strict=True):
            if found is None:
                absent.add(key)
            elif plain and (found.__class__ is not tuple or len(found) != STAMPED_LEN):
                rest[key] = found
            else:
                rest[key] = revived(key, found)

    def _revived(self, key: Any, stored: Any) -> Any:
        """The state in what was stored for a key, for memory."""
        # The time stamp is from a run in which the step had a time to live.
        return self.form.from_stored(key, unstamped(stored)[0])

    def get(self, key: Any) -> Any:
        """The state of a key, which counts as touched; None if it has none."""
        state = self.touched.get(key)
        if state is None:
            state = self.rest.pop(key, None)
            if state is None and (state := self.miss(key)) is None:
                return None
            self.touched[key] = state
        return state

    def put(self, key: Any, state: Any) -> None:
        """Set the state of a key that was looked up before; it counts as touched."""
        self.touched[key] = state

    def put_back(
        self, key: Any, state: Any, stamp_us: int | None, latest_us: int | None = None
    ) -> None:
        """Go back to what a key had when a record came that is left out.

        Args:
            key: The key.
            state: The state that was looked up for the record; None for none.
            stamp_us: When the key's last record before came, where states have a time to live.
            latest_us: The latest time that had been seen, where that is by event time.
        """
        del stamp_us, latest_us
        if state is None:
            self.touched.pop(key, None)
        else:
            self.touched[key] = state

    def peek(self, key: Any) -> Any:
        """The state of a key, which doesn't count as touched; None if it has none."""
        for states in self._memory():
            if key in states:
                return states[key]
        return self._load(key)

    def _load(self, key: Any) -> Any:
        # Until the first key leaves memory there is nothing to be found for a new one.
        if self._all_here or self._stored is None or key in self._gone or key in self._absent:
            return None
        if key in self.touched:
            # A fold may have become None, which is no state, after another was stored.
            return None
        stored = self._stored.load(key)
        return None if stored is None else self._revived(key, stored)

    def discard(self, key: Any) -> None:
        """Forget a key."""
        self.touched.pop(key, None)
        if self._stored is not None:
            self.rest.pop(key, None)
            self._older.pop(key, None)
            self._gone.add(key)

    def all_keys(self) -> Iterator[Any]:
        """Every key that has state, in memory or stored, each once and in no order."""
        for states in self._memory():
            yield from states
        if self._stored is not None and not self._all_here:
            stored: Iterable[Any] = self._stored.keys()
            yield from (key for key in stored if not self.knows(key))

    def keys_at_end(self) -> list[Any]:
        """The keys that have state when all input has ended, in key order."""
        return sorted_keys(self.all_keys())

    def clear(self) -> None:
        """Discard all keys, stored ones too."""
        for key in list(self.all_keys()):
            self.discard(key)

    def barrier(self) -> StateChanges:
        """Take what the epoch changed; the next epoch begins with nothing touched.

        Whoever takes it must save it before the next look-up, which would not find it otherwise.
        """
        touched, form = self.touched, self.form
        stored = list(touched.values())
        if type(form) is not StateForm:
            stored = [form.to_stored(state) for state in stored]
        due_s = None if form.timers is None else [form.timers.due_s.get(key) for key in touched]
        gone = [key for key in self._gone if key not in touched]
        changes = StateChanges(list(touched), stored, due_s, gone)
        self.rest.update(touched)
        touched.clear()
        self._gone.clear()
        self._absent.clear()
        return changes

    def rotate(self) -> None:
        """Make room in memory. Right after a barrier only: then all that is forgotten is saved."""
        forgotten, self._older = self._older, dict(self.rest)
        self.rest.clear()
        self._all_here = self._all_here and not forgotten
        if self.form.timers is not None:
            self.form.timers.forget(forgotten)
