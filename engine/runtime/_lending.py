"""Runs calls of tasks on the worker that suits them best, which may be another one.

Every worker has every step, so any of them can run a call. The worker that has the record is the
call's home: the task stays in its table there, with its order, tries and deadline, and is part of
its epochs. Only the call goes to another worker, its guest, and what came of it comes back. A crash
of either rewinds the job, and the home's table calls again.

Nobody's resources are taken from afar: a guest takes a call's from its own ledger when it begins,
and lets it wait before that. What homes know of free resources is as old as the last message, so a
call may come to a guest that has none left; it waits, and is called back if another has. A home
none of whose own resources would do always has a call waiting somewhere, in the line that the
guest's own calls stand in, so that it gets its turn however busy that worker is.

Does nothing by itself, like the table: `Lending.turn` is called by the worker.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from engine.operators.tasks._resources import Resources
from engine.operators.tasks._task import TaskKernel
from engine.runtime._errands import ERRANDS, AboutStep, Ended, Errand, Lend, Load
from engine.runtime._ids import WorkerIndex
from engine.runtime._ledger import Ledger
from engine.runtime._offers import able_workers
from engine.runtime._ports import Network

TELL_S: Final = 0.05
"""How often workers tell each other what is free, and look whether calls have begun."""


class _Peer:
    """What is free at another worker, as far as it is known."""

    def __init__(self, offer: Resources) -> None:
        self.offer = offer
        self.free = dict(offer.parts)
        self.calls = 0
        self.lent = 0
        """How many calls were lent to it."""
        self.seen = 0
        """How many it has lent."""
        self._unseen: deque[Resources] = deque()
        """What the calls take that it hadn't got when it told last."""

    def lend(self, demand: Resources) -> None:
        self.lent += 1
        self._unseen.append(demand)
        self._take(demand)

    def _take(self, demand: Resources) -> None:
        self.calls += 1
        for name, parts in demand.parts.items():
            self.free[name] = self.free.get(name, 0) - parts

    def hear(self, load: Load) -> None:
        self.free, self.calls = dict(load.free), load.calls
        while len(self._unseen) > self.lent - load.seen:
            self._unseen.popleft()
        for demand in self._unseen:
            self._take(demand)


class Lends(Protocol):
    """A step whose calls may go to other workers (`engine.runtime._lent_step.LentStep`)."""

    demand: Resources
    """What a call takes."""
    lent_count: int
    """How many calls were lent."""

    @property
    def count(self) -> int:
        """How many calls are here."""
        ...

    @property
    def guests_waiting(self) -> int:
        """How many calls of others wait here."""
        ...

    def hear(self, sender: WorkerIndex, errand: AboutStep) -> None:
        """Another worker says something."""
        ...

    def turn(self) -> None:
        """Hear of calls that have ended here, let others begin, here and elsewhere."""
        ...

    def wait_s(self) -> float:
        """In how many seconds `turn` has something to do if nothing comes."""
        ...


class Lending:
    """What one worker lends to others and runs for them.

    Args:
        me: The worker.
        offers: What each worker offers.
        ledger: Of this one.
        network: The way to the others.
        now_s: A clock that never goes back.
    """

    def __init__(
        self,
        me: WorkerIndex,
        offers: Sequence[Resources],
        ledger: Ledger,
        network: Network,
        now_s: Callable[[], float],
    ) -> None:
        self.me = me
        self.ledger = ledger
        self.now_s = now_s
        self.workers = len(offers)
        self.peers = {WorkerIndex(i): _Peer(o) for i, o in enumerate(offers) if i != me}
        self.steps: dict[str, Lends] = {}
        self._offers = offers
        self._network = network
        self._inbox: deque[tuple[WorkerIndex, Errand]] = deque()
        self._told: tuple[dict[str, int], int] = dict(ledger.offer.parts), 0
        self._untold: set[WorkerIndex] = set()
        """Who was told something else than what is so now."""
        self._told_s = -math.inf
        self._over = False

    def able(self, kernel: TaskKernel) -> list[WorkerIndex]:
        """The workers that may run calls of a step."""
        rules = kernel.rules
        able = able_workers(rules.resources, rules.placement, self._offers)
        return [WorkerIndex(worker) for worker in able]

    def lent(self) -> dict[str, int]:
        """How many calls other workers were given, by step."""
        return {step_id: step.lent_count for step_id, step in self.steps.items()}

    def receive(self, sender: WorkerIndex, errands: Sequence[Errand]) -> None:
        """Take what another worker says, for the next turn."""
        self._inbox.extend((sender, errand) for errand in errands)

    def send(self, receiver: WorkerIndex, errand: Errand) -> None:
        """Tell another worker something.

        Raises:
            TooLongError: It is too large.
            UserCodeError: It can't be pickled.
        """
        self._network.send(ERRANDS, self.me, receiver, [errand])

    def load_for(self, peer: WorkerIndex) -> Load:
        """What to tell a worker of this one's resources; it counts as told."""
        self._untold.discard(peer)
        free, calls = self._state()
        return Load(free, calls, self.peers[peer].seen)

    def _state(self) -> tuple[dict[str, int], int]:
        free, calls = self.ledger.free(), 0
        for step in self.steps.values():
            calls += step.count
            for name, parts in step.demand.parts.items():
                free[name] = free.get(name, 0) - parts * step.guests_waiting
        return free, calls

    def turn(self) -> float:
        """Hear what others say and what has become of calls, and say what there is to say.

        Returns:
            In how many seconds there is something to do if nothing comes; infinity if nothing.
        """
        if self._over:
            return math.inf
        inbox, steps = self._inbox, self.steps
        while inbox:
            sender, errand = inbox.popleft()
            if isinstance(errand, Load):
                self.peers[sender].hear(errand)
            else:
                self._hear(sender, errand)
        for step in steps.values():
            step.turn()
        self._tell()
        return self.wait_s()

    def _hear(self, sender: WorkerIndex, errand: AboutStep) -> None:
        if isinstance(errand, Lend):
            self.peers[sender].seen += 1
            self._untold.add(sender)
        elif isinstance(errand, Ended):
            self.peers[sender].hear(errand.load)
        self.steps[errand.step].hear(sender, errand)

    def _note(self) -> None:
        """See who doesn't know what is so now."""
        state = self._state()
        if state != self._told:
            self._told = state
            self._untold.update(self.peers)

    def _tell(self) -> None:
        self._note()
        now_s = self.now_s()
        if self._untold and self._told_s + TELL_S <= now_s:
            self._told_s = now_s
            for peer in sorted(self._untold):
                self.send(peer, self.load_for(peer))

    def wait_s(self) -> float:
        """In how many seconds `turn` has something to do if nothing comes."""
        if self._over:
            return math.inf
        if self._inbox:
            return 0.0
        wait_s = min((step.wait_s() for step in self.steps.values()), default=math.inf)
        self._note()
        if self._untold:
            wait_s = min(wait_s, max(0.0, self._told_s + TELL_S - self.now_s()))
        return wait_s

    def end(self) -> None:
        """All tasks of the run are over, or will be called again: say nothing more.

        Other workers may leave from now on.
        """
        self._over = True
