"""What the engine asks of a sink: the contract between a connector and the runtime.

A *sink* is a description that is safe to build on every worker; a *partition* is one open writer
of it, owned by one worker. The runtime (and the testing kit) calls what is described here;
connectors and users subclass it. The names and rules are those of Bytewax 0.21. Taking part in
epochs (`begin`, `published`, `flush`, `prepare`, `publish`) is added and optional: a sink written
for Bytewax has none of these and works unchanged. `docs/sinks.md` tells how to write a sink.

The life of a partition, always on one thread:

1. `build_part` (or `build`), with the state of the last durable epoch if there is one;
2. `begin(session)`, from which on no earlier run of the job can publish in its place;
3. `published`; if that names an epoch before the last durable one, `publish` of the rows that
   were kept for it;
4. for each epoch e: `write_batch` any number of times → `flush` → `prepare(e)` → `snapshot`
   → the epoch becomes durable on all workers → `publish(e, rows)`;
5. `close`, in an orderly end. A crash calls nothing.

Each partition is one *shard* of its sink's output. After a restart every shard of the last durable
epoch goes through 1 to 3 before any record is read. Where the number of workers or the list of
parts has changed, the shards of the last run are *settled* first, those with a marker or a state:
a partition is built as that run built it, with the worker's old index and count, or by its name
with its last state; then `begin`, `published`, `publish` if it is behind, `close`. So a shard may
begin more than once in a generation: once to be settled, once to be written.

The runtime promises:

- An epoch is durable only after all of its records went through `write_batch` and `flush` did not
  say `PENDING`, on every sink.
- From the first `flush` of an epoch until its `snapshot` no record of the next one is written.
  Records of e+1 may be written between `snapshot` of e and `publish(e, rows)`.
- `publish(e, rows)` is called only once e is durable, with the very rows that `prepare(e)` gave,
  and e+1 does not become durable before it is done. It may be called again for the same epoch
  after a restart, unless `published` says that the epoch is out.
- Epochs go up, also over restarts; an epoch that did not become durable may come again.
- What says `PENDING` is asked again, in the same order and with the same arguments, until it says
  something else. So nothing here needs to block: the whole worker waits on each of these calls, and
  between two questions it goes on with other work if it is `publish` that is pending.
- Every hook is called on every partition. Those that don't override them answer at once.

Without a recovery store the calls are the same and nothing is kept over a restart: each run is a
job of its own, with a new random store id and generation 1.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, Literal, TypeAlias

from engine.connectors._source import S, X

Delivery: TypeAlias = Literal["at-least-once", "exactly-once"]
"""How often a record reaches the target if the job crashes and resumes."""


class Pending(Enum):
    """Type of `PENDING`, which is its only member, so that a type checker can tell it apart."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING
"""What `flush`, `prepare` and `publish` give to say "not yet, ask me again"."""


@dataclass(frozen=True, slots=True)
class SinkSession:
    """Who is about to publish: which shard of which job, in which of its runs.

    All fields but `generation` name the shard for as long as the job lives: they are the key
    under which a sink keeps its marker at the target.

    >>> SinkSession(store_id="5f0c1f", generation=3, step_id="flow.out", shard="worker-0")
    SinkSession(store_id='5f0c1f', generation=3, step_id='flow.out', shard='worker-0')

    Attributes:
        store_id: The recovery store, by a random text. A store that was restored from a savepoint
            has a new one, so it shares no marker with the job that goes on from the original; one
            that was restored to take over from it has the original's.
        generation: Goes up with each start of the job on this store, and with those that follow a
            failure within one run; not by one where a store was restored.
        step_id: Full id of the output step.
        shard: The name of the part, or "worker-0", "worker-1", … for a `DynamicSink`.
    """

    store_id: str
    generation: int
    step_id: str
    shard: str


class SinkPartition(ABC, Generic[X]):
    """What both kinds of sink partition have in common: their part in epochs, all optional.

    Don't subclass this one; see `StatefulSinkPartition` and `StatelessSinkPartition`. The module
    says in which order the runtime calls what.
    """

    def begin(self, session: SinkSession) -> None:
        """Lock out earlier runs of the job, which may be paused and wake up at any time.

        Called once, after the build and before `published`, and may block for a while. A sink that
        publishes *fences* here: it leaves the generation at the target such that `publish` fails
        in every partition of the same store id, step and shard that began with a lower one. The
        same generation may begin again. Does nothing by default, which is right for a sink that
        has no part in epochs.

        Raises:
            FencedError: A higher generation has begun already.
        """
        # Doing nothing is right for a partition that publishes nothing.

    def flush(self) -> Pending | None:
        """Hand over what `write_batch` has taken: the epoch becomes durable only after this.

        A sink that buffers starts sending here and says `PENDING` until the target has
        acknowledged all of it. Does nothing by default, which is right for a sink whose
        `write_batch` returns only when the records are out.

        Raises:
            Exception: Some record could not be delivered. The epoch is given up, and the run ends.
        """
        return None

    def prepare(self, epoch: int) -> list[bytes] | Pending:
        """Give the records of the epoch away, to be kept with its state: for exactly-once sinks.

        Nothing of them may be visible at the target yet. What comes back in `publish` is all that
        a later run gets to know, so the rows must hold all that is needed. Gives no rows by
        default.
        """
        del epoch
        return []

    def publish(self, epoch: int, rows: list[bytes]) -> Pending | None:
        """Make the rows of a durable epoch visible, all or none of them.

        One transaction of the target writes the rows and a marker that `epoch` is out, which
        `published` reads: then a repeated call can be told from a first one. It has to find out
        in the same transaction whether a higher generation has begun. Called for every epoch, with
        no rows too.

        Raises:
            FencedError: A higher generation has begun. Nothing was changed.
            Exception: The rows can't be published. They are kept: the next run tries again.
        """
        if rows:
            msg = f"{type(self).__name__} gave rows in prepare(), so it must override publish()"
            raise NotImplementedError(msg)
        del epoch
        return None

    def published(self) -> int | None:
        """Name the last epoch that is out at the target, by the marker; 0 if there is none yet.

        None, the default, says that this sink keeps no marker: nothing is published again after a
        restart. Called once, after `begin` and before any record, and may block. It is enough to
        say what is there: the runtime compares it with the epoch that its log notes as published,
        and where the target says less (it lost the marker, or is not the same target) the run
        stops with an error. So nothing is published a second time by guessing.
        """
        return None

    def close(self) -> None:
        """Let go of what the partition holds: files, sockets, threads.

        Called after the last epoch's `publish`, and after an error, possibly more than once; not
        at all after a crash. Must not write what `flush` has not.
        """
        # Doing nothing is right for a partition that holds nothing.


class StatefulSinkPartition(SinkPartition[X], Generic[X, S]):
    """A writer of one named partition that can go back to where it was.

    A minimal one, which truncates its target to the last durable epoch:

    >>> target: list[str] = []
    >>> class ListPartition(StatefulSinkPartition[str, int]):
    ...     def __init__(self, resume_state: int | None) -> None:
    ...         del target[resume_state or 0 :]
    ...
    ...     def write_batch(self, values: list[str]) -> None:
    ...         target.extend(values)
    ...
    ...     def snapshot(self) -> int:
    ...         return len(target)
    >>> part = ListPartition(None)
    >>> part.write_batch(["a"])
    >>> state = part.snapshot()
    >>> part.write_batch(["lost in a crash"])
    >>> ListPartition(state).write_batch(["b"])
    >>> target
    ['a', 'b']
    """

    @abstractmethod
    def write_batch(self, values: list[X]) -> None:
        """Write values, in order. The keys that they came with were only for the routing."""

    @abstractmethod
    def snapshot(self) -> S:
        """Give the position after what was written so far.

        It comes back as `resume_state` after a restart. What is returned must not change
        afterwards, and must be made of plain values or be picklable.
        """


class StatelessSinkPartition(SinkPartition[X]):
    """A worker's own writer, without a position."""

    @abstractmethod
    def write_batch(self, items: list[X]) -> None:
        """Write items, in order."""


class Sink(ABC, Generic[X]):
    """Where records go. Don't subclass this one; see `FixedPartitionedSink` and `DynamicSink`.

    Attributes:
        delivery: What this sink promises for a run with recovery; printed at the start of a run.
            "at-least-once" unless a sink says better: it does so if its partitions take back, or
            never show, what was written after the last durable epoch.
    """

    delivery: Delivery = "at-least-once"


class FixedPartitionedSink(Sink[tuple[str, X]], Generic[X, S]):
    """A sink with named partitions, each written by one worker and resumed where it stopped.

    Takes `(key, value)` records and writes the values. All values of a key go to one partition, in
    order: number `part_fn(key) % n` of the `n` names of all workers in sorted order.

    >>> class Lines(StatefulSinkPartition[str, None]):
    ...     def __init__(self, name: str) -> None:
    ...         self._name = name
    ...
    ...     def write_batch(self, values: list[str]) -> None:
    ...         for value in values:
    ...             print(f"{self._name}: {value}")
    ...
    ...     def snapshot(self) -> None:
    ...         return None
    >>> class TwoPrinters(FixedPartitionedSink[str, None]):
    ...     def list_parts(self) -> list[str]:
    ...         return ["left", "right"]
    ...
    ...     def build_part(self, step_id: str, for_part: str, resume_state: None) -> Lines:
    ...         return Lines(for_part)
    >>> sink = TwoPrinters()
    >>> names = sorted(sink.list_parts())
    >>> name = names[sink.part_fn("some key") % len(names)]
    >>> sink.build_part("flow.out", name, None).write_batch(["some value"])
    left: some value
    """

    @abstractmethod
    def list_parts(self) -> list[str]:
        """Name the partitions that this worker can write.

        Called once on each worker at the start. A name must mean the same partition on all
        workers and in later runs; workers may name different ones.
        """

    def part_fn(self, item_key: str) -> int:
        """Give the number by which a key is routed; the remainder by the partitions is taken.

        Must be the same in every process and in later runs, so never `hash()`. By default Adler-32
        of the key's UTF-8 text; of bytes themselves, and of the literal of other keys.
        """
        return zlib.adler32(_key_bytes(item_key))

    @abstractmethod
    def build_part(
        self, step_id: str, for_part: str, resume_state: S | None
    ) -> StatefulSinkPartition[X, S]:
        """Open one partition on the worker that owns it, and undo what is after its state.

        Args:
            step_id: Full id of the output step.
            for_part: One of the names that `list_parts` gave, in this run or in the last one.
            resume_state: What `snapshot` gave at the last durable epoch; None if this partition
                was never in one: what an earlier run left is not part of the output.
        """


class DynamicSink(Sink[X]):
    """A sink of which every worker opens a partition of its own, without a position.

    >>> class Printer(StatelessSinkPartition[str]):
    ...     def write_batch(self, items: list[str]) -> None:
    ...         print(*items)
    >>> class Print(DynamicSink[str]):
    ...     def build(self, step_id: str, worker_index: int, worker_count: int) -> Printer:
    ...         return Printer()
    >>> sink = Print()
    >>> sink.delivery
    'at-least-once'
    >>> sink.build("flow.out", 0, 1).write_batch(["a", "b"])
    a b
    """

    @abstractmethod
    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[X]:
        """Open this worker's partition.

        Args:
            step_id: Full id of the output step.
            worker_index: This worker, from 0; a worker of the last run if that one's output is to
                be settled.
            worker_count: How many workers there are, or were in that run.
        """


def _key_bytes(key: object) -> bytes:
    if isinstance(key, str):
        # A lone surrogate (from an undecodable file name, say) is a legal key like any other.
        return key.encode("utf-8", "surrogatepass")
    return key if isinstance(key, bytes) else repr(key).encode()
