"""Readers that watch a job from outside, while it runs and when it was stopped in its middle."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from confluent_kafka import KafkaException, Message

from tests.kafka.client import WAIT_S
from tests.kafka.counting import Counting, Output, check_order, wait_until

POLL_S = 0.005
SETTLING_S = 20.0


class Watch:
    """Reads what is committed, and which epochs are out, for as long as it is entered.

    Two threads: a consumer of the output that reads committed messages only, and a reader of the
    sink's markers, which asks again and again and then looks at the store: an epoch must never be
    out that isn't durable.

    Args:
        job: Whose.

    Attributes:
        messages: What was seen so far, by partition in order.
        looks: How often markers were compared with the store.
    """

    def __init__(self, job: Counting) -> None:
        self.messages: list[Message] = []
        self.looks = 0
        self._early: list[tuple[dict[str, int], int]] = []
        self._job = job
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._read, self._compare)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._see_all()
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        if kind is None:
            self._check()

    def wait_for_more(self, run: subprocess.Popen[bytes], share: float) -> None:
        """Wait until a share of all there will be has come on top, or the run has ended."""
        wanted = len(self.messages) + share * len(self._job.inputs)
        wait_until(lambda: run.poll() is not None or len(self.messages) >= wanted, "output")

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        assert self._early == []
        assert self.looks
        check_order(self.messages)

    def _see_all(self) -> None:
        """Wait for the last messages, which may be on their way to the consumer."""
        there = len(self._job.kafka.read_all(self._job.target))
        until_s = time.monotonic() + WAIT_S
        while len(self.messages) < there and self._error is None:
            assert time.monotonic() < until_s, f"saw {len(self.messages)} of {there}"
            time.sleep(POLL_S)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as ex:  # noqa: BLE001 - raised again at the end
            self._error = ex

    def _read(self) -> None:
        with contextlib.closing(self._job.kafka.consumer(self._job.target)) as consumer:
            while not self._over.is_set():
                found = consumer.consume(500, 0.05)
                self.messages += [message for message in found if message.error() is None]

    def _compare(self) -> None:
        while not self._over.wait(POLL_S):
            with contextlib.suppress(KafkaException):  # The broker may be dead just now.
                # First the markers: what they say must be durable by the time we look.
                markers = self._job.markers()
                epoch = self._job.epoch()
                self.looks += bool(markers)
                if any(marker > epoch for marker in markers.values()):
                    self._early.append((markers, epoch))


@dataclass(frozen=True)
class Stopped:
    """What there is when all processes of a job were killed at once.

    Attributes:
        epoch: The last that is durable.
        behind: Shards that have not published it.
        visible: How many messages a reader of committed ones can see.
        durable: How many inputs the durable epochs have counted.
    """

    epoch: int
    behind: int
    visible: int
    durable: int


def look_at_stopped(job: Counting) -> Stopped:
    """See that exactly the durable epochs are out, or all of them but the last.

    Raises:
        AssertionError: Something is visible that isn't durable; or all shards say that the last
            epoch is out, and something of it is missing.
    """
    manifest = job.manifest()
    if manifest is None or not manifest.epoch:
        assert job.kafka.read_all(job.target) == []
        return Stopped(0, 0, 0, 0)
    positions = job.positions()
    durable = {spot for spot in job.inputs if spot[1] < positions.get(spot[0], 0)}
    shards = [f"worker-{number}" for number in range(manifest.workers)]
    # What Kafka was told last may take a moment to be done.
    until_s = time.monotonic() + SETTLING_S
    while True:
        markers = job.markers()
        visible = [Output.from_message(m).of for m in job.kafka.read_all(job.target)]
        assert max(markers.values(), default=0) <= manifest.epoch
        assert len(visible) == len(set(visible))
        assert set(visible) <= durable
        behind = sum(markers.get(shard, 0) < manifest.epoch for shard in shards)
        if behind or set(visible) == durable:
            return Stopped(manifest.epoch, behind, len(visible), len(durable))
        assert time.monotonic() < until_s, f"{len(durable - set(visible))} are missing"
