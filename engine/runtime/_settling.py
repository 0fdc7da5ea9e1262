"""What is to be done with a sink's shard that an earlier run wrote, before the first record.

Most shards go on: a worker opens them and, where the target is behind the store, publishes what was
kept for the last epoch (`engine.runtime._sink_node`). Those that nobody will open as they were, for
the workers are others or the sink has fewer partitions, are settled by themselves: opened as the
run before opened them, brought up to the last epoch, closed (`engine.runtime._store_start`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.connectors import PENDING, SinkPartition, SinkSession
from engine.errors import ConnectorError, InconsistentPartitionsError
from engine.operators._shown import shown
from engine.runtime._failure import blaming, name_of
from engine.runtime._ids import Epoch


@dataclass(frozen=True, slots=True)
class KnownShard:
    """What the store knows of a shard."""

    step_id: str
    name: str
    epoch: Epoch
    """The last that was committed."""
    noted: int | None
    """The last epoch that was known to be out when that one was committed; None if the shard kept
    no marker."""
    rows: list[bytes]
    """What it gave away for the last epoch."""

    def is_behind(self, out: int | None) -> bool:
        """Whether the rows are still to be published.

        Args:
            out: What the target says: the last epoch that is out, or None if there is no marker.

        Raises:
            InconsistentPartitionsError: That can't be right.
        """
        if out is None:
            if self.noted is None or not self.rows:
                return False
            raise InconsistentPartitionsError(self._marker_is_gone())
        noted = self.noted or 0
        if noted <= out <= self.epoch:
            return out < self.epoch
        lost = f"only epoch {out} is" if out else "nothing is"
        said = (
            f"the store knows that epoch {noted} is out, but at the target {lost}: it has lost its "
            "marker, or is another target"
            if out < noted
            else f"at the target epoch {out} is out, but the store is at epoch {self.epoch}: it "
            "is an older copy"
        )
        msg = (
            f"shard {self.name!r} of sink {self.step_id!r}: {said}. Publishing again might double "
            "records. Bring target and store back together, or begin with a new store"
        )
        raise InconsistentPartitionsError(msg)

    def _marker_is_gone(self) -> str:
        return (
            f"shard {self.name!r} of sink {self.step_id!r} kept {len(self.rows)} rows of epoch "
            f"{self.epoch} to publish them exactly once, and the sink is not of that kind any "
            "more, so nobody knows whether they are out. Run the sink once more as it was, until "
            "an epoch without records has ended; or, if they are out or not needed, forget them: "
            f"`python -m engine.recovery drop-step` with the store's folder and {self.step_id}"
        )


@dataclass(frozen=True, slots=True)
class OldShard:
    """A shard that is to be settled."""

    known: KnownShard
    session: SinkSession
    build: Callable[[], Any]
    """Opens it as the run before did."""


def settle(shards: Iterable[OldShard], check: Callable[[], None]) -> Iterator[None]:
    """Bring shards up to the last epoch, one after the other; yields while one is pending.

    Args:
        shards: Which.
        check: Raises if this run is not the newest one any more; called before each is opened.

    Raises:
        EngineRuntimeError: A target can't be reached, or says what can't be right. Those before it
            are settled; doing it again changes nothing about them.
    """
    for shard in shards:
        doing = f"settling shard {shard.known.name!r} of the run before"
        with blaming(shard.known.step_id, doing):
            check()
            yield from _settle(shard)


def _settle(shard: OldShard) -> Iterator[None]:
    known = shard.known
    part = as_partition(known.name, shard.build())
    try:
        # First fence, then read: the other way round an earlier run could publish in between.
        part.begin(shard.session)
        if known.is_behind(part.published()):
            while part.publish(known.epoch, known.rows) is PENDING:
                yield
    except BaseException as ex:
        try:
            part.close()
        except Exception as closing:  # noqa: BLE001 - the first error is the one to report
            ex.add_note(f"and then, in closing it: {name_of(closing)}")
        raise
    part.close()


def as_partition(name: str, part: Any) -> SinkPartition[Any]:
    """What a sink built, seen to be a partition.

    Raises:
        ConnectorError: It is none.
    """
    if not isinstance(part, SinkPartition):
        msg = f"what was built for partition {name!r} must be a partition; got {shown(part)}"
        raise ConnectorError(msg)
    return part  # pyright: ignore[reportUnknownVariableType]
