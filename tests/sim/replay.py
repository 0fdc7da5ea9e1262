"""Shows what a seed does: `python -m tests.sim.replay MODEL SEED`.

For the models "store", "takeovers", "clocked", "windows" and "tasks" it tells what was drawn and
happened, and at a failure what was said last.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable

from tests.sim.actors import ActedRun
from tests.sim.apart import ApartRun
from tests.sim.crashes import CrashRun
from tests.sim.models import MODELS, told
from tests.sim.takeovers import TakeoverRun
from tests.sim.tasks import TaskedRun
from tests.sim.windows import WindowedRun

_LAST = 25
_HISTORIES: dict[str, Callable[[int], CrashRun]] = {
    "store": CrashRun,
    "takeovers": TakeoverRun,
    "clocked": lambda seed: CrashRun(seed, ["clock"]),
    "windows": WindowedRun,
    "actors": ActedRun,
    "apart": ApartRun,
    "tasks": TaskedRun,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.replay", description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("seed", type=int)
    wanted = parser.parse_args(argv)
    run = _HISTORIES[wanted.model](wanted.seed) if wanted.model in _HISTORIES else None
    try:
        if run is None:
            MODELS[wanted.model](wanted.seed)
        else:
            run.run()
    except Exception:  # noqa: BLE001 - whatever it is, it is what was to be seen
        traceback.print_exc()
        if run is not None:
            _show(run)
            _show_last(run)
        return 1
    if run is not None:
        _show(run)
        _tell(told(run.counts))
    _tell("all holds")
    return 0


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")


def _show(run: CrashRun) -> None:
    for line in run.log:
        _tell(line)


def _show_last(run: CrashRun) -> None:
    """What those that are alive have said and done last."""
    for life in run.lives:
        _tell(f"\n{life}, after {life.turns} turns:")
        if life.gang is not None:
            for at_s, what in list(life.gang.trace)[-_LAST:]:
                _tell(f"{at_s:9.3f}  {what}")
        _tell(f"last operations of its disk: {', '.join(life.disk.trace[-_LAST:])}")


if __name__ == "__main__":
    sys.exit(main())
