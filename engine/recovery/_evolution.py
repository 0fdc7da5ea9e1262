"""What becomes of the stored steps when a flow has changed. Pure.

State belongs to a step id that the user chose. A step that is new starts empty; one that is gone
stops the start, because its state would be lost without a word; one that became something else too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from engine.recovery._ids import Epoch, StepNumber
from engine.recovery._manifest import NO_EPOCH, StepEntry


@dataclass(frozen=True, slots=True)
class WantedStep:
    """A step of the flow that keeps something in the store."""

    kind: str
    """What its rows are, such as ``"stateful_map"`` or ``"input"``."""
    state_version: int = 1
    stateless: bool = False
    """It is a source or sink without named partitions."""

    def fits(self, stored: StepEntry) -> bool:
        """Whether stored rows are such as this step has."""
        return (stored.kind, stored.stateless) == (self.kind, self.stateless)


@dataclass(frozen=True, slots=True)
class Evolution:
    """How the stored steps fit the flow's."""

    steps: dict[str, StepEntry]
    """For the manifest that begins a generation: the flow's steps, with those that are gone. Their
    versions are those of the states that are stored."""
    saved_steps: dict[str, StepEntry]
    """For the manifests of its epochs: the same, with the versions that the flow saves."""
    next_step: int
    new: tuple[str, ...]
    """Steps that start empty."""
    gone: tuple[str, ...]
    """Stored steps that the flow hasn't."""
    changed: tuple[str, ...]
    """Steps whose rows are of another kind than the flow's."""
    migrated: tuple[str, ...]
    """Steps whose states are of another version than the flow's."""
    dropped: tuple[StepNumber, ...]
    """Numbers of steps that are gone or of another kind, and had nothing saved."""


def evolve(
    stored: Mapping[str, StepEntry],
    next_step: int,
    wanted: Mapping[str, WantedStep],
    *,
    epoch: Epoch = NO_EPOCH,
    empty: Collection[str] = (),
) -> Evolution:
    """Compare a store's steps with a flow's.

    Args:
        stored: The store's.
        next_step: The number for the next new step.
        wanted: The flow's.
        epoch: The last durable one.
        empty: Stored steps that have nothing saved: they may go or change without a word.

    >>> evolution = evolve({}, 1, {"flow.count": WantedStep("stateful")})
    >>> evolution.new, evolution.steps["flow.count"].number
    (('flow.count',), 1)
    """
    fitting = {s for s in wanted if s in stored and wanted[s].fits(stored[s])}
    kept = {s: entry for s, entry in stored.items() if s in fitting or s not in empty}
    steps = {
        s: replace(entry, state_version=wanted[s].state_version) if s in empty else entry
        for s, entry in kept.items()
    }
    new = tuple(step_id for step_id in wanted if step_id not in kept)
    for number, step_id in enumerate(new, next_step):
        want = wanted[step_id]
        steps[step_id] = StepEntry(
            StepNumber(number), want.kind, want.state_version, epoch, want.stateless
        )
    both = [step_id for step_id in wanted if step_id in kept]
    old_versions = (s for s in both if steps[s].state_version != wanted[s].state_version)
    return Evolution(
        steps=steps,
        saved_steps={
            s: replace(entry, state_version=wanted[s].state_version) if s in wanted else entry
            for s, entry in steps.items()
        },
        next_step=next_step + len(new),
        new=new,
        gone=tuple(step_id for step_id in kept if step_id not in wanted),
        changed=tuple(s for s in both if s not in fitting),
        migrated=tuple(old_versions),
        dropped=tuple(stored[step_id].number for step_id in stored if step_id not in kept),
    )
