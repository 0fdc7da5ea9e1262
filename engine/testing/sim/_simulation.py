"""The scheduler: runs workers and their coordinator in one thread, in an order drawn by a seed.

At each turn it lists everything that could happen next on any worker, link or in the coordinator,
draws one by the seed, and does it, which takes a moment. When nothing can happen, time jumps to
the next moment at which something can. So a run is over in milliseconds, whatever the flow waits
for, and the same seed gives the same run.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.clock import clock_set_to
from engine.connectors import AbortExecution
from engine.dataflow import Dataflow
from engine.errors import EngineError
from engine.runtime import (
    DEFAULT_EPOCH_INTERVAL,
    Command,
    Coordinator,
    Decision,
    Epoch,
    LinkEpoch,
    Plan,
    Store,
    Worker,
    WorkerIndex,
    WorkerSite,
    closing,
    deal_partitions,
    explained,
    plan,
)
from engine.testing.sim._world import FakeClock, FakeNetwork


class SimulationError(EngineError, RuntimeError):
    """A simulated run got stuck, or did not end within its bound of steps."""


@dataclass(frozen=True, slots=True)
class SimOptions:
    """What to simulate; all of it may be left out."""

    workers: int = 1
    epoch_interval: timedelta = DEFAULT_EPOCH_INTERVAL
    """Simulated time between epochs; zero makes each source batch an epoch of its own."""
    channel_batches: int = 2
    """How many batches a channel between two stages holds."""
    step_max: timedelta = timedelta(microseconds=100)
    """How long one step may take; drawn by the seed. The longer, the more often do timers and
    epochs come while much else is going on."""
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    """What the wall clock shows at first."""
    steps_max: int = 1_000_000
    """After how many steps a run counts as one that never ends."""
    kernels: bool = True
    """Use fast kernels of composed operators; their compositions otherwise."""


@dataclass(slots=True)
class SimResult:
    """What a simulated run came to."""

    seed: int
    steps: int = 0
    epochs: int = 0
    """How many epochs were committed."""
    elapsed: timedelta = timedelta(0)
    """Simulated time from start to end."""
    queued_max: int = 0
    """The most items that lay in one channel between two stages, barriers included."""
    aborted: bool = False
    """A source ended the run by `AbortExecution`."""


def simulate(flow: Dataflow, seed: int, options: SimOptions | None = None) -> SimResult:
    """Run a flow under a fake clock and a scheduler that draws by a seed what goes next.

    Functions of the flow run as in any run; `engine.clock.utc_now`, which the testing sources and
    the engine's operators read, shows simulated time.

    Args:
        flow: What to run, until its input ends.
        seed: The same seed gives the same run, if the flow itself is deterministic.
        options: What to simulate.

    Raises:
        EngineRuntimeError: The run ended because of an error, as in `run_main`. A note tells the
            seed.
        FlowError: The flow has no input or no output.
        SimulationError: The run got stuck or did not end.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSink, TestingSource
    >>> flow, out = Dataflow("doc"), []
    >>> s = op.input("in", flow, TestingSource([1, TestingSource.PAUSE(timedelta(days=1)), 2]))
    >>> op.output("out", s, TestingSink(out))
    >>> simulate(flow, seed=7).elapsed.days
    1
    >>> out
    [1, 2]
    """
    options = options or SimOptions()
    planned = plan(flow, options.workers, kernels=options.kernels)
    simulation = Gang(planned, seed, options)
    try:
        with clock_set_to(simulation.now), closing(simulation.workers):
            simulation.run()
    except SimulationError:
        raise
    except AbortExecution:
        simulation.result.aborted = True
    except Exception as ex:  # noqa: BLE001 - whatever it is, the run ended because of it
        error = explained(ex)
        error.add_note(f"in a simulation with seed {seed}")
        raise error from error.__cause__
    return simulation.result


Action = Callable[[], None]


@dataclass(slots=True)
class _Lines:
    """What the coordinator and one worker have said to each other and not heard yet."""

    commands: deque[Command] = field(default_factory=deque[Command])


class Gang:
    """Workers and their coordinator in one run.

    Args:
        planned: What to run.
        seed: Draws the schedule.
        options: What to simulate.
        stores: A store for each worker, or none at all.
        link: Makes an epoch's manifest durable.
    """

    def __init__(
        self,
        planned: Plan,
        seed: int,
        options: SimOptions,
        stores: Sequence[Store] = (),
        link: Callable[[Epoch], None] | None = None,
    ) -> None:
        self.result = SimResult(seed)
        self.workers: list[Worker] = []
        self._queues: list[deque[Any]] = []
        self._plan = planned
        self._options = options
        self._random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self._clock = FakeClock(options.start.timestamp())
        self._network = FakeNetwork()
        self._lines = [_Lines() for _ in range(options.workers)]
        self._step_max_s = options.step_max.total_seconds()
        self._interval_s = options.epoch_interval.total_seconds()
        self._stores = stores
        self._link = link
        self._coordinator = Coordinator(
            options.workers,
            self._interval_s,
            0.0,
            after=stores[0].epoch if stores else 0,
            durable=bool(stores),
        )

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
            self.result.elapsed = timedelta(seconds=self._clock.monotonic_s())

    @property
    def stopped(self) -> bool:
        """Whether the run is over."""
        return all(worker.stopped for worker in self.workers)

    def start(self) -> None:
        """Build all workers."""
        workers, deal = self._options.workers, deal_partitions(self._plan)
        for i in range(workers):
            site = WorkerSite(
                WorkerIndex(i),
                workers,
                self._clock,
                self._network,
                self._options.channel_batches,
                store=self._stores[i] if self._stores else None,
            )
            worker = Worker(self._plan, deal, site, epoch_per_batch=self._interval_s == 0)
            self._network.connect(worker.receive, worker.credit)
            self.workers.append(worker)
            self._queues += [channel.items for channel in worker.channels.values()]

    def turn(self) -> None:
        """Do one of the things that could happen next, or let time pass."""
        self.result.steps += 1
        if self.result.steps > self._options.steps_max:
            raise SimulationError(self._describe(f"did not end in {self._options.steps_max} steps"))
        actions = list(self._actions())
        if actions:
            self._random.choice(actions)()
            self._note_queues()
            self._clock.advance(self._random.random() * self._step_max_s)
            return
        next_s = min(
            self._coordinator.next_time_s(),
            *(worker.next_event_s() + self._clock.monotonic_s() for worker in self.workers),
        )
        if next_s == math.inf:
            raise SimulationError(self._describe("is stuck: nothing can happen any more"))
        # A hair further, so that rounding never leaves the clock just short of the moment.
        self._clock.advance(next_s - self._clock.monotonic_s() + 1e-6)

    def _actions(self) -> Iterator[Action]:
        """Everything that could happen next."""
        yield from self._network.deliveries()
        for worker, lines in zip(self.workers, self._lines, strict=True):
            if lines.commands:
                yield lambda w=worker, q=lines.commands: w.command(q.popleft())  # type: ignore[misc]
            if worker.reports:
                yield lambda w=worker: self._report(w)  # type: ignore[misc]
            yield from worker.actions()
        if self._coordinator.next_time_s() <= self._clock.monotonic_s():
            yield lambda: self._tell(self._coordinator.on_time(self._clock.monotonic_s()))

    def _report(self, worker: Worker) -> None:
        report = worker.reports.popleft()
        self._tell(self._coordinator.on_report(worker.index, report, self._clock.monotonic_s()))

    def _tell(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, LinkEpoch):
                assert self._link is not None  # noqa: S101
                self._link(decision.epoch)
                self._tell(self._coordinator.on_linked(decision.epoch))
            else:
                for lines in self._lines:
                    lines.commands.append(decision)

    def _note_queues(self) -> None:
        longest = max(map(len, self._queues), default=0)
        self.result.queued_max = max(self.result.queued_max, longest)

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
