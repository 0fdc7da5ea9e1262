"""The kernel of `join`: one port per side, loops over batches, no object per record.

A join of two sides that emits when complete is by far the most common, and needs no more state
than the one value that waits; it has a loop of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.operators._join_state import INSERTS, JoinEmitMode, JoinInsertMode, rows
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._picking import picks_of
from engine.operators._state import KeyedState
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.operators._state_ttl import ExpiringState


@dataclass(frozen=True, slots=True)
class JoinKernel(KeyedKernel):
    """`join` of a number of sides."""

    sides: int
    insert_mode: JoinInsertMode
    emit_mode: JoinEmitMode
    state_options: StateOptions = DEFAULT_STATE

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with no keys in memory."""
        logic = self._logic(step.state)
        logic.picks = picks_of(step.state, step.failures, self.sides)
        return logic

    def _logic(self, state: KeyedState) -> KeyedLogic:
        keep_first = self.insert_mode == "first"
        if self.sides != 2 or self.emit_mode != "complete" or self.insert_mode == "product":
            return _Rows(state, self)
        if isinstance(state, ExpiringState):
            return _ExpiringPairs(state, keep_first=keep_first)
        return _CompletePairs(state, keep_first=keep_first)


class _CompletePairs(KeyedLogic):
    """Two sides, each with at most one value per key, emitted when both are there.

    The state of a key is `(side, value)` of the value that waits.
    """

    def __init__(self, state: KeyedState, *, keep_first: bool) -> None:
        self._state = state
        self._keep_first = keep_first

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        touched, rest = self._state.touched, self._state.rest
        get, take, miss, discard = touched.get, rest.pop, self._state.miss, self._state.discard
        keep_first = self._keep_first
        emitted: list[Any] = []
        emit = emitted.append
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            waiting = get(its_key)
            if waiting is None and (waiting := take(its_key, None) or miss(its_key)) is None:
                touched[its_key] = (port, new)
                continue
            side, other = waiting
            if side != port:
                discard(its_key)
                emit((its_key, (new, other) if port == 0 else (other, new)))
            else:
                touched[its_key] = waiting if keep_first else (port, new)
        return emitted


class _ExpiringPairs(KeyedLogic):
    """As `_CompletePairs`, with a time to live."""

    def __init__(self, state: ExpiringState, *, keep_first: bool) -> None:
        self._state = state
        self._keep_first = keep_first

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        state, time_us = self._state, self._state.arrival_us()
        emitted: list[Any] = []
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            waiting = state.arrive(its_key, time_us(new))
            if waiting is None or (waiting[0] == port and not self._keep_first):
                state.put(its_key, (port, new))
            elif waiting[0] == port:
                # Its value stays, but its age is another.
                state.put(its_key, waiting)
            else:
                state.discard(its_key)
                other = waiting[1]
                emitted.append((its_key, (new, other) if port == 0 else (other, new)))
        return emitted


class _Rows(KeyedLogic):
    """Any number of sides, in any mode. The state of a key is `Seen`."""

    def __init__(self, state: KeyedState, kernel: JoinKernel) -> None:
        self._state = state
        self._sides = kernel.sides
        self._insert = INSERTS[kernel.insert_mode]
        self._emit_mode = kernel.emit_mode

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        state, insert, sides = self._state, self._insert, self._sides
        complete, running = self._emit_mode == "complete", self._emit_mode == "running"
        arrive = time_us = None
        if isinstance(state, ExpiringState):
            arrive, time_us = state.arrive, state.arrival_us()
        emitted: list[Any] = []
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            its_key, new = record
            if its_key.__class__ is not str:
                check_key(its_key)
            if time_us is None or arrive is None:
                seen = state.get(its_key)
            elif (seen := arrive(its_key, time_us(new))) is not None:
                state.put(its_key, seen)
            if seen is None:
                seen = [()] * sides
                state.put(its_key, seen)
            insert(seen, port, new)
            if running:
                emitted.extend([(its_key, row) for row in rows(seen)])
            elif complete and all(seen):
                state.discard(its_key)
                emitted.extend([(its_key, row) for row in rows(seen)])
        return emitted

    def on_eof(self) -> list[Any]:
        if self._emit_mode != "final":
            return []
        state = self._state
        keys = state.keys_at_end()
        emitted = [(key, row) for key in keys for row in rows(state.peek(key))]
        state.clear()
        return emitted
