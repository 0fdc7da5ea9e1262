"""Tasks on the worker's own thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.operators.tasks import Call, Completion, RunningExecutor
from engine.operators.tasks._callers import InlineInvoker
from engine.operators.tasks._context import WithContext
from engine.runtime.executors._calling import RunCall
from engine.runtime.executors._finished import Finished


class Inline(RunningExecutor):
    """Runs calls as they are submitted, and their subtasks as those are.

    Ctrl-C is for the job, not for the call that happens to run: `KeyboardInterrupt` passes through.
    """

    places = 1

    def __init__(self, fn: Callable[[Any], Any], wake: Callable[[], None]) -> None:
        self._run = RunCall(InlineInvoker(fn) if isinstance(fn, WithContext) else fn)
        self._finished = Finished[Completion](wake)

    def submit(self, calls: Sequence[Call]) -> None:
        """As in `RunningExecutor`, but it comes back only when they have ended."""
        for call in calls:
            completion = self._run(call)
            if isinstance(completion.value, KeyboardInterrupt):
                raise completion.value
            self._finished.add(completion)

    def completions(self) -> list[Completion]:
        """As in `RunningExecutor`."""
        return self._finished.take()

    def ended(self) -> bool:
        """As in `RunningExecutor`."""
        return bool(self._finished)

    def started_s(self, call_id: int) -> float | None:
        """As in `RunningExecutor`: whoever asks does so when the call is over."""
        del call_id
        return None

    def cancel(self, call_id: int) -> None:
        """As in `RunningExecutor`: nothing is left to be given up."""

    def close(self, timeout_s: float) -> list[str]:
        """As in `RunningExecutor`."""
        del timeout_s
        return []
