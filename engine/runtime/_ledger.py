"""What a worker offers to tasks, and how much of it is taken."""

from __future__ import annotations

from engine.errors import InternalError
from engine.operators.tasks._resources import Resources


class Ledger:
    """The resources of one worker, all of whose steps take from it.

    It is never in debt: what is taken and not given back is no more than the offer.

    Args:
        offer: What the worker has.
    """

    def __init__(self, offer: Resources) -> None:
        self.offer = offer
        self._free = dict(offer.parts)

    def could(self, demand: Resources) -> bool:
        """Whether there is so much of all of it, if nothing is taken."""
        return all(parts <= self.offer.parts.get(name, 0) for name, parts in demand.parts.items())

    def take(self, demand: Resources) -> bool:
        """Take all of it, or nothing: whether there was enough."""
        free = self._free
        if any(parts > free.get(name, 0) for name, parts in demand.parts.items()):
            return False
        for name, parts in demand.parts.items():
            free[name] -= parts
        return True

    def give_back(self, demand: Resources) -> None:
        """Give back what was taken.

        Raises:
            InternalError: It wasn't taken.
        """
        for name, parts in demand.parts.items():
            self._free[name] = self._free.get(name, 0) + parts
            if self._free[name] > self.offer.parts.get(name, 0):
                msg = f"{demand} was given back to a worker with {self.offer}, but wasn't taken"
                raise InternalError(msg)

    def free(self) -> dict[str, int]:
        """What is left of each, in parts (`engine.operators.tasks._resources.PARTS`)."""
        return dict(self._free)
