"""The steps that a plan gets where a flow's dead letters go to the recovery store.

They are no part of the graph: whether there are any depends on policies alone, and on what was
asked of the store. Pure; called by `engine.runtime._plan.plan`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import FlowError
from engine.operators._kept_letters import KEPT_KIND, KeepLettersKernel, kept_form, replayed
from engine.operators._kernels import (
    BatchKernel,
    DeadLettersKernel,
    InputKernel,
    MapKernel,
    MergeKernel,
)
from engine.runtime._planned_step import PlannedStep
from engine.runtime._replays import ReplaySource


def with_keeper(
    flow_id: str, steps: tuple[PlannedStep, ...], *, replaying: bool
) -> tuple[PlannedStep, ...]:
    """The steps, with those that keep letters if there are letters that no step takes.

    Raises:
        FlowError: A step of the flow has the name that is needed.
    """
    makers = [step for step in steps if step.letters is not None]
    if not makers or any(isinstance(step.kernel, DeadLettersKernel) for step in steps):
        return steps
    keeper = f"{flow_id}.{KEPT_KIND}"
    back = f"{keeper}_back"
    taken = next((step.step_id for step in steps if step.step_id in (keeper, back)), None)
    if taken is not None:
        msg = f"{taken!r} is what keeps the dead letters of this flow: name the step otherwise"
        raise FlowError(msg)
    letters = tuple(step.letters for step in makers if step.letters is not None)
    keyed = _step(keeper, "key", MapKernel(kept_form), letters)
    if not replaying:
        kept = _step(keeper, "keep", KeepLettersKernel(), keyed.downs)
        return _numbered([*steps, keyed, kept])
    source = _step(back, "read", InputKernel(ReplaySource()), ())
    kept = _step(keeper, "keep", KeepLettersKernel(), (*keyed.downs, *source.downs))
    fed: list[PlannedStep] = []
    for step in steps:
        feeding = _feeding(step, back, source.downs) if step.letters is not None else []
        merged = tuple(each.downs[0] for each in feeding if isinstance(each.kernel, MergeKernel))
        fed += [*feeding, replace(step, ups=merged or step.ups)]
    return _numbered([source, *fed, keyed, kept])


def _feeding(step: PlannedStep, back: str, replays: tuple[str, ...]) -> list[PlannedStep]:
    """The steps that put records back at the inputs of a step, beside what comes there."""
    feeding: list[PlannedStep] = []
    for port, stream_id in enumerate(step.ups):
        name = f"{step.inner_id}.{port}"
        pick = BatchKernel(functools.partial(replayed, step.inner_id, port))
        picker = _step(back, name, pick, replays)
        into = (stream_id, *picker.downs)
        feeding += [picker, _step(back, f"{name}.merge", MergeKernel(), into)]
    return feeding


def keeper_of(steps: Iterable[PlannedStep]) -> str | None:
    """The step that keeps letters, if there is one."""
    return next((s.step_id for s in steps if isinstance(s.kernel, KeepLettersKernel)), None)


def _step(step_id: str, part: str, kernel: Any, ups: tuple[str, ...]) -> PlannedStep:
    inner_id = f"{step_id}.{part}"
    return PlannedStep(
        *(0, step_id, inner_id, KEPT_KIND, KEPT_KIND, kernel, ups), downs=(f"{inner_id}.down",)
    )


def _numbered(steps: Sequence[PlannedStep]) -> tuple[PlannedStep, ...]:
    return tuple(replace(step, index=index) for index, step in enumerate(steps))
