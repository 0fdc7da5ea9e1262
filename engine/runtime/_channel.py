"""Bounded queues between stages, with credit and alignment.

A channel belongs to one edge, one sender and one receiver. Its sender may send a batch while it
has credit; the receiver gives credit back when it takes a batch out. Barriers and ends need no
credit, so a full channel never holds up an epoch.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from engine.runtime._ids import EdgeId, WorkerIndex
from engine.runtime._messages import Barrier, End

CHANNEL_BATCHES_MAX = 8
"""How many batches may lie in a channel; a sender may overdraw by what one batch became."""


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


class Credit:
    """The sending side: how many more batches a channel takes. May go below zero by one batch."""

    __slots__ = ("batches",)

    def __init__(self, batches: int) -> None:
        self.batches = batches
