"""Kernels of the keyed steps that need no timers: they share a loop with stateless steps.

The state of a key is one entry of the step's dict; a key without state has no entry.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from engine.operators._codegen import RecordCode, Value
from engine.operators._images import CHANGELESS, image_of, restored
from engine.operators._kernels import (
    RecordKernel,
    StepContext,
    checked_iterable,
    not_a_pair_raiser,
    write_key_check,
)
from engine.operators._state import KeyedState
from engine.operators._state_options import DEFAULT_STATE, StateOptions
from engine.operators._state_ttl import ExpiringState


class _KeyedRecordKernel(RecordKernel):
    keyed = True
    takes_pairs = True

    def prefetches(self, step: StepContext) -> bool:
        """Wherever there is a store, and records come as pairs."""
        return step.state.tracked and self.takes_pairs

    @staticmethod
    def write_read(code: RecordCode, key: str, value: str, step: StepContext) -> tuple[str, str]:
        """Write the look-up of a key's state; gives its name, and the start of an assignment to it.

        The state is None where the key has none. Most look-ups end in a dict; only those of keys
        that are new, or not in memory, cost a call. The lines that follow must assign a state or
        discard the key, whose state isn't in memory until then. `value` is what the step calls the
        record's time by, if its states have a time to live.
        """
        write_key_check(code, key)
        code.pause_guard()
        touched, rest, state = step.state.touched, step.state.rest, code.name("state")
        code.line(f"{state} = {code.bind('get', touched.get)}({key})")
        if step.state.tracked:
            take, miss = code.bind("take", rest.pop), code.bind("miss", step.state.miss)
            code.nest(f"if {state} is None:")
            code.line(f"{state} = {take}({key}, None)")
            code.block(f"if {state} is None:", f"{state} = {miss}({key})")
            code.leave()
        if code.guarded:
            _write_undo(code, key, state, step.state)
        if isinstance(step.state, ExpiringState):
            write_arrival(code, key, value, state, step.state)
        return state, f"{code.bind('touched', touched)}[{key}]"


@dataclass(frozen=True, slots=True)
class StatefulMapKernel(_KeyedRecordKernel):
    """`stateful_map`: ``mapper(state or None, value) -> (state or None, emit)``."""

    mapper: Callable[[Any, Any], tuple[Any, Any]]
    state_options: StateOptions = DEFAULT_STATE

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """Call the mapper with the state, keep the new one or drop it, emit the rest."""
        key, out = write_transition(code, value, step, self.mapper, "(state, value)")
        return Value(pair=(key, out))


@dataclass(frozen=True, slots=True)
class StatefulFlatMapKernel(_KeyedRecordKernel):
    """`stateful_flat_map`: as `stateful_map`, emitting any number of values."""

    mapper: Callable[[Any, Any], tuple[Any, Iterable[Any]]]
    state_options: StateOptions = DEFAULT_STATE

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """As in `StatefulMapKernel`, then a loop over what is emitted."""
        key, many = write_transition(code, value, step, self.mapper, "(state, [value, ...])")
        items, out = checked_iterable(code, many, self.mapper), code.name("record")
        code.each(out, items)
        return Value(pair=(key, out))


def _write_undo(code: RecordCode, key: str, state: str, states: KeyedState) -> None:
    """Write lines that note what a key has, and go back to that where a record is left out."""
    held, before = code.name("held"), "None"
    # As `image_of` does, which would be a call per record for states that are numbers or text.
    changeless, image = code.bind("changeless", CHANGELESS), code.bind("image", image_of)
    code.line(f"{held} = {state} if {state}.__class__ in {changeless} else {image}({state})")
    if isinstance(states, ExpiringState):
        before = code.name("stamp")
        code.line(f"{before} = {code.bind('stamp_of', states.stamps.get)}({key})")
        if states.event_time is not None:
            latest = code.name("latest")
            code.line(f"{latest} = {code.bind('states', states)}.latest_us")
            before = f"{before}, {latest}"
    put_back, old = code.bind("put_back", states.put_back), code.bind("restored", restored)
    code.resume_guard(f"{put_back}({key}, {old}({held}), {before})")


def write_arrival(
    code: RecordCode, key: str, value: str, state: str, states: ExpiringState
) -> None:
    """Write lines that note when a record came, and make its key's state None if that is over.

    The same as `ExpiringState.arrive`; the time on the wall is read once per batch.
    """
    stamps, stamp_of = code.bind("stamps", states.stamps), code.bind("stamp", states.stamps.get)
    at, over = code.name("at"), code.name("over")
    if states.event_time is None:
        code.first(f"{at} = {code.bind('now', states.now_us)}()")
        code.first(f"{over} = {at} - {states.after_us}")
        expired = f"if {state} is not None and {stamp_of}({key}, {at}) <= {over}:"
        code.block(expired, f"{state} = None")
        code.line(f"{stamps}[{key}] = {at}")
        return
    code.line(f"{at} = {code.bind('event', states.event_us)}({value})")
    seen = code.name("seen")
    code.line(f"{seen} = {stamp_of}({key}, {at})")
    code.nest(f"if {seen} <= {at}:")
    code.block(f"if {seen} <= {at} - {states.after_us}:", f"{state} = None")
    code.line(f"{stamps}[{key}] = {at}")
    code.leave()


def write_transition(
    code: RecordCode,
    value: Value,
    step: StepContext,
    mapper: Callable[..., Any],
    wanted: str,
) -> tuple[str, str]:
    """Write one state transition; gives the names of the key and of what was emitted."""
    key, val = code.pair(value)
    state, entry = _KeyedRecordKernel.write_read(code, key, val, step)
    fn, discard = code.bind("mapper", mapper), code.bind("discard", step.state.discard)
    result, out = code.name("result"), code.name("record")
    code.line(f"{result} = {fn}({state}, {val})")
    code.unpack(state, out, result, not_a_pair_raiser(mapper, wanted))
    code.block(f"if {state} is None:", f"{discard}({key})")
    code.block("else:", f"{entry} = {state}")
    return key, out


class _FinalKernel(_KeyedRecordKernel):
    """Steps that emit one value per key at end of input, in key order, and then forget it."""

    final = True

    def emit_final(self, step: StepContext) -> list[Any]:
        """``(key, state)`` of all keys; the state is gone afterwards."""
        state = step.state
        emitted = [(key, state.peek(key)) for key in state.keys_at_end()]
        state.clear()
        return emitted


@dataclass(frozen=True, slots=True)
class FoldFinalKernel(_FinalKernel):
    """`fold_final`: a state built at a key's first value and folded with each."""

    builder: Callable[[], Any]
    folder: Callable[[Any, Any], Any]
    state_options: StateOptions = DEFAULT_STATE

    def write(self, code: RecordCode, value: Value, step: StepContext) -> None:
        """``states[key] = folder(state or builder(), value)``."""
        key, val = code.pair(value)
        state, entry = self.write_read(code, key, val, step)
        build, fold = code.bind("builder", self.builder), code.bind("folder", self.folder)
        code.block(f"if {state} is None:", f"{state} = {build}()")
        code.line(f"{entry} = {fold}({state}, {val})")


@dataclass(frozen=True, slots=True)
class ReduceFinalKernel(_FinalKernel):
    """`reduce_final`: a key's first value, reduced with each that follows."""

    reducer: Callable[[Any, Any], Any]
    state_options: StateOptions = DEFAULT_STATE

    def write(self, code: RecordCode, value: Value, step: StepContext) -> None:
        """``states[key] = reducer(state, value)``."""
        key, val = code.pair(value)
        state, entry = self.write_read(code, key, val, step)
        reduce, by = code.bind("reducer", self.reducer), _compares_by(self.reducer)
        first = [f"{entry} = {val}"]
        if by is not None and code.guarded:
            # Or a value that can't be compared would be what all others are left out for.
            first.insert(0, f"{code.bind('by', by)}({val})")
        code.block(f"if {state} is None:", *first)
        code.block("else:", f"{entry} = {reduce}({state}, {val})")


def _compares_by(reducer: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """What a reducer that picks the larger or smaller value calls with each; None for others."""
    if not isinstance(reducer, functools.partial) or reducer.func not in (max, min):
        return None
    by: Callable[[Any], Any] | None = reducer.keywords.get("key")
    return by


@dataclass(frozen=True, slots=True)
class CountFinalKernel(_FinalKernel):
    """`count_final`: how many records have a key."""

    takes_pairs = False
    key: Callable[[Any], Any]
    state_options: StateOptions = DEFAULT_STATE

    def write(self, code: RecordCode, value: Value, step: StepContext) -> None:
        """``states[key(record)] += 1``."""
        record, fn, key = code.var(value), code.bind("key_fn", self.key), code.name("key")
        code.line(f"{key} = {fn}({record})")
        state, entry = self.write_read(code, key, record, step)
        code.line(f"{entry} = 1 if {state} is None else {state} + 1")
