"""The planner: where stages begin and end, and which edges lead to other workers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.operators as op
from engine.connectors import FixedPartitionedSink
from engine.dataflow import Dataflow
from engine.errors import FlowError
from engine.runtime import Plan, Route, plan, runs_of
from engine.testing import TestingSink, TestingSource
from tests.runtime.graphs import counted, flow_of, random_graphs, stage_names


def test_a_chain_without_exchanges_is_one_stage():
    """Steps that hand records on directly run together."""
    flow, _ = flow_of([], lambda s: op.filter("keep", op.map("map", s, str), bool))
    assert stage_names(plan(flow, 2)) == [["in", "map", "keep", "out"]]


def test_a_keyed_step_begins_a_stage_where_there_are_other_workers():
    """Its records come from all workers, by key."""
    flow, _ = flow_of([], lambda s: op.key_rm("rm", counted("count", op.key_on("key", s, str))))
    planned = plan(flow, 2)
    assert stage_names(planned) == [["in", "key"], ["count", "rm", "out"]]
    assert [e.edge.route for e in planned.stage_edges] == [Route.KEY]


def test_with_one_worker_there_are_no_exchanges():
    """Records can't change workers, so connected steps are one stage."""
    flow, _ = flow_of([], lambda s: op.redistribute("deal", counted("count", s)))
    planned = plan(flow, 1)
    assert stage_names(planned) == [["in", "count", "deal", "out"]]
    assert not planned.stage_edges
    assert {e.route for e in planned.edges} == {Route.LOCAL}


def test_redistribute_deals_evenly():
    """Its edge is an exchange of its own kind."""
    flow, _ = flow_of([], lambda s: op.redistribute("deal", s))
    planned = plan(flow, 3)
    assert stage_names(planned) == [["in"], ["deal", "out"]]
    assert [e.edge.route for e in planned.stage_edges] == [Route.BALANCE]


def test_a_stream_read_twice_stays_in_its_stage():
    """A fan-out needs no channel."""
    flow, _ = flow_of([], lambda s: op.merge("both", op.map("a", s, str), op.map("b", s, str)))
    assert stage_names(plan(flow, 2)) == [["in", "a", "b", "both", "out"]]


def test_two_keyed_readers_of_a_stream_are_two_stages():
    """Each exchange is one of its own, even if both route the same records alike."""
    flow = Dataflow("flow")
    stream = op.input("in", flow, TestingSource([]))
    for name in ("one", "two"):
        op.output(f"out_{name}", counted(name, stream), TestingSink([]))
    assert stage_names(plan(flow, 2)) == [["in"], ["one", "out_one"], ["two", "out_two"]]


def test_a_stream_merged_with_what_an_exchange_made_of_it():
    """In one stage with its source, the merge would wait for its own barrier."""
    flow, _ = flow_of([], lambda s: op.merge("both", s, counted("count", s)))
    planned = plan(flow, 2)
    assert stage_names(planned) == [["in"], ["count", "both", "out"]]
    routes = {e.edge.port: e.edge.route for e in planned.stage_edges if e.edge.consumer == 2}
    assert routes == {0: Route.LOCAL}
    assert len(planned.stage_edges) == 2


class _Partitioned(FixedPartitionedSink[Any, None]):
    def list_parts(self) -> list[str]:
        return ["one"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> Any:
        raise NotImplementedError


def test_a_sink_with_partitions_is_routed_to():
    """A worker writes its own partitions only."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource([])), _Partitioned())
    planned = plan(flow, 2)
    assert stage_names(planned) == [["in"], ["out"]]
    assert [e.edge.route for e in planned.stage_edges] == [Route.PARTITION]


def test_unconnected_parts_of_a_flow_are_stages_of_their_own():
    """They share nothing, in the order in which they were declared."""
    flow = Dataflow("flow")
    for name in ("a", "b"):
        op.output(f"out_{name}", op.input(f"in_{name}", flow, TestingSource([])), TestingSink([]))
    assert stage_names(plan(flow, 1)) == [["in_a", "out_a"], ["in_b", "out_b"]]


def test_compositions_are_planned_by_kernel_or_by_their_parts():
    """`kernels=False` descends to core operators, which go by the name of the user's step."""
    flow, _ = flow_of([], lambda s: op.map("map", s, str))
    assert [step.step_id for step in plan(flow).steps] == ["flow.in", "flow.map", "flow.out"]
    parts = [(step.inner_id, step.step_id) for step in plan(flow, kernels=False).steps]
    assert parts[1] == ("flow.map.flat_map_batch", "flow.map")


def test_a_flow_without_input_is_refused():
    """There is nothing to run."""
    with pytest.raises(FlowError, match=r"'empty' has no input; add one with `op\.input`"):
        plan(Dataflow("empty"))


def test_a_flow_without_output_is_refused():
    """Nobody would see what it does."""
    flow = Dataflow("flow")
    op.map("map", op.input("in", flow, TestingSource([])), str)
    with pytest.raises(FlowError, match=r"'flow' has no output; add one with `op\.output`"):
        plan(flow)


@pytest.mark.parametrize("inspect", [op.inspect, op.inspect_debug])
@pytest.mark.parametrize("kernels", [True, False])
def test_inspect_counts_as_an_output(inspect: Any, kernels: bool):
    """A flow may end in it."""
    flow = Dataflow("flow")
    inspect("look", op.input("in", flow, TestingSource([])))
    assert plan(flow, kernels=kernels).stages


# Any graph


def exchanges_before(planned: Plan) -> list[frozenset[int]]:
    """By step, which edges upstream of it lead to other workers: found by looking at all paths."""
    found: list[frozenset[int]] = []
    for step in planned.steps:
        before: frozenset[int] = frozenset()
        for number, edge in enumerate(planned.edges):
            if edge.consumer == step.index:
                before |= found[edge.producer]
                before |= frozenset() if edge.route is Route.LOCAL else {number}
        found.append(before)
    return found


@given(random_graphs(), st.integers(1, 3))
def test_stages_of_any_graph(flow: Dataflow, workers: int):
    """Each step is in one stage, with the exchanges upstream of it; edges never lead back."""
    planned = plan(flow, workers)
    assert sorted(i for stage in planned.stages for i in stage.steps) == list(
        range(len(planned.steps))
    )
    stage_of = {i: stage.index for stage in planned.stages for i in stage.steps}
    before = exchanges_before(planned)
    for stage in planned.stages:
        assert len({before[i] for i in stage.steps}) == 1
    for edge in planned.edges:
        crossing = stage_of[edge.producer] != stage_of[edge.consumer]
        assert stage_of[edge.producer] < stage_of[edge.consumer] or not crossing
        assert crossing or edge.route is Route.LOCAL
        assert crossing == any(e.edge is edge for e in planned.stage_edges)


@given(random_graphs(), st.integers(1, 3))
def test_runs_of_any_graph(flow: Dataflow, workers: int):
    """Each step is in one run of its stage; within a run each step alone reads the one before."""
    planned = plan(flow, workers)
    for stage in planned.stages:
        runs = runs_of(planned, stage)
        assert sorted(step.index for run in runs for step in run) == list(stage.steps)
        for run in runs:
            for before, after in pairwise(run):
                readers = [e.consumer for e in planned.edges if e.producer == before.index]
                feeders = [e.producer for e in planned.edges if e.consumer == after.index]
                assert (readers, feeders) == ([after.index], [before.index])
