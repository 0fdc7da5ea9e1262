"""An executor for tasks with subtasks, whose calls take simulated time and may come to any end."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator, Mapping
from random import Random
from typing import Any, cast

from engine.errors import WorkerProcessError
from engine.operators.tasks import Completion, Kind
from engine.operators.tasks._callers import Caller, call, results_of
from engine.operators.tasks._requests import (
    Invocation,
    Lost,
    Misses,
    ObjectRef,
    Outcome,
    Pickled,
    Request,
    Waits,
)
from engine.testing.sim._executors import FakeExecutor
from engine.testing.sim._options import SimOptions
from engine.testing.sim._world import FakeClock


class FakeGraphExecutor(FakeExecutor):
    """Calls of `async def` functions go a step at a time, when the scheduler lets them.

    Some subtasks' results are objects, of which some get lost.

    Args:
        function: What to call, as a `WithContext`.
        clock: Simulated time.
        rng: Draws everything.
        options: Within which bounds.
    """

    runs_graphs = True

    def __init__(
        self,
        function: Callable[[Any], Any],
        clock: FakeClock,
        rng: Random,
        options: SimOptions,
    ) -> None:
        super().__init__(function, clock, rng, options)
        # Those that wait for subtasks have given theirs back.
        self._places = math.inf
        self.places = rng.choice((None, 1, 2, 5))
        self.stops = rng.random() < 0.5
        self.objects: dict[str, Any] = {}
        """Large results, by name."""
        self.waiting: set[int] = set()
        """Calls that wait for subtasks."""
        self._large, self._losses = rng.choice((0.0, 0.5)), rng.choice((0.0, 0.1))
        self._made = 0
        self._asked: list[Request] = []
        self._steps: dict[int, Coroutine[Any, Any, Any]] = {}
        """Calls that have begun."""

    def _note_most(self) -> None:
        self.most = max(self.most, len(self._wanted - self.waiting))

    @property
    def unfinished(self) -> set[int]:
        """Calls that somebody waits for."""
        return set(self._wanted)

    def requests(self) -> list[Request]:
        asked, self._asked = self._asked, []
        return asked

    def ended(self) -> bool:
        return super().ended() or bool(self._asked)

    def cancel(self, call_id: int) -> None:
        super().cancel(call_id)
        self.waiting.discard(call_id)
        if call_id not in self._running and (steps := self._steps.pop(call_id, None)) is not None:
            steps.close()

    def release(self, result: Any) -> None:
        if isinstance(result, ObjectRef):
            self.objects.pop(result.name, None)

    def end_one(self, now_s: float) -> None:
        ready = [call for call, (until_s, _) in self._running.items() if until_s <= now_s]
        call_id = self._rng.choice(ready)
        invocation: Invocation = self._running[call_id][1]
        if call_id in self.waiting or self._rng.random() < self._deaths:
            self._finish(call_id, Kind.DIED, WorkerProcessError("its process has died"))
            return
        steps = self._steps.get(call_id)
        if steps is None:
            steps = self._steps[call_id] = self._called(invocation)
        try:
            steps.send(None)
            if call_id not in self.waiting:
                # It was given up, and still waits: nobody would answer.
                del self._running[call_id]
                self._steps.pop(call_id).close()
        except StopIteration as ex:
            self._finish(call_id, Kind.RETURNED, ex.value)
        except Exception as ex:  # noqa: BLE001 - whatever it is, it is what the call came to
            self._finish(call_id, Kind.RAISED, ex)

    def _finish(self, call_id: int, kind: Kind, value: Any) -> None:
        wanted = call_id in self._wanted
        del self._running[call_id]
        self._wanted.discard(call_id)
        self.waiting.discard(call_id)
        if (steps := self._steps.pop(call_id, None)) is not None:
            steps.close()
        if not wanted:
            self.release(value)
        self._ended.append(Completion(call_id, kind, value))

    async def _called(self, invocation: Invocation) -> Any:
        results, lost = self.values(invocation.results)
        if lost:
            return Lost(lost)
        caller = _FakeCaller(invocation, self)
        try:
            value = await call(self._function, invocation._replace(results=results), caller)
        finally:
            caller.end()
        return value if invocation.work is None else self._written(value)

    def _written(self, value: Any) -> Pickled | ObjectRef[Any]:
        if self._rng.random() >= self._large:
            return Pickled(value)
        self._made += 1
        name = f"object-{self._made}"
        self.objects[name] = value
        return ObjectRef(name, ())

    def values(
        self, results: Mapping[int, Any]
    ) -> tuple[dict[int, Any], tuple[tuple[int, str], ...]]:
        """What results are, by number; and those that are lost."""
        values: dict[int, Any] = {}
        lost: list[tuple[int, str]] = []
        for number, result in results.items():
            if isinstance(result, Pickled):
                values[number] = result.data
                continue
            name = cast("ObjectRef[Any]", result).name
            if self._rng.random() < self._losses:
                self.objects.pop(name, None)
            if name in self.objects:
                values[number] = self.objects[name]
            else:
                lost.append((number, name))
        return values, tuple(lost)

    def ask(self, request: Request) -> None:
        """Take what a call asks for."""
        self._asked.append(request)

    def wait(self, call_id: int) -> None:
        """A call begins to wait. Its process may die of whatever meanwhile."""
        self.waiting.add(call_id)
        dies = self._rng.random() < self._deaths
        until_s = self._clock.monotonic_s() + self._draw_s() if dies else math.inf
        self._running[call_id] = until_s, self._running[call_id][1]

    def go_on(self, call_id: int) -> None:
        """A call has what it has waited for."""
        if call_id in self._running:
            self.waiting.discard(call_id)
            until_s = self._clock.monotonic_s() + self._draw_s()
            self._running[call_id] = until_s, self._running[call_id][1]
            self._note_most()


class _Suspended:
    """Gives the scheduler a turn."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class _FakeCaller(Caller):
    on_loop = True

    def __init__(self, invocation: Invocation, executor: FakeGraphExecutor) -> None:
        super().__init__(invocation, executor.ask)
        self._executor = executor

    async def _gathered(self, numbers: tuple[int, ...], *, takes_failures: bool) -> Any:
        while True:
            outcomes = await self._outcomes(numbers, takes_failures=takes_failures)
            if outcomes is None or len(outcomes) < len(numbers):
                return results_of(outcomes, takes_failures=takes_failures)
            good = {n: value for n, (ok, value) in zip(numbers, outcomes, strict=True) if ok}
            values, lost = self._executor.values(good)
            if not lost:
                pairs = zip(numbers, outcomes, strict=True)
                found = [(ok, values[n] if ok else value) for n, (ok, value) in pairs]
                return results_of(found, takes_failures=takes_failures)
            self._ask(Misses(self._call_id, lost))

    async def _outcomes(
        self, numbers: tuple[int, ...], *, takes_failures: bool
    ) -> list[Outcome] | None:
        there: list[list[Outcome] | None] = []

        def give(outcomes: list[Outcome] | None) -> None:
            there.append(outcomes)
            self._executor.go_on(self._call_id)

        self._executor.wait(self._call_id)
        self._ask(Waits(self._call_id, self._next_wait(), numbers, takes_failures, give))
        while not there:
            await _Suspended()
        return there[0]
