"""Ways to break windows and their state, each of which a seed must bring to light."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any
from zlib import crc32

import pytest

from engine.keys import KEY_GROUPS
from engine.operators._state import StateChanges
from engine.operators._time_axis import TimeAxis
from engine.operators._timed import EntryForm, TimedKeys
from engine.operators._timers import Timers
from engine.operators.windowing._accumulators import Accumulators, SharedPanes
from engine.operators.windowing._aligned_logic import AlignedLogic
from engine.operators.windowing._batch_times import KeyEntry
from engine.operators.windowing._panes import NO_ACC, Pane, PanedState
from engine.operators.windowing._windows_logic import WindowsLogic
from engine.operators.windowing._works import Folding, FoldWork
from engine.recovery import _rows
from tests.sim.mutant import Mutant
from tests.sim.windows import check_windowed_store

Patch = pytest.MonkeyPatch


def _changed(patch: Patch, change: Any) -> None:
    """What is saved of paned windows is changed."""
    barrier = PanedState.barrier
    patch.setattr(PanedState, "barrier", lambda self: change(barrier(self)))


def _is_part(key: Any) -> bool:
    return isinstance(key, tuple) and len(key) == 3 and key[1] is None


def _rows_of_windows_not_saved(patch: Patch) -> None:
    def keys_only(changes: StateChanges) -> StateChanges:
        kept = [place for place, key in enumerate(changes.keys) if not _is_part(key)]
        return replace(
            changes,
            keys=[changes.keys[place] for place in kept],
            stored=[changes.stored[place] for place in kept],
            due_s=[changes.due_s[place] for place in kept],
        )

    _changed(patch, keys_only)


def _rows_of_closed_windows_not_deleted(patch: Patch) -> None:
    def kept(changes: StateChanges) -> StateChanges:
        return replace(changes, gone=[key for key in changes.gone if not _is_part(key)])

    _changed(patch, kept)


def _keys_saved_without_their_queue(patch: Patch) -> None:
    """What waits is lost, of windows of any shape."""
    for logic in (AlignedLogic, WindowsLogic):
        patch.setattr(logic, "to_stored", _without_queue(logic.to_stored))


def _without_queue(to_stored: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def without(self: Any, entry: Any) -> Any:
        queue, entry.queue = entry.queue, []
        try:
            return to_stored(self, entry)
        finally:
            entry.queue = queue

    return without


def _ids_of_sessions_begin_again(patch: Patch) -> None:
    from_stored = WindowsLogic.from_stored

    def anew(self: WindowsLogic, stored: Any) -> Any:
        entry = from_stored(self, stored)
        entry.next_number = max(entry.windows, default=-1) + 1
        return entry

    patch.setattr(WindowsLogic, "from_stored", anew)


def _keys_saved_without_when_they_are_due(patch: Patch) -> None:
    def never(changes: StateChanges) -> StateChanges:
        return replace(changes, due_s=[None] * len(changes.keys))

    _changed(patch, never)


def _timers_in_the_store_not_looked_for(patch: Patch) -> None:
    patch.setattr(Timers, "attach", lambda *_: None)


def _rows_of_windows_dealt_by_themselves(patch: Patch) -> None:
    """A window's row goes where its own hash says, and not to its key."""
    patch.setattr(_rows, "encoded_group", lambda encoded: crc32(encoded) % KEY_GROUPS)


def _watermarks_not_restored(patch: Patch) -> None:
    from_stored = EntryForm.from_stored

    def anew(self: EntryForm, key: Any, stored: Any) -> Any:
        return from_stored(self, key, (-(1 << 62), *stored[1:]))

    patch.setattr(EntryForm, "from_stored", anew)


def _windows_forgotten_on_rotation(patch: Patch) -> None:
    """Whole windows leave memory, though the next values go to them."""
    rotate = PanedState.rotate

    def forget(self: PanedState) -> None:
        rotate(self)
        self.panes.clear()

    patch.setattr(PanedState, "rotate", forget)


def _saved_windows_not_looked_for(patch: Patch) -> None:
    patch.setattr(PanedState, "load_part", lambda *_: NO_ACC)


def _rows_of_loaded_windows_not_known(patch: Patch) -> None:
    """A window that came back from the store isn't known to have a row there."""
    load = Accumulators._load

    def unknown(self: Accumulators, pane: Pane, key: Any) -> Any:
        acc = load(self, pane, key)
        pane.saved.discard(key)
        return acc

    patch.setattr(Accumulators, "_load", unknown)


def _shared_panes_dropped_too_early(patch: Patch) -> None:
    """With the first window that they are a part of, though others are open."""
    close = SharedPanes.close

    def early(self: SharedPanes, key: Any, entry: KeyEntry, numbers: Sequence[int]) -> list[Any]:
        accs = close(self, key, entry, numbers)
        if entry.parts:
            first, *rest = entry.parts
            entry.parts = tuple(rest)
            pane = self._pane(first)
            pane.take(key)
            self._state.drop_part(pane, key)
        return accs

    patch.setattr(SharedPanes, "close", early)


def _shared_panes_dropped_too_late(patch: Patch) -> None:
    """Never, as long as the key has a window open."""
    close = SharedPanes.close

    def late(self: SharedPanes, key: Any, entry: KeyEntry, numbers: Sequence[int]) -> list[Any]:
        before = entry.parts
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self._state, "drop_part", lambda *_: None)
            inner.setattr(Pane, "take", lambda *_: None)
            accs = close(self, key, entry, numbers)
        entry.parts = before if entry.open else ()
        return accs

    patch.setattr(SharedPanes, "close", late)


def _first_shared_pane_is_changed(patch: Patch) -> None:
    """A window is put together in what its first pane holds, which is the next one's, too."""
    sharing = FoldWork.sharing

    def changing(self: FoldWork) -> Folding | None:
        folding = sharing(self)
        return folding and replace(folding, whole=lambda accs: reduce(self.merger, accs))

    patch.setattr(FoldWork, "sharing", changing)


def _keys_saved_without_their_shared_panes(patch: Patch) -> None:
    to_stored = AlignedLogic.to_stored
    patch.setattr(AlignedLogic, "to_stored", lambda self, entry: to_stored(self, entry)[:3])


def _time_goes_on_while_the_job_is_down(patch: Patch) -> None:
    patch.setattr(TimeAxis, "resume", lambda *_: None)


def _keys_from_the_store_not_woken(patch: Patch) -> None:
    patch.setattr(TimedKeys, "loaded", lambda *_: None)
    patch.setattr(AlignedLogic, "loaded", lambda *_: None)


WINDOW_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check_windowed_store, seed)
    for function, seed in (
        (_rows_of_windows_not_saved, 8),
        (_rows_of_closed_windows_not_deleted, 8),
        (_keys_saved_without_their_queue, 0),
        (_ids_of_sessions_begin_again, 0),
        (_keys_saved_without_when_they_are_due, 35),
        (_timers_in_the_store_not_looked_for, 1),
        (_rows_of_windows_dealt_by_themselves, 9),
        (_watermarks_not_restored, 1),
        (_windows_forgotten_on_rotation, 35),
        (_saved_windows_not_looked_for, 8),
        (_rows_of_loaded_windows_not_known, 8),
        (_shared_panes_dropped_too_early, 8),
        (_shared_panes_dropped_too_late, 8),
        (_first_shared_pane_is_changed, 20),
        (_keys_saved_without_their_shared_panes, 8),
        (_time_goes_on_while_the_job_is_down, 1),
        (_keys_from_the_store_not_woken, 9),
    )
]
