"""A map that computes for 20 microseconds per record, in one process and in two.

Nothing is exchanged: the ratio says how much of a second processor a flow gets to use. bare-udf is
two processes by hand that have nothing to do with each other, which is what the machine gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.contenders import BARE_UDF, family_of
from benchmarks.workloads._base import Layout, Metric, Outcome
from benchmarks.workloads._processes import flow_arguments, seconds_of, told_by

PROCESSES = {"1p": 1, "2p": 2}


@dataclass(frozen=True, slots=True)
class CpuMap:
    """The same map in different numbers of processes."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "1,000 records/s", divisor=1e3, digits=1),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, "engine-1p", "engine-2p", "bytewax-1p", "bytewax-2p"),
        (("engine-2p", "engine-1p"), ("bytewax-2p", "bytewax-1p"), ("engine-2p", BARE_UDF)),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        processes = 2
        if contender == BARE_UDF:
            arguments = ["benchmarks.computing", str(processes), str(records), str(check)]
        else:
            family = family_of(contender)
            processes = PROCESSES[contender.removeprefix(f"{family}-")]
            flow = f"benchmarks.computing:flow_of({family!r}, {records}, {check})"
            arguments = flow_arguments(contender, flow, processes)
        told = told_by(arguments, processes, records)
        digest = sum(one["digest"] for one in told) % 2**64 if check else None
        return Outcome({"records_per_s": records / seconds_of(told)}, records, digest)


WORKLOADS = (
    CpuMap(
        name="cpu-map",
        title="Map of 20 µs, in 1 and 2 processes",
        records=400_000,
        records_quick=20_000,
    ),
)
