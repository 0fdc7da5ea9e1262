"""`input` and `output`: where records come into a flow and leave it.

Core operators; what a source or a sink is, `engine.connectors` says. They are known here by what
they can do, so that operators need nothing of connectors at run time.
"""

# The operators have the names that users know them by.
# ruff: noqa: A001

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.dataflow import Dataflow, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._kernels import InputKernel, OutputKernel
from engine.operators._types import X

if TYPE_CHECKING:
    from engine.connectors import Sink, Source


@operator(core=True, kernel=lambda step, _workers: InputKernel(step.params["source"]))
def input(step_id: str, flow: Dataflow, source: Source[X]) -> Stream[X]:
    """Bring the records of a source into a flow. Every flow needs at least one input.

    Records of one partition of the source keep their order. Each turn of the worker takes one
    batch of every input that has one, in the order in which the inputs stand in the flow.

    Args:
        step_id: Name of the step.
        flow: The flow that the records come into.
        source: A `FixedPartitionedSource`, a `DynamicSource` or one of their subclasses.

    Returns:
        Stream of the source's records.

    Raises:
        TypeError: `source` is not a source; raised while the flow is built.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("input_example"), []
    >>> s = op.input("numbers", flow, TestingSource([1, 2, 3]))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 2, 3]
    """
    _require_connector(step_id, "source", source)
    return new_stream(step_id, flow)


@operator(core=True, kernel=lambda step, _workers: OutputKernel(step.params["sink"]))
def output(step_id: str, up: Stream[X], sink: Sink[X]) -> None:  # noqa: ARG001 - becomes a port
    """Write the records of a stream to a sink. Nothing comes after it.

    A sink with partitions (`FixedPartitionedSink`) takes `(key, value)` records, writes the values
    only, and keeps the order of each key; any other (`DynamicSink`) writes whole records, on the
    worker where they are. An epoch is durable only after the sink has taken all of its records.

    Args:
        step_id: Name of the step.
        up: Stream to write.
        sink: A `FixedPartitionedSink`, a `DynamicSink` or one of their subclasses.

    Raises:
        TypeError: `sink` is not a sink; raised while the flow is built.

    >>> import engine.operators as op
    >>> from engine.connectors.stdio import StdOutSink
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSource, run_main
    >>> flow = Dataflow("output_example")
    >>> s = op.input("words", flow, TestingSource(["hello", "world"]))
    >>> op.output("print", s, StdOutSink())
    >>> run_main(flow)
    hello
    world
    """
    _require_connector(step_id, "sink", sink)


def _require_connector(step_id: str, kind: str, given: Any) -> None:
    """Refuse what lacks the methods by which a worker opens a source or a sink."""
    wanted = f"`{kind}` of step {step_id!r} must be a {kind}"
    if isinstance(given, type):
        msg = f"{wanted}; got the class `{given.__name__}` itself: make an object of it"
        raise TypeError(msg)
    partitioned = _has(given, "list_parts") and _has(given, "build_part")
    routes_keys = _has(given, "part_fn")
    if _has(given, "build") or (partitioned and routes_keys == (kind == "sink")):
        return
    if partitioned:
        other, operator_name = ("sink", "output") if routes_keys else ("source", "input")
        msg = f"{wanted}; `{type(given).__name__}` is a {other}: it belongs in `op.{operator_name}`"
        raise TypeError(msg)
    name = kind.title()
    msg = (
        f"{wanted}: an object of a subclass of `FixedPartitioned{name}` or `Dynamic{name}` (see "
        f"`engine.connectors`); got {given!r} of type `{type(given).__name__}`"
    )
    raise TypeError(msg)


def _has(given: Any, method: str) -> bool:
    return callable(getattr(given, method, None))
