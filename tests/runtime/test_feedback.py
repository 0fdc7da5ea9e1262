"""The edge of a step to itself: which messages an epoch saves, and when all is over."""

from __future__ import annotations

from typing import Any

from engine.runtime._channel import Channel
from engine.runtime._feedback import Feedback
from engine.runtime._ids import EdgeId, Epoch, WorkerIndex
from engine.runtime._messages import Barrier, Quiet

ME, OTHER, THIRD = map(WorkerIndex, range(3))


class FakeWay:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Any]] = []
        self.said: list[Any] = []

    def has_room(self) -> bool:
        return True

    def send_to(self, receiver: WorkerIndex, batch: list[Any]) -> None:
        self.sent.append((receiver, batch))

    def broadcast(self, item: Any) -> None:
        self.said.append(item)


def feedback(workers: int = 3) -> tuple[Feedback, list[Channel]]:
    channels = [Channel(EdgeId(1), WorkerIndex(i)) for i in range(workers)]
    return Feedback(FakeWay(), channels), channels


def give(feedback: Feedback, channel: Channel, epoch: int, at: int) -> None:
    """Have a barrier come out of a channel while the stage works on epoch `at`."""
    channel.items.append(Barrier(Epoch(epoch)))
    feedback.on_barrier(channel, channel.take(), at)


def test_what_comes_before_a_late_barrier_is_of_the_epoch_before():
    """And what comes behind it isn't."""
    edge, channels = feedback(2)
    assert not edge.receive(OTHER, ["early"])
    edge.pass_barrier()
    assert edge.receive(OTHER, ["on its way"])
    give(edge, channels[ME], 1, at=2)
    assert not edge.complete
    give(edge, channels[OTHER], 1, at=2)
    assert edge.complete
    assert not edge.receive(OTHER, ["next"])
    assert not channels[OTHER].blocked


def test_an_early_barrier_holds_its_channel():
    """Until the stage is aligned, and then nothing of that channel is waited for."""
    edge, channels = feedback(2)
    give(edge, channels[OTHER], 1, at=1)
    assert channels[OTHER].blocked
    edge.pass_barrier()
    assert not edge.receive(OTHER, ["next"])
    give(edge, channels[ME], 1, at=2)
    assert edge.complete


def test_it_is_over_when_each_message_that_was_sent_has_come():
    """Not before all workers have said so, and each says it once for the same counts."""
    edge, _ = feedback(2)
    edge.send(OTHER, ["a", "b"])
    assert edge.say_quiet()
    assert not edge.say_quiet()
    edge.on_quiet(ME, Quiet((0, 2), (0, 0)))
    assert not edge.all_quiet
    edge.on_quiet(OTHER, Quiet((0, 0), (1, 0)))
    assert not edge.all_quiet
    edge.on_quiet(OTHER, Quiet((0, 0), (2, 0)))
    assert edge.all_quiet


def test_counts_of_different_times_that_happen_to_add_up_are_not_enough():
    """One was sent and hasn't come by the first count, another one has come that none counts."""
    edge, _ = feedback(3)
    edge.on_quiet(ME, Quiet((0, 0, 0), (0, 0, 0)))
    edge.on_quiet(OTHER, Quiet((1, 0, 0), (0, 0, 0)))
    edge.on_quiet(THIRD, Quiet((0, 0, 0), (1, 0, 0)))
    assert not edge.all_quiet
