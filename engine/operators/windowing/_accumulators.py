"""What aligned windows hold by key, in panes: each window its own, or parts that windows share.

`AlignedLogic` gives a value to the panes of its time, and asks what a window holds when it closes.
Where each window has a pane (`OwnPanes`), a value goes into as many as overlap there. Where panes
are shared (`SharedPanes`), time is cut at each beginning and end of a window: a value goes into one
pane, and a window is put together from its panes when it closes. (Of the ways to cut time this is
the one with the fewest panes: J. Li et al., "No Pane, No Gain", SIGMOD Record 2005, and as pairs
S. Krishnamurthy et al., "On-the-Fly Sharing for Streamed Aggregation", SIGMOD 2006.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from engine.errors import InternalError
from engine.operators._time_axis import NEVER_US
from engine.operators.windowing._batch_times import KeyEntry
from engine.operators.windowing._panes import NO_ACC, Pane, PanedState
from engine.operators.windowing._shapes import Aligned
from engine.operators.windowing._works import Folding

REFUSED: Final = object()
"""What stands for an accumulator of a key that a pane doesn't take values of, not of itself."""


class Accumulators(ABC):
    """What the windows of a step hold on one worker.

    Args:
        state: The state of the step.
        shape: The windows.
        folding: What they do.
    """

    told = ""
    """What is particular about what is stored, in words."""

    def __init__(self, state: PanedState, shape: Aligned, folding: Folding) -> None:
        self._state, self._shape, self._folding = state, shape, folding
        self._panes = state.panes

    @abstractmethod
    def panes_at(self, at_us: int) -> list[Pane]:
        """The panes that values of a time go into."""

    @abstractmethod
    def opened(self, pane: Pane, key: Any, entry: KeyEntry) -> Any:
        """What a pane holds of a key, where that isn't in memory.

        `NO_ACC` if it is new to the pane, which is open for it from now on. `REFUSED` if values of
        the key go where `apart` says.
        """

    @abstractmethod
    def apart(
        self, pane: Pane, key: Any, entry: KeyEntry
    ) -> tuple[Sequence[int], Pane | None, Any]:
        """Where a value goes that not all windows of a pane take.

        Gives those that don't; the pane that it goes into, or None if it goes nowhere; and what
        that one holds of the key, taken out of it, or `NO_ACC`.
        """

    @abstractmethod
    def close(self, key: Any, entry: KeyEntry, numbers: Sequence[int]) -> list[Any]:
        """Forget windows of a key, which are no longer among its open ones; gives what they hold.

        What comes out isn't changed by values that come later.
        """

    def _refuses(self, entry: KeyEntry, number: int) -> bool:
        """Whether a window that isn't open for a key was closed for it before."""
        if entry.sealed_us == NEVER_US and not entry.shut:
            return False
        return self._shape.close_us(number) <= entry.sealed_us or number in entry.shut

    def _load(self, pane: Pane, key: Any) -> Any:
        acc = self._state.load_part(key, pane.number)
        if acc is NO_ACC:
            msg = f"pane {pane.number} of key {key!r} is open, and there is no state of it"
            raise InternalError(msg)
        pane.saved.add(key)
        return acc


class OwnPanes(Accumulators):
    """Each window has a pane of its own, of the same number."""

    def panes_at(self, at_us: int) -> list[Pane]:
        return [self._pane(number) for number in self._shape.numbers(at_us)]

    def _pane(self, number: int) -> Pane:
        pane = self._panes.get(number)
        if pane is None:
            pane = self._panes[number] = Pane(number, self._shape.close_us(number))
        return pane

    def opened(self, pane: Pane, key: Any, entry: KeyEntry) -> Any:
        if pane.number in entry.open:
            return self._load(pane, key)
        if self._refuses(entry, pane.number):
            return REFUSED
        entry.open = (*entry.open, pane.number)
        return NO_ACC

    def apart(
        self,
        pane: Pane,
        key: Any,  # noqa: ARG002 - alike for all
        entry: KeyEntry,  # noqa: ARG002 - as above
    ) -> tuple[Sequence[int], Pane | None, Any]:
        return (pane.number,), None, NO_ACC

    def close(self, key: Any, entry: KeyEntry, numbers: Sequence[int]) -> list[Any]:  # noqa: ARG002 - panes alone say it
        accs: list[Any] = []
        for number in numbers:
            pane = self._pane(number)
            acc = pane.take(key)
            accs.append(self._load(pane, key) if acc is NO_ACC else acc)
            self._state.drop_part(pane, key)
        return accs


class SharedPane(Pane):
    """A stretch of time of all keys, in which no window begins or ends."""

    __slots__ = ("_before", "_last", "windows")

    def __init__(self, number: int, windows: range, close_us: int) -> None:
        super().__init__(number, close_us)
        self.windows = windows
        """Those that it is a part of."""
        *before, last = windows
        self._before, self._last = tuple(before), (last,)

    def others(self, opened: tuple[int, ...]) -> Sequence[int]:
        """Those of its windows that aren't open."""
        before, last = self._before, self._last
        if opened[-len(before) :] == before and last[0] not in opened:
            # As it is with keys that have values all the time.
            return last
        return [number for number in self.windows if number not in opened]


class SharedPanes(Accumulators):
    """Windows share panes, which are numbered as time goes on.

    A window that was closed for a key at an end of input, or in a life of the key that was
    forgotten, takes none of its values, though other windows of the pane do. The values of such a
    key have a pane of their own, of the next number (so those of others are even): it isn't found
    by the time of a value, so `apart` is asked about each of them.
    """

    told = ", in panes that they share"

    def __init__(
        self, state: PanedState, shape: Aligned, folding: Folding, whole: Callable[[list[Any]], Any]
    ) -> None:
        super().__init__(state, shape, folding)
        self._whole = whole
        self._apart = 2 * shape.cuts
        """The number of a window's first pane less that of the window before."""
        self._width = 2 * shape.stretches
        """The number of the first pane behind a window less that of its first."""
        self._closing: tuple[int | None, list[Callable[[Any, Any], Any]]] = None, []
        """The window that was closed last, and how to look into its panes: just to be quick."""

    def panes_at(self, at_us: int) -> list[Pane]:
        return [self._pane(2 * self._shape.stretch(at_us))]

    def _pane(self, number: int) -> SharedPane:
        pane = cast("SharedPane | None", self._panes.get(number))
        if pane is None:
            shape = self._shape
            windows = shape.numbers(shape.stretch_us(number // 2))
            pane = SharedPane(number, windows, shape.close_us(windows[-1]))
            self._panes[number] = pane
        return pane

    def opened(self, pane: Pane, key: Any, entry: KeyEntry) -> Any:
        assert isinstance(pane, SharedPane)  # noqa: S101
        if pane.number in entry.parts:
            return self._load(pane, key)
        new = pane.others(entry.open)
        for number in new:
            if self._refuses(entry, number):
                return REFUSED
        entry.open = (*entry.open, *new)
        entry.parts = _with(entry.parts, pane.number)
        return NO_ACC

    def apart(
        self, pane: Pane, key: Any, entry: KeyEntry
    ) -> tuple[Sequence[int], Pane | None, Any]:
        assert isinstance(pane, SharedPane)  # noqa: S101
        new = pane.others(entry.open)
        refusing = [number for number in new if self._refuses(entry, number)]
        if len(refusing) == len(pane.windows):
            return refusing, None, NO_ACC
        own = self._pane(pane.number + 1)
        if own.number not in entry.parts:
            entry.open = (*entry.open, *[number for number in new if number not in refusing])
            entry.parts = _with(entry.parts, own.number)
            return refusing, own, NO_ACC
        acc = own.take(key)
        return refusing, own, self._load(own, key) if acc is NO_ACC else acc

    def close(self, key: Any, entry: KeyEntry, numbers: Sequence[int]) -> list[Any]:
        parts = entry.parts
        accs = [self._whole(self._accs_of(key, parts, number)) for number in numbers]
        # What is before the first window that is still open for the key is a part of none.
        kept = min(entry.open) * self._apart if entry.open else parts[-1] + 1
        count = bisect_left(parts, kept)
        entry.parts = parts[count:]
        for part in parts[:count]:
            pane = self._pane(part)
            pane.take(key)
            self._state.drop_part(pane, key)
        return accs

    def _accs_of(self, key: Any, parts: tuple[int, ...], number: int) -> list[Any]:
        """What the panes of a window hold of a key, in order."""
        begin = number * self._apart
        first = bisect_left(parts, begin)
        end = bisect_left(parts, begin + self._width, first)
        closing, gets = self._closing
        if closing != number:
            # Most keys close one and the same window now, and have no pane apart.
            numbers = range(begin, begin + self._width, 2)
            gets = [self._panes[part].touched.get for part in numbers if part in self._panes]
            self._closing = number, gets
        accs = [acc for get in gets if (acc := get(key, NO_ACC)) is not NO_ACC]
        if len(accs) == end - first:
            return accs
        return [self._held(self._pane(part), key) for part in parts[first:end]]

    def _held(self, pane: Pane, key: Any) -> Any:
        """What a pane holds of a key, which stays there."""
        acc = pane.touched.get(key, NO_ACC)
        if acc is NO_ACC:
            acc = pane.rest.get(key, NO_ACC)
            if acc is NO_ACC:
                acc = pane.rest[key] = self._load(pane, key)
        return acc


def _with(parts: tuple[int, ...], number: int) -> tuple[int, ...]:
    """Numbers in order, with one more."""
    more = (*parts, number)
    return more if not parts or parts[-1] < number else tuple(sorted(more))
