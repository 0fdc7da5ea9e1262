"""A job in processes that others start, each on its host: process 0 leads, the others join it.

Process 0 waits until all are there, begins a run, and tells each its part of it. Each process keeps
its connection to the leader from run to run, so when one of them dies or a link breaks, the others
end their part of the run, stay, and go on with the next one as soon as all are there again.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine._version import __version__
from engine.dataflow import Dataflow, fingerprint
from engine.errors import ClusterError, LinkError, WorkerDiedError
from engine.operators.tasks._resources import Resources
from engine.runtime._crew import Answered, Counted, CrewEvent, Left, Reported
from engine.runtime._door import PROOF_S_MAX, Answer, Door, LaterError
from engine.runtime._ids import WorkerIndex
from engine.runtime._launch import Cluster, Layout
from engine.runtime._meeting import Arrivals, Meeting, RunName
from engine.runtime._member import LeaderLostError, Member, beat
from engine.runtime._membership import (
    BEAT_INTERVAL_S,
    SILENT_S_MAX,
    Abort,
    Beat,
    Count,
    Dismiss,
    Failed,
    Membership,
)
from engine.runtime._messages import Command
from engine.runtime._plan import plan
from engine.runtime._ports import Stream
from engine.runtime._proof import Hello, JobFacts, Purpose, Status
from engine.runtime._questions import Question
from engine.runtime._run import RunOptions, plan_run
from engine.runtime._supervise import supervise
from engine.runtime._wire import Wire

_FIRST_TRY_S = 0.1
_TRY_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Enlist:
    """To a process: it is to be part of a run."""

    run: RunName
    membership: Membership


@dataclass(frozen=True, slots=True)
class Over:
    """To a process: the job has ended."""

    well: bool


@dataclass(frozen=True, slots=True)
class Idle:
    """From a process: its part of the run has ended, and its stores are closed."""


@dataclass(frozen=True, slots=True)
class DrainRequest:
    """From a process: somebody wants the job to drain."""


def run_cluster(flow: Dataflow, cluster: Cluster, options: RunOptions) -> None:
    """Be one process of a cluster until the job has ended.

    Process 0 leads and raises what ended the job; the others raise that it has failed.

    Raises:
        ClusterError: This process can't be part of the cluster; or the job has failed, and process
            0 has the reason.
        FlowError: The flow can't run.
        EngineRuntimeError: The run ended because of an error.
        StoreError: The recovery store can't be used.
        WorkerDiedError: A process is gone, and there is nothing to go back to.
    """
    facts = JobFacts(
        *(__version__, flow.flow_id, fingerprint(flow), len(cluster.addresses)),
        *(cluster.workers_each, options.recovery is not None),
    )
    workers = cluster.layout.workers
    # Those who follow plan it anew for each run, and say here already that it can't be.
    planned = plan_run(flow, workers, options) if cluster.process == 0 else plan(flow, workers)
    if cluster.process > 0:
        _Follower(flow, cluster, facts, options).follow()
        return
    gathering = _Gathering(flow, cluster, facts, options)
    well = False
    try:
        supervise(flow, planned, options, gathering)
        well = True
    finally:
        gathering.close(well=well)


class _Service:
    """What a process does for its leader, run after run.

    Args:
        flow: What to run.
        cluster: Which process of which cluster this is.
        meeting: Connects workers.
        options: Where this process finds the store, and whom it tells what.
        leader: The connection to the leader.
    """

    def __init__(
        self,
        flow: Dataflow,
        cluster: Cluster,
        meeting: Meeting,
        options: RunOptions,
        leader: Wire,
    ) -> None:
        self._flow = flow
        self._report = cluster.report
        self._meeting = meeting
        self._recovery = options.recovery
        self._tell = options.tell
        self._leader = leader

    def serve(self) -> Over | None:
        """Take part in runs until the job is over.

        Returns:
            How it ended; None if a worker hangs, so that this process can't go on.

        Raises:
            OSError: The leader is gone.
            LeaderLostError: So it is, and workers were at work.
        """
        while True:
            message = self._leader.recv()
            if isinstance(message, Over):
                return message
            if isinstance(message, Enlist):
                if not self._take_part(message):
                    return None
                self._leader.send(Idle())

    def _take_part(self, enlist: Enlist) -> bool:
        membership = enlist.membership
        if membership.start is not None and self._recovery is not None:
            start = replace(membership.start, root=Path(self._recovery.db_dir))
            membership = replace(membership, start=start, recovery=self._recovery)
        with contextlib.ExitStack() as stack:

            def seats() -> Sequence[Any]:
                with contextlib.ExitStack() as opened:
                    found = self._meeting.seats(enlist.run)
                    for seat in found:
                        opened.callback(seat.close)
                    pulse = self._meeting.pulse(enlist.run, member.unlink)
                    opened.pop_all()
                stack.callback(pulse.close)
                return found

            member = Member(self._leader, membership, seats, self._report, self._tell)
            try:
                return member.run(self._flow)
            except LeaderLostError:
                raise
            except Exception as ex:  # noqa: BLE001 - whatever it is, the leader tells people
                member.fail(ex)
                return True


class _Follower:
    """A process other than the first."""

    def __init__(
        self, flow: Dataflow, cluster: Cluster, facts: JobFacts, options: RunOptions
    ) -> None:
        self._flow = flow
        self._cluster = cluster
        self._facts = facts
        self._options = options
        self._arrivals = Arrivals()
        self._waiting = ""
        """Why we do, as last told."""

    def judge(self, hello: Hello) -> Answer:
        """As in `Host`."""
        different = self._facts.difference(hello.facts)
        if different is not None:
            return Status.REFUSED, different
        if hello.purpose is Purpose.JOIN:
            return Status.REFUSED, "process 0 leads, not this one"
        return self._arrivals.judge(hello)

    def take(self, hello: Hello, stream: Stream) -> None:
        """As in `Host`."""
        self._arrivals.take(hello, stream)

    def follow(self) -> None:
        """Join the leader, and join it again if it is lost, until the job is over or drained."""
        cluster, tell = self._cluster, self._options.tell
        door = Door(cluster, self, tell)
        me = cluster.process, cluster.layout
        meeting = Meeting(door, self._arrivals, self._facts, *me)
        try:
            while (wire := self._join(door)) is not None:
                if self._follow(wire, meeting):
                    return
        finally:
            door.close()
            self._arrivals.close()

    def _join(self, door: Door) -> Wire | None:
        """Connect to the leader, as soon as it is there; None if we are to drain before."""
        options, pause_s = self._options, _FIRST_TRY_S
        offer = options.offer(self._cluster.workers_each)
        hello = Hello(Purpose.JOIN, self._cluster.process, self._facts, offer=offer)
        while not options.drain.requested:
            try:
                stream = door.connect(0, hello, time.monotonic() + PROOF_S_MAX)
            except (OSError, LaterError) as ex:
                if str(ex) != self._waiting:
                    self._waiting = str(ex)
                    where = self._cluster.addresses[0]
                    options.tell(f"waiting for process 0 at {where}: {ex}")
            else:
                self._waiting = ""
                self._arrivals.begin(RunName("", 0))
                return Wire(stream, SILENT_S_MAX)
            options.waiter.wait(pause_s)
            pause_s = min(_TRY_S_MAX, pause_s * 2)
        return None

    def _follow(self, wire: Wire, meeting: Meeting) -> bool:
        """Serve one leader; True when the job is over, False if the leader is lost."""
        options = self._options
        service = _Service(self._flow, self._cluster, meeting, options, wire)
        found: list[Over | BaseException | None] = []

        def serve() -> None:
            try:
                found.append(service.serve())
            except BaseException as ex:  # noqa: BLE001 - the main thread raises what it must
                found.append(ex)
            finally:
                wire.close()
                options.waiter.wake()

        beat(wire)
        serving = threading.Thread(target=serve, name="engine-member", daemon=True)
        serving.start()
        asked = False
        try:
            while not found:
                if options.drain.requested and not asked:
                    asked = True
                    with contextlib.suppress(OSError):
                        wire.send(DrainRequest())
                options.waiter.wait(BEAT_INTERVAL_S)
        finally:
            wire.shut()
        return self._judge_end(found[0])

    def _judge_end(self, end: Over | BaseException | None) -> bool:
        if end is None:
            msg = (
                f"a worker of process {self._cluster.process} hangs in the flow's own code, so "
                "the process can't go on; start it again"
            )
            raise WorkerDiedError(msg)
        if isinstance(end, Over):
            if not end.well:
                msg = "the job has failed; process 0 says why"
                raise ClusterError(msg)
            return True
        if not isinstance(end, OSError | LeaderLostError):
            raise end
        if self._options.recovery is None:
            msg = f"process 0 is gone ({end}), and without a recovery store (-r) so is the job"
            raise WorkerDiedError(msg)
        self._options.tell(f"lost process 0: {end}; waiting for it")
        self._waiting = str(end)
        return False


class _Remote:
    """A process that has joined, as its leader sees it.

    Args:
        process: Its number.
        name: What to call it in messages.
        wire: The connection to it.
        offer: What each of its workers offers to tasks.
        changed: Is called when it is idle, or gone.
        drain: Is called when it wants the job to drain.
    """

    def __init__(
        self,
        process: int,
        name: str,
        wire: Wire,
        offer: Resources,
        changed: Callable[[], None],
        drain: Callable[[], None],
    ) -> None:
        self.process = process
        self.offer = offer
        self.gone: str | None = None
        """Why, if it is."""
        self.idle = True
        """It has no part in a run now."""
        self._name = name
        self._wire = wire
        self._changed = changed
        self._drain = drain
        self._lock = threading.Lock()
        self._staying: set[WorkerIndex] = set()
        self._hear: Callable[[CrewEvent], None] = _nobody
        threading.Thread(target=self._listen, name=f"engine-{process}", daemon=True).start()

    def enlist(self, enlist: Enlist, hear: Callable[[CrewEvent], None]) -> None:
        """Give it its part of a run."""
        with self._lock:
            self._hear = hear
            self._staying = set(enlist.membership.mine)
            self.idle = False
        self.send(enlist)
        if self.gone is not None:
            self._report_gone()

    def send(self, message: Any) -> None:
        """Tell it something; nothing if it is gone."""
        try:
            self._wire.send(message)
        except OSError:
            self._wire.shut()

    def beat(self) -> None:
        """Tell it that we are there."""
        try:
            self._wire.beat(Beat())
        except OSError:
            self._wire.shut()

    @property
    def busy(self) -> bool:
        """Whether it is there and still at a run."""
        return not self.idle and self.gone is None

    def _listen(self) -> None:
        try:
            while True:
                self._take(self._wire.recv())
        except TimeoutError:
            self.gone = f"no sign of life for {SILENT_S_MAX:g} s"
        except Exception as ex:  # noqa: BLE001 - whatever it is, nothing more is heard of it
            self.gone = str(ex)
        self._wire.close()
        self._report_gone()
        self._changed()

    def _take(self, message: Any) -> None:
        match message:
            case Beat():
                pass
            case DrainRequest():
                self._drain()
            case Idle():
                self.idle = True
                self._changed()
            case Failed():
                self._leave(Left(message.worker, message.error()))
            case Left():
                self._leave(message)
            case Reported() | Counted() | Answered():
                self._hear(message)
            case _:
                msg = f"a process does not say such things: {message!r:.100}"
                raise LinkError(msg)

    def _leave(self, left: Left) -> None:
        with self._lock:
            self._staying.discard(left.worker)
        self._hear(left)

    def _report_gone(self) -> None:
        with self._lock:
            staying, self._staying = self._staying, set()
        for worker in sorted(staying):
            error = WorkerDiedError(f"{self._name} of worker {worker} is gone: {self.gone}")
            self._hear(Left(worker, error))


def _nobody(_event: CrewEvent) -> None:
    """Hears what is said between runs, which is nothing."""


class _Gathering:
    """All processes, as process 0 sees them; its own workers are led like those of the others."""

    def __init__(
        self, flow: Dataflow, cluster: Cluster, facts: JobFacts, options: RunOptions
    ) -> None:
        self._cluster = cluster
        self._facts = facts
        self._options = options
        self._arrivals = Arrivals()
        self._changed = threading.Condition()
        self._remotes: dict[int, _Remote] = {}
        self._closed = threading.Event()
        self._door = Door(cluster, self, options.tell)
        self._join_ourselves(flow)
        threading.Thread(target=self._beat, name="engine-beat", daemon=True).start()

    def _join_ourselves(self, flow: Dataflow) -> None:
        ours, theirs = socket.socketpair()
        leader = Wire(theirs)
        meeting = Meeting(self._door, self._arrivals, self._facts, 0, self._cluster.layout)
        service = _Service(flow, self._cluster, meeting, self._options, leader)

        def serve() -> None:
            with contextlib.suppress(OSError, LeaderLostError):
                service.serve()
            leader.close()

        offer = self._options.offer(self._cluster.workers_each)
        self._remotes[0] = self._remote(0, ours, offer)
        threading.Thread(target=serve, name="engine-member", daemon=True).start()

    def _remote(self, process: int, stream: Stream, offer: Resources) -> _Remote:
        address = self._cluster.addresses[process]
        wire = Wire(stream, SILENT_S_MAX if process > 0 else None)
        name = f"process {process} ({address})"
        return _Remote(process, name, wire, offer, self._see_change, self._request_drain)

    def _see_change(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._options.waiter.wake()

    def _request_drain(self) -> None:
        self._options.drain.requested = True
        self._options.waiter.wake()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_INTERVAL_S):
            for remote in list(self._remotes.values()):
                remote.beat()

    def judge(self, hello: Hello) -> Answer:
        """As in `Host`."""
        different = self._facts.difference(hello.facts)
        if different is not None:
            return Status.REFUSED, different
        if hello.purpose is not Purpose.JOIN:
            return self._arrivals.judge(hello)
        if not 0 < hello.process < len(self._cluster.addresses):
            return Status.REFUSED, f"there is no process {hello.process} in this cluster"
        before = self._remotes.get(hello.process)
        if before is not None and before.gone is None:
            return Status.LATER, f"process {hello.process} is here already"
        return Status.WELCOME, ""

    def take(self, hello: Hello, stream: Stream) -> None:
        """As in `Host`."""
        if hello.purpose is not Purpose.JOIN:
            self._arrivals.take(hello, stream)
            return
        with self._changed:
            before = self._remotes.get(hello.process)
            if self._closed.is_set() or (before is not None and before.gone is None):
                stream.close()
                return
            offer = hello.offer or Resources()
            self._remotes[hello.process] = self._remote(hello.process, stream, offer)
        self._see_change()

    # As in `Team`

    def gather(self) -> bool:
        """Wait until all processes are there and idle; False if we are to drain before."""
        options, told = self._options, ""
        told_at_s = time.monotonic() + 1.0
        while missing := self._missing():
            if self._remotes[0].gone is not None:
                msg = "a worker of process 0 hangs in the flow's own code; start the process again"
                raise ClusterError(msg)
            if options.drain.requested:
                return False
            if missing != told and time.monotonic() >= told_at_s:
                told = missing
                options.tell(f"waiting for {missing}")
            options.waiter.wait(BEAT_INTERVAL_S)
        return True

    def _missing(self) -> str:
        """Those that can't begin a run, by name; empty if all can."""
        names: list[str] = []
        for process, address in enumerate(self._cluster.addresses):
            remote = self._remotes.get(process)
            if remote is None or remote.gone is not None or not remote.idle:
                names.append(f"process {process} at {address}")
        return ", ".join(names)

    def offers(self) -> tuple[Resources, ...]:
        """What each worker offers, as its process has said when it joined."""
        remotes = [self._remotes[process] for process in range(len(self._cluster.addresses))]
        return tuple(r.offer for r in remotes for _ in range(self._cluster.workers_each))

    def led(
        self,
        member: Callable[[list[WorkerIndex]], Membership],
        hear: Callable[[CrewEvent], None],
    ) -> _Gang:
        """The workers of one run."""
        remotes = [self._remotes[process] for process in range(len(self._cluster.addresses))]
        token = self._options.entropy.token()
        return _Gang(remotes, self._cluster.layout, token, member, hear)

    def close(self, *, well: bool) -> None:
        """Tell all that the job is over."""
        with self._changed:
            self._closed.set()
        self._door.close()
        for remote in self._remotes.values():
            remote.send(Dismiss())
            remote.send(Over(well))
        self._arrivals.close()


class _Gang:
    """The workers of one run, in processes that have joined: a `Led`."""

    def __init__(
        self,
        remotes: Sequence[_Remote],
        layout: Layout,
        token: str,
        member: Callable[[list[WorkerIndex]], Membership],
        hear: Callable[[CrewEvent], None],
    ) -> None:
        self._remotes = remotes
        self._layout = layout
        self._token = token
        self._member = member
        self._hear = hear

    def start(self) -> None:
        """As in `Led`."""
        for remote in self._remotes:
            membership = self._member(self._layout.workers_of(remote.process))
            run = RunName(self._token, membership.job.generation)
            remote.enlist(Enlist(run, membership), self._hear)

    def command(self, command: Command) -> None:
        """As in `Led`."""
        for remote in self._remotes:
            remote.send(command)

    def count(self) -> None:
        """As in `Led`."""
        for remote in self._remotes:
            remote.send(Count())

    def ask(self, question: Question) -> None:
        """As in `Led`."""
        for remote in self._remotes:
            if question.worker in self._layout.workers_of(remote.process):
                remote.send(question)

    def abort(self) -> None:
        """As in `Led`."""
        for remote in self._remotes:
            remote.send(Abort())

    def join(self, timeout_s: float) -> None:
        """As in `Led`. Those that need longer are waited for when the next run gathers."""
        for remote in self._remotes:
            remote.send(Dismiss())
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s and any(remote.busy for remote in self._remotes):
            time.sleep(0.005)
