"""The `operator` decorator: turns a builder function into a step of the graph.

Calling the decorated function opens a scope named after the step, runs the builder in it, so that
operators called inside become its substeps, and appends the finished `Operator` to the scope
outside. All built-in operators are made with it, and so are users' own.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast, overload

from engine.dataflow._graph import (
    Dataflow,
    MultiPort,
    Operator,
    Port,
    Scope,
    SinglePort,
    Stream,
    check_name,
)

F = TypeVar("F", bound=Callable[..., Any])
_NAMES_A_STREAM = re.compile(r"\b(Keyed)?Stream\b")


@overload
def operator(builder: F) -> F: ...
@overload
def operator(
    *, core: bool = False, kernel: Callable[[Operator, int], object | None] | None = None
) -> Callable[[F], F]: ...
def operator(
    builder: F | None = None,
    *,
    core: bool = False,
    kernel: Callable[[Operator, int], object | None] | None = None,
) -> F | Callable[[F], F]:
    """Make an operator out of a function that composes other operators.

    The function's first parameter must be ``step_id``. Parameters that are given streams become
    the step's inputs; the returned stream (or each field of a returned dataclass of streams)
    becomes an output, and nothing returned makes it an end of the flow.

    Args:
        builder: The function that composes the operator.
        core: The runtime itself implements the step (for the engine's own use).
        kernel: Given the step and the number of workers, makes a faster equal of the composition,
            which the planner uses instead of it; None where the composition is best.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow, Stream, operator
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> @operator
    ... def add_then_double(step_id: str, up: Stream[int], n: int) -> Stream[int]:
    ...     added = op.map("add", up, lambda x: x + n)
    ...     return op.map("double", added, lambda x: x * 2)
    >>> flow = Dataflow("own_operator")
    >>> out = []
    >>> s = op.input("in", flow, TestingSource([1, 2, 3]))
    >>> s = add_then_double("calc", s, 10)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [22, 24, 26]
    """

    def decorate(fn: F) -> F:
        definition = _Definition(fn, _op_type(fn), inspect.signature(fn), core, kernel)
        if next(iter(definition.signature.parameters), None) != "step_id":
            msg = f"the first parameter of operator `{fn.__qualname__}` must be `step_id`"
            raise TypeError(msg)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return _call(definition, args, kwargs)

        return cast("F", call)

    return decorate if builder is None else decorate(builder)


@dataclass(frozen=True, slots=True)
class _Definition:
    builder: Callable[..., Any]
    op_type: str
    signature: inspect.Signature
    core: bool
    kernel: Callable[[Operator, int], object | None] | None


def _call(definition: _Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operator call: check it, build inside a new scope, append the step outside."""
    bound = _bound(definition, args, kwargs)
    step_name = bound.arguments["step_id"]
    check_name(f"step id of operator `{_short(definition.op_type)}`", step_name)
    _check_streams(definition, step_name, bound.arguments)
    outer = _outer_scope(definition, step_name, bound.arguments)
    step_id = f"{outer.parent_id}.{step_name}"
    if any(step.step_id == step_id for step in outer.substeps):
        msg = f"step id {step_id!r} already exists; give every step of a flow its own name"
        raise ValueError(msg)

    inner = Scope(step_id, [], outer.flow)
    ups = dict(_up_ports(step_id, bound.arguments))
    params = {
        name: value
        for name, value in bound.arguments.items()
        if name not in ups and name != "step_id" and not isinstance(value, Dataflow)
    }
    bound.arguments.update(
        {name: _rescoped(value, inner) for name, value in bound.arguments.items() if name in ups}
    )
    bound.arguments["step_id"] = step_id
    if not definition.core:
        for name, value in bound.arguments.items():
            if isinstance(value, Dataflow):
                bound.arguments[name] = _Nested(inner)
    result = definition.builder(*bound.args, **bound.kwargs)
    downs = dict(_down_ports(definition, step_id, result))
    outer.substeps.append(
        Operator(
            op_type=definition.op_type,
            step_name=step_name,
            step_id=step_id,
            ups=ups,
            downs=downs,
            params=params,
            substeps=inner.substeps,
            core=definition.core,
            kernel=definition.kernel,
        )
    )
    return _rescope_result(result, outer)


def _bound(
    definition: _Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    """The arguments of a call by name, with those that were left out."""
    try:
        bound = definition.signature.bind(*args, **kwargs)
    except TypeError as ex:
        names = ", ".join(definition.signature.parameters)
        msg = f"operator `{_short(definition.op_type)}`: {ex}; its arguments are: {names}"
        raise TypeError(msg) from None
    bound.apply_defaults()
    return bound


class _Nested(Dataflow):
    """What a composed operator that takes the flow itself sees: the same flow, scoped to the step.

    So that ``op.input`` called inside it becomes a substep and not a step of the flow.
    """

    def __init__(self, scope: Scope) -> None:
        object.__setattr__(self, "flow_id", scope.flow.flow_id)
        object.__setattr__(self, "substeps", scope.substeps)
        object.__setattr__(self, "_inner", scope)

    def _scope(self) -> Scope:
        return cast("Scope", self._inner)  # type: ignore[attr-defined]


def _op_type(builder: Callable[..., Any]) -> str:
    """Module and name of a builder; for the engine's own, the public package it is part of.

    The private module that an operator is written in may change from release to release, and the
    fingerprint must not.
    """
    module: str = builder.__module__
    if module.startswith("engine."):
        module = module.partition("._")[0]
    return f"{module}.{builder.__qualname__}"


def _short(op_type: str) -> str:
    return op_type.rpartition(".")[2]


def _streams_in(value: object) -> tuple[Stream[Any], ...]:
    """The streams that one argument carries: itself, or all of ``*ups`` or ``**ups``."""
    if isinstance(value, Stream):
        return (cast("Stream[Any]", value),)
    items: tuple[object, ...] = ()
    if isinstance(value, tuple):
        items = cast("tuple[object, ...]", value)
    elif isinstance(value, dict):
        items = tuple(cast("dict[str, object]", value).values())
    if items and all(isinstance(item, Stream) for item in items):
        return cast("tuple[Stream[Any], ...]", items)
    return ()


def _check_streams(definition: _Definition, step_name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse anything else where the signature asks for a stream."""
    for name, parameter in definition.signature.parameters.items():
        if not _NAMES_A_STREAM.search(str(parameter.annotation).partition("[")[0]):
            continue
        value = arguments[name]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            given = list(value)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given = list(value.values())
        else:
            given = [value]
        for item in given:
            if not isinstance(item, Stream):
                raise TypeError(_not_a_stream(definition, step_name, name, item))


def _not_a_stream(definition: _Definition, step_name: str, name: str, item: object) -> str:
    msg = (
        f"`{name}` of operator `{_short(definition.op_type)}` (step {step_name!r}) must be a "
        f"`Stream`; got {item!r} of type `{type(item).__name__}`"
    )
    if is_dataclass(item) and not isinstance(item, type):
        outputs = [f.name for f in fields(item) if isinstance(getattr(item, f.name), Stream)]
        if outputs:
            return f"{msg}; did you forget to unpack it? Its streams are: {', '.join(outputs)}"
    return f"{msg}; did you forget to unpack the result of the operator before?"


def _outer_scope(definition: _Definition, step_name: str, arguments: Mapping[str, Any]) -> Scope:
    """The one scope that all streams of the call are in."""
    scopes: list[Scope] = []
    for value in arguments.values():
        if isinstance(value, Dataflow):
            scopes.append(value._scope())  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        scopes.extend(s._scope for s in _streams_in(value))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    label = f"operator `{_short(definition.op_type)}` (step {step_name!r})"
    if not scopes:
        msg = f"{label} got neither a stream nor a dataflow, so it belongs to no flow"
        raise TypeError(msg)
    first = scopes[0]
    for other in scopes[1:]:
        if other.flow is not first.flow:
            msg = (
                f"{label} got streams of two dataflows, {first.flow.flow_id!r} and "
                f"{other.flow.flow_id!r}; a step belongs to one flow"
            )
            raise ValueError(msg)
        if other.substeps is not first.substeps:
            msg = (
                f"{label} got streams of different scopes, {first.parent_id!r} and "
                f"{other.parent_id!r}; inconsistent stream scoping: hand a stream from outside to "
                "an operator as a parameter of its own, not within a list or a closure"
            )
            raise ValueError(msg)
    return first


def _up_ports(step_id: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Port]]:
    for name, value in arguments.items():
        port_id = f"{step_id}.{name}"
        if isinstance(value, Stream):
            yield name, SinglePort(port_id, cast("Stream[Any]", value).stream_id)
        elif _streams_in(value):
            named: Mapping[str, Stream[Any]] = (
                cast("dict[str, Stream[Any]]", value)
                if isinstance(value, dict)
                else {str(i): s for i, s in enumerate(_streams_in(value))}
            )
            yield name, MultiPort(port_id, {k: s.stream_id for k, s in named.items()})


def _down_ports(
    definition: _Definition, step_id: str, result: object
) -> Iterator[tuple[str, Port]]:
    if result is None:
        return
    if isinstance(result, Stream):
        yield "down", SinglePort(f"{step_id}.down", cast("Stream[Any]", result).stream_id)
        return
    if is_dataclass(result) and not isinstance(result, type):
        for f in fields(result):
            stream = getattr(result, f.name)
            if isinstance(stream, Stream):
                stream_id = cast("Stream[Any]", stream).stream_id
                yield f.name, SinglePort(f"{step_id}.{f.name}", stream_id)
        return
    msg = (
        f"operator `{_short(definition.op_type)}` (step {step_id!r}) must return a `Stream`, a "
        f"dataclass of streams, or None; its builder returned `{type(result).__name__}`"
    )
    raise TypeError(msg)


def _rescoped(value: Any, scope: Scope) -> Any:
    if isinstance(value, Stream):
        return replace(cast("Stream[Any]", value), _scope=scope)
    if isinstance(value, dict):
        named = cast("dict[str, Stream[Any]]", value)
        return {name: replace(s, _scope=scope) for name, s in named.items()}
    return tuple(replace(s, _scope=scope) for s in _streams_in(value))


def _rescope_result(result: Any, scope: Scope) -> Any:
    """Hand the outputs to the caller as streams of the caller's scope."""
    if result is None or isinstance(result, Stream):
        return None if result is None else _rescoped(result, scope)
    changed = {
        f.name: _rescoped(getattr(result, f.name), scope)
        for f in fields(result)
        if isinstance(getattr(result, f.name), Stream)
    }
    return replace(result, **changed)


def new_stream(step_id: str, up: Stream[Any] | Dataflow, port: str = "down") -> Stream[Any]:
    """The output of a core operator: what its builder returns. For the engine's operators."""
    scope = up._scope() if isinstance(up, Dataflow) else up._scope  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return Stream(f"{step_id}.{port}", scope)
