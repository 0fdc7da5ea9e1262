"""Watermarks of steps with a stream clock: how far event time is, over all partitions and workers.

A watermark says that no record comes any more that is older, if all keep to the clock's wait. It
is made of the latest time of each source partition, and so only where it is known which partition
a record is from: before it changes workers. There a `Tracker` is told of each batch, and what it
makes of them goes to the step: as a `Watermark` through the channels of the edge, behind the
batches that it counts (`Outlet`), or at once where nothing lies between (`StepWatermark` asks the
tracker). The step takes the lowest of what all its channels said last. It never goes back.

*Left out* are partitions that have ended, and those that have caught up and were silent for a
while. Where all are left out nothing is waited for, and the watermark stays where it is: what
lies open closes when more comes, or at the end of input.

*Only after a whole event of the stage* (a batch of a source or of a channel, with all that became
of it; a timer) is a watermark sent or shown to a step: a stream may be parted and merged before
it comes to a clock, and what one part says must not make the other part late.

*Consistent with epochs.* A watermark is in-band, so a barrier parts the same records and the same
watermarks for everybody: a channel that gave its barrier is left alone with its watermarks too,
until the stage is aligned. The latest times are saved where they are noted, at the barrier of
that stage, like the positions of sources; the watermark of the step at its own. What channels
said last isn't saved: senders begin by saying it again. After a restart the step goes on from the
highest watermark that any of its workers had saved, because each of these has closed what lies
before its own, and keys may have moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from engine.operators._kernels import KeyedLogic, StreamClock
from engine.runtime._counts import WatermarkSnapshot
from engine.runtime._messages import HOLD_US, LEFT_OUT_US, CaughtUp, Watermark
from engine.runtime._ports import Clock

_LOOK_AGAIN_S = 0.05
"""When to look again at a partition that isn't known to be silent yet."""
_LOOK_AT_IDLE_S = 1.0
"""How often to see, at most, that a partition that was left out is still to be left out."""

Push = Callable[[list[Any]], None]


class Origin(Protocol):
    """A source partition, as far as a clock wants to know it."""

    name: str
    empty_polls: int
    """How often it was asked and gave nothing."""

    def caught_up(self) -> bool:
        """Whether it is open, can be reached, and knows of nothing more to read."""
        ...

    def wait_s(self, now_s: float) -> float:
        """In how many seconds it is to be asked again; 0 at once."""
        ...


def partition_row(port: int, step_id: str, name: str) -> str:
    """Under which name the latest time of a source partition is saved; as unique as its parts are.

    It is a row of the step whose clock it is. No name of a step has a NUL in it.
    """
    return f"{port}\0{step_id}\0{name}"


def worker_row(port: int, worker: int | str) -> str:
    """As `partition_row`, for what a worker can't tell apart."""
    return f"{port}\0\0{worker}"


def watermark_row(worker: int) -> str:
    """Under which name a worker's watermark of a step is saved."""
    return f"\0{worker}"


def step_row(worker: int | str) -> str:
    """Under which name a worker saves something for a step as a whole; no clock's is like it."""
    return f"step\0{worker}"


class Upstream:
    """All that records of a stage may come from: its own partitions, and those behind channels.

    As an `Origin` it stands for what a clock can't tell apart.
    """

    name = ""
    empty_polls = 0

    def __init__(self) -> None:
        self._partitions: set[Origin] = set()
        self._said: dict[Any, bool] = {}
        self.heard = True
        """A channel has said something that wasn't told on yet."""

    def add(self, partition: Origin) -> None:
        """A source of the stage has a partition."""
        self._partitions.add(partition)

    def remove(self, partition: Origin) -> None:
        """It has ended."""
        self._partitions.discard(partition)

    def say(self, channel: Any, *, caught_up: bool) -> None:
        """Note what a channel says."""
        self._said[channel] = caught_up
        self.heard = True

    def caught_up(self) -> bool:
        """Whether all has been read that was there."""
        return all(self._said.values()) and all(p.caught_up() for p in self._partitions)

    def wait_s(self, now_s: float) -> float:  # noqa: ARG002 - as of a partition
        """Nobody can ask it."""
        return math.inf


class _Entry:
    """What a clock knows of one partition, or of all that it can't tell apart."""

    __slots__ = (
        *("ended", "heard_s", "idle", "lagged", "latest_us"),
        *("polls_before", "polls_looked", "row", "saved_us"),
    )

    def __init__(self, row: str, latest_us: int) -> None:
        self.row = row
        self.latest_us = latest_us
        self.saved_us: int | None = None
        self.heard_s = 0.0
        """When its silence began."""
        self.polls_before = 0
        """How often it had been asked in vain by then."""
        self.polls_looked: int | None = None
        """And when it was first looked at after a silence that was long enough."""
        self.idle = False
        self.ended = False
        self.lagged = False
        """It had not caught up when it was last looked at."""

    def begin_silence(self, origin: Origin | None, now_s: float) -> None:
        """Something has come from it, or it was silent for another reason than having nothing."""
        self.heard_s = now_s
        self.polls_looked = None
        if origin is not None:
            self.polls_before = origin.empty_polls


class Tracker:
    """What one clock knows on one worker: the latest time of each partition.

    Args:
        clock: The clock.
        port: The step's input on which it stands.
        time: Tells how long partitions are silent.
        saved: What was saved for the step.
    """

    def __init__(
        self, clock: StreamClock, port: int, time: Clock, saved: Mapping[str, Any]
    ) -> None:
        self.latest_us_of = clock.latest_us
        self._wait_us = clock.wait_us
        self._idle_after_s = clock.idle_after_s
        self._port = port
        self._now_s = time.monotonic_s
        self._time_s = time.time_s
        self._saved = saved
        self._entries: dict[Origin | None, _Entry] = {}
        self._lowest_us = LEFT_OUT_US
        self._changed = True
        self.check_s = -math.inf
        """When to look for partitions that are silent, on the monotonic clock."""
        self._worker_ended: Callable[[], bool] | None = None
        self._upstream: Upstream | None = None

    # What happens to partitions

    def open(self, origin: Origin, step_id: str) -> None:
        """A partition is there: from now on it counts, though it may be long until it can be read.

        Args:
            origin: The partition.
            step_id: Of its source.
        """
        row = partition_row(self._port, step_id, origin.name)
        latest_us = self._saved.get(row)
        self._add(origin, row, latest_us)

    def open_worker(
        self, worker: int, workers: int, upstream: Upstream, ended: Callable[[], bool]
    ) -> None:
        """There are records that can't be told apart. They count together.

        Args:
            worker: This one.
            workers: How many there are.
            upstream: Where they come from.
            ended: Whether no more of them will come.
        """
        self._upstream = upstream
        prefix = worker_row(self._port, "")
        saved = {row: us for row, us in self._saved.items() if row.startswith(prefix)}
        row = worker_row(self._port, worker)
        if len(saved) == workers:
            latest_us = saved.get(row)
        else:
            # Of another number of workers: what any of them may still give, each may.
            latest_us = None if None in saved.values() else min(saved.values(), default=None)
        self._worker_ended = ended
        self._add(None, row, latest_us)

    def _add(self, origin: Origin | None, row: str, latest_us: int | None) -> None:
        latest_us = HOLD_US if latest_us is None else latest_us
        entry = self._entries[origin] = _Entry(row, latest_us)
        entry.begin_silence(origin, self._now_s())
        self._changed = True
        self.check_s = -math.inf

    def note(self, origin: Origin | None, latest_us: int | None) -> None:
        """A batch has come, with records up to that time."""
        if latest_us is None:
            return
        entry = self._entries[origin]
        entry.begin_silence(origin, self._now_s())
        if entry.idle:
            entry.idle = False
            self._changed = True
            self.check_s = min(self.check_s, entry.heard_s + self._idle_after_s)
        if latest_us > entry.latest_us:
            if entry.latest_us - self._wait_us <= self._lowest_us or entry.latest_us == HOLD_US:
                self._changed = True
            entry.latest_us = latest_us

    def wake(self, origin: Origin) -> None:
        """A partition can be read again: whatever there is to read, it begins anew to be silent."""
        entry = self._entries[origin]
        entry.begin_silence(origin, self._now_s())
        if entry.idle:
            entry.idle = False
            self._changed = True
        self.check_s = -math.inf

    def end(self, origin: Origin) -> None:
        """No more will come from a partition."""
        self._entries[origin].ended = True
        self._changed = True

    # What follows from it

    def lowest_us(self) -> int:
        """The watermark as far as it is for this clock to say; or `HOLD_US`, or `LEFT_OUT_US`."""
        if self._worker_ended is not None and self._worker_ended():
            self._worker_ended = None
            self._entries[None].ended = True
            self._changed = True
        if self._changed:
            self._changed = False
            times = [e.latest_us for e in self._entries.values() if not (e.idle or e.ended)]
            lowest_us = min(times, default=LEFT_OUT_US)
            if HOLD_US < lowest_us < LEFT_OUT_US:
                lowest_us = max(HOLD_US + 1, lowest_us - self._wait_us)
            self._lowest_us = lowest_us
        return self._lowest_us

    def check(self) -> None:
        """Look at the partitions that are silent, and at those that were left out for that."""
        now_s, check_s = self._now_s(), math.inf
        for origin, entry in self._entries.items():
            if entry.ended:
                continue
            due_s = now_s + _LOOK_AT_IDLE_S if entry.idle else entry.heard_s + self._idle_after_s
            if entry.idle or due_s <= now_s:
                due_s = self._look_at(origin or self._upstream, entry, now_s)
            check_s = min(check_s, due_s)
        self.check_s = check_s

    def _look_at(self, origin: Any, entry: _Entry, now_s: float) -> float:
        """Decide about a silent partition; gives when to look again."""
        was_idle, entry.idle = entry.idle, False
        lagged, entry.lagged = entry.lagged, not origin.caught_up()
        next_s = now_s + max(_LOOK_AGAIN_S, self._idle_after_s)
        if lagged or entry.lagged:
            # Its silence begins once it has caught up.
            entry.begin_silence(origin, now_s)
        elif was_idle or origin.wait_s(self._time_s()) > _LOOK_AGAIN_S:
            entry.idle = True
        elif origin.empty_polls == entry.polls_before:
            # Nobody has asked it: there is no room for what it would give, say.
            entry.begin_silence(origin, now_s)
        elif entry.polls_looked is None or entry.polls_looked == origin.empty_polls:
            # Has anybody lately?
            entry.polls_looked = origin.empty_polls
            next_s = now_s + _LOOK_AGAIN_S
        else:
            entry.idle = True
        self._changed = self._changed or entry.idle is not was_idle
        return now_s + _LOOK_AT_IDLE_S if entry.idle else next_s

    def changes(self) -> dict[str, Any]:
        """What is to be saved and wasn't yet."""
        changed: dict[str, Any] = {}
        for origin, entry in self._entries.items():
            known = entry.latest_us != HOLD_US
            if entry.latest_us != entry.saved_us and (known or origin is None):
                entry.saved_us = entry.latest_us
                changed[entry.row] = entry.latest_us if known else None
        return changed


class Outlet:
    """Where a clock stands before an edge to other workers: sends them what it says.

    Args:
        tracker: The clock's.
        broadcast: Sends something to all receivers.
    """

    def __init__(self, tracker: Tracker, broadcast: Callable[[Watermark], None]) -> None:
        self._tracker = tracker
        self._broadcast = broadcast
        self._sent_us = HOLD_US
        self.ended = False
        """Nothing may be sent any more."""

    def flush(self) -> bool:
        """Send what is new; whether there was something."""
        at_us = self._tracker.lowest_us()
        if at_us == self._sent_us or self.ended:
            return False
        self._sent_us = at_us
        self._broadcast(Watermark(at_us))
        return True


class Teller:
    """Tells later stages whether all has been read that was there; for clocks far behind.

    Args:
        upstream: That of the stage.
        broadcasts: Each sends something to all receivers of an edge.
    """

    def __init__(self, upstream: Upstream, broadcasts: list[Callable[[CaughtUp], None]]) -> None:
        self._upstream = upstream
        self._broadcasts = broadcasts
        self._told = False

    def look(self) -> None:
        """Tell it if it has changed."""
        self._upstream.heard = False
        caught_up = self._upstream.caught_up()
        if caught_up is not self._told:
            self._told = caught_up
            for broadcast in self._broadcasts:
                broadcast(CaughtUp(caught_up))


class WatermarkedNode(Protocol):
    """The node of a step with a watermark."""

    ended: bool
    logic: KeyedLogic

    def raise_watermark(self, at_us: int) -> None:
        """Tell the step, and hand on what it emits."""
        ...


class StepWatermark:
    """The watermark of a step on one worker.

    Args:
        node: The step's node.
        worker: This one.
        saved: What was saved for the step.
    """

    def __init__(self, node: WatermarkedNode, worker: int, saved: Mapping[str, Any]) -> None:
        self._node = node
        self._row = watermark_row(worker)
        before = [us for row, us in saved.items() if row.startswith("\0")]
        self.at_us: int | None = max(before, default=None)
        self._saved_us: int | None = None
        self._said_us: dict[Any, int] = {}
        """By channel, what it said last."""
        self._trackers: list[Tracker] = []
        self._changed = True
        if self.at_us is not None:
            node.logic.resume_watermark(self.at_us)

    def follow(self, tracker: Tracker) -> None:
        """Nothing lies between this clock and the step."""
        self._trackers.append(tracker)

    def say(self, channel: Any, at_us: int) -> None:
        """Note what a channel says: a time, `HOLD_US`, or `LEFT_OUT_US`."""
        self._said_us[channel] = at_us
        self._changed = True

    def flush(self) -> bool:
        """Tell the step if its watermark has risen; whether it has."""
        if not self._changed and not self._trackers:
            return False
        self._changed = False
        lowest_us = min(self._said_us.values(), default=LEFT_OUT_US)
        for tracker in self._trackers:
            lowest_us = min(lowest_us, tracker.lowest_us())
        if lowest_us in (HOLD_US, LEFT_OUT_US) or self._node.ended:
            return False
        if self.at_us is not None and lowest_us <= self.at_us:
            return False
        self.at_us = lowest_us
        self._node.raise_watermark(lowest_us)
        return True

    def changes(self) -> dict[str, Any]:
        """What is to be saved and wasn't yet."""
        if self.at_us == self._saved_us:
            return {}
        self._saved_us = self.at_us
        return {self._row: self.at_us}


class StageClocks:
    """All clocks and watermarks of a stage on one worker.

    Args:
        time: Tells how long partitions are silent.
    """

    def __init__(self, time: Clock) -> None:
        self.origin: Origin | None = None
        """The partition that the present batch is from; None if that can't be said."""
        self.trackers: list[tuple[str, Tracker]] = []
        """With the id of the step."""
        self.steps: list[tuple[str, StepWatermark]] = []
        """As above, in topological order."""
        self.outlets: list[Outlet] = []
        self.upstream = Upstream()
        self.teller: Teller | None = None
        """None where no clock wants to know."""
        self._tell_s = -math.inf
        self._now_s = time.monotonic_s

    def snapshots(self, now_s: float) -> Iterator[tuple[str, WatermarkSnapshot]]:
        """Where the watermark of each step is that has one, for those who look from outside.

        Args:
            now_s: By the wall clock.
        """
        for step_id, watermark in self.steps:
            if watermark.at_us is not None:
                at_s = watermark.at_us / 1_000_000
                yield step_id, WatermarkSnapshot(at_s, now_s - at_s)

    def flush(self) -> bool:
        """An event of the stage is over: let watermarks rise; whether one of them has changed."""
        changed = False
        for _, watermark in self.steps:
            changed = watermark.flush() or changed
        for outlet in self.outlets:
            changed = outlet.flush() or changed
        if self.teller is not None and self.upstream.heard:
            self.teller.look()
        return changed

    def wait_s(self) -> float:
        """In how many seconds `on_time` has something to do."""
        check_s = min((tracker.check_s for _, tracker in self.trackers), default=math.inf)
        if self.teller is not None:
            check_s = min(check_s, self._tell_s)
        return max(0.0, check_s - self._now_s())

    def on_time(self) -> bool:
        """Leave out partitions that have been silent; whether a watermark has changed for that."""
        for _, tracker in self.trackers:
            tracker.check()
        if self.teller is not None:
            self.teller.look()
            self._tell_s = self._now_s() + _LOOK_AT_IDLE_S
        return self.flush()

    def from_nowhere(self, push: Push) -> Push:
        """As `push`, for what a step emits on its own time, of whatever partition it may be."""

        def push_on(batch: list[Any]) -> None:
            origin, self.origin = self.origin, None
            push(batch)
            self.origin = origin

        return push_on

    def changes(self) -> dict[str, dict[str, Any]]:
        """What is to be saved at a barrier, by step: rows by their names."""
        changed: dict[str, dict[str, Any]] = {}
        for step_id, tracker in self.trackers:
            changed.setdefault(step_id, {}).update(tracker.changes())
        for step_id, watermark in self.steps:
            changed.setdefault(step_id, {}).update(watermark.changes())
        return changed


class SourceWatch:
    """Tells the clocks of a stage about the partitions of one source.

    Args:
        clocks: Those of the stage.
        step_id: The source.
        trackers: The clocks that tell its partitions apart.
        push: Takes what the source gives.
    """

    def __init__(
        self, clocks: StageClocks, step_id: str, trackers: list[Tracker], push: Push
    ) -> None:
        self._clocks = clocks
        self._step_id = step_id
        self._trackers = trackers
        self._push = push

    def opened(self, origin: Origin) -> None:
        """A partition is there."""
        self._clocks.upstream.add(origin)
        for tracker in self._trackers:
            tracker.open(origin, self._step_id)

    def push(self, origin: Origin, batch: list[Any]) -> None:
        """Hand a batch of a partition on."""
        clocks = self._clocks
        clocks.origin = origin
        self._push(batch)
        clocks.origin = None
        clocks.flush()

    def reached(self, origin: Origin) -> None:
        """A partition can be read that could not be."""
        for tracker in self._trackers:
            tracker.wake(origin)

    def ended(self, origin: Origin) -> None:
        """A partition has ended."""
        self._clocks.upstream.remove(origin)
        for tracker in self._trackers:
            tracker.end(origin)
        self._clocks.flush()
