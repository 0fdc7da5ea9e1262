"""What a worker asks of its store: the port between the epoch protocol and `engine.recovery`.

Rows are told apart by step and kind: state by key, timers by key, positions of source partitions,
positions of sink partitions, and the rows that exactly-once sinks give away until they are
published. Nothing that is appended is seen by the reading methods before it is applied, which
happens only after its epoch was committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.operators._state import KeyedChanges, Stored
from engine.operators._timers import TimerChange
from engine.runtime._ids import Epoch


@dataclass(slots=True)
class StepChanges:
    """What an epoch changed in one step on one worker."""

    step_id: str
    state: KeyedChanges | None = None
    timers: list[TimerChange] = field(default_factory=list[TimerChange])
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

    @property
    def applied(self) -> Epoch:
        """The reading methods show all epochs up to this one."""
        ...

    def state(self, step_id: str) -> Stored:
        """The state of a step."""
        ...

    def timers(self, step_id: str, until_s: float) -> Iterable[tuple[float, Any]]:
        """The timers of a step up to a time, as (time, key)."""
        ...

    def positions(self, step_id: str) -> dict[str, Any]:
        """The positions of a step's partitions, by name, of all workers."""
        ...

    def kept_rows(self, step_id: str, shard: str) -> list[bytes]:
        """What a shard of a sink gave away in the last committed epoch."""
        ...

    def append(self, epoch: Epoch, changes: StepChanges) -> None:
        """Take a step's changes into the log of the open epoch, encoded at once."""
        ...

    def prepare(self, epoch: Epoch) -> None:
        """Make all that was appended for the epoch durable."""
        ...

    def commit(self, epoch: Epoch) -> None:
        """The epoch is committed: what was prepared may be applied."""
        ...

    def apply_some(self, budget_s: float) -> bool:
        """Apply for at most about that long; whether there is more to apply."""
        ...
