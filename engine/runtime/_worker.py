"""The worker: one loop over all stages, one bounded piece of work at a time.

It never blocks and never touches the world but through its ports. A driver (`engine.runtime._run`,
or the simulator) calls `step` again and again, carries commands from the coordinator in through
`command` and reports out of `reports`.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from engine.errors import InternalError
from engine.operators.tasks._resources import Resources
from engine.runtime._actor_node import ActorNode
from engine.runtime._build import WorkerSite, build_stages
from engine.runtime._counts import StepCounts, WorkerSnapshot
from engine.runtime._deal import Deal
from engine.runtime._errands import ERRANDS
from engine.runtime._ids import EdgeId, Epoch, WorkerIndex
from engine.runtime._ledger import Ledger
from engine.runtime._lending import Lending
from engine.runtime._loopback import Loopback
from engine.runtime._memory import StateMemory
from engine.runtime._messages import (
    CaughtUp,
    CloseEpoch,
    Command,
    CommitEpoch,
    Ended,
    EpochRequest,
    NewParts,
    Prepared,
    Published,
    Report,
    Stop,
    Watermark,
)
from engine.runtime._nodes import KeyedNode
from engine.runtime._offers import lends
from engine.runtime._plan import Plan
from engine.runtime._source_node import SourceNode
from engine.runtime._stage import RunningStage, Sender, StageInput, have_room
from engine.runtime._store import StepChanges
from engine.runtime._task_node import TaskNode
from engine.runtime._watermarks import StageClocks, step_row

_ITEMS_PER_ROUND_MAX = 16
_BATCHES_PER_POLL_MAX = 1_000_000_000
_ASK_AGAIN_S = 0.0005
"""When to ask a sink again that has said `PENDING`."""
_APPLY_SLICE_S = 0.001
_CLOSE_S = 1.0
"""How long executors may take to stop."""


class Worker:
    """One of the equal workers that run a plan.

    Args:
        plan: What to run.
        deal: Which worker has which partition.
        site: This worker's number and ports. Batches it sends to itself don't use the network.
        epoch_per_batch: Each source batch is an epoch of its own, committed before the next poll.
    """

    def __init__(
        self, plan: Plan, deal: Deal, site: WorkerSite, *, epoch_per_batch: bool = False
    ) -> None:
        self.index = site.index
        self.stopped = False
        self.reports: deque[Report] = deque()
        self.network = Loopback(self, site.network)
        offers = site.offers or (Resources(),) * site.count
        self.ledger = Ledger(offers[site.index])
        self.lending: Lending | None = None
        """Calls that other workers run for this one, and that it runs for them."""
        if site.count > 1 and lends(plan):
            self.lending = Lending(
                site.index, offers, self.ledger, self.network, site.clock.monotonic_s
            )
        site = replace(site, network=self.network, ledger=self.ledger, lending=self.lending)
        self.stages = build_stages(plan, deal, site)
        self.channels = {
            (channel.edge, channel.sender): channel
            for stage in self.stages
            for _, channel in stage.channels
        }
        self._senders = {sender.edge: sender for s in self.stages for sender in s.senders}
        self._fed = [stage for stage in reversed(self.stages) if stage.inputs]
        self._sources = [source for stage in self.stages for source in stage.sources]
        self._timed = [timed for stage in reversed(self.stages) for timed in stage.timed]
        self._tasked = [tasked for stage in self.stages for tasked in stage.tasks]
        self._tended: list[tuple[TaskNode | ActorNode, list[Sender]]] = []
        """Steps that have something to do though nothing comes."""
        self._tended += self._tasked
        self._tended += [acting for stage in self.stages for acting in stage.actors]
        self._clocked = [(s.clocks, s.senders) for s in self.stages if s.clocks is not None]
        self._time_s = site.clock.time_s
        self._executors, self._tell = site.executors, site.patience.tell
        self.tally = site.tally
        self._inbox: deque[Command] = deque()
        self._batches_max = 1 if epoch_per_batch else _BATCHES_PER_POLL_MAX
        self._epoch_per_batch = epoch_per_batch
        self._memory: StateMemory | None = None
        if site.state_bytes_max is not None:
            states = [state for stage in self.stages for state in stage.states.values()]
            queues = [node.table.boxes for stage in self.stages for node, _ in stage.actors]
            self._memory = StateMemory(states, site.state_bytes_max, queues)
        self._crowded = False
        self._awaited: list[RunningStage] = []
        """Stages that would pass the last barrier if their tasks and actors had ended."""
        self._hold = False
        self._final = False
        self._source_turn = 0
        self._store = site.store
        self._epoch = Epoch(1 if site.store is None else site.store.epoch + 1)
        self._applying = False
        self._stages_behind = 0
        self._settling: Iterator[None] | None = None if self._store is None else self._resume()
        self._publishing: Iterator[None] | None = None
        self._ask_sinks_at_s = -math.inf
        self._positions: list[dict[str, Any]] = []
        self._end_reported = False

    # What the driver calls

    def command(self, command: Command) -> None:
        """Queue what the coordinator says."""
        self._inbox.append(command)

    def receive(self, edge: EdgeId, sender: WorkerIndex, item: Any) -> None:
        """Queue what came over the network."""
        if edge == ERRANDS:
            assert self.lending is not None  # noqa: S101 - all workers have the same plan
            self.lending.receive(sender, item)
            return
        channel = self.channels[edge, sender]
        kind = item.__class__
        if kind is Watermark:
            channel.put_watermark(item)
        elif kind is CaughtUp:
            channel.put_caught_up(item)
        else:
            channel.items.append(item)

    def credit(self, edge: EdgeId, receiver: WorkerIndex, batches: int = 1) -> None:
        """Take back credit for batches that the receiver has taken."""
        self._senders[edge].credits[receiver].give_back(batches)

    def step(self) -> float:
        """One round of the loop.

        Returns:
            In how many seconds there will be something to do again: 0 at once, infinity only
            after something comes from outside.
        """
        while self._inbox:
            self._obey(self._inbox.popleft())
        if self._settling is not None:
            return self._settle()
        if self.stopped:
            return 0.0
        wait_s = self._publish_some()
        if wait_s == 0.0:
            return 0.0
        worked = self._applying and self._apply()
        for stage in self._fed:
            worked = self._consume(stage) or worked
        if self._settling is None:
            wait_s = min(wait_s, self._look_around())
        if worked or self._inbox or self._settling is not None:
            return 0.0
        return wait_s

    def marked_shards(self) -> dict[str, list[str]]:
        """The shards of sinks that keep a marker at their target, by step."""
        sinks = [sink for stage in self.stages for sink in stage.sinks]
        return {sink.step_id: shards for sink in sinks if (shards := sink.marked_shards())}

    def snapshot(self, exchanged: tuple[int, int] = (0, 0)) -> WorkerSnapshot:
        """What the worker has counted; only where its site has a tally.

        Args:
            exchanged: Bytes sent to and received from workers of other processes.
        """
        tally = self.tally
        assert tally is not None  # noqa: S101
        queued: dict[StepCounts, int] = {}
        for stage in self.stages:
            for entry, channel in stage.channels:
                if entry.counts is not None:
                    queued[entry.counts] = queued.get(entry.counts, 0) + len(channel.items)
        steps, states = tally.steps(queued), tally.states()
        waiting = self._settling is not None or self._publishing is not None
        lags = {node.step_id: node.lags() for node, _ in self._sources}
        return WorkerSnapshot(
            *(self.index, steps, states, tally.busy_s(), self._epoch, waiting, *exchanged),
            lags=lags,
            watermarks={k: v for c, _ in self._clocked for k, v in c.snapshots(self._time_s())},
            tasks={node.step_id: node.table.snapshot() for node, _ in self._tasked},
            actors={n.step_id: n.snapshot() for stage in self.stages for n, _ in stage.actors},
            left_out=tally.left_out(),
            resources=self.ledger.snapshot(),
            lent={} if self.lending is None else self.lending.lent(),
        )

    def close(self) -> list[Exception]:
        """Close all sources, sinks and executors; gives the errors of those that would not."""
        for line in self._executors.close(_CLOSE_S):
            self._tell(f"left behind: {line}")
        return [error for stage in self.stages for error in stage.close()]

    def actions(self) -> Iterator[Callable[[], Any]]:
        """Each piece of work that could be done now, as a call: what a round takes in its order.

        The simulator draws one of them at a time.
        """
        if self._inbox:
            yield lambda: self._obey(self._inbox.popleft())
        if self.stopped:
            return
        if self._settling is not None:
            if self._ask_sinks_at_s <= self._time_s():
                yield self._settle
            return
        if self._applying:
            yield self._apply
        for stage in self._fed:
            for entry, channel in stage.ready_channels():
                yield functools.partial(self._consume_one, stage, entry, channel)
        for wait_s, action in self._timed_actions():
            if wait_s <= 0.0:
                yield action

    def next_event_s(self) -> float:
        """In how many seconds there is one more of `actions`, if nothing comes from outside."""
        if self.stopped:
            return math.inf
        if self._settling is not None:
            return max(0.0, self._ask_sinks_at_s - self._time_s())
        return max(0.0, min((wait_s for wait_s, _ in self._timed_actions()), default=math.inf))

    def _timed_actions(self) -> Iterator[tuple[float, Callable[[], Any]]]:
        """What time alone brings about, with the seconds until then."""
        yield from self._outer_actions()
        if self._awaited or not self._final:
            yield from self._tended_actions()
        if self._final:
            return
        for node, senders in self._timed:
            due_s = node.logic.next_due_s()
            if due_s is not None and not node.ended and have_room(senders):
                yield due_s - self._time_s(), functools.partial(self._notify, node)
        for clocks, senders in self._clocked:
            if have_room(senders):
                yield clocks.wait_s(), functools.partial(self._leave_out, clocks)
        for source, senders in () if self._hold or self._crowded else self._sources:
            if not source.ended and have_room(senders):
                yield source.wait_s(), functools.partial(self._poll_one, source, senders)

    def _outer_actions(self) -> Iterator[tuple[float, Callable[[], Any]]]:
        """Of those, what has to do with others: sinks that haven't published, lent calls."""
        if self._publishing is not None:
            yield self._ask_sinks_at_s - self._time_s(), self._publish_some
        if self.lending is not None:
            yield self.lending.wait_s(), self.lending.turn

    def _tended_actions(self) -> Iterator[tuple[float, Callable[[], Any]]]:
        for node, senders in self._tended:
            if not node.ended:
                wait_s = node.wait_s(room=self._may_go_on(node, senders))
                yield wait_s, functools.partial(self._tend_one, node, senders)

    # The phases of a round

    def _consume_one(self, stage: RunningStage, entry: StageInput, channel: Any) -> None:
        """Take one item out of a channel and follow up on it."""
        if stage.consume(entry, channel, self.network, self.index):
            self._pass_barrier(stage)
        elif stage.feedback is not None and stage.feedback.complete:
            self._all_passed(stage, self._epoch)
        if self._memory is not None:
            self._look_at_memory(self._memory)
        self._report_end()

    def _consume(self, stage: RunningStage) -> bool:
        """Work through what waits before a stage, up to a bound."""
        for taken in range(_ITEMS_PER_ROUND_MAX):
            ready = next(stage.ready_channels(), None)
            if ready is None:
                return taken > 0
            self._consume_one(stage, *ready)
            if self._settling is not None:
                break
        return True

    def _look_around(self) -> float:
        """Do what nobody sends; in how many seconds there is something of it to do again."""
        wait_s = math.inf
        if self.lending is not None:
            wait_s = self.lending.turn()
        if self._tended and (self._awaited or not self._final):
            wait_s = min(wait_s, self._tend())
        if self._final:
            return wait_s
        if self._timed:
            wait_s = min(wait_s, self._fire_timers())
        if not self._hold and not self._crowded:
            wait_s = min(wait_s, self._poll())
        return wait_s

    def _fire_timers(self) -> float:
        """Fire the timers that are due where there is room for what they emit."""
        # There is a step that may have timers wherever there is a clock.
        clocks_wait_s = self._look_at_clocks() if self._clocked else math.inf
        first_s = math.inf
        for node, senders in self._timed:
            due_s = node.logic.next_due_s()
            if due_s is None or node.ended or not have_room(senders):
                continue
            if due_s <= self._time_s():
                self._notify(node)
                due_s = node.logic.next_due_s()
                if due_s is None:
                    continue
            first_s = min(first_s, due_s)
        return min(clocks_wait_s, max(0.0, first_s - self._time_s()))

    def _poll(self) -> float:
        """Poll each source that has room downstream, in declaration order."""
        wait_s, sources = math.inf, self._sources
        for _ in range(len(sources)):
            node, senders = sources[self._source_turn]
            self._source_turn = (self._source_turn + 1) % len(sources)
            if node.ended:
                continue
            if senders and not have_room(senders):
                if node.counts is not None:
                    node.counts.hold()
                continue
            wait = self._poll_one(node, senders)
            if self._hold:
                return 0.0
            if wait < wait_s:  # noqa: PLR1730 - a call less per batch
                wait_s = wait
        return wait_s

    def _poll_one(self, node: SourceNode, senders: list[Sender]) -> float:
        """Poll one source; gives in how many seconds it is due again."""
        poll, counts = node.poll, node.counts
        if counts is not None:
            if counts.held_since_s is not None:
                counts.let_go()
            if counts.tally.timed:
                poll = node.timed_poll
        # There is room for one batch, so where batches are sent on only one may come.
        batches, wait_s = poll(1 if senders else self._batches_max)
        if self._memory is not None:
            self._look_at_memory(self._memory)
        if node.ended:
            self._report_end()
            return 0.0
        if batches and self._epoch_per_batch:
            self.reports.append(EpochRequest())
            self._hold = True
        return wait_s

    def _notify(self, node: KeyedNode) -> None:
        """Fire a step's timers that are due."""
        node.notify()
        if self._epoch_per_batch:
            self.reports.append(EpochRequest())

    def _tend(self) -> float:
        """See what has become of tasks, let actors have their turn; when to look again."""
        first_s = math.inf
        for node, senders in self._tended:
            if not node.ended:
                # Asked first: a step that waits must cost the others nothing.
                wait_s = node.wait_s(room=self._may_go_on(node, senders))
                first_s = min(first_s, wait_s if wait_s > 0.0 else self._tend_one(node, senders))
        return first_s

    def _tend_one(self, node: TaskNode | ActorNode, senders: list[Sender]) -> float:
        wait_s = node.turn(room=self._may_go_on(node, senders))
        if (self._epoch_per_batch and node.take_unsaved()) or node.asks_commit():
            self.reports.append(EpochRequest())
        self._report_end()
        if self._memory is not None:
            self._look_at_memory(self._memory)
        if self._awaited:
            self._pass_awaited()
        return wait_s

    def _may_go_on(self, node: TaskNode | ActorNode, senders: list[Sender]) -> bool:
        """Whether a step may work: what it emits has room, and what actors send each other too."""
        if not have_room(senders):
            return False
        return not (self._crowded and isinstance(node, ActorNode) and node.swells)

    def _pass_awaited(self) -> None:
        """Let stages end whose tasks and actors have."""
        waiting, self._awaited = self._awaited, []
        for stage in waiting:
            self._pass_barrier(stage)

    def _look_at_clocks(self) -> float:
        """See which partitions clocks needn't wait for; in how many seconds to look again."""
        first_s = math.inf
        for clocks, senders in self._clocked:
            # Steps may emit for it.
            if have_room(senders):
                if clocks.wait_s() <= 0.0:
                    self._leave_out(clocks)
                first_s = min(first_s, clocks.wait_s())
        return first_s

    def _leave_out(self, clocks: StageClocks) -> None:
        if clocks.on_time() and self._epoch_per_batch:
            self.reports.append(EpochRequest())

    def _look_at_memory(self, memory: StateMemory) -> None:
        """Ask for the next epoch when states take too much; sources wait until it has made room."""
        if not self._crowded and memory.full():
            self._crowded = True
            self.reports.append(EpochRequest())

    def _report_end(self) -> None:
        if not self._end_reported and all(n.ended for s in self.stages for n in s.nodes):
            self._end_reported = True
            self.reports.append(Ended())

    # Epochs

    def _obey(self, command: Command) -> None:
        match command:
            case CloseEpoch(epoch, final, new_parts):
                self._close_epoch(epoch, final=final)
                if not final:
                    self._open_parts(new_parts)
            case CommitEpoch(epoch):
                self._publishing = self._publish(epoch)
            case Stop():
                self.stopped = True

    def _close_epoch(self, epoch: Epoch, *, final: bool) -> None:
        if epoch != self._epoch:
            msg = f"worker {self.index} is in epoch {self._epoch} and told to close {epoch}"
            raise InternalError(msg)
        self._final = final
        self._stages_behind = len(self.stages)
        self._positions = [node.snapshot() for node, _ in self._sources]
        for stage in self.stages:
            if not stage.inputs:
                self._pass_barrier(stage)
        self._hold = self._epoch_per_batch

    def _open_parts(self, new_parts: NewParts) -> None:
        """Begin to read partitions that were found while running: they belong to the next epoch."""
        for node, _ in self._sources:
            for name, owner in new_parts.get(node.step_id, {}).items():
                if owner == self.index:
                    node.build(name, found=True)

    def _pass_barrier(self, stage: RunningStage) -> None:
        """A stage has all records of the epoch: its sinks take stock, and it goes on.

        Where nothing is saved, the end of a run waits for tasks and actors.
        """
        if self._final and self._store is None and stage.must_end():
            self._awaited.append(stage)
            return
        self._settling = _after(self._settling, self._prepare(stage, self._epoch))

    def _prepare(self, stage: RunningStage, epoch: Epoch) -> Iterator[None]:
        for sink in stage.sinks:
            yield from sink.prepare(epoch)
        for expiring in stage.expiring:
            expiring.expire()
        if self._store is not None:
            states = [StepChanges(step, s.barrier()) for step, s in stage.states.items()]
            for node, _ in stage.tasks:
                states.append(StepChanges(node.step_id, node.barrier(epoch)))
            times = {} if stage.clocks is None else stage.clocks.changes()
            for step_id, save in stage.saved_steps.items():
                times.setdefault(step_id, {})[step_row(self.index)] = save()
            self._store.append(
                epoch,
                [
                    *states,
                    *(StepChanges(step, positions=rows) for step, rows in times.items()),
                    *(sink.changes() for sink in stage.sinks),
                ],
            )
            if self._memory is not None:
                self._memory.make_room(stage.states.values())
        stage.pass_barrier(epoch)
        if stage.feedback is None or stage.feedback.complete:
            self._all_passed(stage, epoch)

    def _all_passed(self, stage: RunningStage, epoch: Epoch) -> None:
        """A stage has given all that the epoch saves of it, what was on its way to itself too."""
        if stage.feedback is not None:
            stage.feedback.open = False
            if self._store is not None:
                logged = [StepChanges(node.step_id, node.take_log()) for node, _ in stage.actors]
                self._store.append(epoch, logged)
        self._stages_behind -= 1
        if self._stages_behind == 0:
            self._prepared(epoch)

    def _prepared(self, epoch: Epoch) -> None:
        """All stages have passed the barrier: all that the epoch did on this worker is known."""
        if self._store is not None:
            positions = zip(self._sources, self._positions, strict=True)
            self._store.append(
                epoch, [StepChanges(node.step_id, positions=at) for (node, _), at in positions]
            )
            self._store.prepare(epoch)
        self._epoch = Epoch(epoch + 1)
        self._crowded = False
        self.reports.append(Prepared(epoch))

    def _resume(self) -> Iterator[None]:
        """Before the first record: finish what an earlier run committed and did not get out."""
        store = self._store
        assert store is not None  # noqa: S101
        for stage in self.stages:
            for sink in stage.sinks:
                yield from sink.settle(store)
        for node, _ in self._sources:
            node.on_commit(store.positions(node.step_id))

    def _apply(self) -> bool:
        """Bring the store's table a little nearer to what is committed; whether more is to do."""
        assert self._store is not None  # noqa: S101
        self._applying = self._store.apply_some(_APPLY_SLICE_S, eager=False)
        return self._applying

    def _publish(self, epoch: Epoch) -> Iterator[None]:
        if self._store is not None:
            self._store.commit(epoch)
            self._applying = True
        for stage in self.stages:
            for sink in stage.sinks:
                yield from sink.publish(epoch)
        for (node, _), position in zip(self._sources, self._positions, strict=True):
            node.on_commit(position)
        for tasks, _ in self._tasked:
            tasks.table.committed(epoch)
        if self._final and self.lending is not None:
            self.lending.end()
        self._hold = False
        self.reports.append(Published(epoch))

    def _publish_some(self) -> float:
        """Ask sinks that have not published all yet; other work goes on meanwhile.

        Returns:
            In how many seconds to ask again: 0 if they are done now, infinity if nobody publishes.
        """
        if self._publishing is None:
            return math.inf
        wait_s = self._ask_sinks_at_s - self._time_s()
        if 0.0 < wait_s <= _ASK_AGAIN_S:
            return wait_s
        if self._asked_again(self._publishing):
            return _ASK_AGAIN_S
        self._publishing = None
        return 0.0

    def _settle(self) -> float:
        """Ask sinks that all must wait for; in how many seconds to ask again."""
        if self._asked_again(self._settling):
            return _ASK_AGAIN_S
        self._settling = None
        return 0.0

    def _asked_again(self, sinks: Iterator[None] | None) -> bool:
        """Whether some sink says `PENDING` still."""
        for _ in sinks or ():
            self._ask_sinks_at_s = self._time_s() + _ASK_AGAIN_S
            return True
        return False


def _after(first: Iterator[None] | None, then: Iterator[None]) -> Iterator[None]:
    if first is not None:
        yield from first
    yield from then
