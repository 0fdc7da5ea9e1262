"""Tumbling and sliding windows where the step goes on without the values that are raised for.

It keeps the same state as `AlignedLogic`, and closes windows as that does. Values go into their
panes one by one: into all of them or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from engine.operators._images import CHANGELESS, image_of, restored
from engine.operators._kernels import StepContext
from engine.operators._time_axis import EventTimes, TimeAxis
from engine.operators.windowing._accumulators import REFUSED
from engine.operators.windowing._aligned_logic import AlignedLogic
from engine.operators.windowing._batch_times import KeyEntry
from engine.operators.windowing._panes import NO_ACC, Pane
from engine.operators.windowing._shapes import Aligned
from engine.operators.windowing._works import Folding


class AlignedGoingOn(AlignedLogic):
    """As `AlignedLogic`, without the values that are raised for."""

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
        super().__init__(step, axis, times, shape, folding, ordered=ordered)
        assert step.failures is not None  # noqa: S101
        self._failures = step.failures
        self._spared: set[Any] = set()
        """Keys of which a value was left out, so that there may be nothing of them any more."""

    def _fold_some(self, panes: list[Pane], key: Any, values: Sequence[Any]) -> None:
        for value in values:
            self._fold_one(panes, key, value)

    def _fold(self, panes: list[Pane], records: list[tuple[Any, Any]]) -> None:
        for key, value in records:
            self._fold_one(panes, key, value)

    def _fold_each(self, batch: list[tuple[Any, Any]], ats: list[datetime]) -> None:
        for (key, value), at in zip(batch, ats, strict=True):
            if not self._low <= at < self._end:
                self._go_back_to(at)
            self._fold_one(self._in_stretch, key, value)

    def _fold_one(self, panes: list[Pane], key: Any, value: Any) -> None:
        """Give a value to some windows, to all of them or none."""
        if len(panes) == 1:
            # As it is mostly, and then the key is mostly there.
            pane = panes[0]
            acc = pane.touched.get(key, NO_ACC)
            if acc is not NO_ACC:
                self._fold_into(pane, key, acc, value)
                return
        first, folder, check = self._folding.first, self._folding.folder, self._folding.check
        entry = self._entry_of(key)
        opened, parts = entry.open, entry.parts
        late = 0 if self._late is None else len(self._late)
        takers = self._takers(panes, key, entry, value)
        copied = not self._folding.all_or_nothing
        images = [image_of(acc) if copied and acc is not NO_ACC else acc for _, acc in takers]
        try:
            if check is not None and any(acc is NO_ACC for _, acc in takers):
                check(value)
            accs = [first(value) if acc is NO_ACC else folder(acc, value) for _, acc in takers]
        except Exception as ex:
            # One that is worked on in order of time may have waited, for all that is known here.
            if not self._failures.take(ex, (key, value), waited=self._ordered):
                raise
            accs = [restored(image) for image in images]
            entry.open, entry.parts = opened, parts
            if self._late is not None:
                del self._late[late:]
            self._spared.add(key)
        for (pane, _), acc in zip(takers, accs, strict=True):
            if acc is not NO_ACC:
                pane.touched[key] = acc

    def _fold_into(self, pane: Pane, key: Any, acc: Any, value: Any) -> None:
        """Give a value to the windows of one pane, which holds something of its key."""
        folding = self._folding
        keeps = folding.all_or_nothing or acc.__class__ in CHANGELESS
        image = acc if keeps else image_of(acc)
        try:
            pane.touched[key] = folding.folder(acc, value)
        except Exception as ex:
            if not self._failures.take(ex, (key, value), waited=self._ordered):
                raise
            pane.touched[key] = restored(image)

    def _takers(
        self, panes: list[Pane], key: Any, entry: KeyEntry, value: Any
    ) -> list[tuple[Pane, Any]]:
        """The panes that take a value, each with what it holds of the key."""
        takers: list[tuple[Pane, Any]] = []
        for pane in panes:
            acc = pane.touched.get(key, NO_ACC)
            if acc is NO_ACC:
                acc = self._opened(pane, key)
            if acc is not REFUSED:
                takers.append((pane, acc))
                continue
            refusing, own, acc = self._accs.apart(pane, key, entry)
            self._refuse(key, value, refusing)
            if own is not None:
                self._live[key] = entry
                takers.append((own, acc))
        return takers

    def _advance(self, keys: set[Any], out: list[Any]) -> None:
        keys |= self._spared
        self._spared.clear()
        super()._advance(keys, out)
