"""What becomes of the stored steps when a flow has changed. Pure.

State belongs to a step id that the user chose. A step that is new starts empty; one that is gone
stops the start, because its state would be lost without a word; one that became something else too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.recovery._ids import StepNumber
from engine.recovery._manifest import StepEntry


@dataclass(frozen=True, slots=True)
class WantedStep:
    """A step of the flow that keeps something in the store."""

    kind: str
    """What its rows are, such as ``"stateful"`` or ``"source"``."""
    state_version: int = 1


@dataclass(frozen=True, slots=True)
class Evolution:
    """How the stored steps fit the flow's."""

    steps: dict[str, StepEntry]
    """For the next manifest: the flow's steps, with those that are gone."""
    next_step: int
    new: tuple[str, ...]
    """Steps that start empty."""
    gone: tuple[str, ...]
    """Stored steps that the flow hasn't."""
    changed: tuple[str, ...]
    """Steps whose rows are of another kind than the flow's."""
    migrated: tuple[str, ...]
    """Steps whose states are of another version than the flow's."""


def evolve(
    stored: Mapping[str, StepEntry], next_step: int, wanted: Mapping[str, WantedStep]
) -> Evolution:
    """Compare a store's steps with a flow's.

    >>> evolution = evolve({}, 1, {"flow.count": WantedStep("stateful")})
    >>> evolution.new, evolution.steps["flow.count"].number
    (('flow.count',), 1)
    """
    steps = dict(stored)
    new: list[str] = []
    for step_id, want in wanted.items():
        have = stored.get(step_id)
        if have is None:
            new.append(step_id)
            steps[step_id] = StepEntry(StepNumber(next_step), want.kind, want.state_version)
            next_step += 1
        else:
            steps[step_id] = replace(have, state_version=want.state_version)
    both = [step_id for step_id in wanted if step_id in stored]
    return Evolution(
        steps=steps,
        next_step=next_step,
        new=tuple(new),
        gone=tuple(step_id for step_id in stored if step_id not in wanted),
        changed=tuple(s for s in both if stored[s].kind != wanted[s].kind),
        migrated=tuple(s for s in both if stored[s].state_version != wanted[s].state_version),
    )
