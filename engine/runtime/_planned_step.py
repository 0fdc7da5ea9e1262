"""One step of a plan, as every worker runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.dataflow import ErrorPolicy


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step as it will run."""

    index: int
    step_id: str
    """The step as a user knows it: one that the engine's operators are composed of goes by the
    name of the operator, so that errors and saved state don't depend on how it is composed."""
    inner_id: str
    """The step itself, by its own id."""
    operator: str
    """Name of the inner step's operator."""
    kind: str
    """Name of the operator that the user chose."""
    kernel: Any
    ups: tuple[str, ...]
    """The stream at each input port."""
    downs: tuple[str, ...]
    """The stream of each output."""
    on_error: ErrorPolicy = "fail"
    """What becomes of records that its functions raise for."""
    letters: str | None = None
    """The stream of its dead letters, if it has any."""
