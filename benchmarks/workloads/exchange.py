"""W3 between two processes: how fast records go to the process that owns their key.

Each contender runs two processes, each with half of the input and half of the keys. The figure is
all records, by the time from the first batch that either process asked for to the last record that
came out of either; making the input is before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.contenders import BARE_UDF
from benchmarks.workloads._base import Layout, Metric, Outcome
from benchmarks.workloads._processes import flow_arguments, seconds_of, told_by

PROCESSES = 2


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
            arguments = flow_arguments(contender, flow, PROCESSES)
        told = told_by(arguments, PROCESSES, records)
        figures = {"records_per_s": records / seconds_of(told)}
        return Outcome(figures, records, records if check else None)


WORKLOADS = (
    Exchange(
        name="exchange",
        title="W3 between 2 processes; 1,000 keys",
        records=4_000_000,
        records_quick=100_000,
    ),
)
