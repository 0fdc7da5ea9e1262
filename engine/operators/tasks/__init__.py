"""Calls that take long, each on its own: `task`, and all that it is told.

>>> from engine.operators.tasks import Retry, task
"""

from engine.errors import RemoteError, WorkerProcessError
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
    "InlineExecutor",
    "Kind",
    "Label",
    "ProcessExecutor",
    "Rate",
    "RemoteError",
    "Resources",
    "Retry",
    "RunningExecutor",
    "TaskContext",
    "TaskError",
    "TaskOut",
    "ThreadExecutor",
    "WorkerProcessError",
    "task",
]
