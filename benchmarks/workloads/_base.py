"""What every workload is to the harness, and what one measurement of it gives.

`child.py` runs workloads through this contract; `measure.py` and `report.py` read the metrics.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.contenders import BARE, BARE_UDF, ENGINES


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a workload: its name in the JSON file, its unit, how the table prints it."""

    name: str
    unit: str
    divisor: float = 1.0
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a table: whose figures it has, then the ratios between which of them.

    Workloads with the same layout that follow each other share a table.
    """

    columns: tuple[str, ...]
    ratios: tuple[tuple[str, str], ...]


SIDE_BY_SIDE = Layout(
    (BARE_UDF, BARE, *ENGINES),
    (("engine", BARE_UDF), ("bytewax", BARE_UDF), ("engine", "bytewax")),
)
"""Each contender as it is, without variants."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run gave.

    Its figures by metric name, how many records reached the sink, and, of a checked run, a digest
    of these records.
    """

    figures: dict[str, float]
    records: int
    digest: int | None = None


class Workload(Protocol):
    """A piece of work that several contenders do, each giving the same records."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def contenders(self) -> tuple[str, ...]:
        """Who can run it, the reference first."""
        ...

    @property
    def records(self) -> int:
        """Input records of a full measurement."""
        ...

    @property
    def records_quick(self) -> int:
        """Input records of a quick or a checked run."""
        ...

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        """Run it once in this process. With `check`, digest the output; the time means nothing."""
        ...


@contextmanager
def inputs_out_of_gc() -> Iterator[None]:
    """Start a measurement from the same state of the garbage collector for every contender.

    The collector stays on, as it is in a real program, but the input made in advance is moved out
    of its sight: else each full collection would walk millions of input records, which no program
    that reads from outside ever holds at once.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
