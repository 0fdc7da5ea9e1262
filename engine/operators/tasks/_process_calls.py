"""Calls of task graphs in a process of a pool: the process imports this if its step has subtasks.

Arguments and results are pickled by whoever makes them and unpickled by whoever needs them: the
worker only passes them on. A function is sent to a process once, and then goes by a name made of
its bytes.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable
from typing import Any, Protocol, cast

from engine.dataflow._callable_name import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks._callers import Arguments, Caller, call, no_reply, results_of
from engine.operators.tasks._objects import LostObjectError, ObjectWriter, read
from engine.operators.tasks._requests import (
    Invocation,
    Lost,
    Misses,
    ObjectRef,
    Outcome,
    Request,
    Waits,
    Work,
)
from engine.operators.tasks._shipping import shipped

_FUNCTIONS_MAX = 1_000
"""So many functions are remembered."""


class Process(Protocol):
    """The process that calls run in (`engine.runtime.executors._child`)."""

    functions: dict[bytes, bytes]

    def ask(self, request: Request, functions: dict[bytes, bytes]) -> None:
        """Hand on a request, with functions that it names."""
        ...

    def wait(self, request: Request) -> Any:
        """Hand on a request, and wait for what comes of it."""
        ...


class ProcessInvoker:
    """Calls what an invocation says in a process.

    Args:
        fn: The step's function, as a `WithContext`.
        objects: What the names of objects begin with.
    """

    def __init__(self, fn: Callable[[Any], Any], objects: str) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._objects = objects

    def work_in(self, process: Process) -> None:
        """Begin to work in a process."""
        self._process = process
        self._writer = ObjectWriter(self._objects)
        self._functions = _Functions(process.functions)

    def __call__(self, invocation: Invocation) -> Any:
        """Call it. What subtasks give is for other processes."""
        work = invocation.work
        if work is not None:
            invocation, lost = self._read(invocation, work)
            if lost is not None:
                return lost
        value = self._called(invocation)
        if invocation.work is None:
            return value
        try:
            return self._writer.written(value)
        except BaseException as ex:
            if type(value).__name__ == "coroutine":
                value.close()
            fn = invocation.work.function
            hint = "results go between processes as pickles; or use executor='thread'"
            msg = f"what {f_repr(fn)} returned can't be pickled: {ex!r}"
            raise UserCodeError(msg, hint=hint) from ex

    def _called(self, invocation: Invocation) -> Any:
        if invocation.context is None:
            return call(self._fn, invocation, None)
        caller = _ProcessCaller(invocation, self._process, self._functions)
        try:
            return call(self._fn, invocation, caller)
        finally:
            caller.end()

    def _read(self, invocation: Invocation, work: Work) -> tuple[Invocation, Lost | None]:
        """An invocation with everything unpickled; or what of that is lost."""
        results, lost = _values(invocation.results)
        if lost:
            return invocation, Lost(lost)
        fn = self._functions.loaded(work.function)
        try:
            arguments = pickle.loads(work.arguments)  # noqa: S301 - of our own process
        except BaseException as ex:
            msg = f"an argument of {f_repr(fn)} can't be unpickled: {ex!r}"
            raise UserCodeError(msg) from ex
        work = work._replace(function=fn, arguments=arguments)
        return invocation._replace(work=work, results=results), None


def _values(
    results: Any,
) -> tuple[dict[int, Any], tuple[tuple[int, str], ...]]:
    """What results are, by number; and those that are lost."""
    values: dict[int, Any] = {}
    lost: list[tuple[int, str]] = []
    for number, result in results.items():
        try:
            values[number] = read(result)
        except LostObjectError:
            lost.append((number, result.name))
    return values, tuple(lost)


class _Functions:
    """Functions of subtasks: as they travel, and as they are called.

    Args:
        received: Those that the process was sent, by name.
    """

    def __init__(self, received: dict[bytes, bytes]) -> None:
        self._received = received
        self._loaded: dict[bytes, Any] = {}
        self._names: dict[int, tuple[Any, bytes]] = {}
        """By id: the function, which keeps it its own, and its name."""
        self.sent: set[bytes] = set()

    def loaded(self, name: bytes) -> Any:
        """The function of that name."""
        fn = self._loaded.get(name)
        if fn is None:
            try:
                fn = self._loaded[name] = pickle.loads(self._received[name])  # noqa: S301 - as above
            except BaseException as ex:
                msg = f"a subtask's function can't be loaded in a process for tasks: {ex!r}"
                hint = "the process imports the function's module anew: it must be importable there"
                raise UserCodeError(msg, hint=hint) from ex
        return fn

    def named(self, fn: Any) -> tuple[bytes, dict[bytes, bytes]]:
        """A function's name, and its bytes if they were not sent yet."""
        known = self._names.get(id(fn))
        if known is not None:
            return known[1], {}
        data = shipped(fn, "submit")
        name = hashlib.blake2b(data, digest_size=12).digest()
        if len(self._names) >= _FUNCTIONS_MAX:
            self._names.clear()
        self._names[id(fn)] = fn, name
        new = {} if name in self.sent else {name: data}
        self.sent.add(name)
        return name, new


class _ProcessCaller(Caller):
    def __init__(self, invocation: Invocation, process: Process, functions: _Functions) -> None:
        super().__init__(invocation, self._ask_with_functions)
        self._process = process
        self._functions = functions
        self._new: dict[bytes, bytes] = {}

    def _ask_with_functions(self, request: Request) -> None:
        new, self._new = self._new, {}
        self._process.ask(request, new)

    def _written(
        self, fn: Callable[..., Any], arguments: Arguments, *, has_futures: bool
    ) -> tuple[Any, Any]:
        name, self._new = self._functions.named(fn)
        _, arguments = super()._written(fn, arguments, has_futures=has_futures)
        try:
            return name, pickle.dumps(arguments, pickle.HIGHEST_PROTOCOL)
        except UserCodeError:
            raise  # It is about a future.
        except BaseException as ex:
            hint = "arguments go between processes as pickles; or use executor='thread'"
            msg = f"an argument of {f_repr(fn)} can't be pickled: {ex!r}"
            raise UserCodeError(msg, hint=hint) from ex

    def _gathered(self, numbers: tuple[int, ...], *, takes_failures: bool) -> Any:
        if not numbers:
            return []
        while True:
            request = Waits(self._call_id, self._next_wait(), numbers, takes_failures, no_reply)
            outcomes: list[tuple[bool, Any]] | None = self._process.wait(request)
            if outcomes is None or len(outcomes) < len(numbers):
                found = None if outcomes is None else [_failure(value) for _, value in outcomes]
                return results_of(found, takes_failures=takes_failures)
            read_outcomes, lost = _read_all(numbers, outcomes)
            if not lost:
                return results_of(read_outcomes, takes_failures=takes_failures)
            self._ask(Misses(self._call_id, lost))


def _read_all(
    numbers: tuple[int, ...], outcomes: list[tuple[bool, Any]]
) -> tuple[list[Outcome], tuple[tuple[int, str], ...]]:
    """Outcomes with their values; and what is lost of them."""
    found: list[Outcome] = []
    lost: list[tuple[int, str]] = []
    for number, (ok, value) in zip(numbers, outcomes, strict=True):
        if not ok:
            found.append(_failure(value))
            continue
        try:
            found.append((True, read(value)))
        except LostObjectError:
            lost.append((number, cast("ObjectRef[Any]", value).name))
    return found, tuple(lost)


def _failure(data: bytes) -> Outcome:
    error, cause = pickle.loads(data)  # noqa: S301 - of the pool
    error.__cause__ = cause
    return False, error
