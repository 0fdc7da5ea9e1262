"""What a window does with its values: the work of the operators, for the kernels.

A work makes an accumulator for each window, adds values to it, and gives what the window emits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from engine.operators.windowing._logic import built_logic, checked_emits, number_value

Nothing = tuple[()]
Migrate = Callable[[int, Any], Any]


def _as_it_is(migrate: Migrate) -> Migrate:
    return migrate


@dataclass(frozen=True, slots=True)
class Folding:
    """How the values of a window become one."""

    first: Callable[[Any], Any]
    """Given the first value, makes what a window holds."""
    folder: Callable[[Any, Any], Any]
    """Adds a value to what it holds."""
    migrating: Callable[[Migrate], Migrate] = _as_it_is
    """Given the user's function, what brings what a window holds to the present version."""


class Work(ABC):
    """What the windows of a step do. Without state of its own: that is in the accumulators."""

    emits_values = False
    """Whether it emits when it takes a value, so that values can't wait for a better moment."""

    @abstractmethod
    def begin(self) -> Any:
        """The accumulator of a new window."""

    @abstractmethod
    def add(self, acc: Any, value: Any, number: int) -> tuple[Any, Iterable[Any]]:
        """The accumulator with one more value, and what to emit at once.

        Values are numbered in the order in which those of their key go into windows.
        """

    @abstractmethod
    def merge(self, acc: Any, other: Any) -> tuple[Any, Iterable[Any]]:
        """The accumulator with all that a window has which merged into its own."""

    @abstractmethod
    def results(self, acc: Any) -> Iterable[Any]:
        """What the window emits as it is."""

    def folding(self) -> Folding | None:
        """The work in its simplest form: all that it does is to fold values; None if it isn't."""
        return None

    def migrating(self, migrate: Migrate) -> Migrate:
        """Given the user's function, what brings a stored accumulator to the present version."""
        return migrate

    def to_stored(self, acc: Any) -> Any:
        """What to store of an accumulator."""
        return acc

    def from_stored(self, stored: Any) -> Any:
        """The accumulator that `to_stored` made `stored` of."""
        return stored


@dataclass(frozen=True, slots=True)
class FoldWork(Work):
    """`fold_window` and what is made of it."""

    builder: Callable[[], Any]
    folder: Callable[[Any, Any], Any]
    merger: Callable[[Any, Any], Any]

    def folding(self) -> Folding:
        builder, folder = self.builder, self.folder
        return Folding(lambda value: folder(builder(), value), folder)

    def begin(self) -> Any:
        return self.builder()

    def add(self, acc: Any, value: Any, number: int) -> tuple[Any, Nothing]:  # noqa: ARG002
        return self.folder(acc, value), ()

    def merge(self, acc: Any, other: Any) -> tuple[Any, Nothing]:
        return self.merger(acc, other), ()

    def results(self, acc: Any) -> tuple[Any]:
        return (acc,)


UNSET = None
"""What a reduction is before its first value: it is kept in a tuple of one after that."""


@dataclass(frozen=True, slots=True)
class ReduceWork(Work):
    """`reduce_window`: the first value, reduced with each that follows."""

    reducer: Callable[[Any, Any], Any]

    def folding(self) -> Folding:
        return Folding(lambda value: value, self.reducer)

    def begin(self) -> None:
        return UNSET

    def add(
        self,
        acc: tuple[Any] | None,
        value: Any,
        number: int,  # noqa: ARG002
    ) -> tuple[tuple[Any], Nothing]:
        return ((value,) if acc is None else (self.reducer(acc[0], value),)), ()

    def merge(
        self, acc: tuple[Any] | None, other: tuple[Any] | None
    ) -> tuple[tuple[Any] | None, Nothing]:
        if acc is None or other is None:
            return (other if acc is None else acc), ()
        return (self.reducer(acc[0], other[0]),), ()

    def results(self, acc: tuple[Any] | None) -> Iterable[Any]:
        return () if acc is None else acc

    def migrating(self, migrate: Migrate) -> Migrate:
        return lambda version, stored: (migrate(version, stored[0]),)


class LogicWork(Work):
    """`window`: an object of the user's own for each window."""

    def __init__(self, builder: Callable[[Any], Any], *, emits_values: bool = True) -> None:
        self._builder = builder
        self.emits_values = emits_values

    def begin(self) -> Any:
        return built_logic(self._builder, None)

    def add(self, acc: Any, value: Any, number: int) -> tuple[Any, Iterable[Any]]:
        number_value(acc, number)
        return acc, checked_emits(acc, "on_value", acc.on_value(value))

    def merge(self, acc: Any, other: Any) -> tuple[Any, Iterable[Any]]:
        return acc, checked_emits(acc, "on_merge", acc.on_merge(other))

    def results(self, acc: Any) -> Iterable[Any]:
        return checked_emits(acc, "on_close", acc.on_close())

    def to_stored(self, acc: Any) -> Any:
        return acc.snapshot()

    def from_stored(self, stored: Any) -> Any:
        return built_logic(self._builder, stored)
