"""What a user may say about the state of a step: which version it is, and how old ones become it.

Keyed operators take these as keyword arguments and hand them to their kernels; the runtime reads
them there when it opens a store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StateOptions:
    """How the states of a step are kept."""

    version: int = 1
    """Of the form that the step's states have in the flow as it is now."""
    migrate: Callable[[int, Any], Any] | None = None
    """Given the version of a stored state and that state, makes one of the version above."""


DEFAULT_STATE = StateOptions()
