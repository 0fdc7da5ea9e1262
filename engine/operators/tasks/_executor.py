"""Where the function of a task node runs: what a user names, and the contract behind it.

A task node hands its calls to a `RunningExecutor` and takes their `Completion`s back, all on the
thread of its worker. Everything else is the executor's business: threads, an event loop, processes.
Deadlines, retries, order and budgets are the node's: an executor tries each call once.

The engine's own executors are only named here. `engine.runtime.executors` runs them.
"""

from __future__ import annotations

import enum
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from engine.dataflow._callable_name import f_repr
from engine.operators.tasks._context import NAME, takes_context
from engine.operators.tasks._shipping import shipped

if TYPE_CHECKING:
    from engine.operators.tasks._requests import Request

THREADS_DEFAULT = 32
ABANDONED_DEFAULT = 32


class Call(NamedTuple):
    """One try of one task."""

    call_id: int
    """Used once in the life of a running executor; not negative."""
    argument: Any
    """The record, or the list of records of a batch. The executor hands on what it is given: who
    changes it later, changes it for the call."""


class Kind(enum.Enum):
    """How a call ended."""

    RETURNED = "returned"
    RAISED = "raised"
    DIED = "died"
    """The process that ran it died of it, or with it."""


class Completion(NamedTuple):
    """The end of one try."""

    call_id: int
    kind: Kind
    value: Any
    """What was returned, or the exception; a `WorkerProcessError` if the process died."""


class RunningExecutor(ABC):
    """Runs the calls of one task node on one worker.

    All methods are called on the thread of that worker.
    """

    places: int | None = None
    """How many calls can run at the same time; None if nothing but the node bounds it."""
    runs_graphs: bool = False
    """Whether its calls may have subtasks. Then each `Call.argument` is an `Invocation`, and a call
    that waits for its subtasks leaves its place to others."""
    stops: bool = True
    """Whether a call that is given up ends soon. If not, one that isn't in anybody's way is better
    left to run to its end."""

    @abstractmethod
    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls, and run them in this order as places get free. Never waits for a place."""

    @abstractmethod
    def completions(self) -> list[Completion]:
        """The calls that have ended since it was asked last. Cheap when there are none.

        After each `wake` it must be called once: calls that end before that don't wake again.
        """

    def requests(self) -> list[Request]:
        """What running calls have asked for since it was asked last, of each call in its order.

        Asked for after `completions`, so that it has all that those calls have asked for before
        they ended. A request wakes as the end of a call does.
        """
        return []

    def release(self, result: Any) -> None:  # noqa: B027 - most keep nothing
        """Nobody needs what a subtask has returned any more."""

    @abstractmethod
    def ended(self) -> bool:
        """Whether `completions` or `requests` has something to give.

        Cheap; tells nobody that it was asked.
        """

    @abstractmethod
    def started_s(self, call_id: int) -> float | None:
        """When a call began, in seconds of `time.monotonic`; None if it waits for its place.

        Of a call that has ended it may say anything.
        """

    @abstractmethod
    def cancel(self, call_id: int) -> None:
        """Give up a call: its place is for others. Its completion may still come, or never.

        Raises:
            UserCodeError: So many calls that were given up still run that no more can be.
        """

    @abstractmethod
    def close(self, timeout_s: float) -> list[str]:
        """Stop, whatever still runs, and wait for at most so many seconds.

        Returns:
            What could not be stopped, in words for people.
        """


class Executor(ABC):
    """A user's own way of running tasks.

    Subclass it, and name an instance where `executor=` is asked for. It is part of the flow, so
    each process has one, and each worker calls `start` for each task node that names it.
    """

    def check(  # noqa: B027 - most can run anything
        self, fn: Callable[[Any], Any], step_id: str
    ) -> None:
        """Raise TypeError, as the flow is built, if it can't run such a function."""

    @abstractmethod
    def start(
        self, fn: Callable[[Any], Any], wake: Callable[[], None], step_id: str
    ) -> RunningExecutor:
        """Begin to run calls of a function.

        Args:
            fn: The user's function; it takes one argument.
            wake: To be called, on whatever thread, when a call has ended and `completions` had
                nothing to give before. More often does no harm, but costs.
            step_id: The step, for messages and for the names of threads.
        """


@dataclass(frozen=True, slots=True)
class InlineExecutor:
    """Runs each task at once, on the worker's own thread: for tests, and for what is quick."""


@dataclass(frozen=True, slots=True)
class AsyncExecutor:
    """Runs `async def` functions on an event loop, which a worker's task nodes share.

    The loop has a thread of its own. It is told of by name if a function blocks it for over a
    second.
    """


@dataclass(frozen=True, slots=True)
class ThreadExecutor:
    """Runs tasks on threads: for blocking clients, files, and what releases the interpreter.

    A thread whose task has timed out can't be stopped: it is left to itself, and another takes its
    place. A thread that comes back later is used again.

    Args:
        threads: So many tasks run at the same time, at most. Threads are made as they are needed.
        abandoned: So many threads may be left to themselves; one more ends the job.

    Raises:
        ValueError: `threads` is less than 1, or `abandoned` less than 0.

    >>> ThreadExecutor(threads=4)
    ThreadExecutor(threads=4, abandoned=32)
    """

    threads: int = THREADS_DEFAULT
    abandoned: int = ABANDONED_DEFAULT

    def __post_init__(self) -> None:
        _at_least("threads", self.threads, 1)
        _at_least("abandoned", self.abandoned, 0)


@dataclass(frozen=True, slots=True)
class ProcessExecutor:
    """Runs tasks in processes of their own: for what computes, and for what may crash.

    The function goes to them by the name it has in its module, which they import; a lambda, or a
    function in a function, only with `cloudpickle` installed. Records and results are pickled.
    A process that dies is replaced; of the records it had, only the one it worked on has failed.

    Args:
        processes: How many, on each worker; None for as many as there are processors to use.

    Raises:
        ValueError: `processes` is less than 1.

    >>> ProcessExecutor(processes=2)
    ProcessExecutor(processes=2)
    """

    processes: int | None = None

    def __post_init__(self) -> None:
        if self.processes is not None:
            _at_least("processes", self.processes, 1)


BuiltInExecutor: TypeAlias = InlineExecutor | AsyncExecutor | ThreadExecutor | ProcessExecutor
AnyExecutor: TypeAlias = BuiltInExecutor | Executor

_BY_NAME: dict[str, type[BuiltInExecutor]] = {
    "inline": InlineExecutor,
    "async": AsyncExecutor,
    "thread": ThreadExecutor,
    "process": ProcessExecutor,
}


def executor_of(named: str | AnyExecutor) -> AnyExecutor:
    """The executor that a user has named.

    Raises:
        ValueError: There is none of that name.
        TypeError: It is no executor at all.

    >>> executor_of("inline")
    InlineExecutor()
    """
    if isinstance(named, str):
        if named not in _BY_NAME:
            known = ", ".join(repr(name) for name in _BY_NAME)
            msg = f"executor must be one of {known}, or an Executor; not {named!r}"
            raise ValueError(msg)
        return _BY_NAME[named]()
    if not isinstance(named, AnyExecutor):
        hint = "; make an instance of it" if isinstance(named, type) else ""
        msg = f"executor must be a name or an Executor, not {named!r}{hint}"
        raise TypeError(msg)
    return named


def executor_name(executor: AnyExecutor) -> str:
    """What a user may call it; of a user's own, its class.

    >>> executor_name(ThreadExecutor(threads=4))
    'thread'
    """
    names: dict[type, str] = {kind: name for name, kind in _BY_NAME.items()}
    return names.get(type(executor), type(executor).__name__)


def check(executor: AnyExecutor, fn: Callable[..., Any], step_id: str) -> None:
    """See, as the flow is built, whether an executor can run a function.

    Raises:
        TypeError: It isn't callable, or not with one argument; is a generator function, or
            `async def` where that isn't awaited; or can't be sent to another process. The message
            says what to do.
    """
    if not callable(fn):
        msg = f"step {step_id!r}: {fn!r} can't be called"
        raise TypeError(msg)
    _check_arity(fn, step_id)
    if _is(fn, inspect.isgeneratorfunction) or _is(fn, inspect.isasyncgenfunction):
        msg = (
            f"step {step_id!r}: {f_repr(fn)} is a generator function, whose results would be "
            "generators: have it return a list, and put `flat_map` behind the step"
        )
        raise TypeError(msg)
    if isinstance(executor, Executor):
        executor.check(fn, step_id)
        return
    if not isinstance(executor, AsyncExecutor) and is_async(fn):
        msg = f"step {step_id!r}: {f_repr(fn)} is `async def`, which takes executor='async'"
        raise TypeError(msg)
    if isinstance(executor, ProcessExecutor):
        shipped(fn, step_id)


def is_async(fn: Any) -> bool:
    """Whether a function, or an object that can be called, is surely `async def`."""
    return _is(fn, inspect.iscoroutinefunction)


def _is(fn: Any, kind: Callable[[Any], bool]) -> bool:
    return kind(inspect.unwrap(fn)) or kind(
        getattr(fn, "__call__", None)  # noqa: B004 - asked what it is, not whether it is there
    )


def _check_arity(fn: Callable[..., Any], step_id: str) -> None:
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        # Some that are written in C don't say what they take.
        return
    context = {NAME: None} if takes_context(fn) else {}
    try:
        signature.bind(None, **context)
    except TypeError as ex:
        msg = (
            f"step {step_id!r}: {f_repr(fn)} must take one argument, the record (and `ctx`, if it "
            f"asks for that): {ex}"
        )
        raise TypeError(msg) from None


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be an int, not {value!r}"
        raise TypeError(msg)
    if value < least:
        msg = f"{name} must be at least {least}, not {value}"
        raise ValueError(msg)
