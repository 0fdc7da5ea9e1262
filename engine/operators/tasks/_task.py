"""`task`: calls that take long, each on its own, while the flow goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, get_args

from engine.dataflow import ErrorPolicy, Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators.tasks._context import TaskContext, WithContext, takes_context
from engine.operators.tasks._executor import AnyExecutor, check, executor_of, is_async
from engine.operators.tasks._policies import (
    Batching,
    Order,
    Placement,
    Rate,
    Retry,
    TaskRules,
    check_span,
)
from engine.operators.tasks._resources import Label, Resources

X = TypeVar("X")
Y = TypeVar("Y")
Submit = Literal["now", "after_commit"]


@dataclass(frozen=True, slots=True)
class TaskError(Generic[X]):
    """A record whose task has failed for good."""

    record: X
    exception: BaseException
    attempts: int
    """How often it was tried."""
    task_id: str


@dataclass(frozen=True, slots=True)
class TaskOut(Generic[X, Y]):
    """The streams of a `task` step."""

    ok: Stream[Y]
    """What the function gave."""
    errors: Stream[TaskError[X]]
    """The records whose tasks have failed."""


@dataclass(frozen=True, slots=True)
class TaskKernel:
    """A step with tasks."""

    function: Callable[[Any], Any]
    executor: AnyExecutor
    rules: TaskRules
    on_error: ErrorPolicy | None
    takes_context: bool = False
    """Whether the function gets a `TaskContext` with each record."""
    idempotency: Callable[[Any], str] | None = None


def _kernel(step: Operator, _workers: int) -> TaskKernel:
    params = step.params
    timeout, retry = params["timeout"], params["retry"]
    rules = TaskRules(
        params["max_in_flight"],
        params["order"],
        math.inf if timeout is None else timeout.total_seconds(),
        Retry() if retry is None else retry,
        params["batch"],
        params["rate"],
        params["submit"] == "after_commit",
        params["resources"],
        params["placement"],
    )
    fn, takes = params["fn"], takes_context(params["fn"])
    executor = _executor_for(fn, params["executor"])
    called = WithContext(fn) if takes else fn
    return TaskKernel(called, executor, rules, params["on_error"], takes, params["idempotency"])


def _executor_for(fn: Callable[..., Any], named: str | AnyExecutor | None) -> AnyExecutor:
    return executor_of(("async" if is_async(fn) else "thread") if named is None else named)


@operator(core=True, kernel=_kernel)
def task(  # noqa: PLR0913 - all but three have a default
    step_id: str,
    up: Stream[X],
    fn: Callable[[X], Y]
    | Callable[[X], Coroutine[Any, Any, Y]]
    | Callable[[list[X]], list[Y]]
    | Callable[[X, TaskContext], Y]
    | Callable[[X, TaskContext], Coroutine[Any, Any, Y]]
    | Callable[[list[X], TaskContext], list[Y]],
    *,
    executor: Literal["inline", "async", "thread", "process"] | AnyExecutor | None = None,
    max_in_flight: int = 256,
    order: Order = "input",
    timeout: timedelta | None = None,
    retry: Retry | None = None,
    batch: Batching | None = None,
    rate: Rate | None = None,
    on_error: ErrorPolicy | None = None,
    submit: Submit = "now",
    idempotency: Callable[[Any], str] | None = None,
    resources: Resources | None = None,
    placement: Placement = "worker",
) -> TaskOut[X, Y]:
    """Call a function for each record, apart from the flow, which goes on meanwhile.

    For calls that take long: a service over the network, a model, a blocking client, a computation.
    Up to `max_in_flight` of them are under way on each worker; when there are more records than
    that, the input waits. A barrier never waits for a task, and other branches don't either.

    **Types.** `fn` gets a record and gives a result, which goes on as it is: None too, and a list
    isn't spread. With `batch` it gets a list of records, and must return a list with one result
    for each of them, in their order. If `fn` has a parameter ``ctx``, it gets a `TaskContext` by
    that name: its task's id and key, which try it is, and `TaskContext.submit`, by which a task
    may have subtasks. With `order="key"` records must be
    `(key, value)` pairs, of which `fn` gets the whole; it should return a pair if what follows
    needs keys.

    **Order.** ``"input"``: results come in the order of their records on each worker, and so do
    errors; a slow task holds back what comes behind it, which stays in flight. ``"key"``: so for
    each key, and records go to the worker that has their key. ``"none"``: as they end. Between
    `.ok` and `.errors` there is no order.

    **Errors.** A task that raises is tried again as `retry` says, and so is one that takes longer
    than `timeout`, which is a `TimeoutError`. When there is no try left, its records go to
    `.errors`, each as a `TaskError`, if that stream is used at all. If it isn't, ``"fail"`` ends
    the job, and ``"skip"`` leaves the record out. An exception that isn't an `Exception`, such as
    `SystemExit`, is never tried again.

    **After a crash.** Each record comes out once, as a result or an error, if its job keeps a
    recovery store: tasks are saved with each epoch, those that have ended with what came of them.
    The *calls* are made at least once: those that were under way when the job died, and those that
    have ended since the last durable epoch, are made again. Tries that failed before that epoch
    still count. So a service that must not do a thing twice has to know a call again by a key that
    goes with it: see `submit` and `idempotency`.

    Args:
        step_id: Unique name of the step in its scope.
        up: Any stream.
        fn: What to call. ``async def`` if it runs on an event loop.
        executor: Where it is called. ``"async"``: on an event loop of the worker, apart from its
            thread. ``"thread"``: on up to 32 threads (`ThreadExecutor`). ``"process"``: in
            processes of their own, as many as there are processors (`ProcessExecutor`); `fn` must
            be importable there, and records and results must be picklable. ``"inline"``: on the
            worker's own thread, which does nothing else meanwhile, so that `timeout` has no power.
            If left out, ``"async"`` for an ``async def``, and ``"thread"`` for others.
        max_in_flight: So many tasks at most are begun and not yet emitted, on each worker; lists
            of `batch` count as one.
        order: As above.
        timeout: How long a try may take, not counting how long it waits for a thread or process.
            A thread can't be stopped, and is left to itself; on the event loop the try is
            cancelled; a process is ended, and replaced.
        retry: How often a task is tried, after which exceptions, and how long apart. One try if
            left out; but a task whose process died is tried up to 3 times in any case.
        batch: Give `fn` lists of records.
        rate: How many tries may begin in a time, by all workers together.
        on_error: What happens to a record whose task has failed where nobody reads `.errors`.
        submit: ``"now"``, or ``"after_commit"``: a call is made only once the epoch of its record
            is durable. So the record is never another one after a crash, and its task's id is the
            same in all its calls. It costs up to one epoch of delay.
        idempotency: Makes a key of a record (of a list, with `batch`), by which a service knows a
            call again: `TaskContext.idempotency_key`, which is the task's id if this is left out.
        resources: What a try takes of the worker that runs it, and gives back when it is over. It
            waits while there is too little, which doesn't count for `timeout`. Nothing if left out.
        placement: Which worker runs a try: ``"worker"``, the one that has the record; ``"any"``,
            the least loaded one that has the resources free; or a `Label`, those that offer
            something of that name.

    Returns:
        The streams `ok`, of results, and `errors`, of `TaskError`. A branch that isn't used costs
        nothing.

    Raises:
        TypeError: A parameter is of the wrong type; or `fn` can't be called, or not by this
            executor.
        ValueError: A parameter has a value that makes no sense, or `idempotency` is given to an
            `fn` without ``ctx``.
        UserCodeError: At run time: there are no pairs for ``order="key"``, or more threads never
            come back than `ThreadExecutor.abandoned` allows.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.operators.tasks import Retry, task
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, lengths, failed = Dataflow("doc"), [], []
    >>> words = op.input("in", flow, TestingSource(["one", "three", 4]))
    >>> measured = task("measure", words, len, executor="thread", retry=Retry(attempts=2))
    >>> op.output("out", measured.ok, TestingSink(lengths))
    >>> op.output("failed", measured.errors, TestingSink(failed))
    >>> run_main(flow)
    >>> lengths
    [3, 5]
    >>> [(error.record, error.attempts) for error in failed]
    [(4, 2)]
    """
    check(_executor_for(fn, executor), fn, step_id)
    _check_choice("order", order, get_args(Order), step_id)
    if on_error is not None:
        _check_choice("on_error", on_error, get_args(ErrorPolicy), step_id)
    _check_choice("submit", submit, get_args(Submit), step_id)
    _check_type("retry", retry, Retry, step_id)
    _check_type("batch", batch, Batching, step_id)
    _check_type("rate", rate, Rate, step_id)
    _check_type("resources", resources, Resources, step_id)
    if not isinstance(placement, Label):
        _check_choice("placement", placement, ("worker", "any"), step_id)
    if idempotency is not None and not takes_context(fn):
        msg = (
            f"`idempotency` of step {step_id!r} is of no use: the function has no parameter `ctx`, "
            "in which it would find the key (`ctx.idempotency_key`)"
        )
        raise ValueError(msg)
    if order == "key" and batch is not None:
        msg = (
            f"step {step_id!r} can't keep the order of each key in lists, which hold records of "
            'many: use `order="input"`, or leave `batch` out'
        )
        raise ValueError(msg)
    if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int):
        msg = f"`max_in_flight` of step {step_id!r} must be an int; got {max_in_flight!r}"
        raise TypeError(msg)
    if max_in_flight < 1:
        msg = f"`max_in_flight` of step {step_id!r} must be at least 1; got {max_in_flight!r}"
        raise ValueError(msg)
    if timeout is not None:
        check_span("timeout", timeout)
        if not timeout:
            msg = f"`timeout` of step {step_id!r} must be above zero"
            raise ValueError(msg)
    return TaskOut(new_stream(step_id, up, "ok"), new_stream(step_id, up, "errors"))


def _check_choice(name: str, value: object, choices: tuple[str, ...], step_id: str) -> None:
    if value not in choices:
        msg = f"`{name}` of step {step_id!r} must be one of {choices}; got {value!r}"
        raise ValueError(msg)


def _check_type(name: str, value: object, kind: type, step_id: str) -> None:
    if value is not None and not isinstance(value, kind):
        msg = f"`{name}` of step {step_id!r} must be a `{kind.__name__}`; got {value!r}"
        raise TypeError(msg)
