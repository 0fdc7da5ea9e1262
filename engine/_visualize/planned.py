"""A plan as plain data: what the planner made of a flow for a number of workers."""

from __future__ import annotations

from dataclasses import dataclass

from engine.dataflow import Dataflow
from engine.operators.actors._actor_op import ActorKernel
from engine.operators.tasks._executor import executor_name
from engine.operators.tasks._policies import Placement
from engine.operators.tasks._resources import Label, Resources
from engine.operators.tasks._task import TaskKernel
from engine.runtime import clocks_of, plan, reasons, runs_of, shown_resources

_ONE_WORKER = "One worker keeps all records, so there are no exchanges."
_MANY_WORKERS = "With one worker there would be no exchanges: all records would stay on it."


@dataclass(frozen=True, slots=True)
class RenderedStep:
    """One step as it will run."""

    step_id: str
    op_type: str


@dataclass(frozen=True, slots=True)
class RenderedStage:
    """Steps that run together, handing records on directly."""

    index: int
    runs: list[list[RenderedStep]]
    """In the order of the flow; the steps of one run share a single loop over the batch."""


@dataclass(frozen=True, slots=True)
class RenderedEdge:
    """A stream's way from one step to another."""

    stream_id: str
    from_step_id: str
    to_step_id: str
    route: str
    """How records find their worker: ``local`` (they stay), ``key``, ``balance``, ``partition``."""
    between_stages: bool
    """Whether there is a bounded channel on the way."""


@dataclass(frozen=True, slots=True)
class RenderedWatermark:
    """How a step with a stream clock comes to its watermark."""

    step_id: str
    inp_port: int
    """On which of the step's inputs the clock stands."""
    granularity: str
    """What counts by itself: each ``partition`` of the sources, or each ``worker``."""
    reasons: list[str]
    """Why partitions can't be told apart, if they can't."""


@dataclass(frozen=True, slots=True)
class RenderedTasks:
    """How a step runs its tasks, on each worker."""

    step_id: str
    executor: str
    """``inline``, ``async``, ``thread``, ``process``, or the class of a user's own."""
    max_in_flight: int
    order: str
    resources: str
    """What a try takes, as the command line has it; empty for nothing."""
    placement: str
    """Who runs it: ``worker``, ``any``, or the name of a label."""


@dataclass(frozen=True, slots=True)
class RenderedActors:
    """Whose messages a step with actors handles."""

    step_id: str
    classes: list[str]
    """The first one is that of records with plain keys."""
    between_workers: bool
    """Whether there is an edge from the step to itself, for messages to actors of other workers."""


@dataclass(frozen=True, slots=True)
class RenderedPlan:
    """A flow as planned for a number of workers."""

    flow_id: str
    workers: int
    note: str
    stages: list[RenderedStage]
    edges: list[RenderedEdge]
    watermarks: list[RenderedWatermark]
    tasks: list[RenderedTasks]
    actors: list[RenderedActors]


def _taken(resources: Resources | None) -> str:
    return "" if resources is None or not resources.parts else shown_resources(resources)


def _place(placement: Placement) -> str:
    return placement.name if isinstance(placement, Label) else placement


def to_rendered_plan(flow: Dataflow, workers: int) -> RenderedPlan:
    """Plan a flow.

    Raises:
        FlowError: The flow has no input or no output.
    """
    planned = plan(flow, workers)
    steps = [RenderedStep(step.inner_id, step.operator) for step in planned.steps]
    stages = [
        RenderedStage(
            stage.index,
            [[steps[step.index] for step in run] for run in runs_of(planned, stage)],
        )
        for stage in planned.stages
    ]
    stage_of = {step: stage.index for stage in planned.stages for step in stage.steps}
    edges = [
        RenderedEdge(
            edge.stream_id,
            steps[edge.producer].step_id,
            steps[edge.consumer].step_id,
            edge.route.value,
            stage_of[edge.producer] != stage_of[edge.consumer],
        )
        for edge in planned.edges
    ]
    watermarks = [
        RenderedWatermark(
            steps[clock.step].step_id,
            clock.edge.port,
            "partition" if clock.per_partition else "worker",
            reasons(planned, clock),
        )
        for clock in clocks_of(planned)
    ]
    tasks = [
        RenderedTasks(
            step.inner_id,
            executor_name(step.kernel.executor),
            step.kernel.rules.max_in_flight,
            step.kernel.rules.order,
            _taken(step.kernel.rules.resources),
            _place(step.kernel.rules.placement),
        )
        for step in planned.steps
        if isinstance(step.kernel, TaskKernel)
    ]
    circles = {edge.edge.consumer for edge in planned.feedback_edges}
    actors = [
        RenderedActors(
            step.inner_id, [cls.__name__ for cls in step.kernel.classes], step.index in circles
        )
        for step in planned.steps
        if isinstance(step.kernel, ActorKernel)
    ]
    note = _MANY_WORKERS if workers > 1 else _ONE_WORKER
    return RenderedPlan(flow.flow_id, workers, note, stages, edges, watermarks, tasks, actors)
