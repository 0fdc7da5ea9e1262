"""``python -m engine``: says what can be run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine._cli.arguments import Parser, exit_code_of
from engine._cli.exits import Exit
from engine._cli.output import finished

_MODULES = """\
modules to run:
  python -m engine.run module:flow         run a dataflow
  python -m engine.visualize module:flow   draw a dataflow, or the plan of it
  python -m engine.recovery COMMAND DIR    show, check and mend a recovery store
Each of them knows --help.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the help; gives the exit code.

    Args:
        argv: The arguments, without the command itself; those of this process if left out.
    """
    return exit_code_of(lambda: _help(argv))


def _help(argv: Sequence[str] | None) -> int:
    parser = Parser("python -m engine", "A streaming dataflow engine for Python.", _MODULES)
    parser.parse_args(argv)
    return finished(Exit.DONE, parser.format_help())


if __name__ == "__main__":
    sys.exit(main())
