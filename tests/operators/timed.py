"""Flows whose clock stands where the input says: for tests of what depends on time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import engine.operators as op
from engine.clock import clock_set_to
from engine.connectors import (
    AbortExecution,
    FixedPartitionedSource,
    StatefulSourcePartition,
)
from engine.dataflow import Dataflow
from engine.recovery import RecoveryConfig
from engine.runtime import RunOptions, run_flow
from engine.testing import TestingSink

START = datetime(2024, 1, 1, tzinfo=UTC)
NEVER = timedelta(days=1000)
EACH_BATCH = timedelta(0)
CRASH = "crash"
"""In place of a batch: the run ends here, if it didn't begin here."""


def at(seconds: float) -> datetime:
    """A time, so many seconds after the start."""
    return START + timedelta(seconds=seconds)


class HandClock:
    """A clock that stands until it is set, or somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic_s(self) -> float:
        return self.seconds

    def time_s(self) -> float:
        return self.now().timestamp()

    def now(self) -> datetime:
        return at(self.seconds)

    def wait(self, seconds: float) -> None:
        assert seconds < 1e6, "nobody would ever wake it"
        self.seconds += seconds

    def wake(self) -> None: ...


class TimedSource(FixedPartitionedSource[Any, int]):
    """Gives batches, each at its time in seconds; the clock stands there until the next."""

    def __init__(self, batches: list[tuple[float, Any]], clock: HandClock) -> None:
        self.batches = batches
        self.clock = clock

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _TimedPart:
        return _TimedPart(self, resume_state or 0)


class _TimedPart(StatefulSourcePartition[Any, int]):
    def __init__(self, source: TimedSource, position: int) -> None:
        self._source = source
        self._began_at = self._position = position

    def next_batch(self) -> list[Any]:
        source = self._source
        if self._position >= len(source.batches):
            raise StopIteration
        seconds, batch = source.batches[self._position]
        source.clock.seconds = seconds
        if batch == CRASH and self._position != self._began_at:
            raise AbortExecution
        self._position += 1
        return [] if batch == CRASH else list(batch)

    def snapshot(self) -> int:
        return self._position


class Timeline:
    """A flow of one step, which can be run again on the same store."""

    def __init__(
        self,
        build: Callable[..., Any],
        *inputs: list[tuple[float, Any]],
        epochs: timedelta = NEVER,
        kernels: bool = True,
        recovery: RecoveryConfig | None = None,
    ) -> None:
        self.clock = HandClock()
        self.out: list[Any] = []
        self._flow = Dataflow("flow")
        streams = [
            op.input(f"in_{i}", self._flow, TimedSource(batches, self.clock))
            for i, batches in enumerate(inputs)
        ]
        op.output("out", build(*streams), TestingSink(self.out))
        self._options = RunOptions(
            epoch_interval=epochs,
            kernels=kernels,
            clock=self.clock,
            waiter=self.clock,
            recovery=recovery,
        )

    def run(self) -> list[Any]:
        """Run until the end or the next crash; gives what came out of this run."""
        self.out.clear()
        with clock_set_to(self.clock.now):
            run_flow(self._flow, self._options)
        return list(self.out)


def emitted_at(build: Callable[..., Any], *inputs: list[tuple[float, Any]], **options: Any) -> Any:
    """What comes out of a flow whose batches come at their times."""
    return Timeline(build, *inputs, **options).run()
