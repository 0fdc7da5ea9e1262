"""Subtasks as users have them: what goes wrong, what is told, and what is left over."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import SubtaskCancelledError, UserCodeError, WorkerProcessError
from engine.operators.tasks import (
    ProcessExecutor,
    Retry,
    TaskContext,
    TaskFuture,
    ThreadExecutor,
    task,
)
from engine.testing import TestingSink, TestingSource, run_main, run_tasks
from tests.conformance.executor_suite import wait_until
from tests.operators.tasks import subtask_calls as calls


def one(ctx: TaskContext) -> TaskFuture[int]:
    return ctx.submit(int, "1")


def test_a_context_is_of_no_use_after_its_function():
    """Which is told, not waited for."""
    kept: list[TaskContext] = []

    def keep(ctx: TaskContext) -> None:
        kept.append(ctx)

    run_tasks(keep)
    with pytest.raises(UserCodeError, match="after its function had returned"):
        one(kept[0])


def test_a_future_is_of_no_use_after_its_function():
    """Nobody could answer."""

    def give(ctx: TaskContext) -> TaskFuture[int]:
        return one(ctx)

    with pytest.raises(UserCodeError, match="after its function had returned"):
        run_tasks(give).result()


def test_a_context_is_of_no_use_on_another_thread():
    """A call is one thread's."""
    told: list[BaseException] = []

    def elsewhere(ctx: TaskContext) -> None:
        def submit() -> None:
            try:
                one(ctx)
            except UserCodeError as ex:
                told.append(ex)

        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()

    run_tasks(elsewhere)
    assert "on another thread" in str(told[0])


@pytest.mark.parametrize("how", ["gather", "result", "argument"])
def test_a_future_is_of_use_to_its_own_call_only(how: str):
    """Else there could be circles of calls that wait for each other."""

    def below(held: Any, ctx: TaskContext) -> Any:
        if how == "gather":
            return list(ctx.gather(held()))
        return held().result() if how == "result" else ctx.submit(int, held()).result()

    def above(ctx: TaskContext) -> Any:
        future = one(ctx)
        return ctx.submit(below, lambda: future).result()

    told = "on another thread" if how == "result" else "is another call's"
    with pytest.raises(UserCodeError, match=told):
        run_tasks(above)


def test_a_context_that_a_test_has_made_says_what_to_use():
    """It has no executor behind it."""
    with pytest.raises(UserCodeError, match="not made by one of our executors") as caught:
        one(TaskContext("0-0", "key", 1))
    assert "run_tasks" in caught.value.hint


def test_functions_of_the_other_kind_are_refused():
    """At `submit`, by name."""

    async def later() -> None:
        """Nothing."""

    def submit_async(ctx: TaskContext) -> Any:
        return ctx.submit(later)

    async def submit_plain(ctx: TaskContext) -> Any:
        return ctx.submit(submit_async)

    with pytest.raises(UserCodeError, match=r"later.* is `async def`"):
        run_tasks(submit_async)
    with pytest.raises(UserCodeError, match=r"submit_async.* would block the event loop"):
        run_tasks(submit_plain)


def test_a_result_can_not_be_waited_for_on_the_event_loop():
    """It must be awaited."""

    async def later() -> int:
        return 1

    async def block(ctx: TaskContext) -> Any:
        return ctx.submit(later).result()

    with pytest.raises(UserCodeError, match="it would block the event loop") as caught:
        run_tasks(block)
    assert caught.value.hint == "write `await future`"


def test_waiting_on_the_event_loop_can_be_ended():
    """By `asyncio.timeout`: the call goes on, and its subtask can be waited for again."""
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "there"

    async def impatient(ctx: TaskContext) -> list[str]:
        future = ctx.submit(slow)
        try:
            async with asyncio.timeout(0.01):
                await future
        except TimeoutError:
            go.set()
        return ["in time", await future]

    assert run_tasks(impatient, max_in_flight=1) == ["in time", "there"]


def test_a_task_that_takes_too_long_takes_its_subtasks_along():
    """One that waits is not left behind on its thread, and is told why."""
    told: list[str] = []
    go = threading.Event()

    def slow(ctx: TaskContext) -> None:
        try:
            ctx.submit(go.wait).result()
        except SubtaskCancelledError as ex:
            told.append(str(ex))
            raise

    threads = threading.active_count()
    with pytest.raises(TimeoutError):
        run_tasks(slow, executor=ThreadExecutor(2), timeout=timedelta(seconds=0.2))
    go.set()
    wait_until(lambda: bool(told) and threading.active_count() <= threads)
    assert "the task was given up" in told[0]


def test_the_time_of_a_task_goes_on_while_its_subtasks_run():
    """Also when its function has returned."""
    go = threading.Event()

    def leave(ctx: TaskContext) -> None:
        ctx.submit(go.wait)

    try:
        with pytest.raises(TimeoutError):
            run_tasks(leave, timeout=timedelta(seconds=0.2))
    finally:
        go.set()


def test_a_flow_has_subtasks_for_each_record():
    """Many records at a time, with few places."""

    def total(count: int, ctx: TaskContext) -> int:
        return sum(ctx.gather(*[ctx.submit(abs, -n) for n in range(count)]))

    flow, out = Dataflow("flow"), list[int]()
    numbers = op.input("in", flow, TestingSource(range(200), batch_size=50))
    totals = task("total", numbers, total, executor=ThreadExecutor(3), max_in_flight=20)
    op.output("out", totals.ok, TestingSink(out))
    run_main(flow)
    assert out == [count * (count - 1) // 2 for count in range(200)]


def test_subtasks_whose_processes_die_are_tried_again(tmp_path: Path):
    """Each dies once; what it was to give comes all the same."""
    two = ProcessExecutor(2)
    assert run_tasks(calls.survive, tmp_path, 6, executor=two, retry=Retry(deaths=2)) == 15


def test_a_subtask_that_always_kills_its_process_fails(tmp_path: Path):
    """By the budget of the step's `Retry`."""
    with pytest.raises(WorkerProcessError, match="was killed by SIGKILL"):
        run_tasks(calls.survive, tmp_path, 1, executor=ProcessExecutor(1), retry=Retry(deaths=1))


def test_a_parent_whose_process_dies_is_run_again_as_a_whole(tmp_path: Path):
    """With its subtasks, those before are given up."""
    assert run_tasks(calls.die_while_waiting, tmp_path, executor=ProcessExecutor(2)) == 2


def test_large_results_that_are_lost_are_made_again(tmp_path: Path):
    """For a subtask that needs one, and for the parent."""
    made = run_tasks(calls.lose, tmp_path, executor=ProcessExecutor(2))
    assert made == (calls.LARGE, calls.LARGE, 3)


def test_large_results_are_freed_with_their_last_future(tmp_path: Path):
    """While the task goes on."""
    assert run_tasks(calls.free, tmp_path, executor=ProcessExecutor(2)) == [1, 0]


def test_what_a_killed_worker_has_left_is_removed_at_the_next_start(tmp_path: Path):
    """Nobody else could: its processes are killed with it."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from engine.testing import run_tasks\n"
        "from tests.operators.tasks import subtask_calls as calls\n"
        "if __name__ == '__main__':\n"
        f"    run_tasks(calls.leave_large, Path({str(tmp_path)!r}), executor='process')\n"
    )
    top = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(top)}
    ) as worker:
        wait_until((tmp_path / "there").exists)
        worker.kill()
    left = list(calls.OBJECTS.glob(f"engine-task-{worker.pid}.*"))
    assert left
    assert len(run_tasks(calls.pids, 1, executor=ProcessExecutor(1))) == 1
    assert not [path for path in left if path.exists()]


def test_a_pool_has_no_more_processes_at_work_than_places():
    """Though the task that waits has one of its own."""
    assert len(run_tasks(calls.pids, 40, executor=ProcessExecutor(2))) <= 3


@pytest.mark.parametrize(
    ("fn", "told"),
    [
        (calls.unpicklable_argument, "an argument of .*length.* can't be pickled"),
        (calls.unpicklable_result, "returned can't be pickled"),
        (calls.deep_future, "can't leave the call that has submitted it"),
    ],
)
def test_what_can_not_be_sent_is_told(fn: Any, told: str):
    """With the function's name, and what to do."""
    with pytest.raises(UserCodeError, match=told):
        run_tasks(fn, executor=ProcessExecutor(1))


def test_a_closure_is_sent_once():
    """However often it is submitted."""
    pytest.importorskip("cloudpickle", reason="needs cloudpickle")
    found, sent_bytes = run_tasks(calls.with_closure, 200_000, executor=ProcessExecutor(1))
    assert found == calls.COUNT
    assert sent_bytes < 2_000


def test_nothing_of_a_run_is_left_open():
    """No file or pipe more than before."""
    run_tasks(calls.pids, 1, executor=ProcessExecutor(1))
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(2):
        run_tasks(calls.pids, 3, executor=ProcessExecutor(1))
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before


def test_options_are_those_of_task():
    """And an option that isn't one is told."""
    with pytest.raises(TypeError, match="speed"):
        run_tasks(len, "abc", speed=3)
    with pytest.raises(TypeError, match="can't be called"):
        run_tasks(3)  # type: ignore[call-overload] # what it is told about
    assert run_tasks(len, "abc") == 3
