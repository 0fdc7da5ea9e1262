"""Puts the clocks of a stage into its way: made for each stage by `engine.runtime._build`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.runtime._ids import WorkerIndex
from engine.runtime._messages import HOLD_US
from engine.runtime._nodes import KeyedNode, Node, Target
from engine.runtime._plan import Plan, Stage, StageEdge
from engine.runtime._planned_clocks import PlannedClock, clocks_of, has_clocks
from engine.runtime._planned_step import PlannedStep
from engine.runtime._ports import Clock
from engine.runtime._source_node import SourceNode
from engine.runtime._stage import RunningStage, Sender, StageInput
from engine.runtime._store import Store
from engine.runtime._watermarks import (
    Outlet,
    SourceWatch,
    StageClocks,
    StepWatermark,
    Teller,
    Tracker,
)


class ClockBuilder:
    """The clocks of one stage; lives as long as its building takes.

    Where there are none, none of its methods changes anything.

    Args:
        plan: What the worker runs.
        stage: Which of its stages.
        running: The same, as it is built.
        worker: This worker, and how many there are.
        time: Tells how long partitions are silent.
        store: Has what was saved.
    """

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        running: RunningStage,
        worker: tuple[WorkerIndex, int],
        time: Clock,
        store: Store | None,
    ) -> None:
        self._plan = plan
        self._running = running
        self._index, self._count = worker
        self._store = store
        inside = set(stage.steps)
        planned = clocks_of(plan)
        self._here = [
            c for c in planned if (c.edge.producer if c.before_exchange else c.step) in inside
        ]
        self._nodes: dict[int, Node] = {}
        self._telling = any(not clock.per_partition for clock in planned)
        if self._here or self._telling or any(clock.step in inside for clock in planned):
            running.clocks = StageClocks(time)
        self._clocks = running.clocks
        self._trackers = [
            Tracker(c.clock, c.edge.port, time, self._saved(plan.steps[c.step])) for c in self._here
        ]
        self._watermarks: dict[int, StepWatermark] = {}

    def _saved(self, step: PlannedStep) -> dict[str, Any]:
        return {} if self._store is None else self._store.positions(step.step_id)

    def emitted(self, step: PlannedStep, down: Target) -> Target:
        """The way out of a keyed step."""
        if self._clocks is None or not any(step.index in c.emitters for c in self._here):
            return down
        return Target(self._clocks.from_nowhere(down.push), down.end)

    def note(self, steps: list[PlannedStep], node: Node) -> None:
        """The node of some steps is made. Nodes come from the last to the first."""
        for step in steps:
            self._nodes[step.index] = node
        clocks, (first, *_) = self._clocks, steps
        if clocks is None or not isinstance(node, KeyedNode):
            return
        node.flush = clocks.flush
        if has_clocks(first):
            watermark = StepWatermark(node, self._index, self._saved(first))
            self._watermarks[first.index] = watermark
            clocks.steps.insert(0, (first.step_id, watermark))
            for clock, tracker in zip(self._here, self._trackers, strict=True):
                if clock.step == first.index and not clock.before_exchange:
                    watermark.follow(tracker)
                    node.clocks[clock.edge.port] = _noting(clocks, tracker)

    def watch(self, node: SourceNode, step: PlannedStep, down: Target) -> None:
        """Have the clocks told of the partitions of a source."""
        if self._clocks is None:
            return
        trackers = [
            tracker
            for clock, tracker in zip(self._here, self._trackers, strict=True)
            if step.index in clock.sources
        ]
        node.watch = SourceWatch(self._clocks, step.step_id, trackers, down.push)

    def way_out(self, crossing: StageEdge, sender: Sender) -> Target:
        """The way to another stage; past a clock, if one stands there."""
        for clock, tracker in zip(self._here, self._trackers, strict=True):
            if clock.before_exchange and clock.edge is crossing.edge:
                assert self._clocks is not None  # noqa: S101
                return self._past(clock, tracker, sender, self._clocks)
        return Target(sender.push, sender.end)

    def _past(
        self, clock: PlannedClock, tracker: Tracker, sender: Sender, clocks: StageClocks
    ) -> Target:
        outlet = Outlet(tracker, sender.broadcast)
        clocks.outlets.append(outlet)
        send, latest_us_of, note = sender.push, tracker.latest_us_of, tracker.note

        # `step_id` is a local for `engine.runtime._failure` to find in the frame.
        def push(batch: list[Any], step_id: str = self._plan.steps[clock.step].step_id) -> None:  # noqa: ARG001
            # The records first, which are refused there if they have no key. They go away in lists
            # of their own, as there are several workers.
            send(batch)
            note(clocks.origin, latest_us_of(batch))

        def end() -> None:
            outlet.ended = True
            sender.end()

        return Target(push, end)

    def way_in(self, crossing: StageEdge, entry: StageInput) -> None:
        """A way from another stage is made; if a clock stands at its far end, it is listened to."""
        for clock in clocks_of(self._plan):
            if clock.before_exchange and clock.edge is crossing.edge:
                entry.watermark = self._watermarks[clock.step]
                for channel in entry.channels:
                    entry.watermark.say(channel, HOLD_US)
        if self._telling and self._clocks is not None:
            for channel in entry.channels:
                self._clocks.upstream.say(channel, caught_up=False)

    def finish(self) -> None:
        """All nodes and inputs are made."""
        clocks = self._clocks
        if clocks is None:
            return
        for clock, tracker in zip(self._here, self._trackers, strict=True):
            clocks.trackers.append((self._plan.steps[clock.step].step_id, tracker))
            if not clock.per_partition:
                tracker.open_worker(
                    self._index, self._count, clocks.upstream, self._all_ended(clock)
                )
        if self._telling:
            broadcasts = [sender.broadcast for sender in self._running.senders]
            clocks.teller = Teller(clocks.upstream, [*broadcasts])

    def _all_ended(self, clock: PlannedClock) -> Callable[[], bool]:
        """Whether all has ended that a clock can't tell apart."""
        nodes = [self._nodes[step] for step in clock.emitters]
        edges = {
            e.edge_id for e in self._plan.stage_edges if any(e.edge is c for c in clock.crossings)
        }
        entries = [entry for entry in self._running.inputs if entry.edge in edges]

        def ended() -> bool:
            return all(node.ended for node in nodes) and all(
                channel.ended for entry in entries for channel in entry.channels
            )

        return ended


def _noting(clocks: StageClocks, tracker: Tracker) -> Callable[[int | None], None]:
    def note(latest_us: int | None) -> None:
        tracker.note(clocks.origin, latest_us)

    return note
