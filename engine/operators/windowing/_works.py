"""What a window does with its values: the work of the operators, for the kernels.

A work makes an accumulator for each window, adds values to it, and gives what the window emits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from engine.operators.windowing._logic import built_logic, checked_emits, number_value

Nothing = tuple[()]
Migrate = Callable[[int, Any], Any]


class Arrivals:
    """Numbers that tell which of two values came first."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """A number that is greater than all before."""
        self.last += 1
        return self.last


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
    whole: Callable[[list[Any]], Any] | None = None
    """Where windows share panes: makes what a window emits of what its panes hold, in their order.

    There is one at least. None of them is changed, or is what comes out and is changed later."""
    check: Callable[[Any], Any] | None = None
    """Raises for a value that can't be the first of a window, for steps that go on after errors: or
    the first would be what all others are left out for."""
    all_or_nothing: bool = False
    """Whether the folder leaves what a window holds as it was where it raises."""
    arrivals: Arrivals | None = None
    """The numbers that it gives to values, to be saved; None if it gives none."""


class Work(ABC):
    """What the windows of a step do. Without state of its own: that is in the accumulators."""

    emits_values = False
    """Whether it emits when it takes a value, so that values can't wait for a better moment."""

    @property
    def all_or_nothing(self) -> bool:
        """Whether `add` leaves an accumulator as it was where it raises."""
        return False

    @property
    def check(self) -> Callable[[Any], Any] | None:
        """Raises for a value that can't be the first of a window; as in `Folding`."""
        return None

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

    def sharing(self) -> Folding | None:
        """As `folding`, for windows that share panes; None if that wouldn't be right."""
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
    share_panes: bool = False

    def folding(self) -> Folding:
        builder, folder = self.builder, self.folder
        return Folding(lambda value: folder(builder(), value), folder)

    def sharing(self) -> Folding | None:
        builder, merger = self.builder, self.merger
        if not self.share_panes:
            return None

        def whole(accs: list[Any]) -> Any:
            # The merger may change its first argument, so that is none of the panes'.
            return reduce(merger, accs, builder())

        return replace(self.folding(), whole=whole)

    def begin(self) -> Any:
        return self.builder()

    def add(self, acc: Any, value: Any, number: int) -> tuple[Any, Nothing]:  # noqa: ARG002
        return self.folder(acc, value), ()

    def merge(self, acc: Any, other: Any) -> tuple[Any, Nothing]:
        return self.merger(acc, other), ()

    def results(self, acc: Any) -> tuple[Any]:
        return (acc,)


@dataclass(frozen=True, slots=True)
class Extreme:
    """A reducer that picks the larger or the smaller of two values, the first if they are equal."""

    pick: Callable[..., Any]
    """`max` or `min`."""
    by: Callable[[Any], Any]

    def __call__(self, one: Any, other: Any) -> Any:
        return self.pick(one, other, key=self.by)

    def sharing(self) -> Folding:
        """A pane holds its value with a number: of equal ones the first to come counts.

        That may be in a later pane.
        """
        pick, by, arrivals = self.pick, self.by, Arrivals()

        def first(value: Any) -> tuple[Any, int]:
            return value, arrivals.next()

        def folder(acc: tuple[Any, int], value: Any) -> tuple[Any, int]:
            best = acc[0]
            return acc if pick(best, value, key=by) is best else (value, arrivals.next())

        def whole(accs: list[tuple[Any, int]]) -> Any:
            return pick([value for value, _ in sorted(accs, key=_arrival)], key=by)

        return Folding(
            *(first, folder, _migrate_numbered, whole, by),
            all_or_nothing=True,
            arrivals=arrivals,
        )


UNSET = None
"""What a reduction is before its first value: it is kept in a tuple of one after that."""


@dataclass(frozen=True, slots=True)
class ReduceWork(Work):
    """`reduce_window`: the first value, reduced with each that follows."""

    reducer: Callable[[Any, Any], Any]
    share_panes: bool = False

    @property
    def all_or_nothing(self) -> bool:
        return isinstance(self.reducer, Extreme)

    @property
    def check(self) -> Callable[[Any], Any] | None:
        return self.reducer.by if isinstance(self.reducer, Extreme) else None

    def folding(self) -> Folding:
        reducer = self.reducer
        if isinstance(reducer, Extreme):
            return Folding(_itself, reducer, check=reducer.by, all_or_nothing=True)
        return Folding(_itself, reducer)

    def sharing(self) -> Folding | None:
        reducer = self.reducer
        if isinstance(reducer, Extreme):
            return reducer.sharing()
        if not self.share_panes:
            return None

        def whole(accs: list[Any]) -> Any:
            return reduce(reducer, accs)

        return Folding(_itself, reducer, whole=whole)

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


def _itself(value: Any) -> Any:
    return value


def _arrival(acc: tuple[Any, int]) -> int:
    return acc[1]


def _migrate_numbered(migrate: Migrate) -> Migrate:
    return lambda version, stored: (migrate(version, stored[0]), stored[1])


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
