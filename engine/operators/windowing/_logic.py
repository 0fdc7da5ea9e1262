"""What is done with the values of a window: the base of users' own, and of the engine's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Generic, cast

from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.operators._shown import shown
from engine.operators._types import S, V, W


class WindowLogic(ABC, Generic[V, W, S]):
    """What `window` does in one window of one key. Make a subclass; the builder gives one each.

    What the methods return is emitted as `(key, (window_id, value))`.
    """

    __slots__ = ()

    @abstractmethod
    def on_value(self, value: V) -> Iterable[W]:
        """Called with each value of the window."""

    @abstractmethod
    def on_merge(self, original: Any) -> Iterable[W]:
        """Called when another window became part of this one, with that one's object.

        That is of the same class, and has seen values that this one hasn't; it is dropped then.
        """

    @abstractmethod
    def on_close(self) -> Iterable[W]:
        """Called once, when the window closes; this object is dropped afterwards."""

    @abstractmethod
    def snapshot(self) -> S:
        """The state from which the builder can make an equal object; it must not change later."""


class CountedLogic(WindowLogic[V, W, S]):
    """A logic that needs the order of values of different windows when these become one."""

    __slots__ = ("number",)

    number: int
    """The place in the order of its key's values of the one that `on_value` is called with."""


def number_value(logic: object, number: int) -> None:
    """Tell a logic that counts the place of the value that comes next."""
    if isinstance(logic, CountedLogic):
        cast("CountedLogic[Any, Any, Any]", logic).number = number


def built_logic(builder: Callable[[Any], Any], resume: Any) -> Any:
    """Have a user's builder make the object for a window.

    Raises:
        UserCodeError: What it made is no `WindowLogic`.
    """
    logic: Any = builder(resume)
    if getattr(logic, "on_value", None) is None:
        msg = f"{f_repr(builder)} must return a `WindowLogic`; got {shown(logic)}"
        raise UserCodeError(msg, function=builder, hint="make a subclass of `WindowLogic`")
    return logic


def checked_emits(logic: Any, method: str, emitted: Any) -> Iterable[Any]:
    """What a method of a user's object returned, refused if nothing can be emitted from it.

    Raises:
        UserCodeError: It isn't iterable.
    """
    if not isinstance(emitted, Iterable):
        kind: type[Any] = type(cast("object", logic))
        msg = f"`{kind.__qualname__}.{method}` must return the values to emit; got {shown(emitted)}"
        hint = "return a list, an empty one for nothing"
        raise UserCodeError(msg, function=kind, hint=hint)
    return cast("Iterable[Any]", emitted)
