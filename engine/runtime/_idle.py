"""Which actors haven't had a message for as long as their class says in `passivate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from engine.operators.actors._actor import Blueprint


class Idle:
    """The actors in memory of classes that want to be put away, in the order of their last use.

    Args:
        blueprints: The classes of the step.
    """

    def __init__(self, blueprints: Iterable[Blueprint]) -> None:
        self._used: dict[str, dict[Any, float]] = {}
        """By class and address: when, in seconds since 1970 UTC."""
        self._after_s: dict[str, float] = {}
        for blueprint in blueprints:
            if blueprint.passivate_s is not None:
                self._used[blueprint.name] = {}
                self._after_s[blueprint.name] = blueprint.passivate_s

    def __bool__(self) -> bool:
        """Whether there are such classes."""
        return bool(self._used)

    def use(self, name: str, address: Any, now_s: float) -> None:
        """An actor of a class has had a message."""
        used = self._used.get(name)
        if used is not None:
            used.pop(address, None)
            used[address] = now_s

    def forget(self, name: str, address: Any) -> None:
        """An actor isn't there any more, or is put away."""
        if name in self._used:
            self._used[name].pop(address, None)

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        """Forget all other actors."""
        for name, used in self._used.items():
            self._used[name] = {address: at_s for address, at_s in used.items() if wanted(address)}

    def first_s(self) -> float:
        """When `pop_due` has something to give."""
        firsts = [
            next(iter(used.values())) + self._after_s[name]
            for name, used in self._used.items()
            if used
        ]
        return min(firsts, default=math.inf)

    def pop_due(self, now_s: float) -> Iterator[tuple[str, Any]]:
        """Those that weren't used for long enough, by class and address."""
        for name, used in self._used.items():
            while used:
                address, at_s = next(iter(used.items()))
                if at_s + self._after_s[name] > now_s:
                    break
                del used[address]
                yield name, address
