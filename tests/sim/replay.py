"""``python -m tests.sim.replay store SEED``: what happened in a simulated history, as it was.

Prints what was drawn and what happened, and the failure if there is one.
"""

from __future__ import annotations

import argparse
import sys
import traceback

from tests.sim.crashes import CrashRun

LINES = 60


def main(argv: list[str] | None = None) -> int:
    """Replay a seed; gives 1 if it fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.replay", description=__doc__)
    parser.add_argument("model", choices=["store"])
    parser.add_argument("seed", type=int)
    parser.add_argument("--lines", type=int, default=LINES, help="how many of the last to show")
    arguments = parser.parse_args(argv)
    run = CrashRun(arguments.seed)
    failed = 0
    try:
        run.run()
    except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
        traceback.print_exc()
        failed = 1
    lines = run.log[-arguments.lines :]
    lines.append(f"seed {arguments.seed}: {dict(run.counts)}; {'FAILS' if failed else 'holds'}")
    sys.stdout.write("\n".join(lines) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
