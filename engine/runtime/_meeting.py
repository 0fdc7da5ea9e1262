"""The connections between the workers of a cluster's processes, made anew for each run.

Of two processes the one with the higher number connects. What arrives lies here until it is asked
for, because the processes hear of a run one after the other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from engine.errors import LinkError
from engine.runtime._door import PROOF_S_MAX, Answer, Door, LaterError
from engine.runtime._ids import WorkerIndex
from engine.runtime._launch import Layout
from engine.runtime._membership import BEAT_INTERVAL_S, SILENT_S_MAX, Beat, UnmetError
from engine.runtime._mesh import MeshSeat
from engine.runtime._ports import Stream
from engine.runtime._proof import Hello, JobFacts, Purpose, Status
from engine.runtime._wire import TlsStream, Wire

_LINK_S = 0.1
"""So much time more there is for each connection that a process needs."""
_TRY_AGAIN_S = 0.1
_KEPT_MAX = 4096
"""More connections than this lie here only if something is wrong."""


@dataclass(frozen=True, slots=True)
class RunName:
    """Which run of which job connections belong to."""

    run: str
    """Random."""
    generation: int


Place: TypeAlias = tuple[Purpose, str, int, int]
"""What a connection is for, in which run, from whom and to whom."""


class Arrivals:
    """Connections of workers and pulses that have proved themselves and wait to be asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: dict[Place, tuple[int, Stream]] = {}
        self._generation = 0

    def judge(self, hello: Hello) -> Answer:
        """Whether a connection is welcome: those of generations that are over are not."""
        if hello.generation < self._generation:
            reason = f"generation {hello.generation} is over; this is {self._generation}"
            return Status.REFUSED, reason
        if len(self._kept) >= _KEPT_MAX:
            return Status.LATER, "too many connections wait here"
        return Status.WELCOME, ""

    def take(self, hello: Hello, stream: Stream) -> None:
        """Keep a connection. One that was there in its place is closed."""
        place = hello.purpose, hello.run, hello.sender, hello.receiver
        with self._changed:
            before = self._kept.pop(place, None)
            self._kept[place] = hello.generation, stream
            self._changed.notify_all()
        if before is not None:
            before[1].close()

    def begin(self, run: RunName) -> None:
        """From now on refuse what belongs to earlier generations; close what did not get in."""
        with self._changed:
            self._generation = run.generation
            for place, (generation, stream) in list(self._kept.items()):
                if generation <= run.generation and place[1] != run.run:
                    del self._kept[place]
                    stream.close()

    def get(self, place: Place, deadline_s: float) -> Stream:
        """The connection of a sender to a receiver.

        Raises:
            UnmetError: It doesn't come in time.
        """
        with self._changed:
            while place not in self._kept:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0.0 or not self._changed.wait(left_s):
                    purpose, _, sender, receiver = place
                    who = "process" if purpose is Purpose.PULSE else "worker"
                    msg = f"{who} {sender} did not connect to {receiver} in time"
                    raise UnmetError(msg)
            return self._kept.pop(place)[1]

    def close(self) -> None:
        """Close all that nobody asked for."""
        with self._changed:
            for _, stream in self._kept.values():
                stream.close()
            self._kept.clear()


class Meeting:
    """What connects this process's workers to those of others, in one run.

    Args:
        door: The way to other processes.
        arrivals: Those that came through it.
        facts: What this process says of itself.
        process: Its number.
        layout: Which workers run in which processes.
    """

    def __init__(
        self, door: Door, arrivals: Arrivals, facts: JobFacts, process: int, layout: Layout
    ) -> None:
        self._door = door
        self._arrivals = arrivals
        self._facts = facts
        self._process = process
        self._layout = layout

    def seats(self, run: RunName) -> list[MeshSeat]:
        """Connect each of this process's workers to all workers of other processes.

        Raises:
            UnmetError: One can't be reached.
            ClusterError: One refuses.
        """
        self._arrivals.begin(run)
        mine = self._layout.workers_of(self._process)
        others = self._layout.workers - len(mine)
        deadline_s = time.monotonic() + PROOF_S_MAX + _LINK_S * len(mine) * others
        links: dict[WorkerIndex, dict[WorkerIndex, Stream]] = {worker: {} for worker in mine}
        with contextlib.ExitStack() as opened:
            for worker in mine:
                for number in range(self._layout.workers):
                    peer = WorkerIndex(number)
                    if peer not in links:
                        stream = self._link(run, worker, peer, deadline_s)
                        opened.callback(stream.close)
                        links[worker][peer] = stream
            opened.pop_all()
        greedy = {
            worker: {peer: _greedy(stream) for peer, stream in streams.items()}
            for worker, streams in links.items()
        }
        return [MeshSeat(greedy[worker], run.generation) for worker in mine]

    def pulse(self, run: RunName, lost: Callable[[str], None]) -> Pulse:
        """Watch the other processes, but for the leader, which is watched otherwise.

        Raises:
            UnmetError: One can't be reached.
            ClusterError: One refuses.
        """
        deadline_s = time.monotonic() + PROOF_S_MAX
        others = range(1, self._layout.processes) if self._process > 0 else ()
        wires: dict[int, Wire] = {}
        with contextlib.ExitStack() as opened:
            for other in others:
                if other != self._process:
                    place = (self._process, other)
                    stream = self._stream(Purpose.PULSE, run, other, place, deadline_s)
                    wires[other] = Wire(stream, SILENT_S_MAX)
                    opened.callback(wires[other].close)
            opened.pop_all()
        return Pulse(wires, lost)

    def _link(
        self, run: RunName, worker: WorkerIndex, peer: WorkerIndex, deadline_s: float
    ) -> Stream:
        process = self._layout.process_of(peer)
        return self._stream(Purpose.LINK, run, process, (worker, peer), deadline_s)

    def _stream(
        self,
        purpose: Purpose,
        run: RunName,
        process: int,
        ends: tuple[int, int],
        deadline_s: float,
    ) -> Stream:
        """A connection to another process, by whichever of the two makes it."""
        mine, theirs = ends
        if process > self._process:
            return self._arrivals.get((purpose, run.run, theirs, mine), deadline_s)
        hello = Hello(*(purpose, self._process, self._facts, run.run, run.generation), mine, theirs)
        while True:
            try:
                return self._door.connect(process, hello, deadline_s)
            except (OSError, LaterError) as ex:
                if time.monotonic() + _TRY_AGAIN_S > deadline_s:
                    msg = f"process {process} can't be reached: {ex}"
                    raise UnmetError(msg) from ex
            time.sleep(_TRY_AGAIN_S)


def _greedy(stream: Stream) -> Stream:
    return stream.greedy() if isinstance(stream, TlsStream) else stream


class Pulse:
    """Tells other processes that this one is there, and notices when one of them falls silent.

    It is a matter of its own because a worker reads its links when it has time to, and a silent
    link says nothing of a worker that is busy. Its end says nothing either: whoever has ended is
    noticed by its links and by the leader.

    Args:
        wires: To the other processes, by their numbers.
        lost: Takes what is to be said of one that is silent, on a thread of the pulse.
    """

    def __init__(self, wires: dict[int, Wire], lost: Callable[[str], None]) -> None:
        self._wires = wires
        self._lost = lost
        self._over = threading.Event()
        for process, wire in wires.items():
            threading.Thread(target=self._listen, args=(process, wire), daemon=True).start()
        if wires:
            threading.Thread(target=self._beat, name="engine-pulse", daemon=True).start()

    def _beat(self) -> None:
        wires: Sequence[Wire] = list(self._wires.values())
        while not self._over.wait(BEAT_INTERVAL_S):
            for wire in wires:
                with contextlib.suppress(OSError):
                    wire.beat(Beat())

    def _listen(self, process: int, wire: Wire) -> None:
        try:
            while True:
                wire.recv()
        except TimeoutError:
            self._lost(f"process {process} has given no sign of life for {SILENT_S_MAX:g} s")
        except LinkError as ex:
            self._lost(f"process {process}: {ex}")
        except OSError:
            pass
        finally:
            wire.close()

    def close(self) -> None:
        """Stop."""
        self._over.set()
        for wire in self._wires.values():
            wire.shut()
