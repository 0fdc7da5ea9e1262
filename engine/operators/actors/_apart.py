"""A handler that runs in another process: what is sent there, and what comes back.

The state, what else the handler may look at, and the message go as one pickle. A pool would make it
later, on a thread of its own.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from engine.operators.actors._actor import Actor
from engine.operators.actors._context import Context
from engine.operators.actors._handling import handle
from engine.operators.actors._life import Life
from engine.operators.actors._mail import Mail
from engine.operators.actors._ref import Ref
from engine.operators.actors._requests import TaskRequest
from engine.operators.tasks._shipping import shipped


class Outcome(NamedTuple):
    """What a handler did."""

    values: dict[str, Any]
    """The fields of the state."""
    life: Life | None
    """What the actor has besides, if that was changed."""
    emitted: list[Any]
    sent: list[tuple[Ref, Mail]]
    requests: list[tuple[int, TaskRequest]]
    stopped: bool
    stashed: bool
    unstashed: bool
    unhandled: str | None
    """Why nobody has handled the message, if that is so."""


def parcel_of(key: Any, actor: Actor, mail: Mail, now_s: float) -> bytes:
    """What a process needs to handle a mail.

    Args:
        key: The actor's.
        actor: As it is before.
        mail: What it is to handle.
        now_s: The time, for the handler.
    """
    return pickle.dumps((key, now_s, mail, actor.state.__dict__, actor.life), 5)


class HandledApart:
    """Handles parcels: the function of the processes of a class.

    Args:
        cls: The class.
    """

    def __init__(self, cls: type[Actor]) -> None:
        # Processes must find the user's module, and messages name the class.
        self.__module__, self.__qualname__ = cls.__module__, cls.__qualname__
        self._cls = cls

    def __call__(self, parcel: bytes) -> Outcome:
        """Handle one."""
        key, now_s, mail, values, life = pickle.loads(parcel)  # noqa: S301 - of `parcel_of`
        actor, emitted = self._cls.blueprint.new(), list[Any]()
        actor.state.__dict__.update(values)
        actor.life = life
        ctx = Context(emitted.append)
        ctx.actor, ctx.name, ctx.key = actor, actor.blueprint.name, key
        ctx.now_s, ctx.mail = now_s, mail
        unhandled = handle(actor, ctx, mail)
        changed = None if ctx.before is None else actor.life
        flags = ctx.stopped, ctx.stashed, ctx.unstashed
        values = actor.state.__dict__
        return Outcome(values, changed, emitted, ctx.sent, ctx.requests, *flags, unhandled)


def check_dedicated(cls: type[Actor], step_id: str) -> None:
    """See, as the flow is built, that other processes can have a class whose handlers run there.

    Raises:
        TypeError: They can't import it.
    """
    if cls.dedicated is not None:
        shipped(HandledApart(cls), step_id)
