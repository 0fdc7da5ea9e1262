"""Random flows into a step with stream clocks: its watermark is true, and comes to the end.

Partitions run ahead of each other, fall behind, fall silent, can't be reached, and end. Within a
partition times are in no order, but none comes further behind what came in earlier batches than
its clock waits. So no record may ever be late, and no watermark may be higher than what the
partitions have given allows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow, Stream
from engine.runtime import plan
from engine.runtime._planned_clocks import clocks_of
from engine.testing import TestingSink
from engine.testing.sim import SimOptions, simulate
from tests.runtime.watermarked import (
    NumberClock,
    ScriptedPart,
    ScriptedTimes,
    Silent,
    watermarked,
)

_AWAKE = 10_000
"""The time of all that is given by a partition that may have been left out: it may be late."""
_LAST = 20_000
_KEYS = ("a", "b", "c", "d", 1, "1")
Script = list[Any]


def check_clocks(seed: int) -> None:
    """Run the flow of a seed and check what its step was told."""
    _ClockRun(seed).check()


@dataclass
class _Port:
    """One input of the step, and what its partitions have given."""

    clock: NumberClock
    scripts: dict[str, Script]
    given: dict[str, int | None] = field(default_factory=dict)
    """The latest time of each partition that has not ended."""
    parts: dict[str, ScriptedPart] = field(default_factory=dict)
    ignorant: set[str] = field(default_factory=set)
    """Partitions that can't tell whether they have caught up: they have when they are silent."""

    def allows(self) -> float:
        """How high a watermark may be."""
        counting = [
            float("-inf") if at is None else at
            for name, at in self.given.items()
            if name not in self.parts or not self._may_be_left_out(name)
        ]
        return min(counting, default=float("inf")) - self.clock.wait_us

    def _may_be_left_out(self, name: str) -> bool:
        """Whether a partition is silent for good reason, or was."""
        begun = self.scripts[name][: self.parts[name].snapshot() + 1]
        return any(isinstance(e, Silent) and e.caught_up and e.reachable for e in begun)


class _Watched(ScriptedTimes):
    """Partitions that note what they have given."""

    def __init__(self, port: _Port, scripts: dict[str, Script]) -> None:
        super().__init__(scripts, port.ignorant)
        self._port = port

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> ScriptedPart:
        part = self._port.parts[for_part] = super().build_part(step_id, for_part, resume_state)
        return _noting(part, for_part, self._port)


def _noting(part: ScriptedPart, name: str, port: _Port) -> ScriptedPart:
    next_batch = part.next_batch

    def noted() -> list[Any]:
        given = port.given
        try:
            batch = next_batch()
        except StopIteration:
            given.pop(name, None)
            raise
        if name in given:
            times = [at for _, at in batch]
            before = given[name]
            given[name] = max(times if before is None else [before, *times], default=before)
        return batch

    part.next_batch = noted  # type: ignore[method-assign]
    return part


class _ClockRun:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        rng = self._rng = random.Random(seed)
        self._ports = [_draw_port(rng, n) for n in range(rng.choice((1, 1, 2)))]
        self._workers = rng.choice((1, 2, 2, 3))
        self._out: list[Any] = []
        self._marks: dict[int, int] = {}
        self._ended: set[int] = set()
        self._flow = self._draw_flow()
        self._per_partition = all(c.per_partition for c in clocks_of(plan(self._flow, 1)))
        planned = plan(self._flow, self._workers)
        self._per_partition = all(clock.per_partition for clock in clocks_of(planned))

    def _draw_flow(self) -> Dataflow:
        rng, flow = self._rng, Dataflow("clocks")
        ups: list[Stream[Any]] = []
        for n, port in enumerate(self._ports):
            names = list(port.scripts)
            cut = rng.randrange(len(names) + 1) if rng.random() < 0.4 else len(names)
            sources = [names[:cut], names[cut:]] if cut < len(names) else [names]
            streams = [
                op.input(f"in{n}{i}", flow, _Watched(port, {p: port.scripts[p] for p in some}))
                for i, some in enumerate(sources)
            ]
            stream = streams[0] if len(streams) == 1 else op.merge(f"merge{n}", *streams)
            for i in range(rng.choice((0, 0, 1, 2))):
                stream = rng.choice(_BETWEEN)(f"step{n}{i}", stream)
            ups.append(stream)
        clocks = tuple(port.clock for port in self._ports)
        stream = watermarked("clocked", *ups, clocks=clocks, heard=self._hear)
        op.output("out", stream, TestingSink(self._out))
        return flow

    def _hear(self, what: str, worker: int, at_us: int) -> None:
        if what == "end":
            self._ended.add(worker)
            return
        assert at_us > self._marks.get(worker, -_LAST), "it goes back"
        self._marks[worker] = at_us
        if self._per_partition:
            allowed = min(port.allows() for port in self._ports)
            assert at_us <= allowed, f"{at_us} where the partitions allow {allowed}"

    def check(self) -> None:
        rng, workers = self._rng, self._workers
        options = SimOptions(
            workers,
            timedelta(seconds=rng.choice((0, 0.5, 10))),
            channel_batches=rng.choice((1, 2, 3)),
            step_max=timedelta(milliseconds=rng.choice((1, 20))),
            delay_max=timedelta(milliseconds=rng.choice((0, 10, 300))),
            pause_max=timedelta(milliseconds=rng.choice((0, 200))),
            steps_max=60_000,
        )
        simulate(self._flow, self._seed, options)
        given = sum(
            len(entry)
            for port in self._ports
            for script in port.scripts.values()
            for entry in script
            if not isinstance(entry, Silent)
        )
        records = [value for _, value in self._out if value[0] == "record"]
        assert len(records) == given, "records are lost"
        assert self._ended == set(range(workers)), "a worker has not come to the end"
        if self._per_partition:
            late = [(at, mark) for _, at, mark in records if at < mark and at != _AWAKE]
            assert not late, f"late: {late}"
            # One input may end a moment before the other.
            ends = {_LAST - port.clock.wait_us for port in self._ports}
            assert len(self._marks) == workers, "a worker has heard nothing"
            assert {*self._marks.values()} <= ends, f"in the end {self._marks}, and not {ends}"


def _draw_port(rng: random.Random, number: int) -> _Port:
    wait_us = rng.choice((0, 0, 5, 100))
    clock = NumberClock(wait_us, rng.choice((0.05, 0.5)))
    names = [f"p{number}{i}" for i in range(rng.choice((0, 1, 2, 4)))]
    ignorant = {name for name in names if rng.random() < 0.3}
    scripts = {name: _draw_script(rng, wait_us, ignorant=name in ignorant) for name in names}
    # At last this one is waited for alone, and long enough for all the others to end.
    end = Silent(60, caught_up=False, paced=True)
    before = [entry for entry in _draw_script(rng, wait_us) if not _is_long(entry)]
    scripts[f"last{number}"] = [*before, [("a", _LAST)], end]
    return _Port(clock, scripts, dict.fromkeys(scripts), ignorant=ignorant)


def _is_long(entry: Any) -> bool:
    return isinstance(entry, Silent) and entry.seconds > 10


def _draw_script(rng: random.Random, wait_us: int, *, ignorant: bool = False) -> Script:
    script: Script = []
    now, awake = rng.choice((0, 0, 500)), False
    for _ in range(rng.randrange(8)):
        kind = rng.uniform(0.25 if ignorant else 0, 1)
        if kind < 0.15:
            script.append(Silent(rng.choice((0.1, 2)), caught_up=False, paced=rng.random() < 0.5))
        elif kind < 0.25:
            script.append(Silent(rng.choice((0.1, 1)), reachable=False))
        elif kind < 0.35:
            awake = True
            script.append(Silent(rng.choice((0.1, 1)), paced=rng.random() < 0.5))
        else:
            before, now = now, now + rng.choice((1, 10, 200))
            # Among the records of a batch there may be any order: the watermark comes behind them.
            times = [
                _AWAKE if awake else rng.randint(before - wait_us, now)
                for _ in range(rng.randrange(1, 4))
            ]
            script.append([(rng.choice(_KEYS), at) for at in times])
    if rng.random() < 0.3:
        # Still there when the last one has come to its last record, and not waited for.
        script.append(Silent(90, paced=True))
    return script


def _diamond(step_id: str, stream: Stream[Any]) -> Stream[Any]:
    parted = op.branch(step_id, stream, lambda record: record[1] % 2 == 0)
    return op.merge(f"{step_id}again", parted.trues, parted.falses)


def _same(step_id: str, stream: Stream[Any]) -> Stream[Any]:
    return op.map(step_id, stream, lambda record: record)


def _dealt(step_id: str, stream: Stream[Any]) -> Stream[Any]:
    return op.redistribute(step_id, stream)


def _counted(step_id: str, stream: Stream[Any]) -> Stream[Any]:
    return op.stateful_map(step_id, stream, lambda n, value: ((n or 0) + 1, value))


_BETWEEN: tuple[Callable[[str, Stream[Any]], Stream[Any]], ...] = (
    *(_diamond, _diamond, _diamond, _same, _same),
    *(_dealt, _counted),
)
