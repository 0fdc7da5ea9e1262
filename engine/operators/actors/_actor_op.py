"""`actor`: a step whose records are messages to actors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.operators.actors._actor import Actor
from engine.operators.actors._apart import check_dedicated
from engine.operators.actors._ref import Ref


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message that no actor has handled."""

    ref: Ref
    """Whom it was for."""
    message: Any
    sender: Ref | None
    """Who sent it; None if it came by the stream."""
    reason: str
    tries: int = 0
    """How often a handler has raised for it."""


@dataclass(frozen=True, slots=True)
class ActorOut:
    """The streams of an `actor` step."""

    out: Stream[Any]
    """What actors have emitted."""
    dead_letters: Stream[DeadMessage]
    """Messages that no actor has handled."""


@dataclass(frozen=True, slots=True)
class ActorKernel:
    """A step with actors."""

    classes: tuple[type[Actor], ...]
    """The first one takes what is sent to plain keys."""
    state_options: StateOptions = DEFAULT_STATE


def _kernel(step: Operator, _workers: int) -> ActorKernel:
    return ActorKernel(step.params["classes"])


@operator(core=True, kernel=_kernel)
def actor(step_id: str, commands: Stream[Any], *classes: type[Actor]) -> ActorOut:
    """Give each record to the actor with its key.

    Records are pairs of a key and a message. They go to the actor of the first class with that key,
    or with ``(Cls.ref(key), message)`` to one of the class `Cls`. An actor lives on the worker that
    owns its key. There is one from its first message on; nobody has to make it.

    **Order.** Messages of one sender to one receiver come in the order they were sent; so do
    records of one key. Handlers of one actor run one at a time.

    **After a crash.** Actors, what lies in their mailboxes, timers and asks are saved with each
    epoch of the job: each message is handled once, as far as anybody can see.

    **End of input.** The step ends when all messages are handled, on all workers. Timers and
    timeouts that are due later are saved, and come in a later run.

    Args:
        step_id: Unique name of the step in its scope.
        commands: Pairs of a key and a message.
        *classes: The classes of the actors, which can send messages to each other.

    Returns:
        The streams `out`, of what actors have emitted, and `dead_letters`, of `DeadMessage`. If
        that one isn't read, a message that nobody handles ends the run.

    Raises:
        TypeError: There is no class, or one of them is no `Actor`.
        ValueError: Two classes go by one name.

    >>> from dataclasses import dataclass
    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.operators.actors import Actor, handles
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> class Account(Actor):
    ...     @dataclass
    ...     class State:
    ...         balance: int = 0
    ...
    ...     @handles(int)
    ...     def deposit(self, ctx, amount: int):
    ...         self.state.balance += amount
    ...         ctx.emit((ctx.key, self.state.balance))
    >>> flow, out = Dataflow("doc"), []
    >>> commands = op.input("in", flow, TestingSource([("ann", 20), ("bob", 5), ("ann", 30)]))
    >>> accounts = op.actor("accounts", commands, Account)
    >>> op.output("out", accounts.out, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('ann', 20), ('bob', 5), ('ann', 50)]
    """
    if not classes:
        msg = f"step {step_id!r} needs a class of actors"
        raise TypeError(msg)
    for cls in classes:
        if not isinstance(cls, type) or not issubclass(cls, Actor) or cls is Actor:
            msg = f"the classes of step {step_id!r} must be derived from `Actor`; got {cls!r}"
            raise TypeError(msg)
        check_dedicated(cls, step_id)
    if len({cls.__name__ for cls in classes}) < len(classes):
        msg = f"the classes of step {step_id!r} must have different names"
        raise ValueError(msg)
    return ActorOut(
        new_stream(step_id, commands, "out"), new_stream(step_id, commands, "dead_letters")
    )
