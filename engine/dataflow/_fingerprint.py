"""A hash of a flow's structure, by which a store knows whether it belongs to the flow.

The engine's own operators count as one step each, whatever they are composed of today, so that a
release which composes `fold_window` in another way does not disown anybody's state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from engine.dataflow._graph import Dataflow, Operator

_OURS = ("engine.operators.", "engine.connectors.")
"""Where the engine's own operators are."""


def fingerprint(flow: Dataflow) -> str:
    """SHA-256 in hex of the steps, their operators and the edges between them.

    The same for every run and machine. It changes when a step comes, goes, is renamed, becomes
    another operator, or is connected otherwise; it does not change with functions or parameters.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSource
    >>> def build(step_id):
    ...     flow = Dataflow("f")
    ...     s = op.input("in", flow, TestingSource([]))
    ...     _ = op.map(step_id, s, str)
    ...     return flow
    >>> fingerprint(build("a")) == fingerprint(build("a"))
    True
    >>> fingerprint(build("a")) == fingerprint(build("b"))
    False
    """
    leaves = list(leaf_steps(flow.substeps))
    producers = {
        stream_id: f"{step.step_id}:{name}"
        for step in leaves
        for name, port in step.downs.items()
        for stream_id in port.stream_ids
    }
    shape = [
        {
            "step": step.step_id,
            "operator": step.op_type,
            "ups": {
                name: [producers.get(s, s) for s in port.stream_ids]
                for name, port in step.ups.items()
            },
        }
        for step in leaves
    ]
    text = json.dumps({"flow": flow.flow_id, "steps": shape}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def leaf_steps(steps: list[Operator]) -> Iterator[Operator]:
    """The steps a user would name: the engine's operators, and what users' own are made of."""
    for step in steps:
        if step.core or not step.substeps or step.op_type.startswith(_OURS):
            yield step
        else:
            yield from leaf_steps(step.substeps)
