"""Runs of several processes, for the workloads that time them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import family_of

TIMEOUT_S = 300.0
TOP = Path(__file__).parents[2]


def flow_arguments(contender: str, flow: str, processes: int) -> list[str]:
    """What follows `python -m` to run a flow in so many processes by an engine."""
    family = family_of(contender)
    module = "engine.run" if family == "engine" else f"{family}.testing"
    return [module, flow, "-p", str(processes)]


def run_module(arguments: Sequence[str]) -> str:
    """Run a module; gives what it and its processes print."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        msg = f"{arguments[0]} failed: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout


def told_by(arguments: Sequence[str], processes: int, records: int) -> list[dict[str, Any]]:
    """Run a module whose processes tell, as in `benchmarks/telling.py`.

    Raises:
        RuntimeError: Fewer processes told, or other records came out, than were asked for.
    """
    # They share standard output, so two may end up in a line.
    told = [json.loads(text) for text in re.findall(r"\{[^{}]*\}", run_module(arguments))]
    count = sum(one["records"] for one in told)
    if len(told) != processes or count != records:
        msg = f"{arguments}: {count} of {records} records came out of {len(told)} processes"
        raise RuntimeError(msg)
    return told


def seconds_of(told: Sequence[dict[str, Any]]) -> float:
    """From the first batch that any of the processes asked for to the last record out of any."""
    seconds: float = max(one["last_s"] for one in told) - min(one["first_s"] for one in told)
    return seconds
