"""State by key of one step on one worker: what the open epoch touched, and everything else.

A keyed kernel reads and writes one dict, `KeyedState.touched`. A key that isn't in it was not
touched in this epoch yet; `KeyedState.miss` looks further, in what earlier epochs left in memory
and then in the store. So the loop pays for neither change tracking nor look-ups in the store as
long as it works on keys that it has touched since the last barrier, and a snapshot is the dict
itself.

Without recovery nobody ever calls `barrier`, and all state stays in `touched`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol


class StateForm:
    """How the state of a step in memory becomes what is stored, and back. As it is, by default."""

    def to_stored(self, key: Any, state: Any) -> Any:  # noqa: ARG002 - for those who override it
        """What to store for a key. It must not change afterwards, or be encoded before it does."""
        return state

    def from_stored(self, key: Any, stored: Any) -> Any:  # noqa: ARG002 - as above
        """The state that `to_stored` made `stored` of."""
        return stored

    def evicted(self, keys: list[Any]) -> None:
        """These keys left memory."""


class Stored(Protocol):
    """What a store has of one step."""

    def load(self, key: Any) -> Any:
        """What was stored for a key, or None."""
        ...

    def keys(self) -> Iterable[Any]:
        """All keys, in no order."""
        ...


@dataclass(frozen=True, slots=True)
class KeyedChanges:
    """What an epoch did to a step's state."""

    keys: list[Any]
    stored: list[Any]
    """What to store for each of `keys`."""
    gone: list[Any]
    """Keys whose state was discarded."""


class KeyedState:
    """State by key. A key without state has no entry; None is never a state.

    >>> state = KeyedState()
    >>> state.touched["a"] = 1
    >>> state.barrier(1).keys
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
        self._settled: dict[Any, Any] = {}
        """State of other keys, those touched longest ago first."""
        self._gone: set[Any] = set()
        self._tombstones: dict[Any, int] = {}
        """Keys that the table may still have though they were discarded in that epoch."""
        self._pins: deque[tuple[int, list[Any]]] = deque()
        """Keys that the table doesn't have as they are yet, by epoch."""
        self._stored: Stored | None = None
        self._form = StateForm()

    def attach(self, stored: Stored) -> None:
        """From now on look up in a store what isn't in memory."""
        self._stored = stored

    def use_form(self, form: StateForm) -> None:
        """Store states in another form than they have in memory."""
        self._form = form

    def knows(self, key: Any) -> bool:
        """Whether memory decides about a key: it has its state, or knows that it is gone."""
        return (
            key in self.touched
            or key in self._settled
            or key in self._gone
            or key in self._tombstones
        )

    def __len__(self) -> int:
        """How many keys have their state in memory."""
        return len(self.touched) + len(self._settled)

    def miss(self, key: Any) -> Any:
        """The state of a key that isn't in `touched`, where it is put; None if it has none."""
        state = self._settled.pop(key, None)
        if state is None:
            state = self._from_store(key)
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
        return self._from_store(key)

    def _from_store(self, key: Any) -> Any:
        if self._stored is None or key in self._gone or key in self._tombstones:
            return None
        stored = self._stored.load(key)
        return None if stored is None else self._form.from_stored(key, stored)

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
            yield from (key for key in self._stored.keys() if not self.knows(key))

    def clear(self) -> None:
        """Discard all keys, stored ones too."""
        for key in list(self.all_keys()):
            self.discard(key)

    # Epochs

    def barrier(self, epoch: int) -> KeyedChanges:
        """Take what the epoch changed; the next epoch begins with nothing touched."""
        touched, to_stored = self.touched, self._form.to_stored
        if type(self._form) is StateForm:
            stored = list(touched.values())
        else:
            stored = [to_stored(key, state) for key, state in touched.items()]
        changes = KeyedChanges(list(touched), stored, [k for k in self._gone if k not in touched])
        self._settled.update(touched)
        for key in changes.gone:
            self._tombstones[key] = epoch
        for key in changes.keys:
            self._tombstones.pop(key, None)
        self._pins.append((epoch, changes.keys))
        touched.clear()
        self._gone.clear()
        return changes

    def applied(self, epoch: int) -> None:
        """The table has all changes up to this epoch."""
        while self._pins and self._pins[0][0] <= epoch:
            self._pins.popleft()
        if self._tombstones:
            self._tombstones = {k: e for k, e in self._tombstones.items() if e > epoch}

    def evict(self, count: int) -> int:
        """Drop up to `count` keys from memory, those touched longest ago first.

        Only what the table has as it is may go. Gives how many went.
        """
        pinned: set[Any] = set()
        for _, keys in self._pins:
            pinned.update(keys)
        victims = list(islice((k for k in self._settled if k not in pinned), count))
        for key in victims:
            del self._settled[key]
        self._form.evicted(victims)
        return len(victims)
