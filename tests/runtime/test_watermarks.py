"""Watermarks over all partitions, inputs and workers, and what they wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, Stream
from engine.errors import EngineRuntimeError
from engine.testing import TestingSink
from engine.testing.sim import SimOptions, simulate
from tests.runtime.watermarked import (
    NONE_US,
    NumberClock,
    ScriptedPart,
    ScriptedTimes,
    Silent,
    watermarked,
)

Scripts = Mapping[str, Sequence[Any]]
SEEDS = range(4)
WORKERS = (1, 2, 3)
TICK = timedelta(milliseconds=1)


@dataclass
class Heard:
    """What the steps of a run have heard, and what came out."""

    events: list[tuple[str, int, int]] = field(default_factory=list)
    out: list[Any] = field(default_factory=list)

    def hear(self, what: str, worker: int, at_us: int) -> None:
        self.events.append((what, worker, at_us))

    def last(self) -> dict[int, int]:
        """The last watermark of each worker."""
        return {worker: at for what, worker, at in self.events if what == "watermark"}

    def risen_to(self, at_us: int, workers: int) -> bool:
        """Whether it is what all workers have come to."""
        return self.last() == dict.fromkeys(range(workers), at_us)

    def late(self) -> list[Any]:
        """Records that were older than the watermark when they came."""
        records = [value for _, value in self.out if value[0] == "record"]
        return [(at, mark) for _, at, mark in records if at < mark]


def at(*times: int, keys: str = "abcdefg") -> list[tuple[str, int]]:
    """A batch of records of these times, over all keys."""
    return [(keys[time % len(keys)], time) for time in times]


def run(scripts: Scripts, workers: int, seed: int = 0, clock: NumberClock | None = None) -> Heard:
    """One input into the step, in a simulation."""
    heard = Heard()
    flow = Dataflow("flow")
    s = op.input("in", flow, ScriptedTimes(scripts))
    s = watermarked("step", s, clocks=(clock or NumberClock(),), heard=heard.hear)
    op.output("out", s, TestingSink(heard.out))
    simulated(flow, workers, seed)
    return heard


def simulated(flow: Dataflow, workers: int, seed: int = 0) -> None:
    options = SimOptions(workers, step_max=TICK, delay_max=10 * TICK, pause_max=10 * TICK)
    simulate(flow, seed, options)


def climbing(first: int, last: int, step: int = 10) -> list[Any]:
    """Batches of a few records, each later than the one before."""
    return [at(*range(t, t + step)) for t in range(first, last, step)]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_partition_makes_another_one_late(workers: int, seed: int):
    """However far one is ahead of the other, and wherever they are read."""
    scripts = {"p0": climbing(0, 300), "p1": climbing(1000, 1100), "p2": climbing(500, 600, 5)}
    heard = run(scripts, workers, seed)
    assert not heard.late()
    assert [what for what, _, _ in heard.events].count("end") == workers


@pytest.mark.parametrize("workers", WORKERS)
def test_the_latest_time_less_the_wait(workers: int):
    """Of a single partition, behind each batch; workers without one hold nobody back."""
    script = [at(10), at(30, 20), at(5), at(100), Silent(0.1)]
    heard = run({"p": script}, workers, clock=NumberClock(wait_us=7))
    assert heard.risen_to(93, workers)
    for worker in range(workers):
        marks = [mark for what, on, mark in heard.events if (what, on) == ("watermark", worker)]
        assert set(marks) <= {3, 23, 93}
    assert not [(t, mark) for t, mark in heard.late() if t != 5]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_partition_that_lags_and_is_silent_holds_back(workers: int):
    """For as long as it takes, also if it never gave anything."""
    scripts = {"ahead": [at(500), Silent(10)], "behind": [Silent(9.9, caught_up=False), at(3)]}
    heard = run(scripts, workers)
    assert not heard.late()
    early = [e for e in heard.events if e[0] == "watermark" and e[2] > 3]
    # Only when it has given its record, and ended.
    assert all(e[2] == 500 for e in early)
    assert heard.out.index(("d", ("record", 3, NONE_US))) >= 0


@pytest.mark.parametrize("workers", WORKERS)
def test_one_that_cannot_be_reached_has_not_caught_up(workers: int):
    """Whatever it said when it was open."""
    scripts = {"ahead": [at(500), Silent(10)], "away": [Silent(6, reachable=False), at(3)]}
    heard = run(scripts, workers)
    assert not heard.late()


@pytest.mark.parametrize("workers", WORKERS)
def test_one_that_caught_up_and_is_silent_is_left_out(workers: int):
    """After a while; the others go on, and what it gives when it wakes up may be late."""
    busy = [entry for t in range(10, 100, 10) for entry in (at(t), Silent(0.4))]
    scripts = {"busy": busy, "still": [at(1), Silent(2.6), at(75), Silent(0.8, caught_up=False)]}
    heard = run(scripts, workers)
    for worker in range(workers):
        marks = [mark for what, on, mark in heard.events if (what, on) == ("watermark", worker)]
        # Left out it is after a second; awake it holds the others back to its own time.
        assert marks[:4] == [1, 30, 40, 50]
        assert 80 not in marks
    assert [t for t, _ in heard.late()] == []


@pytest.mark.parametrize("workers", WORKERS)
def test_one_that_wakes_up_counts_again(workers: int):
    """Its later records are waited for, as before its silence."""
    scripts = {
        "busy": [at(100), Silent(6), *climbing(110, 200)],
        "still": [at(1), Silent(4), at(101), Silent(3, caught_up=False), at(102)],
    }
    for seed in SEEDS:
        heard = run(scripts, workers, seed)
        assert not heard.late()


@pytest.mark.parametrize("workers", WORKERS)
def test_silence_counts_only_where_somebody_asks(workers: int):
    """A partition that nobody had room for isn't silent, though it says nothing of a backlog."""
    heard = Heard()
    flow = Dataflow("flow")
    scripts = {"p0": climbing(0, 200), "p1": climbing(1000, 1200)}
    s = op.input("in", flow, ScriptedTimes(scripts, ignorant=scripts))
    s = watermarked("step", s, clocks=(NumberClock(idle_after_s=0.01),), heard=heard.hear)
    op.output("out", s, TestingSink(heard.out))
    for seed in SEEDS:
        options = SimOptions(
            *(workers, timedelta(seconds=0.5)),
            channel_batches=1,
            step_max=100 * TICK,
            delay_max=500 * TICK,
        )
        simulate(flow, seed, options)
        assert not heard.late()


@pytest.mark.parametrize("workers", WORKERS)
def test_when_all_are_silent_it_stays(workers: int):
    """Nothing is closed because nothing comes; it goes on when something does."""
    scripts = {"p0": [at(10), Silent(4), at(20)], "p1": [at(7), Silent(4), at(20)]}
    for seed in SEEDS:
        heard = run(scripts, workers, seed)
        assert not heard.late()
        assert max(mark for what, _, mark in heard.events if what == "watermark") <= 20


@pytest.mark.parametrize("workers", WORKERS)
def test_one_that_has_ended_is_left_out_at_once(workers: int):
    """Long before it would count as silent."""
    scripts = {"long": [at(50), Silent(0.1), at(60), Silent(0.1)], "short": [at(1)]}
    heard = run(scripts, workers)
    assert heard.risen_to(60, workers)


@pytest.mark.parametrize("workers", WORKERS)
def test_the_lowest_of_several_inputs(workers: int):
    """Each with a clock of its own."""
    for seed in SEEDS:
        heard = Heard()
        flow = Dataflow("flow")
        left = op.input("left", flow, ScriptedTimes({"p": [*climbing(0, 100), Silent(0.5)]}))
        right = op.input(
            "right", flow, ScriptedTimes({"p": [*climbing(0, 200), Silent(5, caught_up=False)]})
        )
        clocks = (NumberClock(), NumberClock(wait_us=50))
        s = watermarked("step", left, right, clocks=clocks, heard=heard.hear)
        op.output("out", s, TestingSink(heard.out))
        simulated(flow, workers, seed)
        assert not heard.late()
        # The left one has ended before the right one does.
        assert heard.risen_to(149, workers)
        assert {mark for what, _, mark in heard.events if what == "watermark"} >= {99}


def test_an_input_without_a_clock_takes_no_part():
    """It may be as silent as it likes."""
    heard = Heard()
    flow = Dataflow("flow")
    left = op.input("left", flow, ScriptedTimes({"p": [at(8), Silent(0.1)]}))
    right = op.input("right", flow, ScriptedTimes({"p": [Silent(0.1, caught_up=False)]}))
    right = op.map("untimed", right, lambda kv: (kv[0], None))
    s = watermarked("step", left, right, clocks=(NumberClock(), None), heard=heard.hear)
    op.output("out", s, TestingSink(heard.out))
    simulated(flow, 2)
    assert heard.risen_to(8, 2)


@pytest.mark.parametrize("workers", WORKERS)
def test_what_is_parted_and_merged_again_is_one_batch(workers: int):
    """What one part of a batch says doesn't make the other part late."""
    for seed in SEEDS:
        heard = Heard()
        flow = Dataflow("flow")
        s = op.input("in", flow, ScriptedTimes({"p": climbing(0, 100)}))
        parted = op.branch("odd", s, lambda kv: kv[1] % 2 == 1)
        s = op.merge("all", parted.trues, parted.falses)
        s = watermarked("step", s, heard=heard.hear)
        op.output("out", s, TestingSink(heard.out))
        simulated(flow, workers, seed)
        assert not heard.late()


def dealt(stream: Stream[Any]) -> Stream[Any]:
    return op.redistribute("deal", stream)


def keyed(stream: Stream[Any]) -> Stream[Any]:
    """Behind another keyed step, over three keys."""
    return op.stateful_map("count", stream, lambda n, t: ((n or 0) + 1, t))


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("between", [dealt, keyed], ids=["redistribute", "keyed"])
def test_behind_an_exchange_each_worker_counts_as_one(workers: int, between: Any):
    """All records come to the step, watermarks rise, and never go back."""
    for seed in SEEDS:
        heard = Heard()
        flow = Dataflow("flow")
        s = op.input("in", flow, ScriptedTimes({"p": [*climbing(0, 200), Silent(0.5)]}))
        s = watermarked("step", between(s), clocks=(NumberClock(1000),), heard=heard.hear)
        op.output("out", s, TestingSink(heard.out))
        simulated(flow, workers, seed)
        assert not heard.late()
        assert len([1 for _, value in heard.out if value[0] == "record"]) == 200
        assert min(heard.last().values()) > -1000


@pytest.mark.parametrize("workers", WORKERS)
def test_what_is_emitted_at_the_end_of_input_is_timed_too(workers: int):
    """Though it is of no partition."""
    heard, flow = Heard(), Dataflow("flow")
    s = op.input("in", flow, ScriptedTimes({"p": climbing(0, 50)}))
    s = watermarked("step", op.max_final("max", s), heard=heard.hear)
    op.output("out", s, TestingSink(heard.out))
    simulated(flow, workers)
    assert sorted(value[1] for _, value in heard.out if value[0] == "record") == [*range(43, 50)]


@dataclass(frozen=True)
class BrokenClock(NumberClock):
    """Fails at a time."""

    def latest_us(self, batch: list[Any]) -> int | None:
        latest_us = super().latest_us(batch)
        if latest_us == 49:
            raise LookupError("no such time")
        return latest_us


@pytest.mark.parametrize("workers", WORKERS)
def test_a_clock_that_fails_is_the_step_s_failure(workers: int):
    """Wherever it stands."""
    with pytest.raises(EngineRuntimeError, match="no such time") as caught:
        run({"p": climbing(0, 50)}, workers, clock=BrokenClock())
    assert caught.value.step_id == "flow.step"


def test_a_partition_that_cannot_tell_is_its_source_s_failure(monkeypatch: pytest.MonkeyPatch):
    """When it is asked whether it has caught up."""

    def fail(_: Any) -> bool:
        raise LookupError("who knows")

    monkeypatch.setattr(ScriptedPart, "caught_up", fail)
    with pytest.raises(EngineRuntimeError, match="who knows") as caught:
        run({"p": [at(1), Silent(5)]}, 1)
    assert caught.value.step_id == "flow.in"


def of_one_key(scripts: Scripts, workers: int, seed: int) -> Heard:
    """Behind another keyed step, so that no record comes to most workers."""
    heard, flow = Heard(), Dataflow("flow")
    s = keyed(op.input("in", flow, ScriptedTimes(scripts)))
    s = watermarked("step", s, clocks=(NumberClock(wait_us=1000),), heard=heard.hear)
    op.output("out", s, TestingSink(heard.out))
    simulated(flow, workers, seed)
    return heard


@pytest.mark.parametrize("workers", WORKERS)
def test_a_worker_without_records_holds_nobody_back_for_ever(workers: int):
    """Where all has been read, by whichever worker, those to which nothing comes are left out."""
    feed = [entry for t in range(10) for entry in ([("a", 1000 + t)], Silent(0.5))]
    for seed in SEEDS[:3]:
        heard = of_one_key({"p": feed}, workers, seed)
        assert not heard.late()
        marks = [mark for what, _, mark in heard.events if what == "watermark"]
        assert {5, 6, 7, 8} <= {*marks}


@pytest.mark.parametrize("workers", WORKERS)
def test_it_does_while_a_partition_lags(workers: int):
    """What that is going to give may come to any worker."""
    feed = [entry for t in range(10) for entry in ([("a", 1000 + t)], Silent(0.5))]
    for how in (Silent(30, caught_up=False), Silent(30, reachable=False)):
        heard = of_one_key({"p": feed, "slow": [how, [("b", 1000)]]}, workers, 1)
        marks = {mark for what, _, mark in heard.events if what == "watermark"}
        # One worker has nobody to wait for: what comes to the step counts together.
        assert workers == 1 or marks <= {0, 9}


@pytest.mark.parametrize("workers", WORKERS)
def test_one_step_with_a_watermark_behind_another(workers: int):
    """What the first emits when its watermark rises is timed by the second."""
    for seed in SEEDS:
        heard = Heard()
        flow = Dataflow("flow")
        scripts = {"p0": climbing(0, 100), "p1": climbing(50, 200)}
        s = op.input("in", flow, ScriptedTimes(scripts))
        s = watermarked("first", s, clocks=(NumberClock(),))
        s = op.filter("marks", s, lambda kv: kv[1][0] == "watermark")
        s = op.map_value("time", s, lambda value: value[1])
        s = watermarked("second", s, clocks=(NumberClock(wait_us=300),), heard=heard.hear)
        op.output("out", s, TestingSink(heard.out))
        simulated(flow, workers, seed)
        assert not heard.late()
        assert any(what == "watermark" for what, _, _ in heard.events)
