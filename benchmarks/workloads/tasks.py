"""Step `task` end to end in a dataflow, beside `concurrent.futures` and asyncio by hand.

The start of threads and processes is part of the time on both sides. By hand, all records are
submitted at once, and only as many async calls are let in as the step lets in. Nothing is saved.

Where calls go to processes one by one, Ray and Dask make them too. Their start takes seconds, and
is not part of their time.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

from benchmarks.contenders import BARE_UDF, DASK, RAY, load_engine
from benchmarks.feeds import Count, Digest, Stopwatch, split
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc
from benchmarks.workloads._throughput import time_flow, time_loop
from engine.operators.tasks import AnyExecutor, Batching, ProcessExecutor, ThreadExecutor, task

PROCESSES, THREADS = 2, 32
FEED = 1000
SPIN_S, WAIT_S = 0.005, 0.05


def tiny(number: int) -> int:
    return number + 1


def tiny_of_all(numbers: list[int]) -> list[int]:
    return [number + 1 for number in numbers]


async def tiny_async(number: int) -> int:
    return number + 1


async def waiting(number: int) -> int:
    await asyncio.sleep(WAIT_S)
    return number


def spinning(number: int) -> int:
    until_s = time.perf_counter() + SPIN_S
    while time.perf_counter() < until_s:
        pass
    return number


def _by_ray(fn: Callable[[int], int], numbers: list[int]) -> tuple[list[int], float]:
    """By Ray: the results, and how long it took once its processes ran."""
    ray: Any = importlib.import_module("ray")
    ray.init(num_cpus=PROCESSES, log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(fn)
        ray.get([remote.remote(0) for _ in range(2 * PROCESSES)])
        stopwatch = Stopwatch()
        stopwatch.start()
        results: list[int] = ray.get([remote.remote(number) for number in numbers])
        return results, stopwatch.elapsed_s()
    finally:
        ray.shutdown()


def _by_dask(fn: Callable[[int], int], numbers: list[int]) -> tuple[list[int], float]:
    """By Dask, as above."""
    dask: Any = importlib.import_module("distributed")
    cluster = dask.LocalCluster(PROCESSES, threads_per_worker=1, dashboard_address=None)
    with cluster, dask.Client(cluster) as client:
        client.gather(client.map(fn, range(2 * PROCESSES), pure=False))
        stopwatch = Stopwatch()
        stopwatch.start()
        results: list[int] = client.gather(client.map(fn, numbers, pure=False))
        return results, stopwatch.elapsed_s()


_PEERS = {RAY: _by_ray, DASK: _by_dask}


def _pool(executor: ProcessExecutor | ThreadExecutor) -> Executor:
    if isinstance(executor, ThreadExecutor):
        return ThreadPoolExecutor(THREADS)
    return ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"))


@dataclass(frozen=True, slots=True)
class Tasks:
    """One function on one executor."""

    name: str
    title: str
    records: int
    records_quick: int
    fn: Callable[[Any], Any]
    executor: AnyExecutor | None
    params: dict[str, Any] = field(default_factory=dict[str, Any])

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "1,000 records/s", divisor=1e3, digits=1),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, "engine", RAY, DASK),
        (("engine", BARE_UDF), ("engine", RAY), ("engine", DASK)),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        one_by_one = isinstance(self.executor, ProcessExecutor) and "batch" not in self.params
        return (BARE_UDF, "engine", *(_PEERS if one_by_one else ()))

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        feeds = [split(list(range(records)), FEED)]
        sink_class = Digest if check else Count
        with inputs_out_of_gc():
            if contender == BARE_UDF:
                sink, seconds = time_loop(self._by_hand, feeds, sink_class)
            elif contender in _PEERS:
                sink = sink_class()
                results, seconds = _PEERS[contender](self.fn, list(range(records)))
                sink.write_batch(results)
            else:
                sink, seconds = time_flow(load_engine(contender), self._graph, feeds, sink_class)
        digest = sink.digest if isinstance(sink, Digest) else None
        return Outcome({"records_per_s": records / seconds}, sink.records, digest)

    def _graph(self, _op: Any, stream: Any) -> Any:
        return task("task", stream, self.fn, executor=self.executor, **self.params).ok

    def _by_hand(self, emit: Callable[[list[Any]], None], feed: list[list[Any]]) -> None:
        numbers = [number for batch in feed for number in batch]
        if not isinstance(self.executor, ProcessExecutor | ThreadExecutor):
            emit(asyncio.run(self._gathered(numbers)))
            return
        batch: Batching | None = self.params.get("batch")
        calls = numbers if batch is None else split(numbers, batch.size)
        with _pool(self.executor) as pool:
            results = list(pool.map(self.fn, calls))
        emit(results if batch is None else [result for found in results for result in found])

    async def _gathered(self, numbers: list[int]) -> list[int]:
        room = asyncio.Semaphore(self.params.get("max_in_flight", len(numbers)))

        async def called(number: int) -> int:
            async with room:
                result: int = await self.fn(number)
                return result

        return list(await asyncio.gather(*map(called, numbers)))


_TWO = ProcessExecutor(processes=PROCESSES)
WORKLOADS = (
    Tasks("tasks-async", "Tiny tasks, event loop", 20_000, 2_000, tiny_async, None),
    Tasks(
        "tasks-thread", "Tiny tasks, threads", 20_000, 2_000, tiny, ThreadExecutor(threads=THREADS)
    ),
    Tasks("tasks-process", "Tiny tasks, processes", 20_000, 2_000, tiny, _TWO),
    Tasks(
        *("tasks-process-batch", "Tiny tasks in lists of 100, processes", 400_000, 2_000),
        *(tiny_of_all, _TWO, {"batch": Batching(size=100)}),
    ),
    Tasks("tasks-cpu", "Tasks of 5 ms, two processes", 500, 50, spinning, _TWO),
    Tasks(
        *("tasks-waiting", "Async tasks of 50 ms, 2,000 at once", 20_000, 2_000),
        *(waiting, None, {"max_in_flight": 2_000}),
    ),
)
