"""W3 between two processes: how fast records go to the process that owns their key.

Each contender runs two processes, each with half of the input and half of the keys. The figure is
all records, by the time from the first batch that either process asked for to the last record that
came out of either; making the input is before that.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders import BARE_UDF
from benchmarks.workloads._base import Layout, Metric, Outcome

PROCESSES = 2
TIMEOUT_S = 300.0
TOP = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Exchange:
    """The running mean per key in two processes."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "M records/s", divisor=1e6, digits=3),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, "engine", "bytewax"),
        (("engine", BARE_UDF), ("bytewax", BARE_UDF), ("engine", "bytewax")),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        if contender == BARE_UDF:
            arguments = ["benchmarks.exchanging", str(records)]
        else:
            flow = f"benchmarks.exchanging:flow_of({contender!r}, {records})"
            arguments = [f"{contender}.run", flow, "-p", str(PROCESSES)]
            if contender != "engine":
                arguments[0] = f"{contender}.testing"
        told = [json.loads(text) for text in _told(arguments)]
        count = sum(one["records"] for one in told)
        if len(told) != PROCESSES or count != records:
            msg = f"{contender}: {count} of {records} records came out of {len(told)} processes"
            raise RuntimeError(msg)
        seconds = max(one["last_s"] for one in told) - min(one["first_s"] for one in told)
        return Outcome({"records_per_s": records / seconds}, count, count if check else None)


def _told(arguments: list[str]) -> list[str]:
    """What the processes print, who share standard output."""
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
    return re.findall(r"\{[^{}]*\}", done.stdout)


WORKLOADS = (
    Exchange(
        name="exchange",
        title="W3 between 2 processes; 1,000 keys",
        records=4_000_000,
        records_quick=100_000,
    ),
)
