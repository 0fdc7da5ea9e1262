"""Task graphs by themselves: random programs on an executor whose calls may come to any end.

A program submits others, some of which need results of others, gathers them, fails, or catches what
they raise. What comes of it does not depend on the order in which its parts run, so it must be what
comes of running them one after the other. Processes die, roots are given up and begun again, large
results get lost. There is always something that can run, limits hold, and at the end nothing runs
and nothing is held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from engine.operators.tasks import Call, Kind, Resources, TaskContext, TaskFuture
from engine.operators.tasks._context import WithContext
from engine.runtime._graph_rules import GraphRules
from engine.runtime._ledger import Ledger
from engine.runtime._task_graph import TaskGraphs
from engine.testing.sim._graph_executor import FakeGraphExecutor
from engine.testing.sim._options import SimOptions
from engine.testing.sim._world import FakeClock

STEPS_MAX = 20_000
OFFER = Resources(cpu=2, gpu=1)
DEMANDS = (None, None, Resources(cpu=1), Resources(cpu=2), Resources(gpu=0.5), Resources(gpu=1))


class PartError(Exception):
    """A program that fails."""


@dataclass
class Program:
    """One function: rounds of subtasks, each of which is gathered before the next."""

    number: int
    rounds: list[Round] = field(default_factory=list["Round"])
    fails: bool = False
    catches: bool = False
    """Whether it goes on when one of its subtasks has failed."""
    demand: Resources | None = None

    def value(self) -> int:
        """What comes of it, run in order.

        Raises:
            PartError: That.
        """
        total, known = self.number, list[int]()
        for part in self.rounds:
            found = part.values(known)
            if not part.takes_failures and None in found:
                if self.catches:
                    return -total
                raise PartError(self.number)
            good = [value for value in found if value is not None]
            total += sum(good) - found.count(None)
            known += good if not part.dropped else []
        if self.fails:
            raise PartError(self.number)
        return total


@dataclass
class Round:
    """Some subtasks that are gathered at once."""

    parts: list[Part]
    takes_failures: bool
    gathered: bool
    dropped: bool = False
    """Whether nobody keeps its futures. Then it isn't gathered."""

    def values(self, known: list[int]) -> list[int | None]:
        """What comes of its parts; None for those that fail."""
        found: list[int | None] = []
        for part in self.parts:
            used = [known[n] for n in part.before] + [found[n] for n in part.beside]
            try:
                own = part.program.value()
            except PartError:
                found.append(None)
                continue
            good = [value for value in used if value is not None]
            found.append(own + sum(good) if len(good) == len(used) else None)
        return found


@dataclass
class Part:
    """A subtask: its program, and whose results it needs."""

    program: Program
    before: list[int]
    """Numbers among all results of earlier rounds."""
    beside: list[int]
    """Numbers among the parts of its own round."""


def drawn(rng: Random, depth: int, numbers: list[int], *, fails: float) -> Program:
    """A random program."""
    numbers[0] += 1
    program = Program(numbers[0], catches=rng.random() < 0.5, demand=rng.choice(DEMANDS))
    known = 0
    for _ in range(rng.choice((0, 1, 1, 2)) if depth else 0):
        parts: list[Part] = []
        for place in range(rng.choice((0, 1, 2, 3, 6))):
            before = [n for n in range(known) if rng.random() < 0.2]
            beside = [n for n in range(place) if rng.random() < 0.2]
            child = drawn(rng, max(0, depth - rng.choice((1, 1, 2, depth))), numbers, fails=fails)
            parts.append(Part(child, before, beside))
        part = Round(parts, rng.random() < 0.3, gathered=True)
        # What isn't gathered must not fail, or its parent does.
        here: list[int] = list(range(known))
        sure = None not in part.values(here)
        part.gathered = not sure or rng.random() < 0.9
        if not part.gathered:
            part.parts = [Part(p.program, [], p.beside) for p in parts]
            part.dropped = rng.random() < 0.5
        program.rounds.append(part)
        if not part.dropped:
            known += sum(value is not None for value in part.values(here))
        if not sure and not part.takes_failures:
            break
    program.fails = rng.random() < fails
    return program


async def run_program(program: Program, ctx: TaskContext) -> int:
    """A root, or a subtask that may have others."""
    total, known = program.number, list[TaskFuture[int]]()
    for part in program.rounds:
        futures: list[TaskFuture[int]] = []
        for each in part.parts:
            used = [known[n] for n in each.before] + [futures[n] for n in each.beside]
            futures.append(submitted(ctx, each.program, used))
        if not part.gathered:
            # They never fail, and are awaited all the same.
            total += sum(value or 0 for value in part.values([]))
            known += futures if not part.dropped else []
            continue
        try:
            results = await ctx.gather(*futures, return_exceptions=part.takes_failures)
        except PartError:
            if program.catches:
                return -total
            raise
        for future, result in zip(futures, results, strict=True):
            total += result if isinstance(result, int) else -1
            if isinstance(result, int):
                known.append(future)
    if program.fails:
        raise PartError(program.number)
    return total


def submitted(ctx: TaskContext, program: Program, used: list[TaskFuture[int]]) -> TaskFuture[int]:
    fn: Callable[..., Any] = run_part if program.rounds else run_leaf
    return ctx.submit(fn, program, used, resources=program.demand)


async def run_part(program: Program, used: list[int], ctx: TaskContext) -> int:
    return await run_program(program, ctx) + sum(used)


async def run_leaf(program: Program, used: list[int]) -> int:
    if program.fails:
        raise PartError(program.number)
    return program.number + sum(used)


class SimpleAccount:
    """What calls take of a ledger, each by its number."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.held: dict[int, Resources] = {}

    def has(self, demand: Resources) -> bool:
        taken = self._ledger.take(demand)
        if taken:
            self._ledger.give_back(demand)
        return taken

    def take(self, call: int, demand: Resources) -> bool:
        assert call not in self.held, f"call {call} takes twice"
        if not self._ledger.take(demand):
            return False
        self.held[call] = demand
        return True

    def give_back(self, call: int) -> None:
        demand = self.held.pop(call, None)
        if demand is not None:
            self._ledger.give_back(demand)

    def leave(self) -> None:
        """Nobody stands in line."""


class GraphsRun:
    """Some roots from beginning to end."""

    def __init__(self, seed: int) -> None:
        rng = self._rng = Random(f"graphs {seed}")
        self._clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
        self._deaths = rng.choice((0.0, 0.0, 0.02))
        fails = rng.choice((0.0, 0.05, 0.3))
        depth = rng.choice((1, 2, 4))
        self._roots = [drawn(rng, depth, [0], fails=fails) for _ in range(rng.choice((1, 3, 8)))]
        self._limit = rng.choice((1, 2, 3, 20))
        self._cancels = rng.choice((0.0, 0.0, 0.02))
        self.executor = FakeGraphExecutor(
            WithContext(run_program),
            self._clock,
            rng,
            SimOptions(deaths=self._deaths, call_max=timedelta(seconds=rng.choice((0.01, 1.0)))),
        )
        self.account = SimpleAccount(Ledger(OFFER))
        rules = GraphRules(self._limit, 3, self.account, OFFER)
        self.graphs = TaskGraphs(self.executor, rules, self._clock.monotonic_s)
        self._under_way: dict[int, Program] = {}
        self._next_call = 0
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Take turns until all roots have ended as they must."""
        waiting = list(self._roots)
        for _ in range(STEPS_MAX):
            if waiting and self._rng.random() < 0.3:
                self._submit(waiting.pop())
            elif self._under_way and self._rng.random() < self._cancels * (self._next_call < 50):
                self._cancel_one()
            elif not self._executor_turn():
                self._clock.advance(0.01)
            if self._rng.random() < 0.7:
                self._hear()
            assert self.executor.most <= self._limit, f"{self.executor.most} calls were under way"
            if not waiting and not self._under_way:
                self._check_ended()
                return
        raise AssertionError("it doesn't end: " + repr(self.graphs.__dict__))

    def _submit(self, program: Program) -> None:
        context = TaskContext(f"0-{self._next_call}", "key", 1)
        self._under_way[self._next_call] = program
        self.graphs.submit([Call(self._next_call, (program, context))])
        self._next_call += 1

    def _cancel_one(self) -> None:
        """One takes too long, and is tried again."""
        call = self._rng.choice(list(self._under_way))
        self.counts["cancelled"] += 1
        self.graphs.cancel(call)
        self._submit(self._under_way.pop(call))

    def _executor_turn(self) -> bool:
        next_s = self.executor.next_s()
        if next_s == float("inf"):
            return False
        self._clock.advance(max(0.0, next_s - self._clock.monotonic_s()) + 1e-6)
        self.executor.end_one(self._clock.monotonic_s())
        return True

    def _hear(self) -> None:
        if not self.graphs.ended():
            return
        for call, kind, value in self.graphs.completions():
            program = self._under_way.pop(call)
            self.counts[kind.value] += 1
            if kind is Kind.DIED:
                self._submit(program)
            else:
                self._check(program, kind, value)

    def _check(self, program: Program, kind: Kind, value: Any) -> None:
        if kind is Kind.RAISED and self._deaths and not isinstance(value, PartError):
            return  # A subtask's process has died too often.
        try:
            expected = program.value()
        except PartError:
            assert kind is Kind.RAISED, f"{value} came of what must fail"
            assert isinstance(value, PartError), repr(value)
        else:
            assert (kind, value) == (Kind.RETURNED, expected) or self._deaths, (kind, value)

    def _check_ended(self) -> None:
        """What was left alone ends too; and then there is nothing left."""
        for _ in range(STEPS_MAX):
            if not self._executor_turn():
                break
            self._hear()
        self._hear()
        graphs = self.graphs
        assert not self.executor.unfinished, f"{self.executor.unfinished} still run"
        assert not self.account.held, f"{self.account.held} wasn't given back"
        assert not self.executor.objects, f"{self.executor.objects} were not freed"
        assert (graphs._running, graphs._waiting, graphs._live, graphs._roots) == (0, 0, {}, {})


def check_graphs(seed: int) -> Counter[str]:
    """Run the roots of a seed to their end and check them; gives what happened, counted."""
    run = GraphsRun(seed)
    run.run()
    return run.counts
