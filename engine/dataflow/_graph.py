"""The graph as plain data: a `Dataflow` of nested `Operator` steps joined by `Stream`s.

Nothing here runs a record. Operators (`engine.dataflow.operator`) append steps to the graph while
the user's module is imported; the planner (`engine.runtime.plan`), the fingerprint and
`engine.visualize` read it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeAlias, TypeVar, get_args

X_co = TypeVar("X_co", covariant=True)
R = TypeVar("R")
P = ParamSpec("P")
V = TypeVar("V")

ErrorPolicy: TypeAlias = Literal["fail", "skip", "dead_letter"]
"""What becomes of a record that a step's function raises for: the run ends; or the record is left
out; or it is left out and kept as a dead letter."""


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
    on_error: ErrorPolicy | None = None
    """What becomes of records that its functions raise for; None to do as the step around it."""

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
        on_error: What becomes of records that a step's function raises for, in all steps that say
            nothing else by `Stream.on_error`: the run ends (``"fail"``), they are left out
            (``"skip"``), or left out and kept (``"dead_letter"``).

    Raises:
        TypeError: `flow_id` is not a `str`.
        ValueError: `flow_id` is empty or has a dot in it, or `on_error` is something else.

    >>> flow = Dataflow("orders")
    >>> flow.flow_id
    'orders'
    """

    flow_id: str
    substeps: list[Operator] = field(default_factory=list[Operator], repr=False)
    on_error: ErrorPolicy = field(default="fail", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        check_name("flow id", self.flow_id)
        _check_policy(f"`on_error` of dataflow {self.flow_id!r}", self.on_error)

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

    def on_error(self, policy: ErrorPolicy) -> Stream[X_co]:
        """Say what becomes of records that the functions of the step before raise for.

        The step is the one whose output this stream is: call it where the step is made. What it
        says holds for all outputs of the step, and for all steps that an operator of your own is
        composed of, unless they say something else. A step about which nothing is said does as the
        flow does (``Dataflow(..., on_error=...)``).

        Args:
            policy: ``"fail"`` ends the run; ``"skip"`` leaves the record out, counts it and says so
                now and then; ``"dead_letter"`` also keeps it, for `engine.operators.dead_letters`
                or in the recovery store.

        Returns:
            This stream.

        Raises:
            ValueError: There is no such policy, or the step isn't made in this scope.

        >>> import engine.operators as op
        >>> from engine.testing import TestingSink, TestingSource, run_main
        >>> flow, out = Dataflow("parsing"), []
        >>> texts = op.input("in", flow, TestingSource(["1", "two", "3"]))
        >>> numbers = op.map("parse", texts, int).on_error("skip")
        >>> op.output("out", numbers, TestingSink(out))
        >>> run_main(flow)
        >>> out
        [1, 3]
        """
        steps = self._scope.substeps
        for index in reversed(range(len(steps))):
            step = steps[index]
            if any(self.stream_id in port.stream_ids for port in step.downs.values()):
                _check_policy(f"`on_error` of step {step.step_id!r}", policy)
                steps[index] = replace(step, on_error=policy)
                return self
        msg = (
            f"the step that stream {self.stream_id!r} comes from was not made in "
            f"{self._scope.parent_id!r}: call `on_error` where the step is made"
        )
        raise ValueError(msg)


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


def _check_policy(what: str, policy: object) -> None:
    if policy not in get_args(ErrorPolicy):
        known = ", ".join(map(repr, get_args(ErrorPolicy)))
        msg = f"{what} must be one of {known}; got {policy!r}"
        raise ValueError(msg)
