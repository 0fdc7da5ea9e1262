"""From the graph a user built to what each worker runs: steps, edges, stages.

`plan` flattens compositions into steps with kernels, marks the edges on which records change
workers (exchanges), and cuts the graph at them into stages. All steps of a stage have the same set
of exchanges upstream, so the stage graph has no cycle even where the step graph joins a stream
with what an exchange made of it. Pure: called once per run, and by `engine.visualize --plan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from engine.dataflow import Dataflow, Operator
from engine.dataflow._fingerprint import leaf_steps
from engine.errors import FlowError, InternalError
from engine.operators._kernels import (
    InputKernel,
    InspectDebugKernel,
    InspectKernel,
    KeyedKernel,
    OutputKernel,
    RecordKernel,
    RedistributeKernel,
)
from engine.operators.tasks._task import TaskKernel
from engine.runtime._ids import EdgeId, StageIndex
from engine.runtime._planned_letters import with_keeper
from engine.runtime._planned_step import PlannedStep
from engine.runtime._policies import (
    Policy,
    RunStep,
    check_able,
    letters_into,
    letters_last,
    policies_of,
)


class Route(Enum):
    """How records find the worker on the other side of an edge."""

    LOCAL = "local"
    """They stay on their worker."""
    KEY = "key"
    """To the worker that owns the record's key."""
    BALANCE = "balance"
    """Dealt evenly over all workers."""
    PARTITION = "partition"
    """To the worker that has the sink partition of the record's key."""


@dataclass(frozen=True, slots=True)
class PlannedEdge:
    """A stream's way into one input port of one step."""

    stream_id: str
    producer: int
    consumer: int
    port: int
    route: Route


@dataclass(frozen=True, slots=True)
class StageEdge:
    """An edge between two stages: it has a channel from every sender to every receiver."""

    edge_id: EdgeId
    edge: PlannedEdge
    from_stage: StageIndex
    to_stage: StageIndex


@dataclass(frozen=True, slots=True)
class Stage:
    """Connected steps that run together, records being handed on directly."""

    index: StageIndex
    steps: tuple[int, ...]
    """Indexes of its steps, in topological order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker runs."""

    flow_id: str
    workers: int
    steps: tuple[PlannedStep, ...]
    edges: tuple[PlannedEdge, ...]
    stages: tuple[Stage, ...]
    """In topological order: an edge between stages goes from a lower to a higher index."""
    stage_edges: tuple[StageEdge, ...]

    def has_tasks(self, stage: StageIndex) -> bool:
        """Whether one of a stage's steps has tasks."""
        steps = self.stages[stage].steps
        return any(isinstance(self.steps[step].kernel, TaskKernel) for step in steps)


def plan(
    flow: Dataflow, workers: int = 1, *, kernels: bool = True, replaying: bool = False
) -> Plan:
    """Plan a flow for a number of workers.

    With one worker no record ever changes workers, so there are no exchanges and steps on both
    sides of a would-be exchange share a stage.

    Args:
        flow: The finished graph.
        workers: How many workers will run it.
        kernels: Use the fast kernels of composed operators, not only those of core operators.
        replaying: There are requests about dead letters in the store.

    Raises:
        FlowError: The flow has no input or no output, or a step can't do what it is to do about
            errors.
    """
    steps = with_keeper(flow.flow_id, _steps(flow, workers, kernels=kernels), replaying=replaying)
    _check_ends(flow, steps)
    _check_states(steps)
    edges = tuple(_edges(steps, workers))
    stages = _stages(steps, edges)
    stage_of = {step: stage.index for stage in stages for step in stage.steps}
    crossing = [e for e in edges if stage_of[e.producer] != stage_of[e.consumer]]
    stage_edges = tuple(
        StageEdge(EdgeId(i), e, stage_of[e.producer], stage_of[e.consumer])
        for i, e in enumerate(crossing)
    )
    _check_acyclic(edges, stage_of)
    return Plan(flow.flow_id, workers, steps, edges, stages, stage_edges)


def _steps(flow: Dataflow, workers: int, *, kernels: bool) -> tuple[PlannedStep, ...]:
    policies = policies_of(flow)
    run = [
        RunStep.of(leaf, op, kernel, policies[op.step_id])
        for leaf in leaf_steps(flow.substeps)
        for op, kernel in _flatten([leaf], workers, policies, kernels=kernels)
    ]
    check_able(run)
    run = letters_last(run)
    taken = letters_into(run)
    return tuple(
        PlannedStep(
            *(i, step.leaf.step_id, step.op.step_id, step.op.name, step.leaf.name, step.kernel),
            taken.get(step.op.step_id, step.ups),
            step.downs,
            step.on_error,
            step.letters,
        )
        for i, step in enumerate(run)
    )


def runs_of(plan: Plan, stage: Stage, *, cut_before_keyed: bool = False) -> list[list[PlannedStep]]:
    """A stage's steps in topological order, those that share one loop in one list.

    Args:
        plan: The plan.
        stage: One of its stages.
        cut_before_keyed: Let each keyed step begin a loop, so that the keys of a batch are known
            before it runs and their states can be read in one go.
    """
    runs: list[list[PlannedStep]] = []
    run_of: dict[int, list[PlannedStep]] = {}
    for index in stage.steps:
        step = plan.steps[index]
        before = _fusible_with(plan, stage, step)
        if cut_before_keyed and is_keyed(step.kernel):
            before = None
        run = None if before is None else run_of[before.index]
        if run is None or run[-1] is not before:
            run = list[PlannedStep]()
            runs.append(run)
        run.append(step)
        run_of[index] = run
    return runs


def _fusible_with(plan: Plan, stage: Stage, step: PlannedStep) -> PlannedStep | None:
    """The step right before this one, if both can share a loop."""
    feeding = [e for e in plan.edges if e.consumer == step.index]
    if len(feeding) != 1 or feeding[0].producer not in stage.steps:
        return None
    before = plan.steps[feeding[0].producer]
    stream_id = feeding[0].stream_id
    if stream_id != before.downs[0]:
        return None
    readers = [e for e in plan.edges if e.stream_id == stream_id]
    both = isinstance(step.kernel, RecordKernel) and isinstance(before.kernel, RecordKernel)
    return before if both and len(readers) == 1 and not before.kernel.final else None


def _flatten(
    operators: list[Operator], workers: int, policies: dict[str, Policy], *, kernels: bool
) -> Iterator[tuple[Operator, Any]]:
    """The steps that will run: those with a kernel, compositions being descended into.

    What only a kernel can do has no composition.
    """
    for op in operators:
        kernel = None
        if op.kernel is not None and (kernels or op.core or not op.substeps):
            kernel = op.kernel(op, workers)
            if kernel is None and policies[op.step_id].on_error != "fail":
                # The composition works on whole batches first, where one record spoils them all.
                alone = op.kernel(op, 1)
                kernel = alone if getattr(alone, "takes_pairs", False) else None
        if kernel is not None:
            yield op, kernel
        elif op.core:
            msg = f"core operator of step {op.step_id!r} has no kernel"
            raise InternalError(msg)
        else:
            yield from _flatten(op.substeps, workers, policies, kernels=kernels)


def _check_ends(flow: Dataflow, steps: tuple[PlannedStep, ...]) -> None:
    if not any(isinstance(step.kernel, InputKernel) for step in steps):
        msg = f"dataflow {flow.flow_id!r} has no input; add one with `op.input`"
        raise FlowError(msg)
    ends = (OutputKernel, InspectKernel, InspectDebugKernel)
    if not any(isinstance(step.kernel, ends) for step in steps):
        msg = f"dataflow {flow.flow_id!r} has no output; add one with `op.output` or `op.inspect`"
        raise FlowError(msg)


def _check_states(steps: tuple[PlannedStep, ...]) -> None:
    """The state of a step goes by the step's name alone, so two can't have the same."""
    keyed: set[str] = set()
    for step in steps:
        if is_keyed(step.kernel):
            if step.step_id in keyed:
                msg = f"two keyed steps go by the name {step.step_id!r}"
                raise InternalError(msg)
            keyed.add(step.step_id)


def _edges(steps: tuple[PlannedStep, ...], workers: int) -> Iterator[PlannedEdge]:
    producers = {stream_id: step.index for step in steps for stream_id in step.downs}
    producers.update({step.letters: step.index for step in steps if step.letters is not None})
    for step in steps:
        route = Route.LOCAL if workers == 1 else _route(step.kernel)
        for port, stream_id in enumerate(step.ups):
            yield PlannedEdge(stream_id, producers[stream_id], step.index, port, route)


def is_keyed(kernel: Any) -> bool:
    """Whether a step with this kernel keeps state by key."""
    return isinstance(kernel, KeyedKernel) or (isinstance(kernel, RecordKernel) and kernel.keyed)


def _route(kernel: Any) -> Route:
    """How records must reach a step with this kernel, where there are several workers."""
    if is_keyed(kernel):
        return Route.KEY
    if isinstance(kernel, TaskKernel) and kernel.rules.order == "key":
        return Route.KEY
    if isinstance(kernel, RedistributeKernel):
        return Route.BALANCE
    if isinstance(kernel, OutputKernel) and hasattr(kernel.sink, "part_fn"):
        return Route.PARTITION
    return Route.LOCAL


@dataclass(slots=True)
class _Group:
    """Steps found to belong to one stage so far."""

    upstream: frozenset[int]
    steps: list[int] = field(default_factory=list[int])


def _stages(steps: tuple[PlannedStep, ...], edges: tuple[PlannedEdge, ...]) -> tuple[Stage, ...]:
    """Group steps by the exchanges upstream of them, and these groups by being connected.

    What leads to a step with tasks counts as an exchange: it begins a stage, so that waiting there
    holds up nobody else.
    """
    inputs: dict[int, list[tuple[int, PlannedEdge]]] = {step.index: [] for step in steps}
    cuts: set[int] = set()
    for number, edge in enumerate(edges):
        inputs[edge.consumer].append((number, edge))
        if edge.route is not Route.LOCAL or isinstance(steps[edge.consumer].kernel, TaskKernel):
            cuts.add(number)
    group_of: dict[int, _Group] = {}
    for step in steps:
        upstream = frozenset(
            exchange
            for number, edge in inputs[step.index]
            for exchange in (group_of[edge.producer].upstream | (cuts & {number}))
        )
        joined = _Group(upstream, [step.index])
        for number, edge in inputs[step.index]:
            other = group_of[edge.producer]
            if number not in cuts and other.upstream == upstream and other is not joined:
                joined.steps.extend(other.steps)
                for index in other.steps:
                    group_of[index] = joined
        group_of[step.index] = joined
    return _numbered(steps, edges, group_of)


def _numbered(
    steps: tuple[PlannedStep, ...], edges: tuple[PlannedEdge, ...], group_of: dict[int, _Group]
) -> tuple[Stage, ...]:
    """Put the stages in topological order: each after all that feed it (Kahn's algorithm)."""
    groups = list({id(group_of[step.index]): group_of[step.index] for step in steps}.values())
    feeders: dict[int, set[int]] = {id(g): set() for g in groups}
    for edge in edges:
        producer, consumer = group_of[edge.producer], group_of[edge.consumer]
        if producer is not consumer:
            feeders[id(consumer)].add(id(producer))
    ordered: list[Stage] = []
    placed: set[int] = set()
    while len(ordered) < len(groups):
        ready = next((g for g in groups if id(g) not in placed and feeders[id(g)] <= placed), None)
        if ready is None:
            msg = "the stages of this plan feed each other in a circle"
            raise InternalError(msg)
        placed.add(id(ready))
        ordered.append(Stage(StageIndex(len(ordered)), tuple(sorted(ready.steps))))
    return tuple(ordered)


def _check_acyclic(edges: tuple[PlannedEdge, ...], stage_of: dict[int, StageIndex]) -> None:
    """A stage that waited for a barrier from downstream of itself would wait for ever."""
    for edge in edges:
        if stage_of[edge.producer] > stage_of[edge.consumer]:
            msg = f"stream {edge.stream_id!r} runs from a later stage to an earlier one"
            raise InternalError(msg)
