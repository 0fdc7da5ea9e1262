"""What becomes of records that a step's function raises for, worked out for each step of a plan.

A step does as it says itself (`Stream.on_error`), or as the operator that it is part of, or as the
flow. Those that keep such records as dead letters are connected here with whoever takes them.
Called by `engine.runtime._plan.plan`; pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.dataflow import Dataflow, ErrorPolicy, Operator
from engine.errors import FlowError
from engine.operators._kernels import (
    BatchKernel,
    BranchKernel,
    DeadLettersKernel,
    KeyedKernel,
    RecordKernel,
)
from engine.operators.tasks._task import TaskKernel

_ABLE = (RecordKernel, BatchKernel, BranchKernel, KeyedKernel, TaskKernel)
"""Steps that can go on without a record."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a step does about errors, and where that is said."""

    on_error: ErrorPolicy
    said_by: str | None
    """The step that says so; None for the flow."""


@dataclass(frozen=True, slots=True)
class RunStep:
    """A step that will run: itself, the step that users know, its kernel and its policy."""

    leaf: Operator
    op: Operator
    kernel: Any
    policy: Policy

    @classmethod
    def of(cls, leaf: Operator, op: Operator, kernel: Any, policy: Policy) -> RunStep:
        """A step; one with tasks may say its policy itself."""
        if isinstance(kernel, TaskKernel) and kernel.on_error is not None:
            policy = Policy(kernel.on_error, op.step_id)
        return cls(leaf, op, kernel, policy)

    @property
    def able(self) -> bool:
        """Whether it can go on without a record."""
        return isinstance(self.kernel, _ABLE)

    @property
    def on_error(self) -> ErrorPolicy:
        """What it does."""
        return self.policy.on_error if self.able else "fail"

    @property
    def letters(self) -> str | None:
        """The stream of its dead letters, if it has any."""
        return f"{self.op.step_id}.dead_letters" if self.on_error == "dead_letter" else None

    @property
    def ups(self) -> tuple[str, ...]:
        """The stream at each input port."""
        return tuple(stream_id for port in self.op.ups.values() for stream_id in port.stream_ids)

    @property
    def downs(self) -> tuple[str, ...]:
        """The stream of each output."""
        return tuple(stream_id for port in self.op.downs.values() for stream_id in port.stream_ids)


def policies_of(flow: Dataflow) -> dict[str, Policy]:
    """What is said about each step, by step id; steps of compositions included."""
    found: dict[str, Policy] = {}

    def look(steps: Iterable[Operator], around: Policy) -> None:
        for step in steps:
            said = around if step.on_error is None else Policy(step.on_error, step.step_id)
            found[step.step_id] = said
            look(step.substeps, said)

    look(flow.substeps, Policy(flow.on_error, None))
    return found


def check_able(steps: Sequence[RunStep]) -> None:
    """See that steps which are told to go on after errors can do so.

    Raises:
        FlowError: One can't.
    """
    told: dict[str, list[RunStep]] = {}
    for step in steps:
        if step.policy.said_by is not None and step.policy.on_error != "fail":
            told.setdefault(step.policy.said_by, []).append(step)
    for said_by, those in told.items():
        if any(step.able for step in those):
            continue
        wrong = those[0]
        msg = (
            f"step {said_by!r} can't have on_error={wrong.policy.on_error!r}: "
            f"{wrong.op.step_id!r} (`{wrong.op.name}`) has no function that is called with records"
        )
        raise FlowError(msg)


def letters_last(steps: Sequence[RunStep]) -> list[RunStep]:
    """The same steps in an order in which each comes after all that feed it.

    That is how they are declared, but those that take dead letters may stand before the steps that
    these come from; so they, and all that works on letters, go last. These fail at errors, unless
    they say otherwise.

    Raises:
        FlowError: One of them is to have dead letters of its own.
    """
    behind: set[str] = set()
    """Streams of letters, and of what became of them."""
    first: list[RunStep] = []
    last: list[RunStep] = []
    for step in steps:
        if isinstance(step.kernel, DeadLettersKernel) or not behind.isdisjoint(step.ups):
            behind.update(step.downs)
            last.append(step)
        else:
            first.append(step)
    return [*first, *map(_spared, last)]


def _spared(step: RunStep) -> RunStep:
    if not step.able or step.policy.said_by is None:
        return RunStep(step.leaf, step.op, step.kernel, Policy("fail", None))
    if step.on_error == "dead_letter":
        msg = (
            f"step {step.op.step_id!r} works on dead letters, so it can't have any of its own: "
            'say on_error "fail" or "skip"'
        )
        raise FlowError(msg)
    return step


def letters_into(steps: Sequence[RunStep]) -> dict[str, tuple[str, ...]]:
    """The streams that each `dead_letters` step takes, by its id.

    Raises:
        FlowError: There is such a step, and no step has letters.
    """
    takers = [step for step in steps if isinstance(step.kernel, DeadLettersKernel)]
    letters = tuple(step.letters for step in steps if step.letters is not None)
    if takers and not letters:
        msg = (
            f"step {takers[0].op.step_id!r} takes dead letters, and no step of the flow has any: "
            'say `.on_error("dead_letter")` behind a step, or on_error="dead_letter" for the flow'
        )
        raise FlowError(msg)
    return {step.op.step_id: letters for step in takers}
