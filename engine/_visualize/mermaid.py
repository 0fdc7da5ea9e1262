"""Diagrams in the language of Mermaid, which many Markdown viewers draw."""

from __future__ import annotations

from collections.abc import Iterator

from engine._visualize.diagrams import Arrow, Diagram, Group, Node

_INDENT = "    "


def mermaid(diagram: Diagram) -> str:
    """A flowchart from top to bottom; thick arrows are exchanges."""
    lines = ["flowchart TD"]
    if diagram.note:
        # What begins with braces would be read as a directive; a note is prose and never does.
        lines.append(f"%% {diagram.note}")
    lines.extend(_group(Group("flow", diagram.title, diagram.children), 0))
    lines.extend(_arrow(arrow) for arrow in diagram.arrows)
    return "\n".join(lines) + "\n"


def _group(group: Group, depth: int) -> Iterator[str]:
    margin = _INDENT * depth
    yield f'{margin}subgraph {group.group_id}["{_text(group.label)}"]'
    for child in group.children:
        if isinstance(child, Group):
            yield from _group(child, depth + 1)
        else:
            yield f"{margin}{_INDENT}{_node(child)}"
    yield f"{margin}end"


def _node(node: Node) -> str:
    label = "<br>".join(_text(line) for line in node.lines)
    opening, closing = ("([", "])") if node.is_end else ("[", "]")
    return f'{node.node_id}{opening}"{label}"{closing}'


def _arrow(arrow: Arrow) -> str:
    line = "==>" if arrow.is_exchange else "-->"
    label = f'|"{_text(arrow.label)}"|' if arrow.label else ""
    return f"{arrow.from_id} {line}{label} {arrow.to_id}"


def _text(text: str) -> str:
    """Whatever a user calls a step, as text and nothing else: Mermaid knows entities by number."""
    return "".join(c if c.isalnum() or c in " _-(),.:" else f"#{ord(c)};" for c in text)
