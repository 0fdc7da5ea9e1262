"""Calls that take long, each on its own: `task`, and all that it is told.

>>> from engine.operators.tasks import Retry, task
"""

from engine.errors import RemoteError, SubtaskCancelledError, WorkerProcessError
from engine.operators.tasks._context import TaskContext
from engine.operators.tasks._executor import (
    AnyExecutor,
    AsyncExecutor,
    Call,
    Completion,
    Executor,
    InlineExecutor,
    Kind,
    ProcessExecutor,
    RunningExecutor,
    ThreadExecutor,
)
from engine.operators.tasks._futures import Gathered, TaskFuture
from engine.operators.tasks._policies import Batching, Exponential, Rate, Retry
from engine.operators.tasks._resources import Label, Resources
from engine.operators.tasks._task import TaskError, TaskOut, task

__all__ = [
    "AnyExecutor",
    "AsyncExecutor",
    "Batching",
    "Call",
    "Completion",
    "Executor",
    "Exponential",
    "Gathered",
    "InlineExecutor",
    "Kind",
    "Label",
    "ProcessExecutor",
    "Rate",
    "RemoteError",
    "Resources",
    "Retry",
    "RunningExecutor",
    "SubtaskCancelledError",
    "TaskContext",
    "TaskError",
    "TaskFuture",
    "TaskOut",
    "ThreadExecutor",
    "WorkerProcessError",
    "task",
]
