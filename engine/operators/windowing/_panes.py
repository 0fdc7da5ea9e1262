"""State of aligned windows: what a window holds by key, apart from what is known of the keys.

Each window, or each part that windows share (`Pane`), has a dict of what it holds by key, so that a
batch which falls into one costs a look-up in one dict per record. In the store the state of a key
is several rows: one for the key, which names its open windows, and one for each pane. Only those
that changed are saved, and those of a key that isn't used leave memory with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from engine.keys import part_key
from engine.operators._state import KeyedState, StateChanges, Stored

NO_ACC: Final = object()
"""What stands for no accumulator: None may be one."""


class Pane:
    """One window of all keys, or a part of several."""

    __slots__ = ("close_us", "number", "rest", "saved", "touched")

    def __init__(self, number: int, close_us: int) -> None:
        self.number = number
        """Tells it from the others; of a window it is its id."""
        self.close_us = close_us
        """When the last window closes that it is of."""
        self.touched: dict[Any, Any] = {}
        """What it holds of keys that the open epoch gave it a value of; without a store, of all."""
        self.rest: dict[Any, Any] = {}
        """What it holds of other keys in memory."""
        self.saved: set[Any] = set()
        """Keys that have a row in the store."""

    def keys(self) -> Iterator[Any]:
        """The keys that it holds something of in memory, each once."""
        return chain(self.touched, self.rest)

    def take(self, key: Any) -> Any:
        """Take out what it holds of a key; `NO_ACC` if that isn't in memory."""
        acc = self.touched.pop(key, NO_ACC)
        return self.rest.pop(key, NO_ACC) if acc is NO_ACC else acc


class PanedState(KeyedState):
    """State by key, of which parts are in panes.

    The steps that use it say by `due_us` when a key is due, on the axis, and hear by `on_forget`
    which keys leave memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.panes: dict[int, Pane] = {}
        self.due_us: Callable[[Any], int | None] = lambda _entry: None
        self.on_forget: Callable[[Mapping[Any, Any]], None] = lambda _entries: None
        self._dropped: list[Any] = []

    @property
    def count(self) -> int:
        """How many entries the younger half of memory has, those of panes among them."""
        return super().count + sum(len(pane.touched) for pane in self.panes.values())

    def young(self) -> Iterator[tuple[Any, Any]]:
        """As in `KeyedState`, with what panes hold."""
        held = (pane.touched.items() for pane in self.panes.values())
        return chain(super().young(), chain.from_iterable(held))

    def load_part(self, key: Any, number: int) -> Any:
        """What the store has of a key for a pane; `NO_ACC` for nothing."""
        stored: Stored | None = self._stored
        found = None if stored is None else stored.load(part_key(key, number))
        return NO_ACC if found is None else found[0]

    def drop_part(self, pane: Pane, key: Any) -> None:
        """What a pane held of a key is gone; the caller has taken it out."""
        if key in pane.saved:
            pane.saved.discard(key)
            self._dropped.append(part_key(key, pane.number))

    def all_keys(self) -> Iterator[Any]:
        """As in `KeyedState`; keys alone, not parts of them."""
        return (key for key in super().all_keys() if not _is_part(key))

    def barrier(self) -> StateChanges:
        """As in `KeyedState`, with what panes hold and no longer hold."""
        dues_us = [self.due_us(entry) for entry in self.touched.values()]
        changes = super().barrier()
        due_s = [None if due_us is None else due_us / 1e6 for due_us in dues_us]
        keys, stored = changes.keys, changes.stored
        for pane in self.panes.values():
            if not pane.touched:
                continue
            number = pane.number
            keys.extend([part_key(key, number) for key in pane.touched])
            stored.extend([(acc,) for acc in pane.touched.values()])
            pane.saved.update(pane.touched)
            pane.rest.update(pane.touched)
            pane.touched.clear()
        due_s.extend([None] * (len(keys) - len(due_s)))
        gone, self._dropped = [*changes.gone, *self._dropped], []
        return replace(changes, due_s=due_s, gone=gone)

    def rotate(self) -> None:
        """As in `KeyedState`; what panes hold of a key is forgotten with it."""
        forgotten = self._older
        super().rotate()
        self.on_forget(forgotten)
        for pane in self.panes.values():
            for key in forgotten if len(forgotten) < len(pane.rest) else list(pane.rest):
                if key in forgotten:
                    pane.rest.pop(key, None)


def _is_part(key: Any) -> bool:
    return key.__class__ is tuple and len(key) == 3 and key[1] is None
