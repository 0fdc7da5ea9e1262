"""The mailboxes of the actors of a step on one worker: what waits, whose turn it is, who rests.

What actors send goes into the mailboxes of this worker, or to `outgoing` for another one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heappop, heappush
from itertools import chain, islice
from typing import Any, Final

from engine.operators.actors import DeadMessage, Ref
from engine.operators.actors._mail import TELL, Mail, unpacked
from engine.runtime._actor_state import ActorState, Mailbox

TURN_MAX: Final = 1000
"""So many messages of one actor are handled before others have their turn."""


class Mailboxes:
    """What waits for the actors of one step on one worker.

    Args:
        state: The actors, and their mailboxes.
        names: Of the class whose actors have plain keys for addresses, and of all of them.
        elsewhere: Gives the worker that an actor of a key lives on, if it isn't this one.
    """

    def __init__(
        self,
        state: ActorState,
        names: tuple[str, Collection[str]],
        elsewhere: Callable[[Any], int | None] | None = None,
    ) -> None:
        self.pending = 0
        """How many messages wait."""
        self.outgoing: dict[int, list[tuple[Ref, Mail]]] = {}
        """What is for actors of other workers."""
        self.dead: list[DeadMessage] = []
        """Messages that no actor has handled."""
        self._state = state
        self._mail = state.mail
        self._first, self._classes = names
        self._elsewhere = elsewhere
        self._ready: deque[Any] = deque()
        """Addresses of those that have mail and may work on it."""
        self._resting: list[tuple[float, int, Any]] = []
        """Those that try a message again, and when; a heap."""
        self._rests = 0
        self._blocked: set[Any] = set()
        """Their addresses, and those of actors with a handler that runs apart."""

    @property
    def in_memory(self) -> int:
        """How many messages wait in memory."""
        return self.pending - self._state.spilled_mails

    def sample(self) -> Iterator[Any]:
        """Messages that wait in memory, those of one actor after those of another."""
        return chain.from_iterable(self._mail.values())

    def longest(self) -> tuple[Ref, int]:
        """The actor that most messages wait for, and how many. Something must wait."""
        address = max(self._mail, key=self._state.waiting)
        ref = address if address.__class__ is Ref else Ref(self._first, address)
        return ref, self._state.waiting(address)

    def restore(self, keys: Iterable[Any]) -> None:
        """Go on with mails that an earlier run has saved, in rows with these keys."""
        self._ready.extend(self._state.restore(keys))
        self.pending += self._state.spilled_mails

    # What comes in

    def address(self, ref: Ref) -> Any:
        """What an actor's row and mailbox are found by."""
        return ref[0] if ref[2] == self._first else ref

    def put(self, address: Any, mail: Mail) -> None:
        """Put a mail behind those that wait."""
        box = self._mail.get(address)
        if box is None:
            self._mail[address] = [mail]
            self._ready.append(address)
        else:
            box.append(mail)
        self.pending += 1

    def tell(self, address: Any, message: Any) -> None:
        """Put a message that nobody has sent behind those that wait."""
        self.put(address, (TELL, message, None, None, None))

    def deliver(self, sent: list[tuple[Ref, Mail]]) -> None:
        """Put what an actor has sent where it is for."""
        if self._elsewhere is not None:
            sent = self._of_this_worker(sent, self._elsewhere)
        boxes, first, ready = self._mail, self._first, self._ready
        for ref, mail in sent:
            address = ref
            if ref[2] == first:
                address = ref[0]
            elif ref[2] not in self._classes:
                self.pending -= 1
                reason = f"the step has no class {ref[2]!r}; it has {', '.join(self._classes)}"
                self.dead.append(dead_message(ref, mail, reason))
                continue
            box = boxes.get(address)
            if box is None:
                boxes[address] = [mail]
                ready.append(address)
            else:
                box.append(mail)
        self.pending += len(sent)

    def _of_this_worker(
        self, sent: list[tuple[Ref, Mail]], elsewhere: Callable[[Any], int | None]
    ) -> list[tuple[Ref, Mail]]:
        """Those mails that are for actors here, or for none; the others go to `outgoing`."""
        here: list[tuple[Ref, Mail]] = []
        for told in sent:
            ref, _ = told
            worker = elsewhere(ref[0]) if ref[2] in self._classes else None
            if worker is None:
                here.append(told)
            else:
                self.outgoing.setdefault(worker, []).append(told)
        return here

    # Whose turn it is

    @property
    def idle(self) -> bool:
        """Whether nothing waits, not even to be tried again, and no task is under way."""
        return not self._mail and not self._state.requests

    @property
    def has_ready(self) -> bool:
        """Whether `next_turn` has something."""
        return bool(self._ready)

    def next_turn(self) -> tuple[Any, list[Mail]] | None:
        """Take mails of the actor whose turn it is, with its address; None if all have had theirs.

        They still count as pending.
        """
        ready = self._ready
        while ready:
            address = ready.popleft()
            if address in self._blocked:
                continue
            box = self._mail.pop(address, None)
            if box is None:
                continue
            spilled = self._state.spilled and address in self._state.spilled
            if not spilled and isinstance(box, list) and len(box) <= TURN_MAX:
                return address, box
            return address, self._take(address, box, TURN_MAX)
        return None

    def _take(self, address: Any, box: Mailbox, most: int) -> list[Mail]:
        """The first messages of a mailbox; the actor has its turn for the others behind others."""
        if address in self._state.spilled:
            mails, box = self._take_spilled(address, box, most)
        else:
            box = box if isinstance(box, deque) else deque(box)
            mails = [box.popleft() for _ in range(min(len(box), most))]
        if box or address in self._state.spilled:
            self._mail[address] = box
            self._ready.append(address)
        return mails

    def _take_spilled(self, address: Any, box: Mailbox, most: int) -> tuple[list[Mail], Mailbox]:
        """Those that are in the store alone, which come before the others, and what is left."""
        spilled = self._state.spilled[address]
        if not spilled.front:
            # Also of those whose turn comes next: reading many rows at once is cheaper.
            soon = islice(self._ready, TURN_MAX)
            self._state.fetch(chain((address,), soon), TURN_MAX)
        mails, spilled.front = spilled.front[:most], spilled.front[most:]
        if not spilled.rows:
            del self._state.spilled[address]
            return mails, [*spilled.front, *box]
        return mails, box

    def put_in_front(self, address: Any, first: list[Mail], then: list[Mail]) -> None:
        """Have mails come next, before those that lie in the mailbox, in an order of their own.

        Args:
            address: Whose.
            first: Mails that didn't wait.
            then: Mails of the present turn that come behind them.
        """
        self._state.put_front(address, [*first, *then])
        self._ready.appendleft(address)
        self.pending += len(first)

    def take_all(self, address: Any) -> list[Mail]:
        """Empty a mailbox."""
        behind = [*self._state.take_spilled(address), *self._mail.pop(address, ())]
        self.pending -= len(behind)
        return behind

    # Whose handlers run apart

    def hold(self, address: Any, mails: list[Mail]) -> None:
        """The first mail of the present turn is handled apart; all of them wait for its end."""
        self._state.put_front(address, mails)
        self._blocked.add(address)

    def let_go(self, address: Any) -> Mail:
        """That has ended: take the mail, which still counts as pending; others may come next."""
        self._blocked.discard(address)
        (mail,) = self._take(address, self._mail.pop(address), 1)
        return mail

    def postpone(self, address: Any, mails: list[Mail]) -> None:
        """Have mails of the present turn wait for the next one."""
        if mails:
            self._state.put_front(address, mails)
            self._ready.append(address)

    # Who rests

    def rest(self, address: Any, mails: list[Mail], until_s: float) -> None:
        """Have mails of the present turn come again, when it is time; those behind them wait."""
        self._state.put_front(address, mails)
        self._rests += 1
        self._blocked.add(address)
        heappush(self._resting, (until_s, self._rests, address))

    @property
    def rested_s(self) -> float:
        """When `wake` has something to do."""
        return self._resting[0][0] if self._resting else math.inf

    def wake(self, now_s: float) -> None:
        """Let those go on that have rested."""
        while self._resting and self._resting[0][0] <= now_s:
            address = heappop(self._resting)[2]
            self._blocked.discard(address)
            self._ready.append(address)


def dead_message(ref: Ref, mail: Mail, reason: str, tries: int = 0) -> DeadMessage:
    """The dead letter of a mail."""
    return DeadMessage(ref, unpacked(mail[1]), mail[2], reason, tries)
