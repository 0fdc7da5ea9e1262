"""What every executor must do, wherever it runs its calls: one suite, run on each.

To put an executor under it, add an `ExecutorCase` to the list in `test_executors.py`. `Bench` is
the worker that uses it: it sleeps until it is woken and never looks without that, so a wake that is
lost is a test that fails.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.operators.tasks import AnyExecutor, Call, Completion, Kind, RunningExecutor
from engine.runtime.executors import Executors
from tests.conformance import executor_functions as functions

PATIENCE_S = 60.0
"""Far more than anything takes here, even on a machine that is busy with something else."""


@dataclass(frozen=True)
class ExecutorCase:
    """One executor to test.

    Attributes:
        name: Id of the case.
        make: Makes it with room for so many calls at the same time.
        is_async: It runs `async def` functions.
        is_inline: `submit` comes back when the calls have ended.
        bounds: It runs no more calls at the same time than it was made for.
    """

    name: str
    make: Callable[[int], AnyExecutor]
    is_async: bool = False
    is_inline: bool = False
    bounds: bool = True

    def __str__(self) -> str:
        return self.name

    def fn(self, name: str) -> Callable[[Any], Any]:
        """The function of that name, in the kind that this executor runs."""
        return getattr(functions, f"a{name}" if self.is_async else name)


@dataclass
class Bench:
    """A worker with one task node."""

    told: list[str] = field(default_factory=list[str])
    ids: Iterator[int] = field(default_factory=itertools.count)
    ended: dict[int, Completion] = field(default_factory=dict[int, Completion])

    def __post_init__(self) -> None:
        self.executors = Executors(self.told.append)
        self._woken = threading.Event()
        self.running: RunningExecutor

    def start(self, executor: AnyExecutor, fn: Callable[[Any], Any]) -> Bench:
        self.running = self.executors.start(executor, fn, self._woken.set, "flow.step")
        return self

    def submit(self, *arguments: Any) -> list[int]:
        calls = [Call(next(self.ids), argument) for argument in arguments]
        self.running.submit(calls)
        return [call.call_id for call in calls]

    def wait_for(self, *ids: int) -> list[Completion]:
        """Sleep, and look when woken, until these calls have ended."""
        until_s = time.monotonic() + PATIENCE_S
        while not all(call_id in self.ended for call_id in ids):
            assert self._woken.wait(until_s - time.monotonic()), "it was not woken"
            self._woken.clear()
            self.take()
        return [self.ended[call_id] for call_id in ids]

    def take(self) -> list[Completion]:
        taken = self.running.completions()
        for completion in taken:
            assert completion.call_id not in self.ended, "a call has ended twice"
            self.ended[completion.call_id] = completion
        return taken

    def call(self, argument: Any) -> Completion:
        [completion] = self.wait_for(*self.submit(argument))
        return completion

    def values(self, *arguments: Any) -> list[Any]:
        completions = self.wait_for(*self.submit(*arguments))
        assert {c.kind for c in completions} <= {Kind.RETURNED}, completions
        return [c.value for c in completions]


@contextmanager
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.executors.close(10.0)


def wait_until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait for something that no event tells of."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"{what} has not come about"
        time.sleep(0.002)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class ExecutorSuite:
    """Every executor must pass these."""

    @pytest.fixture
    def desk(self) -> Iterator[Bench]:
        with bench() as made:
            yield made

    def test_what_a_function_returns_comes_back(self, case: ExecutorCase, desk: Bench):
        """Each call ends once, with its own result."""
        desk.start(case.make(2), case.fn("double"))
        assert desk.values(*range(100)) == [2 * number for number in range(100)]

    def test_an_exception_comes_back_and_says_where(self, case: ExecutorCase, desk: Bench):
        """With its type, its arguments, and the line that raised it."""
        desk.start(case.make(2), case.fn("raise_it"))
        ended = desk.call(functions.OddError("so", 3))
        assert ended.kind is Kind.RAISED
        assert type(ended.value) is functions.OddError
        assert ended.value.args == ("so", 3)
        assert case.fn("raise_it").__name__ in _story(ended.value)

    @pytest.mark.parametrize(
        "exception", [SystemExit(3), GeneratorExit(), functions.AbruptError("x")], ids=repr
    )
    def test_no_exception_ends_the_executor(
        self, case: ExecutorCase, desk: Bench, exception: BaseException
    ):
        """`SystemExit` and the like end a call, and others run after it."""
        desk.start(case.make(1), case.fn("raise_it"))
        for _ in range(2):
            ended = desk.call(exception)
            assert (ended.kind, type(ended.value)) == (Kind.RAISED, type(exception))

    @pytest.mark.parametrize("places", [1, 3])
    def test_of_ten_thousand_calls_none_is_lost(self, case: ExecutorCase, desk: Bench, places: int):
        """In lumps of all sizes, with a worker that only looks when it is woken."""
        desk.start(case.make(places), case.fn("double"))
        chance = random.Random(places)
        numbers = {}
        while len(numbers) < 10_000:
            lump = [chance.randrange(10**6) for _ in range(chance.choice([1, 1, 7, 90, 400]))]
            numbers.update(zip(desk.submit(*lump), lump, strict=True))
            if chance.random() < 0.3:
                desk.wait_for(chance.choice(list(numbers)))
        desk.wait_for(*numbers)
        assert {i: c.value for i, c in desk.ended.items()} == {
            i: 2 * number for i, number in numbers.items()
        }
        assert desk.take() == []

    def test_each_wait_ends(self, case: ExecutorCase, desk: Bench):
        """One call at a time, very often: the time between a look and the next is never missed."""
        desk.start(case.make(2), case.fn("double"))
        for number in range(2_000):
            assert desk.values(number) == [2 * number]

    def test_calls_begin_in_the_order_they_were_submitted(
        self, case: ExecutorCase, desk: Bench, tmp_path: Path
    ):
        """With one place there is one order."""
        desk.start(case.make(1), case.fn("note_start"))
        for first in range(0, 300, 50):
            desk.submit(*((tmp_path / "order", number) for number in range(first, first + 50)))
        desk.wait_for(*range(300))
        assert lines_of(tmp_path / "order") == [str(number) for number in range(300)]

    def test_a_call_that_is_given_up_frees_its_place(
        self, case: ExecutorCase, desk: Bench, tmp_path: Path
    ):
        """Another one runs while the first still would; and both end once at most."""
        _needs_waiting(case)
        desk.start(case.make(1), case.fn("hold"))
        never, now = tmp_path / "never", tmp_path / "now"
        now.touch()
        [stuck] = desk.submit((tmp_path / "begun", never))
        wait_until(lambda: len(lines_of(tmp_path / "begun")) == 1)
        [waiting] = desk.submit((tmp_path / "begun", now))
        desk.running.cancel(stuck)
        assert desk.wait_for(waiting)[0].value == "now"
        never.touch()
        assert desk.call((tmp_path / "begun", now)).value == "now"

    def test_a_call_that_is_given_up_while_it_waits_never_begins(
        self, case: ExecutorCase, desk: Bench, tmp_path: Path
    ):
        """Those before and behind it are none the worse."""
        _needs_waiting(case)
        if not case.bounds:
            pytest.skip("no call waits")
        desk.start(case.make(1), case.fn("hold"))
        until = tmp_path / "until"
        first, unwanted, last = desk.submit(*((tmp_path / name, until) for name in "abc"))
        wait_until(lambda: bool(lines_of(tmp_path / "a")))
        desk.running.cancel(unwanted)
        until.touch()
        desk.wait_for(first, last)
        assert desk.call((tmp_path / "d", until)).kind is Kind.RETURNED
        assert lines_of(tmp_path / "b") == []
        assert len(desk.ended) == 3

    def test_giving_up_what_has_ended_does_nothing(self, case: ExecutorCase, desk: Bench):
        """Nor does it touch those that come after."""
        desk.start(case.make(1), case.fn("double"))
        ids = desk.submit(*range(20))
        desk.wait_for(*ids)
        for call_id in ids:
            desk.running.cancel(call_id)
        assert desk.values(*range(20)) == [2 * number for number in range(20)]

    def test_giving_up_at_any_moment_costs_no_other_call(self, case: ExecutorCase, desk: Bench):
        """Each call that wasn't given up ends, once; the others once at most."""
        desk.start(case.make(2), case.fn("double"))
        chance = random.Random(7)
        unwanted, wanted = set[int](), set[int]()
        for _ in range(60):
            ids = desk.submit(*range(20))
            some = {call_id for call_id in ids if chance.random() < 0.1}
            unwanted |= some
            wanted |= set(ids) - some
            for call_id in some:
                desk.running.cancel(call_id)
        desk.wait_for(*wanted)
        assert wanted <= desk.ended.keys()

    def test_it_says_when_a_call_began(self, case: ExecutorCase, desk: Bench, tmp_path: Path):
        """None as long as it waits, so that deadlines can be counted from its start."""
        _needs_waiting(case)
        desk.start(case.make(1), case.fn("hold"))
        until, begun = tmp_path / "until", tmp_path / "begun"
        before_s = time.monotonic()
        first, second = desk.submit((begun, until), (begun, until))
        wait_until(lambda: bool(lines_of(begun)))
        began_s = desk.running.started_s(first)
        assert began_s is not None
        assert before_s <= began_s <= time.monotonic()
        assert not case.bounds or desk.running.started_s(second) is None
        until.touch()
        desk.wait_for(first, second)

    def test_submitting_never_waits_for_a_place(
        self, case: ExecutorCase, desk: Bench, tmp_path: Path
    ):
        """Thousands of calls, and large ones, while all places are taken."""
        _needs_waiting(case)
        desk.start(case.make(2), case.fn("hold"))
        until = tmp_path / "until"
        desk.submit(*((tmp_path / "begun", until) for _ in range(2)))
        wait_until(lambda: len(lines_of(tmp_path / "begun")) == 2)
        large = (tmp_path / "begun", until, bytes(50_000_000))
        took_s: list[float] = []
        for _ in range(5):
            began_s = time.perf_counter()
            desk.submit(*[(tmp_path / "begun", until)] * 1_000, large)
            took_s.append(time.perf_counter() - began_s)
        # The best of some: the machine may pause in between.
        assert min(took_s) < 0.05

    def test_large_arguments_and_results_arrive(self, case: ExecutorCase, desk: Bench):
        """Fifty megabytes each way."""
        desk.start(case.make(2), case.fn("reverse"))
        data = random.Random(1).randbytes(1_000) * 50_000
        assert desk.values(data, b"small", data) == [data[::-1], b"llams", data[::-1]]

    def test_each_call_has_a_context_of_its_own(self, case: ExecutorCase, desk: Bench):
        """What a call leaves in a context variable no other sees, nor what the worker has there."""
        token = functions.SEEN.set("the worker's")
        try:
            desk.start(case.make(1), case.fn("see"))
            assert desk.values("a", "b", "c") == ["nothing"] * 3
            assert desk.values("d") == ["nothing"]
            assert functions.SEEN.get() == "the worker's"
        finally:
            functions.SEEN.reset(token)

    def test_a_function_of_the_wrong_kind_is_told(self, case: ExecutorCase, desk: Bench):
        """A coroutine that nobody would await; or none where one is awaited."""
        fn = functions.double if case.is_async else functions.give_coroutine
        desk.start(case.make(1), fn)
        ended = desk.call(1)
        assert ended.kind is Kind.RAISED
        assert fn.__name__ in str(ended.value)
        if not case.is_async:
            assert "coroutine" in str(ended.value)

    def test_closing_does_not_wait_for_calls_that_never_end(
        self, case: ExecutorCase, desk: Bench, tmp_path: Path
    ):
        """It comes back in time, and nothing ends after it."""
        _needs_waiting(case)
        desk.start(case.make(2), case.fn("hold"))
        never = tmp_path / "never"
        desk.submit(*((tmp_path / "begun", never) for _ in range(50)))
        wait_until(lambda: len(lines_of(tmp_path / "begun")) >= 2)
        began_s = time.monotonic()
        left = desk.running.close(1.0)
        assert time.monotonic() - began_s < 3.0
        assert all("flow.step" in text for text in left)
        never.touch()
        assert desk.take() == []

    def test_closing_one_that_was_never_used(self, case: ExecutorCase, desk: Bench):
        """It may still be starting."""
        desk.start(case.make(2), case.fn("double"))
        assert desk.running.close(10.0) == []


def _needs_waiting(case: ExecutorCase) -> None:
    if case.is_inline:
        pytest.skip("it runs calls as they are submitted")


def _story(exception: BaseException) -> str:
    """What a traceback of an exception shows."""
    return "".join(traceback.format_exception(exception))
