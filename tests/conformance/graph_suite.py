"""What every executor must do for tasks with subtasks: one suite, run on each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserCodeError
from engine.operators.tasks import Exponential, Resources, Retry
from engine.testing import run_tasks
from tests.conformance import graph_functions as functions
from tests.conformance.executor_functions import OddError
from tests.conformance.executor_suite import ExecutorCase, lines_of, wait_until

OBJECTS = Path("/dev/shm")


def usable() -> int:
    """How many processors there are for tasks."""
    return len(os.sched_getaffinity(0))


def run(case: ExecutorCase, name: str, *args: Any, places: int = 2, **options: Any) -> Any:
    """Run a function in the kind that an executor runs."""
    fn: Callable[..., Any] = getattr(functions, f"a{name}" if case.is_async else name)
    return run_tasks(fn, *args, executor=case.make(places), **options)


def objects() -> list[str]:
    """What is in shared memory."""
    return sorted(path.name for path in OBJECTS.glob("engine-task-*"))


class GraphSuite:
    """Every executor must pass these."""

    def test_results_come_in_the_order_of_their_futures(self, case: ExecutorCase):
        """Five thousand of them, from one record."""
        assert run(case, "fan_out", 5_000) == 5_000 * 4_999

    def test_futures_are_arguments(self, case: ExecutorCase):
        """Themselves, by name, in a list, a dict and a tuple: functions get results in place."""
        assert run(case, "hand_on") == 6 + 1 + 11

    def test_a_long_chain(self, case: ExecutorCase):
        """Each needs the one before."""
        assert run(case, "chain", 1_500) == 1_500

    @pytest.mark.parametrize("limit", [1, 256])
    def test_subtasks_have_subtasks(self, case: ExecutorCase, limit: int):
        """With one place, and even if only one call may run, all parents that wait go on."""
        assert run(case, "nest", 3, places=1, max_in_flight=limit) == 8

    def test_a_failure_is_raised_where_it_is_gathered(self, case: ExecutorCase):
        """With its type and arguments, through two calls."""
        for name in ("fail_once", "fail_below"):
            with pytest.raises(OddError) as caught:
                run(case, name)
            assert caught.value.args == ("so",)

    def test_failures_can_be_results(self, case: ExecutorCase):
        """As in asyncio."""
        assert run(case, "catch") == ["2", "OddError('so')"]

    def test_a_failure_that_nobody_asks_for_fails_the_task(self, case: ExecutorCase):
        """It isn't lost."""
        with pytest.raises(OddError, match="nobody asks"):
            run(case, "fail_unseen")

    def test_what_needs_a_failure_fails_with_it(self, case: ExecutorCase):
        """Its function isn't called."""
        with pytest.raises(OddError, match="first"):
            run(case, "fail_by_need")

    def test_a_task_is_not_over_before_its_subtasks(self, case: ExecutorCase, tmp_path: Path):
        """Though nobody waits for them."""
        assert run(case, "leave_running", tmp_path / "notes") == "done"
        assert sorted(map(int, lines_of(tmp_path / "notes"))) == list(range(20))

    def test_a_failure_gives_up_what_is_gathered_with_it(self, case: ExecutorCase, tmp_path: Path):
        """Those that had not begun never do."""
        if case.is_inline:
            pytest.skip("it runs them as they are submitted")
        told = run(case, "give_up_rest", tmp_path / "notes", max_in_flight=4)
        assert "given up" in told

    def test_each_call_knows_which_it_is(self, case: ExecutorCase):
        """By the id of its task, and its number in its parent."""
        assert run(case, "say_who") == ["0-0", "0-0.0 0-0.0 1", "0-0.1 0-0.1 1"]

    def test_a_try_again_makes_the_whole_again(self, case: ExecutorCase):
        """The root's retry is that of its subtasks."""

        with pytest.raises(OddError):
            run(case, "fail_once", retry=Retry(attempts=3, backoff=Exponential(jitter=0)))

    def test_gathering_nothing_and_the_same_twice(self, case: ExecutorCase):
        """Neither is a special case."""
        assert run(case, "gather_nothing") == []
        assert run(case, "gather_twice") == [6, 6, 6]

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("gather_numbers", "takes futures, not 1"),
            ("call_nothing", "3 can't be called"),
            ("give_context", "gets a `ctx` of its own"),
            ("wrong_resources", "`resources` must be a `Resources`, not 'gpu'"),
            ("too_deep", "nested more than 32 deep"),
        ],
    )
    def test_mistakes_are_told(self, case: ExecutorCase, name: str, told: str):
        """Where they are made."""
        with pytest.raises(UserCodeError, match=told):
            run(case, name)

    def test_large_results_reach_all_who_need_them(self, case: ExecutorCase):
        """Three megabytes, from one to five others and to the parent; and nothing is left of it."""
        before = objects()
        assert run(case, "share", 3_000_000) == [6_000_000] * 5 + [3_000_000]
        assert objects() == before

    def test_subtasks_take_resources(self, case: ExecutorCase):
        """Of what the worker has, beside their task or in its place."""
        all_of_it = Resources(cpu=usable())
        for options in ({}, {"resources": Resources(cpu=1)}, {"resources": all_of_it}):
            assert run(case, "demand", **options) == 4

    def test_no_thread_is_left(self, case: ExecutorCase):
        """Those that ran in the place of calls that waited have ended."""
        before = threading.active_count()
        run(case, "nest", 4)
        wait_until(lambda: threading.active_count() <= before, "the end of all threads")
