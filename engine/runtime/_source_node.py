"""The node of an `input` step: polls the partitions that this worker has.

`engine.runtime._worker` polls it; what each poll gives goes down the stage before the next.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from engine.connectors import Lag, SourcePartition, UnavailableError
from engine.errors import ConnectorError
from engine.operators._shown import shown
from engine.runtime._counts import StepCounts
from engine.runtime._failure import blaming
from engine.runtime._failures import FailureSite
from engine.runtime._nodes import Node, Push, Target
from engine.runtime._outage import Outage, Patience
from engine.runtime._ports import Clock
from engine.runtime._watermarks import SourceWatch

IDLE_POLL_S = 0.001
"""How soon a source that had nothing, and doesn't say when it will, is asked again."""


class BuildPart(Protocol):
    """Builds a partition of a source."""

    def __call__(self, name: str, *, found: bool) -> Any:
        """Build it; it was `found` while the flow was running."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """How the partitions of a source are opened on one worker."""

    build: BuildPart
    positions: Callable[[], dict[str, Any]]
    """Where they are to go on from, by name; those that have no position yet are not in it."""
    patience: Patience = field(default_factory=Patience)
    """With those that can't be reached."""
    endless: bool = False
    """More of them may be found while it runs, so the source never ends by itself."""


class _Reader:
    """One partition: open, or to be opened as soon as it can be reached."""

    __slots__ = (
        "due_s",
        "empty_polls",
        "had_records",
        "name",
        "next_batch",
        "outage",
        "paced",
        "part",
        "push",
        "step_id",
        "wait_s_max",
    )

    def __init__(self, step_id: str, name: str, next_batch: Callable[[], Any], push: Push) -> None:
        self.step_id = step_id
        self.name = name
        self.push = push
        """Takes its batches."""
        self.part: SourcePartition[Any, Any] | None = None
        self.next_batch = next_batch
        """What a poll calls: the partition's own, unless it can't be reached."""
        self.paced = False
        self.due_s = 0.0
        self.wait_s_max = math.inf
        """If `due_s` is our own choice, it can't lie further ahead."""
        self.had_records = True
        self.empty_polls = 0
        self.outage: Outage | None = None

    def take(self, part: SourcePartition[Any, Any]) -> None:
        """The partition is open."""
        self.part = part
        self.next_batch = part.next_batch
        kind: Any = type(part)
        self.paced = kind.next_awake is not SourcePartition[Any, Any].next_awake

    def tell_commit(self, state: Any) -> None:
        """Tell the partition, if it is open, that what it had read up to there is durable."""
        if self.part is not None:
            self.part.on_commit(state)

    def place(self) -> tuple[str, Any]:
        """Which partition it is, and where it goes on after the batch that it gave last."""
        return f"{self.step_id}/{self.name}", _snapshot(self.part)

    def caught_up(self) -> bool:
        """Whether it can be read, and there is nothing more to read right now."""
        if self.part is None or self.outage is not None:
            return False
        # For `engine.runtime._failure` to find.
        step_id = self.step_id  # noqa: F841 # pyright: ignore[reportUnusedVariable]
        return self.part.caught_up()

    def wait_s(self, now_s: float) -> float:
        """In how many seconds to poll it; 0 at once."""
        wait_s = self.due_s - now_s
        # What we chose can't lie far ahead: then it's the clock that was set back.
        return 0.0 if wait_s <= 0.0 or wait_s > self.wait_s_max else wait_s


class SourceNode(Node):
    """All partitions of one source that this worker reads.

    Args:
        step_id: The input step.
        down: Where records go.
        clock: Tells the time.
        opening: How partitions are opened.
        counts: Of the step; None where nobody counts.
    """

    def __init__(
        self,
        step_id: str,
        down: Target,
        clock: Clock,
        opening: Opening,
        counts: StepCounts | None = None,
    ) -> None:
        super().__init__(step_id, 1)
        self.counts = counts
        self.timed_poll = self.poll if counts is None else counts.timing(self.poll)
        """As `poll`, and timed."""
        self._opening = opening
        self._endless = opening.endless
        self._readers: list[_Reader] = []
        self._live: list[_Reader] = []
        self._turn = 0
        self._down = down
        self.watch: SourceWatch | None = None
        """Hears of the partitions, where clocks tell them apart."""
        self.failed: FailureSite | None = None
        """Wants to know where a batch is from, if a step behind goes on after errors."""
        self._clock = clock
        self._time_s = clock.time_s

    def build(self, name: str, *, found: bool = False) -> None:
        """Open a partition, now or once it can be reached; it was `found` while the flow runs."""
        reader = _Reader(
            self.step_id, name, lambda: self._open_late(reader, found=found), self._down.push
        )
        if self.watch is not None:
            reader.push = functools.partial(self.watch.push, reader)
            self.watch.opened(reader)
        if self.failed is not None:
            reader.push = functools.partial(self.failed.follow, reader.place, reader.push)
        self._readers.append(reader)
        self._live.append(reader)
        with blaming(self.step_id, "opening its source"):
            try:
                self._open(reader, found=found)
            except UnavailableError as ex:
                self._wait_for(reader, ex)
            else:
                self._schedule(reader)

    def _open(self, reader: _Reader, *, found: bool) -> None:
        name, part = reader.name, self._opening.build(reader.name, found=found)
        if not isinstance(part, SourcePartition):
            msg = f"what was built for partition {name!r} must be a partition; got {shown(part)}"
            raise ConnectorError(msg)
        reader.take(part)  # pyright: ignore[reportUnknownArgumentType]

    # What can't be reached

    def _wait_for(self, reader: _Reader, error: UnavailableError) -> float:
        """Ask a partition again after a while, which is given in seconds."""
        outage = reader.outage
        if outage is None:
            what = f"partition {reader.name!r}"
            now_s = self._clock.monotonic_s
            outage = reader.outage = Outage(self.step_id, what, self._opening.patience, now_s)
            if reader.part is not None:
                reader.next_batch = functools.partial(self._ask_again, reader, reader.part)
        pause_s = outage.failed(error)
        reader.due_s = self._time_s() + pause_s
        reader.wait_s_max = 2 * pause_s
        return pause_s

    def _ask_again(self, reader: _Reader, part: SourcePartition[Any, Any]) -> Any:
        """As `next_batch` of the partition, which could not be reached the last time."""
        try:
            batch = part.next_batch()
        except StopIteration:
            self._reached(reader)
            raise
        self._reached(reader)
        reader.next_batch = part.next_batch
        return batch

    def _open_late(self, reader: _Reader, *, found: bool) -> list[Any]:
        """Open a partition that could not be reached at first; it is asked for a batch later."""
        with blaming(self.step_id, "opening its source", UnavailableError):
            self._open(reader, found=found)
        self._reached(reader)
        positions = self._opening.positions()
        if reader.name in positions:
            # As the others heard it at the start.
            reader.tell_commit(positions[reader.name])
        return []

    def _reached(self, reader: _Reader) -> None:
        if reader.outage is not None:
            reader.outage.over()
            reader.outage = None
            if self.watch is not None:
                self.watch.reached(reader)

    # Reading

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
            except (StopIteration, UnavailableError) as ex:
                wait_s = min(wait_s, self._without_batch(reader, ex))
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

    def _without_batch(self, reader: _Reader, why: StopIteration | UnavailableError) -> float:
        """The partition whose turn it is has ended or can't be reached; gives when it is due."""
        if isinstance(why, StopIteration):
            reader = self._live.pop(self._turn)
            if self.watch is not None:
                self.watch.ended(reader)
            return math.inf
        self._turn += 1
        return self._wait_for(reader, why)

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
            reader.push(batch)
            if not reader.paced:
                reader.due_s = 0.0
                return 0.0
        else:
            reader.had_records = False
            reader.empty_polls += 1
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
        assert reader.part is not None  # noqa: S101
        awake = reader.part.next_awake() if reader.paced else None
        now_s = self._time_s()
        reader.wait_s_max = math.inf
        if awake is None and reader.had_records:
            reader.due_s = 0.0
        elif awake is None:
            reader.due_s = now_s + IDLE_POLL_S
            reader.wait_s_max = 1.0
        elif not isinstance(awake, datetime) or awake.tzinfo is None:
            msg = (
                f"`next_awake` of partition {reader.name!r} must return a `datetime` with a time "
                f"zone or None; got {shown(awake)}"
            )
            raise ConnectorError(msg)
        else:
            reader.due_s = awake.timestamp()
        return reader.wait_s(now_s)

    def lags(self) -> dict[str, Lag]:
        """How far behind the open partitions are that say so, by name."""
        given = {r.name: r.part.lag() for r in self._readers if r.part is not None}
        for name, lag in given.items():
            if lag is not None and not isinstance(lag, Lag):  # pyright: ignore[reportUnnecessaryIsInstance] - a user's code may give anything
                msg = f"`lag` of partition {name!r} must return a `Lag` or None; got {shown(lag)}"
                raise ConnectorError(msg)
        return {name: lag for name, lag in given.items() if lag is not None}

    # Epochs

    def snapshot(self) -> dict[str, Any]:
        """Positions of all partitions, those at their end too."""
        parts = {reader.name: reader.part for reader in self._readers}
        found = {name: _snapshot(part) for name, part in parts.items() if part is not None}
        if len(found) < len(parts):
            # Those that could not be opened yet stay where they are. It is said once more because
            # another worker may have said it before, of which nothing is kept.
            stored = self._opening.positions()
            found.update({name: stored[name] for name in parts.keys() - found if name in stored})
        return found

    def on_commit(self, states: dict[str, Any]) -> None:
        """Tell the partitions that the epoch of a snapshot is durable.

        Before the first record, again with what an earlier run committed, which may not have got
        so far as to tell them.
        """
        for reader in self._readers:
            # One that was found while the epoch was on its way is not in it.
            if reader.name in states:
                reader.tell_commit(states[reader.name])

    def closers(self) -> list[Callable[[], None]]:
        """What closes the partitions, one by one."""
        return [reader.part.close for reader in self._readers if reader.part is not None]

    def finish(self) -> None:
        """Hand the end on."""
        self._down.end()


def _snapshot(part: Any) -> Any:
    return part.snapshot() if hasattr(part, "snapshot") else None
