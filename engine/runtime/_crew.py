"""The workers of one process, each on a thread of its own, and what lies between them.

A worker is run by one thread from its first source to its last: it opens, works and closes there.
What others want of it lies in its mailbox until the thread looks there: items of other workers,
credit, commands. A crew carries no decisions; whoever starts it hears of each report and of how
each worker ended, and tells all of them what to do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from engine.runtime._build import WorkerSite
from engine.runtime._closing import closing
from engine.runtime._counts import WorkerSnapshot
from engine.runtime._deal import Deal
from engine.runtime._handler_watch import watching_handlers
from engine.runtime._ids import EdgeId, WorkerIndex
from engine.runtime._messages import Command, Prepared, Report
from engine.runtime._plan import Plan
from engine.runtime._ports import NoNetwork, SystemWaiter
from engine.runtime._questions import Answer, Question, answer_of
from engine.runtime._worker import Worker


@dataclass(frozen=True, slots=True)
class Reported:
    """A worker says something to the coordinator."""

    worker: WorkerIndex
    report: Report
    marked: dict[str, list[str]]
    """With `Prepared`: the shards of its sinks that keep a marker at their target, by step."""


@dataclass(frozen=True, slots=True)
class Left:
    """A worker's thread has ended."""

    worker: WorkerIndex
    error: BaseException | None
    """Why, if it wasn't told to."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A worker says what it has counted."""

    worker: WorkerIndex
    snapshot: WorkerSnapshot


@dataclass(frozen=True, slots=True)
class Answered:
    """A worker answers a question."""

    answer: Answer


CrewEvent: TypeAlias = Reported | Counted | Answered | Left


class Mailbox:
    """What others want of a worker, until its thread takes it. Any thread may put something in.

    Args:
        wake: Ends the wait of the worker's thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.aborted = False
        """The worker is to leave as soon as it comes back from what it is doing."""
        self._calls: deque[Callable[[Worker], None]] = deque()

    def put(self, call: Callable[[Worker], None]) -> None:
        """Have something done to the worker, on its own thread, after what was put before."""
        self._calls.append(call)
        self.wake()

    def abort(self) -> None:
        """Have the worker leave."""
        self.aborted = True
        self.wake()

    def empty(self, worker: Worker) -> None:
        """Do what was put."""
        calls = self._calls
        while calls:
            calls.popleft()(worker)


class Seat(Protocol):
    """What a worker's thread waits at, and its way to workers of other processes."""

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        """As in `Network`, to a worker of another process."""
        ...

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        """As in `Network`, to a worker of another process."""
        ...

    def receive(self, worker: Worker) -> None:
        """Hand the worker what has come from other processes."""
        ...

    def wait(self, seconds: float) -> None:
        """Send what is under way; return after that time, or sooner if something has come."""
        ...

    def wake(self) -> None:
        """End the present wait, or the next one; from any thread."""
        ...

    def exchanged(self) -> tuple[int, int]:
        """Bytes sent to and received from workers of other processes, up to now."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class AloneSeat(NoNetwork):
    """The seat of a worker all of whose peers are in its process."""

    def __init__(self) -> None:
        self._waiter = SystemWaiter()
        self.wake = self._waiter.wake

    def receive(self, worker: Worker) -> None:
        """Nothing ever comes."""

    def wait(self, seconds: float) -> None:
        """As in `Seat`."""
        if seconds > 0.0:
            self._waiter.wait(seconds)

    def exchanged(self) -> tuple[int, int]:
        """There is nobody to exchange anything with."""
        return 0, 0

    def close(self) -> None:
        """There is nothing to let go of."""


class _Post:
    """A worker's network: what is for others of its process goes to their mailboxes as it is."""

    def __init__(self, boxes: Mapping[WorkerIndex, Mailbox], seat: Seat) -> None:
        self._boxes = boxes
        self._seat = seat

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        box = self._boxes.get(receiver)
        if box is None:
            return self._seat.send(edge, sender, receiver, item)
        box.put(lambda worker: worker.receive(edge, sender, item))
        return 0

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        box = self._boxes.get(sender)
        if box is None:
            self._seat.return_credit(edge, sender, receiver)
        else:
            box.put(lambda worker: worker.credit(edge, receiver))


class Crew:
    """The workers of this process.

    Args:
        planned: What all workers of the job run.
        deal: Which of them has which partition.
        sites: One for each worker of this process; their network is what `seats` and mailboxes
            make of it.
        hear: Takes what happens, on the thread of the worker that it happens to.
        epoch_per_batch: As in `Worker`.
        seats: One for each worker.
    """

    def __init__(
        self,
        planned: Plan,
        deal: Deal,
        sites: Sequence[WorkerSite],
        hear: Callable[[CrewEvent], None],
        *,
        epoch_per_batch: bool,
        seats: Sequence[Seat] | None = None,
    ) -> None:
        self._planned = planned
        self._deal = deal
        self._hear = hear
        self._epoch_per_batch = epoch_per_batch
        seats = [AloneSeat() for _ in sites] if seats is None else seats
        self._seats = {site.index: seat for site, seat in zip(sites, seats, strict=True)}
        self._boxes = {worker: Mailbox(seat.wake) for worker, seat in self._seats.items()}
        self._stores = {site.index: site.store for site in sites}
        self._threads = [
            # They don't keep a process alive that was told to stop at once.
            threading.Thread(
                target=self._work, args=(site, seat), name=f"worker-{site.index}", daemon=True
            )
            for site, seat in zip(sites, seats, strict=True)
        ]

    def start(self) -> None:
        """Start all workers."""
        for thread in self._threads:
            thread.start()

    def command(self, command: Command) -> None:
        """Tell all workers."""
        for box in self._boxes.values():
            box.put(lambda worker: worker.command(command))

    def count(self) -> None:
        """Have all workers say what they have counted; only where their sites have tallies."""
        for box in self._boxes.values():
            box.put(self._tell_counts)

    def _tell_counts(self, worker: Worker) -> None:
        snapshot = worker.snapshot(self._seats[worker.index].exchanged())
        self._hear(Counted(worker.index, snapshot))

    def ask(self, question: Question) -> None:
        """Have a worker answer a question, if it is of this crew; only where there are stores."""
        box, store = self._boxes.get(question.worker), self._stores.get(question.worker)
        if box is not None and store is not None:
            box.put(lambda _: self._hear(Answered(answer_of(store, question))))

    def abort(self) -> None:
        """Have all workers leave as soon as they can."""
        for box in self._boxes.values():
            box.abort()

    def join(self, timeout_s: float) -> None:
        """Wait for all threads to end, at most so long for each."""
        for thread in self._threads:
            thread.join(timeout_s)

    @property
    def working(self) -> bool:
        """Whether a worker has not left yet."""
        return any(thread.is_alive() for thread in self._threads)

    def _work(self, site: WorkerSite, seat: Seat) -> None:
        """The life of a worker, on its thread."""
        error: BaseException | None = None
        try:
            site = replace(site, network=_Post(self._boxes, seat), wake=seat.wake)
            worker = Worker(self._planned, self._deal, site, epoch_per_batch=self._epoch_per_batch)
            watch = watching_handlers(self._planned, site.patience.tell)
            with closing([worker]), watch:
                wait = seat.wait if site.tally is None else site.tally.waiting(seat.wait)
                self._run(worker, self._boxes[site.index], seat, wait)
                if site.tally is not None:
                    self._tell_counts(worker)
        except BaseException as ex:  # noqa: BLE001 - all of it is told, and raised where it is heard
            error = ex
        finally:
            seat.close()
        self._hear(Left(site.index, error))

    def _run(self, worker: Worker, box: Mailbox, seat: Seat, wait: Callable[[float], None]) -> None:
        reports = worker.reports
        while not worker.stopped and not box.aborted:
            box.empty(worker)
            seat.receive(worker)
            wait_s = worker.step()
            while reports:
                report = reports.popleft()
                marked = worker.marked_shards() if report.__class__ is Prepared else {}
                self._hear(Reported(worker.index, report, marked))
            wait(0.0 if box.aborted else wait_s)
