"""Sources that can't be reached for a while: asked again, and nobody else waits for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
    UnavailableError,
)
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.recovery import RecoveryConfig
from engine.runtime import RunOptions, SystemWaiter, run_flow
from engine.runtime._nodes import Target
from engine.runtime._source_node import Opening, SourceNode
from engine.testing import TestingSink
from tests.runtime.scripted import FakeTime

DOWN = UnavailableError("nobody there")
PAUSES = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@dataclass
class Broker:
    """What a source reads: numbers in partitions, any of which may not be reached for a while.

    Attributes:
        parts: How many numbers each partition has.
        outages: How many calls fail, by what is called: ``list``, ``build a``, or ``read a``,
            which is all reads but the first.
        calls: All calls, with their times.
        committed: What partitions have heard of commits.
        closed: Partitions that were closed.
        on_call: Is told of each call.
    """

    parts: dict[str, int]
    outages: dict[str, int] = field(default_factory=dict)
    time: FakeTime = field(default_factory=FakeTime)
    calls: list[tuple[str, float]] = field(default_factory=list)
    committed: list[tuple[str, int]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    on_call: Callable[[str], None] = lambda _: None

    def call(self, what: str) -> None:
        self.calls.append((what, self.time.now_s))
        self.on_call(what)
        if self.outages.get(what, 0) > 0:
            self.outages[what] -= 1
            raise DOWN

    def times(self, what: str) -> list[float]:
        """When there was a call of a kind."""
        return [at for called, at in self.calls if called == what]

    def pauses(self, what: str) -> list[float]:
        """The seconds between the calls of a kind."""
        times = self.times(what)
        return [round(b - a, 3) for a, b in pairwise(times)]


class Numbers(FixedPartitionedSource[Any, int]):
    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def list_parts(self) -> list[str]:
        self.broker.call("list")
        return list(self.broker.parts)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
        self.broker.call(f"build {for_part}")
        return Part(self.broker, for_part, resume_state or 0)


class Part(StatefulSourcePartition[Any, int]):
    def __init__(self, broker: Broker, name: str, at: int) -> None:
        self.broker, self.name, self.at = broker, name, at

    def next_batch(self) -> list[Any]:
        if self.at:
            self.broker.call(f"read {self.name}")
        if self.at >= self.broker.parts[self.name]:
            raise StopIteration
        self.at += 1
        return [(self.name, self.at - 1)]

    def snapshot(self) -> int:
        return self.at

    def on_commit(self, state: int) -> None:
        self.broker.committed.append((self.name, state))

    def close(self) -> None:
        self.broker.closed.append(self.name)


class Run:
    """A flow that reads a broker, in fake time if it has one worker."""

    def __init__(self, broker: Broker, store: Path | None = None) -> None:
        self.broker = broker
        self.told: list[str] = []
        self.out: list[Any] = []
        self._options = RunOptions(
            recovery=None if store is None else RecoveryConfig(store, create=True),
            tell=self.told.append,
        )

    def __call__(
        self,
        *,
        interval_s: float = 10.0,
        timeout_s: float = 60.0,
        workers: int = 1,
        source: Any = None,
    ) -> dict[str, list[int]]:
        """Run it to its end; gives what came out, by partition."""
        flow, options = Dataflow("f"), self._options
        s = op.input("in", flow, source or Numbers(self.broker))
        op.output("out", s, TestingSink(self.out))
        options.epoch_interval = timedelta(seconds=interval_s)
        options.source_timeout = timedelta(seconds=timeout_s)
        options.workers = workers
        if workers == 1:
            options.clock = options.waiter = self.broker.time
        run_flow(flow, options)
        found = defaultdict(list)
        for name, number in self.out:
            found[name].append(number)
        return found

    def drain(self) -> None:
        """Have it drain."""
        self._options.drain.requested = True
        if isinstance(self._options.waiter, SystemWaiter):
            self._options.waiter.wake()

    @property
    def told_of_sources(self) -> list[str]:
        """What it told of sources."""
        return [line for line in self.told if line.startswith("step")]


def test_a_partition_is_asked_again_ever_more_slowly():
    """After a tenth of a second, doubled up to two; then it goes on where it was."""
    run = Run(Broker({"a": 3}, {"read a": 8}))
    assert run() == {"a": [0, 1, 2]}
    assert run.broker.pauses("read a")[:8] == [*PAUSES, 2.0]
    assert run.told == [
        "step 'f.in' (partition 'a') can't be reached: nobody there; trying again for up to 60 s",
        "step 'f.in' (partition 'a') is back after 9.1 s",
    ]


def test_each_outage_begins_anew():
    """With short pauses, and with all of its time."""
    broker = Broker({"a": 3}, {"read a": 3})

    def fail_again(_: str) -> None:
        if len(broker.times("read a")) == 5:
            broker.outages["read a"] = 3

    broker.on_call = fail_again
    run = Run(broker)
    assert run(timeout_s=1.0) == {"a": [0, 1, 2]}
    assert broker.pauses("read a") == [*PAUSES[:3], 0.0, *PAUSES[:3], 0.0]
    assert [line[-8:] for line in run.told[1::2]] == ["er 0.7 s"] * 2


def test_the_others_go_on_meanwhile():
    """Their records come first, and epochs are committed."""
    broker = Broker({"a": 3, "b": 4}, {"read a": 8})
    run = Run(broker)
    assert run(interval_s=1.0) == {"a": [0, 1, 2], "b": [0, 1, 2, 3]}
    assert [name for name, _ in run.out] == ["a", "b", "b", "b", "b", "a", "a"]
    during = [state for state in broker.committed if state == ("a", 1)]
    assert len(during) == 9


def test_nor_does_an_epoch_of_each_batch_wait():
    """With no interval at all."""
    run = Run(Broker({"a": 3, "b": 3}, {"read a": 5}))
    assert run(interval_s=0) == {"a": [0, 1, 2], "b": [0, 1, 2]}


def test_the_end_may_come_after_an_outage():
    """It is back, too, when all it has to say is that there is nothing more."""
    run = Run(Broker({"a": 1}, {"read a": 2}))
    assert run() == {"a": [0]}
    assert run.told[-1] == "step 'f.in' (partition 'a') is back after 0.3 s"


def test_it_is_given_up_in_the_end():
    """The last try is when the time is over; the error says how long it took, and why."""
    run = Run(Broker({"a": 3}, {"read a": 10**6}))
    with pytest.raises(EngineRuntimeError) as caught:
        run(timeout_s=5.0)
    error = caught.value
    assert str(error) == (
        "step 'f.in' failed while waiting 5 s for partition 'a' to be reached: UnavailableError: "
        "nobody there; wait longer with --source-timeout (from Python: source_timeout)"
    )
    assert (error.step_id, error.__cause__) == ("f.in", DOWN)
    assert error.hint.startswith("wait longer with --source-timeout")
    assert run.broker.pauses("read a") == [0.1, 0.2, 0.4, 0.8, 1.6, 1.9]


def test_without_patience_the_first_failure_is_the_last():
    """It is not even announced."""
    run = Run(Broker({"a": 3}, {"read a": 1}))
    with pytest.raises(EngineRuntimeError, match="waiting 0 s for partition 'a'"):
        run(timeout_s=0.0)
    assert run.told == []


def test_another_error_ends_an_outage():
    """It is reported as ever: it may be what the outage has come to."""
    broker = Broker({"a": 3}, {"read a": 5})

    def fail(what: str) -> None:
        if what == "read a" and broker.outages[what] == 2:
            raise LookupError("the partition is gone")

    broker.on_call = fail
    with pytest.raises(EngineRuntimeError, match="LookupError: the partition is gone") as caught:
        Run(broker)()
    assert caught.value.step_id == "f.in"


def test_a_clock_that_was_set_back_is_not_waited_for():
    """When to ask again was our own choice."""
    broker = Broker({"a": 2}, {"build a": 3})
    time, source = broker.time, Numbers(broker)
    opening = Opening(lambda name, *, found: source.build_part("f.in", name, None), dict)
    node = SourceNode("f.in", Target(lambda _: None, lambda: None), time, opening)
    node.build("a")
    assert node.wait_s() == pytest.approx(0.1)
    time.now_s -= 3600.0
    assert node.wait_s() == 0.0
    assert node.poll(1) == (0, pytest.approx(0.2))


# What can't be opened


def test_a_partition_is_opened_when_it_can_be_reached():
    """The others are read meanwhile; epochs and the end don't mind."""
    broker = Broker({"a": 2, "b": 2}, {"build a": 4})
    run = Run(broker)
    assert run(interval_s=0.2) == {"a": [0, 1], "b": [0, 1]}
    assert [name for name, _ in run.out] == ["b", "b", "a", "a"]
    assert broker.pauses("build a") == PAUSES[:4]
    assert run.told == [
        "step 'f.in' (partition 'a') can't be reached: nobody there; trying again for up to 60 s",
        "step 'f.in' (partition 'a') is back after 1.5 s",
    ]


def test_one_that_can_never_be_opened_is_given_up():
    """The others are closed."""
    broker = Broker({"a": 2, "b": 10**6}, {"build a": 10**6})
    broker.on_call = lambda what: broker.time.wait(0.1)
    with pytest.raises(EngineRuntimeError, match="waiting 3.1 s for partition") as caught:
        Run(broker)(timeout_s=3.0)
    assert caught.value.__cause__ is DOWN
    assert broker.closed == ["b"]


def test_what_is_opened_late_is_a_partition():
    """Or it is refused, as at the start."""
    broker = Broker({"a": 2}, {"build a": 1})

    class Wrong(Numbers):
        def build_part(self, *about: Any) -> Any:
            super().build_part(*about)
            return "no partition"

    with pytest.raises(EngineRuntimeError, match="opening its source.*must be a partition; got 'n"):
        Run(broker)(source=Wrong(broker))


def test_a_source_without_names_is_built_again():
    """Of each worker on its own."""
    broker = Broker({"only": 2}, {"build only": 2})

    class Own(StatelessSourcePartition[Any]):
        def __init__(self) -> None:
            self._part = Part(broker, "only", 0)

        def next_batch(self) -> list[Any]:
            return self._part.next_batch()

    class Source(DynamicSource[Any]):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Own:
            broker.call("build only")
            return Own()

    run = Run(broker)
    assert run(source=Source()) == {"only": [0, 1]}
    assert run.told[-1] == "step 'f.in' (partition 'worker-0') is back after 0.3 s"


def test_a_drain_waits_for_nobody():
    """Neither for what can't be read nor for what can't be opened."""
    broker = Broker({"a": 2, "b": 3, "c": 9}, {"build a": 10**6, "read b": 10**6})
    run, began_s = Run(broker), broker.time.now_s
    broker.on_call = lambda what: run.drain() if what == "read c" else None
    assert run() == {"b": [0], "c": [0, 1]}
    assert broker.time.now_s - began_s < 1.0


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_was_not_reached_keeps_its_position(workers: int, tmp_path: Path):
    """Though it is another worker's now, and the run ends before it was reached."""
    store, before = tmp_path / "store", dict.fromkeys("bcd", 3)
    assert Run(Broker(before), store)(workers=2) == {name: [0, 1, 2] for name in "bcd"}
    # One more before the others: all of them go to another of two workers.
    names = "abcd"
    for down, others in (("b", {"a": [0, 1, 2, 3], "c": [3], "d": [3]}), ("c", {"b": [3]})):
        broker = Broker(dict.fromkeys(names, 4), {f"build {down}": 10**6})
        run, expected = Run(broker, store), sum(map(len, others.values()))

        def drain(_: str, run: Run = run, expected: int = expected) -> None:
            if len(run.out) == expected:
                run.drain()

        broker.on_call = drain
        assert run(workers=workers) == others
    last = Run(Broker(dict.fromkeys(names, 5)), store)(workers=2)
    assert last == {"a": [4], "b": [4], "c": [4], "d": [4]}


def test_a_late_partition_hears_what_was_committed_before(tmp_path: Path):
    """As the others do at the start, before it gives a record."""
    store = tmp_path / "store"
    Run(Broker({"a": 2, "b": 2}), store)()
    broker = Broker({"a": 3, "b": 3}, {"build b": 2})
    heard: list[Any] = []
    broker.on_call = lambda what: heard.append((what, list(broker.committed)))
    assert Run(broker, store)() == {"a": [2], "b": [2]}
    before_reading = next(committed for what, committed in heard if what == "read b")
    assert before_reading == [("a", 2), ("b", 2)]


# What can't be listed


@pytest.mark.parametrize("stored", [False, True])
def test_a_start_waits_until_partitions_can_be_listed(stored: bool, tmp_path: Path):
    """It says so, once."""
    broker = Broker({"a": 2}, {"list": 3})
    run = Run(broker, tmp_path / "store" if stored else None)
    assert run() == {"a": [0, 1]}
    assert broker.pauses("list") == PAUSES[:3]
    who = "step 'f.in' (the list of its partitions)"
    assert run.told_of_sources == [
        f"{who} can't be reached: nobody there; trying again for up to 60 s",
        f"{who} is back after 0.7 s",
    ]


def test_partitions_that_can_never_be_listed_end_the_start(tmp_path: Path):
    """The store isn't even made."""
    run = Run(Broker({"a": 2}, {"list": 10**6}), tmp_path / "store")
    with pytest.raises(EngineRuntimeError, match="waiting 3 s for the list of its") as caught:
        run(timeout_s=3.0)
    assert caught.value.__cause__ is DOWN
    assert not (tmp_path / "store").exists()


def test_a_start_that_waits_ends_when_it_is_told_to_drain(tmp_path: Path):
    """At once, as if nothing had been."""
    broker = Broker({"a": 2}, {"list": 10**6})
    run = Run(broker, tmp_path / "store")
    broker.on_call = lambda _: run.drain() if len(broker.calls) == 4 else None
    assert run() == {}
    assert broker.pauses("list") == PAUSES[:3]
    assert not (tmp_path / "store").exists()


def test_several_workers_wait_for_the_list_too():
    """It is asked for before there are any."""
    run = Run(Broker({"a": 2, "b": 2}, {"list": 1, "build a": 1, "read b": 1}))
    assert run(workers=2) == {"a": [0, 1], "b": [0, 1]}
    assert sum("can't be reached" in line for line in run.told) == 3
    assert sum("is back" in line for line in run.told) == 3
