"""Custom operator: a step of one's own, composed of the engine's, and used like one of them.

`changes` passes a value on only when it differs from the one before of its key. It is made with
`@operator`, so that its inner steps get names below its own (``doors.changed.compare``), messages
and `engine.visualize` show it as one step, and it may be used several times in a flow.

Run it from the top of the project::

    python -m engine.run examples.custom_operator:flow
    python -m engine.visualize examples.custom_operator:flow
"""

from __future__ import annotations

from typing import TypeVar

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow, operator
from engine.operators import KeyedStream
from engine.testing import TestingSource

V = TypeVar("V")


@operator
def changes(step_id: str, up: KeyedStream[V]) -> KeyedStream[V]:
    """Pass on the first value of each key, and then those that differ from the one before.

    Keeps the last value of each key as state. The order within a key is kept.

    Args:
        step_id: Name of the step.
        up: Keyed stream.
    """

    def compare(last: list[V] | None, value: V) -> tuple[list[V], list[V]]:
        # The state is a list of one, because a value may be None, which would mean "no state".
        return [value], [] if last == [value] else [value]

    return op.stateful_flat_map("compare", up, compare)


SEEN = [
    ("front", "open"),
    ("front", "open"),
    ("back", "closed"),
    ("front", "closed"),
    ("back", "closed"),
    ("back", "open"),
    ("front", "closed"),
]

flow = Dataflow("doors")
seen = op.input("seen", flow, TestingSource(SEEN))
changed = changes("changed", seen)
lines = op.map("line", changed, lambda door: f"The {door[0]} door is {door[1]}.")
op.output("out", lines, StdOutSink())
