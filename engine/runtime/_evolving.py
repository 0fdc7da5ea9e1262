"""Makes the state in a store fit the flow as it is now.

State belongs to the step id that the user chose. `evolution_of` compares the steps before a run
claims the store, so that a run which would lose state stops with the store as it was; `Migration`
turns a state of an older version into the present one when it is read.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.dataflow import f_repr
from engine.errors import InconsistentPartitionsError, UserCodeError
from engine.operators._kernels import InputKernel, OutputKernel
from engine.operators._shown import shortened
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.operators.tasks._task import TaskKernel
from engine.recovery._changes import StoredState
from engine.recovery._evolution import Evolution, WantedStep, evolve
from engine.recovery._manifest import Manifest, StepEntry
from engine.runtime._plan import Plan, is_keyed
from engine.runtime._planned_step import PlannedStep

_COMMAND = "python -m engine.recovery"


def evolution_of(root: Path, manifest: Manifest | None, planned: Plan) -> Evolution:
    """How the stored steps become those of this flow.

    Args:
        root: The store's folder, for errors.
        manifest: The newest; None if no run was ever started on the store.
        planned: The flow.

    Raises:
        InconsistentPartitionsError: State would be lost, or is of a version that the flow can't
            read.
    """
    wanted = {step.step_id: wish for step in planned.steps if (wish := _wanted(step)) is not None}
    if manifest is None:
        return evolve({}, 1, wanted)
    empty = set(_empty_steps(manifest))
    stored, number, epoch = manifest.steps, manifest.next_step, manifest.epoch
    evolution = evolve(stored, number, wanted, epoch=epoch, empty=empty)
    if evolution.gone or evolution.changed:
        raise InconsistentPartitionsError(_loss(root, evolution, wanted))
    options = options_of(planned)
    for step_id in evolution.migrated:
        _check_version(root, step_id, stored[step_id].state_version, options[step_id])
    return evolution


def options_of(planned: Plan) -> dict[str, StateOptions]:
    """What the user says about the state of each keyed step."""
    found = {s.step_id: _options(s) for s in planned.steps if is_keyed(s.kernel)}
    tasked = [s.step_id for s in planned.steps if isinstance(s.kernel, TaskKernel)]
    return {**found, **dict.fromkeys(tasked, DEFAULT_STATE)}


def _options(step: PlannedStep) -> StateOptions:
    options: StateOptions = step.kernel.state_options
    return options


def _wanted(step: PlannedStep) -> WantedStep | None:
    """What a step saves, by the operator that the user chose; None if nothing."""
    kernel = step.kernel
    if is_keyed(kernel):
        return WantedStep(step.kind, _options(step).version)
    if isinstance(kernel, TaskKernel):
        return WantedStep(step.kind)
    if isinstance(kernel, InputKernel):
        return WantedStep(step.kind, stateless=not hasattr(kernel.source, "list_parts"))
    if isinstance(kernel, OutputKernel):
        return WantedStep(step.kind, stateless=not hasattr(kernel.sink, "list_parts"))
    return None


def _empty_steps(manifest: Manifest) -> Iterator[str]:
    """Stored steps that have nothing saved."""
    for step_id, entry in manifest.steps.items():
        unmarked = step_id not in manifest.published
        if entry.since == manifest.epoch or (entry.stateless and unmarked):
            yield step_id


def _loss(root: Path, evolution: Evolution, wanted: dict[str, WantedStep]) -> str:
    """Which steps' state would be lost, and what to do about it."""
    stored = evolution.steps
    steps = [f"{step_id!r} (`{stored[step_id].kind}`)" for step_id in evolution.gone]
    steps += [
        f"{s!r} (`{_named(stored[s])}`, in the flow `{_named(wanted[s])}`)"
        for s in evolution.changed
    ]
    folder = shlex.quote(str(root))
    what = (
        f"{root} has saved state of steps that this flow hasn't, or that are another kind of step "
        f"now: {', '.join(steps)}. It would be lost. Give the steps their old names and operators "
        "back, or say what is to become of their state:"
    )
    lines = [what]
    for step_id in evolution.gone:
        kind = stored[step_id].kind
        fitting = [new for new in evolution.new if wanted[new].kind == kind]
        new = shlex.quote(fitting[0]) if len(fitting) == 1 else "NEW"
        lines.append(f"{_COMMAND} rename-step {folder} {shlex.quote(step_id)} {new}")
    lines += [
        f"{_COMMAND} drop-step {folder} {shlex.quote(step_id)}"
        for step_id in (*evolution.gone, *evolution.changed)
    ]
    return "\n".join(lines)


def _named(step: StepEntry | WantedStep) -> str:
    return f"{step.kind} without partitions" if step.stateless else step.kind


def _check_version(root: Path, step_id: str, stored: int, options: StateOptions) -> None:
    """See that states of a version can be read.

    Raises:
        InconsistentPartitionsError: They can't.
    """
    if stored > options.version:
        what = (
            "they were saved by a newer flow. Run that one, or restore a savepoint from before it"
        )
    elif options.migrate is None:
        what = (
            "nothing says how the old ones become new ones. Give the step a `migrate` function, or "
            f"drop its state: {_COMMAND} drop-step {shlex.quote(str(root))} {shlex.quote(step_id)}"
        )
    else:
        return
    msg = (
        f"{root} has states of step {step_id!r} in version {stored}; in this flow they are of "
        f"version {options.version}, and {what}"
    )
    raise InconsistentPartitionsError(msg)


class Migration:
    """Brings states of one step to the version that the flow has.

    A store may hold states of several versions: each is written in the present one when its key
    is touched, and no sooner.
    """

    def __init__(self, step_id: str, options: StateOptions) -> None:
        self._step_id = step_id
        self._options = options
        self.version = options.version
        """The present one."""

    def current(self, key: Any, row: StoredState) -> Any:
        """The state in a row of another version, in the present one.

        Raises:
            InconsistentPartitionsError: There is no function for it, or the state is newer.
            UserCodeError: The function failed.
        """
        migrate = self._options.migrate
        where = (
            f"step {self._step_id!r}, key {shortened(key)}: the stored state is of version "
            f"{row.version}, and the flow's are of version {self.version}"
        )
        if migrate is None or row.version > self.version:
            msg = f"{where}; keep the step's `migrate` function for as long as old states are left"
            raise InconsistentPartitionsError(msg)
        try:
            state = self._options.migrated(row.version, row.value)
        except Exception as ex:
            msg = f"{where}: {f_repr(migrate)} raised {type(ex).__name__}: {ex}"
            raise self._refusal(msg) from ex
        if state is None:
            msg = f"{where}: {f_repr(migrate)} returned None, which is no state"
            raise self._refusal(msg)
        return state

    def _refusal(self, msg: str) -> UserCodeError:
        hint = f"`migrate` gets (version, state) and returns the state of version {self.version}"
        return UserCodeError(msg, function=self._options.migrate, hint=hint)
