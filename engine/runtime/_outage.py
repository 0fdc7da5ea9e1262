"""Sources that can't be reached: how often they are asked again, for how long, and who hears of it.

A partition asks again in its turn, between other work (`engine.runtime._source_node`). Before there
are workers nobody else waits, so whoever leads the run asks until there is an answer (`Asking`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from engine.connectors import AbortExecution, UnavailableError
from engine.errors import EngineRuntimeError
from engine.runtime._failure import name_of
from engine.runtime._ports import Clock, Waiter, log

T = TypeVar("T")

DEFAULT_SOURCE_TIMEOUT = timedelta(seconds=60)
"""For how long a source that can't be reached is asked again."""
_FIRST_PAUSE_S = 0.1
_PAUSE_MAX_S = 2.0
_HINT = "wait longer with --source-timeout (from Python: source_timeout)"


@dataclass(frozen=True, slots=True)
class Patience:
    """What is done while a source can't be reached."""

    timeout_s: float = DEFAULT_SOURCE_TIMEOUT.total_seconds()
    """For how long it is asked again."""
    tell: Callable[[str], None] = log
    """Takes lines for people."""


class Outage:
    """One time of not being reached, from the first failure until it is over or given up.

    Args:
        step_id: The step of the source.
        what: What isn't reached: a partition, or the names of all of them.
        patience: For how long to go on.
        now_s: The monotonic clock.
    """

    def __init__(
        self, step_id: str, what: str, patience: Patience, now_s: Callable[[], float]
    ) -> None:
        self._step_id = step_id
        self._what = what
        self._patience = patience
        self._now_s = now_s
        self._began_s = now_s()
        self._pause_s = 0.0

    def failed(self, error: UnavailableError) -> float:
        """It could not be reached, or not again; gives in how many seconds to ask again.

        Raises:
            EngineRuntimeError: It was tried for long enough.
        """
        passed_s = self._now_s() - self._began_s
        left_s = self._patience.timeout_s - passed_s
        if left_s <= 0.0:
            raise self._given_up(passed_s, error) from error
        if not self._pause_s:
            self._patience.tell(
                f"step {self._step_id!r} ({self._what}) can't be reached: {error}; trying again "
                f"for up to {self._patience.timeout_s:g} s"
            )
        self._pause_s = min(self._pause_s * 2 or _FIRST_PAUSE_S, _PAUSE_MAX_S)
        # So that the last time is when the time is over.
        return min(self._pause_s, left_s)

    def over(self) -> None:
        """It was reached."""
        passed_s = self._now_s() - self._began_s
        self._patience.tell(f"step {self._step_id!r} ({self._what}) is back after {passed_s:.1f} s")

    def _given_up(self, passed_s: float, error: UnavailableError) -> EngineRuntimeError:
        doing = f"waiting {round(passed_s, 1):g} s for {self._what} to be reached"
        msg = f"step {self._step_id!r} failed while {doing}: {name_of(error)}; {_HINT}"
        given_up = EngineRuntimeError(msg, step_id=self._step_id, doing=doing)
        given_up.hint = _HINT
        return given_up


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks until there is an answer, on a thread that has nothing else to do."""

    patience: Patience
    clock: Clock
    waiter: Waiter
    drained: Callable[[], bool]
    """Whether nobody wants the answer any more; who sets that wakes the waiter."""

    def ask(self, step_id: str, what: str, call: Callable[[], T]) -> T:
        """What `call` gives, once it doesn't raise `UnavailableError` any more.

        Raises:
            AbortExecution: The run is to drain, and it has nothing yet that could.
            EngineRuntimeError: It can't be reached.
        """
        outage: Outage | None = None
        while True:
            try:
                answer = call()
            except UnavailableError as ex:
                if outage is None:
                    outage = Outage(step_id, what, self.patience, self.clock.monotonic_s)
                self._pause(outage.failed(ex))
            else:
                if outage is not None:
                    outage.over()
                return answer

    def _pause(self, seconds: float) -> None:
        pause(seconds, self.clock, self.waiter, self.drained)
        if self.drained():
            raise AbortExecution


def pause(seconds: float, clock: Clock, waiter: Waiter, drained: Callable[[], bool]) -> None:
    """Let time pass, but not while somebody waits for the job to drain."""
    until_s = clock.monotonic_s() + seconds
    while not drained() and (left_s := until_s - clock.monotonic_s()) > 0.0:
        waiter.wait(left_s)
