"""`stateful_batch`, the core of all keyed steps: an object of the user's own for every key.

The other stateful operators are compositions of it (or have kernels that equal such a
composition). Called by users who need batches, timers, or the end of input per key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, cast

from engine.dataflow import Operator, Stream, f_repr, operator
from engine.dataflow._operator import new_stream
from engine.errors import UserCodeError
from engine.operators._checks import require_function
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext
from engine.operators._keys import check_key, is_pair, refuse_unkeyed, sorted_keys
from engine.operators._shown import shown
from engine.operators._state import StateForm
from engine.operators._timers import Timers
from engine.operators._types import K, S, V, W


class StatefulBatchLogic(ABC, Generic[V, W, S]):
    """What `stateful_batch` does for one key. Make a subclass; the builder gives one per key.

    Every ``on_*`` method returns what to emit (a sequence of values) and whether to discard this
    object. After `DISCARD` the key's state and timer are gone; its next value gets a new object.
    """

    __slots__ = ()

    RETAIN: bool = False
    """Return this as the second value to keep this object."""
    DISCARD: bool = True
    """Return this as the second value to drop this object and its state."""

    @abstractmethod
    def on_batch(self, values: list[V]) -> tuple[Iterable[W], bool]:
        """Called with the key's values of a batch, in arrival order; never with none."""

    def on_notify(self) -> tuple[Iterable[W], bool]:
        """Called once when the time that `notify_at` gave has come."""
        return ((), StatefulBatchLogic.RETAIN)

    def on_eof(self) -> tuple[Iterable[W], bool]:
        """Called once when all input has ended.

        A key that is retained is part of the last snapshot, so that a later run goes on with it.
        """
        return ((), StatefulBatchLogic.RETAIN)

    def notify_at(self) -> datetime | None:
        """When to call `on_notify`; asked after each other call. None cancels.

        The time must carry its time zone. It may be in the past: then it is due at once.
        """
        return None

    @abstractmethod
    def snapshot(self) -> S:
        """The state from which the builder can make an equal object.

        It must not change afterwards: copy whatever this object goes on changing.
        """


def _kernel(step: Operator, _workers: int) -> StatefulBatchKernel:
    return StatefulBatchKernel(step.params["builder"])


@operator(core=True, kernel=_kernel)
def stateful_batch(
    step_id: str,
    up: Stream[tuple[K, V]],
    builder: Callable[[S | None], StatefulBatchLogic[V, W, S]],
) -> Stream[tuple[K, W]]:
    """Keep an object per key that is called with batches of values, timers and the end of input.

    Records are routed so that one worker sees all values of a key. For each batch the keys are
    called in key order and each with its values in arrival order; timers that are due fire after
    that; and at the end of input all live keys are called, in key order. The state of a key is its
    object, of which an epoch saves the `snapshot`. A key that is never discarded stays for ever.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        builder: Called with None for a key without state, or with a snapshot to resume from.

    Returns:
        Keyed stream of what the objects emit.

    Raises:
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or a
            method didn't return `(values, discard)`.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> class Total(op.StatefulBatchLogic):
    ...     def __init__(self, resume):
    ...         self.total = resume or 0
    ...     def on_batch(self, values):
    ...         self.total += sum(values)
    ...         return [self.total], self.RETAIN
    ...     def snapshot(self):
    ...         return self.total
    >>> flow, out = Dataflow("totals"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("b", 5), ("a", 2)], batch_size=3))
    >>> s = op.stateful_batch("total", s, Total)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 3), ('b', 5)]
    """
    require_function(step_id, "builder", builder)
    return cast("Stream[tuple[K, W]]", new_stream(step_id, up))


@dataclass(frozen=True, slots=True)
class StatefulBatchKernel(KeyedKernel):
    """The kernel of `stateful_batch`."""

    builder: Callable[[Any], StatefulBatchLogic[Any, Any, Any]]

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys."""
        return _Running(self.builder, step)


class _Running(KeyedLogic):
    """All keys of one `stateful_batch` on one worker. The states are the users' objects."""

    def __init__(self, builder: Callable[[Any], Any], step: StepContext) -> None:
        self._builder = builder
        self._now_s = step.now_s
        self.timers: Timers = Timers()
        self._state = step.state
        self._state.form = _ObjectForm(builder, self.timers)

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:  # noqa: ARG002 - the only one
        by_key = self._by_key(batch)
        state = self._state
        emitted: list[Any] = []
        for key in by_key if len(by_key) == 1 else sorted_keys(by_key):
            values = by_key[key]
            logic = state.get(key)
            if logic is None:
                logic = build_logic(self._builder, None, "on_batch")
                state.put(key, logic)
            self._after(key, logic, logic.on_batch(values), emitted)
        return emitted

    def _by_key(self, batch: list[Any]) -> dict[Any, list[Any]]:
        """The values of a batch by key. An error report finds the `record` at fault by its name."""
        by_key: dict[Any, list[Any]] = {}
        get = by_key.get
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            kept = get(its_key)
            if kept is None:
                by_key[its_key] = [new]
            else:
                kept.append(new)
        return by_key

    def next_due_s(self) -> float | None:
        return self.timers.first_s()

    def on_notify(self) -> list[Any]:
        emitted: list[Any] = []
        for key in self.timers.pop_due(self._now_s()):
            logic = self._state.get(key)
            self._after(key, logic, logic.on_notify(), emitted)
        return emitted

    def on_eof(self) -> list[Any]:
        emitted: list[Any] = []
        for key in sorted_keys(self._state.all_keys()):
            logic = self._state.get(key)
            self._after(key, logic, logic.on_eof(), emitted)
        return emitted

    def _after(self, key: Any, logic: Any, result: Any, emitted: list[Any]) -> None:
        """Take up what an object returned: emits, discard flag, next notification."""
        emits, discard = checked_result(logic, result)
        for emit in emits:
            emitted.append((key, emit))  # noqa: PERF401 - mostly one or none: no comprehension
        if discard:
            self._state.discard(key)
            self.timers.set(key, None)
        else:
            due = logic.notify_at()
            if due is not None:
                self.timers.set(key, _due_s(logic, due))
            elif key in self.timers.due_s:
                self.timers.set(key, None)


class _ObjectForm(StateForm):
    """A key's object is stored as its snapshot, beside its timer."""

    def __init__(self, builder: Callable[[Any], Any], timers: Timers) -> None:
        self._builder = builder
        self.timers: Timers | None = timers

    def to_stored(self, state: Any) -> Any:
        return state.snapshot()

    def from_stored(self, key: Any, stored: Any) -> Any:
        logic = build_logic(self._builder, stored, "on_batch")
        due = logic.notify_at()
        assert self.timers is not None  # noqa: S101
        self.timers.set(key, None if due is None else _due_s(logic, due))
        return logic


def build_logic(builder: Callable[[Any], Any], resume: Any, method: str) -> Any:
    """Have a user's builder make the object for one key; `method` is one that it must have.

    Raises:
        UserCodeError: What it made has no such method.
    """
    logic = builder(resume)
    if getattr(logic, method, None) is None:
        wanted = "StatefulLogic" if method == "on_item" else "StatefulBatchLogic"
        msg = f"{f_repr(builder)} must return a `{wanted}`; got {shown(logic)}"
        raise UserCodeError(msg, function=builder, hint=f"make a subclass of `{wanted}`")
    return logic


def checked_result(logic: Any, result: Any) -> tuple[Sequence[Any], bool]:
    """What an ``on_*`` method of a user's object returned, refused if it isn't as it must be.

    Raises:
        UserCodeError: It isn't a sequence of values to emit with a `bool` that says to discard.
    """
    if (result.__class__ is not tuple or len(result) != 2) and not is_pair(result):
        raise _wrong(logic, "return `(values, discard)`", result, "`([...], self.RETAIN)`")
    values, discard = result
    if values.__class__ is not list and not _is_sequence(values):
        raise _wrong(logic, "return a sequence of values to emit", values, "a list")
    if discard is not False and discard is not True:
        flags = "`self.RETAIN` or `self.DISCARD`"
        raise _wrong(logic, "return a `bool` that says whether to discard", discard, flags)
    return values, discard


def _is_sequence(values: object) -> bool:
    return isinstance(values, Sequence)


def _due_s(logic: Any, due: Any) -> float:
    if not isinstance(due, datetime) or due.tzinfo is None:
        wanted = "return a `datetime` with a time zone, or None, from `notify_at`"
        raise _wrong(logic, wanted, due, "`datetime.now(timezone.utc)` plus the time to wait")
    return due.timestamp()


def _wrong(logic: Any, wanted: str, got: object, hint: str) -> UserCodeError:
    kind = logic.__class__
    msg = f"`{kind.__qualname__}` must {wanted}; got {shown(got)}"
    return UserCodeError(msg, function=kind, hint=f"return {hint}")
