"""The workloads that need a broker do what they say, at a tiny size. No timing is looked at."""

from __future__ import annotations

import pytest

from benchmarks.contenders import BARE_UDF, is_installed
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.kafka import ADDRESS, PREFIX
from tests.kafka.client import Kafka

RECORDS = 3_000
PAIRS = [
    pytest.param(workload, contender, id=f"{workload.name}-{contender}")
    for workload in WORKLOADS.values()
    if workload.name.startswith(PREFIX)
    for contender in workload.contenders
    if is_installed(contender) and contender != BARE_UDF
]


@pytest.mark.parametrize(("workload", "contender"), PAIRS)
def test_a_contender_gives_the_same_messages_as_the_hand_written_loop(
    workload, contender, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
):
    """Every contender's output has the reference's count and digest, and every figure."""
    monkeypatch.setenv(ADDRESS, kafka.address)
    expected = workload.run(BARE_UDF, RECORDS, check=True)
    got = workload.run(contender, RECORDS, check=True)
    assert (got.records, got.digest) == (expected.records, expected.digest)
    assert expected.records == RECORDS
    assert set(got.figures) == {metric.name for metric in workload.metrics}
