"""`shared`: methods by which an actor is asked from outside the job.

They are called with a copy of the state that the last durable epoch has saved, by threads that
have nothing to do with the actor's handlers (`engine.runtime._actor_answers`). Parameters come from
the query of a URL, so only those are allowed whose values can be read from a text in one way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_type_hints

from engine.dataflow import f_repr

F = TypeVar("F", bound=Callable[..., Any])
_MARK: Final = "__engine_shared__"
RESERVED: Final = frozenset({"ask", "class", "key"})
"""What the query of a URL says besides a method's parameters."""
_BOOLS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Asked:
    """Which actor a shared method answers for, and as of when: the second argument of each."""

    key: Any
    """The key of the actor."""
    epoch: int
    """The epoch whose state it is: the last that the actor's worker knows to be durable."""


def shared(method: F) -> F:
    """Mark a method of an actor as one that answers questions from outside the job.

    It is called with an `Asked` and gives what can be written as JSON. Where a run has ``--ask``,
    ``GET /actors/<step>/<key>?ask=<method>`` calls it with the state of the last durable epoch.
    What it does to `self.state` has no effect. Further parameters must be by keyword, and `str`,
    `int`, `float` or `bool`; they come from the query.

    Args:
        method: The method.

    >>> from dataclasses import dataclass
    >>> from engine.operators.actors import Actor, Asked, shared
    >>> class Account(Actor):
    ...     @dataclass
    ...     class State:
    ...         cents: int = 0
    ...
    ...     @shared
    ...     def balance(self, asked: Asked, *, digits: int = 2) -> dict[str, object]:
    ...         return {"of": asked.key, "balance": round(self.state.cents / 100, digits)}
    """
    setattr(method, _MARK, True)
    return method


@dataclass(frozen=True, slots=True)
class SharedMethod:
    """A method that can be asked."""

    name: str
    kinds: Mapping[str, Callable[[str], Any]]
    """What makes the value of each parameter of a text, by name."""
    needed: frozenset[str]
    """Parameters without defaults."""

    def arguments(self, said: Mapping[str, str]) -> dict[str, Any]:
        """The values of parameters.

        Args:
            said: Their texts, by name.

        Raises:
            ValueError: One is missing, unknown, or no such value.
        """
        unknown = said.keys() - self.kinds.keys()
        if unknown:
            there = ", ".join(map(repr, self.kinds)) or "none"
            msg = f"{self.name!r} has no parameter {min(unknown)!r}; there is {there}"
            raise ValueError(msg)
        missing = self.needed - said.keys()
        if missing:
            msg = f"{self.name!r} needs the parameter {min(missing)!r}"
            raise ValueError(msg)
        found: dict[str, Any] = {}
        for name, text in said.items():
            kind = self.kinds[name]
            try:
                found[name] = kind(text)
            except ValueError:
                what = "bool, true or false" if kind is _bool_of else kind.__name__
                msg = f"the parameter {name!r} of {self.name!r} must be {what}; got {text!r:.80}"
                raise ValueError(msg) from None
        return found


def shared_methods(cls: type[Any]) -> dict[str, SharedMethod]:
    """The methods of a class that can be asked, by name.

    Raises:
        TypeError: One of them isn't as it must be.
    """
    found: dict[str, SharedMethod] = {}
    for name in dir(cls):
        method = inspect.getattr_static(cls, name)
        # A `staticmethod` or `classmethod` may have been put around it.
        if getattr(getattr(method, "__func__", method), _MARK, False):
            found[name] = _checked(cls, name, method)
    return found


def _checked(cls: type[Any], name: str, method: Callable[..., Any]) -> SharedMethod:
    where = f"shared method {f_repr(method)} of `{cls.__qualname__}`"
    if not inspect.isfunction(method):
        msg = f"{where} must be a plain method"
        raise TypeError(msg)
    if inspect.iscoroutinefunction(method):
        msg = f"{where} must not be `async def`"
        raise TypeError(msg)
    _, *parameters = inspect.signature(method).parameters.values()
    if not parameters or parameters[0].kind not in _POSITIONAL:
        msg = f"{where} must take `self` and an `Asked`"
        raise TypeError(msg)
    hints = _hints_of(method)
    kinds: dict[str, Callable[[str], Any]] = {}
    for parameter in parameters[1:]:
        kind = _KINDS.get(hints.get(parameter.name, str))
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or kind is None:
            msg = (
                f"parameter {parameter.name!r} of {where} comes from a URL: it must stand behind "
                "a `*` and be a `str`, `int`, `float` or `bool`"
            )
            raise TypeError(msg)
        if parameter.name in RESERVED:
            msg = f"parameter {parameter.name!r} of {where} must have another name"
            raise TypeError(msg)
        kinds[parameter.name] = kind
    by_default = inspect.Parameter.empty
    needed = {p.name for p in parameters[1:] if p.default is by_default}
    return SharedMethod(name, kinds, frozenset(needed))


def _hints_of(method: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(method)
    except Exception:  # noqa: BLE001 - a name that only type checkers know, in whatever way
        names = {"str": str, "int": int, "float": float, "bool": bool}
        return {name: names.get(said, said) for name, said in method.__annotations__.items()}


def _bool_of(text: str) -> bool:
    if text not in _BOOLS:
        raise ValueError(text)
    return _BOOLS[text]


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KINDS: Final[dict[Any, Callable[[str], Any]]] = {
    str: str,
    int: int,
    float: float,
    bool: _bool_of,
}
