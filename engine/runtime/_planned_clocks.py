"""What a plan says of stream clocks: which partitions each can tell apart, and what others hide.

Records carry neither a time nor the partition they are from. Within the stage of a source it is
known which partition the present batch is from, so a clock there has a time for each. What came
through a channel, or out of a step that emits on its own time, is of any of the partitions behind
it: such records count together, as those of this worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.operators._kernels import InputKernel, KeyedKernel, RecordKernel, StreamClock
from engine.operators.tasks._task import TaskKernel
from engine.runtime._ids import WorkerIndex
from engine.runtime._plan import Plan, PlannedEdge, Route
from engine.runtime._planned_step import PlannedStep
from engine.runtime._watermarks import partition_row, step_row, watermark_row, worker_row


@dataclass(frozen=True, slots=True)
class PlannedClock:
    """A stream clock: where it is, and what it can tell apart."""

    step: int
    """Whose watermark it makes."""
    edge: PlannedEdge
    """The way into the step on which it stands: at the far end, if that is on other workers."""
    clock: StreamClock
    sources: tuple[int, ...]
    """Input steps whose partitions it tells apart."""
    emitters: tuple[int, ...]
    """Steps of its stage that emit on their own time."""
    crossings: tuple[PlannedEdge, ...]
    """Ways into its stage through which records come to it."""

    @property
    def before_exchange(self) -> bool:
        """Whether records change workers behind it, so that the watermark must be sent."""
        return self.edge.route is Route.KEY

    @property
    def per_partition(self) -> bool:
        """Whether it tells all partitions apart."""
        return not self.emitters and not self.crossings


def clocks_of(plan: Plan) -> list[PlannedClock]:
    """All stream clocks of a plan, by step and port."""
    return [
        _planned(plan, edge, clock)
        for step in plan.steps
        if isinstance(step.kernel, KeyedKernel)
        for port, clock in enumerate(step.kernel.stream_clocks())
        if clock is not None
        for edge in plan.edges
        if edge.consumer == step.index and edge.port == port
    ]


def saves_rows(step: PlannedStep) -> bool:
    """Whether a step saves rows that aren't states of keys."""
    return saves_step(step) or has_clocks(step)


def saves_step(step: PlannedStep) -> bool:
    """Whether each worker saves something for a step as a whole."""
    kernel = step.kernel
    return isinstance(kernel, TaskKernel) or (isinstance(kernel, KeyedKernel) and kernel.saves_step)


def has_clocks(step: PlannedStep) -> bool:
    """Whether a step has a watermark."""
    kernel = step.kernel
    return isinstance(kernel, KeyedKernel) and any(c is not None for c in kernel.stream_clocks())


def reasons(plan: Plan, clock: PlannedClock) -> list[str]:
    """Why a clock can't tell all partitions apart; none if it can."""
    found = [f"{plan.steps[step].step_id} emits on its own time" for step in clock.emitters]
    for edge in clock.crossings:
        step_id = plan.steps[edge.consumer].step_id
        if edge.route is Route.LOCAL:
            found.append(f"a stream of another stage comes in at {step_id}")
        else:
            found.append(f"records change workers before {step_id}")
    return found


def row_owners(
    plan: Plan, dealt: Mapping[str, Mapping[str, WorkerIndex]]
) -> dict[str, dict[str, WorkerIndex]]:
    """Which worker saves which rows of clocks and watermarks, by step and name.

    Args:
        plan: The plan.
        dealt: The partitions of sources, by step, with the worker that has each.
    """
    workers = [WorkerIndex(index) for index in range(plan.workers)]
    own = {f"worker-{index}": index for index in workers}
    owners: dict[str, dict[str, WorkerIndex]] = {}
    for step in plan.steps:
        if saves_step(step):
            owners[step.step_id] = {step_row(index): index for index in workers}
    for clock in clocks_of(plan):
        rows = owners.setdefault(plan.steps[clock.step].step_id, {})
        rows.update((watermark_row(index), index) for index in workers)
        if not clock.per_partition:
            rows.update((worker_row(clock.edge.port, index), index) for index in workers)
        for source in clock.sources:
            step_id = plan.steps[source].step_id
            for name, index in dealt.get(step_id, own).items():
                rows[partition_row(clock.edge.port, step_id, name)] = index
    return owners


def _planned(plan: Plan, edge: PlannedEdge, clock: StreamClock) -> PlannedClock:
    found = _Found(plan)
    if edge.route is Route.KEY:
        found.look_behind(plan.steps[edge.producer])
    else:
        found.look_along(edge)
    return PlannedClock(
        edge.consumer,
        edge,
        clock,
        tuple(sorted(found.sources)),
        tuple(sorted(found.emitters)),
        tuple(found.crossings),
    )


@dataclass(slots=True)
class _Found:
    """What lies before a clock, within its stage."""

    plan: Plan
    sources: set[int] = field(default_factory=set[int])
    emitters: set[int] = field(default_factory=set[int])
    crossings: list[PlannedEdge] = field(default_factory=list[PlannedEdge])
    _seen: set[int] = field(default_factory=set[int])

    def look_behind(self, step: PlannedStep) -> None:
        """Note where what a step emits comes from."""
        if step.index in self._seen:
            return
        self._seen.add(step.index)
        if isinstance(step.kernel, InputKernel):
            self.sources.add(step.index)
        elif _emits_on_its_own(step):
            self.emitters.add(step.index)
        else:
            for edge in self.plan.edges:
                if edge.consumer == step.index:
                    self.look_along(edge)

    def look_along(self, edge: PlannedEdge) -> None:
        """Note where what comes along an edge is from."""
        if any(crossing.edge is edge for crossing in self.plan.stage_edges):
            if edge not in self.crossings:
                self.crossings.append(edge)
        else:
            self.look_behind(self.plan.steps[edge.producer])


def _emits_on_its_own(step: PlannedStep) -> bool:
    """Whether what a step emits need not be of the batch that it was given last."""
    kernel = step.kernel
    return isinstance(kernel, KeyedKernel) or (isinstance(kernel, RecordKernel) and kernel.final)
