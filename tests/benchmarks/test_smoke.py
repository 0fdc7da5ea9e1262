"""The workloads do what they say, at a tiny size and in this process. No timing is looked at."""

from __future__ import annotations

import pytest

from benchmarks.contenders import BARE_UDF, is_installed
from benchmarks.workloads import WORKLOADS, kafka

TINY = 20
SMALL = 3_000
PACED = ("w8-", "exchange-latency", "window-latency", "executors-cpu", "executors-waiting")
HERE = [workload for workload in WORKLOADS.values() if not workload.name.startswith(kafka.PREFIX)]
"""Those that need no broker; `tests/kafka/test_benchmarks.py` has the others."""


PAIRS = [
    pytest.param(workload, contender, id=f"{workload.name}-{contender}")
    for workload in HERE
    for contender in workload.contenders
    if is_installed(contender) and contender != BARE_UDF
]


def records_of(workload):
    """Enough records for several batches, and few where they come at a steady pace."""
    return TINY if workload.name.startswith(PACED) else SMALL


@pytest.mark.parametrize(("workload", "contender"), PAIRS)
def test_a_contender_gives_the_same_records_as_the_hand_written_loop(workload, contender):
    """Every contender's output has the reference's count and digest."""
    expected = workload.run(BARE_UDF, records_of(workload), check=True)
    got = workload.run(contender, records_of(workload), check=True)
    assert (got.records, got.digest) == (expected.records, expected.digest)
    assert expected.records > 0
    assert expected.digest is not None


@pytest.mark.parametrize("workload", [pytest.param(w, id=w.name) for w in HERE])
def test_a_timed_run_gives_every_figure_of_the_table(workload):
    """A timed run counts its records and fills in each metric that the report prints."""
    outcome = workload.run(BARE_UDF, records_of(workload), check=False)
    assert set(outcome.figures) == {metric.name for metric in workload.metrics}
    assert outcome.records > 0
    assert outcome.digest is None
