"""What comes of subtasks: futures, and the results of several of them.

A future belongs to the call that has made it: that call alone may wait for it, or hand it on to
further subtasks. So no call can wait for one that waits for it, and no graph has a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from engine.dataflow._callable_name import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks._resources import Resources

T = TypeVar("T")


class Calls(Protocol):
    """What a call that runs can ask of its worker. Executors make one for each."""

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        resources: Resources | None,
    ) -> TaskFuture[Any]:
        """Have a subtask run."""
        ...

    def gather(self, futures: Sequence[Any], *, return_exceptions: bool) -> Any:
        """The results of subtasks; on an event loop, something to await that gives them."""
        ...

    def drop(self, number: int) -> None:
        """Nobody has this future any more. On any thread."""
        ...


class TaskFuture(Generic[T]):
    """What will come of a subtask: what `TaskContext.submit` gives.

    It can be an argument of further subtasks, itself or in a list, a tuple or a dict that is an
    argument; their functions get the result in its place, and are called once it is there.
    """

    __slots__ = ("__weakref__", "_calls", "_fn", "number")

    def __init__(self, calls: Calls, number: int, fn: Callable[..., Any]) -> None:
        self._calls = calls
        self._fn = fn
        self.number = number
        """Subtasks of a call are numbered in the order in which they were submitted."""

    def result(self) -> T:
        """Wait for the result. In an `async def`, await the future instead.

        Raises:
            BaseException: What the subtask has raised.
            WorkerProcessError: Its process has died, as often as the step's `Retry` allows.
            SubtaskCancelledError: It was given up, as one that it was gathered with had failed.
            UserCodeError: This is not the call that has submitted it, or it is over.
        """
        gathered: Gathered[T] = self._calls.gather((self,), return_exceptions=False)
        if not isinstance(gathered, list):
            gathered.close()
            msg = "the result of a subtask can't be waited for here, it would block the event loop"
            raise UserCodeError(msg, hint="write `await future`")
        return gathered[0]

    def __await__(self) -> Generator[Any, None, T]:
        """As `result`, in an `async def`."""
        gathered: Gathered[T] = self._calls.gather((self,), return_exceptions=False)
        results = yield from gathered.__await__()
        return results[0]

    def belongs_to(self, calls: Calls) -> bool:
        """Whether a call has made it."""
        return self._calls is calls

    def __repr__(self) -> str:
        """Its number and its function."""
        return f"<TaskFuture {self.number} of {f_repr(self._fn)}>"

    def __reduce__(self) -> NoReturn:
        """Futures can't be pickled.

        Raises:
            UserCodeError: Always.
        """
        msg = f"{self!r} can't leave the call that has submitted it"
        hint = (
            "subtasks take futures as arguments, or in a list, tuple or dict that is an argument; "
            "from anywhere else, hand on what `result()` gives"
        )
        raise UserCodeError(msg, hint=hint)

    def __del__(self) -> None:
        """What it stands for may be needed no more."""
        self._calls.drop(self.number)


class Gathered(list[T]):
    """To type checkers: results of subtasks, in the order in which they were asked for.

    In a plain function it is a `list`. In an `async def` it must be awaited, and gives that list.
    """

    def __await__(self) -> Generator[Any, None, list[T]]:
        """The list."""
        raise NotImplementedError
