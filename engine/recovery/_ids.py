"""Types for the numbers that the store counts by, so that two never get mixed up."""

from __future__ import annotations

from typing import NewType

Epoch = NewType("Epoch", int)
"""The number of an epoch, from 1; 0 is the state before the first."""

Generation = NewType("Generation", int)
"""How many times the job has been started or rewound, from 1."""

WorkerIndex = NewType("WorkerIndex", int)
"""The number of a worker, from 0."""

StepNumber = NewType("StepNumber", int)
"""What stands for a step's id in rows and log records, so that a step can be renamed."""
