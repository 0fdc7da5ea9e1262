"""Makes a worker's stages out of the plan: compiles runs, opens sources and sinks, connects nodes.

Every worker builds all stages. Nodes are made from the last to the first, because each is given
where its output goes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.operators._kernels import (
    BatchKernel,
    BranchKernel,
    InputKernel,
    KeyedKernel,
    KeyedLogic,
    OutputKernel,
    RecordKernel,
    StepContext,
)
from engine.operators._state import KeyedState
from engine.operators._state_ttl import ExpiringState
from engine.operators.actors._actor_op import ActorKernel
from engine.operators.tasks._resources import Resources
from engine.operators.tasks._task import TaskKernel
from engine.runtime._actor_calls import ActorCalls
from engine.runtime._actor_node import ActorNode, ActorSite
from engine.runtime._build_actors import actor_node, actor_table
from engine.runtime._build_clocks import ClockBuilder
from engine.runtime._build_edges import EdgeBuilder
from engine.runtime._channel import CHANNEL_BYTES_MAX
from engine.runtime._counts import StepCounts, Tally
from engine.runtime._deal import Deal
from engine.runtime._failure import blaming, name_of
from engine.runtime._failures import FailureSite, StepFailures
from engine.runtime._fusion import fuse
from engine.runtime._ids import WorkerIndex
from engine.runtime._ledger import Ledger
from engine.runtime._lending import Lending
from engine.runtime._nodes import (
    Aside,
    BatchNode,
    BranchNode,
    KeyedNode,
    Node,
    PassNode,
    Push,
    RunNode,
    Target,
    fan_out,
)
from engine.runtime._outage import Patience
from engine.runtime._plan import (
    Plan,
    Stage,
    StageEdge,
    is_keyed,
    runs_of,
)
from engine.runtime._planned_step import PlannedStep
from engine.runtime._ports import Clock, Network, SystemEntropy
from engine.runtime._replays import ReplayPart, ReplaySource
from engine.runtime._sink_node import DynamicSinkNode, Job, PartitionedSinkNode, SinkNode
from engine.runtime._source_node import Opening, SourceNode
from engine.runtime._stage import (
    RunningStage,
    Sender,
    StageInput,
    StageProgress,
    TakesAll,
    have_room,
)
from engine.runtime._store import Store
from engine.runtime._task_node import TaskNode, TaskSite
from engine.runtime._task_site import RealExecutors, StartsExecutors, home_of, table_and_executor
from engine.runtime._watermarks import step_row

_UNNAMED = Job("")


def _nobody_waits() -> None:
    """The simulator looks by itself."""


@dataclass(frozen=True, slots=True)
class WorkerSite:
    """What a worker is and has around it."""

    index: WorkerIndex
    count: int
    clock: Clock
    network: Network
    credit: int
    job: Job = _UNNAMED
    store: Store | None = None
    """Where the worker saves its state; None without recovery."""
    state_bytes_max: int | None = None
    """How much memory its states may take; None for any. Only with a store."""
    tally: Tally | None = None
    """Counts what the worker does; None where nobody wants to know."""
    channel_bytes: int = CHANNEL_BYTES_MAX
    """How many bytes a channel may hold, as `credit` is for batches."""
    patience: Patience = field(default_factory=Patience)
    """With sources that can't be reached."""
    wake: Callable[[], None] = _nobody_waits
    """Ends the wait of whoever drives the worker; from any thread."""
    chance: Callable[[], float] = SystemEntropy.chance
    """Gives random numbers from 0 to 1."""
    executors: StartsExecutors = field(default_factory=RealExecutors)
    """Starts what runs tasks."""
    offers: tuple[Resources, ...] = ()
    """What each worker of the job offers to tasks; none of them anything if left out."""
    ledger: Ledger = field(default_factory=lambda: Ledger(Resources()))
    """Of this worker, which makes it of its offer."""
    lending: Lending | None = None
    """The worker makes it, if calls of a step may go to other workers."""


def build_stages(plan: Plan, deal: Deal, site: WorkerSite) -> list[RunningStage]:
    """All stages of one worker, in plan order, ready to run.

    Raises:
        EngineRuntimeError: A source or sink could not be opened; those opened before are closed.
    """
    stages: list[RunningStage] = []
    names = names_in_counts(plan, cut_before_keyed=site.state_bytes_max is not None)
    try:
        for stage in plan.stages:
            first_epoch = 1 if site.store is None else site.store.epoch + 1
            running = RunningStage(stage.index, StageProgress(first_epoch))
            stages.append(running)
            _StageBuilder(plan, stage, running, deal, site, names).build()
    except BaseException as ex:
        for running in stages:
            for error in running.close():
                ex.add_note(f"and then, {error.__notes__[-1]}: {name_of(error)}")
        raise
    return stages


def names_in_counts(plan: Plan, *, cut_before_keyed: bool) -> dict[int, str]:
    """The step under whose name each step is counted, by index.

    Steps that share a loop count as the first of them. Where that is what an input does behind its
    source, they count as the next one, or all of it would pass for reading.
    """
    names: dict[int, str] = {}
    for stage in plan.stages:
        for run in runs_of(plan, stage, cut_before_keyed=cut_before_keyed):
            name = run[0].step_id
            feeders = [plan.steps[e.producer] for e in plan.edges if e.consumer == run[0].index]
            if any(isinstance(f.kernel, InputKernel) and f.step_id == name for f in feeders):
                name = next((step.step_id for step in run if step.step_id != name), name)
            names.update((step.index, name) for step in run)
    return names


class _StageBuilder:
    """Builds one stage; lives only as long as that takes."""

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        running: RunningStage,
        deal: Deal,
        site: WorkerSite,
        names: dict[int, str],
    ) -> None:
        self._plan = plan
        self._stage = stage
        self._running = running
        self._deal = deal
        self._site = site
        self._names = names
        credit = site.credit, site.channel_bytes
        self._edges = EdgeBuilder(
            plan, site.index, site.network, credit, deal.sinks, saved=site.store is not None
        )
        inside = set(stage.steps)
        self._inner = [e for e in plan.edges if e.producer in inside and e.consumer in inside]
        self._outgoing = [e for e in plan.stage_edges if e.from_stage == stage.index]
        self._incoming = [e for e in plan.stage_edges if e.to_stage == stage.index]
        self._senders: dict[int, Sender] = {}
        self._targets: dict[tuple[int, int], Target] = {}
        self._counts: dict[int, StepCounts] = {}
        self._reach: dict[int, list[Sender]] = {}
        self._letters: dict[int, list[Any]] = {}
        """What takes the dead letters of each step that has any, by its index."""
        clock, tell = site.clock, site.patience.tell
        self._failed = FailureSite(site.index, stage.index, clock.time_s, clock.monotonic_s, tell)
        worker = site.index, site.count
        self._clocks = ClockBuilder(plan, stage, running, worker, site.clock, site.store)

    def build(self) -> None:
        """Make all nodes, then the inputs that lead to them."""
        for crossing in self._outgoing:
            sender = self._edges.sender(crossing)
            self._senders[crossing.edge_id] = sender
            self._running.senders.append(sender)
        # States that are not all in memory are best read for many keys at a time.
        cut = self._site.state_bytes_max is not None
        for run in reversed(runs_of(self._plan, self._stage, cut_before_keyed=cut)):
            self._reach_of(run)
            for step in run:
                self._reach[step.index] = self._reach[run[0].index]
            self._node(run)
        for crossing in self._incoming:
            entry = self._input(crossing)
            self._running.inputs.append(entry)
            self._running.channels.extend((entry, channel) for channel in entry.channels)
        self._edges.lead_back(self._running)
        self._clocks.finish()
        self._running.sources.reverse()
        self._running.timed.reverse()

    def _reach_of(self, run: list[PlannedStep]) -> None:
        """Note which outgoing edges a batch that enters the run may end up on."""
        reached: dict[int, Sender] = {}
        for step in run:
            for e in self._outgoing:
                if e.edge.producer == step.index:
                    reached[e.edge_id] = self._senders[e.edge_id]
            for inner in self._inner:
                if inner.producer == step.index:
                    for sender in self._reach.get(inner.consumer, ()):
                        reached[sender.edge] = sender
        self._reach[run[0].index] = list(reached.values())

    def _node(self, run: list[PlannedStep]) -> None:
        """Make the node of a run, and note how to reach its first step's input ports."""
        first, last = run[0], run[-1]
        name, tally = self._names[first.index], self._site.tally
        counts = None if tally is None else tally.step(name)
        if counts is not None:
            self._counts.update((step.index, counts) for step in run)
        inputs = self._inputs_of(first.index)
        only = all(len(step.downs) == 1 and step.letters is None for step in run)
        downs = [self._down(last, stream_id, only=only) for stream_id in last.downs]
        kernel = first.kernel
        push: Push | None = None
        node: Node
        if isinstance(kernel, RecordKernel):
            fused = [(step.kernel, self._context(step)) for step in run]
            asides = [
                aside
                for step, (_, context) in zip(run, fused, strict=True)
                for aside in self._asides(step, context)
            ]
            node = RunNode(fused, fuse(fused), downs[0], inputs, asides)
            push = node.push
        elif isinstance(kernel, BatchKernel):
            context = self._context(first)
            node = BatchNode(context, kernel, downs[0], inputs, list(self._letters_of(first)))
            push = node.push
        elif isinstance(kernel, BranchKernel):
            context, ways = self._context(first), (downs[0], downs[1])
            node = BranchNode(context, kernel, ways, inputs, list(self._letters_of(first)))
            push = node.push
        elif isinstance(kernel, KeyedKernel):
            node = self._keyed(first, downs[0], inputs, counts)
        elif isinstance(kernel, InputKernel):
            node = self._source(first, downs[0], counts)
        elif isinstance(kernel, TaskKernel):
            node = self._tasks(first, kernel, downs, inputs)
            push = node.push
        elif isinstance(kernel, ActorKernel):
            node = self._actors(first, kernel, downs, (inputs, counts))
            push = node.push
        elif isinstance(kernel, OutputKernel):
            node = self._sink(first, inputs)
            push = node.push
        else:
            node = PassNode(first.step_id, downs[0], inputs)
            push = node.push
        self._running.nodes.append(node)
        self._clocks.note(run, node)
        self._lead_to(node, push, first, counts)

    def _lead_to(
        self, node: Node, push: Push | None, step: PlannedStep, counts: StepCounts | None
    ) -> None:
        """Note how to reach the input ports of a step, the first of its node."""
        name = self._names[step.index]
        for port in range(len(step.ups)):
            to = node.port(port) if isinstance(node, KeyedNode) else push
            assert to is not None  # noqa: S101
            if counts is not None:
                feeders = [
                    e for e in self._plan.edges if (e.consumer, e.port) == (step.index, port)
                ]
                anew = any(self._names[e.producer] != name for e in feeders)
                to = counts.incoming(to, anew=anew)
            self._targets[step.index, port] = Target(to, node.end_input)

    def _inputs_of(self, step: int) -> int:
        return sum(1 for e in self._plan.edges if e.consumer == step)

    def _keyed(
        self, step: PlannedStep, down: Target, inputs: int, counts: StepCounts | None
    ) -> KeyedNode:
        context = self._context(step)
        logic: KeyedLogic = step.kernel.start(context)
        store, timers = self._site.store, context.state.form.timers
        if store is not None and step.kernel.saves_step:
            saved = self._saved(step.step_id, store)
            if saved:
                logic.resume_step(saved)
            self._running.saved_steps[step.step_id] = logic.step_state
        if store is not None and timers is not None:

            def scan(until_s: float) -> Iterator[tuple[float, Any]]:
                for due_s, key in store.timers(step.step_id, until_s):
                    if not context.state.knows(key):
                        yield due_s, key

            timers.attach(scan, context.now_s())
        down = self._clocks.emitted(step, down)
        asides = [
            (aside, self._clocks.emitted(step, target))
            for aside, target in self._asides(step, context)
        ]
        node = KeyedNode(context, logic, down, inputs, asides, counts)
        self._running.timed.append((node, self._reach[step.index]))
        return node

    @staticmethod
    def _saved(step_id: str, store: Store) -> list[Any]:
        """What the workers of the last run have saved for a step as a whole."""
        rows = store.positions(step_id).items()
        return [state for row, state in rows if row.startswith(step_row(""))]

    def _down(self, step: PlannedStep, stream_id: str, *, only: bool) -> Target:
        """Everything that reads one output stream of a step, in declaration order.

        Args:
            step: The step.
            stream_id: One of its streams.
            only: Nothing else comes out of the step's node.
        """
        targets: list[Target] = []
        readers: list[int | None] = []
        """Who takes it within the stage, if from nobody else."""
        for edge in self._plan.edges:
            if edge.producer != step.index or edge.stream_id != stream_id:
                continue
            crossing = next((e for e in self._outgoing if e.edge is edge), None)
            if crossing is None:
                targets.append(self._targets[edge.consumer, edge.port])
                alone = self._inputs_of(edge.consumer) == 1
                readers.append(edge.consumer if alone else None)
            else:
                sender = self._senders[crossing.edge_id]
                targets.append(self._clocks.way_out(crossing, sender))
                readers.append(None)
        target, counts = fan_out(targets), self._counts.get(step.index)
        if counts is None:
            return target
        takers = {self._names[e.consumer] for e in self._plan.edges if e.stream_id == stream_id}
        if takers == {self._names[step.index]}:
            return target
        # What goes to one step and to that alone is counted there.
        if only and len(readers) == 1 and readers[0] is not None:
            counts.followed_by(self._counts[readers[0]])
            return target
        return Target(counts.outgoing(target.push), target.end)

    def _context(self, step: PlannedStep) -> StepContext:
        site, progress = self._site, self._running.progress
        now_s, state = site.clock.time_s, self._state(step)
        if site.tally is not None and is_keyed(step.kernel):
            site.tally.watch(step.step_id, state)
        read = {edge.stream_id for edge in self._plan.edges}
        asides = tuple(list[Any]() if stream in read else None for stream in step.downs[1:])
        return StepContext(
            *(step.step_id, site.index, site.count, progress, now_s, state, asides),
            self._failures(step),
        )

    def _failures(self, step: PlannedStep) -> StepFailures | None:
        """What takes the records that a step raises for; None where that ends the run."""
        if step.on_error == "fail":
            return None
        letters = self._letters.setdefault(step.index, []) if step.letters is not None else None
        failures = StepFailures(step, self._failed, self._running.progress, letters)
        self._running.failures.append(failures)
        if self._site.tally is not None:
            self._site.tally.watch_failures(failures)
        return failures

    def _letters_of(self, step: PlannedStep) -> Iterator[Aside]:
        """The list that takes a step's dead letters, and where they go."""
        if step.letters is not None:
            yield self._letters[step.index], self._down(step, step.letters, only=False)

    def _asides(self, step: PlannedStep, context: StepContext) -> Iterator[Aside]:
        """The lists that a step fills for its outputs after the first, and where they go."""
        for aside, stream_id in zip(context.asides, step.downs[1:], strict=True):
            if aside is not None:
                yield aside, self._down(step, stream_id, only=False)
        yield from self._letters_of(step)

    def _state(self, step: PlannedStep) -> KeyedState:
        """The state that a step begins with: empty, or what the store has."""
        store, step_id = self._site.store, step.step_id
        ttl = step.kernel.state_options.ttl if is_keyed(step.kernel) else None
        if ttl is None:
            kernel = step.kernel
            state = kernel.new_state() if isinstance(kernel, KeyedKernel) else KeyedState()
            if store is None or not is_keyed(step.kernel):
                return state
            state.attach(store.state(step_id))
        else:
            state = expiring = ExpiringState(ttl, self._site.clock.time_s)
            self._running.expiring.append(expiring)
            if store is None:
                return state
            expiring.attach(store.state(step_id), functools.partial(store.timers, step_id))
        self._running.states[step_id] = state
        return state

    def _tasks(
        self, step: PlannedStep, kernel: TaskKernel, downs: list[Target], inputs: int
    ) -> TaskNode:
        site, store, step_id = self._site, self._site.store, step.step_id
        read = {edge.stream_id for edge in self._plan.edges}
        table, executor = table_and_executor(kernel, step_id, site)
        errors = downs[1] if step.downs[1] in read else None
        # First, as it makes the list of the letters.
        failures = self._failures(step)
        letters = list(self._letters_of(step))
        now_s, home = site.clock.monotonic_s, home_of(site.index, site.count)
        spot = TaskSite(step_id, now_s, home, failures, letters)
        node = TaskNode(spot, kernel, table, executor, (downs[0], errors), inputs)
        self._running.tasks.append((node, self._reach[step.index]))
        if store is not None:
            table.durable, table.epoch = store.epoch, store.epoch + 1
            table.next_id = max(self._saved(step_id, store), default=0)
            self._running.saved_steps[step_id] = lambda: table.next_id
            node.resume(store.state(step_id))
        return node

    def _actors(
        self,
        step: PlannedStep,
        kernel: ActorKernel,
        downs: list[Target],
        ways_in: tuple[int, StepCounts | None],
    ) -> ActorNode:
        site, running, step_id = self._site, self._running, step.step_id
        inputs, counts = ways_in
        read = {edge.stream_id for edge in self._plan.edges}
        dead = downs[1] if step.downs[1] in read else None
        table = actor_table(step_id, kernel, (site.index, site.count), site.chance)
        self._edges.lead_out(running)
        senders = self._reach[step.index]
        has_room = functools.partial(have_room, senders)
        calls = ActorCalls(step_id, kernel.classes[0].__module__, site)
        around = has_room, running.feedback, calls, site.patience.tell, counts
        spot = ActorSite(step_id, site.clock.time_s, *around)
        node = actor_node(spot, table, (downs[0], dead), inputs, site.store)
        running.actors.append((node, senders))
        if site.tally is not None:
            site.tally.watch(step_id, table.state)
        if site.store is not None:
            running.states[step_id] = table.state
        return node

    def _source(self, step: PlannedStep, down: Target, counts: StepCounts | None) -> SourceNode:
        source, site, step_id = step.kernel.source, self._site, step.step_id
        named = hasattr(source, "list_parts")

        def build_named(name: str, *, found: bool) -> Any:
            # Those of the whole job, whichever worker saved them: they say whether it was read.
            positions = self._positions(step)
            if name not in positions and (found or positions):
                return source.build_new_part(step_id, name)
            return source.build_part(step_id, name, positions.get(name))

        def build_own(name: str, *, found: bool) -> Any:
            del name, found  # There is one on each worker, from the start.
            if isinstance(source, ReplaySource):
                assert site.store is not None  # noqa: S101 - where the requests were found
                return ReplayPart(site.store.letter_orders() if site.index == 0 else ())
            return source.build(step_id, site.index, site.count)

        opening = Opening(
            build_named if named else build_own,
            functools.partial(self._positions, step),
            site.patience,
            endless=named and getattr(source, "discovery_interval", None) is not None,
        )
        node = SourceNode(step_id, down, site.clock, opening, counts)
        self._clocks.watch(node, step, down)
        if not isinstance(source, ReplaySource) and any(
            self._plan.steps[i].on_error != "fail" for i in self._stage.steps
        ):
            node.failed = self._failed
        # First of all, so that what is opened here is closed if opening the rest fails.
        self._running.sources.append((node, self._reach[step.index]))
        owners = self._deal.sources[step_id] if named else {f"worker-{site.index}": site.index}
        for name, owner in owners.items():
            if owner == site.index:
                node.build(name)
        return node

    def _sink(self, step: PlannedStep, inputs: int) -> SinkNode:
        sink, site = step.kernel.sink, self._site
        with blaming(step.step_id, "opening its sink"):
            node: SinkNode
            if hasattr(sink, "list_parts"):
                dealt = self._deal.sinks[step.step_id]
                node = PartitionedSinkNode(step.step_id, sink, list(dealt), site.job, inputs)
                self._running.sinks.append(node)
                if site.store is not None:
                    # At once, and not at the first record: what a crashed run left behind the
                    # last committed position must go even if no record ever comes.
                    positions = self._positions(step)
                    for name, owner in dealt.items():
                        if owner == site.index:
                            # Opening cuts a file back, say: not what a later run has written.
                            site.store.check_in_force()
                            node.open(name, positions.get(name))
            else:
                node = DynamicSinkNode(step.step_id, site.job, inputs)
                # Before it is opened, so that it is closed if opening fails half-way.
                self._running.sinks.append(node)
                if site.store is not None:
                    site.store.check_in_force()
                node.open(site.index, sink.build(step.step_id, site.index, site.count))
        return node

    def _positions(self, step: PlannedStep) -> dict[str, Any]:
        """Where the partitions of a step are to go on from, by name."""
        return {} if self._site.store is None else self._site.store.positions(step.step_id)

    def _input(self, crossing: StageEdge) -> StageInput:
        entry = StageInput(
            crossing.edge_id,
            self._edges.channels(crossing),
            self._targets[crossing.edge.consumer, crossing.edge.port],
            self._reach[crossing.edge.consumer],
            self._counts.get(crossing.edge.consumer),
        )
        takers: list[TakesAll] = [node for node, _ in self._running.tasks]
        takers += [node for node, _ in self._running.actors]
        for taker in takers:
            # It takes whatever comes: a barrier must never wait behind a batch.
            entry.takes_all, entry.senders = taker, []
        for node, _ in self._running.tasks if self._site.store is not None else ():
            entry.owe_all(node, self._site.credit, self._site.network, self._site.index)
        self._clocks.way_in(crossing, entry)
        return entry
