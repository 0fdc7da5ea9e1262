"""The command: `python -m benchmarks [WORKLOAD ...]`, run from the top of the project.

Exit code 0 when every installed contender did its work and gave the right output, 1 otherwise,
2 for wrong arguments. The figures themselves decide nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.contenders import BARE, BARE_UDF, ENGINES, OTHERS
from benchmarks.measure import Options, measure
from benchmarks.report import problems, to_json, to_markdown, to_text
from benchmarks.workloads import WORKLOADS, kafka


def main(arguments: list[str] | None = None) -> int:
    """Measure what the arguments ask for, print the table, and give the exit code."""
    chosen = _parser().parse_args(arguments)
    options = Options(tuple(chosen.contenders), chosen.repetitions, chosen.quick)
    names = chosen.workloads or list(WORKLOADS)
    with kafka.broker(wanted=any(name.startswith(kafka.PREFIX) for name in names)):
        results = [measure(WORKLOADS[name], options, _progress) for name in names]
    print(to_markdown(results, options) if chosen.markdown else to_text(results), end="")
    if chosen.json is not None:
        chosen.json.write_text(to_json(results, options), encoding="utf-8")
    found = problems(results)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    known = "\n".join(f"  {workload.name:18} {workload.title}" for workload in WORKLOADS.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the engine beside hand-written loops and Bytewax.",
        epilog=f"workloads:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # The check is ours: argparse would hold the empty list of "all workloads" against `choices`.
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", type=_workload, help="all unless named"
    )
    contenders = (BARE_UDF, BARE, *ENGINES, *OTHERS)
    parser.add_argument(
        "--contenders",
        type=_contenders,
        default=list(contenders),
        metavar="NAME,...",
        help=f"which of {', '.join(contenders)} to run, with all variants; all unless named",
    )
    parser.add_argument(
        "--repetitions", type=_positive, default=5, metavar="N", help="runs of each (5)"
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of the input or so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to a file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser


def _workload(name: str) -> str:
    if name not in WORKLOADS:
        msg = f"no workload {name!r}; there are {', '.join(WORKLOADS)}"
        raise argparse.ArgumentTypeError(msg)
    return name


def _contenders(names: str) -> list[str]:
    known = (BARE_UDF, BARE, *ENGINES, *OTHERS)
    chosen = names.split(",")
    for name in chosen:
        if name not in known:
            msg = f"no contender {name!r}; there are {', '.join(known)}"
            raise argparse.ArgumentTypeError(msg)
    return chosen


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        msg = "at least 1"
        raise argparse.ArgumentTypeError(msg)
    return number


if __name__ == "__main__":
    sys.exit(main())
