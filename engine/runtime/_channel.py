"""Bounded queues between stages, with credit and alignment.

A channel belongs to one edge, one sender and one receiver. Its sender may send a batch while it
has credit; the receiver gives credit back when it takes a batch out. Credit is counted in batches
and in bytes: those of the frame between processes, an estimate where a batch is handed over as it
is. Barriers, watermarks and ends need no credit, so a full channel never holds up an epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import InternalError
from engine.runtime._batch import kind_of
from engine.runtime._ids import EdgeId, WorkerIndex
from engine.runtime._messages import HOLD_US, LEFT_OUT_US, Barrier, CaughtUp, End, Quiet, Watermark

CHANNEL_BATCHES_MAX = 8
"""How many batches may lie in a channel; a sender may overdraw by what one batch became."""
CHANNEL_BYTES_MAX = 1 << 20
"""How many bytes; likewise."""
_WORKER_BYTES_MAX = 16 << 20
"""How many bytes may lie in all channels of a worker together."""


_ROOMLESS = (Barrier, Watermark, CaughtUp, Quiet, End)


@dataclass(frozen=True, slots=True)
class Room:
    """How much a channel holds."""

    batches: int
    nbytes: int


def channel_room(batches: int, nbytes: int, channels: int) -> Room:
    """The room of one of so many channels of a worker: its bytes at most, or an equal share."""
    return Room(batches, min(nbytes, _WORKER_BYTES_MAX // max(1, channels)))


class Channel:
    """The receiving side: what has come and wasn't consumed yet."""

    __slots__ = ("blocked", "edge", "ended", "items", "sender")

    def __init__(self, edge: EdgeId, sender: WorkerIndex) -> None:
        self.edge = edge
        self.sender = sender
        self.items: deque[Any] = deque()
        self.blocked = False
        """A barrier was taken out and the stage isn't aligned yet."""
        self.ended = False

    def take(self) -> Any:
        """The next item; a barrier blocks the channel until its stage is aligned."""
        item = self.items.popleft()
        kind = item.__class__
        if kind is Barrier:
            self.blocked = True
        elif kind is End:
            self.ended = True
        return item

    def put_watermark(self, watermark: Watermark) -> None:
        """Add one in place of those at the end that say less: they need no credit.

        So there are no more of them in the channel than batches and barriers, and a few.
        """
        items, at_us = self.items, watermark.at_us
        plain = HOLD_US < at_us < LEFT_OUT_US
        while items and items[-1].__class__ is Watermark:
            last_us = items[-1].at_us
            # How far it is still counts where the next one says to leave it out.
            if HOLD_US < last_us < LEFT_OUT_US and not (plain and last_us <= at_us):
                break
            items.pop()
        items.append(watermark)

    def put_caught_up(self, caught_up: CaughtUp) -> None:
        """Add it in place of the last item, if that says the same or the contrary."""
        if self.items and self.items[-1].__class__ is CaughtUp:
            self.items.pop()
        self.items.append(caught_up)

    def batches(self) -> Iterator[Any]:
        """What is in it and takes room."""
        return (item for item in self.items if item.__class__ not in _ROOMLESS)

    def nbytes(self) -> int:
        """About how much the batches in it take."""
        batches = self.batches()
        return sum(kind_of(batch).nbytes(batch) for batch in batches)


class Credit:
    """The sending side: how much more a channel takes. May go below zero by one batch."""

    __slots__ = ("_under_way", "batches", "nbytes")

    def __init__(self, room: Room) -> None:
        self.batches = room.batches
        self.nbytes = room.nbytes
        self._under_way: deque[int] = deque()
        """The sizes of the batches that were sent and not taken out yet, the oldest first."""

    def spend(self, nbytes: int) -> None:
        """A batch of that size goes into the channel."""
        self.batches -= 1
        self.nbytes -= nbytes
        self._under_way.append(nbytes)

    def give_back(self, batches: int) -> None:
        """The receiver has taken so many batches out, in the order in which they went in.

        Raises:
            InternalError: There weren't so many in the channel.
        """
        under_way = self._under_way
        if batches > len(under_way):
            msg = f"credit for {batches} batches came back, and {len(under_way)} were under way"
            raise InternalError(msg)
        self.batches += batches
        for _ in range(batches):
            self.nbytes += under_way.popleft()
