"""The edge of a step to itself, over which its actors send messages to those of other workers.

It closes a circle, so its barriers can't be waited for as those of other edges are. The stage
aligns without it, and once it has sent its barrier on, here too, the epoch of this worker waits
until that of each other worker has come: what lies before that was sent in the epoch, and is saved
with it as on its way (Chandy and Lamport, "Distributed Snapshots", 1985). A barrier that comes
before the stage is aligned holds its channel: what lies behind is of the next epoch.

At the end of input all of it is over when every worker is quiet, and each message that was sent has
been received: counted for each pair of workers, for then one look is enough, whenever each of the
counts was taken (Mattern, "Algorithms for distributed termination detection", 1987).
"""

from __future__ import annotations

from typing import Any, Protocol

from engine.runtime._channel import Channel
from engine.runtime._ids import WorkerIndex
from engine.runtime._messages import Barrier, Quiet


class Way(Protocol):
    """The way to all workers: `engine.runtime._stage.Sender`."""

    def has_room(self) -> bool:
        """Whether all of them have taken most of what they were sent."""
        ...

    def send_to(self, receiver: WorkerIndex, batch: list[Any]) -> None:
        """Send messages to one of them."""
        ...

    def broadcast(self, item: Any) -> None:
        """Send something that needs no room to all of them, this one too."""
        ...


class Feedback:
    """One worker's end of the edge.

    Args:
        sender: The way to all workers. What actors of this one send to each other doesn't take it.
        channels: From each worker.
    """

    def __init__(self, sender: Way, channels: list[Channel]) -> None:
        self.channels = channels
        self.open = False
        """The stage has passed a barrier, and what was on its way isn't saved yet."""
        self._sender = sender
        self._missing: set[WorkerIndex] = set()
        """Those whose barrier hasn't come."""
        workers = len(channels)
        self._sent = [0] * workers
        self._received = [0] * workers
        self._said: Quiet | None = None
        self._heard: dict[int, Quiet] = {}

    # Messages

    def has_room(self) -> bool:
        """Whether other workers keep up with what they are sent. Who sends need not ask."""
        return self._sender.has_room()

    def send(self, receiver: WorkerIndex, batch: list[Any]) -> None:
        """Send messages, whether there is room or not."""
        self._sent[receiver] += len(batch)
        self._sender.send_to(receiver, batch)

    def receive(self, sender: WorkerIndex, batch: list[Any]) -> bool:
        """Note messages that have come; whether they are of the epoch that isn't prepared yet."""
        self._received[sender] += len(batch)
        return sender in self._missing

    def exchanged(self) -> tuple[int, int]:
        """How many messages were sent to other workers, and received from them."""
        return sum(self._sent), sum(self._received)

    # Epochs

    def pass_barrier(self) -> None:
        """The stage is aligned, and about to let its channels go: wait for those that lag."""
        self._missing = {c.sender for c in self.channels if not c.blocked}
        self.open = True

    def on_barrier(self, channel: Channel, barrier: Barrier, epoch: int) -> None:
        """A barrier has come, which has blocked its channel.

        Args:
            channel: From where.
            barrier: The barrier.
            epoch: The one that the stage works on.
        """
        if barrier.epoch == epoch:
            # Too early: the channel is held until the stage is aligned.
            return
        channel.blocked = False
        self._missing.discard(channel.sender)

    @property
    def complete(self) -> bool:
        """Whether the epoch that is being saved has all that was on its way, for the first time."""
        return self.open and not self._missing

    # The end

    def say_quiet(self) -> bool:
        """Tell all workers that nothing waits here, if they don't know; whether there was news."""
        quiet = Quiet(tuple(self._sent), tuple(self._received))
        if quiet == self._said:
            return False
        self._said = quiet
        self._sender.broadcast(quiet)
        return True

    def on_quiet(self, sender: WorkerIndex, quiet: Quiet) -> None:
        """Another worker, or this one, is quiet."""
        self._heard[sender] = quiet

    @property
    def has_news(self) -> bool:
        """Whether `say_quiet` has something to say."""
        said = self._said
        return said is None or said != Quiet(tuple(self._sent), tuple(self._received))

    @property
    def all_quiet(self) -> bool:
        """Whether all messages that were ever sent are handled, and no more will be."""
        heard = self._heard
        workers = range(len(self.channels))
        return len(heard) == len(workers) and all(
            heard[i].sent[j] == heard[j].received[i] for i in workers for j in workers
        )
