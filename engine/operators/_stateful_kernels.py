"""Kernels of the keyed steps that need no timers: they share a loop with stateless steps.

The state of a key is one entry of the step's dict; a key without state has no entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from engine.operators._codegen import RecordCode, Value
from engine.operators._kernels import (
    RecordKernel,
    StepContext,
    checked_iterable,
    not_a_pair_raiser,
    write_key_check,
)
from engine.operators._keys import sorted_keys


class _KeyedRecordKernel(RecordKernel):
    keyed = True

    @staticmethod
    def write_states(code: RecordCode, value: Value, step: StepContext) -> tuple[str, ...]:
        """Names of key, value, the dict of states and its `get`, the key checked."""
        key, val = code.pair(value)
        write_key_check(code, key)
        return key, val, code.bind("states", step.states), code.bind("get", step.states.get)


@dataclass(frozen=True, slots=True)
class StatefulMapKernel(_KeyedRecordKernel):
    """`stateful_map`: ``mapper(state or None, value) -> (state or None, emit)``."""

    mapper: Callable[[Any, Any], tuple[Any, Any]]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """Call the mapper with the state, keep the new one or drop it, emit the rest."""
        key, out = write_transition(code, value, step, self.mapper, "(state, value)")
        return Value(pair=(key, out))


@dataclass(frozen=True, slots=True)
class StatefulFlatMapKernel(_KeyedRecordKernel):
    """`stateful_flat_map`: as `stateful_map`, emitting any number of values."""

    mapper: Callable[[Any, Any], tuple[Any, Iterable[Any]]]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """As in `StatefulMapKernel`, then a loop over what is emitted."""
        key, many = write_transition(code, value, step, self.mapper, "(state, [value, ...])")
        items, out = checked_iterable(code, many, self.mapper), code.name("record")
        code.nest(f"for {out} in {items}:")
        return Value(pair=(key, out))


def write_transition(
    code: RecordCode,
    value: Value,
    step: StepContext,
    mapper: Callable[..., Any],
    wanted: str,
) -> tuple[str, str]:
    """Write one state transition; gives the names of the key and of what was emitted."""
    key, val, states, get = _KeyedRecordKernel.write_states(code, value, step)
    fn, pop = code.bind("mapper", mapper), code.bind("pop", step.states.pop)
    result, state, out = code.name("result"), code.name("state"), code.name("record")
    code.line(f"{result} = {fn}({get}({key}), {val})")
    code.unpack(state, out, result, not_a_pair_raiser(mapper, wanted))
    code.block(f"if {state} is None:", f"{pop}({key}, None)")
    code.block("else:", f"{states}[{key}] = {state}")
    return key, out


class _FinalKernel(_KeyedRecordKernel):
    """Steps that emit one value per key at end of input, in key order, and then forget it."""

    final = True

    def emit_final(self, step: StepContext) -> list[Any]:
        """``(key, state)`` of all keys; the state is gone afterwards."""
        states = step.states
        emitted = [(key, states[key]) for key in sorted_keys(states)]
        states.clear()
        return emitted


@dataclass(frozen=True, slots=True)
class FoldFinalKernel(_FinalKernel):
    """`fold_final`: a state built at a key's first value and folded with each."""

    builder: Callable[[], Any]
    folder: Callable[[Any, Any], Any]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> None:
        """``states[key] = folder(state or builder(), value)``."""
        key, val, states, get = self.write_states(code, value, step)
        build, fold = code.bind("builder", self.builder), code.bind("folder", self.folder)
        state = code.name("state")
        code.line(f"{state} = {get}({key})")
        code.block(f"if {state} is None:", f"{state} = {build}()")
        code.line(f"{states}[{key}] = {fold}({state}, {val})")


@dataclass(frozen=True, slots=True)
class ReduceFinalKernel(_FinalKernel):
    """`reduce_final`: a key's first value, reduced with each that follows."""

    reducer: Callable[[Any, Any], Any]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> None:
        """``states[key] = reducer(state, value)``."""
        key, val, states, get = self.write_states(code, value, step)
        reduce, state = code.bind("reducer", self.reducer), code.name("state")
        code.line(f"{state} = {get}({key})")
        code.block(f"if {state} is None:", f"{states}[{key}] = {val}")
        code.block("else:", f"{states}[{key}] = {reduce}({state}, {val})")


@dataclass(frozen=True, slots=True)
class CountFinalKernel(_FinalKernel):
    """`count_final`: how many records have a key."""

    key: Callable[[Any], Any]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> None:
        """``states[key(record)] += 1``."""
        record, fn, key = code.var(value), code.bind("key_fn", self.key), code.name("key")
        states, get = code.bind("states", step.states), code.bind("get", step.states.get)
        code.line(f"{key} = {fn}({record})")
        write_key_check(code, key)
        code.line(f"{states}[{key}] = {get}({key}, 0) + 1")
