"""The event loop: real asyncio tasks, and a watch over what blocks it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from engine.operators.tasks import AsyncExecutor, Kind
from engine.runtime.executors._async import AsyncTasks
from engine.runtime.executors._loop import BLOCKED_S
from tests.conformance.executor_functions import adouble, ahold
from tests.conformance.executor_suite import Bench, bench, lines_of, wait_until
from tests.runtime.executors import task_functions as functions


@pytest.fixture
def desk() -> Iterator[Bench]:
    with bench() as made:
        yield made


def test_a_call_is_a_task_of_asyncio(desk: Bench):
    """`current_task`, `timeout`, `TaskGroup` and `to_thread` do what they do anywhere."""
    desk.start(AsyncExecutor(), functions.many_ways)
    assert desk.values(1, 2) == [[True, [0, 1, 2], True]] * 2


def test_a_task_group_that_fails_is_the_calls_failure(desk: Bench):
    """With its exceptions."""
    desk.start(AsyncExecutor(), functions.failing_group)
    ended = desk.call(None)
    assert ended.kind is Kind.RAISED
    assert isinstance(ended.value, ExceptionGroup)
    assert str(ended.value.exceptions[0]) == "gone"


@pytest.mark.skipif(not importlib.util.find_spec("anyio"), reason="needs anyio")
def test_anyio_runs_in_it(desk: Bench):
    """Groups and cancel scopes, which lean on the current task."""
    desk.start(AsyncExecutor(), functions.with_anyio)
    assert desk.values(None) == [[0, 1, 2]]


def test_thousands_of_calls_wait_at_the_same_time(desk: Bench):
    """They take as long as one, nearly."""
    desk.start(AsyncExecutor(), functions.nap)
    began_s = time.monotonic()
    assert desk.values(*[0.5] * 2_000) == [0.5] * 2_000
    assert time.monotonic() - began_s < 100


def test_all_nodes_share_one_loop(desk: Bench):
    """And closing one leaves it to the others."""
    threads = set[int]()

    async def note_thread(_: Any) -> None:
        threads.add(threading.get_ident())

    one = desk.start(AsyncExecutor(), note_thread).running
    desk.call(1)
    other = desk.start(AsyncExecutor(), note_thread).running
    desk.call(2)
    assert one is not other
    assert one.close(5.0) == []
    desk.call(3)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_callback_that_raises_system_exit_does_not_end_the_loop(desk: Bench):
    """It is told, and the calls go on."""
    desk.start(AsyncExecutor(), functions.leave_by_callback)
    assert desk.values(1) == ["stayed"]
    assert desk.values(2) == ["stayed"]
    assert any("SystemExit(4)" in text for text in desk.told)


def test_a_function_that_blocks_the_loop_is_told_of_by_name(desk: Bench):
    """Once each time, with where it is; not while it only waits."""
    desk.start(AsyncExecutor(), functions.block)
    assert desk.values(BLOCKED_S + 1.0) == [BLOCKED_S + 1.0]
    [text] = desk.told
    assert "by block (" in text
    assert "in _inner (" in text
    assert text.count("task_functions.py:") == 2
    assert desk.values(BLOCKED_S + 1.0) == [BLOCKED_S + 1.0]
    assert len(desk.told) == 2


def test_a_loop_that_waits_is_not_blocked(desk: Bench):
    """However long it waits."""
    desk.start(AsyncExecutor(), functions.nap)
    desk.values(BLOCKED_S + 0.6)
    assert desk.told == []


def test_a_call_given_up_before_its_first_step_leaves_nothing(desk: Bench, tmp_path: Path):
    """Asyncio cancels such a task without running any of it."""
    running = cast("AsyncTasks", desk.start(AsyncExecutor(), ahold).running)
    for _ in range(200):
        for call_id in desk.submit(*[(tmp_path / "begun", tmp_path / "never")] * 3):
            running.cancel(call_id)
    (tmp_path / "now").touch()
    desk.call((tmp_path / "begun", tmp_path / "now"))
    wait_until(lambda: not running._live)
    assert running._given_up == set()


def test_closing_names_calls_that_do_not_heed_their_end(desk: Bench, tmp_path: Path):
    """And the function that blocks the loop, if one does."""
    running = desk.start(AsyncExecutor(), functions.heed_nothing).running
    desk.submit(tmp_path / "begun")
    wait_until(lambda: bool(lines_of(tmp_path / "begun")))
    [text] = running.close(0.3)
    assert "1 calls of" in text
    assert "heed_nothing" in text
    (tmp_path / "stop").touch()


def test_closing_does_not_wait_for_a_loop_that_is_blocked(desk: Bench):
    """It says who blocks it."""
    let_go = threading.Event()

    async def block_for_ever(_: Any) -> None:
        let_go.wait()

    desk.start(AsyncExecutor(), block_for_ever)
    [call_id] = desk.submit(1)
    wait_until(lambda: desk.running.started_s(call_id) is not None)
    began_s = time.monotonic()
    left = desk.executors.close(1.0)
    assert time.monotonic() - began_s < 5.0
    assert any("blocked by" in text and "block_for_ever" in text for text in left)
    let_go.set()


BLOCKS_A_THREAD = """\
import asyncio
import threading

from engine.operators.tasks import AsyncExecutor, Call
from engine.runtime.executors import Executors

begun = threading.Event()


def block():
    begun.set()
    threading.Event().wait()


async def fn(_):
    await asyncio.to_thread(block)


executors = Executors(print)
executors.start(AsyncExecutor(), fn, lambda: None, "flow.step").submit([Call(0, None)])
begun.wait()
print(executors.close(1.0))
"""


def test_a_blocking_call_handed_to_a_thread_does_not_keep_the_process():
    """Though asyncio's own threads would be waited for as Python leaves."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS_A_THREAD],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_many_calls_handed_to_threads_share_some(desk: Bench):
    """All come back, and threads are used again."""
    names = set[str]()

    def note_name(number: int) -> int:
        names.add(threading.current_thread().name)
        return number

    async def hand_on(number: int) -> int:
        return await asyncio.to_thread(note_name, number)

    desk.start(AsyncExecutor(), hand_on)
    assert desk.values(*range(2_000)) == list(range(2_000))
    assert len(names) <= 32


def test_calls_after_a_close_of_all_are_for_a_new_loop(desk: Bench):
    """A worker that begins anew gets a loop that runs."""
    desk.start(AsyncExecutor(), adouble)
    assert desk.values(1) == [2]
    desk.executors.close(5.0)
    desk.start(AsyncExecutor(), adouble)
    assert desk.values(3) == [6]
