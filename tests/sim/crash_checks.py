"""What must hold of a job's store when it is opened, and of everything when it has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine._stamps import unstamped
from engine.keys import key_group, owner
from engine.recovery._fakes import FakeDisk, MemoryTables
from engine.recovery._verify import verify
from engine.runtime._recovery import JobStore
from engine.runtime._store_start import partitions_of
from tests.sim.crash_job import LATER, Outside, living, states_after


def check_opened(recovery: JobStore, outside: Outside) -> None:
    """The states are what the records up to the sources' positions make of them, no more no less.

    And each key is with the worker that owns it.
    """
    positions = positions_of(recovery, "f.in")
    for step, wanted in states_after(outside, positions).items():
        if step not in ("count", *outside.extras):
            continue
        found = states_of(recovery, f"f.{step}")
        if step == "recent":
            found = {key: unstamped(state)[0] for key, state in found.items()}
            keys = living(outside, positions) | {*found}
            wanted = {key: state for key, state in wanted.items() if key in keys}  # noqa: PLW2901
        assert found == wanted, f"states of {step} at {positions}"


def positions_of(recovery: JobStore, step_id: str) -> dict[str, Any]:
    """The newest positions of a source's partitions."""
    found = partitions_of(recovery._stores, step_id)
    return {name: partition.value for name, partition in found.items()}


def states_of(recovery: JobStore, step_id: str) -> dict[Any, Any]:
    """All states of a step."""
    stores, found = recovery._stores, {}
    for worker, store in enumerate(stores):
        for key, row in store.scan_step(step_id):
            assert owner(key_group(key), len(stores)) == worker, "a key is with another worker"
            assert key not in found, "two workers have a key"
            found[key] = row.value
    return found


def check_ended(recovery: JobStore, outside: Outside) -> None:
    """As `check_opened`, for a job that has come to its end."""
    ends = {name: len(part) for name, part in outside.parts.items()}
    # The last run need not have seen the partition that came later.
    assert {LATER: 0, **positions_of(recovery, "f.in")} == ends
    check_opened(recovery, outside)
    for step in {"collect", "total"} & {*outside.extras}:
        assert states_of(recovery, f"f.{step}") == {}, f"{step} has states left"


def check_sound(disk: FakeDisk, root: Path) -> None:
    """Nothing in the store's files is other than the engine would write it."""
    report = verify(disk, MemoryTables(disk), root)
    assert report.sound, report.faults
