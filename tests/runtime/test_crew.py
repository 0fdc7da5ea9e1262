"""Several workers in threads of one process give what one worker gives, and fail as one."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import (
    AbortExecution,
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.recovery import RecoveryConfig
from engine.runtime import Drain, RunOptions, SystemWaiter, _leader, run_flow
from engine.testing import TestingSink, TestingSource, cluster_main

KEYS, RECORDS = 10, 2000


class Part(StatefulSourcePartition[int, int]):
    """Counts up from where it was, on the thread that opened it."""

    def __init__(self, at: int | None, crash_at: int | None) -> None:
        self._at = at or 0
        self._crash_at = crash_at
        self._thread = threading.get_ident()

    def next_batch(self) -> list[int]:
        assert threading.get_ident() == self._thread
        if self._at == self._crash_at:
            raise OSError("the disk is gone")
        if self._at >= RECORDS:
            raise StopIteration
        self._at += 10
        return list(range(self._at - 10, self._at))

    def snapshot(self) -> int:
        return self._at

    def close(self) -> None:
        assert threading.get_ident() == self._thread


class Parts(FixedPartitionedSource[int, int]):
    """Some of them."""

    def __init__(self, count: int, crash_at: int | None = None) -> None:
        self._count = count
        self._crash_at = crash_at

    def list_parts(self) -> list[str]:
        return [f"part-{i}" for i in range(self._count)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
        return Part(resume_state, self._crash_at if for_part == "part-1" else None)


def numbered(out: list[Any], source: Any) -> Dataflow:
    """Numbers the records of each key."""
    flow = Dataflow("flow")
    keyed = op.key_on("key", op.input("in", flow, source), lambda x: str(x % KEYS))
    counts = op.stateful_map("count", keyed, lambda n, _: ((n or 0) + 1, (n or 0) + 1))
    op.output("out", counts, TestingSink(out))
    return flow


def run(flow: Dataflow, workers: int, store: Path | None = None) -> None:
    config = None if store is None else RecoveryConfig(store, create=True)
    interval = timedelta(milliseconds=5)
    cluster_main(
        *(flow, [], 0),
        epoch_interval=interval,
        recovery_config=config,
        worker_count_per_proc=workers,
    )


def check(out: list[Any], parts: int) -> None:
    """Each record of each key has been counted once, in order."""
    by_key = defaultdict(list)
    for key, number in out:
        by_key[key].append(number)
    each = parts * RECORDS // KEYS
    assert by_key == {str(key): list(range(1, each + 1)) for key in range(KEYS)}


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_any_number_of_workers_gives_the_same(workers: int, tmp_path: Path):
    """With a store and without one; also with more workers than partitions."""
    for store in (None, tmp_path / "store"):
        out: list[Any] = []
        run(numbered(out, Parts(4)), workers, store)
        check(out, 4)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 3), (3, 1), (1, 4)])
def test_a_run_goes_on_with_any_number_of_workers(before: int, after: int, tmp_path: Path):
    """State and positions are those of the last epoch."""
    out: list[Any] = []
    with pytest.raises(EngineRuntimeError, match="the disk is gone"):
        run(numbered(out, Parts(4, crash_at=1000)), before, tmp_path)
    first = max((n for _, n in out), default=0)
    out.clear()
    run(numbered(out, Parts(4)), after, tmp_path)
    by_key = defaultdict(list)
    for key, number in out:
        by_key[key].append(number)
    each = 4 * RECORDS // KEYS
    for numbers in by_key.values():
        assert numbers == list(range(numbers[0], each + 1))
        assert numbers[0] <= first + 1


def test_an_error_of_one_worker_ends_all_and_says_where():
    """As with one worker: step, key and record."""
    flow = Dataflow("flow")
    keyed = op.key_on("key", op.input("in", flow, TestingSource(range(100))), str)
    op.output("out", op.map_value("bad", keyed, lambda x: 1 // (x - 7)), TestingSink([]))
    with pytest.raises(EngineRuntimeError) as caught:
        run(flow, 3)
    assert caught.value.step_id == "flow.bad.flat_map_batch" or "flow.bad" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Idle(DynamicSource[int]):
    """Workers that wait for ever, but for one."""

    def __init__(self, raised: type[BaseException] | None) -> None:
        self._raised = raised

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Any:
        return IdlePart(self._raised if worker_index == 1 else None)


class IdlePart(StatelessSourcePartition[int]):
    def __init__(self, raised: type[BaseException] | None) -> None:
        self._raised = raised

    def next_batch(self) -> list[int]:
        if self._raised is not None:
            raise self._raised
        return []


def test_a_worker_that_aborts_ends_all_without_an_error():
    """As the connector's contract says."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, Idle(AbortExecution)), TestingSink([]))
    run(flow, 3)


def test_a_worker_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch):
    """When another one has failed, the run ends all the same."""
    monkeypatch.setattr(_leader, "_LEAVING_S", 0.2)
    stuck, release = threading.Event(), threading.Event()

    def stand_or_fall(x: int) -> int:
        if x == 1:
            stuck.set()
            release.wait(60)
        if x == 2:
            assert stuck.wait(60)
        return 1 // (x - 2)

    flow = Dataflow("flow")
    spread = op.redistribute("spread", op.input("in", flow, TestingSource([3, 2, 1])))
    op.output("out", op.map("map", spread, stand_or_fall), TestingSink([]))
    with pytest.raises(EngineRuntimeError) as caught:
        run(flow, 3)
    release.set()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_drain_stops_all_workers(tmp_path: Path):
    """With a last epoch, from which the next run goes on."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, Idle(None)), TestingSink([]))
    drain, waiter = Drain(), SystemWaiter()

    def request() -> None:
        drain.requested = True
        waiter.wake()

    timer = threading.Timer(0.2, request)
    timer.start()
    recovery = RecoveryConfig(tmp_path, create=True)
    run_flow(flow, RunOptions(workers=2, drain=drain, waiter=waiter, recovery=recovery))
    timer.join()


def test_a_number_of_workers_is_at_least_one():
    """It is said which argument it was."""
    with pytest.raises(ValueError, match="worker_count_per_proc must be at least 1; got 0"):
        run(numbered([], Parts(1)), 0)
