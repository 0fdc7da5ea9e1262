"""Ways to break watermarks, each of which a seed must bring to light."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from engine.runtime._build_clocks import ClockBuilder
from engine.runtime._messages import LEFT_OUT_US, Watermark
from engine.runtime._nodes import Target
from engine.runtime._source_node import _Reader
from engine.runtime._stage import StageInput, have_room
from engine.runtime._watermarks import (
    Outlet,
    SourceWatch,
    StepWatermark,
    Tracker,
    watermark_row,
)
from tests.sim.clocks import check_clocks
from tests.sim.crashes import check_clocked_store
from tests.sim.mutant import Mutant

Patch = pytest.MonkeyPatch


def _watermark_before_its_batch(patch: Patch) -> None:
    past = ClockBuilder._past

    def early(self: ClockBuilder, clock: Any, tracker: Any, sender: Any, clocks: Any) -> Target:
        target = past(self, clock, tracker, sender, clocks)
        outlet = clocks.outlets[-1]

        def push(batch: list[Any]) -> None:
            tracker.note(clocks.origin, tracker.latest_us_of(batch))
            outlet.flush()
            target.push(batch)

        return Target(push, target.end)

    patch.setattr(ClockBuilder, "_past", early)


def _watermark_amid_an_event(patch: Patch) -> None:
    """What a stream was parted into is timed piece by piece."""
    past = ClockBuilder._past

    def at_once(self: ClockBuilder, clock: Any, tracker: Any, sender: Any, clocks: Any) -> Target:
        target = past(self, clock, tracker, sender, clocks)

        def push(batch: list[Any]) -> None:
            target.push(batch)
            clocks.flush()

        return Target(push, target.end)

    patch.setattr(ClockBuilder, "_past", at_once)


def _highest_of_the_channels(patch: Patch) -> None:
    flush = StepWatermark.flush

    def highest(self: StepWatermark) -> bool:
        said = self._said_us
        times = [at for at in said.values() if at != LEFT_OUT_US]
        self._said_us = dict.fromkeys(said, max(times)) if times else said
        try:
            return flush(self)
        finally:
            self._said_us = said

    patch.setattr(StepWatermark, "flush", highest)


def _highest_of_the_partitions(patch: Patch) -> None:
    note = Tracker.note

    def note_for_all(self: Tracker, origin: Any, latest_us: int | None) -> None:
        for other in self._entries:
            note(self, other, latest_us)

    patch.setattr(Tracker, "note", note_for_all)


def _idle_although_it_lags(patch: Patch) -> None:
    patch.setattr(_Reader, "caught_up", lambda _: True)


def _idle_although_it_is_away(patch: Patch) -> None:
    def of_the_part(self: Any) -> bool:
        return self.part is not None and self.part.caught_up()

    patch.setattr(_Reader, "caught_up", of_the_part)
    patch.setattr(SourceWatch, "reached", lambda *_: None)


def _idle_although_nobody_asked(patch: Patch) -> None:
    look_at = Tracker._look_at

    def unasked(self: Tracker, origin: Any, entry: Any, now_s: float) -> float:
        wait_s = type(origin).wait_s
        patch.setattr(type(origin), "wait_s", lambda *_: math.inf)
        try:
            return look_at(self, origin, entry, now_s)
        finally:
            patch.setattr(type(origin), "wait_s", wait_s)

    patch.setattr(Tracker, "_look_at", unasked)


def _idle_for_ever(patch: Patch) -> None:
    """Silent partitions are left out, whatever they say, and whether they can be read or not."""

    def stay(self: Tracker, _origin: Any, entry: Any, now_s: float) -> float:
        del self, _origin
        entry.idle = True
        return now_s + 1.0

    patch.setattr(Tracker, "_look_at", stay)


def _ended_ones_are_waited_for(patch: Patch) -> None:
    patch.setattr(Tracker, "end", lambda *_: None)


def _nothing_here_is_not_said(patch: Patch) -> None:
    flush = Outlet.flush

    def unless_empty(self: Outlet) -> bool:
        return self._tracker.lowest_us() != LEFT_OUT_US and flush(self)

    patch.setattr(Outlet, "flush", unless_empty)


def _watermark_not_saved(patch: Patch) -> None:
    patch.setattr(StepWatermark, "changes", lambda _: {})


def _own_watermark_resumed(patch: Patch) -> None:
    """A worker goes on from its own, whatever others had closed."""
    init = StepWatermark.__init__

    def own(self: StepWatermark, node: Any, worker: int, saved: Mapping[str, Any]) -> None:
        row = watermark_row(worker)
        init(self, node, worker, {row: saved[row]} if row in saved else {})

    patch.setattr(StepWatermark, "__init__", own)


def _blocked_channel_is_overtaken(patch: Patch) -> None:
    ready = StageInput.ready

    def unless_watermark(self: StageInput, channel: Any) -> bool:
        if channel.items[0].__class__ is Watermark:
            return have_room(self.senders)
        return ready(self, channel)

    patch.setattr(StageInput, "ready", unless_watermark)


def _times_of_partitions_are_of_the_next_epoch(patch: Patch) -> None:
    """What is saved as a partition's latest time is later than what was read."""
    changes = Tracker.changes

    def ahead(self: Tracker) -> dict[str, Any]:
        return {row: us if us is None else us + 5 for row, us in changes(self).items()}

    patch.setattr(Tracker, "changes", ahead)


CLOCK_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check, seed)
    for function, check, seed in (
        (_watermark_before_its_batch, check_clocks, 3),
        (_watermark_amid_an_event, check_clocks, 8),
        (_highest_of_the_channels, check_clocks, 0),
        (_highest_of_the_partitions, check_clocks, 3),
        (_idle_although_it_lags, check_clocks, 0),
        (_idle_although_it_is_away, check_clocks, 2),
        (_idle_although_nobody_asked, check_clocks, 22),
        (_idle_for_ever, check_clocks, 3),
        (_ended_ones_are_waited_for, check_clocks, 3),
        (_nothing_here_is_not_said, check_clocks, 3),
        (_watermark_not_saved, check_clocked_store, 12),
        (_own_watermark_resumed, check_clocked_store, 12),
        (_blocked_channel_is_overtaken, check_clocked_store, 141),
        (_times_of_partitions_are_of_the_next_epoch, check_clocked_store, 1),
    )
]
