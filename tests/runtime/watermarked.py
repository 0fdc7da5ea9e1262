"""A keyed step with stream clocks for tests: it writes down what it hears, and emits watermarks.

A record is ``(key, time in microseconds)``. For each batch the step emits its records, each as
``(key, ("record", time, watermark))`` with the watermark of its worker at that moment; for each
watermark one ``(worker, ("watermark", time, keys))`` with the number of keys that it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from engine.clock import utc_now
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition, UnavailableError
from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext, StreamClock

NONE_US = -(10**18)
"""Stands for no watermark."""


@dataclass(frozen=True)
class NumberClock:
    """Values are times."""

    wait_us: int = 0
    idle_after_s: float = 1.0

    def latest_us(self, batch: list[Any]) -> int | None:
        return max((value for _, value in batch if value is not None), default=None)


@dataclass(frozen=True)
class WatermarkedKernel(KeyedKernel):
    clocks: tuple[StreamClock | None, ...]
    heard: Callable[..., None]

    def stream_clocks(self) -> Sequence[StreamClock | None]:
        return self.clocks

    def start(self, step: StepContext) -> KeyedLogic:
        return _Running(self, step)


class _Running(KeyedLogic):
    def __init__(self, kernel: WatermarkedKernel, step: StepContext) -> None:
        self._clocks = kernel.clocks
        self._heard = kernel.heard
        self._step = step
        self._at_us = NONE_US

    def resume_watermark(self, at_us: int) -> None:
        self._heard("resumed", self._step.worker_index, at_us)
        self._at_us = at_us

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        clock = self._clocks[port]
        if self._step.worker_count == 1 and clock is not None:
            self.batch_latest_us = clock.latest_us(batch)
        for key, _ in batch:
            self._step.state.get(key)
            self._step.state.put(key, 1)
        return [(key, ("record", at_us, self._at_us)) for key, at_us in batch]

    def on_watermark(self, at_us: int) -> list[Any]:
        assert at_us > self._at_us, "a watermark goes back"
        self._at_us = at_us
        worker = self._step.worker_index
        self._heard("watermark", worker, at_us)
        return [(worker, ("watermark", at_us, NONE_US))]

    def on_eof(self) -> list[Any]:
        self._heard("end", self._step.worker_index, self._at_us)
        return []


def _nobody(*_: Any) -> None:
    """Hears nothing."""


def _kernel(step: Operator, _workers: int) -> WatermarkedKernel:
    return WatermarkedKernel(step.params["clocks"], step.params["heard"])


@operator(core=True, kernel=_kernel)
def watermarked(
    step_id: str,
    *ups: Stream[Any],
    clocks: tuple[StreamClock | None, ...] = (NumberClock(),),
    heard: Callable[..., None] = _nobody,
) -> Stream[Any]:
    """The step that this file is about.

    Args:
        step_id: Name of the step.
        *ups: Keyed streams.
        clocks: One for each of them.
        heard: Takes what the step hears: what it is, the worker, and a time.
    """
    return new_stream(step_id, ups[0])


@dataclass
class Silent:
    """In a script: nothing comes for a while."""

    seconds: float
    caught_up: bool = True
    reachable: bool = True
    paced: bool = False
    """The partition says when to ask it again."""


class ScriptedTimes(FixedPartitionedSource[Any, int]):
    """Partitions that follow scripts of batches and silences, then end.

    Args:
        scripts: By partition.
        ignorant: Partitions that say nothing about having caught up.
    """

    def __init__(
        self,
        scripts: Mapping[str, Sequence[list[Any] | Silent]],
        ignorant: Collection[str] = (),
    ) -> None:
        self.scripts = scripts
        self._ignorant = ignorant

    def list_parts(self) -> list[str]:
        return list(self.scripts)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> ScriptedPart:
        part = ScriptedPart(self.scripts[for_part], resume_state or 0)
        part.ignorant = for_part in self._ignorant
        return part


class ScriptedPart(StatefulSourcePartition[Any, int]):
    ignorant = False

    def __init__(self, script: Sequence[list[Any] | Silent], at: int) -> None:
        self._script = script
        self._at = at
        self._until: datetime | None = None
        self._look()

    def _look(self) -> None:
        """If a silence is next, it begins now; if it is an outage, it can't be opened."""
        entry = self._script[self._at] if self._at < len(self._script) else None
        if isinstance(entry, Silent) and self._until is None:
            self._until = utc_now() + timedelta(seconds=entry.seconds)

    def next_batch(self) -> list[Any]:
        self._look()
        if self._at >= len(self._script):
            raise StopIteration
        entry = self._script[self._at]
        if isinstance(entry, Silent):
            assert self._until is not None
            if utc_now() >= self._until:
                self._at += 1
                self._until = None
            elif not entry.reachable:
                raise UnavailableError("not now")
            return []
        self._at += 1
        return list(entry)

    def caught_up(self) -> bool:
        entry = self._script[self._at] if self._at < len(self._script) else None
        return self.ignorant or entry is None or (isinstance(entry, Silent) and entry.caught_up)

    def next_awake(self) -> datetime | None:
        entry = self._script[self._at] if self._at < len(self._script) else None
        return self._until if isinstance(entry, Silent) and entry.paced else None

    def snapshot(self) -> int:
        return self._at
