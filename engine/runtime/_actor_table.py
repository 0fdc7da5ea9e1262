"""The actors of one step on one worker: whose turn it is, and what comes of a handler.

A table does nothing by itself: it is given messages and the time, and fills lists with what actors
emit, with dead letters, and with what is for actors of other workers.

A handler is a transaction. Before it the state is copied, what it emits and sends is noted in
lists; when it raises the copy is put back and the lists are cut to where they were. What it has
sent is delivered once it has returned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from engine.errors import EngineRuntimeError, InconsistentPartitionsError
from engine.operators._keys import check_key, key_and_value
from engine.operators.actors import (
    Actor,
    Context,
    Passivating,
    Ref,
    Restored,
    Retry,
    Started,
)
from engine.operators.actors._actor import Blueprint
from engine.operators.actors._apart import Outcome, parcel_of
from engine.operators.actors._fixed import SCALARS, is_fixed
from engine.operators.actors._handling import OF_USERS, handle
from engine.operators.actors._image import Image
from engine.operators.actors._life import FIRED_S, Life
from engine.operators.actors._mail import (
    FAILED,
    REPLY,
    RESULT,
    SIGNAL,
    SPAWN,
    STOP,
    TASK,
    TELL,
    TIMEOUT,
    UNSPAWN,
    Mail,
    packed,
)
from engine.operators.actors._requests import TaskRequest
from engine.runtime._actor_calls import End, Order, Parcel, portable
from engine.runtime._actor_state import ActorForm, ActorState
from engine.runtime._mailboxes import Mailboxes
from engine.runtime._supervisor import Supervisor
from engine.runtime._turn_watch import TurnWatch

SENT_MAX: Final = 250
"""So many messages that actors have sent are delivered at a time: cheaper than one by one."""
_TO_THE_LIVING: Final = (SIGNAL, STOP, UNSPAWN, REPLY, TIMEOUT, RESULT, FAILED)
"""What doesn't bring an actor to life that isn't there."""
_LOOK_AGAIN_S: Final = 0.05
"""When timers are looked at again of an actor whose handler runs apart."""


class ActorTable:
    """The actors of one step on one worker.

    Args:
        classes: Theirs; the first one has plain keys for addresses.
        step_id: The step, for errors.
        chance: Gives random numbers from 0 to 1.
        elsewhere: Gives the worker that an actor of a key lives on, if it isn't this one.
    """

    def __init__(
        self,
        classes: Sequence[type[Actor]],
        step_id: str,
        chance: Callable[[], float],
        elsewhere: Callable[[Any], int | None] | None = None,
    ) -> None:
        self._blueprints = {cls.__name__: cls.blueprint for cls in classes}
        self._first = classes[0].__name__
        self.form = ActorForm(self._blueprints)
        self.state = ActorState(self.form, self._first, step_id)
        self.out: list[Any] = []
        """What actors have emitted."""
        self.log: dict[Any, bytes] = {}
        """What came from other workers and is of the epoch before: rows by their keys."""
        self.orders: list[Order] = []
        """Calls to be made apart from the actors."""
        self.step_id = step_id
        self._apart: set[Any] = set()
        """Addresses of actors with a handler that runs apart."""
        self._ctx = Context(self.out.append)
        self.boxes = Mailboxes(self.state, (self._first, self._blueprints), elsewhere)
        """What waits."""
        self.supervisor = Supervisor(step_id, self.state, self.boxes, self._ctx, chance)
        """Sees to failed actors, and counts them."""
        self.handled = 0
        """Messages that wait no more, counted."""
        self._watch: TurnWatch | None = None
        """Only after a death of a worker."""
        self._closed = False

    def watch_turns(self, watch: TurnWatch) -> None:
        """Have messages written down before they are handled, for some epochs."""
        self._watch = watch

    @property
    def at_work(self) -> Ref:
        """Whose turn it is, or was last; asked on any thread."""
        return Ref(self._ctx.name, self._ctx.key)

    # What comes in

    def admit(self, batch: list[Any]) -> None:
        """Put the records of a batch into the mailboxes of their actors."""
        for record in batch:
            key, message = key_and_value(record)
            if message.__class__ not in SCALARS:
                message = packed(message)
            self.boxes.tell(self._checked_address(key), message)

    def admit_mails(self, batch: list[tuple[Ref, Mail]], *, logged: bool) -> None:
        """Take what actors of another worker have sent.

        Args:
            batch: Mails, each with the actor that it is for.
            logged: It is of the epoch before, which isn't prepared yet: it belongs to what that one
                has to save.
        """
        for ref, mail in batch:
            address = self.boxes.address(ref)
            if logged:
                mail, key = self.state.row_of(address, mail)  # noqa: PLW2901
                self.log[key] = self.state.encoded(address, [mail])
            self.boxes.put(address, mail)

    def restore(self, keys: Iterable[Any]) -> None:
        """Go on with mails and tasks that an earlier run has saved, in rows with these keys."""
        self.boxes.restore(keys)
        for (address, number), mail in self.state.requests.items():
            self.orders.append(Order(address, number, mail[1]))

    def _checked_address(self, key: Any) -> Any:
        if key.__class__ is Ref:
            if key.actor not in self._blueprints:
                there = ", ".join(self._blueprints)
                msg = f"step {self.step_id!r}: it has no class {key.actor!r}; it has {there}"
                raise EngineRuntimeError(msg, step_id=self.step_id, key=key)
            return self.boxes.address(key)
        if key.__class__ is not str:
            check_key(key)
        return key

    # When there is something to do

    def next_due_s(self) -> float:
        """When `wake` has something to do, by the wall clock."""
        rested_s = self.boxes.rested_s
        if self._closed:
            return rested_s
        timer_s, idle = self.state.alarms.first_s(), self.state.idle
        if idle:
            rested_s = min(rested_s, idle.first_s())
        return rested_s if timer_s is None else min(rested_s, timer_s)

    def wake(self, now_s: float) -> None:
        """Have the messages come whose time has come."""
        self._ctx.now_s = now_s
        self.boxes.wake(now_s)
        if self._closed:
            return
        for _, address in self.state.alarms.pop_due(now_s):
            if address in self._apart:
                # The handler has the timers as they were, and may set or cancel them.
                self.state.alarms.set(address, now_s + _LOOK_AGAIN_S)
                continue
            actor = self.state.get(address)
            if actor is not None and actor.life is not None:
                self._fire(address, actor.life, now_s)
        if self.state.idle:
            for name, address in self.state.idle.pop_due(now_s):
                self._put_away(name, address)

    def _put_away(self, name: str, address: Any) -> None:
        """Have an actor leave memory that nothing waits for; if it wants to, it is told before."""
        if address in self.state.mail or not self.state.knows(address):
            return
        if self._blueprints[name].hears_signals:
            self.boxes.put(address, (SIGNAL, Passivating(), None, None, None))
        else:
            self.state.release(address)

    def close(self, now_s: float) -> None:
        """All input has ended: timers that are due later are for a later run."""
        self.wake(now_s)
        self._closed = True

    def _fire(self, address: Any, life: Life, now_s: float) -> None:
        due = [(at_s, name) for name, (at_s, _) in life.timers.items() if at_s <= now_s]
        for _, name in sorted(due):
            _, message = life.timers.pop(name)
            self.boxes.tell(address, message)
        for number, (reply, late, at_s, asked) in life.asks.items():
            if at_s <= now_s:
                life.asks[number] = reply, late, FIRED_S, asked
                self.boxes.put(address, (TIMEOUT, None, None, number, None))
        self.state.alarms.set(address, life.due_s())

    # Handlers

    def take(self, batch: list[Any], now_s: float) -> None:
        """Have actors handle records at once, as long as nothing waits for them already.

        The same as `admit` and `run`, for the frequent case of actors of the first class that are
        nothing but their state; the others' records are admitted.
        """
        if self._watch is not None:
            self.admit(batch)
            return
        ctx, out, boxes, touched = self._ctx, self.out, self.boxes, self.state.touched
        mail = self.state.mail
        blueprint = self._blueprints[self._first]
        if blueprint.dedicated is not None or blueprint.passivate_s is not None:
            self.admit(batch)
            return
        handlers, take_image = blueprint.handlers, blueprint.images.take
        keeps = isinstance(blueprint.supervise, Retry)
        sent, slow, plain = ctx.sent, list[Any](), not blueprint.hears_signals
        ctx.now_s, ctx.mail = now_s, None
        ctx.name = self._first
        self.handled += len(batch)
        for record in batch:
            key, message = record if record.__class__ is tuple else key_and_value(record)
            actor = touched.get(key) if key.__class__ is str else None
            if actor is None and plain and key.__class__ is str:
                actor = self._at_hand(key, blueprint)
            handler = handlers.get(message.__class__)
            if (
                actor is None
                or handler is None
                or actor.life is not None
                or (mail and key in mail)
                or (keeps and not is_fixed(message))
            ):
                slow.append(record)
                self.admit(slow)
                slow.clear()
                self.handled -= 1
                continue
            state, emitted = actor.state, len(out)
            before = take_image(state)
            ctx.actor, ctx.key = actor, key
            try:
                handler(actor, ctx, message)
            except Exception as ex:  # noqa: BLE001 - whatever a user's handler raises
                del out[emitted:]
                sent.clear()
                self._roll_back(actor, state, before)
                boxes.pending += 1
                done = self.supervisor.failed(key, actor, [_mail_of(message)], 0, ex)
                over = 1 if done is None else done
                boxes.pending -= over
                self.handled -= 1 - over
            else:
                if actor.life is not None:
                    boxes.pending += 1
                    self._settled(key, actor, [_mail_of(message)], 0)
                    boxes.pending -= 1
            if sent:
                self.boxes.deliver(sent)
                sent.clear()

    def _at_hand(self, key: str, blueprint: Blueprint) -> Actor:
        """The actor of a key, read or made."""
        actor: Actor | None = self.state.get(key)
        if actor is None:
            actor = blueprint.new()
            self.state.put(key, actor)
        return actor

    def run(self, now_s: float, most: int) -> None:
        """Let actors work on what waits, in turn, on about so many messages at most.

        What they send is delivered when all have had their turn.
        """
        ctx, boxes, touched, restored = (
            self._ctx,
            self.boxes,
            self.state.touched,
            self.form.restored,
        )
        ctx.now_s, sent, watched = now_s, ctx.sent, bool(self.state.idle)
        watch = self._watch
        if watch is not None and watch.is_over(self.state.epochs):
            watch = self._watch = None
        while most > 0:
            turn = boxes.next_turn() if len(sent) < SENT_MAX else None
            if turn is None:
                if not sent:
                    return
                boxes.deliver(sent)
                sent.clear()
                continue
            address, mails = turn
            most -= len(mails)
            actor = touched.get(address)
            if actor is None or restored:
                boxes.pending -= len(mails)
                actor = self._found(address, mails)
                boxes.pending += len(mails)
                if actor is None:
                    continue
            blueprint = actor.blueprint
            ctx.actor, ctx.name = actor, blueprint.name
            ctx.key = address[0] if address.__class__ is Ref else address
            handle_all = self._handle if blueprint.dedicated is None else self._handle_apart
            handled = handle_all(address, actor, mails)
            if watch is not None:
                watch.leave()
            boxes.pending -= handled
            self.handled += handled
            if watched:
                self._used(address, actor, mails)
        boxes.deliver(sent)
        sent.clear()

    def _used(self, address: Any, actor: Actor, mails: list[Mail]) -> None:
        """Note that an actor has worked, or have it leave memory if it was told that it does."""
        state, name = self.state, actor.blueprint.name
        if address not in state.touched:
            # It has stopped.
            state.idle.forget(name, address)
        elif mails[-1][1].__class__ is Passivating and address not in state.mail:
            self.form.restored.add(address)
            state.idle.forget(name, address)
            state.release(address)
        else:
            state.released.pop(address, None)
            state.idle.use(name, address, self._ctx.now_s)

    def _found(self, address: Any, mails: list[Mail]) -> Actor | None:
        """The actor of an address, made if there is none; with its first signal, if it wants any.

        None if all there is to do is to end what isn't there.
        """
        actor: Actor | None = self.state.get(address)
        if actor is None:
            if all(mail[0] in _TO_THE_LIVING for mail in mails):
                for mail in mails:
                    if mail[4] is not None:
                        self.state.drop_row(address, mail[4])
                mails.clear()
                return None
            name = address[2] if address.__class__ is Ref else self._first
            if name not in self._blueprints:
                msg = (
                    f"the store has messages for actors of class {name!r}, and the step has no "
                    f"such class; it has {', '.join(self._blueprints)}"
                )
                raise InconsistentPartitionsError(msg)
            actor = self._blueprints[name].new()
            self.state.put(address, actor)
            if actor.blueprint.hears_signals:
                # Whom a failure of it would be told comes first.
                at = 1 if mails[0][0] == SPAWN else 0
                mails.insert(at, (SIGNAL, Started(), None, None, None))
        elif address in self.form.restored:
            self.form.restored.discard(address)
            mails.insert(0, (SIGNAL, Restored(), None, None, None))
        return actor

    def _handle(self, address: Any, actor: Actor, mails: list[Mail]) -> int:
        """Have an actor handle messages one by one; gives how many of them wait no more."""
        ctx, out, blueprint = self._ctx, self.out, actor.blueprint
        sent, handlers, take_image = ctx.sent, blueprint.handlers, blueprint.images.take
        watched, at = self._watch is not None, -1
        for mail in mails:
            at += 1
            kind, message, _, _, number = mail
            state = actor.state
            before = take_image(state)
            emitted, told = len(out), len(sent)
            ctx.mail = mail
            try:
                plain = kind == TELL and actor.life is None and not watched
                handler = handlers.get(message.__class__) if plain else None
                if handler is None:
                    self._handle_other(actor, mail)
                else:
                    handler(actor, ctx, message)
            except Exception as ex:  # noqa: BLE001 - whatever a user's handler raises
                del out[emitted:], sent[told:]
                self._roll_back(actor, state, before)
                done = self.supervisor.failed(address, actor, mails, at, ex)
                if done is not None:
                    return done
                continue
            if number is not None:
                self.state.drop_row(address, number)
            if actor.life is not None:
                done = self._settled(address, actor, mails, at)
                if done is not None:
                    return done
        return len(mails)

    def _handle_other(self, actor: Actor, mail: Mail) -> None:
        """Handle whatever isn't a plain message to an actor that is nothing but its state."""
        if self._watch is not None:
            self._watch.enter(self._ctx.self, mail, actor.blueprint.deaths_max)
        unhandled = handle(actor, self._ctx, mail)
        if unhandled is not None:
            self.supervisor.bury(mail, unhandled)

    def _roll_back(self, actor: Actor, state: Any, before: Image) -> None:
        """Have the actor be as it was before the present message."""
        ctx = self._ctx
        actor.state = state
        actor.blueprint.images.put_back(state, before)
        if ctx.before is not None:
            actor.life, ctx.before = ctx.before, None
        ctx.stashed = ctx.stopped = ctx.unstashed = False
        ctx.requests.clear()

    def _settled(self, address: Any, actor: Actor, mails: list[Mail], at: int) -> int | None:
        """A handler has returned: see what it did to what the actor has besides its state.

        Returns:
            How many of the messages wait no more, if it is others' turn; None to go on.
        """
        ctx = self._ctx
        life: Life = actor.life
        life.tries = 0
        if ctx.before is None:
            return None
        ctx.before = None
        if ctx.stopped:
            ctx.stopped = ctx.stashed = ctx.unstashed = False
            ctx.requests.clear()
            self.supervisor.stop(address, actor, mails, at)
            return len(mails)
        self.state.alarms.set(address, life.due_s())
        if ctx.requests:
            self._begin_tasks(address)
        stash: list[Mail] = []
        if ctx.unstashed:
            ctx.unstashed, stash, life.stash = False, life.stash, []
        if ctx.stashed:
            ctx.stashed = False
            life.stash.append((*mails[at][:4], None))
        if not stash:
            return None
        self.boxes.put_in_front(address, stash, mails[at + 1 :])
        return at + 1

    # What runs apart from the actors

    def _begin_tasks(self, address: Any) -> None:
        """The actor whose turn it is has asked for tasks, and its handler has returned."""
        for number, request in self._ctx.requests:
            self.state.requests[address, number] = TASK, request, None, number, None
            self.orders.append(Order(address, number, request))
        self._ctx.requests.clear()

    def _handle_apart(self, address: Any, actor: Actor, mails: list[Mail]) -> int:
        """Have the first of some messages handled in another process; the others wait for that.

        What isn't for the user's methods is handled here.
        """
        mail = mails[0]
        blueprint = actor.blueprint
        if mail[0] not in OF_USERS or (mail[0] == SIGNAL and not blueprint.hears_signals):
            self.boxes.postpone(address, mails[1:])
            return self._handle(address, actor, mails[:1])
        parcel = Parcel(blueprint.cls, functools.partial(self._pack, address, mail))
        self.orders.append(Order(address, None, parcel))
        self._apart.add(address)
        self.boxes.hold(address, mails)
        return 0

    def _pack(self, address: Any, mail: Mail) -> bytes:
        """What is needed to handle a message elsewhere. Until then nothing changes the actor."""
        key = address[0] if address.__class__ is Ref else address
        return parcel_of(key, self.state.peek(address), mail, self._ctx.now_s)

    def end(self, ended: End, now_s: float) -> None:
        """A call has ended: have what comes of it handled, or be, if it is what a handler did."""
        order = ended.order
        self._ctx.now_s = now_s
        if order.task is None:
            self._end_apart(order.address, ended)
            return
        mail = self.state.requests.get((order.address, order.task))
        if mail is None or mail[1] is not order.work:
            return  # The actor has stopped or was restarted.
        self.state.end_task(order.address, order.task)
        self.boxes.put(order.address, ended.mail())

    def note_try(self, order: Order, work: TaskRequest) -> None:
        """A task has failed and is tried again: a later run must know how often it was."""
        assert order.task is not None  # noqa: S101
        mail = self.state.requests.get((order.address, order.task))
        if mail is not None and mail[1] is order.work:
            self.state.end_task(order.address, order.task)
            self.state.requests[order.address, order.task] = TASK, work, None, order.task, None

    def _end_apart(self, address: Any, ended: End) -> None:
        actor = self.state.get(address)
        # Where memory is short it may have been read again each time that its handler was away.
        self.form.restored.discard(address)
        self._apart.discard(address)
        mail = self.boxes.let_go(address)
        ctx = self._ctx
        ctx.actor, ctx.name, ctx.mail = actor, actor.blueprint.name, mail
        ctx.key = address[0] if address.__class__ is Ref else address
        if ended.error is not None:
            done = self.supervisor.failed(address, actor, [mail], 0, portable(ended.error))
        else:
            done = self._apply(address, actor, mail, ended.result)
        over = 1 if done is None else done
        self.boxes.pending -= over
        self.handled += over
        self.boxes.deliver(ctx.sent)
        ctx.sent.clear()
        if self.state.idle:
            self._used(address, actor, [mail])

    def _apply(self, address: Any, actor: Actor, mail: Mail, outcome: Outcome) -> int | None:
        """Have what a handler did elsewhere count here; gives what `_settled` does."""
        ctx, values = self._ctx, actor.state.__dict__
        values.clear()
        values.update(outcome.values)
        if outcome.life is not None:
            ctx.before, actor.life = actor.life or Life(), outcome.life
        ctx.stopped, ctx.stashed, ctx.unstashed = outcome[5:8]
        ctx.requests += outcome.requests
        ctx.sent += outcome.sent
        self.out += outcome.emitted
        if outcome.unhandled is not None:
            self.supervisor.bury(mail, outcome.unhandled)
        if mail[4] is not None:
            self.state.drop_row(address, mail[4])
        return None if actor.life is None else self._settled(address, actor, [mail], 0)


def _mail_of(message: Any) -> Mail:
    """The mail of a record's message."""
    return TELL, packed(message), None, None, None
