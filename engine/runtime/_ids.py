"""Types for the numbers that protocol code passes around, so that two never get mixed up."""

from __future__ import annotations

from typing import NewType

Epoch = NewType("Epoch", int)
"""The number of an epoch, from 1."""

WorkerIndex = NewType("WorkerIndex", int)
"""The number of a worker, from 0."""

EdgeId = NewType("EdgeId", int)
"""The number of an edge between two stages, in plan order."""

StageIndex = NewType("StageIndex", int)
"""The number of a stage, in topological order."""
