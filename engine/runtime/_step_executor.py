"""What the calls of a step with tasks go through on one worker, from its table to its executor."""

from __future__ import annotations

from collections.abc import Callable

from engine.operators.tasks._executor import RunningExecutor
from engine.operators.tasks._task import TaskKernel
from engine.runtime._graph_rules import GivesBack, graph_rules
from engine.runtime._ledger import Account, Ledger
from engine.runtime._lending import Lending
from engine.runtime._lent_step import LentStep, RunsAccount
from engine.runtime._task_graph import TaskGraphs


def step_executor(
    step_id: str,
    kernel: TaskKernel,
    executor: RunningExecutor,
    ledger: Ledger,
    lending: Lending | None,
    now_s: Callable[[], float],
) -> tuple[RunningExecutor, Account | None]:
    """What the table of a step hands its calls to, and what it takes their resources by.

    Args:
        step_id: Its id.
        kernel: What the user said.
        executor: Runs calls here.
        ledger: Of the worker.
        lending: Of the worker; None if it lends nothing.
        now_s: A clock that never goes back.

    Returns:
        The account is None where resources are taken by whoever finds the call a place.
    """
    if lending is None or kernel.rules.placement == "worker":
        account = ledger.account()
        return _with_graphs(kernel, executor, ledger, account, now_s), account
    # Calls of other workers run here, too, with subtasks if they have any.
    runs = RunsAccount()
    behind = _with_graphs(kernel, executor, ledger, runs, now_s)
    runs.step = LentStep(step_id, kernel, behind, lending)
    return runs.step, None


def _with_graphs(
    kernel: TaskKernel,
    executor: RunningExecutor,
    ledger: Ledger,
    roots: GivesBack,
    now_s: Callable[[], float],
) -> RunningExecutor:
    if not executor.runs_graphs:
        return executor
    return TaskGraphs(executor, graph_rules(kernel.rules, ledger, roots), now_s)
