"""`stateful_batch`, the core of all keyed steps: an object of the user's own for every key.

The other stateful operators are compositions of it (or have kernels that equal such a
composition). Called by users who need batches, timers, or the end of input per key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Generic, cast

from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._checks import require_function
from engine.operators._state_options import TTL, check_state, state_options
from engine.operators._stateful_batch_kernel import StatefulBatchKernel
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
    return StatefulBatchKernel(step.params["builder"], state_options(step.params))


@operator(core=True, kernel=_kernel)
def stateful_batch(
    step_id: str,
    up: Stream[tuple[K, V]],
    builder: Callable[[S | None], StatefulBatchLogic[V, W, S]],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> Stream[tuple[K, W]]:
    """Keep an object per key that is called with batches of values, timers and the end of input.

    Records are routed so that one worker sees all values of a key. For each batch the keys are
    called in key order and each with its values in arrival order; timers that are due fire after
    that; and at the end of input all live keys are called, in key order. The state of a key is its
    object, of which an epoch saves the `snapshot`. A key that is never discarded stays for ever,
    unless there is a `ttl`: then the object of a silent key is dropped without being called.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        builder: Called with None for a key without state, or with a snapshot to resume from.
        ttl: How long a key may be silent until its object is dropped, by the wall clock or by a
            `TTL`; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of what the objects emit.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
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
    check_state(step_id, state_version, migrate, ttl)
    return cast("Stream[tuple[K, W]]", new_stream(step_id, up))
