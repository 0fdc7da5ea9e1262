"""An executor whose calls take simulated time and may come to any end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from engine.errors import WorkerProcessError
from engine.operators.tasks import AnyExecutor, Call, Completion, Kind, RunningExecutor
from engine.testing.sim._world import FakeClock


class FakeExecutor(RunningExecutor):
    """Calls end when the scheduler lets them, in any order.

    Args:
        function: What to call.
        clock: Simulated time.
        rng: Draws how long calls take, and how they end.
        deaths: In what share of the calls the process dies.
        hangs: What share of the calls never ends.
        longest_s: How long calls take at most.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        clock: FakeClock,
        rng: Random,
        *,
        deaths: float,
        hangs: float,
        longest_s: float,
    ) -> None:
        self.most = 0
        """The most calls that were under way."""
        self._function = function
        self._clock = clock
        self._rng = rng
        self._deaths = deaths
        self._hangs = hangs
        self._longest_s = longest_s
        self._running: dict[int, tuple[float, Any]] = {}
        self._wanted: set[int] = set()
        """Those of them that weren't cancelled."""
        self._began_s: dict[int, float] = {}
        self._ended: list[Completion] = []

    def submit(self, calls: Sequence[Call]) -> None:
        rng, now_s = self._rng, self._clock.monotonic_s()
        for call, argument in calls:
            until_s = math.inf if rng.random() < self._hangs else now_s + self._draw_s()
            self._running[call] = until_s, argument
            self._began_s[call] = now_s
        self._wanted.update(call for call, _ in calls)
        self._note_most()

    def _note_most(self) -> None:
        self.most = max(self.most, len(self._wanted))

    def _draw_s(self) -> float:
        return self._longest_s * self._rng.random() ** 3

    def completions(self) -> list[Completion]:
        ended, self._ended = self._ended, []
        return ended

    def ended(self) -> bool:
        return bool(self._ended)

    def started_s(self, call_id: int) -> float | None:
        return self._began_s.get(call_id)

    def cancel(self, call_id: int) -> None:
        self._wanted.discard(call_id)
        # It may end all the same.
        if self._rng.random() < 0.5:
            self._running.pop(call_id, None)
        elif call_id in self._running:
            until_s = self._clock.monotonic_s() + self._draw_s()
            self._running[call_id] = until_s, self._running[call_id][1]

    def close(self, timeout_s: float) -> list[str]:
        del timeout_s
        return []

    # For the scheduler and for those who check

    @property
    def running(self) -> int:
        """How many calls are under way that weren't cancelled."""
        return len(self._wanted)

    def next_s(self) -> float:
        """When a call can end."""
        return min((until_s for until_s, _ in self._running.values()), default=math.inf)

    def end_one(self, now_s: float) -> None:
        """Let one of the calls end that can."""
        ready = [call for call, (until_s, _) in self._running.items() if until_s <= now_s]
        call = self._rng.choice(ready)
        _, argument = self._running.pop(call)
        self._wanted.discard(call)
        if self._rng.random() < self._deaths:
            self._ended.append(
                Completion(call, Kind.DIED, WorkerProcessError("its process has died"))
            )
            return
        try:
            completion = Completion(call, Kind.RETURNED, self._function(argument))
        except Exception as ex:  # noqa: BLE001 - whatever it is, it is what the call came to
            completion = Completion(call, Kind.RAISED, ex)
        self._ended.append(completion)


class FakeExecutors:
    """Starts fake executors in place of all others.

    Args:
        start: Makes one for a function.
    """

    def __init__(self, start: Callable[[Callable[[Any], Any]], FakeExecutor]) -> None:
        self._start = start

    def start(
        self,
        executor: AnyExecutor,
        fn: Callable[[Any], Any],
        wake: Callable[[], None],
        step_id: str,
    ) -> RunningExecutor:
        """As in `engine.runtime`; the scheduler looks by itself, so nobody is woken."""
        del executor, wake, step_id
        return self._start(fn)

    def close(self, timeout_s: float) -> list[str]:
        """There is nothing to stop."""
        del timeout_s
        return []
