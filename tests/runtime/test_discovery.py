"""New partitions of sources, found while a flow runs."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.inputs import FixedPartitionedSource, StatefulSourcePartition, UnavailableError
from engine.recovery import RecoveryConfig
from engine.runtime import Drain, Epoch, RunOptions, SystemWaiter, WorkerIndex, run_flow
from engine.runtime._coordinator import Coordinator
from engine.runtime._deal import Deal
from engine.runtime._discovery import Discovery
from engine.runtime._messages import CloseEpoch, CommitEpoch, Prepared, Published
from engine.testing import TestingSink

LONG_S = 20.0
SOON = timedelta(milliseconds=5)
A, B = WorkerIndex(0), WorkerIndex(1)


class Part(StatefulSourcePartition[tuple[str, int], int]):
    """Gives some numbers and then nothing more."""

    def __init__(self, name: str, at: int, count: int) -> None:
        self.name, self.at, self.count = name, at, count

    def next_batch(self) -> list[tuple[str, int]]:
        if self.at == self.count:
            return []
        self.at += 1
        return [(self.name, self.at - 1)]

    def snapshot(self) -> int:
        return self.at


@dataclass
class Growing(FixedPartitionedSource[Any, int]):
    """A source to whose partitions others may be added."""

    names: list[str]
    count: int = 5
    discovery_interval: timedelta | None = SOON
    built: list[tuple[str, int | None]] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    broken: bool = False
    unavailable: int = 0

    def list_parts(self) -> list[str]:
        if self.broken:
            raise OSError("nobody there")
        return list(self.names)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
        self.built.append((for_part, resume_state))
        return Part(for_part, resume_state or 0, self.count)

    def build_new_part(self, step_id: str, for_part: str) -> Part:
        self.new.append(for_part)
        if self.unavailable:
            self.unavailable -= 1
            raise UnavailableError("not yet")
        return Part(for_part, 0, self.count)


class Plain(Growing):
    """A source that says nothing of new partitions."""

    build_new_part = FixedPartitionedSource.build_new_part


class Run:
    """A flow that runs on a thread until it is drained."""

    def __init__(
        self, source: Growing, workers: int, store: Path | None = None, *others: Growing
    ) -> None:
        self.out: list[tuple[str, int]] = []
        self.told: list[str] = []
        flow = Dataflow("flow")
        read = [op.input(f"in{i or ''}", flow, each) for i, each in enumerate((source, *others))]
        keyed = op.key_on("key", op.merge("all", *read), lambda record: record[0])
        op.output("out", op.map("take", keyed, lambda pair: pair[1]), TestingSink(self.out))
        self._drain, self._waiter = Drain(), SystemWaiter()
        options = RunOptions(
            timedelta(milliseconds=20),
            waiter=self._waiter,
            drain=self._drain,
            workers=workers,
            recovery=None if store is None else RecoveryConfig(store, create=True),
            tell=self.told.append,
        )
        self._thread = threading.Thread(target=run_flow, args=(flow, options))
        self._thread.start()

    def wait(self, condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + LONG_S
        while not condition():
            assert time.monotonic() < until_s, (self.out, self.told)
            assert self._thread.is_alive(), "it has ended by itself"
            time.sleep(0.005)

    def drain(self) -> dict[str, list[int]]:
        """End it; gives what came out, by partition."""
        self._drain.requested = True
        self._waiter.wake()
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()
        found = defaultdict(list)
        for name, number in self.out:
            found[name].append(number)
        return found


@pytest.mark.parametrize("workers", [1, 3])
def test_new_partitions_are_read(workers: int):
    """From none to one to three, each from its start and once; and the flow doesn't end."""
    source = Growing([])
    run = Run(source, workers)
    for names in (["b"], ["a", "b", "c"]):
        source.names = names
        run.wait(lambda names=names: len(run.out) == 5 * len(names))
    assert run.drain() == {name: [0, 1, 2, 3, 4] for name in "abc"}
    assert "step 'flow.in' has new partitions: b" in run.told
    assert "step 'flow.in' has new partitions: a, c" in run.told
    assert (source.built, sorted(source.new)) == ([], ["a", "b", "c"])


def test_a_source_need_not_know_of_new_partitions():
    """They are opened like the first ones, without a position."""
    source = Plain(["a"])
    assert source.build_new_part("flow.in", "b").name == "b"
    assert source.built == [("b", None)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_later_run_goes_on_where_they_stopped(workers: int, tmp_path: Path):
    """Each partition has its position in the store, whenever it was found."""
    source = Growing(["a"])
    run = Run(source, workers, tmp_path / "store")
    run.wait(lambda: len(run.out) == 5)
    source.names = ["a", "b"]
    run.wait(lambda: len(run.out) == 10)
    run.drain()
    source.built.clear()
    source.count = 8
    again = Run(source, 3 - workers, tmp_path / "store")
    again.wait(lambda: len(again.out) == 6)
    assert again.drain() == {"a": [5, 6, 7], "b": [5, 6, 7]}
    assert (sorted(source.built), source.new) == ([("a", 5), ("b", 5)], ["b"])


@pytest.mark.parametrize(("workers", "later"), [(1, 1), (1, 3), (3, 2)])
def test_one_that_came_between_two_runs_is_new(workers: int, later: int, tmp_path: Path):
    """Whoever has it now, and whoever had the others, for they are of the same source."""
    source = Growing(["a", "b", "c"], discovery_interval=None)
    run = Run(source, workers, tmp_path / "store")
    run.wait(lambda: len(run.out) == 15)
    run.drain()
    assert (len(source.built), source.new) == (3, [])
    source.names, source.count = ["a", "b", "c", "d", "e"], 6
    source.built.clear()
    again = Run(source, later, tmp_path / "store")
    again.wait(lambda: len(again.out) == 15)
    again.drain()
    assert (sorted(source.built), sorted(source.new)) == (
        [("a", 5), ("b", 5), ("c", 5)],
        ["d", "e"],
    )


def test_a_source_that_was_never_read_has_no_new_partitions(tmp_path: Path):
    """Those of another source in the same store don't count."""
    first = Growing(["a"], discovery_interval=None)
    run = Run(first, 1, tmp_path / "store")
    run.wait(lambda: len(run.out) == 5)
    run.drain()
    second = Growing(["a", "b"], discovery_interval=None)
    both = Run(first, 1, tmp_path / "store", second)
    both.wait(lambda: len(both.out) == 10)
    both.drain()
    assert (sorted(second.built), second.new) == ([("a", None), ("b", None)], [])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_one_may_not_be_there_yet(workers: int):
    """As happens when it has just been made: it is opened as soon as it can be, as a new one."""
    source = Growing(["a"], unavailable=2)
    run = Run(source, workers)
    source.names = ["a", "b"]
    run.wait(lambda: len(run.out) == 10)
    assert run.drain() == {name: [0, 1, 2, 3, 4] for name in "ab"}
    assert (source.built, source.new) == ([("a", None)], ["b"] * 3)


def test_one_that_is_gone_for_a_while_goes_on():
    """It is neither closed nor opened again."""
    source = Growing(["a", "b"])
    run = Run(source, 1)
    for names in (["a"], ["b", "a"], ["c", "b", "a"]):
        source.names = names
        time.sleep(0.05)
    run.wait(lambda: len(run.out) == 15)
    assert run.drain() == {name: [0, 1, 2, 3, 4] for name in "abc"}
    assert (source.built, source.new) == ([("a", None), ("b", None)], ["c"])


def test_a_source_that_cannot_be_asked_is_asked_again():
    """It is said, and the flow goes on."""
    source = Growing(["a"])
    run = Run(source, 1)
    run.wait(lambda: len(run.out) == 5)
    source.broken = True
    told = "step 'flow.in' can't list its partitions: OSError: nobody there; asking again in 0.005"
    run.wait(lambda: any(line.startswith(told) for line in run.told))
    source.names, source.broken = ["a", "b"], False
    run.wait(lambda: len(run.out) == 10)
    assert run.drain() == {name: [0, 1, 2, 3, 4] for name in "ab"}


class Slow(Growing):
    """A source that can take long to say which partitions it has, and says who has asked."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.asked = 0
        self.free = threading.Event()
        self.free.set()
        self._alone = threading.Lock()

    def list_parts(self) -> list[str]:
        self.asked += 1
        assert self._alone.acquire(blocking=False), "two ask at a time"
        self.free.wait(LONG_S)
        self._alone.release()
        return super().list_parts()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_next_run_does_not_ask_while_the_last_one_still_does(workers: int):
    """A source need not bear that; it is waited for, and the wait can be ended."""
    source = Slow(["a"])
    first = Run(source, workers)
    first.wait(lambda: len(first.out) == 5)
    source.free.clear()
    asked = source.asked
    first.wait(lambda: source.asked > asked)
    first.drain()
    second, third = Run(source, workers), Run(source, workers)
    for run in (second, third):
        run.wait(lambda run=run: any("the run before is still asking" in line for line in run.told))
    assert second.drain() == {}
    source.free.set()
    third.wait(lambda: len(third.out) == 5)
    assert third.drain() == {"a": [0, 1, 2, 3, 4]}


def test_the_worker_with_the_fewest_gets_the_next():
    """And the same one everywhere, because one process decides."""
    deal = Deal({"s": {"a": A, "b": B, "c": A}, "t": {"d": B, "e": B}}, {})
    found = Discovery({"s": Growing(["z", "y", "a"])}, deal, 2, SystemWaiter(), print)
    found.start()
    until_s = time.monotonic() + LONG_S
    while not found.found:
        assert time.monotonic() < until_s
        time.sleep(0.005)
    found.stop()
    assert list(found.found) == [{"s": {"y": A, "z": A}}]


def test_they_come_with_the_next_barrier():
    """Which is not waited for; and if an epoch is on its way, with the one after it."""
    coordinator = Coordinator(1, 10.0, 0.0)
    first, second = {"s": {"x": A}}, {"s": {"y": A}}
    assert coordinator.add_parts(first, 1.0) == [CloseEpoch(Epoch(1), final=False, new_parts=first)]
    assert coordinator.add_parts(second, 1.0) == []
    assert coordinator.on_report(A, Prepared(Epoch(1)), 1.0) == [CommitEpoch(Epoch(1))]
    assert coordinator.on_report(A, Published(Epoch(1)), 1.0) == [
        CloseEpoch(Epoch(2), final=False, new_parts=second)
    ]
