"""Flows for the tests of the runtime: shapes of graphs, not what their steps do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

import engine.operators as op
from engine.dataflow import Dataflow, Stream
from engine.runtime import Plan
from engine.testing import TestingSink, TestingSource


def flow_of(
    items: Iterable[Any],
    build: Callable[[Stream[Any]], Stream[Any]] = lambda stream: stream,
    *,
    batch_size: int = 1,
) -> tuple[Dataflow, list[Any]]:
    """A flow from a list to a list, with whatever `build` puts between."""
    flow, out = Dataflow("flow"), []
    stream = op.input("in", flow, TestingSource(items, batch_size))
    op.output("out", build(stream), TestingSink(out))
    return flow, out


def counted(step_id: str, stream: Stream[Any]) -> Stream[Any]:
    """A keyed step."""
    return op.stateful_map(step_id, stream, lambda n, value: ((n or 0) + 1, value))


def stage_names(plan: Plan) -> list[list[str]]:
    """The steps of each stage, by the last part of their ids."""
    return [
        [plan.steps[i].step_id.rpartition(".")[2] for i in stage.steps] for stage in plan.stages
    ]


@st.composite
def random_graphs(draw: st.DrawFn) -> Dataflow:
    """Any graph of inputs, outputs, and steps with one input or several, with exchanges or not."""
    flow = Dataflow("random")
    streams = [op.input(f"in{i}", flow, TestingSource([])) for i in range(draw(st.integers(1, 3)))]

    def pick() -> Stream[Any]:
        return draw(st.sampled_from(streams))

    kinds = st.sampled_from(["map", "merge", "branch", "keyed", "join", "deal", "output", "batch"])
    for i, kind in enumerate(draw(st.lists(kinds, max_size=14))):
        if kind == "map":
            streams.append(op.map(f"map{i}", pick(), str))
        elif kind == "merge":
            streams.append(op.merge(f"merge{i}", *(pick() for _ in range(draw(st.integers(1, 3))))))
        elif kind == "branch":
            out = op.branch(f"branch{i}", pick(), bool)
            streams += [out.trues, out.falses]
        elif kind == "keyed":
            streams.append(counted(f"keyed{i}", pick()))
        elif kind == "join":
            streams.append(op.join(f"join{i}", pick(), pick()))
        elif kind == "deal":
            streams.append(op.redistribute(f"deal{i}", pick()))
        elif kind == "batch":
            streams.append(op.flat_map_batch(f"batch{i}", pick(), list))
        else:
            op.output(f"out{i}", pick(), TestingSink([]))
    op.output("out", streams[-1], TestingSink([]))
    return flow
