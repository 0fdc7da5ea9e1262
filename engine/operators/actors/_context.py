"""`Context`: what a handler does besides changing its actor's state.

A context does nothing by itself. It notes what a handler wants; the table of actors
(`engine.runtime`) has it done once the handler has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, Protocol, Unpack

from engine.errors import UserCodeError
from engine.operators._keys import Key
from engine.operators._shown import shown
from engine.operators.actors._fixed import CHECKS, SCALARS
from engine.operators.actors._life import Life
from engine.operators.actors._mail import ASK, REPLY, SPAWN, TELL, WATCH, Mail, packed
from engine.operators.actors._ref import Ref, new_ref
from engine.operators.actors._requests import TaskOptions, TaskRequest, request_of
from engine.operators.tasks import TaskError

_ASKS_OF_A_LIFE: Final = 2**20
"""So many numbers for asks are set aside for each actor that makes some."""


class Addressable(Protocol):
    """A class of actors."""

    def ref(self, key: Key) -> Ref:
        """The address of the one with a key."""
        ...


class Context:
    """What a handler can do and know: the second argument of each.

    All of it happens when the handler returns, and none of it if it raises. There is one object for
    all handlers, so it must not be kept.
    """

    __slots__ = (
        "_lives",
        "actor",
        "before",
        "emit",
        "key",
        "mail",
        "name",
        "now_s",
        "requests",
        "sent",
        "stashed",
        "stopped",
        "unstashed",
    )

    actor: Any
    """The actor whose turn it is."""
    name: str
    """The name of its class."""
    key: Any
    """The key of the actor."""
    emit: Callable[[Any], None]
    """Call it with a record: it goes to the step's stream `out`."""

    def __init__(self, emit: Callable[[Any], None]) -> None:
        self.emit = emit
        self.sent: list[tuple[Ref, Mail]] = []
        self.requests: list[tuple[int, TaskRequest]] = []
        """Tasks that the actor has asked for, by number."""
        self.mail: Mail | None = None
        self.before: Life | None = None
        """What the actor had besides its state before the transaction, if that was changed."""
        self.stashed = self.stopped = self.unstashed = False
        self.now_s = 0.0
        self._lives = 0

    @property
    def self(self) -> Ref:
        """The address of the actor."""
        own: Ref | None = self.actor.self_ref
        if own is None:
            own = self.actor.self_ref = new_ref(Ref, (self.key, None, self.name))
        return own

    @property
    def sender(self) -> Ref | None:
        """Who sent the message; None if it came by the stream, or from the engine."""
        return None if self.mail is None else self.mail[2]

    @property
    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.fromtimestamp(self.now_s, UTC)

    def life(self) -> Life:
        """What the actor has besides its state, to be changed: the engine's own use."""
        life: Life | None = self.actor.life
        if life is None:
            life = self.actor.life = self.new_life()
            self.before = life.copy()
        elif self.before is None:
            self.before = life.copy()
        return life

    def new_life(self) -> Life:
        """That of an actor which had nothing but its state: the engine's own use.

        Its asks have numbers that none of another actor of the same key has, whose answers may come
        after it has stopped.
        """
        self._lives = max(self._lives + 1, int(self.now_s * 1000))
        return Life(next_ask=self._lives * _ASKS_OF_A_LIFE)

    # Messages

    def tell(self, to: Ref, message: Any) -> None:
        """Send a message. Those from one actor to another one come in the order they were sent.

        Args:
            to: An actor of this step.
            message: Anything that can be pickled. Later changes of it aren't seen.

        Raises:
            UserCodeError: The message can't be pickled, or `to` is no `Ref`.
        """
        if to.__class__ is not Ref:
            refuse(to)
        kind = message.__class__
        if kind not in SCALARS and not CHECKS[kind](message):
            message = packed(message)
        self.sent.append((to, (TELL, message, self.actor.self_ref or self.self, None, None)))

    def ask(
        self,
        to: Ref,
        message: Any,
        *,
        on_reply: Callable[[Context, Any], None],
        timeout: timedelta,
        on_timeout: Callable[[Context, Any], None] | None = None,
    ) -> None:
        """Send a message and have the answer handled. Nothing waits; other messages come between.

        The ask is part of the actor: after a crash its answer is still handled.

        Args:
            to: An actor of this step.
            message: As in `tell`.
            on_reply: A method of the actor, which is called with the context and the answer.
            timeout: After this time an answer isn't looked at any more. By the wall clock, and
                counted on while the job doesn't run.
            on_timeout: A method that is called then with the context and what was asked.

        Raises:
            UserCodeError: The message can't be pickled, `to` is no `Ref`, the timeout no
                `timedelta`, or a method isn't the actor's.
        """
        if to.__class__ is not Ref:
            refuse(to)
        life = self.life()
        number = life.next_ask
        life.next_ask = number + 1
        asked = packed(message)
        late = None if on_timeout is None else self._name_of(on_timeout)
        due_s = self.now_s + _seconds(timeout, "timeout")
        life.asks[number] = self._name_of(on_reply), late, due_s, asked
        self.sent.append((to, (ASK, asked, self.self, number, None)))

    def reply(self, answer: Any) -> None:
        """Answer the message if it was asked; one that was told has nobody to answer to.

        Raises:
            UserCodeError: It can't be pickled.
        """
        mail = self.mail
        if mail is not None and mail[0] == ASK:
            assert mail[2] is not None  # noqa: S101
            self.sent.append((mail[2], (REPLY, packed(answer), self.self, mail[3], None)))

    # Tasks

    def task(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        on_result: Callable[[Context, Any], None],
        on_error: Callable[[Context, TaskError[Any]], None] | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        """Have a function called apart from the actor, and what it returns handled as a message.

        Nothing waits: other messages come between. It runs as those of
        `engine.operators.tasks.task` do, on the actor's worker; up to 256 at a time of those with
        the same options, and others wait. It is part of the actor: if the job dies before the
        result is saved, the call is made again; tries that had failed still count. What comes of it
        is handled once. A stopped or restarted actor isn't told of it.

        Args:
            fn: A function that can be imported by its name; ``async def`` if it runs on an event
                loop.
            args: Its arguments. They must be picklable.
            on_result: A method of the actor, which is called with the context and the result.
            on_error: One that is called with the context and a `engine.operators.tasks.TaskError`,
                whose `record` is the tuple of the arguments, and whose `exception` is what the last
                try has raised, a `TimeoutError`, or a `WorkerProcessError`. Without it that counts
                as raised by a handler.
            options: `executor`, `timeout` and `retry`, as of `engine.operators.tasks.task`.

        Raises:
            UserCodeError: It can't be called so, or can't be pickled, or a method isn't the
                actor's.
        """
        names = self._name_of(on_result), None if on_error is None else self._name_of(on_error)
        request = request_of(fn, args, options)
        life = self.life()
        number = life.next_ask
        life.next_ask = number + 1
        life.tasks[number] = names
        self.requests.append((number, request))

    def _name_of(self, method: Callable[..., Any]) -> str:
        name = getattr(method, "__name__", "")
        if getattr(method, "__self__", None) is not self.actor or not hasattr(self.actor, name):
            msg = f"it must be a method of the actor itself, such as `self.done`; got {method!r}"
            raise UserCodeError(msg)
        return name

    # Timers

    def timer(self, name: str, after: timedelta, message: Any) -> None:
        """Have a message come after a time, in place of an earlier timer of that name.

        It is saved with the actor. By the wall clock; one whose time has come while the job didn't
        run comes at once.

        Args:
            name: Among the timers of the actor.
            after: How long from now.
            message: As in `tell`.

        Raises:
            UserCodeError: The message can't be pickled, or `after` is no `timedelta`.
        """
        self.life().timers[name] = self.now_s + _seconds(after, "after"), packed(message)

    def cancel(self, name: str) -> None:
        """Forget a timer, if there is one of that name. Its message may lie in the mailbox."""
        self.life().timers.pop(name, None)

    # How messages are handled

    def become(self, method: Callable[[Context, Any], None] | None) -> None:
        """Have a method of the actor take all messages from the next one on.

        Args:
            method: Called with the context and the message. None: the handlers take them again.

        Raises:
            UserCodeError: It isn't the actor's method.
        """
        self.life().behaviour = None if method is None else self._name_of(method)

    def stash(self) -> None:
        """Put the message away until `unstash`."""
        self.life()
        self.stashed = True

    def unstash(self) -> None:
        """Have all that was put away come next, in its order."""
        self.life()
        self.unstashed = True

    # Other actors

    def spawn(self, actor: Addressable, key: Key | None = None) -> Ref:
        """Make an actor that belongs to this one: it ends with it, and its failures come here.

        Args:
            actor: Its class, one of the step's.
            key: Its key. If left out it is made of this one's key and a number that counts up, so
                it is the same if the handler runs again after a crash.

        Returns:
            Its address.

        Raises:
            UserCodeError: It is no key.
        """
        life = self.life()
        if key is None:
            key = (self.key, self.name, life.spawned)
            life.spawned += 1
        ref = actor.ref(key)
        life.children[ref] = None
        self.sent.append((ref, (SPAWN, None, self.self, None, None)))
        return ref

    def watch(self, ref: Ref) -> None:
        """Hear of an actor's end by `Terminated`.

        Raises:
            UserCodeError: It is no `Ref`.
        """
        if ref.__class__ is not Ref:
            refuse(ref)
        self.sent.append((ref, (WATCH, None, self.self, None, None)))

    def stop(self) -> None:
        """End the actor when the handler returns, and its children with it.

        Its state is gone; what lies in its mailbox becomes dead letters. A message that comes later
        finds a fresh actor.
        """
        self.life()
        self.stopped = True


def refuse(to: Any) -> NoReturn:
    """Say what is wrong with something that stands for an actor and is no `Ref`."""
    msg = f"an actor is told by its ref, as `Cls.ref(key)` or `ctx.sender`; got {shown(to)}"
    raise UserCodeError(msg)


def _seconds(length: timedelta, name: str) -> float:
    if not isinstance(length, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance] - users may not check types
        msg = f"`{name}` must be a `timedelta`; got {shown(length)}"
        raise UserCodeError(msg)
    return length.total_seconds()
