"""The executors of task nodes by themselves, beside `concurrent.futures` and a plain event loop.

The worker is a loop that keeps so many calls under way and sleeps until it is woken. Processes and
threads are started, and have run some calls, before the time begins.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.contenders import BARE_UDF
from benchmarks.feeds import Digest
from benchmarks.workloads._base import Layout, Metric, Outcome
from engine.operators.tasks import (
    AnyExecutor,
    AsyncExecutor,
    Call,
    InlineExecutor,
    Kind,
    ProcessExecutor,
    ThreadExecutor,
)
from engine.runtime.executors import Executors

PROCESSES = 2
THREADS = 32
WARM_UP = 200

RunAll: TypeAlias = Callable[[list[Any]], list[Any]]
"""Runs a function for each argument; its results in the order of these."""
EXECUTORS: dict[str, AnyExecutor] = {
    "engine-inline": InlineExecutor(),
    "engine-async": AsyncExecutor(),
    "engine-thread": ThreadExecutor(THREADS),
    "engine-process": ProcessExecutor(PROCESSES),
}


def add_one(number: int) -> int:
    return number + 1


async def add_one_async(number: int) -> int:
    return number + 1


def add_one_to_all(numbers: list[int]) -> list[int]:
    return [number + 1 for number in numbers]


def compute_5_ms(number: int) -> int:
    until_s = time.perf_counter() + 0.005
    while time.perf_counter() < until_s:
        pass
    return number


async def wait_50_ms(number: int) -> int:
    await asyncio.sleep(0.05)
    return number


@contextmanager
def by_engine(executor: AnyExecutor, fn: Callable[[Any], Any], limit: int) -> Iterator[RunAll]:
    """An executor, with a loop as a worker has it."""
    woken = threading.Event()
    ids = itertools.count()

    def run_all(arguments: list[Any]) -> list[Any]:
        results: dict[int, Any] = {}
        left = iter(arguments)
        under_way = 0
        while len(results) < len(arguments):
            calls = [Call(next(ids), arg) for arg in itertools.islice(left, limit - under_way)]
            if calls:
                running.submit(calls)
                under_way += len(calls)
            ended = running.completions()
            if not ended:
                woken.wait()
                woken.clear()
            for completion in ended:
                assert completion.kind is Kind.RETURNED, completion
                results[completion.call_id] = completion.value
            under_way -= len(ended)
        return [results[call_id] for call_id in sorted(results)]

    executors = Executors(print)
    try:
        running = executors.start(executor, fn, woken.set, "benchmark")
        yield run_all
    finally:
        executors.close(5.0)


@contextmanager
def by_futures(fn: Callable[[Any], Any]) -> Iterator[RunAll]:
    """`concurrent.futures`: all that is to be done submitted, then waited for."""
    pool: Executor
    if fn is add_one:
        pool = ThreadPoolExecutor(THREADS)
    else:
        pool = ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"))

    def run_all(arguments: list[Any]) -> list[Any]:
        futures: list[Future[Any]] = [pool.submit(fn, argument) for argument in arguments]
        return [future.result() for future in futures]

    with pool:
        yield run_all


@contextmanager
def by_loop(fn: Callable[[Any], Any], limit: int) -> Iterator[RunAll]:
    """A loop of asyncio with so many tasks, each of which makes call after call."""

    async def run(arguments: list[Any]) -> list[Any]:
        results: list[Any] = [None] * len(arguments)
        left = iter(enumerate(arguments))

        async def call_on() -> None:
            for place, argument in left:
                results[place] = await fn(argument)

        await asyncio.gather(*(call_on() for _ in range(limit)))
        return results

    yield lambda arguments: asyncio.run(run(arguments))


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one function by several executors."""

    name: str
    title: str
    records: int
    records_quick: int
    functions: dict[str, Callable[[Any], Any]]
    """By contender, the reference first."""
    limit: int = 256
    """So many calls are under way."""
    batch_size: int = 0
    """Records of a call, which takes a list of them; 0 for one record by itself."""

    metrics = (Metric("records_per_s", "1,000 records/s", divisor=1e3, digits=1),)

    @property
    def contenders(self) -> tuple[str, ...]:
        return tuple(self.functions)

    @property
    def layout(self) -> Layout:
        columns = self.contenders
        return Layout(columns, tuple((column, BARE_UDF) for column in columns[1:]))

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        arguments: list[Any] = list(range(records))
        if self.batch_size:
            size = self.batch_size
            arguments = [arguments[at : at + size] for at in range(0, records, size)]
        with self._running(contender) as run_all:
            run_all(arguments[:WARM_UP])
            began_s = time.perf_counter()
            results = run_all(arguments)
            took_s = time.perf_counter() - began_s
        if self.batch_size:
            results = list(itertools.chain.from_iterable(results))
        if not check:
            return Outcome({"records_per_s": records / took_s}, len(results))
        sink = Digest()
        sink.write_batch(results)
        return Outcome({}, len(results), sink.digest)

    def _running(self, contender: str) -> Any:
        fn = self.functions[contender]
        if contender != BARE_UDF:
            return by_engine(EXECUTORS[contender], fn, self.limit)
        if asyncio.iscoroutinefunction(fn):
            return by_loop(fn, self.limit)
        return by_futures(fn)


WORKLOADS = (
    Calls(
        name="executors-tiny",
        title="Tiny calls; bare-udf is a ThreadPoolExecutor",
        records=20_000,
        records_quick=2_000,
        functions={
            BARE_UDF: add_one,
            "engine-inline": add_one,
            "engine-async": add_one_async,
            "engine-thread": add_one,
            "engine-process": add_one,
        },
    ),
    Calls(
        name="executors-batches",
        title="Batches of 100 in 2 processes; bare-udf is a ProcessPoolExecutor",
        records=400_000,
        records_quick=10_000,
        functions={BARE_UDF: add_one_to_all, "engine-process": add_one_to_all},
        batch_size=100,
    ),
    Calls(
        name="executors-cpu",
        title="Calls of 5 ms in 2 processes; bare-udf is a ProcessPoolExecutor",
        records=500,
        records_quick=20,
        functions={BARE_UDF: compute_5_ms, "engine-process": compute_5_ms},
    ),
    Calls(
        name="executors-waiting",
        title="Calls that wait for 50 ms, 2,000 at a time; bare-udf is a loop of asyncio",
        records=20_000,
        records_quick=2_000,
        functions={BARE_UDF: wait_50_ms, "engine-async": wait_50_ms},
        limit=2_000,
    ),
)
