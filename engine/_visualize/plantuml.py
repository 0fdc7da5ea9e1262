"""Diagrams in the language of PlantUML."""

from __future__ import annotations

from collections.abc import Iterator

from engine._visualize.diagrams import Arrow, Diagram, Group, Node

_INDENT = "    "


def plantuml(diagram: Diagram) -> str:
    """A deployment diagram; bold arrows are exchanges."""
    lines = ["@startuml", f"title {_text(diagram.title)}"]
    for child in diagram.children:
        lines.extend(_child(child, 0))
    lines.extend(_arrow(arrow) for arrow in diagram.arrows)
    if diagram.note:
        lines.append(f"caption {_text(diagram.note)}")
    return "\n".join([*lines, "@enduml", ""])


def _child(child: Node | Group, depth: int) -> Iterator[str]:
    margin = _INDENT * depth
    if isinstance(child, Node):
        label = "\\n".join(_text(line) for line in child.lines)
        shape = "storage" if child.is_end else "rectangle"
        yield f'{margin}{shape} "{label}" as {child.node_id}'
        return
    yield f'{margin}frame "{_text(child.label)}" as {child.group_id} {{'
    for inner in child.children:
        yield from _child(inner, depth + 1)
    yield f"{margin}}}"


def _arrow(arrow: Arrow) -> str:
    line = "-[bold]->" if arrow.is_exchange else "-->"
    label = f" : {_text(arrow.label)}" if arrow.label else ""
    return f"{arrow.from_id} {line} {arrow.to_id}{label}"


def _text(text: str) -> str:
    """Whatever a user calls a step, as text: doubled signs would be read as its markup."""
    shown: list[str] = []
    for i, c in enumerate(text):
        doubled = c in "_-" and text[i - 1 : i] == c
        plain = c.isalnum() or c in " _-(),.:"
        shown.append(c if plain and not doubled else f"<U+{ord(c):04X}>")
    return "".join(shown)
