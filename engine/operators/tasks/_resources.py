"""What a task takes of its worker, and where it may run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

PARTS: Final = 10_000
"""Amounts are counted in whole parts of one, so that what is given back is what was taken."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


class Resources:
    """Amounts of what a worker has, by name.

    They are counted, not enforced: a task that takes one processor may keep two busy.

    Args:
        cpu: Processors.
        gpu: Graphics processors.
        memory: Bytes.
        others: Whatever else workers offer, such as licences.

    Raises:
        TypeError: An amount is no number.
        ValueError: An amount is negative, or no finite number, or is so small that it would be
            counted as nothing (less than a ten-thousandth).

    >>> Resources(cpu=1, gpu=0.25)
    Resources(cpu=1, gpu=0.25)
    >>> Resources(cpu=0)
    Resources()
    """

    __slots__ = ("parts",)

    def __init__(self, *, cpu: float = 0, gpu: float = 0, memory: int = 0, **others: float) -> None:
        amounts = {"cpu": cpu, "gpu": gpu, "memory": memory, **others}
        self.parts: dict[str, int] = {
            name: _parts(name, amount) for name, amount in amounts.items() if amount
        }
        """How much of each, in ten-thousandths; nothing that is zero."""

    def __repr__(self) -> str:
        """As it would be written."""
        amounts = (f"{name}={parts / PARTS:.12g}" for name, parts in self.parts.items())
        return f"Resources({', '.join(amounts)})"

    def __eq__(self, other: object) -> bool:
        """Whether it is the same amounts."""
        return self.parts == other.parts if isinstance(other, Resources) else NotImplemented

    def __hash__(self) -> int:
        """Of the amounts, in any order."""
        return hash(frozenset(self.parts.items()))


def _parts(name: str, amount: object) -> int:
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        msg = f"`{name}` of `Resources` must be a number, not {amount!r}"
        raise TypeError(msg)
    if not math.isfinite(amount) or amount < 0:
        msg = f"`{name}` of `Resources` must be zero or more, not {amount!r}"
        raise ValueError(msg)
    parts = round(amount * PARTS)
    if not parts:
        msg = f"`{name}={amount!r}` of `Resources` is too little: {1 / PARTS} is the least"
        raise ValueError(msg)
    return parts


@dataclass(frozen=True, slots=True)
class Label:
    """Workers that offer something of that name.

    Raises:
        ValueError: It is no name of a resource.

    >>> Label("gpu")
    Label(name='gpu')
    """

    name: str

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            msg = f"a label is the name of something that workers offer, not {self.name!r}"
            raise ValueError(msg)
