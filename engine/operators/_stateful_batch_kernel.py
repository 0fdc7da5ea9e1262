"""The kernel of `stateful_batch`: chooses how the objects that users' builders make are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.operators._state_ttl import ExpiringState
from engine.operators._stateful_going_on import (
    ExpiringObjectsGoingOn,
    KeyFailures,
    ObjectsGoingOn,
    OwnObjectsGoingOn,
)
from engine.operators._stateful_objects import ObjectsByArrival, ObjectsByEventTime, RunningObjects


class BuilderValueByValue:
    """A base of builders all of whose objects go through the values of a batch one by one."""

    __slots__ = ()


class BuilderOfRun(ABC):
    """A builder of the engine's own that wants to know when a run begins.

    Called by `StatefulBatchKernel.start`, on each worker. Its objects see to errors themselves, and
    have no time to live.
    """

    @abstractmethod
    def for_run(self, failures: KeyFailures | None) -> Callable[[Any], Any]:
        """Give the builder that makes the objects of the run that begins now.

        Args:
            failures: Takes the values that objects raise for; None where that ends the run.
        """

    def __call__(self, resume: Any) -> Any:
        """Make an object outside of a run."""
        return self.for_run(None)(resume)


@dataclass(frozen=True, slots=True)
class StatefulBatchKernel(KeyedKernel):
    """The kernel of `stateful_batch`."""

    builder: Callable[[Any], Any]
    state_options: StateOptions = DEFAULT_STATE

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        builder, state, failures = self.builder, step.state, step.failures
        if isinstance(builder, BuilderOfRun):
            if failures is None:
                return RunningObjects(builder.for_run(None), step)
            of_key = KeyFailures(failures)
            return OwnObjectsGoingOn(builder.for_run(of_key), step, failures, of_key)
        if failures is not None:
            expiring = isinstance(state, ExpiringState)
            kind = ExpiringObjectsGoingOn if expiring else ObjectsGoingOn
            singly = isinstance(builder, BuilderValueByValue)
            return kind(builder, step, failures, singly=singly)
        if not isinstance(state, ExpiringState):
            return RunningObjects(builder, step)
        by_arrival = state.event_time is None
        return (ObjectsByArrival if by_arrival else ObjectsByEventTime)(builder, step)
