"""A step with actors, on one worker: between the stage, the table of its actors and its peers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from engine.errors import EngineRuntimeError
from engine.operators._shown import shortened
from engine.operators._state import StateChanges
from engine.runtime._actor_calls import ActorCalls
from engine.runtime._actor_state import MAIL_DUE_S, is_mail_row
from engine.runtime._actor_table import ActorTable
from engine.runtime._backlog import Backlog
from engine.runtime._counts import ActorsSnapshot, StepCounts
from engine.runtime._ids import WorkerIndex
from engine.runtime._nodes import Node, Target
from engine.runtime._ports import log

TURN_MESSAGES_MAX: Final = 1000
"""About how many messages are handled before something else has its turn."""
_TELL_EVERY_S: Final = 10.0
PENDING_MAX: Final = 10_000
"""How many messages may wait before no more of the input is taken."""
FRESH_MAX: Final = 50_000
"""By so many more messages may be in memory than at the last barrier before actors wait for the
next one, which brings them to the store."""
FRESH_MIN: Final = 1000
"""As `FRESH_MAX`, when states have filled the memory that they may take."""


class Peers(Protocol):
    """The way to the same step on other workers: `engine.runtime._feedback.Feedback`."""

    def has_room(self) -> bool:
        """Whether they keep up with what they are sent."""
        ...

    def send(self, receiver: WorkerIndex, batch: list[Any]) -> None:
        """Send messages to actors of another worker."""
        ...

    def receive(self, sender: WorkerIndex, batch: list[Any]) -> bool:
        """Note that messages have come; whether they are to be saved with the epoch before."""
        ...

    def exchanged(self) -> tuple[int, int]:
        """How many messages were sent and received."""
        ...

    def say_quiet(self) -> bool:
        """Tell all that nothing waits here; whether that is news."""
        ...

    @property
    def has_news(self) -> bool:
        """Whether `say_quiet` has something to say."""
        ...

    @property
    def all_quiet(self) -> bool:
        """Whether nothing waits anywhere."""
        ...


@dataclass(frozen=True, slots=True)
class ActorSite:
    """What a step with actors has around it on its worker."""

    step_id: str
    now_s: Callable[[], float]
    """The wall clock."""
    has_room: Callable[[], bool]
    """Whether what actors emit could be sent on."""
    peers: Peers | None
    """None if there is one worker."""
    calls: ActorCalls
    """What runs apart from the actors."""
    tell: Callable[[str], None] = log
    """Takes lines for people."""
    counts: StepCounts | None = None
    """Counts the work of the step, if somebody wants to know."""


class ActorNode(Node):
    """A step with actors.

    Args:
        site: What it has around it.
        table: Its actors.
        downs: Where what they emit and dead letters go; None for letters that nobody reads.
        inputs: How many edges lead here.
    """

    def __init__(
        self,
        site: ActorSite,
        table: ActorTable,
        downs: tuple[Target, Target | None],
        inputs: int,
    ) -> None:
        super().__init__(site.step_id, inputs)
        self.table = table
        self._site = site
        self._now_s, self._peers, self._calls = site.now_s, site.peers, site.calls
        self._down, self._dead = downs
        self._dead_letters = 0
        self._told_failures, self._tell_at_s = 0, -math.inf
        self._run = table.run if site.counts is None else site.counts.timing(table.run)
        self._backlog = Backlog(site.step_id, PENDING_MAX, site.tell)
        self._owed: deque[Callable[[], None]] = deque()
        """Credit to give back for input, once messages have been handled, here and elsewhere."""
        self._owed_peers: deque[Callable[[], None]] = deque()
        """Credit to give back to other workers, once messages have been handled here."""
        self._input_over = False
        self._draining = self._drained = False
        self._unsaved = False
        """Whether something has happened since the last barrier that an epoch must save."""
        self._asked = -1
        """After how many barriers the next one was asked for."""

    # From the stage

    def push(self, batch: list[Any]) -> None:
        """Take records: at once if what comes of them can be sent on, else they wait."""
        self.table.state.prefetch(batch)
        if self._site.has_room() and not self._full:
            now_s = self._now_s()
            self.table.take(batch, now_s)
            self.table.run(now_s, len(batch))
            self._hand_on()
        else:
            self.table.admit(batch)

    def owe(self, give_back: Callable[[], None]) -> None:
        """Credit for a batch is given back when not too many messages wait, here and elsewhere."""
        self._owed.append(give_back)
        self._pay()

    def _can_pay(self) -> bool:
        table = self.table
        if table.boxes.pending + len(table.state.requests) > PENDING_MAX:
            return False
        # Not the other way round, or two workers might wait for each other.
        peers = self._peers
        return bool(self._owed_peers or (self._owed and (peers is None or peers.has_room())))

    def _pay(self) -> None:
        while self._can_pay():
            owed = self._owed_peers or self._owed
            owed.popleft()()

    def receive(self, sender: WorkerIndex, batch: list[Any], give_back: Callable[[], None]) -> None:
        """Take messages from actors of another worker; its credit is given back later."""
        assert self._peers is not None  # noqa: S101
        self.table.admit_mails(batch, logged=self._peers.receive(sender, batch))
        self._unsaved = True
        self._owed_peers.append(give_back)
        self._pay()

    def end_input(self) -> None:
        """One of the inputs has ended. The step ends when no message waits on any worker."""
        self._inputs_open -= 1
        if self._inputs_open == 0:
            self._input_over = True
            self.table.close(self._now_s())

    def drained(self) -> bool:
        """Whether nothing waits on any worker. Once this was asked, no more input comes."""
        if not self._draining:
            self._draining, self._drained = True, self.ended
            if not self._input_over:
                self.table.close(self._now_s())
        return self._drained

    # From the worker

    def wait_s(self, *, room: bool) -> float:
        """In how many seconds `turn` has something to do, if nothing comes."""
        table = self.table
        if self._full:
            room = False
            if self._asked != table.state.epochs:
                return 0.0
        if self._can_pay() or (room and (table.boxes.has_ready or self._at_end())):
            return 0.0
        due_s = max(0.0, table.next_due_s() - self._now_s())
        return min(due_s, self._calls.wait_s(room=room))

    def _at_end(self) -> bool:
        """Whether there is something to say about the end."""
        if self.ended or not (self._input_over or self._draining) or not self.table.boxes.idle:
            return False
        if self._drained:
            return False
        return self._peers is None or self._peers.has_news or self._peers.all_quiet

    def turn(self, *, room: bool) -> float:
        """Have messages come that are due, let actors handle some, see whether it is the end.

        Args:
            room: Whether what actors emit can be sent on.

        Returns:
            In how many seconds there will be something to do if nothing comes: 0 at once.
        """
        table, now_s = self.table, self._now_s()
        self._backlog.look(table.boxes, now_s)
        if table.next_due_s() <= now_s:
            table.wake(now_s)
            self._unsaved = True
        room = room and not self._full
        called = self._look_at_calls(now_s, room=room)
        if room and (called or table.boxes.has_ready):
            self._run(now_s, TURN_MESSAGES_MAX)
            self._unsaved = True
            self._hand_on()
        elif room and self._at_end():
            self._end()
        elif not called and not self._can_pay():
            return self.wait_s(room=room)
        self._pay()
        # What was sent may lie in a channel of this worker.
        return 0.0

    def _look_at_calls(self, now_s: float, *, room: bool) -> bool:
        """Have what came of calls apart from the actors count. Whether there was anything."""
        worked = self._calls.turn()
        for order, work in self._calls.take_tried():
            self.table.note_try(order, work)
        for ended in self._calls.take_ends() if room else ():
            self.table.end(ended, now_s)
            worked = True
        return worked

    def _hand_on(self) -> None:
        """Send on what actors have emitted and sent, and have calls made apart from them."""
        table = self.table
        if table.orders:
            orders, table.orders = table.orders, []
            self._calls.submit(orders)
        if table.out:
            batch = table.out.copy()
            table.out.clear()
            self._down.push(batch)
        boxes = table.boxes
        if boxes.outgoing:
            assert self._peers is not None  # noqa: S101
            outgoing, boxes.outgoing = boxes.outgoing, {}
            for receiver, mails in outgoing.items():
                self._peers.send(WorkerIndex(receiver), mails)
        if table.supervisor.failures != self._told_failures:
            self._tell_of_failures()
        if boxes.dead:
            self._bury()

    def _tell_of_failures(self, *, at_last: bool = False) -> None:
        """Tell people how often handlers have raised: the first time, then once in a while."""
        now_s, done = self._now_s(), self.table.supervisor
        if now_s < self._tell_at_s and not at_last:
            return
        self._told_failures, self._tell_at_s = done.failures, now_s + _TELL_EVERY_S
        times = "once" if done.failures == 1 else f"{done.failures:,} times"
        self._site.tell(
            f"step {self.step_id!r}: handlers of its actors have raised {times} so far on this "
            f"worker; the last one: {done.last_failure()}"
        )

    def _bury(self) -> None:
        boxes = self.table.boxes
        letters, boxes.dead = boxes.dead, []
        self._dead_letters += len(letters)
        if self._dead is not None:
            self._dead.push(letters)
            return
        letter = letters[0]
        msg = (
            f"step {self.step_id!r}: {letter.ref!r} has not handled {shortened(letter.message)}: "
            f"{letter.reason}; nobody reads the step's `dead_letters`"
        )
        raise EngineRuntimeError(
            msg, step_id=self.step_id, key=letter.ref, record=letter.message, has_record=True
        )

    def _end(self) -> None:
        if self._peers is not None and (self._peers.say_quiet() or not self._peers.all_quiet):
            return
        if self._draining:
            self._drained = True
            return
        self.ended = True
        if self.table.supervisor.failures != self._told_failures:
            self._tell_of_failures(at_last=True)
        self._down.end()
        if self._dead is not None:
            self._dead.end()

    def snapshot(self) -> ActorsSnapshot:
        """What the actors have done up to now."""
        table, done = self.table, self.table.supervisor
        sent, received = (0, 0) if self._peers is None else self._peers.exchanged()
        return ActorsSnapshot(
            table.boxes.pending,
            table.handled,
            self._dead_letters,
            done.failures,
            done.retries,
            done.restarts,
            sent,
            received,
        )

    # Epochs

    def take_unsaved(self) -> bool:
        """Whether something has happened that an epoch must save; asked once for each time."""
        unsaved, self._unsaved = self._unsaved, False
        return unsaved

    @property
    def _full(self) -> bool:
        """Whether actors must wait until what they have sent each other is saved."""
        state = self.table.state
        return state.tracked and self.table.boxes.in_memory - state.kept_mails > FRESH_MAX

    @property
    def swells(self) -> bool:
        """Whether much that waits came since the last barrier: for when memory is short."""
        return self.table.boxes.in_memory - self.table.state.kept_mails > FRESH_MIN

    def asks_commit(self) -> bool:
        """Whether the epoch must end for actors to go on; told once for each."""
        epochs = self.table.state.epochs
        asks = self._full and self._asked != epochs
        if asks:
            self._asked = epochs
        return asks

    def take_log(self) -> StateChanges:
        """What came from other workers after the barrier and is of the epoch before it."""
        log, self.table.log = self.table.log, {}
        due_s: list[float | None] = [MAIL_DUE_S] * len(log)
        return StateChanges([*log], [*log.values()], due_s, [])

    def resume(self, waiting: Iterable[Any]) -> None:
        """Go on with messages and tasks that were saved.

        Args:
            waiting: Keys of rows that are due at once.
        """
        self.table.restore([key for key in waiting if is_mail_row(key)])
        self._hand_on()
