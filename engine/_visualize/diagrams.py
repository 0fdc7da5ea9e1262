"""Boxes and arrows, before they are written in the language of some drawing tool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine._visualize.planned import RenderedPlan, RenderedStage
from engine._visualize.rendered import RenderedDataflow, RenderedOperator, RenderedPort

_ROUTES = {"key": "by key", "balance": "dealt evenly", "partition": "by sink partition"}
_FEEDBACK = "messages between workers"
_PLAIN = ("up", "down")
"""Names of ports that say nothing which the arrow doesn't."""


@dataclass(frozen=True, slots=True)
class Node:
    """A box. Its lines are what stands in it."""

    node_id: str
    lines: tuple[str, ...]
    is_end: bool = False
    """Records enter or leave the flow here."""


@dataclass(frozen=True, slots=True)
class Group:
    """A frame around boxes."""

    group_id: str
    label: str
    children: list[Node | Group]


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow between two boxes."""

    from_id: str
    to_id: str
    label: str = ""
    is_exchange: bool = False
    """Records may change workers here."""


@dataclass(frozen=True, slots=True)
class Diagram:
    """All of it."""

    title: str
    note: str
    children: list[Node | Group]
    arrows: list[Arrow]


def diagram_of_flow(flow: RenderedDataflow, *, recursive: bool) -> Diagram:
    """The steps that the user named, or with `recursive` all that these are made of."""
    drawing = _Drawing(recursive=recursive)
    children = [drawing.box(step) for step in flow.substeps]
    return Diagram(flow.flow_id, "", children, list(drawing.arrows()))


@dataclass(slots=True)
class _Drawing:
    """Boxes by step, and the ports of what is drawn, to find out where arrows begin."""

    recursive: bool
    node_ids: dict[str, str] = field(default_factory=dict[str, str])
    """By the ids of the drawn steps' output ports: boxes."""
    passed: dict[str, RenderedPort] = field(default_factory=dict[str, RenderedPort])
    """By their ids: ports of frames, through which arrows go."""
    drawn: list[tuple[str, RenderedOperator]] = field(
        default_factory=list[tuple[str, RenderedOperator]]
    )
    groups: int = 0

    def box(self, step: RenderedOperator) -> Node | Group:
        """A step as a box, or as a frame around its substeps."""
        if self.recursive and step.substeps:
            group_id = f"g{self.groups}"
            self.groups += 1
            self.passed.update({p.port_id: p for p in (*step.inp_ports, *step.out_ports)})
            children = [self.box(substep) for substep in step.substeps]
            return Group(group_id, f"{step.step_name} ({step.op_type})", children)
        node_id = f"s{len(self.drawn)}"
        self.drawn.append((node_id, step))
        self.node_ids.update({port.port_id: node_id for port in step.out_ports})
        ends = not step.inp_ports or not step.out_ports
        return Node(node_id, (step.step_name, f"({step.op_type})"), is_end=ends)

    def arrows(self) -> Iterator[Arrow]:
        """From each drawn step's inputs back to the outputs that feed them."""
        for node_id, step in self.drawn:
            for port in step.inp_ports:
                several = len(port.from_port_ids) > 1
                for number, feeder in enumerate(_feeders(port)):
                    end = (
                        f"{port.port_name.removesuffix('s')} {number}"
                        if several
                        else port.port_name
                    )
                    for source in self._sources(*feeder):
                        names = (source.rpartition(".")[2], end)
                        label = " to ".join(n for n in names if n.partition(" ")[0] not in _PLAIN)
                        yield Arrow(self.node_ids[source], node_id, label)

    def _sources(self, port_id: str, stream_id: str) -> Iterator[str]:
        """The drawn outputs behind a port, looking through the ports of frames."""
        if port_id in self.node_ids:
            yield port_id
            return
        for feeder in _feeders(self.passed[port_id]):
            # A port may carry several streams, each of which goes on by itself.
            if feeder[1] == stream_id:
                yield from self._sources(*feeder)


def _feeders(port: RenderedPort) -> Iterator[tuple[str, str]]:
    return zip(port.from_port_ids, port.from_stream_ids, strict=False)


def diagram_of_plan(plan: RenderedPlan) -> Diagram:
    """Stages as frames, in them a frame around each loop of several steps."""
    node_ids: dict[str, str] = {}
    for stage in plan.stages:
        for run in stage.runs:
            for step in run:
                node_ids[step.step_id] = f"s{len(node_ids)}"
    ended = {e.from_step_id for e in plan.edges} & {e.to_step_id for e in plan.edges}
    prefix = f"{plan.flow_id}."
    lines = _watermark_lines(plan)
    for tasks in plan.tasks:
        said = f"{tasks.executor}: up to {tasks.max_in_flight} in flight, order: {tasks.order}"
        lines.setdefault(tasks.step_id, []).append(said)
        if tasks.resources:
            lines[tasks.step_id].append(f"takes {tasks.resources}")
        if tasks.placement != "worker":
            lines[tasks.step_id].append(f"runs on workers with room: {tasks.placement}")
    for actors in plan.actors:
        said = ", ".join(actors.classes)
        lines.setdefault(actors.step_id, []).append(f"actors: {said}")
    children: list[Node | Group] = [
        Group(
            f"stage{stage.index}",
            f"stage {stage.index}",
            _loops(stage, node_ids, ended, prefix, lines),
        )
        for stage in plan.stages
    ]
    arrows = [
        Arrow(
            node_ids[edge.from_step_id],
            node_ids[edge.to_step_id],
            _ROUTES.get(edge.route, "channel" if edge.between_stages else ""),
            is_exchange=edge.route in _ROUTES,
        )
        for edge in plan.edges
    ]
    arrows += [
        Arrow(node_ids[actors.step_id], node_ids[actors.step_id], _FEEDBACK, is_exchange=True)
        for actors in plan.actors
        if actors.between_workers
    ]
    workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
    return Diagram(f"{plan.flow_id}, planned for {workers}", plan.note, children, arrows)


def _watermark_lines(plan: RenderedPlan) -> dict[str, list[str]]:
    """What to say of the watermark of each step that has one: once, if all its inputs agree."""
    lines: dict[str, list[str]] = {}
    for watermark in plan.watermarks:
        why = f" ({'; '.join(watermark.reasons)})" if watermark.reasons else ""
        line = f"watermark: per {watermark.granularity}{why}"
        said = lines.setdefault(watermark.step_id, [])
        if line not in said:
            said.append(line)
    return lines


def _loops(
    stage: RenderedStage,
    node_ids: dict[str, str],
    inner: set[str],
    prefix: str,
    lines: dict[str, list[str]],
) -> list[Node | Group]:
    loops: list[Node | Group] = []
    for number, run in enumerate(stage.runs):
        nodes: list[Node | Group] = [
            Node(
                node_ids[step.step_id],
                (
                    step.step_id.removeprefix(prefix),
                    f"({step.op_type})",
                    *lines.get(step.step_id, ()),
                ),
                is_end=step.step_id not in inner,
            )
            for step in run
        ]
        group_id = f"loop{stage.index}x{number}"
        loops.extend(nodes if len(nodes) == 1 else [Group(group_id, "one loop", nodes)])
    return loops
