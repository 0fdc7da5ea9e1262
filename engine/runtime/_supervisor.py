"""What becomes of actors whose handlers raise, as their classes say in `supervise`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.errors import EngineRuntimeError, WorkerProcessError
from engine.operators._shown import shortened
from engine.operators.actors import (
    Actor,
    ChildFailed,
    Context,
    Escalate,
    Ref,
    Restart,
    Resume,
    Retry,
    Stop,
    Terminated,
)
from engine.operators.actors._life import Life
from engine.operators.actors._mail import (
    ASK,
    FAILED,
    REPLY,
    RESULT,
    SIGNAL,
    SPAWN,
    STOP,
    TELL,
    TIMEOUT,
    UNSPAWN,
    WATCH,
    Mail,
    packed,
    unpacked,
)
from engine.runtime._actor_state import ActorState
from engine.runtime._failure import name_of
from engine.runtime._mailboxes import Mailboxes, dead_message

_MESSAGES: Final = (TELL, ASK)
_ENDS: Final = (RESULT, FAILED)


class Supervisor:
    """Sees to failed and stopped actors of one step on one worker.

    Args:
        step_id: The step, for errors.
        state: The actors.
        boxes: Their mailboxes.
        ctx: Of the actor whose turn it is.
        chance: Gives random numbers from 0 to 1.
    """

    def __init__(
        self,
        step_id: str,
        state: ActorState,
        boxes: Mailboxes,
        ctx: Context,
        chance: Callable[[], float],
    ) -> None:
        self._step_id = step_id
        self._state = state
        self._boxes = boxes
        self._ctx = ctx
        self._chance = chance
        self.failures = self.retries = self.restarts = 0
        """How often a handler has raised, what came of it was another try, or a fresh state."""
        self._last: tuple[Ref, Mail, Exception] | None = None

    def failed(
        self, address: Any, actor: Actor, mails: list[Mail], at: int, error: Exception
    ) -> int | None:
        """Do as the class says in `supervise`.

        Args:
            address: Whose handler has raised.
            actor: It, as it was before the handler.
            mails: Those of the present turn.
            at: Which of them it was.
            error: What was raised.

        Returns:
            How many of the messages wait no more, if it is others' turn; None to go on.

        Raises:
            EngineRuntimeError: It ends the run.
        """
        mail, life, now_s = mails[at], actor.life or self._ctx.new_life(), self._ctx.now_s
        actor.life = life
        self.failures += 1
        self._last = self._ctx.self, mail, error
        directive, tries = actor.blueprint.supervise, 1
        if isinstance(directive, Retry):
            life.tries = tries = life.tries + 1
            # One that ends the process isn't tried again by those who have counted its deaths.
            if directive.allows(error, tries) and not isinstance(error, WorkerProcessError):
                self.retries += 1
                until_s = now_s + directive.backoff.wait_s(tries, self._chance())
                self._boxes.rest(address, mails[at:], until_s)
                return at
            directive = directive.then
        life.tries = 0
        why = name_of(error)
        if isinstance(directive, Resume | Restart):
            if _too_many(directive, life, now_s):
                why = f"{why} ({_limit_of(directive)})"
                directive = Escalate()
            elif isinstance(directive, Restart):
                self._restart(address, actor)
        ref = self._ctx.self
        if isinstance(directive, Escalate):
            parent = life.parent
            if parent is None:
                raise self._error(ref, unpacked(mail[1]), why) from error
            self._leave(life)
            failed = packed(ChildFailed(ref, unpacked(mail[1]), why))
            self._ctx.sent.append((parent, (SIGNAL, failed, ref, None, None)))
        self.bury(mail, why, tries)
        self._give_up(address, life, mail)
        if isinstance(directive, Stop | Escalate):
            self.stop(address, actor, mails, at)
            return len(mails)
        return None

    def last_failure(self) -> str:
        """Whose handler has raised last for what, in words; there must have been one."""
        assert self._last is not None  # noqa: S101
        ref, mail, error = self._last
        return f"{ref!r} on {shortened(unpacked(mail[1]))}: {name_of(error)}"

    def _give_up(self, address: Any, life: Life, mail: Mail) -> None:
        """A message isn't tried again. What was asked, or called, is over all the same."""
        kind, _, _, number, row = mail
        if row is not None:
            self._state.drop_row(address, row)
        if number is None:
            return
        if kind in (REPLY, TIMEOUT):
            life.asks.pop(number, None)
            self._state.alarms.set(address, life.due_s())
        elif kind in _ENDS:
            life.tasks.pop(number, None)

    def _restart(self, address: Any, actor: Actor) -> None:
        life: Life = actor.life
        self.restarts += 1
        actor.state = actor.blueprint.new_state()
        life.behaviour = None
        life.timers.clear()
        life.asks.clear()
        self._forget_tasks(address, life)
        self._state.alarms.set(address, None)

    def stop(self, address: Any, actor: Actor, mails: list[Mail], at: int) -> None:
        """End the actor whose turn it is after one of its messages.

        Of what lies behind that, all from a wish to have such an actor on is for the next one.
        """
        ref, sent = self._ctx.self, self._ctx.sent
        life: Life = actor.life
        waiting = [*mails[at + 1 :], *self._boxes.take_all(address)]
        end = next((i for i, mail in enumerate(waiting) if mail[0] == SPAWN), len(waiting))
        for mail in [*life.stash, *waiting[:end]]:
            if mail[4] is not None:
                self._state.drop_row(address, mail[4])
            if mail[0] in _MESSAGES:
                self.bury(mail, "the actor has stopped")
            elif mail[0] == WATCH and mail[2] is not None:
                life.watchers[mail[2]] = None
        for mail in waiting[end:]:
            self._boxes.put(address, mail)
        self._leave(life)
        for child in life.children:
            sent.append((child, (STOP, None, ref, None, None)))
        for watcher in life.watchers:
            sent.append((watcher, (SIGNAL, Terminated(ref), ref, None, None)))
        self._forget_tasks(address, life)
        self._state.alarms.set(address, None)
        self._state.discard(address)

    def _leave(self, life: Life) -> None:
        """Have the parent of the actor whose turn it is forget it.

        Before it hears of its end: it may answer that by another child of the same key.
        """
        parent, life.parent = life.parent, None
        if parent is not None:
            self._ctx.sent.append((parent, (UNSPAWN, None, self._ctx.self, None, None)))

    def _forget_tasks(self, address: Any, life: Life) -> None:
        for number in life.tasks:
            self._state.end_task(address, number)
        life.tasks.clear()

    def bury(self, mail: Mail, reason: str, tries: int = 0) -> None:
        """Make a dead letter of a mail of the actor whose turn it is."""
        self._boxes.dead.append(dead_message(self._ctx.self, mail, reason, tries))

    def _error(self, ref: Ref, message: Any, why: str) -> EngineRuntimeError:
        msg = f"step {self._step_id!r} failed for {ref!r} on {shortened(message)}: {why}"
        return EngineRuntimeError(
            msg, step_id=self._step_id, key=ref, record=message, has_record=True
        )


def _too_many(directive: Resume | Restart, life: Life, now_s: float) -> bool:
    """Note a failure; whether the actor has failed more often than it may."""
    if directive.max is None:
        return False
    since_s = now_s - directive.within.total_seconds()
    life.failures = [at_s for at_s in life.failures if at_s > since_s]
    if len(life.failures) >= directive.max:
        return True
    life.failures.append(now_s)
    return False


def _limit_of(directive: Resume | Restart) -> str:
    times = "once" if directive.max == 1 else f"{directive.max} times"
    return f"it has failed {times} before within {directive.within}, which is the limit"
