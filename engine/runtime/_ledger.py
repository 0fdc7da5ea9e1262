"""What a worker offers to tasks, how much of it is taken, and whose turn it is when there is none.

All steps of a worker take from one ledger. Who finds too little stands in line, and what the first
in the line wants is kept for it as it is given back. So a demand for much is met in the end,
however many there are for little; what the first doesn't want is free for others meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import InternalError
from engine.operators.tasks._resources import PARTS, Resources
from engine.runtime._counts import ResourceSnapshot


class Ledger:
    """The resources of one worker, all of whose steps take from it by accounts.

    It is never in debt: what is taken and not given back is no more than the offer.

    Args:
        offer: What the worker has.
    """

    def __init__(self, offer: Resources) -> None:
        self.offer = offer
        self._free = dict(offer.parts)
        self._line: dict[Account, Resources] = {}
        """Who waits, longest first, and for what."""

    def account(self) -> Account:
        """For one more step, or whoever else takes."""
        return Account(self)

    def could(self, demand: Resources) -> bool:
        """Whether there is so much of all of it, if nothing is taken."""
        return _fits(demand, self.offer.parts)

    def has(self, demand: Resources, account: Account | None = None) -> bool:
        """Whether an account may take so much now; None for one that never stands in line."""
        if not _fits(demand, self._free):
            return False
        first = next(iter(self._line), None)
        return first is None or first is account or _fits(demand, self._unclaimed(first))

    def _unclaimed(self, first: Account) -> dict[str, int]:
        """What is free beyond what the first in the line waits for."""
        wanted = self._line[first].parts
        return {name: parts - wanted.get(name, 0) for name, parts in self._free.items()}

    def take(self, demand: Resources, account: Account | None = None) -> bool:
        """Take all of it, or nothing: whether there was enough. If not, the account is in line."""
        if not self.has(demand, account):
            if account is not None:
                self.wait(account, demand)
            return False
        if account is not None:
            # If it wants more, it goes to the end of the line.
            self._line.pop(account, None)
        for name, parts in demand.parts.items():
            self._free[name] -= parts
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

    def wait(self, account: Account, demand: Resources) -> None:
        """Put an account at the end of the line, if it isn't in it."""
        self._line.setdefault(account, demand)

    def leave(self, account: Account) -> None:
        """Take an account out of the line."""
        self._line.pop(account, None)

    def free(self) -> dict[str, int]:
        """What can be taken by who doesn't wait yet, in parts: less what the first waits for.

        Parts are those of `engine.operators.tasks._resources.PARTS`.
        """
        first = next(iter(self._line), None)
        return dict(self._free) if first is None else self._unclaimed(first)

    def taken(self) -> dict[str, int]:
        """How much of each is taken, in parts as above."""
        return {name: parts - self._free[name] for name, parts in self.offer.parts.items()}

    def snapshot(self) -> dict[str, ResourceSnapshot]:
        """What there is and what is taken, for metrics."""
        taken = self.taken()
        return {
            name: ResourceSnapshot(parts / PARTS, taken[name] / PARTS)
            for name, parts in self.offer.parts.items()
        }


class Account:
    """What one step has taken of its worker, by call.

    Args:
        ledger: Of the worker.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: dict[int, Resources] = {}

    def has(self, demand: Resources) -> bool:
        """Whether it could be taken now."""
        return self._ledger.has(demand, self)

    def take(self, call: int, demand: Resources, place: Account | None = None) -> bool:
        """Take something for a call; if there is too little, stand in line for it.

        Args:
            call: Its number.
            demand: What it takes.
            place: Whose place in the line counts; this account's own if left out.
        """
        if not self._ledger.take(demand, place or self):
            return False
        self._held[call] = demand
        return True

    def wait(self, demand: Resources) -> None:
        """Stand in line for so much."""
        self._ledger.wait(self, demand)

    def give_back(self, call: int) -> None:
        """Give back what a call holds, if it holds anything."""
        demand = self._held.pop(call, None)
        if demand is not None:
            self._ledger.give_back(demand)

    def leave(self) -> None:
        """Stand in line no more: nothing is wanted."""
        self._ledger.leave(self)


def _fits(demand: Resources, amounts: Mapping[str, int]) -> bool:
    return all(parts <= amounts.get(name, 0) for name, parts in demand.parts.items())
