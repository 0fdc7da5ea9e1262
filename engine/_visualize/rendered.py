"""A flow as plain data: what `engine.visualize.to_json` writes and what diagrams are made from.

Streams have no name of their own, so each port says from which ports its records come.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.dataflow import Dataflow, Operator


@dataclass(frozen=True, slots=True)
class RenderedPort:
    """An input or an output of a step."""

    port_name: str
    """Name of the parameter or of the output; a single output is ``down``."""
    port_id: str
    """The step's id and the port's name."""
    from_port_ids: list[str]
    """Where the records come from: for an input, outputs of other steps (or the input of the step
    around); for an output of a step made of others, their outputs. A core step's output is where
    a stream begins: it has none."""
    from_stream_ids: list[str]
    """The streams behind `from_port_ids`, or the one that begins here."""


@dataclass(frozen=True, slots=True)
class RenderedOperator:
    """A step, with the steps that it is made of."""

    op_type: str
    """The operator's name, as in ``map``."""
    step_name: str
    step_id: str
    inp_ports: list[RenderedPort]
    out_ports: list[RenderedPort]
    substeps: list[RenderedOperator]


@dataclass(frozen=True, slots=True)
class RenderedDataflow:
    """A flow."""

    flow_id: str
    substeps: list[RenderedOperator]


def to_rendered(flow: Dataflow) -> RenderedDataflow:
    """A flow as plain data, with each port connected to those before it.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSource
    >>> flow = Dataflow("doc")
    >>> s = op.input("in", flow, TestingSource([1]))
    >>> s = op.map("double", s, lambda x: x * 2)
    >>> double = to_rendered(flow).substeps[1]
    >>> double.op_type, double.step_id, double.inp_ports[0].from_port_ids
    ('map', 'doc.double', ['doc.in.down'])
    """
    return RenderedDataflow(flow.flow_id, _rendered(flow.substeps, {}))


def _rendered(steps: list[Operator], scope: dict[str, str]) -> list[RenderedOperator]:
    """The steps of one scope; `scope` says which port gives each stream in it, and is added to."""
    return [_rendered_step(step, scope) for step in steps]


def _rendered_step(step: Operator, scope: dict[str, str]) -> RenderedOperator:
    inside: dict[str, str] = {}
    inputs: list[RenderedPort] = []
    for name, port in step.ups.items():
        streams = list(port.stream_ids)
        inputs.append(RenderedPort(name, port.port_id, [scope[s] for s in streams], streams))
        inside.update(dict.fromkeys(streams, port.port_id))
    substeps = _rendered(step.substeps, inside)
    outputs: list[RenderedPort] = []
    for name, port in step.downs.items():
        streams = list(port.stream_ids)
        sources = [inside[s] for s in streams] if substeps else []
        outputs.append(RenderedPort(name, port.port_id, sources, streams))
        scope.update(dict.fromkeys(streams, port.port_id))
    return RenderedOperator(step.name, step.step_name, step.step_id, inputs, outputs, substeps)
