"""Which values can't change, so that they may be shared by those who send and those who get them.

Each message is looked at, so for a class of messages a function is written that looks at just its
fields, as `dataclasses` writes methods. By `__dict__` it takes four times as long, because that
makes a dict for an object that has none yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import EnumType
from typing import Any, Final, TypeAlias
from uuid import UUID

from engine.operators.actors._ref import Ref

SCALARS: Final = frozenset(
    {str, int, float, bool, bytes, type(None), datetime, date, timedelta, Decimal, UUID, complex}
)
"""Values of these never change."""

Check: TypeAlias = Callable[[Any], bool]


def is_fixed(value: Any) -> bool:
    """Whether a value, with all that it refers to, can't change."""
    kind = value.__class__
    return kind in SCALARS or CHECKS[kind](value)


def _all_fixed(parts: Iterable[Any]) -> bool:
    for part in parts:  # noqa: SIM110 - for most messages, and `all` takes twice as long
        if part.__class__ not in SCALARS and not is_fixed(part):
            return False
    return True


def _has_fixed_parts(value: Any) -> bool:
    """For a dataclass whose objects may have come to have more than their fields."""
    slots = [getattr(value, part.name) for part in fields(value)]
    return _all_fixed([*slots, *getattr(value, "__dict__", {}).values()])


class _Checks(dict[type, Check]):
    """How to see whether an object of a class, which is none of `SCALARS`, can't change.

    Filled as classes are met.
    """

    def __missing__(self, kind: type) -> Check:
        check = self[kind] = _check_of(kind)
        return check


CHECKS: Final = _Checks({tuple: _all_fixed, Ref: _all_fixed, frozenset: _all_fixed})


def _check_of(kind: type) -> Check:
    if isinstance(kind, EnumType):
        return lambda _: True
    if not is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined] # typeshed doesn't tell of it
        return lambda _: False
    if not all(map(_has_only_fields, kind.__mro__[:-1])):
        return _has_fixed_parts
    parts = [f"value.{part.name}" for part in fields(kind)]
    tests = [f"({part}.__class__ in SCALARS or is_fixed({part}))" for part in parts]
    return written("value", " and ".join(tests) or "True")


def written(parameter: str, expression: str) -> Callable[[Any], Any]:
    """A function of one parameter, of its source text."""
    made: Callable[[Any], Any] = eval(f"lambda {parameter}: {expression}", globals())  # noqa: S307 - of the names of fields
    return made


def _has_only_fields(cls: type) -> bool:
    """Whether a class brings nothing by which its objects could have more than their fields.

    As a property that is kept, or an attribute that is set when the object is made.
    """
    own = vars(cls)
    code = getattr(own.get("__init__"), "__code__", None)
    generated = code is not None and code.co_filename == _Plain.__init__.__code__.co_filename
    return generated and not set(own) - _OF_DATACLASSES - set(own.get("__annotations__", ()))


@dataclass(frozen=True)
class _Plain:
    """Has what each frozen dataclass has."""

    of: int


@dataclass(frozen=True, order=True, slots=True)
class _Slotted:
    """Has what some have besides."""

    of: int


_OF_DATACLASSES: Final = set(vars(_Plain)) | set(vars(_Slotted))
