"""The source of a run that begins with requests about dead letters: they come first, in one batch.

A hidden step of the plan, which is there only if the store has such requests (see
`engine.runtime._letter_orders`). Being one batch they are all of one epoch: in it each letter goes
from the store, and its record to its step. Has no position: a start after a crash asks the store
again which of the letters are still there.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.connectors import StatelessSourcePartition
from engine.operators._kept_letters import Replay


@dataclass(frozen=True, slots=True)
class LetterOrder:
    """What is to be done about one letter that is in the store. Plain values."""

    letter_id: str
    step_id: str | None
    """The step that its record is put back before; None to forget it."""
    record: bytes
    """Pickled."""
    port: int = 0
    """The input of the step."""


class ReplaySource:
    """What the hidden input step has as its source: the runtime opens it by itself."""


class ReplayPart(StatelessSourcePartition[Any]):
    """All of it, on the first worker; nothing on the others."""

    def __init__(self, orders: Sequence[LetterOrder]) -> None:
        self._orders = list(orders)

    def next_batch(self) -> list[Any]:
        """One batch."""
        if not self._orders:
            raise StopIteration
        orders, self._orders = self._orders, []
        return [(o.letter_id, Replay(o.step_id, _record(o), o.port)) for o in orders]


def _record(order: LetterOrder) -> Any:
    # Written by a run of this flow, into its own store.
    return None if order.step_id is None else pickle.loads(order.record)  # noqa: S301
