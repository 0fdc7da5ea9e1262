"""What the engine asks of a source: the contract between a connector and the runtime.

A *source* is a description that is safe to build on every worker; a *partition* is one open
reader of it, owned by one worker. The runtime (and the testing kit) calls what is described here;
connectors and users subclass it. The names and rules are those of Bytewax 0.21; added are
`SourcePartition.on_commit`, `SourcePartition.caught_up`, `SourcePartition.lag` and
`FixedPartitionedSource.build_new_part`, all optional.

The life of a partition, always on one thread:

1. `build_part` (or `build`), with the state of the last durable epoch if there is one; or
   `build_new_part`, if it was not there yet when the source was first read;
2. `next_awake` and `next_batch` in turn, until `StopIteration`;
3. at each barrier `snapshot`, then, once that epoch is durable, `on_commit` with what the snapshot
   gave. Both also come after the end of the input;
4. `close`, in an orderly end. A crash calls nothing.

A partition that can't reach the outside says so by `UnavailableError` in 1 and 2. It is asked again
after a while, and if that goes on for too long, the run ends. In between 3 goes on, if it is open.
One that could not be opened before an epoch was durable counts as one that was not there yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

X = TypeVar("X")
"""Type of a record."""

S = TypeVar("S")
"""Type of a partition's state."""

X_co = TypeVar("X_co", covariant=True)


class AbortExecution(RuntimeError):  # noqa: N818 (the name is part of the API users know)
    """Raise it in `next_batch` to stop the whole run at once, silently.

    Nothing is committed any more: the next run starts from the last durable epoch. Meant for
    sources that find out that another process has taken over, and for tests of recovery.
    """


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a partition is behind what there is to read, for metrics.

    Attributes:
        records: How many records are known to wait; None if that isn't known.
        seconds: How old the newest record is that was handed out, while others wait; 0.0 when
            there are none. None if that isn't known.

    >>> Lag(records=3, seconds=None)
    Lag(records=3, seconds=None)
    """

    records: int | None
    seconds: float | None


class SourcePartition(ABC, Generic[X_co, S]):
    """What both kinds of source partition have in common.

    Don't subclass this one; see `StatefulSourcePartition` and `StatelessSourcePartition`.
    """

    @abstractmethod
    def next_batch(self) -> Iterable[X_co]:
        """Give the next records, in order; none if there are none right now.

        Must not block: the whole worker waits on this call. An empty batch is a normal answer.

        Raises:
            StopIteration: No record will ever come again. Every later call must raise it too.
            UnavailableError: The outside can't be reached; ask again a little later. Nothing may
                be lost by that: the next call gives what this one would have given.
            AbortExecution: Stop the run without committing.
        """

    def next_awake(self) -> datetime | None:
        """Say when `next_batch` should be called next: never earlier, as a rule not much later.

        Called after the build and after each batch. The answer has a time zone. None (the
        default) means at once after a batch with records, and a moment later after an empty one.
        """
        return None

    def caught_up(self) -> bool:
        """Say whether no more records are known to be waiting right now.

        A partition that is silent because it has nothing must not hold back event time for the
        others; one that is silent while it lags behind must. Watermarks use this to tell one from
        the other. True by default, which is right for a source that can't know.
        """
        return True

    def lag(self) -> Lag | None:
        """Say how far behind the partition is, from what is known without asking anybody.

        Must not block. Called about once a second where metrics are on, from the build until
        `close`, also while the outside can't be reached. None (the default) shows nothing.
        """
        return None

    def on_commit(self, state: S) -> None:
        """Hear that an epoch is durable, so that what was read up to it may be acknowledged.

        Called with what `snapshot` gave for that epoch (None for a partition without state), and
        repeated with the same state after a restart: it must be idempotent. Nothing is read
        again from before `state`. It should not block for long.
        """
        # Doing nothing is right for a source that needs no acknowledgement.

    def close(self) -> None:
        """Let go of what the partition holds: files, sockets, threads.

        Called at the end of input, at a drain and after an error, possibly more than once, and
        not at all after a crash.
        """
        # Doing nothing is right for a partition that holds nothing.


class StatefulSourcePartition(SourcePartition[X_co, S]):
    """A partition that can be read again from a position.

    >>> class Numbers(StatefulSourcePartition[int, int]):
    ...     def __init__(self, start: int) -> None:
    ...         self._next = start
    ...
    ...     def next_batch(self) -> list[int]:
    ...         if self._next == 3:
    ...             raise StopIteration
    ...         self._next += 1
    ...         return [self._next - 1]
    ...
    ...     def snapshot(self) -> int:
    ...         return self._next
    >>> part = Numbers(0)
    >>> part.next_batch(), part.snapshot()
    ([0], 1)
    >>> Numbers(1).next_batch()
    [1]
    """

    @abstractmethod
    def snapshot(self) -> S:
        """Give the position of the next record to read.

        It comes back as `resume_state` after a restart. What is returned must not change
        afterwards, and must be made of plain values or be picklable.
        """


class StatelessSourcePartition(SourcePartition[X_co, None]):
    """A partition without a position: what it gave is not given again after a restart."""


class Source(ABC, Generic[X_co]):
    """Where records come from. Don't subclass this one.

    See `FixedPartitionedSource`, `DynamicSource` and `SimplePollingSource`.
    """


class FixedPartitionedSource(Source[X_co], Generic[X_co, S]):
    """A source with named partitions, each read by one worker and resumed where it stopped.

    The engine deals the partitions over the workers. Records of one partition stay in order;
    between partitions there is no order.

    >>> class Countdown(StatefulSourcePartition[int, int]):
    ...     def __init__(self, left: int) -> None:
    ...         self._left = left
    ...
    ...     def next_batch(self) -> list[int]:
    ...         if self._left == 0:
    ...             raise StopIteration
    ...         self._left -= 1
    ...         return [self._left]
    ...
    ...     def snapshot(self) -> int:
    ...         return self._left
    >>> class Countdowns(FixedPartitionedSource[int, int]):
    ...     def list_parts(self) -> list[str]:
    ...         return ["from-2", "from-5"]
    ...
    ...     def build_part(
    ...         self, step_id: str, for_part: str, resume_state: int | None
    ...     ) -> Countdown:
    ...         left = int(for_part.removeprefix("from-")) if resume_state is None else resume_state
    ...         return Countdown(left)
    >>> source = Countdowns()
    >>> source.build_part("flow.in", "from-5", None).next_batch()
    [4]
    >>> source.build_part("flow.in", "from-5", 1).next_batch()
    [0]
    """

    discovery_interval: timedelta | None = None
    """How often to call `list_parts` again while the flow runs, to find new partitions.

    New ones are read from the next epoch on, which begins at once, by the workers that have the
    fewest; those that are gone go on being read. A source that looks for partitions never ends by
    itself. None (the default) calls `list_parts` at the start alone.
    """

    @abstractmethod
    def list_parts(self) -> list[str]:
        """Name the partitions that can be read.

        Called at the start by the process that leads the run, on behalf of all workers, and again
        as `discovery_interval` says, then on a thread of its own: it may block. A name must mean
        the same partition on all workers and in later runs.

        Raises:
            UnavailableError: They can't be had right now.
        """

    @abstractmethod
    def build_part(
        self, step_id: str, for_part: str, resume_state: S | None
    ) -> StatefulSourcePartition[X_co, S]:
        """Open one partition on the worker that owns it.

        Args:
            step_id: Full id of the input step.
            for_part: One of the names that `list_parts` gave.
            resume_state: What `snapshot` gave at the last durable epoch; None if the source was
                never read: start where it is to begin.

        Raises:
            UnavailableError: It can't be reached right now; ask again a little later.
        """

    def build_new_part(self, step_id: str, for_part: str) -> StatefulSourcePartition[X_co, S]:
        """Open a partition that was not there yet when the source was first read.

        It was found while the flow runs (see `discovery_interval`), or between two runs: the store
        has positions of other partitions of the step and none of this one. Whatever it holds came
        after the job had begun, so a source that begins elsewhere than at the start of its
        partitions must begin at the start of this one, or what came before it was found is
        skipped. As `build_part` without a state by default, which is right for all others.

        Args:
            step_id: Full id of the input step.
            for_part: One of the names that `list_parts` gave.

        Raises:
            UnavailableError: As in `build_part`.

        >>> class Letters(StatefulSourcePartition[str, int]):
        ...     def __init__(self, letters: str, at: int) -> None:
        ...         self._letters, self._at = letters, at
        ...
        ...     def next_batch(self) -> list[str]:
        ...         self._at += 1
        ...         return list(self._letters[self._at - 1 : self._at])
        ...
        ...     def snapshot(self) -> int:
        ...         return self._at
        >>> class FromTheEnd(FixedPartitionedSource[str, int]):
        ...     log = {"old": "abc", "new": "d"}
        ...
        ...     def list_parts(self) -> list[str]:
        ...         return list(self.log)
        ...
        ...     def build_part(
        ...         self, step_id: str, for_part: str, resume_state: int | None
        ...     ) -> Letters:
        ...         text = self.log[for_part]
        ...         return Letters(text, len(text) if resume_state is None else resume_state)
        ...
        ...     def build_new_part(self, step_id: str, for_part: str) -> Letters:
        ...         return Letters(self.log[for_part], 0)
        >>> FromTheEnd().build_part("flow.in", "old", None).next_batch()
        []
        >>> FromTheEnd().build_new_part("flow.in", "new").next_batch()
        ['d']
        """
        return self.build_part(step_id, for_part, None)


class DynamicSource(Source[X_co]):
    """A source of which every worker opens a partition of its own, without a position.

    Nothing is read again after a restart, so a crash may lose what was read since the last
    durable epoch. Prefer `FixedPartitionedSource` where the outside can be read again.

    >>> class Once(StatelessSourcePartition[str]):
    ...     def __init__(self, text: str) -> None:
    ...         self._texts = [text]
    ...
    ...     def next_batch(self) -> list[str]:
    ...         if not self._texts:
    ...             raise StopIteration
    ...         return [self._texts.pop()]
    >>> class Hello(DynamicSource[str]):
    ...     def build(self, step_id: str, worker_index: int, worker_count: int) -> Once:
    ...         return Once(f"worker {worker_index} of {worker_count}")
    >>> Hello().build("flow.in", 0, 2).next_batch()
    ['worker 0 of 2']
    """

    @abstractmethod
    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSourcePartition[X_co]:
        """Open this worker's partition.

        Args:
            step_id: Full id of the input step.
            worker_index: This worker, from 0.
            worker_count: How many workers there are.

        Raises:
            UnavailableError: The outside can't be reached right now; ask again a little later.
        """
