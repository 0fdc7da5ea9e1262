"""Small flows for the tests of operators: items in, a list of what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow, Stream
from engine.runtime import RunOptions, run_flow
from engine.testing import TestingSink, TestingSource
from engine.testing.sim import SimOptions, simulate

Build = Callable[..., Stream[Any]]


def flow_of(build: Build, *inputs: Iterable[Any], batch_size: int = 1) -> tuple[Dataflow, list]:
    """A flow with an input per list of items, and the list that its output fills."""
    flow, out = Dataflow("flow"), []
    streams = [
        op.input(f"in_{i}", flow, TestingSource(items, batch_size))
        for i, items in enumerate(inputs)
    ]
    op.output("out", build(*streams), TestingSink(out))
    return flow, out


def emitted(
    build: Build, *inputs: Iterable[Any], batch_size: int = 1, kernels: bool = True
) -> list[Any]:
    """What comes out on one worker."""
    flow, out = flow_of(build, *inputs, batch_size=batch_size)
    run_flow(flow, RunOptions(kernels=kernels))
    return out


def emitted_by_all(
    build: Build, *inputs: Iterable[Any], workers: int, seed: int = 0, kernels: bool = True
) -> list[Any]:
    """What comes out of a simulation of several workers, in the order in which it came."""
    flow, out = flow_of(build, *inputs, batch_size=3)
    simulate(flow, seed, SimOptions(workers=workers, kernels=kernels))
    return out


def emitted_in_time(
    build: Build, *inputs: Iterable[Any], batch_size: int = 1, kernels: bool = True
) -> list[Any]:
    """What comes out of a simulation, where pauses in the input take no real time."""
    flow, out = flow_of(build, *inputs, batch_size=batch_size)
    simulate(flow, 0, SimOptions(kernels=kernels))
    return out


def pause(seconds: float) -> Any:
    """An item that makes a source wait."""
    return TestingSource.PAUSE(timedelta(seconds=seconds))


def by_key(records: Sequence[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """Values by key, in their order."""
    grouped: dict[Any, list[Any]] = {}
    for key, value in records:
        grouped.setdefault(key, []).append(value)
    return grouped


def root_cause(ex: BaseException) -> BaseException:
    """The exception at the end of the chain of causes."""
    while ex.__cause__ is not None:
        ex = ex.__cause__
    return ex
