"""Tasks and the recovery store: what is done again after a crash, and what isn't."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.tasks import Batching, Exponential, Retry, TaskContext, TaskError, task
from engine.recovery import RecoveryConfig
from engine.testing import TestingSink, TestingSource, cluster_main, run_main
from tests.operators.tasks.task_flows import MS, Abort, PatientSource, Until

EACH_BATCH = timedelta(0)
HOUR = timedelta(hours=1)


def flow_to_file(
    source: Any, fn: Callable[..., Any], folder: Path, **params: Any
) -> tuple[Dataflow, Path]:
    """A flow whose results go to a file exactly once, as do its records, apart from tasks."""
    flow = Dataflow("flow")
    s = op.input("in", flow, source)
    out = task("task", s, fn, **params)
    op.output("ok", op.map("text", out.ok, _line), FileSink(folder / "ok.txt"))
    if params.get("on_error") is None:
        failed = op.map(
            "failed", out.errors, lambda e: ("", f"{e.record} {e.attempts} {e.task_id}")
        )
        op.output("errors", failed, FileSink(folder / "errors.txt"))
    op.output("seen", op.map("sight", s, _line), FileSink(folder / "seen.txt"))
    return flow, folder


def _line(record: Any) -> tuple[str, str]:
    return "", str(record)


def _error_line(error: TaskError[Any]) -> tuple[str, str]:
    return "", f"{error.record} {error.attempts} {error.task_id}"


def lines(path: Path) -> list[str]:
    """What has been committed to a file."""
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def config(tmp_path: Path) -> RecoveryConfig:
    return RecoveryConfig(tmp_path / "store", create=True)


def committed(folder: Path, record: Any) -> Until:
    """Until the epoch with a record is durable."""
    return Until(lambda: str(record) in lines(folder / "seen.txt"))


class Counted:
    """Counts calls; those with some records wait, as long as they may."""

    def __init__(self, *held: Any) -> None:
        self.calls: Counter[Any] = Counter()
        self.ended: set[Any] = set()
        self.held = set(held)
        self.freed = threading.Event()

    def __call__(self, record: Any) -> Any:
        self.calls[record] += 1
        if record in self.held:
            self.freed.wait()
        self.ended.add(record)
        return record


def crash(flow: Dataflow, config: RecoveryConfig, fn: Counted) -> None:
    """The first run, which ends at an `Abort`, and then lets calls go that it left behind."""
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    fn.held.clear()
    fn.freed.set()


@pytest.mark.parametrize("order", ["input", "none"])
def test_what_was_under_way_is_called_again_and_what_had_ended_is_not(
    order: Any, config: RecoveryConfig, tmp_path: Path
):
    """Results that were saved are neither made nor emitted twice, whichever way they waited."""
    fn = Counted(2)
    later = [committed(tmp_path, 7), Abort()]
    ended = Until(lambda: fn.ended == {0, 1, 3, 4})
    source = PatientSource([0, 1, 2, 3, 4, ended, 5, committed(tmp_path, 5), 6, 7, *later, 8])
    flow, _ = flow_to_file(source, fn, tmp_path, order=order)
    crash(flow, config, fn)
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    out = lines(tmp_path / "ok.txt")
    if order == "input":
        assert out == [str(n) for n in range(9)]
    assert sorted(out) == [str(n) for n in range(9)]
    assert fn.calls[2] == 2
    assert [fn.calls[n] for n in (0, 1, 3, 4)] == [1] * 4


def test_attempts_are_kept_over_a_crash(config: RecoveryConfig, tmp_path: Path):
    """Two tries before it and one behind it are three, and its id is the same."""
    tries: list[int] = []

    def fails(record: int) -> int:
        if record == 1:
            tries.append(record)
            raise OSError
        return record

    # The second wait is so long that the crash comes in it.
    retry = Retry(attempts=3, backoff=Exponential(MS, factor=1e7, longest=HOUR, jitter=0))
    tried = Until(lambda: len(tries) == 2)
    ends = [tried, 2, committed(tmp_path, 2), 3, committed(tmp_path, 3), Abort(), 4]
    flow, _ = flow_to_file(PatientSource([0, 1, *ends]), fails, tmp_path, retry=retry)
    for _ in range(2):
        run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert lines(tmp_path / "errors.txt") == ["1 3 0-1"]
    assert len(tries) == 3
    assert lines(tmp_path / "ok.txt") == ["0", "2", "3", "4"]


def test_a_try_that_a_crash_cut_short_is_not_counted_twice(config: RecoveryConfig, tmp_path: Path):
    """It is made again, and is still the first one."""
    fn = Counted(1)

    def fails(record: int) -> int:
        fn(record)
        if record == 1:
            raise ValueError
        return record

    ends = [Until(lambda: fn.calls[1]), 2, committed(tmp_path, 2), 3, committed(tmp_path, 3)]
    flow, _ = flow_to_file(PatientSource([0, 1, *ends, Abort()]), fails, tmp_path)
    crash(flow, config, fn)
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert lines(tmp_path / "errors.txt") == ["1 1 0-1"]
    assert fn.calls[1] == 2


def test_ids_go_on_behind_those_that_were_saved(config: RecoveryConfig, tmp_path: Path):
    """No two records of committed epochs have the same id."""

    def fails(record: int) -> int:
        raise ValueError

    ends = [committed(tmp_path, 2), Abort(), 3, 4]
    flow, _ = flow_to_file(PatientSource([0, 1, 2, *ends]), fails, tmp_path)
    for _ in range(2):
        run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert lines(tmp_path / "errors.txt") == [f"{n} 1 0-{n}" for n in range(5)]


def test_lists_that_were_gathering_are_there_after_a_crash(config: RecoveryConfig, tmp_path: Path):
    """Their records are done once, with those that come later."""
    called: list[list[int]] = []

    def fn(records: list[int]) -> list[int]:
        called.append(records)
        return records

    source = PatientSource([0, 1, 2, committed(tmp_path, 2), Abort(), 3, 4])
    flow, _ = flow_to_file(source, fn, tmp_path, batch=Batching(4, HOUR))
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert called == []
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert called == [[0, 1, 2, 3], [4]]
    assert lines(tmp_path / "ok.txt") == [str(n) for n in range(5)]


def test_each_call_after_a_crash_gets_the_record_as_it_came(config: RecoveryConfig, tmp_path: Path):
    """What the call of the run that died has done to it isn't saved."""
    seen: list[list[int]] = []
    freed = threading.Event()

    def spoils(record: list[int]) -> int:
        seen.append(list(record))
        record.append(9)
        if len(seen) == 1:
            freed.wait()
        return len(record)

    source = PatientSource([[1], Until(lambda: seen), [2], committed(tmp_path, [2]), Abort()])
    flow, _ = flow_to_file(source, spoils, tmp_path)
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    freed.set()
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert [record for record in seen if record[0] == 1] == [[1], [1]]
    assert lines(tmp_path / "ok.txt") == ["2", "2"]


def test_after_commit_no_call_is_made_before_its_epoch_is_durable(
    config: RecoveryConfig, tmp_path: Path
):
    """A run that ends before the first commit has called nothing; the next one calls each once."""
    fn = Counted()
    looks = 0

    def for_a_while() -> bool:
        nonlocal looks
        looks += 1
        return looks > 50

    source = PatientSource([0, 1, Until(for_a_while), Abort(), 2])
    flow, _ = flow_to_file(source, fn, tmp_path, submit="after_commit")
    run_main(flow, recovery_config=config, epoch_interval=HOUR)
    assert fn.calls == {}
    run_main(flow, recovery_config=config, epoch_interval=HOUR)
    assert fn.calls == {0: 1, 1: 1, 2: 1}
    assert lines(tmp_path / "ok.txt") == ["0", "1", "2"]


def test_after_commit_calls_go_on_while_the_input_does(config: RecoveryConfig, tmp_path: Path):
    """They begin when the epoch is durable, and not just at the end."""
    fn = Counted()
    source = PatientSource([0, 1, Until(lambda: fn.ended == {0, 1}), 2])
    flow, _ = flow_to_file(source, fn, tmp_path, submit="after_commit")
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert lines(tmp_path / "ok.txt") == ["0", "1", "2"]


def test_after_commit_without_a_store_still_ends():
    """At once: there an epoch is as durable as it will be when it is closed."""
    flow, out = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource(range(5)))
    op.output("ok", task("task", s, str, submit="after_commit").ok, TestingSink(out))
    run_main(flow, epoch_interval=HOUR)
    assert out == list("01234")


def test_a_record_that_cannot_be_saved_is_told_by_its_step(config: RecoveryConfig, tmp_path: Path):
    """As it comes in, for each epoch would have to save it."""
    source = PatientSource([threading.Lock()])
    flow, _ = flow_to_file(source, str, tmp_path)
    with pytest.raises(Exception, match="step 'flow.task'"):
        run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)


class HalfSendableError(Exception):
    """Can be pickled, but not read again: it takes two arguments, and keeps one."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)


def gives_lock(_record: int) -> Any:
    return threading.Lock()


def raises_half_sendable(record: int) -> Any:
    raise HalfSendableError(f"of {record}", 7)


@pytest.mark.parametrize("outcome", [gives_lock, raises_half_sendable])
def test_what_came_of_a_task_and_cannot_be_saved_is_made_again(
    outcome: Any, config: RecoveryConfig, tmp_path: Path
):
    """It waits for the task before it as the run dies; the next run makes the same call again."""
    fn = Counted(0)

    def called(record: int) -> Any:
        fn(record)
        return outcome(record) if record == 1 else record

    ends = [Until(lambda: 1 in fn.ended), 2, committed(tmp_path, 2), 3, committed(tmp_path, 3)]
    flow, _ = flow_to_file(PatientSource([0, 1, *ends, Abort()]), called, tmp_path)
    crash(flow, config, fn)
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert (fn.calls[0], fn.calls[1]) == (2, 2)
    came = [*lines(tmp_path / "ok.txt"), *lines(tmp_path / "errors.txt")]
    assert len(came) == 4


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 4)])
@pytest.mark.parametrize("order", ["input", "key", "none"])
def test_other_numbers_of_workers_take_the_tasks_over(
    before: int, after: int, order: Any, config: RecoveryConfig, tmp_path: Path
):
    """What one number of workers left unfinished is finished by another, once."""
    records = [(str(n % 5), n) for n in range(20)]
    fn = Counted(*records[3:9])
    source = PatientSource([*records, committed(tmp_path, records[-1]), Abort(), ("0", 20)])
    flow, _ = flow_to_file(source, fn, tmp_path, order=order)
    run = {"recovery_config": config, "epoch_interval": EACH_BATCH}
    cluster_main(flow, [], 0, worker_count_per_proc=before, **run)
    fn.held.clear()
    fn.freed.set()
    cluster_main(flow, [], 0, worker_count_per_proc=after, **run)
    assert sorted(lines(tmp_path / "ok.txt")) == sorted(map(str, [*records, ("0", 20)]))
    assert [fn.calls[record] for record in records[3:9]] == [2] * 6


def test_a_task_keeps_its_id_over_a_crash_where_calls_come_after_the_commit(
    config: RecoveryConfig, tmp_path: Path
):
    """So the id can be the key by which a service knows a call again."""
    keys: dict[int, list[str]] = {n: [] for n in range(4)}
    freed = threading.Event()

    def charge(order: int, ctx: TaskContext) -> int:
        keys[order].append(ctx.idempotency_key)
        if order < 2:
            freed.wait()
        return order

    ends = [Until(lambda: keys[1]), 2, committed(tmp_path, 2), Abort(), 3]
    flow, _ = flow_to_file(PatientSource([0, 1, *ends]), charge, tmp_path, submit="after_commit")
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    freed.set()
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert len(keys[0]) == len(keys[1]) == 2
    assert [set(found) for found in keys.values()] == [{f"0-{n}"} for n in range(4)]
    assert lines(tmp_path / "ok.txt") == ["0", "1", "2", "3"]


def test_a_task_that_failed_is_tried_again_by_the_next_run_where_failures_end_it(
    config: RecoveryConfig, tmp_path: Path
):
    """Though an epoch has saved that it failed, as it waited for the task before it."""
    fn = Counted(0)
    mended = False

    def fails(record: int) -> int:
        fn(record)
        if record == 1 and not mended:
            raise ValueError
        return record

    ends = [Until(lambda: 1 in fn.ended), 2, committed(tmp_path, 2), 3, committed(tmp_path, 3)]
    flow, _ = flow_to_file(PatientSource([0, 1, *ends, Abort()]), fails, tmp_path, on_error="fail")
    crash(flow, config, fn)
    mended = True
    run_main(flow, recovery_config=config, epoch_interval=EACH_BATCH)
    assert fn.calls[1] == 2
    assert lines(tmp_path / "ok.txt") == ["0", "1", "2", "3"]
