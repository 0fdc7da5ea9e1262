"""How the state of an actor is noted before a handler, and put back if that raises."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import fields
from types import UnionType
from typing import Any, Final, TypeAlias, Union, get_args, get_origin, get_type_hints

from engine.errors import UserCodeError
from engine.operators._shown import shown
from engine.operators.actors._fixed import SCALARS, is_fixed, written
from engine.operators.actors._ref import Ref

Image: TypeAlias = tuple[Any, ...] | bytes
"""The values of the fields; a pickle of them if one may be changed by the handler."""


class Images:
    """Images of the states of one class.

    If all fields are annotated as values that can't change, that is believed, and only looked at
    when an image is to be put back.

    Args:
        state: The class, a dataclass.
    """

    def __init__(self, state: type[Any]) -> None:
        self.names: Final = tuple(field.name for field in fields(state))
        """Of the fields. Whatever else an object has is left out."""
        values = "".join(f"state.{name}, " for name in self.names)
        self.values_of: Callable[[Any], tuple[Any, ...]] = written("state", f"({values})")
        """Gives the values of the fields."""
        self.take: Callable[[Any], Image] = self.values_of if _is_plain(state) else self._seen
        """Makes an image."""
        self._state = state

    def _seen(self, state: Any) -> Image:
        values = self.values_of(state)
        for value in values:
            if value.__class__ not in SCALARS and not is_fixed(value):
                return pickle.dumps(values, 5)
        return values

    def put_back(self, state: Any, image: Image) -> None:
        """Have a state be as it was.

        Raises:
            UserCodeError: A value that can change was in a field that is annotated as one that
                can't, so nobody knows what it was.
        """
        values: tuple[Any, ...] = pickle.loads(image) if isinstance(image, bytes) else image  # noqa: S301 - of `_seen`
        if values is image:
            for name, value in zip(self.names, values, strict=True):
                if not is_fixed(value):
                    msg = (
                        f"a handler has raised, and what it did can't be undone: the field "
                        f"{name!r} of `{self._state.__qualname__}` has {shown(value)}, which can "
                        "change, and is annotated as something that can't; annotate it as it is"
                    )
                    raise UserCodeError(msg)
        kept: dict[str, Any] = state.__dict__
        kept.clear()
        kept.update(zip(self.names, values, strict=True))


def _is_plain(state: type[Any]) -> bool:
    """Whether all fields are annotated as values that can't change."""
    try:
        said = get_type_hints(state)
    except Exception:  # noqa: BLE001 - a name that only type checkers know, in whatever way
        return False
    return all(_is_fixed_type(said[field.name]) for field in fields(state))


def _is_fixed_type(said: Any) -> bool:
    if get_origin(said) in (Union, UnionType):
        return all(map(_is_fixed_type, get_args(said)))
    return said in SCALARS or said is Ref
