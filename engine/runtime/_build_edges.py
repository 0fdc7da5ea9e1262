"""Makes the two ends of edges between stages: senders, and the channels of a receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.operators._keys import refuse_unkeyed
from engine.operators.actors._actor_op import ActorKernel
from engine.runtime._actor_owners import ActorOwners
from engine.runtime._batch import ForgivingKeyOwners, KeyOwners, Owners
from engine.runtime._channel import Channel, channel_room
from engine.runtime._feedback import Feedback
from engine.runtime._ids import WorkerIndex
from engine.runtime._nodes import Target
from engine.runtime._plan import Plan, PlannedEdge, Route, StageEdge, is_keyed
from engine.runtime._planned_step import PlannedStep
from engine.runtime._ports import Network
from engine.runtime._stage import RunningStage, Sender, StageInput


class EdgeBuilder:
    """Makes one worker's ends of edges.

    Args:
        plan: What has the edges.
        worker: The number of the worker.
        network: Carries what is sent.
        credit: How many batches a channel may hold, and how many bytes.
        sinks: Which worker has which partition of a sink, by step id.
        saved: Whether there is a store.
    """

    def __init__(
        self,
        plan: Plan,
        worker: WorkerIndex,
        network: Network,
        credit: tuple[int, int],
        sinks: Mapping[str, Mapping[str, WorkerIndex]],
        *,
        saved: bool,
    ) -> None:
        self._plan = plan
        self._saved = saved
        self._worker = worker
        self._network = network
        self._sinks = sinks
        # All workers run all stages, so the receiver has as many channels as this one.
        channels = sum(
            1 if crossing.edge.route is Route.LOCAL else plan.workers
            for crossing in plan.stage_edges
        )
        self._room = channel_room(*credit, channels)

    def channels(self, crossing: StageEdge) -> list[Channel]:
        """The channels by which what is sent along an edge reaches the worker."""
        local = crossing.edge.route is Route.LOCAL
        senders = [self._worker] if local else range(self._plan.workers)
        return [Channel(crossing.edge_id, WorkerIndex(sender)) for sender in senders]

    def sender(self, crossing: StageEdge) -> Sender:
        """The worker's way to send along an edge."""
        route, workers = crossing.edge.route, self._plan.workers
        receivers: Iterable[int] = range(workers)
        owners: Owners | None = None
        if route is Route.LOCAL:
            receivers = (self._worker,)
        elif route is Route.KEY:
            owners = self._key_owners(self._plan.steps[crossing.edge.consumer])
        elif route is Route.PARTITION:
            owners = self._partition_owners(crossing.edge)
        ordered = [WorkerIndex(i) for i in receivers]
        edge_id, network = crossing.edge_id, self._network
        sender = Sender(edge_id, self._worker, ordered, owners, network, self._room)
        sender.producer = self._plan.steps[crossing.edge.producer].step_id
        if self._saved and self._plan.has_tasks(crossing.to_stage):
            sender.spend_all()
        return sender

    def _key_owners(self, taker: PlannedStep) -> Owners:
        if isinstance(taker.kernel, ActorKernel):
            return ActorOwners(self._plan.workers)
        forgives = is_keyed(taker.kernel) and taker.on_error != "fail"
        return (ForgivingKeyOwners if forgives else KeyOwners)(self._plan.workers)

    def lead_out(self, running: RunningStage) -> None:
        """Give a stage with actors the edge from itself to itself, if there are other workers."""
        for crossing in self._plan.feedback_edges:
            if crossing.from_stage == running.index:
                sender = self.sender(crossing)
                running.senders.append(sender)
                running.feedback = Feedback(sender, self.channels(crossing))

    @staticmethod
    def lead_back(running: RunningStage) -> None:
        """Have what comes by that edge be consumed; it waits for no room."""
        feedback = running.feedback
        if feedback is None:
            return
        (node, _), edge = running.actors[0], feedback.channels[0].edge
        entry = StageInput(edge, feedback.channels, Target(node.push, node.end_input), [])
        entry.feedback = feedback
        running.inputs.append(entry)
        running.channels.extend((entry, channel) for channel in feedback.channels)

    def _partition_owners(self, edge: PlannedEdge) -> Callable[[Any], int]:
        """Gives the worker that has the sink partition of a record's key."""
        step = self._plan.steps[edge.consumer]
        part_fn: Callable[[Any], int] = step.kernel.sink.part_fn
        owners = list(self._sinks[step.step_id].values())

        def owner(record: Any) -> int:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            return owners[part_fn(record[0]) % len(owners)]

        return owner
