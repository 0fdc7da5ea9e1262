"""`stateful` and what is made of it: state per key, one value at a time.

`stateful` is a composition of the core operator `stateful_batch`; `stateful_map` and
`stateful_flat_map` are compositions of `stateful`, with kernels (`_stateful_kernels`).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, cast

from engine.dataflow import Operator, Stream, operator
from engine.operators._checks import require_function
from engine.operators._kernels import not_a_pair_raiser
from engine.operators._mapping import iterable_from
from engine.operators._state_options import TTL, check_state, state_options
from engine.operators._stateful_batch import StatefulBatchLogic, stateful_batch
from engine.operators._stateful_batch_kernel import BuilderValueByValue
from engine.operators._stateful_kernels import StatefulFlatMapKernel, StatefulMapKernel
from engine.operators._stateful_objects import ValueByValue, build_logic, checked_result
from engine.operators._types import K, S, V, W


class StatefulLogic(ABC, Generic[V, W, S]):
    """What `stateful` does for one key. Make a subclass; the builder gives one per key.

    Every ``on_*`` method returns what to emit (a sequence of values) and whether to discard this
    object. After `DISCARD` the key's state and timer are gone; its next value gets a new object,
    even if it stands in the same batch.
    """

    __slots__ = ()

    RETAIN: bool = False
    """Return this as the second value to keep this object."""
    DISCARD: bool = True
    """Return this as the second value to drop this object and its state."""

    @abstractmethod
    def on_item(self, value: V) -> tuple[Iterable[W], bool]:
        """Called with each value of the key, in arrival order."""

    def on_notify(self) -> tuple[Iterable[W], bool]:
        """Called once when the time that `notify_at` gave has come."""
        return ((), StatefulLogic.RETAIN)

    def on_eof(self) -> tuple[Iterable[W], bool]:
        """Called once when all input has ended.

        A key that is retained is part of the last snapshot, so that a later run goes on with it.
        """
        return ((), StatefulLogic.RETAIN)

    def notify_at(self) -> datetime | None:
        """When to call `on_notify`; asked after the values of a batch and after each other call.

        The time must carry its time zone. None cancels. It may be in the past: then it is due at
        once.
        """
        return None

    @abstractmethod
    def snapshot(self) -> S:
        """The state from which the builder can make an equal object.

        It must not change afterwards: copy whatever this object goes on changing.
        """


@operator
def stateful(
    step_id: str,
    up: Stream[tuple[K, V]],
    builder: Callable[[S | None], StatefulLogic[V, W, S]],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> Stream[tuple[K, W]]:
    """Keep an object per key that is called with each value, timers and the end of input.

    Records are routed so that one worker sees all values of a key, in arrival order. The keys of a
    batch are taken in key order. The state of a key is its object, of which an epoch saves the
    `snapshot`. A key that is never discarded stays for ever, unless there is a `ttl`: then the
    object of a silent key is dropped without being called.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        builder: Called with None for a key without state, or with a snapshot to resume from; makes
            the key's `StatefulLogic`.
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
    >>> class UpToTen(op.StatefulLogic):
    ...     def __init__(self, resume):
    ...         self.total = resume or 0
    ...     def on_item(self, value):
    ...         self.total += value
    ...         if self.total < 10:
    ...             return [], self.RETAIN
    ...         return [self.total], self.DISCARD
    ...     def on_eof(self):
    ...         return [self.total], self.DISCARD
    ...     def snapshot(self):
    ...         return self.total
    >>> flow, out = Dataflow("stateful_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 4), ("a", 7), ("b", 5), ("a", 1)]))
    >>> s = op.stateful("up_to_ten", s, UpToTen)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 11), ('a', 1), ('b', 5)]
    """
    require_function(step_id, "builder", builder)
    check_state(step_id, state_version, migrate, ttl)

    return stateful_batch(
        "stateful_batch",
        up,
        _OneByOneBuilder(builder),
        ttl=ttl,
        state_version=state_version,
        migrate=migrate,
    )


class _OneByOneBuilder(BuilderValueByValue, Generic[V, W, S]):
    """Makes the object of a key out of that of a user's builder."""

    def __init__(self, builder: Callable[[S | None], StatefulLogic[V, W, S]]) -> None:
        self._builder = builder

    def __call__(self, resume: S | None) -> _OneByOne[V, W, S]:
        return _OneByOne(self._builder, resume)


class _OneByOne(StatefulBatchLogic[V, W, S], ValueByValue):
    """A `StatefulBatchLogic` that hands the values of a batch to a `StatefulLogic` one by one."""

    __slots__ = ("_builder", "_logic")

    def __init__(
        self, builder: Callable[[S | None], StatefulLogic[V, W, S]], resume: S | None
    ) -> None:
        self._builder = builder
        self._logic: StatefulLogic[V, W, S] = build_logic(builder, resume, "on_item")

    def on_batch(self, values: list[V]) -> tuple[list[W], bool]:
        emitted: list[W] = []
        logic, discarded = self._logic, False
        for value in values:
            if discarded:
                logic = build_logic(self._builder, None, "on_item")
            emits, discarded = checked_result(logic, logic.on_item(value))
            emitted += emits
        # A discarded logic takes this object with it, so nothing is called on it any more.
        self._logic = logic
        return emitted, discarded

    def on_notify(self) -> tuple[Iterable[W], bool]:
        return self._logic.on_notify()

    def on_eof(self) -> tuple[Iterable[W], bool]:
        return self._logic.on_eof()

    def notify_at(self) -> datetime | None:
        return self._logic.notify_at()

    def snapshot(self) -> S:
        return self._logic.snapshot()


def _flat_map_kernel(step: Operator, _workers: int) -> StatefulFlatMapKernel:
    return StatefulFlatMapKernel(step.params["mapper"], state_options(step.params))


@operator(kernel=_flat_map_kernel)
def stateful_flat_map(
    step_id: str,
    up: Stream[tuple[K, V]],
    mapper: Callable[[S | None, V], tuple[S | None, Iterable[W]]],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> Stream[tuple[K, W]]:
    """Turn each value into any number of others, with a state per key.

    Records are routed so that one worker sees all values of a key, in arrival order. What is
    emitted keeps that order within a key; between the keys of a batch there is none. The state of
    a key is what the mapper returned last, until it returns None or the key's `ttl` is over.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        mapper: Called with the key's state (None if it has none) and each value. Returns the new
            state, or None to discard it, and an iterable of values to emit.
        ttl: How long a key may be silent until its state is dropped, by the wall clock or by a
            `TTL`; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of what the mapper emits.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or
            the mapper didn't return a 2-tuple with an iterable.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> def changes(last, value):
    ...     return value, [] if value == last else [value]
    >>> flow, out = Dataflow("stateful_flat_map_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("a", 1), ("b", 1), ("a", 2)]))
    >>> s = op.stateful_flat_map("changes", s, changes)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 1), ('b', 1), ('a', 2)]
    """
    require_function(step_id, "mapper", mapper)
    check_state(step_id, state_version, migrate, ttl)

    def transition(state: S | None, value: V) -> tuple[S | None, Iterable[W]]:
        new_state, emits = _pair_from(mapper, mapper(state, value), "(state, [value, ...])")
        return new_state, iterable_from(mapper, emits)

    def build(resume: S | None) -> _Transitions[V, W, S]:
        return _Transitions(transition, resume)

    return stateful("stateful", up, build, ttl=ttl, state_version=state_version, migrate=migrate)


def _map_kernel(step: Operator, _workers: int) -> StatefulMapKernel:
    return StatefulMapKernel(step.params["mapper"], state_options(step.params))


@operator(kernel=_map_kernel)
def stateful_map(
    step_id: str,
    up: Stream[tuple[K, V]],
    mapper: Callable[[S | None, V], tuple[S | None, W]],
    *,
    ttl: timedelta | TTL[V] | None = None,
    state_version: int = 1,
    migrate: Callable[[int, Any], S] | None = None,
) -> Stream[tuple[K, W]]:
    """Turn each value into one other, with a state per key.

    Records are routed so that one worker sees all values of a key, in arrival order. What is
    emitted keeps that order within a key; between the keys of a batch there is none. The state of
    a key is what the mapper returned last, until it returns None or the key's `ttl` is over.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
        mapper: Called with the key's state (None if it has none) and each value. Returns the new
            state, or None to discard it, and the value to emit.
        ttl: How long a key may be silent until its state is dropped, by the wall clock or by a
            `TTL`; for ever by default.
        state_version: Version of the form that the states have.
        migrate: Called with the version of an older stored state and that state; gives it in the
            present form.

    Returns:
        Keyed stream of what the mapper emits.

    Raises:
        TypeError: `ttl`, `state_version` or `migrate` is of a wrong type; raised while the flow is
            built.
        ValueError: `ttl` or `state_version` is out of range; raised likewise.
        UserCodeError: A record isn't a `(key, value)` 2-tuple with a key of an allowed type, or
            the mapper didn't return a 2-tuple.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> def running_sum(total, value):
    ...     total = (total or 0) + value
    ...     return total, total
    >>> flow, out = Dataflow("stateful_map_example"), []
    >>> s = op.input("in", flow, TestingSource([("a", 1), ("b", 5), ("a", 2)]))
    >>> s = op.stateful_map("sum", s, running_sum)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('a', 1), ('b', 5), ('a', 3)]
    """
    require_function(step_id, "mapper", mapper)
    check_state(step_id, state_version, migrate, ttl)

    def emit_one(state: S | None, value: V) -> tuple[S | None, list[W]]:
        new_state, emit = _pair_from(mapper, mapper(state, value), "(state, value)")
        return new_state, [emit]

    return stateful_flat_map(
        "stateful_flat_map",
        up,
        emit_one,
        ttl=ttl,
        state_version=state_version,
        migrate=migrate,
    )


class _Transitions(StatefulLogic[V, W, S]):
    """A `StatefulLogic` whose state is what a function made of the state before and the value."""

    __slots__ = ("_state", "_transition")

    def __init__(
        self,
        transition: Callable[[S | None, V], tuple[S | None, Iterable[W]]],
        resume: S | None,
    ) -> None:
        self._transition = transition
        self._state = resume

    def on_item(self, value: V) -> tuple[Sequence[W], bool]:
        self._state, emits = self._transition(self._state, value)
        return list(emits), self._state is None

    def snapshot(self) -> S:
        # The user's function may change the state in place when the next value comes.
        return cast("S", copy.deepcopy(self._state))


def _pair_from(
    mapper: Callable[..., Any], result: tuple[S | None, W], wanted: str
) -> tuple[S | None, W]:
    """What a stateful mapper returned, refused if it isn't a pair."""
    if result.__class__ is not tuple or len(result) != 2:
        not_a_pair_raiser(mapper, wanted)(result)
    return result
