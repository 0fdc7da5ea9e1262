"""The graph as plain data: a `Dataflow` of nested `Operator` steps joined by `Stream`s.

Nothing here runs a record. Operators (`engine.dataflow.operator`) append steps to the graph while
the user's module is imported; the planner (`engine.runtime.plan`), the fingerprint and
`engine.visualize` read it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar

X_co = TypeVar("X_co", covariant=True)
R = TypeVar("R")
P = ParamSpec("P")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class SinglePort:
    """Where one stream enters or leaves a step."""

    port_id: str
    stream_id: str

    @property
    def stream_ids(self) -> tuple[str, ...]:
        """The connected stream, in the form a `MultiPort` gives it."""
        return (self.stream_id,)


@dataclass(frozen=True, slots=True)
class MultiPort:
    """Where any number of streams enter a step (``*ups`` or ``**ups``), in argument order."""

    port_id: str
    streams: Mapping[str, str]

    @property
    def stream_ids(self) -> tuple[str, ...]:
        """The connected streams, in argument order."""
        return tuple(self.streams.values())


Port: TypeAlias = SinglePort | MultiPort


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a dataflow, and the steps that it is made of.

    A core operator is implemented by the runtime and has no substeps. Any other is a composition;
    it may offer a `kernel`, a faster equal of its substeps that the planner uses in their place.
    """

    op_type: str
    """Module and name of the operator function, as in ``engine.operators.map``."""
    step_name: str
    """What the user called the step."""
    step_id: str
    """The step name with the names of all enclosing steps before it: ``flow.outer.inner``."""
    ups: Mapping[str, Port]
    """Input ports by parameter name."""
    downs: Mapping[str, Port]
    """Output ports by name; a single output is called ``down``."""
    params: Mapping[str, Any]
    """The arguments of the call that are not streams, by parameter name, defaults included."""
    substeps: list[Operator]
    core: bool
    kernel: Callable[[Operator, int], object | None] | None = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The operator's bare name, as in ``map``."""
        return self.op_type.rpartition(".")[2]

    @property
    def ups_names(self) -> list[str]:
        """Names of the input ports."""
        return list(self.ups)

    @property
    def dwn_names(self) -> list[str]:
        """Names of the output ports."""
        return list(self.downs)


@dataclass(frozen=True, slots=True)
class Scope:
    """The step (or flow) inside which an operator call adds its step."""

    parent_id: str
    substeps: list[Operator] = field(repr=False)
    flow: Dataflow = field(repr=False)


@dataclass(frozen=True)
class Dataflow:
    """The root of a graph of steps.

    Args:
        flow_id: Name of the flow. It begins every step id, so keep it when you change the flow.

    Raises:
        TypeError: `flow_id` is not a `str`.
        ValueError: `flow_id` is empty or has a dot in it.

    >>> flow = Dataflow("orders")
    >>> flow.flow_id
    'orders'
    """

    flow_id: str
    substeps: list[Operator] = field(default_factory=list[Operator], repr=False)

    def __post_init__(self) -> None:
        check_name("flow id", self.flow_id)

    def _scope(self) -> Scope:
        return Scope(self.flow_id, self.substeps, self)


@dataclass(frozen=True, slots=True)
class Stream(Generic[X_co]):
    """A handle on the records that one output of a step gives.

    Pass it to further operators. Passing it to several copies the stream: each gets every record,
    the same objects.
    """

    stream_id: str
    _scope: Scope = field(repr=False, compare=False)

    def flow(self) -> Dataflow:
        """The dataflow that this stream is part of."""
        return self._scope.flow

    def then(
        self,
        op_fn: Callable[Concatenate[str, Stream[X_co], P], R],
        step_id: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call an operator with this stream as its first input, to write a flow as one chain.

        >>> import engine.operators as op
        >>> from engine.testing import TestingSource
        >>> flow = Dataflow("chain")
        >>> s = op.input("in", flow, TestingSource([1, 2]))
        >>> s = s.then(op.map, "double", lambda x: x * 2).then(op.map, "more", lambda x: x + 1)
        """
        return op_fn(step_id, self, *args, **kwargs)


KeyedStream: TypeAlias = Stream[tuple[str, V]]
"""A stream of ``(key, value)`` 2-tuples, which stateful operators need.

`str` keys are the rule; `bytes`, `int` and tuples of these work as well.
"""


def check_name(what: str, name: object) -> None:
    """Refuse a flow or step name that could not be part of a dotted step id."""
    if not isinstance(name, str):
        msg = f"{what} must be a `str`; got {name!r} of type `{type(name).__name__}`"
        raise TypeError(msg)
    if not name:
        msg = f"{what} must not be empty"
        raise ValueError(msg)
    if "." in name or "\0" in name:
        msg = f"{what} {name!r} must not contain a dot or a NUL: dots join nested step names"
        raise ValueError(msg)
