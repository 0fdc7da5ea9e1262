"""Deals the partitions of sources and sinks over the workers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from engine.errors import EngineRuntimeError
from engine.operators._kernels import InputKernel, OutputKernel
from engine.runtime._ids import WorkerIndex
from engine.runtime._listing import listed
from engine.runtime._outage import Asking
from engine.runtime._plan import Plan


@dataclass(frozen=True, slots=True)
class Deal:
    """Which worker has which partition, by step id; the same on all workers."""

    sources: dict[str, dict[str, WorkerIndex]]
    sinks: dict[str, dict[str, WorkerIndex]]


def deal_partitions(plan: Plan, asking: Asking | None = None) -> Deal:
    """Deal the partitions of all sources and sinks over the workers, evenly and in name order.

    Asks the sources and sinks for their partitions here, once for all workers, which must see the
    same ones.

    Args:
        plan: What is to run.
        asking: Asks sources again that can't be reached; without it that is an error at once.

    Raises:
        EngineRuntimeError: A source or sink can't name its partitions.
        AbortExecution: The run is to drain before they are known.
    """
    sources: dict[str, list[str]] = {}
    sinks: dict[str, list[str]] = {}
    for step in plan.steps:
        kernel = step.kernel
        if isinstance(kernel, InputKernel) and hasattr(kernel.source, "list_parts"):
            sources[step.step_id] = listed(step.step_id, kernel.source, asking)
        elif isinstance(kernel, OutputKernel) and hasattr(kernel.sink, "list_parts"):
            sinks[step.step_id] = listed(step.step_id, kernel.sink)
            if not sinks[step.step_id]:
                msg = f"the sink of step {step.step_id!r} has no partitions to write to"
                raise EngineRuntimeError(msg, step_id=step.step_id)
    return Deal(_dealt(sources, plan.workers), _dealt(sinks, plan.workers))


def _dealt(names_of: dict[str, list[str]], workers: int) -> dict[str, dict[str, WorkerIndex]]:
    """Go on dealing from step to step, or the first workers would get the most."""
    turn = itertools.cycle(WorkerIndex(i) for i in range(workers))
    return {step_id: {name: next(turn) for name in names} for step_id, names in names_of.items()}
