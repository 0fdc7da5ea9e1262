"""The scheduler: runs workers and their coordinator in one thread, in an order drawn by a seed.

At each turn it draws one of the actors (a worker, the coordinator, the network) and lets it do one
of the things that it could do next, or some of them, which takes a moment. When nobody can do
anything, time jumps to the next moment at which somebody can. So a run is over in milliseconds,
whatever the flow waits for, and the same seed gives the same run.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, Any

from engine.operators.tasks._context import WithContext
from engine.operators.tasks._task import TaskKernel
from engine.runtime import (
    CaughtUp,
    Command,
    Coordinator,
    Decision,
    EdgeId,
    LinkEpoch,
    Patience,
    Plan,
    Report,
    Watermark,
    Worker,
    WorkerIndex,
    WorkerSite,
    deal_partitions,
)
from engine.runtime._errands import ERRANDS
from engine.testing.sim._executors import FakeExecutor, FakeExecutors
from engine.testing.sim._graph_executor import FakeGraphExecutor
from engine.testing.sim._options import SimOptions, SimResult, SimulationError
from engine.testing.sim._world import FakeClock, FakeNetwork, Line

if TYPE_CHECKING:
    from engine.runtime._recovery import JobStore

Action = Callable[[], Any]

_EXECUTORS, _NETWORK, _COORDINATOR = -3, -2, -1
_TURNS_BETWEEN_PAUSES = 100
_TRACE_MAX = 200


class Gang:
    """Workers and their coordinator in one run.

    Args:
        planned: What to run.
        seed: Draws the schedule.
        options: What to simulate.
        recovery: The open store of the job, if it has one.
        clock: Goes on where it stands; a new one by default.
    """

    def __init__(
        self,
        planned: Plan,
        seed: int,
        options: SimOptions,
        *,
        recovery: JobStore | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.result = SimResult(seed)
        self.workers: list[Worker] = []
        self.trace: deque[tuple[float, str]] = deque(maxlen=_TRACE_MAX)
        """The last things that workers and coordinator said, each with its time."""
        self._queues: list[deque[Any]] = []
        self._plan = planned
        self._options = options
        self._recovery = recovery
        self._random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self._clock = clock or FakeClock(options.start.timestamp())
        self._start_s = self._clock.monotonic_s()
        self._step_max_s = options.step_max.total_seconds()
        self._interval_s = options.epoch_interval.total_seconds()
        self._delay_max_s = options.delay_max.total_seconds()
        self._pause_max_s = options.pause_max.total_seconds()
        self._network = FakeNetwork(self._new_line)
        self._commands: list[Line[Command]] = [self._new_line() for _ in range(options.workers)]
        self._reports: list[Line[Report]] = [self._new_line() for _ in range(options.workers)]
        self._paused_until_s = [0.0] * options.workers
        self.executors: list[FakeExecutor] = []
        """Of steps with tasks, and of actors."""
        self._tasked = any(isinstance(step.kernel, TaskKernel) for step in planned.steps)
        first = _EXECUTORS if self._tasked else _NETWORK
        self._orders = _orders(range(first, options.workers), self._random)
        # Workers that take whole rounds, as real ones do, come further in a turn; those that do
        # one thing at a time come into states that others never see.
        self._round_share = self._random.choice((0.0, 0.2, 0.8))
        self._coordinator = Coordinator(
            options.workers,
            self._interval_s,
            self._start_s,
            after=0 if recovery is None else recovery.epoch,
            durable=recovery is not None,
        )

    def _new_line(self) -> Line[Any]:
        return Line(self._clock, self._random, self._delay_max_s)

    def now(self) -> datetime:
        """Simulated time."""
        return datetime.fromtimestamp(self._clock.time_s(), UTC)

    def run(self) -> None:
        """Start all workers, then take turns until they have stopped."""
        try:
            self.start()
            while not self.stopped:
                self.turn()
        finally:
            self.result.epochs = self._coordinator.epochs_committed
            self.result.elapsed = timedelta(seconds=self._clock.monotonic_s() - self._start_s)

    @property
    def stopped(self) -> bool:
        """Whether the run is over."""
        return all(worker.stopped for worker in self.workers)

    def start(self) -> None:
        """Build all workers."""
        options, recovery = self._options, self._recovery
        deal = deal_partitions(self._plan) if recovery is None else recovery.deal
        site = WorkerSite(
            *(WorkerIndex(0), options.workers, self._clock, self._network),
            credit=options.channel_batches,
            channel_bytes=options.channel_bytes,
            patience=Patience(tell=self._note),
            chance=self._random.random,
            executors=FakeExecutors(self._start_executor),
            offers=options.offers[: options.workers],
        )
        for i in range(options.workers):
            site = replace(site, index=WorkerIndex(i))
            if recovery is not None:
                bound = options.state_bytes_max
                store = recovery.workers[i]
                site = replace(site, job=recovery.job, store=store, state_bytes_max=bound)
            worker = Worker(self._plan, deal, site, epoch_per_batch=self._interval_s == 0)
            self._network.connect(partial(self._receive, worker), worker.credit)
            self.workers.append(worker)
            self._queues += [
                channel.items
                for stage in worker.stages
                for entry, channel in stage.channels
                # What actors send to each other is never held up.
                if entry.feedback is None
            ]

    def _start_executor(self, function: Callable[[Any], Any]) -> FakeExecutor:
        kind = FakeGraphExecutor if isinstance(function, WithContext) else FakeExecutor
        executor = kind(function, self._clock, self._random, self._options)
        if not self.executors and not self._tasked:
            # Of actors, which begin to have tasks at some time.
            self._orders = _orders(range(_EXECUTORS, self._options.workers), self._random)
        self.executors.append(executor)
        return executor

    def turn(self) -> None:
        """Do one of the things that could happen next, or let time pass."""
        self.result.steps += 1
        if self.result.steps > self._options.steps_max:
            raise SimulationError(self._describe(f"did not end in {self._options.steps_max} steps"))
        rng = self._random
        if self._pause_max_s and rng.random() * _TURNS_BETWEEN_PAUSES < 1.0:
            self._pause(rng.randrange(len(self.workers)))
        now_s = self._clock.monotonic_s()
        for actor in self._orders[int(rng.random() * len(self._orders))]:
            if self._act(actor, now_s):
                self._note_queues()
                self._clock.advance(rng.random() * self._step_max_s)
                return
        self._wait()

    def _act(self, actor: int, now_s: float) -> bool:
        """Let an actor do something; False if there is nothing that it could do."""
        if actor == _NETWORK:
            return self._deliver(now_s)
        if actor == _EXECUTORS:
            ready = [executor for executor in self.executors if executor.next_s() <= now_s]
            if ready:
                self._random.choice(ready).end_one(now_s)
            return bool(ready)
        if actor == _COORDINATOR:
            actions = self._coordinators_actions(now_s)
        elif self._paused_until_s[actor] > now_s:
            return False
        else:
            actions = self._workers_actions(actor, now_s)
        if not actions:
            return False
        actions[int(self._random.random() * len(actions))]()
        return True

    def _deliver(self, now_s: float) -> bool:
        """Let one item come out of some of the links."""
        ready, rng = self._network.ready(now_s), self._random
        if not ready:
            return False
        for line in rng.sample(ready, 1 + int(rng.random() ** 2 * len(ready))):
            line.take()()
        return True

    def _receive(self, worker: Worker, edge: EdgeId, sender: WorkerIndex, item: Any) -> None:
        """What a worker sent comes out at another one."""
        worker.receive(edge, sender, item)
        if edge == ERRANDS:
            return
        nbytes = worker.channels[edge, sender].nbytes()
        self.result.queued_bytes_max = max(self.result.queued_bytes_max, nbytes)

    def _workers_actions(self, index: int, now_s: float) -> list[Action]:
        worker, commands = self.workers[index], self._commands[index]
        if commands.ready_s() <= now_s and self._random.random() < 0.5:
            return [lambda: worker.command(commands.take())]
        actions = list(worker.actions())
        if actions and self._random.random() < self._round_share:
            return [worker.step]
        if commands.ready_s() <= now_s:
            actions.append(lambda: worker.command(commands.take()))
        return actions

    def _coordinators_actions(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for worker, reports in zip(self.workers, self._reports, strict=True):
            while worker.reports:
                reports.put(worker.reports.popleft())
            if reports.ready_s() <= now_s:
                actions.append(partial(self._hear, worker.index, reports))
        if self._coordinator.next_time_s() <= now_s:
            actions.append(lambda: self._tell(self._coordinator.on_time(now_s)))
        return actions

    def _hear(self, worker: WorkerIndex, reports: Line[Report]) -> None:
        report = reports.take()
        self._note(f"worker {worker} reports {report}")
        self._tell(self._coordinator.on_report(worker, report, self._clock.monotonic_s()))

    def _tell(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            self._note(f"coordinator says {decision}")
            if isinstance(decision, LinkEpoch):
                assert self._recovery is not None  # noqa: S101
                self._recovery.link(decision.epoch, self._marked_shards())
                self._tell(self._coordinator.on_linked(decision.epoch))
            else:
                for line in self._commands:
                    line.put(decision)

    def _marked_shards(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for worker in self.workers:
            for step_id, shards in worker.marked_shards().items():
                found.setdefault(step_id, []).extend(shards)
        return found

    def _pause(self, worker: int) -> None:
        until_s = self._clock.monotonic_s() + self._random.random() * self._pause_max_s
        self._note(f"worker {worker} stands still until {until_s:.3f}")
        self._paused_until_s[worker] = until_s

    def _wait(self) -> None:
        """Let time pass until something can happen."""
        now_s = self._clock.monotonic_s()
        next_s = min(
            self._network.next_s(),
            *(executor.next_s() for executor in self.executors),
            self._coordinator.next_time_s(),
            *(line.ready_s() for line in self._reports),
            *(self._next_of(i) for i in range(len(self.workers))),
        )
        if next_s == math.inf:
            raise SimulationError(self._describe("is stuck: nothing can happen any more"))
        # A hair further, so that rounding never leaves the clock just short of the moment.
        self._clock.advance(next_s - now_s + 1e-6)

    def _next_of(self, worker: int) -> float:
        """When a worker has something to do, if nothing more is sent to it."""
        now_s, paused_until_s = self._clock.monotonic_s(), self._paused_until_s[worker]
        if paused_until_s > now_s:
            return paused_until_s
        return min(self._commands[worker].ready_s(), self.workers[worker].next_event_s() + now_s)

    def _note_queues(self) -> None:
        longest = max(map(len, self._queues), default=0)
        if longest > self.result.queued_max:
            # Watermarks need no room.
            free = (Watermark, CaughtUp)
            longest = max(sum(i.__class__ not in free for i in q) for q in self._queues)
            self.result.queued_max = max(self.result.queued_max, longest)

    def _note(self, what: str) -> None:
        self.trace.append((self._clock.monotonic_s(), what))

    def _describe(self, what: str) -> str:
        queues: dict[Any, int] = {
            (worker.index, *key): len(channel.items)
            for worker in self.workers
            for key, channel in worker.channels.items()
            if channel.items
        }
        return (
            f"the simulated run with seed {self.result.seed} {what}; epoch "
            f"{self._coordinator.epoch} is {self._coordinator.phase.name}; "
            f"items in (worker, edge, sender): {queues}"
        )


def _orders(actors: range, rng: random.Random) -> list[tuple[int, ...]]:
    """Orders in which actors may be asked: all there are, or some of very many."""
    if len(actors) <= 5:
        return list(permutations(actors))
    return [tuple(rng.sample(actors, len(actors))) for _ in range(200)]
