"""`task` on the real executors: what comes out, in what order, and what becomes of failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from datetime import timedelta
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.operators.tasks import (
    Batching,
    Exponential,
    ProcessExecutor,
    Rate,
    RemoteError,
    Retry,
    TaskError,
    ThreadExecutor,
    WorkerProcessError,
    task,
)
from engine.runtime import RunOptions, plan
from engine.runtime._run import _sites
from engine.testing import TestingSink, TestingSource, cluster_main, run_main
from tests.operators.flows import by_key, root_cause
from tests.operators.tasks.calls import (
    Calls,
    FailsAtFirst,
    FirstAfterLast,
    FirstAfterLastAsync,
    KillsItsProcess,
    Stuck,
    StuckAsync,
    all_doubled,
    doubled,
    for_executor,
    number_key,
    odd_fails,
    with_context,
    with_context_async,
)
from tests.operators.tasks.task_flows import (
    EXECUTORS,
    MS,
    PatientSource,
    Until,
    executor_of,
    flow_of,
    run_tasks,
)

QUICK = Exponential(MS, jitter=0)
executors = pytest.mark.parametrize("name", EXECUTORS)
APART = ("async", "thread", "process")
"""Those that run calls beside each other."""


@executors
def test_each_record_becomes_a_result_in_the_order_of_the_input(name: str):
    """All of them, on each kind of executor."""
    fn = for_executor(name, doubled)
    ran = run_tasks(range(300), fn, executor=executor_of(name), max_in_flight=32)
    assert ran.ok == [2 * n for n in range(300)]
    assert ran.errors == []


def test_without_a_named_executor_it_is_the_event_loop_or_threads():
    """`async def` is awaited, other functions get threads."""

    async def on_loop(_record: int) -> str:
        return f"{asyncio.get_running_loop().is_running()}"

    assert run_tasks([1], on_loop).ok == ["True"]
    [thread] = run_tasks([1], lambda _: threading.current_thread().name).ok
    assert thread.startswith("engine-task-flow.task")


def first_after_last(name: str, folder: Path, first: Any, last: Any) -> Any:
    """A function whose first call ends last, and the executor that it takes."""
    if name == "async":
        return FirstAfterLastAsync(folder, first, last), "async"
    fn = FirstAfterLast(folder, first, last)
    return fn, ThreadExecutor(threads=2) if name == "thread" else ProcessExecutor(processes=2)


@pytest.mark.parametrize("name", APART)
def test_order_input_holds_back_what_ends_too_early(name: str, tmp_path: Path):
    """The first record comes first, though all others had ended before it."""
    fn, executor = first_after_last(name, tmp_path, 0, 9)
    assert run_tasks(range(10), fn, executor=executor).ok == list(range(10))


def run_until_passed(name: str, folder: Path, records: list[Any], last: Any, order: Any) -> Any:
    """What comes out if the first call ends only once a later record has come out."""
    flow, out = Dataflow("flow"), []

    def look(record: Any) -> Any:
        if record == last:
            folder.joinpath("begun").touch()
        return record

    fn, executor = first_after_last(name, folder, records[0], None)
    s = op.input("in", flow, TestingSource(records, 10))
    ok = task("task", s, fn, executor=executor, order=order).ok
    op.output("out", op.map("look", ok, look), TestingSink(out))
    run_main(flow)
    return out


@pytest.mark.parametrize("name", APART)
def test_order_none_lets_pass_what_has_ended(name: str, tmp_path: Path):
    """The first record comes behind others, and none is lost."""
    out = run_until_passed(name, tmp_path, list(range(10)), 9, "none")
    assert out.index(9) < out.index(0)
    assert sorted(out) == list(range(10))


@pytest.mark.parametrize("name", APART)
def test_order_key_holds_back_the_own_key_only(name: str, tmp_path: Path):
    """Of each key the values keep their order; another key's pass."""
    records = [("a", 0), *((key, n) for n in range(1, 10) for key in "ab")]
    out = run_until_passed(name, tmp_path, records, ("b", 9), "key")
    assert out.index(("b", 9)) < out.index(("a", 0))
    assert by_key(out) == by_key(records)


@executors
def test_what_fails_goes_to_errors_with_all_that_is_known(name: str):
    """The record, its exception, how often it was tried and an id of its own."""
    ran = run_tasks(range(20), for_executor(name, odd_fails), executor=executor_of(name))
    assert ran.ok == list(range(0, 20, 2))
    assert [error.record for error in ran.errors] == list(range(1, 20, 2))
    assert {type(error.exception) for error in ran.errors} == {ValueError}
    assert [error.exception.args for error in ran.errors] == [("odd", n) for n in range(1, 20, 2)]
    assert {error.attempts for error in ran.errors} == {1}
    assert len({error.task_id for error in ran.errors}) == 10


@executors
def test_without_a_reader_of_errors_the_first_one_ends_the_job(name: str):
    """The message names the step and the exception, which is the cause."""
    fn = for_executor(name, odd_fails)
    with pytest.raises(EngineRuntimeError, match="step 'flow.task' failed.*ValueError") as caught:
        run_tasks(range(20), fn, executor=executor_of(name), reads_errors=False)
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert cause.args == ("odd", 1)


@executors
def test_skip_leaves_out_what_fails(name: str):
    """The others come as ever."""
    params: dict[str, Any] = {"executor": executor_of(name), "on_error": "skip"}
    ran = run_tasks(range(20), for_executor(name, odd_fails), reads_errors=False, **params)
    assert ran.ok == list(range(0, 20, 2))


@executors
def test_a_task_is_tried_again_until_it_succeeds(name: str, tmp_path: Path):
    """As often as `attempts` says, the first try among them."""
    fn = for_executor(name, FailsAtFirst(tmp_path, 2, OSError("busy")))
    retry = Retry(attempts=3, backoff=QUICK)
    ran = run_tasks(range(5), fn, executor=executor_of(name), retry=retry)
    assert ran.ok == list(range(5))
    assert [Calls(tmp_path).of(n) for n in range(5)] == [3] * 5


def test_a_task_that_fails_every_time_has_failed_after_its_attempts(tmp_path: Path):
    """And says how many these were."""
    fn = FailsAtFirst(tmp_path, 99, OSError("busy"))
    [error] = run_tasks([7], fn, retry=Retry(attempts=4, backoff=QUICK)).errors
    assert (error.record, error.attempts, Calls(tmp_path).of(7)) == (7, 4, 4)


def test_only_the_named_exceptions_are_tried_again(tmp_path: Path):
    """Another one has failed at once; a subclass of a named one is tried again."""
    fn = FailsAtFirst(tmp_path, 1, ConnectionResetError())
    assert run_tasks([1], fn, retry=Retry(attempts=2, backoff=QUICK, on=(OSError,))).ok == [1]
    fn = FailsAtFirst(tmp_path, 1, ValueError())
    [error] = run_tasks([2], fn, retry=Retry(attempts=2, backoff=QUICK, on=(OSError,))).errors
    assert error.attempts == 1


def test_tries_are_apart_by_the_backoff():
    """Twice as long each time; never less than what was asked for."""
    began: list[float] = []

    def fails(record: int) -> int:
        began.append(time.monotonic())
        if len(began) < 4:
            raise OSError
        return record

    backoff = Exponential(timedelta(milliseconds=20), jitter=0)
    assert run_tasks([1], fails, retry=Retry(attempts=4, backoff=backoff)).ok == [1]
    waits_s = [later - sooner for sooner, later in pairwise(began)]
    assert all(
        wait_s >= least_s for wait_s, least_s in zip(waits_s, (0.02, 0.04, 0.08), strict=True)
    )


@pytest.mark.parametrize("name", ["inline", "async", "thread"])
def test_each_try_gets_the_record_as_it_came(name: str):
    """What an earlier try has done to it isn't there."""
    seen: list[list[int]] = []

    def spoils(record: list[int]) -> int:
        seen.append(list(record))
        record.append(99)
        if len(seen) < 3:
            raise OSError
        return len(record)

    retry = Retry(attempts=3, backoff=QUICK)
    assert run_tasks([[1]], for_executor(name, spoils), executor=name, retry=retry).ok == [2]
    assert seen == [[1]] * 3


@executors
def test_a_function_can_know_its_task(name: str):
    """Its id, which try it is, and the key that the user makes of the record."""
    fn = with_context_async if name == "async" else with_context
    params: dict[str, Any] = {"executor": executor_of(name), "retry": Retry(2, QUICK)}
    assert run_tasks(range(3), fn, **params).ok == [
        (0, "0-0", "0-0", 1),
        (1, "0-1", "0-1", 2),
        (2, "0-2", "0-2", 1),
    ]
    keys = [out[2] for out in run_tasks(range(3), fn, idempotency=number_key, **params).ok]
    assert keys == ["number 0", "number 1", "number 2"]


def stuck(name: str, folder: Path, times: int = 1) -> Stuck:
    return (StuckAsync if name == "async" else Stuck)(folder, 3, times)


@pytest.mark.parametrize("name", APART)
def test_a_task_that_takes_too_long_has_failed(name: str, tmp_path: Path):
    """With a `TimeoutError`; the others are not held up by it."""
    fn = stuck(name, tmp_path)
    try:
        timeout = timedelta(milliseconds=300)
        ran = run_tasks(range(8), fn, executor=executor_of(name), timeout=timeout)
    finally:
        fn.freed.touch()
    assert ran.ok == [0, 1, 2, 4, 5, 6, 7]
    [error] = ran.errors
    assert (error.record, error.attempts) == (3, 1)
    assert isinstance(error.exception, TimeoutError)
    assert "0.3 s" in str(error.exception)


@pytest.mark.parametrize("name", APART)
def test_a_task_that_took_too_long_is_tried_again(name: str, tmp_path: Path):
    """It gives its result at the second try, in its place."""
    fn = stuck(name, tmp_path)
    retry = Retry(attempts=2, backoff=QUICK, on=(TimeoutError,))
    try:
        timeout = timedelta(milliseconds=300)
        ran = run_tasks(range(8), fn, executor=executor_of(name), timeout=timeout, retry=retry)
    finally:
        fn.freed.touch()
    assert (ran.ok, ran.errors) == (list(range(8)), [])
    assert Calls(tmp_path).of(3) == 2


def test_waiting_for_a_free_thread_is_not_part_of_the_time(tmp_path: Path):
    """Tasks that wait longer than the timeout for the only thread have all their time."""

    def rather_slow(record: int) -> int:
        threading.Event().wait(0.05)
        return record

    params: dict[str, Any] = {"executor": ThreadExecutor(threads=1)}
    ran = run_tasks(range(8), rather_slow, timeout=timedelta(milliseconds=200), **params)
    assert (ran.ok, ran.errors) == (list(range(8)), [])


def test_a_record_that_kills_its_process_is_tried_again(tmp_path: Path):
    """In another process; the others don't notice."""
    fn = KillsItsProcess(tmp_path, 5, 2)
    ran = run_tasks(range(40), fn, executor=executor_of("process"), retry=Retry(backoff=QUICK))
    assert (ran.ok, ran.errors) == (list(range(40)), [])
    assert Calls(tmp_path).of(5) == 3


def test_a_record_that_kills_every_process_has_failed(tmp_path: Path):
    """After as many deaths as were allowed; the message says of what the process died."""
    fn = KillsItsProcess(tmp_path, 5, 99)
    retry = Retry(backoff=QUICK, deaths=2)
    ran = run_tasks(range(40), fn, executor=executor_of("process"), retry=retry)
    assert ran.ok == [n for n in range(40) if n != 5]
    [error] = ran.errors
    assert (error.record, Calls(tmp_path).of(5)) == (5, 2)
    assert isinstance(error.exception, WorkerProcessError)
    assert "SIGKILL" in str(error.exception)


@executors
def test_lists_of_records_give_lists_of_results(name: str):
    """One result for each record, in order; no list is longer than was said."""
    seen: list[int] = []

    def fn(records: list[int]) -> list[int]:
        seen.append(len(records))
        return [2 * record for record in records]

    called = all_doubled if name == "process" else for_executor(name, fn)
    batch = Batching(size=7, linger=MS)
    ran = run_tasks(range(100), called, executor=executor_of(name), batch=batch)
    assert ran.ok == [2 * n for n in range(100)]
    if name != "process":
        assert sum(seen) == 100
        assert max(seen) == 7


def test_a_list_that_is_not_full_goes_when_it_has_lingered():
    """Else its records would wait for others that don't come before they are done."""
    lists: list[list[int]] = []

    def fn(records: list[int]) -> list[int]:
        lists.append(records)
        return records

    source = PatientSource([1, 2, Until(lambda: lists), 3])
    batch = Batching(size=100, linger=timedelta(milliseconds=50))
    assert run_tasks(source, fn, batch=batch).ok == [1, 2, 3]
    assert list(chain(*lists)) == [1, 2, 3]
    assert lists[-1] == [3]


def test_the_end_of_the_input_does_not_wait_for_a_list_to_linger():
    """What there is goes at once."""
    batch = Batching(size=100, linger=timedelta(hours=1))
    assert run_tasks(range(5), all_doubled, batch=batch).ok == [0, 2, 4, 6, 8]


def test_a_list_that_fails_gives_an_error_for_each_record():
    """All have the same exception and the same id."""

    def fails(records: list[int]) -> list[int]:
        if 3 in records:
            raise ValueError("three")
        return records

    ran = run_tasks(range(8), fails, batch=Batching(size=4, linger=timedelta(hours=1)))
    assert ran.ok == [4, 5, 6, 7]
    assert [error.record for error in ran.errors] == [0, 1, 2, 3]
    assert len({error.task_id for error in ran.errors}) == 1


def test_no_more_tries_begin_than_the_rate_allows():
    """Ten at once, which is the tenth of a second's share; then one each ten milliseconds."""
    began: list[float] = []

    def fn(record: int) -> int:
        began.append(time.monotonic())
        return record

    assert len(run_tasks(range(40), fn, executor="inline", rate=Rate(100)).ok) == 40
    assert began[-1] - began[0] >= 0.29


def test_workers_share_the_rate():
    """Two of them together begin no more than one would."""
    began: list[float] = []

    def fn(record: tuple[str, int]) -> int:
        began.append(time.monotonic())
        return record[1]

    records = [(str(n), n) for n in range(40)]
    ran = run_tasks(records, fn, order="key", rate=Rate(100), workers=2)
    assert sorted(ran.ok) == list(range(40))
    # Each of them has half the rate and half the burst, and not just half of the keys.
    assert max(began) - min(began) >= 0.25


@pytest.mark.parametrize("name", ["async", "thread"])
def test_as_many_run_at_once_as_max_in_flight_says(name: str):
    """Four are under way together, and never a fifth."""
    lock, full = threading.Lock(), threading.Event()
    running, most = 0, 0

    def enter() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 4:
                full.set()

    def leave() -> None:
        nonlocal running
        with lock:
            running -= 1

    def plain(record: int) -> int:
        enter()
        full.wait()
        # Time for a fifth to come, if it may.
        threading.Event().wait(0.02)
        leave()
        return record

    async def waiting(record: int) -> int:
        enter()
        while not full.is_set():  # noqa: ASYNC110 - of threading
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        leave()
        return record

    fn = waiting if name == "async" else plain
    ran = run_tasks(range(60), fn, executor=name, max_in_flight=4, order="none")
    assert sorted(ran.ok) == list(range(60))
    assert most == 4


def test_the_input_waits_while_the_table_is_full():
    """A source is not read far beyond what may be in flight."""
    freed, read = threading.Event(), 0

    def records():
        nonlocal read
        for n in range(1000):
            read += 1
            yield n

    def fn(record: int) -> int:
        freed.wait()
        return record

    def slow_end() -> bool:
        freed.set()
        return True

    # While nothing is free, the other source goes on, and sees how far the first one was read.
    flow, out = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource(records(), 10))
    op.output("ok", task("task", s, fn, max_in_flight=20).ok, TestingSink(out))
    seen: list[int] = []
    ticks = [*range(500), Until(slow_end)]
    other = op.input("other", flow, PatientSource(ticks))
    op.output("seen", op.map("look", other, lambda _: read), TestingSink(seen))
    run_main(flow)
    assert out == list(range(1000))
    assert max(seen) < 500


def test_a_sibling_branch_goes_on_while_tasks_wait():
    """It has written all before the first task ends."""
    flow, out, sibling = Dataflow("flow"), [], []
    s = op.input("in", flow, TestingSource(range(200), 10))

    def fn(record: int) -> int:
        while len(sibling) < 200:
            time.sleep(0.001)
        return record

    op.output("ok", task("task", s, fn, executor=ThreadExecutor(threads=2)).ok, TestingSink(out))
    op.output("sibling", op.map("map", s, str), TestingSink(sibling))
    run_main(flow)
    assert out == list(range(200))


def test_two_steps_of_tasks_follow_each_other():
    """What the first gives is what the second gets; both share the event loop."""
    flow, out = Dataflow("flow"), []

    async def more(record: int) -> int:
        await asyncio.sleep(0)
        return record + 1

    s = op.input("in", flow, TestingSource(range(500), 10))
    first = task("first", s, more, max_in_flight=16)
    second = task("second", first.ok, more, max_in_flight=16)
    op.output("ok", second.ok, TestingSink(out))
    run_main(flow)
    assert out == list(range(2, 502))


def test_each_of_two_outputs_may_go_on():
    """Errors are a stream like others: here they are mended and come back in."""
    flow, out = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource(range(20), 10))
    tried = task("task", s, odd_fails)
    mended = op.map("mend", tried.errors, lambda error: -error.record)
    op.output("out", op.merge("merge", tried.ok, mended), TestingSink(out))
    run_main(flow)
    assert sorted(out) == sorted(-n if n % 2 else n for n in range(20))


@pytest.mark.parametrize("order", ["input", "key", "none"])
def test_several_workers_lose_and_double_nothing(order: Any):
    """Each record comes out once; where it is promised, in the order of its key."""
    records = [(str(n % 7), n) for n in range(700)]
    flow, ran = flow_of(records, lambda record: record, order=order, max_in_flight=16)
    cluster_main(flow, [], 0, worker_count_per_proc=3)
    assert Counter(ran.ok) == Counter(records)
    if order == "key":
        assert by_key(ran.ok) == by_key(records)


def test_each_worker_has_executors_of_its_own():
    """Else the worker that ends first would stop the tasks of the others."""
    flow, _ = flow_of([1], doubled)
    sites = _sites(plan(flow, 3), RunOptions(workers=3), None)
    assert len({id(site.executors) for site in sites}) == 3


def test_nothing_is_left_when_a_job_has_ended():
    """Neither threads nor event loops of any of its workers."""
    before = set(threading.enumerate())

    async def fn(record: Any) -> Any:
        return record

    run_tasks([(str(n), n) for n in range(40)], fn, order="key", workers=3)
    run_tasks([(str(n), n) for n in range(40)], str, order="key", workers=3)
    assert set(threading.enumerate()) <= before


def test_order_key_brings_keys_to_all_workers():
    """The ids of tasks begin with the worker that has the key, the same one for each key."""

    def fails(record: Any) -> Any:
        raise ValueError

    records = [(str(n % 20), n) for n in range(100)]
    errors: list[TaskError[Any]] = run_tasks(records, fails, order="key", workers=2).errors
    workers = {(error.record[0], error.task_id.partition("-")[0]) for error in errors}
    assert len(workers) == 20
    assert {worker for _, worker in workers} == {"0", "1"}


def test_the_cause_of_a_failure_in_a_process_has_the_traceback_from_there():
    """One sees the line that raised, though it was another process's."""
    with pytest.raises(EngineRuntimeError) as caught:
        run_tasks([1], odd_fails, executor=executor_of("process"), reads_errors=False)
    remote = root_cause(caught.value)
    assert isinstance(remote, RemoteError)
    assert 'raise ValueError("odd", record)' in remote.traceback_text
