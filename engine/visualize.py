"""``python -m engine.visualize module:flow``: draw a dataflow, or what the planner makes of it.

The functions do the same for a program: `to_rendered` gives plain data, the others text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from engine._cli.arguments import Parser, UsageError, count, exit_code_of
from engine._cli.exits import Exit, say
from engine._cli.imports import load_flow
from engine._cli.output import finished
from engine._visualize.diagrams import Diagram, diagram_of_flow, diagram_of_plan
from engine._visualize.mermaid import mermaid
from engine._visualize.planned import to_rendered_plan
from engine._visualize.plantuml import plantuml
from engine._visualize.rendered import (
    RenderedDataflow,
    RenderedOperator,
    RenderedPort,
    to_rendered,
)
from engine.dataflow import Dataflow
from engine.errors import FlowError, ImportStringError

__all__ = [
    "RenderedDataflow",
    "RenderedOperator",
    "RenderedPort",
    "main",
    "to_json",
    "to_mermaid",
    "to_plantuml",
    "to_rendered",
]

_EPILOG = """\
IMPORT_STR is one of
  module                      the flow called `flow` in it, or its only one
  module:name                 the flow of that name
  module:make("a", 1, b=2)    what a function returns for these literals
  path/to/file.py[:...]       the same for a file, whose folder can be imported from

exit codes:
  0    the drawing is on standard output
  2    the command line, the module or the flow is wrong
"""


def to_json(flow: Dataflow, *, workers: int | None = None) -> str:
    """A flow as JSON: the fields of `RenderedDataflow` and what is in it, by their names.

    Args:
        flow: What to show.
        workers: Show the plan for this many workers instead: its stages, in each the runs of
            steps that share a loop, and the edges between steps.

    Raises:
        FlowError: A plan was asked for, and the flow has no input or no output.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSource
    >>> flow = Dataflow("doc")
    >>> s = op.input("in", flow, TestingSource([1]))
    >>> json.loads(to_json(flow))["substeps"][0]["step_id"]
    'doc.in'
    """
    rendered = to_rendered(flow) if workers is None else to_rendered_plan(flow, workers)
    return json.dumps(asdict(rendered), indent=2, ensure_ascii=False)


def to_mermaid(flow: Dataflow, *, recursive: bool = False, workers: int | None = None) -> str:
    """A flow as a Mermaid flowchart.

    Args:
        flow: What to draw.
        recursive: Draw the steps within steps too.
        workers: Draw the plan for this many workers instead: stages and loops as frames,
            exchanges as thick arrows.

    Raises:
        FlowError: A plan was asked for, and the flow has no input or no output.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSource
    >>> flow = Dataflow("doc")
    >>> s = op.input("in", flow, TestingSource([1]))
    >>> s = op.inspect("look", s)
    >>> print(to_mermaid(flow), end="")
    flowchart TD
    subgraph flow["doc"]
        s0(["in<br>(input)"])
        s1["look<br>(inspect)"]
    end
    s0 --> s1
    """
    return mermaid(_diagram(flow, recursive=recursive, workers=workers))


def to_plantuml(flow: Dataflow, *, recursive: bool = False, workers: int | None = None) -> str:
    r"""A flow as a PlantUML diagram.

    Args:
        flow: What to draw.
        recursive: Draw the steps within steps too.
        workers: As in `to_mermaid`.

    Raises:
        FlowError: A plan was asked for, and the flow has no input or no output.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSource
    >>> flow = Dataflow("doc")
    >>> s = op.input("in", flow, TestingSource([1]))
    >>> print(to_plantuml(flow), end="")
    @startuml
    title doc
    storage "in\n(input)" as s0
    @enduml
    """
    return plantuml(_diagram(flow, recursive=recursive, workers=workers))


def _diagram(flow: Dataflow, *, recursive: bool, workers: int | None) -> Diagram:
    if workers is not None:
        return diagram_of_plan(to_rendered_plan(flow, workers))
    return diagram_of_flow(to_rendered(flow), recursive=recursive)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a flow as the command line says; gives the exit code.

    Args:
        argv: The arguments, without the command itself; those of this process if left out.
    """
    return exit_code_of(lambda: _draw(_parser().parse_args(argv)))


def _draw(arguments: argparse.Namespace) -> int:
    try:
        text = _text(arguments)
    except (ImportStringError, FlowError) as ex:
        # The report reads source files and the like, which only a failure has to pay for.
        from engine._cli.report import report  # noqa: PLC0415

        say(report(ex, verbose=arguments.verbose))
        return Exit.MISUSED
    return finished(Exit.DONE, text)


def _parser() -> Parser:
    parser = Parser("python -m engine.visualize", "Draw a dataflow.", _EPILOG)
    add = parser.add_argument
    add("import_str", metavar="IMPORT_STR", help="what to draw, see below")
    add(
        "-o",
        "--output-format",
        choices=("mermaid", "json", "plantuml"),
        default="mermaid",
        help="mermaid by default",
    )
    add("-r", "--recursive", action="store_true", help="draw the steps within steps too")
    add(
        "--plan",
        action="store_true",
        help="draw the plan instead: stages, loops that steps share, exchanges between workers",
    )
    add("-w", "--workers", metavar="N", default="2", help="workers to plan for, 2 by default")
    add("--verbose", action="store_true", help="report errors with the engine's own frames")
    return parser


def _text(arguments: argparse.Namespace) -> str:
    """What to print for these arguments."""
    try:
        workers = count(arguments.workers) if arguments.plan else None
    except ValueError as ex:
        msg = f"-w {arguments.workers}: {ex}"
        raise UsageError(msg) from None
    flow = load_flow(arguments.import_str)
    match arguments.output_format:
        case "json":
            return f"{to_json(flow, workers=workers)}\n"
        case "plantuml":
            return to_plantuml(flow, recursive=arguments.recursive, workers=workers)
        case _:
            return to_mermaid(flow, recursive=arguments.recursive, workers=workers)


if __name__ == "__main__":
    sys.exit(main())
