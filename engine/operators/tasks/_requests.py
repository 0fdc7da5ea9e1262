"""What calls that run ask of their worker, and what it has executors run: words of task graphs.

An executor that runs graphs is given an `Invocation` with each call, and hands on what the calls
ask, in the order in which each of them does. `engine.runtime._task_graph` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from engine.operators.tasks._context import TaskContext
from engine.operators.tasks._resources import Resources

T = TypeVar("T")

DEPTH_MAX = 32
"""So deep may subtasks have subtasks: a root has depth 0."""

Outcome: TypeAlias = tuple[bool, Any]
"""Whether it is a result, and that; or the exception."""
Reply: TypeAlias = Callable[[list[Outcome] | None], None]
"""Takes what a call has waited for, in order, or just the failure that ends its waiting; None if
the call itself is not wanted any more. Called on the worker's thread."""


@dataclass(frozen=True, slots=True)
class ObjectRef(Generic[T]):
    """A large result of a subtask, which stays in memory that the processes of its host share.

    It is not copied on its way to other subtasks. When nobody can ask for it any more it is freed;
    if it is gone before that, its task is run again.
    """

    name: str
    """Of the file that it is in."""
    sizes_bytes: tuple[int, ...]
    """Of its pickle, and of the buffers that lie apart from that."""


class Pickled(NamedTuple):
    """A result as it goes from process to process: the worker doesn't look into it."""

    data: bytes


class Work(NamedTuple):
    """What to call for a subtask. What it says of function and arguments is the executor's."""

    function: Any
    arguments: Any
    takes_context: bool
    """Whether it may have subtasks."""
    needs: tuple[int, ...]
    """Numbers of the subtasks of the same call whose results are among its arguments."""
    resources: Resources | None = None
    """What it takes while it runs."""


class Invocation(NamedTuple):
    """One try of a call of a graph: what an executor that runs graphs gets as `Call.argument`."""

    call_id: int
    depth: int
    work: Work | None
    """None for a root, which calls the step's function."""
    argument: Any
    """The record, or list of records, of a root."""
    context: TaskContext | None
    """None if the function takes none."""
    results: Mapping[int, Any]
    """What has come of those that the work needs."""


class Submitted(NamedTuple):
    """A call has a subtask."""

    call_id: int
    number: int
    work: Work


class Waits(NamedTuple):
    """A call waits for subtasks of its own."""

    call_id: int
    wait: int
    """Which of its waits it is: an `async def` may have several at a time."""
    numbers: tuple[int, ...]
    takes_failures: bool
    """Whether it waits for all of them though one fails."""
    reply: Reply


class GivesUp(NamedTuple):
    """A call doesn't wait any more, as something else has ended that."""

    call_id: int
    wait: int


class Misses(NamedTuple):
    """Results that a call has got aren't where they should be: it will wait for them again."""

    call_id: int
    lost: tuple[tuple[int, str], ...]
    """Numbers of subtasks, and the names of the objects."""


class Drops(NamedTuple):
    """A call has no use for results of its subtasks any more."""

    call_id: int
    numbers: tuple[int, ...]


Request: TypeAlias = Submitted | Waits | GivesUp | Misses | Drops


@dataclass(frozen=True, slots=True)
class Lost:
    """What a call returns in place of a result when objects that it needs aren't there any more."""

    objects: tuple[tuple[int, str], ...]
    """Numbers of subtasks, and the names of the objects."""
