"""Which method of an actor takes a mail, and the call of it.

Used by the table of actors, and by processes that run handlers for it.
"""

from __future__ import annotations

from typing import Any, Final

from engine.operators.actors._actor import Actor
from engine.operators.actors._context import Context
from engine.operators.actors._life import FIRED_S
from engine.operators.actors._mail import (
    ASK,
    FAILED,
    REPLY,
    RESULT,
    SIGNAL,
    SPAWN,
    TELL,
    TIMEOUT,
    UNSPAWN,
    WATCH,
    Mail,
    unpacked,
)
from engine.operators.actors._ref import Ref

MESSAGES: Final = (TELL, ASK)
_ANSWERS: Final = (REPLY, TIMEOUT)
_ENDS: Final = (RESULT, FAILED)
OF_USERS: Final = (*MESSAGES, *_ANSWERS, *_ENDS, SIGNAL)
"""What methods of a user's class take."""


def handle(actor: Actor, ctx: Context, mail: Mail) -> str | None:
    """Have an actor take a mail of any kind; if nobody does, gives why that is."""
    kind, message, sender, number, _ = mail
    if kind in MESSAGES:
        behaviour = None if actor.life is None else actor.life.behaviour
        if behaviour is None:
            return _call_handler(actor, ctx, unpacked(message))
        getattr(actor, behaviour)(ctx, unpacked(message))
    elif kind in _ANSWERS:
        assert number is not None  # noqa: S101
        _take_answer(actor, ctx, mail, number)
    elif kind in _ENDS:
        assert number is not None  # noqa: S101
        _take_end(actor, ctx, mail, number)
    elif kind == SIGNAL:
        actor.on_signal(ctx, unpacked(message))
    else:
        assert sender is not None  # noqa: S101
        _take_tie(ctx, kind, sender)
    return None


def _take_tie(ctx: Context, kind: int, sender: Ref) -> None:
    """Note what another actor is to this one, or is no more."""
    life = ctx.life()
    if kind == SPAWN:
        if life.parent not in (None, sender):
            ctx.sent.append((life.parent, (UNSPAWN, None, ctx.self, None, None)))
        life.parent = sender
    elif kind == WATCH:
        life.watchers[sender] = None
    elif kind == UNSPAWN:
        life.children.pop(sender, None)
    elif life.parent == sender:
        # Else it is another's child by now, or nobody's, as one that was made after a stop.
        ctx.stop()


def _call_handler(actor: Actor, ctx: Context, message: Any) -> str | None:
    """Call the handler for a message; if there is none, why that is."""
    blueprint = actor.blueprint
    kind = message.__class__
    handler = blueprint.handlers.get(kind)
    if handler is None and kind not in blueprint.handlers:
        handler = blueprint.find(kind)
    if handler is None:
        return f"{blueprint.name} has no handler for it"
    handler(actor, ctx, message)
    return None


def _take_answer(actor: Actor, ctx: Context, mail: Mail, ask: int) -> None:
    """Handle the answer to an ask, or that there is none. It may be too late, or the second."""
    if actor.life is None or ask not in actor.life.asks:
        return
    life = ctx.life()
    reply, late, _, asked = life.asks.pop(ask)
    if mail[0] == REPLY:
        getattr(actor, reply)(ctx, unpacked(mail[1]))
    elif late is not None:
        getattr(actor, late)(ctx, unpacked(asked))
    if ctx.stashed:
        # It comes again, and is waited for until then.
        life.asks[ask] = reply, late, FIRED_S, asked


def _take_end(actor: Actor, ctx: Context, mail: Mail, task: int) -> None:
    """Handle what a task has come to. The actor may have begun anew since it asked for it."""
    if actor.life is None or task not in actor.life.tasks:
        return
    life = ctx.life()
    on_result, on_error = life.tasks.pop(task)
    value = unpacked(mail[1])
    if mail[0] == RESULT:
        getattr(actor, on_result)(ctx, value)
    elif on_error is None:
        raise value.exception
    else:
        getattr(actor, on_error)(ctx, value)
    if ctx.stashed:
        life.tasks[task] = on_result, on_error
