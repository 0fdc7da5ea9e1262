"""The node of an `input` step: polls the partitions that this worker has.

`engine.runtime._worker` polls it; what each poll gives goes down the stage before the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from engine.connectors import SourcePartition
from engine.errors import ConnectorError
from engine.operators._shown import shown
from engine.runtime._counts import StepCounts
from engine.runtime._failure import blaming
from engine.runtime._nodes import Node, Target

IDLE_POLL_S = 0.001
"""How soon a source that had nothing, and doesn't say when it will, is asked again."""


class BuildPart(Protocol):
    """Builds a partition that has a name."""

    def __call__(self, name: str, *, found: bool) -> Any:
        """Build it; it was `found` while the flow was running."""
        ...


class _Reader:
    """One open partition."""

    __slots__ = ("due_s", "had_records", "idle", "name", "next_batch", "paced", "part")

    def __init__(self, name: str, part: SourcePartition[Any, Any]) -> None:
        self.name = name
        self.part = part
        self.next_batch = part.next_batch
        kind: Any = type(part)
        self.paced = kind.next_awake is not SourcePartition[Any, Any].next_awake
        self.due_s = 0.0
        self.idle = False
        """It had nothing and doesn't say when it will, so `due_s` is our own choice."""
        self.had_records = True

    def wait_s(self, now_s: float) -> float:
        """In how many seconds to poll it; 0 at once."""
        wait_s = self.due_s - now_s
        # What we chose can't lie far ahead: then it's the clock that was set back.
        return 0.0 if wait_s <= 0.0 or (self.idle and wait_s > 1.0) else wait_s


class SourceNode(Node):
    """All partitions of one source that this worker reads.

    Args:
        step_id: The input step.
        down: Where records go.
        time_s: The wall clock.
        counts: Of the step; None where nobody counts.
        build: Builds partitions; None for a source whose partitions have no names.
        endless: More partitions may be found while it runs, so it never ends by itself.
    """

    def __init__(
        self,
        step_id: str,
        down: Target,
        time_s: Callable[[], float],
        counts: StepCounts | None = None,
        *,
        build: BuildPart | None = None,
        endless: bool = False,
    ) -> None:
        super().__init__(step_id, 1)
        self.counts = counts
        self.timed_poll = self.poll if counts is None else counts.timing(self.poll)
        """As `poll`, and timed."""
        self._build = build
        self._endless = endless
        self._readers: list[_Reader] = []
        self._live: list[_Reader] = []
        self._turn = 0
        self._down = down
        self._down_push = down.push
        self._time_s = time_s

    def build(self, name: str, *, found: bool = False) -> None:
        """Build a partition and open it; it was `found` while the flow was running."""
        assert self._build is not None  # noqa: S101
        with blaming(self.step_id, "opening its source"):
            self.open(name, self._build(name, found=found))

    def open(self, name: str, part: Any) -> None:
        """Take over a partition that was just built: read it, and close it in the end."""
        if not isinstance(part, SourcePartition):
            msg = f"what was built for partition {name!r} must be a partition; got {shown(part)}"
            raise ConnectorError(msg)
        reader = _Reader(name, part)  # pyright: ignore[reportUnknownArgumentType]
        self._readers.append(reader)
        self._live.append(reader)
        self._schedule(reader)

    def poll(self, at_most: int) -> tuple[int, float]:
        """Poll partitions that are due, each at most once, going on where the last poll stopped.

        Args:
            at_most: Stop after this many batches that had records.

        Returns:
            How many batches had records, and in how many seconds the next partition is due
            (0: at once).
        """
        batches, wait_s = 0, math.inf
        live, time_s = self._live, self._time_s
        for _ in range(len(live)):
            if self._turn >= len(live):
                self._turn = 0
            reader = live[self._turn]
            if reader.due_s and (wait := reader.wait_s(time_s())):
                self._turn += 1
                if wait < wait_s:  # noqa: PLR1730 - a call less per batch
                    wait_s = wait
                continue
            try:
                batch = reader.next_batch()
            except StopIteration:
                del live[self._turn]
                continue
            self._turn += 1
            wait = self._hand_on(reader, batch)
            if wait < wait_s:  # noqa: PLR1730 - a call less per batch
                wait_s = wait
            if reader.had_records:
                batches += 1
                if batches >= at_most:
                    # The partitions whose turn was still to come may be due.
                    wait_s = 0.0
                    break
        if not live and not self.ended and not self._endless:
            self.end_input()
        return batches, wait_s

    def wait_s(self) -> float:
        """In how many seconds the next partition is due; 0 at once."""
        now_s = self._time_s()
        return min(
            (reader.wait_s(now_s) for reader in self._live),
            default=math.inf if self._endless else 0.0,
        )

    def _hand_on(self, reader: _Reader, batch: Any) -> float:
        """Send a partition's batch down; gives in how many seconds the partition is due again."""
        if batch.__class__ is not list:
            batch = self._as_list(reader, batch)
        if batch:
            reader.had_records = True
            self._down_push(batch)
            if not reader.paced:
                reader.due_s = 0.0
                return 0.0
        else:
            reader.had_records = False
        return self._schedule(reader)

    def _as_list(self, reader: _Reader, batch: Any) -> list[Any]:
        try:
            records = iter(batch)
        except TypeError as ex:
            msg = (
                f"`next_batch` of partition {reader.name!r} must return an iterable of records; "
                f"got {shown(batch)}"
            )
            raise ConnectorError(msg) from ex
        return list(records)

    def _schedule(self, reader: _Reader) -> float:
        """Note when the partition wants to be polled next, and give in how many seconds that is."""
        awake = reader.part.next_awake() if reader.paced else None
        now_s = self._time_s()
        reader.idle = awake is None and not reader.had_records
        if awake is None:
            reader.due_s = now_s + IDLE_POLL_S if reader.idle else 0.0
        elif not isinstance(awake, datetime) or awake.tzinfo is None:
            msg = (
                f"`next_awake` of partition {reader.name!r} must return a `datetime` with a time "
                f"zone or None; got {shown(awake)}"
            )
            raise ConnectorError(msg)
        else:
            reader.due_s = awake.timestamp()
        return reader.wait_s(now_s)

    def snapshot(self) -> dict[str, Any]:
        """Positions of all partitions, those at their end too."""
        return {reader.name: _snapshot(reader.part) for reader in self._readers}

    def on_commit(self, states: dict[str, Any]) -> None:
        """Tell the partitions that the epoch of a snapshot is durable."""
        for reader in self._readers:
            # One that was found while the epoch was on its way is not in it.
            if reader.name in states:
                reader.part.on_commit(states[reader.name])

    def resume_commit(self, positions: dict[str, Any]) -> None:
        """Tell the partitions again what an earlier run committed; it may not have got that far."""
        for reader in self._readers:
            if reader.name in positions:
                reader.part.on_commit(positions[reader.name])

    def closers(self) -> list[Callable[[], None]]:
        """What closes the partitions, one by one."""
        return [reader.part.close for reader in self._readers]

    def finish(self) -> None:
        """Hand the end on."""
        self._down.end()


def _snapshot(part: Any) -> Any:
    return part.snapshot() if hasattr(part, "snapshot") else None
