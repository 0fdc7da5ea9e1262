"""What a step `task` says to what it can't work with: an error that helps, and never a hang."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine._cli.signals import StopNow
from engine.errors import EngineRuntimeError, RemoteError, UserCodeError
from engine.operators.tasks import (
    Batching,
    Exponential,
    ProcessExecutor,
    Rate,
    Retry,
    ThreadExecutor,
    WorkerProcessError,
)
from engine.testing import cluster_main
from tests.operators.tasks.calls import (
    Holds,
    KillsItsProcess,
    Stuck,
    Unsendable,
    backwards,
    dies_of_one,
    doubled,
    doubled_async,
    for_executor,
    generates,
    generates_async,
    gives_unsendable,
    greedy_at_one,
    leaves,
    raises_unsendable,
    returns_awaitable,
    takes_two,
)
from tests.operators.tasks.task_flows import (
    EXECUTORS,
    MS,
    executor_of,
    flow_of,
    run_tasks,
)

HOUR = timedelta(hours=1)
executors = pytest.mark.parametrize("name", EXECUTORS)


@pytest.mark.parametrize(
    ("params", "error", "told"),
    [
        ({"fn": 7}, TypeError, "step 'flow.task': 7 can't be called"),
        ({"fn": takes_two}, TypeError, "step 'flow.task': .*takes_two.* one argument.*'other'"),
        ({"fn": lambda: 1}, TypeError, "one argument.*too many"),
        ({"fn": generates}, TypeError, "step 'flow.task': .*generates.* is a generator function"),
        ({"fn": generates_async}, TypeError, "generates_async.* is a generator function"),
        ({"fn": Holds(threading.Lock()), "executor": "process"}, TypeError, "'flow.task'.*Holds"),
        ({"executor": "fiber"}, ValueError, "executor must be one of 'inline', 'async'"),
        ({"executor": 3}, TypeError, "executor must be a name or an Executor, not 3"),
        ({"executor": ThreadExecutor}, TypeError, "make an instance of it"),
        ({"fn": doubled_async, "executor": "thread"}, TypeError, "takes executor='async'"),
        ({"fn": doubled_async, "executor": "process"}, TypeError, "takes executor='async'"),
        ({"order": "time"}, ValueError, "`order` of step 'flow.task' must be one of"),
        ({"order": "key", "batch": Batching(2)}, ValueError, "order of each key in lists"),
        ({"max_in_flight": 0}, ValueError, "`max_in_flight` of step 'flow.task'"),
        ({"timeout": 5}, TypeError, "`timeout` must be a `timedelta`"),
        ({"timeout": timedelta(0)}, ValueError, "`timeout` of step 'flow.task'"),
        ({"timeout": timedelta(seconds=-1)}, ValueError, "`timeout` must not be negative"),
        ({"on_error": "ignore"}, ValueError, "`on_error` of step 'flow.task'"),
        ({"submit": "later"}, ValueError, "`submit` of step 'flow.task'"),
        ({"retry": 3}, TypeError, "`retry` of step 'flow.task' must be a `Retry`"),
        ({"batch": 100}, TypeError, "`batch` of step 'flow.task' must be a `Batching`"),
        ({"rate": 100}, TypeError, "`rate` of step 'flow.task' must be a `Rate`"),
        ({"idempotency": str}, ValueError, "`idempotency` of step 'flow.task' is of no use"),
        ({"max_in_flight": "9"}, TypeError, "`max_in_flight` of step 'flow.task'"),
    ],
)
def test_a_mistake_is_told_as_the_flow_is_built(params: Any, error: Any, told: str):
    """With the step and with what would be right."""
    with pytest.raises(error, match=told):
        flow_of([1], **{"fn": doubled, **params})


def test_a_lambda_for_processes_is_refused_where_cloudpickle_is_missing(
    monkeypatch: pytest.MonkeyPatch,
):
    """As the flow is built; the message says both ways out."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TypeError, match="step 'flow.task': .*top of a module, or install cloudp"):
        flow_of([1], lambda x: x, executor="process")


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: Retry(attempts=0), ValueError, "`attempts` must be at least 1"),
        (lambda: Retry(on=(OSError, "x")), TypeError, "`on` must be made of exception types"),
        (lambda: Retry(on=OSError), TypeError, "`on` must be made of exception types"),
        (lambda: Batching(0), ValueError, "`size` must be at least 1"),
        (lambda: Batching(2, 5), TypeError, "`linger` must be a `timedelta`"),
        (lambda: Rate(0), ValueError, "a rate must be above zero"),
        (lambda: Rate(5, timedelta(0)), ValueError, "a rate must be above zero"),
        (lambda: Exponential(MS, factor=0.5), ValueError, "`factor` must be at least 1"),
        (lambda: ThreadExecutor(threads=0), ValueError, "threads must be at least 1"),
        (lambda: ProcessExecutor(processes=0), ValueError, "processes must be at least 1"),
    ],
)
def test_policies_that_make_no_sense_are_refused(make: Any, error: Any, told: str):
    """As they are made."""
    with pytest.raises(error, match=told):
        make()


def does_not_say(*arguments: Any) -> Any:
    return takes_two(*arguments)


@executors
def test_a_function_of_another_arity_is_told_by_python_where_it_does_not_say(name: str):
    """The step is named, and the argument that is missing."""
    fn = for_executor(name, does_not_say)
    with pytest.raises(EngineRuntimeError, match="'flow.task' failed.*'other'"):
        run_tasks([1], fn, executor=executor_of(name), reads_errors=False)


def test_records_without_a_key_are_refused_where_the_order_is_by_key():
    """As keyed steps refuse them: with the step and the record."""
    with pytest.raises(EngineRuntimeError, match="step 'flow.task'") as caught:
        run_tasks([1], doubled, order="key")
    assert isinstance(caught.value.__cause__, UserCodeError)
    assert "(key, value)" in str(caught.value.__cause__)


def test_a_key_that_cannot_be_one_is_refused():
    """A list isn't, nor is a float, as in all keyed steps."""
    for key in ([1], 1.5, None):
        with pytest.raises(EngineRuntimeError, match="a key must be a `str`"):
            run_tasks([(key, 1)], lambda record: record, order="key")


def test_records_without_a_key_are_refused_by_several_workers_too():
    """There the record has to find its worker first."""
    flow, _ = flow_of([1], doubled, order="key")
    with pytest.raises(EngineRuntimeError, match="a keyed step needs"):
        cluster_main(flow, [], 0, worker_count_per_proc=2)


def test_a_coroutine_that_threads_are_given_is_an_error():
    """It can be seen only when it is returned; the message says what to name instead."""
    [error] = run_tasks([1], returns_awaitable, executor="thread").errors
    assert isinstance(error.exception, UserCodeError)
    assert "executor='async'" in error.exception.hint


def test_a_plain_function_on_the_event_loop_is_an_error():
    """One that returns nothing to await; one that does is as good as `async def`."""
    [error] = run_tasks([1], doubled, executor="async").errors
    assert isinstance(error.exception, UserCodeError)
    assert "nothing to await" in str(error.exception)
    assert run_tasks([1], returns_awaitable, executor="async").ok == [2]


@pytest.mark.parametrize("result", [5, None, [1], [1, 2, 3], (1, 2), {1: 2, 2: 3}])
def test_a_function_of_lists_must_give_as_many_results(result: Any):
    """The error says how many it gave, or what."""
    ran = run_tasks([1, 2], lambda _: result, batch=Batching(2, HOUR))
    assert ran.ok == []
    assert [error.record for error in ran.errors] == [1, 2]
    assert isinstance(ran.errors[0].exception, TypeError)
    assert "for 2 records" in str(ran.errors[0].exception)


def test_a_record_that_processes_cannot_be_sent_fails_alone():
    """The others come through."""
    ran = run_tasks([1, Unsendable(), 3], doubled, executor=executor_of("process"))
    assert ran.ok == [2, 6]
    [error] = ran.errors
    assert "can't be pickled" in str(error.exception)
    assert "this stays here" in str(error.exception)


def test_a_result_that_processes_cannot_send_is_an_error():
    """It names the function."""
    [error] = run_tasks([1], gives_unsendable, executor=executor_of("process")).errors
    assert "gives_unsendable" in str(error.exception)
    assert "can't be pickled" in str(error.exception)


def test_an_exception_that_processes_cannot_send_comes_as_its_text():
    """With the name of its class."""
    [error] = run_tasks([1], raises_unsendable, executor=executor_of("process")).errors
    assert isinstance(error.exception, RemoteError)
    assert error.exception.type_name.endswith("UnsendableError")
    assert error.exception.message == "of 1"


@executors
def test_a_call_that_exits_ends_nothing_but_itself(name: str):
    """`SystemExit` is an error like others, and isn't tried again."""
    fn = for_executor(name, leaves)
    ran = run_tasks([1], fn, executor=executor_of(name), retry=Retry(attempts=3))
    assert [type(error.exception) for error in ran.errors] == [SystemExit]


def test_a_process_that_kills_itself_ends_the_job_by_name(tmp_path: Path):
    """After as many deaths as are allowed; the error says which signal."""
    fn = KillsItsProcess(tmp_path, 1, 99)
    retry = Retry(backoff=Exponential(MS), deaths=2)
    with pytest.raises(EngineRuntimeError, match="step 'flow.task' failed.*SIGKILL") as caught:
        run_tasks([1], fn, executor=executor_of("process"), retry=retry, reads_errors=False)
    assert isinstance(caught.value.__cause__, WorkerProcessError)


class _FailsOrWaits(Stuck):
    """The call with "fails" raises once the one that never ends has begun."""

    def __call__(self, record: Any) -> Any:
        while record == "fails" and not self._calls.of("waits"):
            time.sleep(0.001)
        if record == "fails":
            raise ValueError
        return super().__call__(record)


class _FailsOrWaitsAsync(_FailsOrWaits):
    async def __call__(self, record: Any) -> Any:
        if record == "fails":
            while not self._calls.of("waits"):  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.001)
            raise ValueError
        self._calls.add(record)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if self.freed.exists():
                    raise


@pytest.mark.parametrize("name", ["async", "thread", "process"])
def test_a_job_ends_though_a_task_never_does(name: str, tmp_path: Path, caplog: Any):
    """An error ends it; what couldn't be stopped is told by the function's name."""
    caplog.set_level("INFO", "engine")
    fn = (_FailsOrWaitsAsync if name == "async" else _FailsOrWaits)(tmp_path, "waits")
    try:
        with pytest.raises(EngineRuntimeError, match="ValueError"):
            run_tasks(
                ["waits", "fails"],
                fn,
                executor=executor_of(name),
                order="none",
                reads_errors=False,
            )
    finally:
        fn.freed.touch()
    if name != "process":
        assert "FailsOrWaits" in caplog.text


def test_more_threads_that_never_come_back_than_allowed_end_the_job(tmp_path: Path):
    """The message names the function and what else to do."""
    freed = threading.Event()
    executor = ThreadExecutor(threads=2, abandoned=1)
    try:
        with pytest.raises(EngineRuntimeError, match="were given up and have not come back"):
            run_tasks(
                range(9), lambda _: freed.wait(), executor=executor, timeout=timedelta(seconds=0.05)
            )
    finally:
        freed.set()


def test_a_function_that_blocks_the_event_loop_is_told_by_name(caplog: Any):
    """Once it has done so for over a second."""
    caplog.set_level("INFO", "engine")

    async def hogs_the_loop(record: int) -> int:
        while "hogs_the_loop" not in caplog.text:
            time.sleep(0.01)  # noqa: ASYNC251 - the very thing that one must not do
        return record

    assert run_tasks([1], hogs_the_loop).ok == [1]


def test_memory_that_runs_out_is_an_error_of_the_record():
    """A `MemoryError` of the call is raised where it was called, and no worker ends of it."""

    def greedy(_record: int) -> bytes:
        return b"x" * (1 << 60)

    [error] = run_tasks([1], greedy).errors
    assert isinstance(error.exception, MemoryError)


def test_memory_that_runs_out_in_the_job_itself_ends_it():
    """Whatever the step does about errors: the next record would find no more of it."""

    def greedy(_record: int) -> bytes:
        return b"x" * (1 << 60)

    with pytest.raises(EngineRuntimeError, match="'flow.task' failed.*MemoryError"):
        run_tasks([1], greedy, reads_errors=False, on_error="skip")


def test_memory_that_runs_out_in_a_process_is_the_fault_of_its_record():
    """A process for tasks has a limit of its own, and the job has not felt it."""
    params: dict[str, Any] = {"executor": executor_of("process"), "on_error": "skip"}
    assert run_tasks(range(3), greedy_at_one, reads_errors=False, **params).ok == [0, 2]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (7, "ended with exit code 7"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGKILL, "was killed by SIGKILL, perhaps for want of memory"),
    ],
)
def test_a_process_that_dies_is_told_by_its_function_and_by_how(how: int, told: str):
    """Where failures are skipped, its record is left out, and the others come."""
    params: dict[str, Any] = {
        "executor": executor_of("process"),
        "retry": Retry(backoff=Exponential(MS), deaths=1),
    }
    records = [(n, how) for n in range(3)]
    ran = run_tasks(records, dies_of_one, **params)
    [error] = ran.errors
    assert isinstance(error.exception, WorkerProcessError)
    assert "dies_of_one" in str(error.exception)
    assert str(error.exception).endswith(told)
    assert ran.ok == [0, 2]
    skipping = run_tasks(records, dies_of_one, reads_errors=False, on_error="skip", **params)
    assert skipping.ok == [0, 2]


def test_an_exception_that_cannot_be_sent_is_skipped_like_others():
    """What comes in its place is the record's fault too."""
    params: dict[str, Any] = {"executor": executor_of("process"), "on_error": "skip"}
    assert run_tasks([1], raises_unsendable, reads_errors=False, **params).ok == []


def test_a_coroutine_that_processes_are_given_is_an_error():
    """The hint says what to name instead, as on threads."""
    [error] = run_tasks([1], returns_awaitable, executor=executor_of("process")).errors
    assert isinstance(error.exception, UserCodeError)
    assert "executor='async'" in error.exception.hint


def test_records_and_results_of_processes_may_be_large():
    """Over 100 MB, which come back as they went."""
    record = bytes(range(256)) * (400 << 10)
    assert len(record) > 100_000_000
    [result] = run_tasks([record], backwards, executor=executor_of("process")).ok
    assert result == record[::-1]


def test_what_ends_the_run_ends_it_in_an_inline_call_too():
    """A second Ctrl-C, or the end of the time for a drain, isn't the call's own failure."""

    def stopped(_record: int) -> None:
        raise StopNow

    with pytest.raises(StopNow):
        run_tasks([1], stopped, executor="inline")
