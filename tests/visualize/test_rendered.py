"""A flow as plain data and as JSON: every step, and where each input's records come from."""

from __future__ import annotations

import json
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators.actors import Actor
from engine.operators.tasks import Executor, Label, Resources, task
from engine.testing import TestingSink, TestingSource
from engine.visualize import (
    RenderedDataflow,
    RenderedOperator,
    RenderedPort,
    to_json,
    to_mermaid,
    to_plantuml,
    to_rendered,
)
from tests.runtime.watermarked import NumberClock, watermarked
from tests.visualize.flows import counting, orders


def steps_of(rendered: RenderedDataflow) -> dict[str, RenderedOperator]:
    """All steps, those within others too, by their ids."""
    found: dict[str, RenderedOperator] = {}
    left = list(rendered.substeps)
    while left:
        step = left.pop()
        found[step.step_id] = step
        left.extend(step.substeps)
    return found


def test_a_step_has_name_operator_and_ports():
    """As the user gave them."""
    flow = Dataflow("f")
    op.input("in", flow, TestingSource([1]))
    assert to_rendered(flow) == RenderedDataflow(
        "f",
        [
            RenderedOperator(
                op_type="input",
                step_name="in",
                step_id="f.in",
                inp_ports=[],
                out_ports=[RenderedPort("down", "f.in.down", [], ["f.in.down"])],
                substeps=[],
            )
        ],
    )


def test_inputs_say_where_records_come_from():
    """Each by the output port of the step before."""
    steps = steps_of(to_rendered(orders()))
    assert steps["orders.parted"].inp_ports[0].from_port_ids == ["orders.lines.down"]
    assert steps["orders.loud"].inp_ports[0].from_port_ids == ["orders.parted.trues"]
    assert steps["orders.both"].inp_ports[0].from_port_ids == [
        "orders.left.down",
        "orders.right.down",
    ]


def test_steps_within_a_step_are_connected_to_its_ports():
    """The first to its input, its output to the last."""
    loud = steps_of(to_rendered(orders()))["orders.loud"]
    upper, sign = loud.substeps
    assert upper.inp_ports[0].from_port_ids == ["orders.loud.up"]
    assert sign.inp_ports[0].from_port_ids == ["orders.loud.upper.down"]
    assert loud.out_ports[0].from_port_ids == ["orders.loud.sign.down"]


def test_every_port_that_is_named_exists():
    """On all levels, in flows with branches, joins, merges and operators of one's own."""
    for flow in (orders(), counting()):
        steps = steps_of(to_rendered(flow)).values()
        ports = [port for step in steps for port in (*step.inp_ports, *step.out_ports)]
        known = {port.port_id for port in ports}
        assert {source for port in ports for source in port.from_port_ids} <= known


def test_json_has_the_same_fields():
    """Nested, and as plain values."""
    parsed = json.loads(to_json(orders()))
    assert list(parsed) == ["flow_id", "substeps"]
    assert list(parsed["substeps"][0]) == [
        "op_type",
        "step_name",
        "step_id",
        "inp_ports",
        "out_ports",
        "substeps",
    ]
    assert list(parsed["substeps"][0]["out_ports"][0]) == [
        "port_name",
        "port_id",
        "from_port_ids",
        "from_stream_ids",
    ]
    assert [step["step_id"] for step in parsed["substeps"]] == [
        step.step_id for step in to_rendered(orders()).substeps
    ]


def test_the_plan_as_json():
    """Stages with their runs, and every edge with its route."""
    parsed = json.loads(to_json(counting(), workers=3))
    assert parsed["flow_id"] == "counting"
    assert parsed["workers"] == 3
    runs = [
        [[step["step_id"].removeprefix("counting.") for step in run] for run in stage["runs"]]
        for stage in parsed["stages"]
    ]
    assert [run for run in runs[0] if len(run) > 1] == [["lower", "long", "key"]]
    assert ["count", "text"] in runs[1]
    routes = {
        (edge["from_step_id"], edge["to_step_id"]): (edge["route"], edge["between_stages"])
        for edge in parsed["edges"]
    }
    assert routes["counting.key", "counting.count"] == ("key", True)
    assert routes["counting.lower", "counting.long"] == ("local", False)


def test_one_worker_has_no_exchange():
    """All in one stage, and the plan says why."""
    parsed = json.loads(to_json(counting(), workers=1))
    assert len(parsed["stages"]) == 1
    assert {edge["route"] for edge in parsed["edges"]} == {"local"}
    assert "no exchanges" in parsed["note"]


def watermarks_of(workers: int) -> list[tuple[str, int, str, list[str]]]:
    """What the plan says of a step with two clocks, one of them behind a redistribution."""
    flow = Dataflow("f")
    left = op.input("left", flow, TestingSource([("a", 1)]))
    right = op.redistribute("deal", op.input("right", flow, TestingSource([("a", 1)])))
    clocks = (NumberClock(), NumberClock())
    first = watermarked("first", left, right, clocks=clocks)
    op.output("out", watermarked("second", first, clocks=clocks[:1]), TestingSink([]))
    rendered = json.loads(to_json(flow, workers=workers))["watermarks"]
    drawn = to_mermaid(flow, workers=workers)
    assert "first<br>(watermarked)<br>watermark: per partition" in drawn
    return [(w["step_id"], w["inp_port"], w["granularity"], w["reasons"]) for w in rendered]


def test_the_plan_says_what_watermarks_are_made_of():
    """Of each partition; or of each worker, and why."""
    dealt = "records change workers before f.deal"
    assert watermarks_of(2) == [
        ("f.first", 0, "partition", []),
        ("f.first", 1, "worker", [dealt]),
        ("f.second", 0, "worker", ["f.first emits on its own time"]),
    ]


def test_with_one_worker_all_partitions_are_told_apart():
    """But for those behind a step that emits on its own time."""
    assert watermarks_of(1) == [
        ("f.first", 0, "partition", []),
        ("f.first", 1, "partition", []),
        ("f.second", 0, "worker", ["f.first emits on its own time"]),
    ]


def test_the_plan_says_how_tasks_are_run():
    """Where, how many at the same time, and in what order: in each kind of drawing."""
    flow = Dataflow("tasked")
    s = op.input("in", flow, TestingSource([]))
    asked = task("ask", s, str, executor="thread", max_in_flight=9, order="none")
    take = Resources(cpu=2, memory=10**9)
    owned = task("own", asked.ok, str, executor=_Own(), resources=take, placement=Label("gpu"))
    op.output("out", owned.ok, TestingSink([]))
    found = json.loads(to_json(flow, workers=2))["tasks"]
    first = {"step_id": "tasked.ask", "executor": "thread", "max_in_flight": 9, "order": "none"}
    first |= {"resources": "", "placement": "worker"}
    own = {"step_id": "tasked.own", "executor": "_Own", "max_in_flight": 256, "order": "input"}
    own |= {"resources": "cpu=2,memory=1GB", "placement": "gpu"}
    assert found == [first, own]
    told = "thread: up to 9 in flight, order: none"
    assert f"ask<br>(task)<br>{told}" in to_mermaid(flow, workers=2)
    assert told in to_plantuml(flow, workers=2)
    drawn = to_plantuml(flow, workers=2)
    assert "takes cpu" in drawn
    assert "runs on workers with room: gpu" in drawn


class First(Actor): ...


class Second(Actor): ...


def test_the_plan_says_which_actors_a_step_has():
    """And that they reach those of other workers by an edge of their own, if there are any."""
    flow = Dataflow("acted")
    s = op.input("in", flow, TestingSource([]))
    acted = op.actor("act", s, First, Second)
    op.output("out", acted.out, TestingSink([]))
    told = {"step_id": "acted.act", "classes": ["First", "Second"]}
    for workers in (1, 3):
        several = workers > 1
        found = json.loads(to_json(flow, workers=workers))["actors"]
        assert found == [{**told, "between_workers": several}]
        drawn = to_mermaid(flow, workers=workers)
        assert "act<br>(actor)<br>actors: First, Second" in drawn
        assert ('s1 ==>|"messages between workers"| s1' in drawn) is several
        drawn = to_plantuml(flow, workers=workers)
        assert "actors: First, Second" in drawn
        assert ("messages between workers" in drawn) is several


class _Own(Executor):
    """An executor of a user's own."""

    def start(self, fn: Any, wake: Any, step_id: str) -> Any:
        raise NotImplementedError
