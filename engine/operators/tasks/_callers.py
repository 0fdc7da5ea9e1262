"""Calls that may have subtasks: what their functions ask, on the way to the worker and back.

A `Caller` is what stands behind the context of one call while it runs. What it is asked goes to the
worker as a request; what it waits for comes back by the request's reply. An invoker is what an
executor calls in place of the user's function: it makes the caller, and calls what the `Invocation`
says.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol, TypeAlias, cast

from engine.dataflow._callable_name import f_repr
from engine.errors import SubtaskCancelledError, UserCodeError
from engine.operators.tasks._context import NAME, TaskContext, takes_context
from engine.operators.tasks._executor import is_async
from engine.operators.tasks._futures import TaskFuture
from engine.operators.tasks._requests import (
    DEPTH_MAX,
    Drops,
    Invocation,
    Outcome,
    Request,
    Submitted,
    Waits,
    Work,
)
from engine.operators.tasks._resources import Resources

Ask: TypeAlias = Callable[[Request], None]
Arguments: TypeAlias = tuple[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a result goes in the arguments of a subtask."""

    number: int


def each_argument(arguments: Arguments, change: Callable[[Any], Any]) -> Arguments:
    """Arguments with something in place of each, and of what lists, tuples and dicts hold."""

    def changed(argument: Any) -> Any:
        kind = argument.__class__
        if kind is list or kind is tuple:
            same: Any = map(change, argument)
            return list(same) if kind is list else tuple(same)
        if kind is dict:
            return {name: change(value) for name, value in argument.items()}
        return change(argument)

    args, kwargs = arguments
    return tuple(map(changed, args)), {name: changed(value) for name, value in kwargs.items()}


def futures_in(arguments: Arguments) -> list[TaskFuture[Any]]:
    """The futures among arguments, and in lists, tuples and dicts that are arguments."""
    args, kwargs = arguments
    found: list[TaskFuture[Any]] = []
    for argument in (*args, *kwargs.values()) if kwargs else args:
        kind = argument.__class__
        if kind is TaskFuture:
            found.append(argument)
        elif kind is list or kind is tuple:
            found += [item for item in argument if type(item) is TaskFuture]
        elif kind is dict:
            found += [item for item in argument.values() if type(item) is TaskFuture]
    return found


class Caller:
    """A call that runs, as its context sees it.

    Args:
        invocation: The call.
        ask: Takes its requests.
    """

    on_loop = False
    """Whether functions must be `async def`."""

    def __init__(self, invocation: Invocation, ask: Ask) -> None:
        self._call_id, self._depth = invocation.call_id, invocation.depth
        self._ask = ask
        self._thread = threading.get_ident()
        self._submitted = self._waits = 0
        self._dropped: list[int] = []
        self._known: dict[Any, bool] = {}
        """Functions that can be submitted, and whether they take a context."""
        self._over = False

    # For the context

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        resources: Resources | None,
    ) -> TaskFuture[Any]:
        """As in `Calls`."""
        self._check_here()
        takes = self._takes_context(fn)
        if takes and NAME in kwargs:
            self._refuse(f"{f_repr(fn)} gets a `{NAME}` of its own", "leave it out of `submit`")
        if resources is not None and not isinstance(cast("object", resources), Resources):
            self._refuse(f"`resources` must be a `Resources`, not {resources!r}")
        futures = futures_in((args, kwargs))
        for future in futures:
            self._check_own(future)
        needs = tuple(dict.fromkeys(future.number for future in futures))
        function, arguments = self._written(fn, (args, kwargs), has_futures=bool(futures))
        number = self._submitted
        self._submitted = number + 1
        self._send(number, Work(function, arguments, takes, needs, resources))
        self._send_drops()
        return TaskFuture(self, number, fn)

    def gather(self, futures: Sequence[Any], *, return_exceptions: bool) -> Any:
        """As in `Calls`."""
        self._check_here()
        for future in futures:
            if not isinstance(future, TaskFuture):
                hint = "give it what `submit` returned, one by one: `gather(*futures)`"
                self._refuse(f"`gather` takes futures, not {future!r}", hint)
            self._check_own(cast("TaskFuture[Any]", future))
        self._send_drops()
        return self._gathered(tuple(f.number for f in futures), takes_failures=return_exceptions)

    def drop(self, number: int) -> None:
        """As in `Calls`. Told with the next request: it may come in the middle of anything."""
        if not self._over:
            self._dropped.append(number)

    def end(self) -> None:
        """Its function is over."""
        self._over = True
        self._dropped.clear()

    # How it does that

    def _written(
        self, fn: Callable[..., Any], arguments: Arguments, *, has_futures: bool
    ) -> tuple[Any, Any]:
        """A function and its arguments as they travel."""
        if has_futures:
            arguments = each_argument(arguments, _slot_or_same)
        return fn, arguments

    def _send(self, number: int, work: Work) -> None:
        self._ask(Submitted(self._call_id, number, work))

    def _send_drops(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            self._ask(Drops(self._call_id, tuple(dropped)))

    def _gathered(self, numbers: tuple[int, ...], *, takes_failures: bool) -> Any:
        raise NotImplementedError

    def _next_wait(self) -> int:
        self._waits += 1
        return self._waits

    def _check_here(self) -> None:
        if self._over:
            self._refuse(
                f"`{NAME}` was used after its function had returned",
                "wait for subtasks in the function, and hand on results, not the context",
            )
        if threading.get_ident() != self._thread:
            self._refuse(
                f"`{NAME}` was used on another thread than its function runs on",
                "submit there, and hand on what the threads need",
            )

    def _check_own(self, future: TaskFuture[Any]) -> None:
        if not future.belongs_to(self):
            self._refuse(
                f"{future!r} is another call's",
                "only the call that has submitted a subtask may wait for it or hand it on",
            )

    def _takes_context(self, fn: Any) -> bool:
        try:
            known = self._known.get(fn)
        except TypeError:
            return self._checked(fn)  # It can't be hashed.
        if known is None:
            known = self._known[fn] = self._checked(fn)
        return known

    def _checked(self, fn: Any) -> bool:
        if not callable(fn):
            self._refuse(f"{fn!r} can't be called", "`submit` takes a function and its arguments")
        if self.on_loop and inspect.isfunction(fn) and not is_async(fn):
            hint = "make it `async def`, or give the step executor='thread'"
            self._refuse(f"{f_repr(fn)} would block the event loop", hint)
        if not self.on_loop and is_async(fn):
            hint = "give the step executor='async'"
            self._refuse(f"{f_repr(fn)} is `async def`, which nobody awaits here", hint)
        return takes_context(fn)

    def _refuse(self, text: str, hint: str = "") -> NoReturn:
        raise UserCodeError(text, hint=hint)


def _slot_or_same(argument: Any) -> Any:
    return Slot(argument.number) if type(argument) is TaskFuture else argument


def results_of(outcomes: list[Outcome] | None, *, takes_failures: bool) -> list[Any]:
    """What `gather` gives.

    Raises:
        BaseException: What has ended the wait.
        SubtaskCancelledError: The call itself was given up.
    """
    if outcomes is None:
        msg = "the task was given up: it took too long, or one that it was gathered with has failed"
        raise SubtaskCancelledError(msg)
    if not takes_failures:
        for returned, value in outcomes:
            if not returned:
                raise value
    return [value for _, value in outcomes]


class Answer:
    """What a thread waits for."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self.outcomes: list[Outcome] | None = None

    def give(self, outcomes: list[Outcome] | None) -> None:
        """As `Reply`: the first counts."""
        if not self._there.is_set():
            self.outcomes = outcomes
            self._there.set()

    def wait(self) -> None:
        """Until it is there."""
        self._there.wait()


class Waiting(Protocol):
    """What calls of a thread wait in."""

    ask: Ask

    def wait(self, answer: Answer) -> None:
        """Wait, while others take the place of this thread."""
        ...


class _ThreadCaller(Caller):
    def __init__(self, invocation: Invocation, threads: Waiting) -> None:
        super().__init__(invocation, threads.ask)
        self._threads = threads

    def _gathered(self, numbers: tuple[int, ...], *, takes_failures: bool) -> Any:
        if not numbers:
            return []
        answer = Answer()
        wait = self._next_wait()
        self._ask(Waits(self._call_id, wait, numbers, takes_failures, answer.give))
        self._threads.wait(answer)
        return results_of(answer.outcomes, takes_failures=takes_failures)


class _InlineCaller(Caller):
    """Runs subtasks as they are submitted."""

    def __init__(self, invocation: Invocation, context: TaskContext) -> None:
        super().__init__(invocation, _no_requests)
        self._context = context
        self._outcomes: dict[int, Outcome] = {}
        self._unfetched: dict[int, BaseException] = {}

    def _send(self, number: int, work: Work) -> None:
        if self._depth >= DEPTH_MAX:
            self._outcomes[number] = False, _too_deep()
        else:
            self._outcomes[number] = self._outcome(number, work)
        returned, value = self._outcomes[number]
        if not returned:
            self._unfetched[number] = value

    def _outcome(self, number: int, work: Work) -> Outcome:
        failed = next((n for n in work.needs if not self._outcomes[n][0]), None)
        if failed is not None:
            self._unfetched.pop(failed, None)
            return self._outcomes[failed]
        results = {needed: self._outcomes[needed][1] for needed in work.needs}
        context = self._context.of_subtask(number) if work.takes_context else None
        invocation = Invocation(0, self._depth + 1, work, None, context, results)
        try:
            return True, call_inline(_no_root, invocation)
        except KeyboardInterrupt:
            raise
        except BaseException as ex:  # noqa: BLE001 - SystemExit too: it is the subtask's result
            return False, ex

    def _send_drops(self) -> None:
        dropped, self._dropped = self._dropped, []
        for number in dropped:
            self._outcomes.pop(number, None)

    def _gathered(self, numbers: tuple[int, ...], *, takes_failures: bool) -> Any:
        for number in numbers:
            self._unfetched.pop(number, None)
        return results_of([self._outcomes[n] for n in numbers], takes_failures=takes_failures)

    def raise_unfetched(self) -> None:
        """Raise the first failure that nobody has asked for."""
        for error in self._unfetched.values():
            raise error


def no_reply(_outcomes: list[Outcome] | None) -> None:
    """In place of a reply that can't leave its process."""


def _no_requests(_request: Request) -> None:
    """Nobody is asked."""


def _no_root(_pair: Any) -> NoReturn:
    raise AssertionError


def _too_deep() -> UserCodeError:
    return UserCodeError(
        f"subtasks of subtasks are nested more than {DEPTH_MAX} deep",
        hint="a function that submits itself needs an end, or larger steps",
    )


def call(root: Callable[[Any], Any], invocation: Invocation, caller: Caller | None) -> Any:
    """Call what an invocation says.

    Args:
        root: The step's function, as a `WithContext`.
        invocation: What to call.
        caller: Goes into the context that the function gets.
    """
    work, context = invocation.work, invocation.context
    if context is not None:
        context = replace(context, calls=caller)
    if work is None:
        return root((invocation.argument, context))
    args, kwargs = work.arguments
    if work.needs:
        results = invocation.results

        def filled(argument: Any) -> Any:
            return results[argument.number] if type(argument) is Slot else argument

        args, kwargs = each_argument((args, kwargs), filled)
    if context is None:
        return work.function(*args, **kwargs)
    return work.function(*args, **kwargs, **{NAME: context})


def call_inline(root: Callable[[Any], Any], invocation: Invocation) -> Any:
    """Call what an invocation says, and its subtasks as they are submitted."""
    if invocation.context is None:
        return call(root, invocation, None)
    caller = _InlineCaller(invocation, invocation.context)
    try:
        value = call(root, invocation, caller)
    finally:
        caller.end()
    caller.raise_unfetched()
    return value


class InlineInvoker:
    """Calls a step's function on the worker's thread.

    Args:
        fn: The function, as a `WithContext`.
    """

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn

    def __call__(self, pair: tuple[Any, TaskContext]) -> Any:
        """Call it with a record and its context."""
        return call_inline(self._fn, Invocation(0, 0, None, *pair, {}))


class ThreadInvoker:
    """Calls what an invocation says on a thread.

    Args:
        fn: The step's function, as a `WithContext`.
        threads: What calls wait in.
    """

    def __init__(self, fn: Callable[[Any], Any], threads: Waiting) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._threads = threads

    def __call__(self, invocation: Invocation) -> Any:
        """Call it."""
        if invocation.context is None:
            return call(self._fn, invocation, None)
        caller = _ThreadCaller(invocation, self._threads)
        try:
            return call(self._fn, invocation, caller)
        finally:
            caller.end()
