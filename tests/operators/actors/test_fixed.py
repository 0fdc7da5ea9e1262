"""Which values actors may share, and how a state is put back: images and checks by class."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import pytest

from engine.errors import UserCodeError
from engine.operators.actors import Ref
from engine.operators.actors._fixed import is_fixed
from engine.operators.actors._image import Images

T = TypeVar("T")


@dataclass(frozen=True)
class Plain:
    value: Any = 1
    more: Any = "text"


@dataclass(frozen=True, slots=True)
class Slotted:
    value: Any = 1


@dataclass(frozen=True)
class Derived(Plain):
    third: Any = 3


class Undecorated(Plain):
    """Takes any attribute, though its base is frozen."""


@dataclass(frozen=True)
class Cached:
    value: int = 1

    @cached_property
    def many(self) -> list[int]:
        return [self.value]


@dataclass(frozen=True)
class Completed:
    value: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "also", [self.value])


@dataclass(frozen=True)
class OwnInit:
    value: int = 1

    def __init__(self) -> None:
        object.__setattr__(self, "also", [])


@dataclass(frozen=True)
class OfAny(Generic[T]):
    value: T


@dataclass(frozen=True)
class WithOthers:
    default: ClassVar[int] = 4
    given: InitVar[int]
    value: int = 1

    def __post_init__(self, given: int) -> None:
        """Keeps nothing of it."""


@dataclass(frozen=True)
class Empty:
    pass


@dataclass
class Changing:
    value: int = 1


class Pair(NamedTuple):
    left: Any
    right: Any


class Colour(Enum):
    RED = 1


def undecorated_with(value: Any) -> Undecorated:
    made = Undecorated()
    made.extra = value  # type: ignore[attr-defined] # that is the point
    return made


def cached_and_read() -> Cached:
    made = Cached()
    made.many.append(5)
    return made


FIXED = [
    *(1, "text", None, (1, ("a", 2.5)), frozenset({1}), Colour.RED, Ref("Account", "ann")),
    *(Plain(), Plain(Plain(Slotted())), Slotted(("a",)), Derived(), Empty(), OfAny(3)),
    *(undecorated_with(1), Cached(), WithOthers(3)),
]
CHANGING = [
    *([], {}, set[int](), bytearray(), (1, []), Changing(), object()),
    *(Plain([]), Plain(1, []), Slotted({}), Derived(third=[]), Plain(Plain(Slotted([])))),
    *(undecorated_with([]), cached_and_read(), Completed(), OwnInit(), OfAny([]), Pair(1, 2)),
]


@pytest.mark.parametrize("value", FIXED, ids=repr)
def test_values_that_cannot_change_are_shared(value: Any):
    """Whatever the class is met as first, and when it is met again."""
    assert is_fixed(value)
    assert is_fixed(value)


@pytest.mark.parametrize("value", CHANGING, ids=lambda value: type(value).__name__)
def test_values_that_may_change_are_found_out(value: Any):
    """Also where it isn't a field that may, but what a frozen object came to have besides."""
    assert not is_fixed(value)
    assert not is_fixed(value)


@dataclass
class Numbers:
    count: int = 0
    last: float | None = None


@dataclass
class Listed:
    count: int = 0
    items: list[int] = field(default_factory=list[int])


def test_an_image_of_fixed_fields_is_their_values():
    """No pickle is made, and nothing is looked at before it must be."""
    state, images = Numbers(3, 0.5), Images(Numbers)
    image = images.take(state)
    state.count, state.last = 4, 2.0
    images.put_back(state, image)
    assert (image, state) == ((3, 0.5), Numbers(3, 0.5))


def test_an_image_of_fields_that_may_change_is_a_copy():
    """What a handler does to the list itself is undone too."""
    state, images = Listed(1, [1]), Images(Listed)
    image = images.take(state)
    state.items.append(2)
    images.put_back(state, image)
    assert state == Listed(1, [1])


def test_what_is_no_field_is_not_kept():
    """A handler that raises leaves nothing but fields behind."""
    state, images = Numbers(), Images(Numbers)
    image = images.take(state)
    state.scratch = []  # type: ignore[attr-defined] # that is the point
    images.put_back(state, image)
    assert vars(state) == {"count": 0, "last": None}


def test_a_wrong_annotation_is_an_error_where_it_matters():
    """What can't be undone must not be taken for undone: the run ends."""
    state, images = Numbers([1]), Images(Numbers)  # type: ignore[arg-type] # that is the point
    image = images.take(state)
    with pytest.raises(UserCodeError, match=r"'count' of `Numbers` has \[1\].*annotate it"):
        images.put_back(state, image)
