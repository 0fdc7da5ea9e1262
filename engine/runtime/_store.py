"""What a worker asks of its store: the port between the epoch protocol and `engine.recovery`.

What was appended is seen by the reading methods from then on, whether its epoch is committed or
not: a worker reads what it wrote. A run that begins after a crash sees committed epochs only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.operators._state import StateChanges, Stored
from engine.runtime._call_watch import CallWatch
from engine.runtime._ids import Epoch
from engine.runtime._replays import LetterOrder


@dataclass(frozen=True, slots=True)
class StepChanges:
    """What an epoch changed in one step on one worker."""

    step_id: str
    state: StateChanges | None = None
    positions: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of source or sink partitions, by name."""
    kept_rows: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    """Of exactly-once sinks, by shard; they take the place of those of the epoch before."""


class Store(Protocol):
    """One worker's store."""

    @property
    def epoch(self) -> Epoch:
        """The last epoch that was committed when the store was opened; 0 for none."""
        ...

    def state(self, step_id: str) -> Stored:
        """The state of a step."""
        ...

    def committed(self, step_id: str, key: Any) -> tuple[Epoch, Any]:
        """The last epoch that is known to be durable, and what that one has of a key, or None.

        A crash can't take it back, unlike what `state` gives.
        """
        ...

    def timers(self, step_id: str, until_s: float) -> Iterable[tuple[float, Any]]:
        """The timers of a step up to a time, as (time, key)."""
        ...

    def positions(self, step_id: str) -> dict[str, Any]:
        """The positions of a step's partitions, by name, whichever worker saved them."""
        ...

    def kept_rows(self, step_id: str, shard: str) -> list[bytes]:
        """What a shard of a sink gave away in the last committed epoch, at the start of a run."""
        ...

    def published(self, step_id: str, shard: str) -> int | None:
        """The last epoch that was known to be out at the target when the last one was committed.

        None for a shard that kept no marker then.
        """
        ...

    def letter_orders(self) -> Sequence[LetterOrder]:
        """What the run is to do about dead letters in the store, at its start."""
        ...

    def call_watch(self, step_id: str, calls: int, deaths_max: int) -> CallWatch:
        """Looks after calls of a step that may end the process; of so many records at a time."""
        ...

    def check_in_force(self) -> None:
        """See that no newer generation has taken over; before the run's first epoch is committed.

        Raises:
            FencedError: One has, and what it has written must be left alone.
        """
        ...

    def append(self, epoch: Epoch, changes: Sequence[StepChanges]) -> None:
        """Take changes into the log of the open epoch, encoded at once."""
        ...

    def prepare(self, epoch: Epoch) -> None:
        """Make all that was appended for the epoch durable."""
        ...

    def commit(self, epoch: Epoch) -> None:
        """The epoch is committed: what was prepared may be brought into the table."""
        ...

    def apply_some(self, budget_s: float, *, eager: bool) -> bool:
        """Do some of that work, for at most about so long; False if none is worth doing now."""
        ...
