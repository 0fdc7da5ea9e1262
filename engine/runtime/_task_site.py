"""What a worker needs for steps with tasks: executors, a table for each, and a key of its own."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from engine.errors import UserCodeError
from engine.operators._shown import shown
from engine.operators.tasks._executor import AnyExecutor, ProcessExecutor, RunningExecutor
from engine.operators.tasks._policies import Rate, TaskRules
from engine.operators.tasks._task import TaskKernel
from engine.runtime._batch import KeyOwners
from engine.runtime._failure import name_of
from engine.runtime._graph_rules import GraphRules
from engine.runtime._ids import WorkerIndex
from engine.runtime._ledger import Account, Ledger
from engine.runtime._lending import Lending
from engine.runtime._lent_step import LentStep
from engine.runtime._ports import Clock, log
from engine.runtime._store import Store
from engine.runtime._task_graph import TaskGraphs
from engine.runtime._task_table import TaskTable


def home_of(worker: WorkerIndex, workers: int) -> str:
    """A key that a worker owns, of so many."""
    owner = KeyOwners(workers)
    names = (f"worker-{number}" for number in itertools.count())
    return next(name for name in names if owner((name, None)) == worker)


class Surroundings(Protocol):
    """What a step with tasks finds on its worker (`engine.runtime._build.WorkerSite`)."""

    @property
    def index(self) -> WorkerIndex:
        """The worker's number."""
        ...

    @property
    def count(self) -> int:
        """How many workers there are."""
        ...

    @property
    def chance(self) -> Callable[[], float]:
        """Gives random numbers from 0 to 1."""
        ...

    @property
    def store(self) -> Store | None:
        """Where tasks are saved; None if they aren't."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What tasks take resources of."""
        ...

    @property
    def lending(self) -> Lending | None:
        """The way to other workers; None if no calls go there."""
        ...

    @property
    def clock(self) -> Clock:
        """Tells the time."""
        ...

    @property
    def executors(self) -> StartsExecutors:
        """Starts what runs tasks."""
        ...

    @property
    def wake(self) -> Callable[[], None]:
        """Ends the wait of whoever drives the worker."""
        ...


def table_and_executor(
    kernel: TaskKernel, step_id: str, site: Surroundings
) -> tuple[TaskTable, RunningExecutor]:
    """The table of a step with tasks on one worker, and what runs its calls."""
    account = site.ledger.account()
    started = site.executors.start(kernel.executor, kernel.function, site.wake, step_id)
    resources, now_s = (site.ledger, account), site.clock.monotonic_s
    executor = _with_subtasks(started, kernel.rules, resources, now_s)
    if site.lending is None or kernel.rules.placement == "worker":
        return _table(kernel, step_id, site, account), executor
    # It takes what calls need where they run, and there their subtasks run too.
    executor = LentStep(step_id, kernel, executor, site.lending, account)
    return _table(kernel, step_id, site, None), executor


def _with_subtasks(
    executor: RunningExecutor,
    rules: TaskRules,
    resources: tuple[Ledger, Account],
    now_s: Callable[[], float],
) -> RunningExecutor:
    """The executor of a step, whose tasks may have subtasks if it can run those."""
    if not executor.runs_graphs:
        return executor
    ledger, roots = resources
    counts, own = (rules.max_in_flight, rules.retry.deaths), (ledger.account(), ledger.offer)
    bounds = GraphRules(*counts, *own, roots, rules.resources, rules.timeout_s)
    return TaskGraphs(executor, bounds, now_s)


def _table(
    kernel: TaskKernel, step_id: str, site: Surroundings, account: Account | None
) -> TaskTable:
    rules, store, watch = kernel.rules, site.store, None
    again = store is not None or rules.retry.attempts > 1
    encode = _encoded if again else None
    if store is not None and not isinstance(kernel.executor, ProcessExecutor):
        records = rules.max_in_flight * (1 if rules.batch is None else rules.batch.size)
        watch = store.call_watch(step_id, records, rules.retry.deaths)
    if rules.rate is not None:
        rules = replace(rules, rate=Rate(rules.rate.count / site.count, rules.rate.per))
    name = str(site.index)
    return TaskTable(rules, name, site.chance, encode=encode, account=account, watch=watch)


def _encoded(record: Any) -> bytes:
    try:
        return pickle.dumps(record, 5)
    except Exception as ex:
        msg = (
            "a record that may be needed again, because tasks are saved or tried again, must be "
            f"one that can be pickled; {shown(record)} isn't: {name_of(ex)}"
        )
        raise UserCodeError(msg) from ex


class StartsExecutors(Protocol):
    """Starts what runs tasks, for one worker, and stops all of it."""

    def start(
        self,
        executor: AnyExecutor,
        fn: Callable[[Any], Any],
        wake: Callable[[], None],
        step_id: str,
    ) -> RunningExecutor:
        """As in `engine.operators.tasks.Executor`."""
        ...

    def close(self, timeout_s: float) -> list[str]:
        """Stop all of them; gives in words what could not be stopped in that time."""
        ...


class RealExecutors:
    """Starts executors, once there is a step that needs one: most flows have none.

    Args:
        tell: Takes lines about them that people may want to read; on any thread.
    """

    def __init__(self, tell: Callable[[str], None] = log) -> None:
        self._tell = tell
        self._executors: StartsExecutors | None = None

    def start(
        self,
        executor: AnyExecutor,
        fn: Callable[[Any], Any],
        wake: Callable[[], None],
        step_id: str,
    ) -> RunningExecutor:
        """As in `StartsExecutors`."""
        if self._executors is None:
            # Loads asyncio and multiprocessing.
            from engine.runtime.executors import Executors  # noqa: PLC0415

            self._executors = Executors(self._tell)
        return self._executors.start(executor, fn, wake, step_id)

    def close(self, timeout_s: float) -> list[str]:
        """As in `StartsExecutors`."""
        return [] if self._executors is None else self._executors.close(timeout_s)
