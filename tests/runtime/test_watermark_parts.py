"""What watermarks are made with, piece by piece; and partitions that are found while running."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.dataflow import Dataflow
from engine.runtime import Drain, EdgeId, Epoch, RunOptions, SystemWaiter, WorkerIndex, run_flow
from engine.runtime._channel import Channel
from engine.runtime._messages import HOLD_US, LEFT_OUT_US, Barrier, CaughtUp, Watermark
from engine.runtime._watermarks import (
    Outlet,
    Tracker,
    Upstream,
    partition_row,
    watermark_row,
    worker_row,
)
from engine.testing import TestingSink
from tests.runtime.scripted import FakeTime
from tests.runtime.watermarked import NumberClock, watermarked

LONG_S = 20.0


@dataclass(eq=False)
class Part:
    """A partition as a clock sees it."""

    name: str
    empty_polls: int = 0
    here: bool = True
    due_in_s: float = 0.0

    def caught_up(self) -> bool:
        return self.here

    def wait_s(self, now_s: float) -> float:
        del now_s
        return self.due_in_s


@dataclass
class Site:
    """A clock with a time of its own."""

    time: FakeTime = field(default_factory=FakeTime)
    saved: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tracker = Tracker(NumberClock(wait_us=10), 0, self.time, self.saved)

    def open(self, name: str) -> Part:
        part = Part(name)
        self.tracker.open(part, "f.in")
        return part

    def silence(self, *parts: Part, seconds: float = 3.0) -> None:
        """Time goes by; these are asked all the while."""
        for _ in range(int(seconds * 20)):
            for part in parts:
                part.empty_polls += 1
            self.time.now_s += 0.05
            if self.tracker.check_s <= self.time.now_s:
                self.tracker.check()


def test_nothing_is_waited_for_where_nothing_is():
    """A worker without partitions says so."""
    assert Site().tracker.lowest_us() == LEFT_OUT_US


def test_the_lowest_of_the_latest():
    """Less the wait; not before each has given something with a time."""
    site = Site()
    a, b = site.open("a"), site.open("b")
    site.tracker.note(a, 100)
    site.tracker.note(b, None)
    assert site.tracker.lowest_us() == HOLD_US
    site.tracker.note(b, 70)
    site.tracker.note(b, 60)
    assert site.tracker.lowest_us() == 60
    site.tracker.note(a, 300)
    site.tracker.note(b, 200)
    assert site.tracker.lowest_us() == 190


def test_one_that_is_found_later_is_waited_for():
    """From when it is there."""
    site = Site()
    site.tracker.note(site.open("a"), 100)
    assert site.tracker.lowest_us() == 90
    late = site.open("late")
    assert site.tracker.lowest_us() == HOLD_US
    site.tracker.note(late, 50)
    assert site.tracker.lowest_us() == 40
    site.tracker.end(late)
    assert site.tracker.lowest_us() == 90


def test_one_that_says_when_to_ask_it_need_not_be_asked():
    """It has nothing until then."""
    site = Site()
    site.tracker.note(site.open("a"), 100)
    paced = site.open("paced")
    paced.due_in_s = 60.0
    site.silence()
    assert site.tracker.lowest_us() == 90


def test_one_that_nobody_asks_is_not_silent():
    """However long; once it is asked again its silence begins."""
    site = Site()
    part = site.open("a")
    site.tracker.note(part, 100)
    site.silence(seconds=30)
    assert site.tracker.lowest_us() == 90
    site.silence(part)
    assert site.tracker.lowest_us() == LEFT_OUT_US
    site.tracker.note(part, 90)
    assert site.tracker.lowest_us() == 90


def test_silence_begins_when_it_has_caught_up():
    """And anew after each time that it had not, or couldn't be reached."""
    site = Site()
    part = site.open("a")
    site.tracker.note(part, 100)
    part.here = False
    site.silence(part, seconds=30)
    part.here = True
    site.silence(part, seconds=0.9)
    assert site.tracker.lowest_us() == 90
    site.silence(part, seconds=2)
    assert site.tracker.lowest_us() == LEFT_OUT_US
    part.here = False
    site.silence(part, seconds=2)
    assert site.tracker.lowest_us() == 90
    part.here = True
    site.silence(part)
    assert site.tracker.lowest_us() == LEFT_OUT_US
    site.tracker.wake(part)
    assert site.tracker.lowest_us() == 90


def test_times_are_saved_once_and_read_again():
    """By the partition's name and its source's; what has not changed isn't said again."""
    site = Site()
    part = site.open("a")
    assert site.tracker.changes() == {}
    site.tracker.note(part, 100)
    assert site.tracker.changes() == {partition_row(0, "f.in", "a"): 100}
    assert site.tracker.changes() == {}
    again = Site(saved={partition_row(0, "f.in", "a"): 100})
    again.open("a")
    assert again.tracker.lowest_us() == 90
    again.open("b")
    assert again.tracker.lowest_us() == HOLD_US


@pytest.mark.parametrize(
    ("saved", "workers", "lowest_us"),
    [
        ([100, 50], 2, 90),
        ([100, 50], 3, 40),
        ([None, 50], 2, HOLD_US),
        ([70, None], 2, 60),
        ([70, None], 1, HOLD_US),
        ([], 1, HOLD_US),
    ],
)
def test_what_workers_saved(saved: list[int | None], workers: int, lowest_us: int):
    """Each goes on from its own; where there are more or fewer, from what any of them may give."""
    rows = {worker_row(0, worker): at for worker, at in enumerate(saved)}
    site = Site(saved=rows)
    site.tracker.open_worker(0, workers, Upstream(), lambda: False)
    assert site.tracker.lowest_us() == lowest_us


def test_far_times_are_never_taken_for_a_sign():
    """Whatever is taken from them."""
    site = Site()
    site.tracker = Tracker(NumberClock(wait_us=10**20), 0, site.time, {})
    part = site.open("a")
    site.tracker.note(part, -(10**17))
    assert site.tracker.lowest_us() == HOLD_US + 1


def test_names_of_rows_are_never_the_same():
    """Whatever steps and partitions are called."""
    names = ["", "0", "a", "a b"]
    rows = [partition_row(p, f"f.{s}", n) for p, s, n in itertools.product((0, 1), names, names)]
    rows += [worker_row(p, w) for p in (0, 1) for w in range(3)]
    rows += [watermark_row(w) for w in range(3)]
    assert len({*rows}) == len(rows)


def test_only_what_is_new_is_sent():
    """And nothing behind the end."""
    site = Site()
    part, sent = site.open("a"), list[Watermark]()
    outlet = Outlet(site.tracker, sent.append)
    outlet.flush()
    site.tracker.note(part, 100)
    outlet.flush()
    outlet.flush()
    outlet.ended = True
    site.tracker.note(part, 200)
    outlet.flush()
    assert sent == [Watermark(90)]


def channel_of(*items: Any) -> list[Any]:
    """What lies in a channel that these were put into."""
    channel = Channel(EdgeId(0), WorkerIndex(0))
    for item in items:
        if isinstance(item, Watermark):
            channel.put_watermark(item)
        elif isinstance(item, CaughtUp):
            channel.put_caught_up(item)
        else:
            channel.items.append(item)
    return list(channel.items)


def test_watermarks_do_not_heap_up():
    """One takes the place of those that say less, and of nothing else."""
    one, two, out, hold = (Watermark(at) for at in (1, 2, LEFT_OUT_US, HOLD_US))
    batch, barrier = [("a", 1)], Barrier(Epoch(1))
    assert channel_of(one, two) == [two]
    assert channel_of(one, batch, two) == [one, batch, two]
    assert channel_of(one, barrier, two) == [one, barrier, two]
    assert channel_of(two, one) == [two, one]
    assert channel_of(one, out, hold, out) == [one, out]
    assert channel_of(*[one, out, hold] * 100, two) == [two]
    assert channel_of(CaughtUp(True), CaughtUp(False), batch) == [CaughtUp(False), batch]


class Fed(FixedPartitionedSource[Any, int]):
    """Partitions that give what a test puts into them, lag for ever, and become more."""

    discovery_interval = timedelta(milliseconds=5)

    def __init__(self) -> None:
        self.names = ["p"]
        self.fed: dict[str, deque[list[Any]]] = defaultdict(deque)
        self.built: list[str] = []

    def list_parts(self) -> list[str]:
        return list(self.names)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> FedPart:
        self.built.append(for_part)
        return FedPart(self.fed[for_part])


class FedPart(StatefulSourcePartition[Any, int]):
    def __init__(self, fed: deque[list[Any]]) -> None:
        self._fed = fed

    def next_batch(self) -> list[Any]:
        return self._fed.popleft() if self._fed else []

    def caught_up(self) -> bool:
        return False

    def snapshot(self) -> int:
        return 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_partition_that_is_found_is_waited_for(workers: int):
    """The watermark stays until it has given something."""
    source, out, marks = Fed(), list[Any](), set[tuple[int, int]]()

    def hear(what: str, worker: int, at_us: int) -> None:
        if what == "watermark":
            marks.add((worker, at_us))

    flow = Dataflow("flow")
    s = watermarked("step", op.input("in", flow, source), heard=hear)
    op.output("out", s, TestingSink(out))
    drain, waiter = Drain(), SystemWaiter()
    options = RunOptions(timedelta(milliseconds=20), waiter=waiter, drain=drain, workers=workers)
    thread = threading.Thread(target=run_flow, args=(flow, options))
    thread.start()

    def wait(condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + LONG_S
        while not condition():
            assert time.monotonic() < until_s, (out, marks)
            assert thread.is_alive(), "it has ended by itself"
            time.sleep(0.005)

    on_all = {*range(workers)}
    source.fed["p"].append([("a", 10)])
    wait(lambda: {w for w, at in marks if at == 10} == on_all)
    source.names = ["p", "q"]
    wait(lambda: "q" in source.built)
    source.fed["p"].append([("a", 50)])
    wait(lambda: any(value[1] == 50 for _, value in out))
    source.fed["q"].append([("b", 30)])
    wait(lambda: {w for w, at in marks if at == 30} == on_all)
    drain.requested = True
    waiter.wake()
    thread.join(LONG_S)
    assert {at for _, at in marks} == {10, 30}
