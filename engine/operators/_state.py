"""State by key of one step on one worker: what the open epoch touched, and everything else.

A keyed kernel reads and writes one dict, `KeyedState.touched`. A key that isn't in it was not
touched in this epoch yet; `KeyedState.miss` looks further, in what earlier epochs left in memory
and then in the store. So the loop pays for neither change tracking nor look-ups in the store as
long as it works on keys that it has touched since the last barrier, and what a barrier has to save
is the dict itself.

Without recovery nobody ever calls `barrier`, and all state stays in `touched`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

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
    >>> state.touched["a"] = 1
    >>> state.barrier().keys
    ['a']
    >>> state.touched
    {}
    >>> state.miss("a")
    1
    >>> state.touched
    {'a': 1}
    """

    def __init__(self) -> None:
        self.touched: dict[Any, Any] = {}
        """State of the keys that the open epoch has touched; kernels write it."""
        self.form = StateForm()
        self._settled: dict[Any, Any] = {}
        """State of other keys, those touched longest ago first."""
        self._gone: set[Any] = set()
        self._stored: Stored | None = None

    def attach(self, stored: Stored) -> None:
        """From now on look up in a store what isn't in memory."""
        self._stored = stored

    def knows(self, key: Any) -> bool:
        """Whether memory decides about a key: it has its state, or knows that it is gone."""
        return key in self.touched or key in self._settled or key in self._gone

    def miss(self, key: Any) -> Any:
        """The state of a key that isn't in `touched`, where it is put; None if it has none."""
        state = self._settled.pop(key, None)
        if state is None:
            state = self._load(key)
            if state is None:
                return None
        self.touched[key] = state
        return state

    def get(self, key: Any) -> Any:
        """The state of a key, which counts as touched; None if it has none."""
        state = self.touched.get(key)
        return self.miss(key) if state is None else state

    def peek(self, key: Any) -> Any:
        """The state of a key, which doesn't count as touched; None if it has none."""
        for states in (self.touched, self._settled):
            if key in states:
                return states[key]
        return self._load(key)

    def _load(self, key: Any) -> Any:
        if self._stored is None or key in self._gone:
            return None
        stored = self._stored.load(key)
        return None if stored is None else self.form.from_stored(key, stored)

    def discard(self, key: Any) -> None:
        """Forget a key."""
        self.touched.pop(key, None)
        self._settled.pop(key, None)
        if self._stored is not None:
            self._gone.add(key)

    def all_keys(self) -> Iterator[Any]:
        """Every key that has state, in memory or stored, each once and in no order."""
        yield from self.touched
        yield from self._settled
        if self._stored is not None:
            stored: Iterable[Any] = self._stored.keys()
            yield from (key for key in stored if not self.knows(key))

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
        self._settled.update(touched)
        touched.clear()
        self._gone.clear()
        return changes
