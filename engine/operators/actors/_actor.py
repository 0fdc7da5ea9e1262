"""`Actor`: the base of users' actors, and `handles`, which says what a method is for.

What a class handles is worked out once, when the class is made (`Blueprint`), and mistakes are
errors there and then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar, get_type_hints

from engine.dataflow import f_repr
from engine.errors import EngineRuntimeError
from engine.operators._keys import Key, check_key
from engine.operators._shown import shortened
from engine.operators._state_options import VERSION_MAX
from engine.operators.actors._context import Context
from engine.operators.actors._dedicated import Dedicated
from engine.operators.actors._image import Images
from engine.operators.actors._ref import Ref, new_ref
from engine.operators.actors._shared import shared_methods
from engine.operators.actors._signals import ChildFailed, Signal
from engine.operators.actors._supervision import Directive, Escalate, Retry

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__engine_handles__"
DEATHS_MAX = Retry().deaths
"""How often a message may end the worker's process, unless its class says otherwise."""


def handles(kind: type[Any]) -> Callable[[F], F]:
    """Mark a method as the handler of messages of a class, and of those derived from it.

    The handler of the nearest class counts. That of `object` takes whatever no other one takes.

    Args:
        kind: The class of the messages.

    Raises:
        TypeError: `kind` is no class.
    """
    if not isinstance(kind, type):
        msg = f"`handles` takes the class of the messages; got {kind!r}"
        raise TypeError(msg)

    def mark(function: F) -> F:
        setattr(function, _MARK, kind)
        return function

    return mark


@dataclass
class _NoState:
    """Nothing to remember."""


class Actor:
    """The base of actors: objects with a state of their own, reached by messages to their key.

    A class says in `State` what an actor remembers, a dataclass whose fields all have defaults, and
    marks its handlers by `handles`. Each is called with a `Context` and a message. A handler is a
    transaction: all that it does to `self.state` and by the context counts when it returns, and
    none of it when it raises. What becomes of the actor then, `supervise` says.

    There is one handler at a time per actor. Nothing but `self.state` is kept.

    >>> from dataclasses import dataclass
    >>> from engine.operators.actors import Actor, Context, handles
    >>> @dataclass(frozen=True)
    ... class Deposit:
    ...     amount: int
    >>> class Account(Actor):
    ...     @dataclass
    ...     class State:
    ...         balance: int = 0
    ...
    ...     @handles(Deposit)
    ...     def deposit(self, ctx: Context, msg: Deposit) -> None:
    ...         self.state.balance += msg.amount
    ...         ctx.emit((ctx.key, self.state.balance))
    >>> Account.ref("ann")
    Account.ref('ann')
    """

    State: ClassVar[type[Any]] = _NoState
    """What an actor remembers; nothing by default."""
    supervise: ClassVar[Directive] = Escalate()
    """What to do when a handler has raised. By default the run fails."""
    passivate: ClassVar[timedelta | None] = None
    """After how long without a message an actor is put away: it gets `Passivating`, and then leaves
    memory, if the job has a store to find it in. By default only the bound of memory does that."""
    dedicated: ClassVar[Dedicated | None] = None
    """Set by `dedicated`, for classes whose handlers run in processes of their own."""
    version: ClassVar[int] = 1
    """Of the form that `State` has, from 1 to 65,535: one more whenever `migrate` is needed."""
    blueprint: ClassVar[Blueprint]
    """What the engine knows of the class."""

    __slots__ = ("life", "self_ref", "state")

    state: Any
    """What the actor remembers: an object of its `State`."""
    life: Any
    """The engine's; None for most."""
    self_ref: Ref | None
    """The engine's: where it is reached; None until somebody wants to know."""

    def __init_subclass__(cls) -> None:
        """Look at the handlers and at the state.

        Raises:
            TypeError: One of them isn't as it must be.
            ValueError: `version` is out of range.
        """
        super().__init_subclass__()
        cls.blueprint = Blueprint(cls)

    @classmethod
    def ref(cls, key: Key) -> Ref:
        """The address of the actor of this class with a key.

        Raises:
            UserCodeError: It is no key.
        """
        if key.__class__ is not str:
            check_key(key)
        return new_ref(Ref, (key, None, cls.__name__))

    @staticmethod
    def migrate(version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Bring the fields of a state that was saved in an older `version` to the present one.

        Called when an actor is read, so it must know all versions that may be left. A class whose
        `version` is above 1 needs one of its own.

        Args:
            version: In which they were saved.
            fields: What was saved, by the names of the fields.

        Returns:
            Fields of the present `State`; those that aren't in it have their defaults.
        """
        del version
        return fields

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        """Take what the engine tells the actor; a transaction like a handler.

        Unless a class has its own, a child's failure is one of the actor itself, so its own
        `supervise` says what to do; all else is passed over.

        Raises:
            EngineRuntimeError: A child has failed.
        """
        if isinstance(signal, ChildFailed):
            msg = f"its child {signal.ref!r} failed on {shortened(signal.message)}: {signal.error}"
            raise EngineRuntimeError(msg, key=ctx.self)


class Blueprint:
    """What the engine knows of a class of actors.

    Args:
        cls: The class.

    Raises:
        TypeError: Something isn't as it must be.
        ValueError: The version is out of range.
    """

    def __init__(self, cls: type[Actor]) -> None:
        self.name = cls.__name__
        self.cls = cls
        self.supervise = cls.supervise
        self.passivate_s = _passivate_s(cls)
        """After how many seconds without a message an actor is put away; None for never."""
        self.dedicated = cls.dedicated
        self.deaths_max = cls.supervise.deaths if isinstance(cls.supervise, Retry) else DEATHS_MAX
        self.hears_signals = cls.on_signal is not Actor.on_signal
        self.handlers: dict[type, Callable[..., Any] | None] = {}
        """By class of message, those derived from a handled one are added as they are met."""
        self._known: dict[type, Callable[..., Any]] = {}
        _check_state(cls)
        self.version = cls.version
        self.migrate = None if cls.migrate is Actor.migrate else cls.migrate
        """The user's, if there is one."""
        self.new_state: Callable[[], Any] = cls.State
        self.images = Images(cls.State)
        self.field_names = ",".join(self.images.names)
        for base in reversed(cls.__mro__):
            for function in vars(base).values():
                kind = getattr(function, _MARK, None)
                if kind is not None:
                    _check_handler(cls, function, kind)
                    self._known[kind] = getattr(cls, function.__name__)
        self.handlers.update(self._known)
        self.shared = shared_methods(cls)
        """What can be asked from outside, by name."""

    def find(self, kind: type) -> Callable[..., Any] | None:
        """The handler for messages of a class that wasn't met yet; None if there is none."""
        found = next((self._known[base] for base in kind.__mro__ if base in self._known), None)
        self.handlers[kind] = found
        return found

    def new(self) -> Actor:
        """An actor with a fresh state."""
        actor = self.cls()
        actor.state, actor.life, actor.self_ref = self.new_state(), None, None
        return actor


def _passivate_s(cls: type[Actor]) -> float | None:
    after: object = cls.passivate
    if after is None:
        return None
    if not isinstance(after, timedelta) or after <= timedelta(0):
        msg = f"`{cls.__qualname__}.passivate` must be a positive timedelta or None; got {after!r}"
        raise TypeError(msg)
    return after.total_seconds()


def _check_state(cls: type[Actor]) -> None:
    state = cls.State
    where = f"`{cls.__qualname__}.State`"
    if not is_dataclass(state):
        msg = f"{where} must be a dataclass"
        raise TypeError(msg)
    if "__slots__" in vars(state):
        msg = f"{where} must be a dataclass without slots"
        raise TypeError(msg)
    for field in fields(state):
        if field.default is MISSING and field.default_factory is MISSING:
            msg = (
                f"all fields of {where} must have defaults, because an actor begins with them; "
                f"{field.name!r} has none"
            )
            raise TypeError(msg)
    version: object = cls.version
    if not isinstance(version, int) or isinstance(version, bool):
        msg = f"`{cls.__qualname__}.version` must be an `int`; got {version!r}"
        raise TypeError(msg)
    if not 1 <= version <= VERSION_MAX:
        msg = f"`{cls.__qualname__}.version` must be between 1 and {VERSION_MAX}; got {version!r}"
        raise ValueError(msg)


def _check_handler(cls: type[Actor], function: Callable[..., Any], kind: type) -> None:
    """See that a handler takes what it is marked for, as far as its annotations say."""
    if inspect.iscoroutinefunction(function):
        msg = f"handler {f_repr(function)} of `{cls.__qualname__}` must not be `async def`"
        raise TypeError(msg)
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) != 3:
        msg = f"handler {f_repr(function)} must take `self`, `ctx` and a message"
        raise TypeError(msg)
    try:
        said = get_type_hints(function).get(parameters[2], Any)
    except Exception:  # noqa: BLE001 - a name that only type checkers know, in whatever way
        return
    if said is not Any and isinstance(said, type) and not issubclass(kind, said):
        msg = (
            f"handler {f_repr(function)} is marked as handling `{kind.__name__}`, and its "
            f"parameter {parameters[2]!r} is annotated as `{said.__name__}`"
        )
        raise TypeError(msg)
