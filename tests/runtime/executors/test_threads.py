"""Threads: made as they are needed, and left to themselves when their call is given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import UserCodeError
from engine.operators.tasks import Call, ThreadExecutor
from tests.conformance.executor_suite import Bench, bench, wait_until


@pytest.fixture
def desk() -> Iterator[Bench]:
    with bench() as made:
        yield made


class Gate:
    """Calls that run until they are let go, each by its own name."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.threads: dict[Any, threading.Thread] = {}
        self._open: dict[Any, threading.Event] = {}

    def __call__(self, name: Any) -> Any:
        event = self._open.setdefault(name, threading.Event())
        self.threads[name] = threading.current_thread()
        self.begun.append(name)
        event.wait()
        return name

    def let_go(self, *names: Any) -> None:
        for name in names:
            self._open.setdefault(name, threading.Event()).set()

    def wait_for(self, *names: Any) -> None:
        wait_until(lambda: set(names) <= set(self.begun), f"the start of {names}")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_calls_that_wait_for_each_other_all_run(desk: Bench, count: int):
    """One thread each, also if they are submitted one by one, while there may be more threads."""
    barrier = threading.Barrier(count)
    desk.start(ThreadExecutor(count), lambda _: barrier.wait(60))
    for _ in range(20):
        ids = [desk.submit(number)[0] for number in range(count)]
        assert sorted(c.value for c in desk.wait_for(*ids)) == list(range(count))


def test_a_call_does_not_wait_for_a_thread_that_has_just_taken_another(desk: Bench):
    """Such a thread looks idle for a moment, and isn't."""
    taken, go_on = threading.Event(), threading.Event()

    class Slow(Call):
        """Its thread is held up between taking it and noting that."""

        @property
        def call_id(self) -> int:  # type: ignore[override]
            taken.set()
            go_on.wait()
            return 1_000

    gate = Gate()
    gate.let_go("slow", "other")
    running = desk.start(ThreadExecutor(2), gate).running
    running.submit([Slow(1_000, "slow")])
    taken.wait()
    assert desk.call("other").value == "other"
    go_on.set()
    desk.wait_for(1_000)


def test_threads_are_made_only_as_they_are_needed(desk: Bench):
    """One call after the other needs one; many at once need as many as there may be."""
    names = set[str]()
    gate = Gate()
    desk.start(
        ThreadExecutor(3), lambda x: (names.add(threading.current_thread().name), gate(x))[1]
    )
    gate.let_go(*range(20))
    for number in range(20):
        desk.call(number)
    assert len(names) == 1
    ids = desk.submit(*"abcde")
    gate.wait_for("a", "b", "c")
    assert len(names) == 3
    gate.let_go(*"abcde")
    desk.wait_for(*ids)
    assert len(names) == 3
    assert all("flow.step" in name for name in names)


def test_a_thread_that_comes_back_is_used_again(desk: Bench):
    """If there is no other for its place; its late result is handed on, once."""
    gate = Gate()
    running = desk.start(ThreadExecutor(1, abandoned=1), gate).running
    for turn in range(5):
        [late] = desk.submit(f"late {turn}")
        gate.wait_for(f"late {turn}")
        running.cancel(late)
        running.cancel(late)  # Twice is once.
        gate.let_go(f"late {turn}", f"next {turn}")
        desk.call(f"next {turn}")
        desk.wait_for(late)
        wait_until(lambda: _task_threads() == 1, "the end of what is too many")


def test_too_many_abandoned_threads_are_an_error(desk: Bench):
    """It names the function and says what to do; as soon as one has come back it goes on."""
    gate = Gate()
    running = desk.start(ThreadExecutor(1, abandoned=2), gate).running
    ids: list[int] = []
    for name in "abc":
        ids += desk.submit(name)
        gate.wait_for(name)
        if name != "c":
            running.cancel(ids[-1])
    with pytest.raises(UserCodeError, match=r"2 calls of .*Gate.* have not come back") as caught:
        running.cancel(ids[-1])
    assert "process" in caught.value.hint
    gate.let_go("a")
    desk.wait_for(ids[0])
    wait_until(lambda: _task_threads() == 2)
    running.cancel(ids[-1])
    [after] = desk.submit("d")
    gate.wait_for("d")
    gate.let_go(*"bcd")
    desk.wait_for(after)


def test_the_place_of_one_that_waits_for_another_is_free_at_once(desk: Bench):
    """Calls that were given up while they waited leave room for as many."""
    gate = Gate()
    running = desk.start(ThreadExecutor(2), gate).running
    first, second = desk.submit("a", "b")
    gate.wait_for("a", "b")
    for call_id in desk.submit(*range(10)):
        running.cancel(call_id)
    [last] = desk.submit("c")
    gate.let_go("a", "b", "c")
    desk.wait_for(first, second, last)
    assert sorted(gate.begun) == ["a", "b", "c"]


def test_closing_names_what_still_runs(desk: Bench):
    """By step and function; the idle threads have ended."""
    gate = Gate()
    running = desk.start(ThreadExecutor(3), gate).running
    gate.let_go("done", "too")
    stuck, *ids = desk.submit("stuck", "done", "too")
    desk.wait_for(*ids)
    gate.wait_for("stuck")
    [text] = running.close(0.2)
    assert "'flow.step'" in text
    assert "1 calls of" in text
    assert "Gate" in text
    assert _task_threads() == 1
    gate.let_go("stuck")
    wait_until(lambda: _task_threads() == 0)
    assert stuck not in desk.ended


def test_threads_do_not_keep_the_process(desk: Bench):
    """They are daemons: a call that never ends doesn't keep Python from leaving."""
    gate = Gate()
    desk.start(ThreadExecutor(1), gate)
    desk.submit("a")
    gate.wait_for("a")
    assert gate.threads["a"].daemon
    gate.let_go("a")


def _task_threads() -> int:
    return sum(thread.name.startswith("engine-task-flow.step") for thread in threading.enumerate())
